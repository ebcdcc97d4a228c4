//! The books of a day: what we charged and gave back, and what only the provider knows.

use std::ops::Range;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use uuid::Uuid;

use super::error::LedgerError;
use super::locked_order::money;
use super::pool::Ledger;
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

/// A refund that arrived, or one that came back: with what was booked then, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookedRefund {
    pub refund: RefundId,
    pub order: OrderId,
    pub amount: Money,
    pub booked: Money,
    pub provider_refund: Option<String>,
    pub settled_at: Timestamp,
}

/// When a refund of the provider's was booked here, if it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundBooking {
    pub provider_refund: String,
    pub arrived_at: Option<Timestamp>,
    pub returned_at: Option<Timestamp>,
}

/// A day of the books, closed or forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BookDay {
    pub day: Date,
    /// `None`: it was never closed.
    pub closed_at: Option<Timestamp>,
    pub differences: Option<i32>,
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

    /// Refunds that arrived in this time, and may have come back since.
    pub async fn booked_refunds(&self, time: &Range<Timestamp>) -> Result<Vec<BookedRefund>, LedgerError> {
        // A refund was settled last when it was booked, or later, when it came back.
        const SQL: &str = "-- finance.refunds
            select r.refund_id, r.order_id, r.amount_minor, r.currency, r.provider_refund_id,
                   coalesce(b.at, r.settled_at), coalesce(b.minor, 0)::bigint
            from refunds r cross join lateral (
                select sum(amount_minor) as minor, min(booked_at) as at from journal j
                where j.source in ('refund-' || r.refund_id || ':sales', 'refund-' || r.refund_id || ':tax',
                                   'refund-' || r.refund_id || ':shipping')) b
            where r.settled_at >= $1 and coalesce(b.at, r.settled_at) >= $1 and coalesce(b.at, r.settled_at) < $2
                  and (r.state = 'SUCCEEDED' or b.at is not null)
            order by 6, r.refund_id";
        self.refunds_by(SQL, time).await
    }

    /// Refunds that had arrived and came back in this time.
    pub async fn returned_refunds(&self, time: &Range<Timestamp>) -> Result<Vec<BookedRefund>, LedgerError> {
        const SQL: &str = "-- finance.returned_refunds
            select r.refund_id, r.order_id, r.amount_minor, r.currency, r.provider_refund_id, b.at, b.minor::bigint
            from refunds r cross join lateral (
                select sum(amount_minor) as minor, min(booked_at) as at from journal j
                where j.source in ('refund-' || r.refund_id || ':returned:sales',
                                   'refund-' || r.refund_id || ':returned:tax',
                                   'refund-' || r.refund_id || ':returned:shipping')) b
            where r.settled_at >= $1 and r.state = 'FAILED' and b.at >= $1 and b.at < $2 order by 6, r.refund_id";
        self.refunds_by(SQL, time).await
    }

    async fn refunds_by(&self, sql: &str, time: &Range<Timestamp>) -> Result<Vec<BookedRefund>, LedgerError> {
        let rows = self.connection().await?.query(sql, &[/* from */ &time.start, /* to */ &time.end]).await?;
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

    /// Which of these refunds of the provider are ours, and when each was booked, and booked back.
    pub async fn bookings_of_refunds(&self, refunds: &[&str]) -> Result<Vec<RefundBooking>, LedgerError> {
        const SQL: &str = "-- finance.bookings_of_refunds
            select provider_refund_id,
                   (select min(booked_at) from journal j
                    where j.source in ('refund-' || refund_id || ':sales', 'refund-' || refund_id || ':tax',
                                       'refund-' || refund_id || ':shipping')),
                   (select min(booked_at) from journal j
                    where j.source in ('refund-' || refund_id || ':returned:sales',
                                       'refund-' || refund_id || ':returned:tax',
                                       'refund-' || refund_id || ':returned:shipping'))
            from refunds where provider_refund_id = any($1)";
        let rows = self.connection().await?.query(SQL, &[&refunds]).await?;
        let booking = |row: &tokio_postgres::Row| RefundBooking {
            provider_refund: row.get(0),
            arrived_at: row.get(1),
            returned_at: row.get(2),
        };
        Ok(rows.iter().map(booking).collect())
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
        // By the number itself: the column of that name is a text.
        const INVOICES: &str = "-- finance.export_invoices
            select i.number::text, i.order_id::text, i.charged_at::text, i.issued_at::text,
                   coalesce(i.country, o.ship_to ->> 'country') as country, i.currency, i.subtotal_minor::text,
                   i.tax_minor::text, i.shipping_minor::text, i.total_minor::text
            from invoices i join orders o using (order_id)
            where i.charged_at >= $1 and i.charged_at < $2 order by i.number";
        const CREDIT_NOTES: &str = "-- finance.export_credit_notes
            select c.number::text, i.number::text as invoice_number, c.refund_id::text, r.order_id::text,
                   c.settled_at::text, c.issued_at::text, c.currency,
                   (c.amount_minor - coalesce(t.amount_minor, 0))::text as net_minor,
                   coalesce(t.amount_minor, 0)::text as tax_minor, c.amount_minor::text
            from credit_notes c join refunds r using (refund_id) left join invoices i using (order_id)
                 left join journal t on t.source = 'refund-' || r.refund_id || ':tax'
            where c.settled_at >= $1 and c.settled_at < $2 order by c.number";
        let exports =
            [("journal", JOURNAL), ("orders", ORDERS), ("invoices", INVOICES), ("credit-notes", CREDIT_NOTES)];
        let connection = self.connection().await?;
        let mut tables = Vec::new();
        for (name, sql) in exports {
            let statement = connection.prepare(sql).await?;
            let rows = connection.query(&statement, &[/* from */ &time.start, /* to */ &time.end]).await?;
            let names = statement.columns().iter().map(|column| column.name().to_owned()).collect::<Vec<_>>();
            let mut table = rows.iter().map(|row| exported(&names, row)).collect::<Vec<_>>();
            table.insert(0, names.iter().map(|name| name.trim_end_matches(MINOR).to_owned()).collect());
            tables.push((name, table));
        }
        Ok(tables)
    }

    /// Remembers how a day's match ended; closing it again replaces what was remembered.
    pub async fn close_day(
        &self,
        day: Date,
        zone: &str,
        differences: usize,
        report: &serde_json::Value,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        const SQL: &str = "-- finance.close_day
            insert into closed_days (day, time_zone, closed_at, differences, report) values ($1, $2, $3, $4, $5)
            on conflict (day) do update set closed_at = excluded.closed_at, differences = excluded.differences,
                                            report = excluded.report";
        let differences = i32::try_from(differences).unwrap_or(i32::MAX);
        let connection = self.connection().await?;
        connection.execute(SQL, &[&day, &zone, /* now */ &now, &differences, &report]).await?;
        Ok(())
    }

    /// The zone in which the days of the books begin and end, once one was closed.
    pub async fn books_zone(&self) -> Result<Option<String>, LedgerError> {
        const SQL: &str = "-- finance.books_zone
            select coalesce(time_zone, 'UTC') from closed_days order by day limit 1";
        Ok(self.connection().await?.query_opt(SQL, &[]).await?.map(|row| row.get(0)))
    }

    /// When the first entry of the journal was booked.
    pub async fn first_booking(&self) -> Result<Option<Timestamp>, LedgerError> {
        const SQL: &str = "-- finance.first_booking\nselect min(booked_at) from journal";
        Ok(self.connection().await?.query_one(SQL, &[]).await?.get(0))
    }

    /// Days that were closed, oldest first.
    pub async fn closed_days(&self) -> Result<Vec<BookDay>, LedgerError> {
        const SQL: &str = "-- finance.closed_days\nselect day, closed_at, differences from closed_days order by day";
        let rows = self.connection().await?.query(SQL, &[]).await?;
        let day = |row: &tokio_postgres::Row| BookDay {
            day: row.get(0),
            closed_at: Some(row.get(1)),
            differences: Some(row.get(2)),
        };
        Ok(rows.iter().map(day).collect())
    }
}

/// What a column's name ends with that is an amount in minor units.
const MINOR: &str = "_minor";

/// A row as text, its amounts as decimal numbers of the currency in its column of that name.
fn exported(names: &[String], row: &tokio_postgres::Row) -> Vec<String> {
    let text = |column: usize| row.get::<_, Option<String>>(column).unwrap_or_default();
    let currency = names.iter().position(|name| name == "currency").and_then(|column| text(column).parse().ok());
    let cell = |(column, name): (usize, &String)| match (currency, text(column).parse::<i64>()) {
        (Some(currency), Ok(minor)) if name.ends_with(MINOR) => Money::new(minor, currency).decimal(),
        _ => text(column),
    };
    names.iter().enumerate().map(cell).collect()
}

fn account_sum(row: &tokio_postgres::Row) -> AccountSum {
    AccountSum { account: row.get(0), currency: row.get(1), debit_minor: row.get(2), credit_minor: row.get(3) }
}
