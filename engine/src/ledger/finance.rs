//! The books of a day: what we charged and gave back, the documents about it, and what only the provider knows.

use std::ops::Range;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use uuid::Uuid;

use super::error::LedgerError;
use super::locked_order::money;
use super::pool::Ledger;
use super::tx::run_tx;
use crate::domain::ids::{DropId, OrderId, RefundId};
use crate::domain::money::Money;

/// A charge in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookedCharge {
    pub order: OrderId,
    pub booked: Money,
    pub order_total: Money,
    pub provider_charge: Option<String>,
    pub booked_at: Timestamp,
}

/// A refund that arrived, or arrived and came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookedRefund {
    pub refund: RefundId,
    pub order: OrderId,
    pub amount: Money,
    pub booked: Money,
    pub provider_refund: Option<String>,
    pub settled_at: Timestamp,
}

/// What moved on one account in one currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccountSum {
    pub account: String,
    pub currency: String,
    pub debit_minor: i64,
    pub credit_minor: i64,
}

/// Money that moved at the provider and belongs to no charge or refund of ours: a fee, a payout, a dispute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    /// Unique: booked once, however often the day is closed.
    pub source: String,
    pub debit: &'static str,
    pub credit: &'static str,
    pub amount: Money,
    pub at: Timestamp,
}

/// Documents of one kind, by number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Documents {
    pub first: Option<i64>,
    pub last: Option<i64>,
    pub count: i64,
}

impl Ledger {
    /// Charges booked in this time.
    pub async fn booked_charges(&self, time: &Range<Timestamp>) -> Result<Vec<BookedCharge>, LedgerError> {
        const SQL: &str = "-- finance.charges
            select j.order_id, sum(j.amount_minor)::bigint, min(j.currency), o.total_minor, p.provider_charge_id, min(j.booked_at)
            from journal j join orders o using (order_id) join payments p using (order_id)
            where j.booked_at >= $1 and j.booked_at < $2 and j.source = 'order-' || j.order_id || ':charge:' || j.credit_account
            group by j.order_id, o.total_minor, p.provider_charge_id order by min(j.booked_at), j.order_id";
        let rows = self.connection().await?.query(SQL, &[/* from */ &time.start, /* to */ &time.end]).await?;
        let charge = |row: &tokio_postgres::Row| {
            let order: Uuid = row.get(0);
            Ok(BookedCharge {
                order: OrderId(order),
                booked: money(row.get(1), row.get(2), order)?,
                order_total: money(row.get(3), row.get(2), order)?,
                provider_charge: row.get(4),
                booked_at: row.get(5),
            })
        };
        rows.iter().map(charge).collect()
    }

    /// Refunds that arrived in this time.
    pub async fn booked_refunds(&self, time: &Range<Timestamp>) -> Result<Vec<BookedRefund>, LedgerError> {
        const SQL: &str = "-- finance.refunds
            select r.refund_id, r.order_id, r.amount_minor, r.currency, r.provider_refund_id, r.settled_at,
                   coalesce((select sum(amount_minor) from journal j
                             where j.source in ('refund-' || r.refund_id || ':sales', 'refund-' || r.refund_id || ':tax',
                                                'refund-' || r.refund_id || ':shipping')), 0)::bigint
            from refunds r where r.settled_at >= $1 and r.settled_at < $2 and r.state = 'SUCCEEDED'
            order by r.settled_at, r.refund_id";
        let rows = self.connection().await?.query(SQL, &[/* from */ &time.start, /* to */ &time.end]).await?;
        let refund = |row: &tokio_postgres::Row| {
            let order: Uuid = row.get(1);
            Ok(BookedRefund {
                refund: RefundId(row.get(0)),
                order: OrderId(order),
                amount: money(row.get(2), row.get(3), order)?,
                booked: money(row.get(6), row.get(3), order)?,
                provider_refund: row.get(4),
                settled_at: row.get(5),
            })
        };
        rows.iter().map(refund).collect()
    }

    /// Orders whose payment says that money was taken and of which the journal knows nothing, moved since `since`.
    pub async fn paid_without_booking(&self, since: Timestamp) -> Result<Vec<OrderId>, LedgerError> {
        const SQL: &str = "-- finance.paid_without_booking
            select order_id from payments p
            where p.updated_at >= $1 and p.state in ('SUCCEEDED', 'REFUND_PENDING', 'PARTIALLY_REFUNDED', 'REFUNDED')
                  and p.amount_minor > 0
                  and not exists (select 1 from journal j where j.order_id = p.order_id and j.debit_account = 'provider')";
        let rows = self.connection().await?.query(SQL, &[/* since */ &since]).await?;
        Ok(rows.iter().map(|row| OrderId(row.get(0))).collect())
    }

    /// Which of these charges of the provider are an order's, and how much it is about.
    pub async fn orders_of_charges(&self, charges: &[&str]) -> Result<Vec<(String, OrderId, Money)>, LedgerError> {
        const SQL: &str = "-- finance.orders_of_charges
            select provider_charge_id, order_id, amount_minor, currency from payments where provider_charge_id = any($1)";
        let rows = self.connection().await?.query(SQL, &[&charges]).await?;
        let known = |row: &tokio_postgres::Row| {
            let order: Uuid = row.get(1);
            Ok((row.get(0), OrderId(order), money(row.get(2), row.get(3), order)?))
        };
        rows.iter().map(known).collect()
    }

