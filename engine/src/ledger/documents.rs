//! Invoices and credit notes: numbered without gaps, and read back with their lines.
//!
//! A document's row says that it exists, and under which number; what stands in it follows from the order and the
//! refund, which never change once they are paid and asked for. The buyer's name and address stand in the order alone:
//! whoever is erased is in no document any more, while its number, its amounts and the country stay.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use deadpool_postgres::Object;
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::credits::{charges, lines_of_refunds};
use super::drops::inconsistent;
use super::error::LedgerError;
use super::orders::by_order;
use super::pool::Ledger;
use super::tx::run_tx;
use crate::domain::credits::{ChargedLine, CreditLine};
use crate::domain::documents::{Document, DocumentKind, Head, Month, Recipient, Seller, VatEntry, VatSums};
use crate::domain::ids::{BuyerId, OrderId};
use crate::domain::money::Currency;

/// Orders whose lines are read at a time.
const ORDERS_AT_ONCE: usize = 5_000;
/// Documents that one transaction numbers: some seconds at most, also where years of orders have none.
const DOCUMENTS_AT_ONCE: i64 = 10_000;

/// What there is on paper of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderDocuments {
    /// `None`: it has not been paid, or has no number yet.
    pub invoice: Option<Document>,
    /// Those that were reversed too, by number.
    pub credit_notes: Vec<Document>,
    /// Money has moved of which there is no document yet.
    pub is_due: bool,
}

/// Documents of one kind, by number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Documents {
    pub first: Option<i64>,
    pub last: Option<i64>,
    pub count: i64,
}

impl Ledger {
    /// Writes an invoice for every charge and a credit note for every refund booked before `until` that has none. The
    /// numbers have no gaps: the rows of the series are locked until their documents are committed with them.
    pub async fn number_documents(&self, until: Timestamp, now: Timestamp) -> Result<(), LedgerError> {
        loop {
            let (invoices, credit_notes) = self.number_some_documents(until, now).await?;
            if invoices < DOCUMENTS_AT_ONCE && credit_notes < DOCUMENTS_AT_ONCE {
                return Ok(());
            }
        }
    }

    /// Up to so many of each; answers how many.
    async fn number_some_documents(&self, until: Timestamp, now: Timestamp) -> Result<(i64, i64), LedgerError> {
        run_tx!(self, "documents.number", tx, {
            const LOCK: &str =
                "-- documents.lock_series\nselect series from document_series order by series for update";
            // From a day before the newest document on: a charge commits a little later than its time says.
            const INVOICES: &str = "-- documents.write_invoices
                with since as (select coalesce(max(charged_at) - interval '1 day', '-infinity') as at from invoices),
                     charged as (
                         select j.order_id, min(j.booked_at) as charged_at from journal j, since
                         where j.booked_at >= since.at and j.booked_at < $1
                               and j.source = 'order-' || j.order_id || ':charge:' || j.credit_account
                               and not exists (select 1 from invoices i where i.order_id = j.order_id)
                         group by j.order_id order by charged_at, j.order_id limit $3),
                     numbered as (
                         select (select last_number from document_series where series = 'invoice')
                                + row_number() over (order by charged_at, order_id) as number, order_id, charged_at
                         from charged),
                     written as (
                         insert into invoices (number, order_id, charged_at, issued_at, currency, subtotal_minor,
                                               tax_minor, shipping_minor, total_minor, country, seller_id)
                         select n.number, n.order_id, n.charged_at, $2, o.currency, o.subtotal_minor, o.tax_minor,
                                o.shipping_minor, o.total_minor, o.ship_to ->> 'country',
                                (select max(seller_id) from sellers)
                         from numbered n join orders o using (order_id) returning number),
                     counted as (
                         update document_series set last_number = last_number + (select count(*) from written)
                         where series = 'invoice')
                select count(*) from written";
            const CREDIT_NOTES: &str = "-- documents.write_credit_notes
                with since as (
                         select coalesce(max(settled_at) - interval '1 day', '-infinity') as at from credit_notes),
                     given_back as (
                         select r.refund_id, r.settled_at, r.currency, r.amount_minor from refunds r, since
                         where r.state = 'SUCCEEDED' and r.settled_at >= since.at and r.settled_at < $1
                               and not exists (select 1 from credit_notes c where c.refund_id = r.refund_id)
                         order by r.settled_at, r.refund_id limit $3),
                     numbered as (
                         select (select last_number from document_series where series = 'credit_note')
                                + row_number() over (order by settled_at, refund_id) as number, *
                         from given_back),
                     written as (
                         insert into credit_notes (number, refund_id, settled_at, issued_at, currency, amount_minor,
                                                   seller_id)
                         select number, refund_id, settled_at, $2, currency, amount_minor,
                                (select max(seller_id) from sellers)
                         from numbered returning number),
                     counted as (
                         update document_series set last_number = last_number + (select count(*) from written)
                         where series = 'credit_note')
                select count(*) from written";
            tx.query(LOCK, &[]).await?;
            let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                [/* until */ &until, /* now */ &now, /* limit */ &DOCUMENTS_AT_ONCE];
            let invoices = tx.query_one(INVOICES, &arguments).await?;
            let credit_notes = tx.query_one(CREDIT_NOTES, &arguments).await?;
            Ok((invoices.get(0), credit_notes.get(0)))
        })
    }

