//! The journal: double entry, append-only. A row debits one account and credits another, so every currency sums to zero by
//! construction; its source is unique, so nothing is booked twice.
//!
//! | event | debit | credit | source |
//! |---|---|---|---|
//! | charge | provider | sales, tax, shipping | `order-{order}:charge:{account}` |
//! | refund, by its lines | sales, tax, shipping | provider | `refund-{refund}:{account}` |
//! | refund that came back | provider | sales, tax, shipping | `refund-{refund}:returned:{account}` |

use super::error::LedgerError;
use super::locked_order::LockedOrder;
use crate::domain::credits::{CreditLine, Split, split};
use crate::domain::ids::RefundId;
use deadpool_postgres::Transaction;
use jiff::Timestamp;

const PROVIDER: &str = "provider";
/// What an order's total is made of.
const ACCOUNTS: [&str; 3] = ["sales", "tax", "shipping"];

async fn book(
    tx: &Transaction<'_>,
    source: &str,
    order: &LockedOrder,
    (debit, credit): (&str, &str),
    amount_minor: i64,
    now: Timestamp,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- journal.book
        insert into journal (source, order_id, debit_account, credit_account, amount_minor, currency, booked_at)
        values ($1, $2, $3, $4, $5, $6, $7)";
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&source, &order.id.0, &debit, &credit, &amount_minor, &order.currency.as_str(), /* now */ &now];
    tx.execute(&tx.prepare_cached(SQL).await?, arguments).await?;
    Ok(())
}

/// The provider owes us the totals of these orders.
pub(super) async fn book_charges(
    tx: &Transaction<'_>,
    orders: &[&LockedOrder],
    now: Timestamp,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- journal.book_charges
        insert into journal (source, order_id, debit_account, credit_account, amount_minor, currency, booked_at)
        select 'order-' || order_id || ':charge:' || account, order_id, $1, account, amount_minor, currency, $2
        from unnest($3::uuid[], $4::text[], $5::bigint[], $6::text[]) as c (order_id, account, amount_minor, currency)";
    let parts = orders.iter().flat_map(|order| {
        let amounts = [order.subtotal_minor, order.tax_minor, order.shipping_minor];
        ACCOUNTS.into_iter().zip(amounts).filter(|(_, amount)| *amount > 0).map(move |part| (order, part))
    });
    let parts = parts.collect::<Vec<_>>();
    let ids = parts.iter().map(|(order, _)| order.id.0).collect::<Vec<_>>();
    let accounts = parts.iter().map(|(_, (account, _))| *account).collect::<Vec<_>>();
    let amounts = parts.iter().map(|(_, (_, amount))| *amount).collect::<Vec<_>>();
    let currencies = parts.iter().map(|(order, _)| order.currency.as_str()).collect::<Vec<_>>();
    let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&PROVIDER, /* now */ &now, &ids, &accounts, &amounts, &currencies];
    tx.execute(&tx.prepare_cached(SQL).await?, &arguments).await?;
    Ok(())
}

/// A refund arrived, and was for this.
pub(super) async fn book_refund(
    tx: &Transaction<'_>,
    order: &LockedOrder,
    refund: RefundId,
    lines: &[CreditLine],
    now: Timestamp,
) -> Result<(), LedgerError> {
    let Split { sales_minor, tax_minor, shipping_minor } = split(lines);
    let amounts = [sales_minor, tax_minor, shipping_minor];
    for (account, amount) in ACCOUNTS.into_iter().zip(amounts).filter(|(_, amount)| *amount > 0) {
        let source = format!("refund-{refund}:{account}");
        book(tx, &source, order, (account, PROVIDER), amount, now).await?;
    }
    Ok(())
}

/// A refund that had succeeded came back: its entries, the other way round.
pub(super) async fn reverse_refund(tx: &Transaction<'_>, refund: RefundId, now: Timestamp) -> Result<(), LedgerError> {
    const SQL: &str = "-- journal.reverse_refund
        insert into journal (source, order_id, debit_account, credit_account, amount_minor, currency, booked_at)
        select 'refund-' || $1::text || ':returned:' || debit_account, order_id, credit_account, debit_account,
               amount_minor, currency, $2
        from journal where source = any($3)";
    let sources = ACCOUNTS.map(|account| format!("refund-{refund}:{account}"));
    tx.execute(SQL, &[&refund.to_string(), /* now */ &now, &sources.as_slice()]).await?;
    Ok(())
}
