//! What an order was charged for, line by line, and what was credited of it.

use std::collections::HashMap;

use deadpool_postgres::{GenericClient, Transaction};
use tokio_postgres::Row;
use uuid::Uuid;

use super::error::{LedgerError, expect_rows};
use crate::domain::credits::{Charge, ChargedLine, Credit, CreditLine, Split, next_note, note_of_booking, total_minor};
use crate::domain::ids::{OrderId, RefundId};

/// The lines of an order's refunds that have not failed, oldest first.
pub(super) type Notes = Vec<(RefundId, Vec<CreditLine>)>;

/// What these orders were charged, by order.
pub(super) async fn charges(
    client: &impl GenericClient,
    orders: &[Uuid],
) -> Result<HashMap<Uuid, Charge>, LedgerError> {
    const ORDERS: &str = "-- credits.orders
        select o.order_id, o.subtotal_minor, o.tax_minor, o.shipping_minor,
               coalesce(o.tax_basis_points, d.tax_basis_points), o.shipping_tax_basis_points, o.price_includes_tax
        from orders o left join drops d using (drop_id) where o.order_id = any($1)";
    const ITEMS: &str = "-- credits.items
        select order_id, line, quantity, unit_price_minor from order_items
        where order_id = any($1) order by order_id, line";
    let rows = client.query(&client.prepare_cached(ORDERS).await?, &[&orders]).await?;
    let items = client.query(&client.prepare_cached(ITEMS).await?, &[&orders]).await?;
    let rate = |row: &Row, column| row.get::<_, Option<i32>>(column).map(i32::cast_unsigned);
    let charge = |row: &Row| Charge {
        goods: Vec::new(),
        price_includes_tax: row.get(6),
        subtotal_minor: row.get(1),
        tax_minor: row.get(2),
        shipping_minor: row.get(3),
        tax_basis_points: rate(row, 4),
        shipping_tax_basis_points: rate(row, 5),
    };
    let mut found = rows.iter().map(|row| (row.get(0), charge(row))).collect::<HashMap<Uuid, Charge>>();
    for row in &items {
        if let Some(charge) = found.get_mut(&row.get::<_, Uuid>(0)) {
            let (line, quantity): (i32, i32) = (row.get(1), row.get(2));
            charge.goods.push((line.cast_unsigned(), quantity.cast_unsigned(), row.get(3)));
        }
    }
    Ok(found)
}

/// The lines of an order's invoice.
pub(super) async fn charged_lines(
    client: &impl GenericClient,
    order: OrderId,
) -> Result<Vec<ChargedLine>, LedgerError> {
    let charge = charges(client, &[order.0]).await?.remove(&order.0);
    Ok(charge.map(|charge| charge.lines()).unwrap_or_default())
}

/// What was credited of these orders. Refunds without lines, which an older program has asked for, get them here: as
/// they were booked, and otherwise as amounts; the second answer names those.
pub(super) async fn notes(
    client: &impl GenericClient,
    charged: &HashMap<Uuid, Vec<ChargedLine>>,
) -> Result<(HashMap<Uuid, Notes>, Vec<RefundId>), LedgerError> {
    const REFUNDS: &str = "-- credits.refunds
        select r.order_id, r.refund_id, r.amount_minor,
               (select array_agg(coalesce(j.amount_minor, 0) order by a.place)
                from unnest(array['sales', 'tax', 'shipping']) with ordinality as a (account, place)
                     left join journal j on j.source = 'refund-' || r.refund_id || ':' || a.account)
        from refunds r where r.order_id = any($1) and r.state <> 'FAILED' order by r.created_at, r.refund_id";
    const LINES: &str = "-- credits.lines
        select l.refund_id, l.line, l.quantity, l.tax_basis_points, l.net_minor, l.tax_minor
        from refund_lines l join refunds r using (refund_id) where r.order_id = any($1) and r.state <> 'FAILED'
        order by l.refund_id, l.line = 0, l.line";
    let orders = charged.keys().copied().collect::<Vec<_>>();
    let refunds = client.query(&client.prepare_cached(REFUNDS).await?, &[&orders]).await?;
    let mut lines: HashMap<Uuid, Vec<CreditLine>> = HashMap::new();
    for row in client.query(&client.prepare_cached(LINES).await?, &[&orders]).await? {
        lines.entry(row.get(0)).or_default().push(credit_line(&row));
    }
    let mut found: HashMap<Uuid, Notes> = HashMap::new();
    // First what has lines, wherever it stands: what is guessed must leave room for it.
    let (known, guessed): (Vec<_>, Vec<_>) = refunds.iter().partition(|row| lines.contains_key(&row.get::<_, Uuid>(1)));
    for row in known {
        let refund: Uuid = row.get(1);
        let lines = lines.remove(&refund).unwrap_or_default();
        found.entry(row.get(0)).or_default().push((RefundId(refund), lines));
    }
    let mut without_lines = Vec::new();
    for row in guessed {
        let (order, refund, amount): (Uuid, Uuid, i64) = (row.get(0), row.get(1), row.get(2));
        let Some(charged) = charged.get(&order) else { continue };
        let notes = found.entry(order).or_default();
        let before = notes.iter().flat_map(|(_, lines)| lines.iter().copied()).collect::<Vec<_>>();
        let lines = lines_of_old(charged, &before, amount, row.get::<_, Vec<i64>>(3));
        notes.push((RefundId(refund), lines));
        without_lines.push(RefundId(refund));
    }
    Ok((found, without_lines))
}