    /// Invoices of charges and credit notes of refunds of this time.
    pub async fn documents_of_time(&self, time: &Range<Timestamp>) -> Result<(Documents, Documents), LedgerError> {
        const INVOICES: &str = "-- documents.invoices_of_time
            select min(number), max(number), count(*) from invoices where charged_at >= $1 and charged_at < $2";
        const CREDIT_NOTES: &str = "-- documents.credit_notes_of_time
            select min(number), max(number), count(*) from credit_notes where settled_at >= $1 and settled_at < $2";
        let documents = |row: Row| Documents { first: row.get(0), last: row.get(1), count: row.get(2) };
        let connection = self.connection().await?;
        let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 2] =
            [/* from */ &time.start, /* to */ &time.end];
        let invoices = connection.query_one(INVOICES, &arguments).await?;
        let credit_notes = connection.query_one(CREDIT_NOTES, &arguments).await?;
        Ok((documents(invoices), documents(credit_notes)))
    }

    /// How many numbers each series skips; anything but zero is a document lost.
    pub async fn document_gaps(&self) -> Result<(i64, i64), LedgerError> {
        const SQL: &str = "-- documents.gaps
            select (select last_number from document_series where series = 'invoice')
                   - (select count(*) from invoices),
                   (select last_number from document_series where series = 'credit_note')
                   - (select count(*) from credit_notes)";
        let row = self.connection().await?.query_one(SQL, &[]).await?;
        Ok((row.get(0), row.get(1)))
    }

    /// Who sells, as the documents of from now on say. `None`: nobody has said.
    pub async fn seller(&self) -> Result<Option<Seller>, LedgerError> {
        const SQL: &str = "-- documents.seller
            select name, address, country, tax_id from sellers order by seller_id desc limit 1";
        let row = self.connection().await?.query_opt(SQL, &[]).await?;
        Ok(row.map(|row| seller(&row, 0)))
    }

    /// Says who sells; documents that are there keep theirs.
    pub async fn set_seller(&self, seller: &Seller, by: &str, now: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- documents.set_seller
            insert into sellers (name, address, country, tax_id, set_by, set_at) values ($1, $2, $3, $4, $5, $6)";
        let Seller { name, address, country, tax_id } = seller;
        let connection = self.connection().await?;
        connection.execute(SQL, &[name, address, country, tax_id, /* set_by */ &by, /* now */ &now]).await?;
        Ok(())
    }

    /// The documents of an order. `buyer`: it must be theirs; otherwise, as without such an order, the answer is
    /// `None`.
    pub async fn order_documents(
        &self,
        order: OrderId,
        buyer: Option<&BuyerId>,
    ) -> Result<Option<OrderDocuments>, LedgerError> {
        const ORDER: &str = "-- documents.order
            select i.number, i.issued_at, i.charged_at, o.currency, coalesce(i.country, o.ship_to ->> 'country'),
                   o.ship_to,
                   i.number is null and p.amount_minor > 0
                   and p.state in ('SUCCEEDED', 'REFUND_PENDING', 'PARTIALLY_REFUNDED', 'REFUNDED')
                   or exists (select 1 from refunds r
                              where r.order_id = o.order_id and r.state = 'SUCCEEDED'
                                    and not exists (select 1 from credit_notes c where c.refund_id = r.refund_id)),
                   s.name, s.address, s.country, s.tax_id
            from orders o join payments p using (order_id) left join invoices i using (order_id)
                 left join sellers s on s.seller_id = coalesce(i.seller_id, (select min(seller_id) from sellers))
            where o.order_id = $1 and ($2::text is null or o.buyer = $2)";
        const CREDIT_NOTES: &str = "-- documents.credit_notes
            select c.number, c.issued_at, c.settled_at, c.refund_id,
                   (select min(j.booked_at) from journal j
                    where j.source in ('refund-' || r.refund_id || ':returned:sales',
                                       'refund-' || r.refund_id || ':returned:tax',
                                       'refund-' || r.refund_id || ':returned:shipping')),
                   s.name, s.address, s.country, s.tax_id
            from credit_notes c join refunds r using (refund_id)
                 left join sellers s on s.seller_id = coalesce(c.seller_id, (select min(seller_id) from sellers))
            where r.order_id = $1 order by c.number";
        const TITLES: &str = "-- documents.titles
            select i.line, p.name, v.title, v.sku
            from order_items i join variants v using (variant_id) join products p on p.product_id = i.product_id
            where i.order_id = $1";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(ORDER).await?;
        let found = connection.query_opt(&statement, &[&order.0, &buyer.map(BuyerId::as_str)]).await?;
        let Some(row) = found else { return Ok(None) };
        let is_due = row.get(6);
        let Some(number) = row.get::<_, Option<i64>>(0) else {
            return Ok(Some(OrderDocuments { invoice: None, credit_notes: Vec::new(), is_due }));
        };
        let notes = connection.query(&connection.prepare_cached(CREDIT_NOTES).await?, &[&order.0]).await?;
        let titles = connection.query(&connection.prepare_cached(TITLES).await?, &[&order.0]).await?;
        let title = |row: &Row| {
            let (product, variant, sku): (&str, &str, &str) = (row.get(1), row.get(2), row.get(3));
            (row.get::<_, i32>(0).cast_unsigned(), format!("{product}, {variant} ({sku})"))
        };
        let titles = titles.iter().map(title).collect::<BTreeMap<_, _>>();
        let currency = currency(row.get(3), order)?;
        let ship_to = row.get::<_, Option<Value>>(5);
        let charged = charged_lines_of(&connection, &[order.0]).await?;
        let head = |kind, number, issued_at, settled_at, seller| Head {
            kind,
            number,
            issued_at,
            settled_at,
            order_id: order,
            currency,
            invoice_number: None,
            reversed_at: None,
            seller,
            buyer: ship_to.as_ref().and_then(recipient),
            country: row.get(4),
        };
        let lines = charged.get(&order.0).into_iter().flatten().map(CreditLine::from).collect::<Vec<_>>();
        let head_of_invoice = head(DocumentKind::Invoice, number, row.get(1), row.get(2), seller_of(&row, 7));
        let invoice = Document::new(head_of_invoice, &lines, &titles);
        let refunds = notes.iter().map(|row| row.get(3)).collect::<Vec<Uuid>>();
        let mut credited = lines_of_refunds(&connection, &refunds, &charged).await?;
        let credit_note = |row: &Row| {
            let head = Head {
                invoice_number: Some(number),
                reversed_at: row.get(4),
                ..head(DocumentKind::CreditNote, row.get(0), row.get(1), row.get(2), seller_of(row, 5))
            };
            Document::new(head, &credited.remove(&row.get(3)).unwrap_or_default(), &titles)
        };
        let credit_notes = notes.iter().map(credit_note).collect();
        Ok(Some(OrderDocuments { invoice: Some(invoice), credit_notes, is_due }))
    }

    /// Adds up the documents of these months, each with the time that it takes.
    pub async fn vat_of(&self, months: &[(Month, Range<Timestamp>)]) -> Result<VatSums, LedgerError> {
        const INVOICES: &str = "-- documents.vat_invoices
            select i.order_id, i.currency, coalesce(i.country, o.ship_to ->> 'country')
            from invoices i join orders o using (order_id)
            where i.charged_at >= $1 and i.charged_at < $2 order by i.number";
        const CREDIT_NOTES: &str = "-- documents.vat_credit_notes
            select r.order_id, c.currency, coalesce(i.country, o.ship_to ->> 'country'), r.refund_id
            from credit_notes c join refunds r using (refund_id) join orders o using (order_id)
                 left join invoices i using (order_id)
            where c.settled_at >= $1 and c.settled_at < $2 order by c.number";
        // The credit note stays, and what it took off is put back when its refund came back.
        const REVERSED: &str = "-- documents.vat_reversed
            select r.order_id, c.currency, coalesce(i.country, o.ship_to ->> 'country'), r.refund_id
            from credit_notes c join refunds r using (refund_id) join orders o using (order_id)
                 left join invoices i using (order_id)
            where r.state = 'FAILED' and r.settled_at >= $1 and r.settled_at < $2 order by c.number";
        let connection = self.connection().await?;
        let mut sums = VatSums::default();
        for (month, time) in months {
            let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 2] =
                [/* from */ &time.start, /* to */ &time.end];
            let invoices = connection.query(INVOICES, &arguments).await?;
            for invoices in invoices.chunks(ORDERS_AT_ONCE) {
                let orders = invoices.iter().map(|row| row.get(0)).collect::<Vec<Uuid>>();
                let charged = charged_lines_of(&connection, &orders).await?;
                for row in invoices {
                    let order: Uuid = row.get(0);
                    let lines = charged.get(&order).into_iter().flatten().map(CreditLine::from).collect::<Vec<_>>();
                    let currency = currency(row.get(1), OrderId(order))?;
                    sums.add(VatEntry::Invoiced, *month, row.get(2), currency, &lines);
                }
            }
            for (entry, sql) in [(VatEntry::Credited, CREDIT_NOTES), (VatEntry::CreditReversed, REVERSED)] {
                let notes = connection.query(sql, &arguments).await?;
                for notes in notes.chunks(ORDERS_AT_ONCE) {
                    let orders = by_order(notes).into_keys().collect::<Vec<_>>();
                    let charged = charged_lines_of(&connection, &orders).await?;
                    let refunds = notes.iter().map(|row| row.get(3)).collect::<Vec<Uuid>>();
                    let credited = lines_of_refunds(&connection, &refunds, &charged).await?;
                    for row in notes {
                        let lines = credited.get(&row.get(3)).map_or(&[][..], Vec::as_slice);
                        let currency = currency(row.get(1), OrderId(row.get(0)))?;
                        sums.add(entry, *month, row.get(2), currency, lines);
                    }
                }
            }
        }
        Ok(sums)
    }
}