    /// Which of these refunds of the provider are ours.
    pub async fn known_provider_refunds(&self, refunds: &[&str]) -> Result<Vec<(String, Money)>, LedgerError> {
        const SQL: &str = "-- finance.known_refunds
            select provider_refund_id, amount_minor, currency, order_id from refunds where provider_refund_id = any($1)";
        let rows = self.connection().await?.query(SQL, &[&refunds]).await?;
        rows.iter().map(|row| Ok((row.get(0), money(row.get(1), row.get(2), row.get(3))?))).collect()
    }

    /// Books what only the provider knows; what was booked before is left as it is. Answers how many were new.
    pub async fn book_movements(&self, movements: &[Movement]) -> Result<u64, LedgerError> {
        const SQL: &str = "-- finance.book_movements
            insert into journal (source, debit_account, credit_account, amount_minor, currency, booked_at)
            select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::timestamptz[])
            on conflict (source) do nothing";
        let sources = movements.iter().map(|movement| movement.source.as_str()).collect::<Vec<_>>();
        let debits = movements.iter().map(|movement| movement.debit).collect::<Vec<_>>();
        let credits = movements.iter().map(|movement| movement.credit).collect::<Vec<_>>();
        let amounts = movements.iter().map(|movement| movement.amount.amount_minor).collect::<Vec<_>>();
        let currencies = movements.iter().map(|movement| movement.amount.currency.as_str()).collect::<Vec<_>>();
        let times = movements.iter().map(|movement| movement.at).collect::<Vec<_>>();
        let connection = self.connection().await?;
        Ok(connection.execute(SQL, &[&sources, &debits, &credits, &amounts, &currencies, &times]).await?)
    }

    /// Debit and credit of every account in this time.
    pub async fn account_sums(&self, time: &Range<Timestamp>) -> Result<Vec<AccountSum>, LedgerError> {
        const SQL: &str = "-- finance.accounts
            select account, currency, sum(debit)::bigint, sum(credit)::bigint
            from (select debit_account as account, currency, amount_minor as debit, 0 as credit from journal
                  where booked_at >= $1 and booked_at < $2
                  union all
                  select credit_account, currency, 0, amount_minor from journal
                  where booked_at >= $1 and booked_at < $2) moved
            group by account, currency order by currency, account";
        let rows = self.connection().await?.query(SQL, &[/* from */ &time.start, /* to */ &time.end]).await?;
        Ok(rows.iter().map(account_sum).collect())
    }

    /// The same, of one drop's orders, whenever it was.
    pub async fn account_sums_of_drop(&self, drop: DropId) -> Result<Vec<AccountSum>, LedgerError> {
        const SQL: &str = "-- finance.accounts_of_drop
            select account, currency, sum(debit)::bigint, sum(credit)::bigint
            from (select debit_account as account, j.currency, amount_minor as debit, 0 as credit
                  from journal j join orders o using (order_id) where o.drop_id = $1
                  union all
                  select credit_account, j.currency, 0, amount_minor
                  from journal j join orders o using (order_id) where o.drop_id = $1) moved
            group by account, currency order by currency, account";
        let rows = self.connection().await?.query(SQL, &[&drop.0]).await?;
        Ok(rows.iter().map(account_sum).collect())
    }

    /// Writes an invoice for every charge and a credit note for every refund booked before `until` that has none. The numbers
    /// have no gaps: the row of a series is locked until its documents are committed with it.
    pub async fn number_documents(
        &self,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(Documents, Documents), LedgerError> {
        run_tx!(self, "finance.number_documents", tx, {
            const LOCK: &str = "-- finance.lock_series\nselect series from document_series order by series for update";
            // From a day before the newest document on: a charge commits a little later than its time says.
            const INVOICES: &str = "-- finance.write_invoices
                with since as (select coalesce(max(charged_at) - interval '1 day', '-infinity') as at from invoices),
                     charged as (
                         select j.order_id, min(j.booked_at) as charged_at from journal j, since
                         where j.booked_at >= since.at and j.booked_at < $1
                               and j.source = 'order-' || j.order_id || ':charge:' || j.credit_account
                               and not exists (select 1 from invoices i where i.order_id = j.order_id)
                         group by j.order_id),
                     numbered as (
                         select (select last_number from document_series where series = 'invoice')
                                + row_number() over (order by charged_at, order_id) as number, order_id, charged_at
                         from charged),
                     written as (
                         insert into invoices
                         select n.number, n.order_id, n.charged_at, $2, o.currency, o.subtotal_minor, o.tax_minor,
                                o.shipping_minor, o.total_minor
                         from numbered n join orders o using (order_id) returning number),
                     counted as (
                         update document_series set last_number = last_number + (select count(*) from written)
                         where series = 'invoice')
                select min(number), max(number), count(*) from written";
            const CREDIT_NOTES: &str = "-- finance.write_credit_notes
                with given_back as (
                         select r.refund_id, r.settled_at, r.currency, r.amount_minor from refunds r
                         where r.state = 'SUCCEEDED' and r.settled_at < $1
                               and not exists (select 1 from credit_notes c where c.refund_id = r.refund_id)),
                     numbered as (
                         select (select last_number from document_series where series = 'credit_note')
                                + row_number() over (order by settled_at, refund_id) as number, *
                         from given_back),
                     written as (
                         insert into credit_notes
                         select number, refund_id, settled_at, $2, currency, amount_minor from numbered returning number),
                     counted as (
                         update document_series set last_number = last_number + (select count(*) from written)
                         where series = 'credit_note')
                select min(number), max(number), count(*) from written";
            tx.query(LOCK, &[]).await?;
            let documents =
                |row: tokio_postgres::Row| Documents { first: row.get(0), last: row.get(1), count: row.get(2) };
            let invoices = tx.query_one(INVOICES, &[/* until */ &until, /* now */ &now]).await?;
            let credit_notes = tx.query_one(CREDIT_NOTES, &[/* until */ &until, /* now */ &now]).await?;
            Ok((documents(invoices), documents(credit_notes)))
        })
    }

    /// How many numbers each series skips; anything but zero is a document lost.
    pub async fn document_gaps(&self) -> Result<(i64, i64), LedgerError> {
        const SQL: &str = "-- finance.gaps
            select (select last_number from document_series where series = 'invoice') - (select count(*) from invoices),
                   (select last_number from document_series where series = 'credit_note') - (select count(*) from credit_notes)";
        let row = self.connection().await?.query_one(SQL, &[]).await?;
        Ok((row.get(0), row.get(1)))
    }

    /// Journal, orders, invoices and credit notes of this time as text, each with its column names first: for an export.
    pub async fn day_tables(
        &self,
        time: &Range<Timestamp>,
    ) -> Result<Vec<(&'static str, Vec<Vec<String>>)>, LedgerError> {
        const JOURNAL: &str = "-- finance.export_journal
            select booked_at::text, source, order_id::text, debit_account, credit_account, amount_minor::text, currency
            from journal where booked_at >= $1 and booked_at < $2 order by booked_at, source";
        const ORDERS: &str = "-- finance.export_orders
            select o.created_at::text, o.order_id::text, d.name as drop_name, o.status, p.state as payment, o.currency,
                   o.subtotal_minor::text, o.tax_minor::text, o.shipping_minor::text, o.total_minor::text,
                   p.refund_minor::text
            from orders o join payments p using (order_id) left join drops d using (drop_id)
            where o.order_id in (select order_id from journal where booked_at >= $1 and booked_at < $2)
            order by o.created_at, o.order_id";
        const INVOICES: &str = "-- finance.export_invoices
            select number::text, order_id::text, charged_at::text, issued_at::text, currency, subtotal_minor::text,
                   tax_minor::text, shipping_minor::text, total_minor::text
            from invoices where charged_at >= $1 and charged_at < $2 order by number";
        const CREDIT_NOTES: &str = "-- finance.export_credit_notes
            select c.number::text, c.refund_id::text, r.order_id::text, c.settled_at::text, c.issued_at::text, c.currency,
                   c.amount_minor::text
            from credit_notes c join refunds r using (refund_id)
            where c.settled_at >= $1 and c.settled_at < $2 order by c.number";
        let exports =
            [("journal", JOURNAL), ("orders", ORDERS), ("invoices", INVOICES), ("credit-notes", CREDIT_NOTES)];
        let connection = self.connection().await?;
        let mut tables = Vec::new();
        for (name, sql) in exports {
            let statement = connection.prepare(sql).await?;
            let rows = connection.query(&statement, &[/* from */ &time.start, /* to */ &time.end]).await?;
            let names = statement.columns().iter().map(|column| column.name().to_owned()).collect::<Vec<_>>();
            let text = |row: &tokio_postgres::Row| {
                (0..names.len()).map(|column| row.get::<_, Option<String>>(column).unwrap_or_default()).collect()
            };
            let mut table: Vec<Vec<String>> = rows.iter().map(text).collect();
            table.insert(0, names);
            tables.push((name, table));
        }
        Ok(tables)
    }

    /// Remembers how a day's match ended; closing it again replaces what was remembered.
    pub async fn close_day(
        &self,
        day: Date,
        differences: usize,
        report: &serde_json::Value,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        const SQL: &str = "-- finance.close_day
            insert into closed_days (day, closed_at, differences, report) values ($1, $2, $3, $4)
            on conflict (day) do update set closed_at = excluded.closed_at, differences = excluded.differences,
                                            report = excluded.report";
        let differences = i32::try_from(differences).unwrap_or(i32::MAX);
        let connection = self.connection().await?;
        connection.execute(SQL, &[&day, /* now */ &now, &differences, &report]).await?;
        Ok(())
    }
}

fn account_sum(row: &tokio_postgres::Row) -> AccountSum {
    AccountSum { account: row.get(0), currency: row.get(1), debit_minor: row.get(2), credit_minor: row.get(3) }
}