fn lines_of_old(charged: &[ChargedLine], before: &[CreditLine], amount: i64, booked: Vec<i64>) -> Vec<CreditLine> {
    let booked = match booked[..] {
        [sales_minor, tax_minor, shipping_minor] => Split { sales_minor, tax_minor, shipping_minor },
        _ => Split::default(),
    };
    let as_booked = note_of_booking(charged, before, booked).filter(|lines| total_minor(lines) == amount);
    let as_amount = || next_note(charged, before, &Credit::Amount { minor: amount, units: Vec::new() }, 1);
    as_booked.or_else(as_amount).unwrap_or_default()
}

/// What these refunds are for, whatever has become of them. `charged`: of their orders.
pub(super) async fn lines_of_refunds(
    client: &impl GenericClient,
    refunds: &[Uuid],
    charged: &HashMap<Uuid, Vec<ChargedLine>>,
) -> Result<HashMap<Uuid, Vec<CreditLine>>, LedgerError> {
    const LINES: &str = "-- credits.lines_of
        select refund_id, line, quantity, tax_basis_points, net_minor, tax_minor from refund_lines
        where refund_id = any($1) order by refund_id, line = 0, line";
    let mut found: HashMap<Uuid, Vec<CreditLine>> = HashMap::new();
    for row in client.query(&client.prepare_cached(LINES).await?, &[&refunds]).await? {
        found.entry(row.get(0)).or_default().push(credit_line(&row));
    }
    if refunds.iter().any(|refund| !found.contains_key(refund)) {
        let (notes, _) = notes(client, charged).await?;
        for (refund, lines) in notes.into_values().flatten() {
            found.entry(refund.0).or_insert(lines);
        }
    }
    Ok(found)
}

/// The same of one order under its lock. What had no lines has them afterwards, so that nothing changes them any more.
pub(super) async fn fixed_notes(
    tx: &Transaction<'_>,
    order: OrderId,
    charged: &[ChargedLine],
) -> Result<Notes, LedgerError> {
    let charged = HashMap::from([(order.0, charged.to_vec())]);
    let (mut notes, without_lines) = notes(tx, &charged).await?;
    let notes = notes.remove(&order.0).unwrap_or_default();
    for (refund, lines) in notes.iter().filter(|(refund, _)| without_lines.contains(refund)) {
        insert_lines(tx, *refund, lines).await?;
    }
    Ok(notes)
}

pub(super) async fn insert_lines(
    tx: &Transaction<'_>,
    refund: RefundId,
    lines: &[CreditLine],
) -> Result<(), LedgerError> {
    const SQL: &str = "-- credits.insert_lines
        insert into refund_lines (refund_id, line, quantity, tax_basis_points, net_minor, tax_minor)
        select $1, * from unnest($2::int[], $3::int[], $4::int[], $5::bigint[], $6::bigint[])";
    let column = |of: fn(&CreditLine) -> u32| lines.iter().map(|line| of(line).cast_signed()).collect::<Vec<_>>();
    let (numbers, quantities) = (column(|line| line.line), column(|line| line.quantity));
    let rates = column(|line| line.tax_basis_points);
    let nets = lines.iter().map(|line| line.net_minor).collect::<Vec<_>>();
    let taxes = lines.iter().map(|line| line.tax_minor).collect::<Vec<_>>();
    let statement = tx.prepare_cached(SQL).await?;
    let written = tx.execute(&statement, &[&refund.0, &numbers, &quantities, &rates, &nets, &taxes]).await?;
    expect_rows("credits.insert_lines", lines.len() as u64, written)
}

fn credit_line(row: &Row) -> CreditLine {
    let number = |column| row.get::<_, i32>(column).cast_unsigned();
    CreditLine {
        line: number(1),
        quantity: number(2),
        tax_basis_points: number(3),
        net_minor: row.get(4),
        tax_minor: row.get(5),
    }
}