async fn charged_lines_of(
    connection: &Object,
    orders: &[Uuid],
) -> Result<HashMap<Uuid, Vec<ChargedLine>>, LedgerError> {
    let charges = charges(connection, orders).await?;
    Ok(charges.into_iter().map(|(order, charge)| (order, charge.lines())).collect())
}

fn currency(text: &str, order: OrderId) -> Result<Currency, LedgerError> {
    text.parse().map_err(|_| inconsistent("orders", "currency", order, text))
}

fn seller(row: &Row, from: usize) -> Seller {
    Seller { name: row.get(from), address: row.get(from + 1), country: row.get(from + 2), tax_id: row.get(from + 3) }
}

fn seller_of(row: &Row, from: usize) -> Option<Seller> {
    row.get::<_, Option<&str>>(from).is_some().then(|| seller(row, from))
}

/// An address as the checkout profile had it, line by line.
fn recipient(ship_to: &Value) -> Option<Recipient> {
    let part = |name: &str| ship_to.get(name).and_then(Value::as_str).filter(|part| !part.is_empty());
    let place = [part("postal_code"), part("city"), part("state")].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let address = [part("line1").map(str::to_owned), part("line2").map(str::to_owned), Some(place)];
    let address = address.into_iter().flatten().filter(|line| !line.is_empty()).collect::<Vec<_>>();
    let name = part("name").unwrap_or_default().to_owned();
    (!name.is_empty() || !address.is_empty()).then_some(Recipient { name, address })
}
