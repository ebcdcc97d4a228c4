//! What settlement writes: the rows of the orders it makes, and of the claims it rejects.
//!
//! One statement a table, whatever the size of the batch. The statements are sent one behind the other without waiting for
//! each other's answers: while Postgres works on one, the next is being packed here.

use std::collections::HashMap;

use deadpool_postgres::Transaction;
use futures_util::join;
use jiff::Timestamp;
use tokio_postgres::types::ToSql;

use super::drops::{inconsistent, serial_values};
use super::error::{LedgerError, expect_rows};
use super::locked_order::confirm_free;
use super::settlements::{Accepted, ClaimToSettle, Profile, Rejection};
use super::{awards, grants, outbox, rest, standby};
use crate::domain::drops::SaleDrop;
use crate::domain::ids::{OrderId, VariantNumber};
use crate::domain::notices::Notice;
use crate::domain::orders::OrderState;
use crate::domain::payments::PaymentState;
use crate::domain::pricing::Totals;
use crate::domain::turns::{Turn, Work};
use crate::domain::whole_price::Next;

pub(super) async fn write_orders(
    tx: &Transaction<'_>,
    drop: &SaleDrop,
    accepted: &[Accepted<'_>],
    profiles: &HashMap<String, Profile>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    if accepted.is_empty() {
        return Ok(());
    }
    const ORDERS: &str = "-- settlement_rows.insert_orders
        insert into orders (order_id, buyer, drop_id, status, currency, subtotal_minor, tax_minor, shipping_minor,
                            total_minor, email, ship_to, created_at, updated_at, tax_basis_points,
                            shipping_tax_basis_points, price_includes_tax, accepted_total_minor, pay_by)
        select order_id, buyer, $1, $2, $3, subtotal, tax, shipping, total, email, ship_to, $4, $4, rate, shipping_rate,
               $16, accepted, $17
        from unnest($5::uuid[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::text[],
                    $12::jsonb[], $13::int[], $14::int[], $15::bigint[])
             as o (order_id, buyer, subtotal, tax, shipping, total, email, ship_to, rate, shipping_rate, accepted)";
    const ITEMS: &str = "-- settlement_rows.insert_items
        insert into order_items (order_id, line, product_id, variant_id, warehouse_id, quantity, unit_price_minor, serials)
        select order_id, 1, $1, variant_id, warehouse_id, quantity, unit_price, serials::int[]
        from unnest($2::uuid[], $3::int[], $4::int[], $5::int[], $6::bigint[], $7::text[])
             as i (order_id, variant_id, warehouse_id, quantity, unit_price, serials)";
    const PAYMENTS: &str = "-- settlement_rows.insert_payments
        insert into payments (order_id, state, amount_minor, currency, idempotency_key, payment_method, due_at,
                              updated_at, turn)
        select order_id, state, amount, $1, 'order-' || order_id, method,
               case when method is null then null else $2::timestamptz end, $2, $7
        from unnest($3::uuid[], $4::bigint[], $5::text[], $6::text[]) as p (order_id, amount, method, state)";
    const HISTORY: &str = "-- settlement_rows.insert_history
        insert into order_history (order_id, at, from_state, to_state, actor, reason)
        select order_id, $1, null, $2, 'settlement', 'claim settled' from unnest($3::uuid[]) as h (order_id)";
    const HOLDINGS: &str = "-- settlement_rows.insert_holdings
        insert into holdings (drop_id, buyer, nth, order_id)
        select $1, buyer, nth, order_id from unnest($2::text[], $3::smallint[], $4::uuid[]) as h (buyer, nth, order_id)";
    // What is known of a drop's rows until the table is analyzed is that there is hardly any. If the drop or what is free in it
    // were a condition of its own, all that is free would be held against each claim (measured: 2,400 orders/s instead of 4,000).
    // So each row is looked up by its whole key, which the subquery hides from the planner until then.
    const TOKENS: &str = "-- settlement_rows.take_tokens
        update tokens t set order_id = u.order_id, awarded_claim = null, rested_at = null
        from (select $1::int as drop_id, serial, order_id, null::uuid as nobody
              from unnest($2::int[], $3::uuid[]) as u (serial, order_id) offset 0) u
        where t.drop_id = u.drop_id and t.serial = u.serial
              and coalesce(t.order_id, t.poisoned_claim) is not distinct from u.nobody
              and coalesce(t.awarded_claim, u.order_id) = u.order_id";
    const INVENTORY: &str = "-- settlement_rows.reserve
        update inventory i set quantity_reserved = quantity_reserved + u.units, version = version + 1
        from unnest($2::int[], $3::int[], $4::int[]) as u (variant_id, warehouse_id, units)
        where i.product_id = $1 and i.variant_id = u.variant_id and i.warehouse_id = u.warehouse_id";

    let column = |value: fn(&Totals) -> i64| accepted.iter().map(|a| value(&a.priced.totals)).collect::<Vec<_>>();
    let ids = accepted.iter().map(|a| a.claim.claim.id.0).collect::<Vec<_>>();
    let buyers = accepted.iter().map(|a| a.claim.claim.buyer.as_str()).collect::<Vec<_>>();
    // An address to which nothing is sent is none: another one may come in its place.
    let profile = |a: &Accepted<'_>| match a.priced.next {
        Next::WaitsForAddress => None,
        _ => profiles.get(a.claim.claim.buyer.as_str()),
    };
    let charged = |a: &Accepted<'_>| profile(a).filter(|_| a.priced.next == Next::Charge);
    let emails = accepted.iter().map(|a| profile(a).map(|p| p.email.as_str())).collect::<Vec<_>>();
    let addresses = accepted.iter().map(|a| profile(a).map(|p| &p.ship_to)).collect::<Vec<_>>();
    let methods = accepted.iter().map(|a| charged(a).and_then(|p| p.payment_method.as_deref())).collect::<Vec<_>>();
    let states = accepted.iter().zip(&methods).map(|(a, method)| state_of(a.priced.next, method.is_some()).as_str());
    let states = states.collect::<Vec<_>>();
    let taxes_of = accepted.iter().map(|a| a.priced.rate.tax_basis_points.cast_signed()).collect::<Vec<_>>();
    let shipping_taxes = accepted.iter().map(|a| a.priced.rate.shipping_tax().cast_signed()).collect::<Vec<_>>();
    let agreed = accepted.iter().map(|a| a.claim.claim.told.map(|told| told.total_minor)).collect::<Vec<_>>();
    let (subtotals, taxes) = (column(|t| t.subtotal.amount_minor), column(|t| t.tax.amount_minor));
    let (shippings, totals) = (column(|t| t.shipping.amount_minor), column(|t| t.total.amount_minor));
    let variants = accepted.iter().map(|a| a.variant_id).collect::<Vec<_>>();
    let warehouses = accepted.iter().map(|a| a.claim.warehouse.id.0).collect::<Vec<_>>();
    let quantities = accepted.iter().map(|a| a.claim.claim.quantity.units() as i32).collect::<Vec<_>>();
    let prices = accepted.iter().map(|a| a.unit_price_minor).collect::<Vec<_>>();
    let serial_lists = accepted.iter().map(|a| array_text(&serial_values(&a.claim.serials))).collect::<Vec<_>>();
    let pending = OrderState::PendingPayment.as_str();
    let currency = drop.currency.as_str();

    let places = accepted.iter().flat_map(|a| a.nths.iter().map(move |nth| (a, *nth))).collect::<Vec<_>>();
    let place_buyers = places.iter().map(|(a, _)| a.claim.claim.buyer.as_str()).collect::<Vec<_>>();
    let place_nths = places.iter().map(|(_, nth)| *nth).collect::<Vec<_>>();
    let place_orders = places.iter().map(|(a, _)| a.claim.claim.id.0).collect::<Vec<_>>();
    let units =
        accepted.iter().flat_map(|a| serial_values(&a.claim.serials).into_iter().map(|s| (s, a.claim.claim.id.0)));
    let (serials, holders): (Vec<_>, Vec<_>) = units.unzip();

    let orders = tx.prepare_cached(ORDERS).await?;
    let items = tx.prepare_cached(ITEMS).await?;
    let payments = tx.prepare_cached(PAYMENTS).await?;
    let history = tx.prepare_cached(HISTORY).await?;
    let holdings = tx.prepare_cached(HOLDINGS).await?;
    let tokens = tx.prepare_cached(TOKENS).await?;
    let pay_by = drop.pay_terms.pay_by(drop.pay_by, now);
    let orders_arguments: [&(dyn ToSql + Sync); 17] = [
        &drop.id.0,
        &pending,
        &currency,
        /* now */ &now,
        &ids,
        &buyers,
        &subtotals,
        &taxes,
        &shippings,
        &totals,
        &emails,
        &addresses,
        &taxes_of,
        &shipping_taxes,
        &agreed,
        &drop.terms.price_includes_tax,
        &pay_by,
    ];
    let items_arguments: [&(dyn ToSql + Sync); 7] =
        [&drop.product_id, &ids, &variants, &warehouses, &quantities, &prices, &serial_lists];
    let turn = Turn::of(Work::ChargeOfDrop).number();
    let payments_arguments: [&(dyn ToSql + Sync); 7] =
        [&currency, /* now */ &now, &ids, &totals, &methods, &states, &turn];
    let history_arguments: [&(dyn ToSql + Sync); 3] = [/* now */ &now, &pending, &ids];
    let holdings_arguments: [&(dyn ToSql + Sync); 4] = [&drop.id.0, &place_buyers, &place_nths, &place_orders];
    let tokens_arguments: [&(dyn ToSql + Sync); 3] = [&drop.id.0, &serials, &holders];
    // Sent in this order, and answered in it: orders before what refers to them.
    let (made, items, payments, history, holdings, taken) = join!(
        tx.execute(&orders, &orders_arguments),
        tx.execute(&items, &items_arguments),
        tx.execute(&payments, &payments_arguments),
        tx.execute(&history, &history_arguments),
        tx.execute(&holdings, &holdings_arguments),
        tx.execute(&tokens, &tokens_arguments),
    );
    // Told in this order too: what comes behind the first that failed only says that the transaction is over.
    let made = made?;
    for written in [items, payments, history, holdings] {
        written?;
    }
    let taken = taken?;
    let told = outbox::enqueue_for(tx, &ids, &Notice::OrderCreated, now).await?;
    expect_rows("settlement_rows.insert_events", accepted.len() as u64, told)?;
    let of_awards = accepted.iter().filter(|a| a.may_be_award).map(|a| a.claim.claim.id.0).collect::<Vec<_>>();
    if !of_awards.is_empty() {
        for order in awards::take_places(tx, &of_awards, now).await? {
            outbox::enqueue(tx, OrderId(order), &Notice::StandbyAwarded, now).await?;
        }
    }
    expect_rows("settlement_rows.insert_orders", accepted.len() as u64, made)?;
    expect_rows("settlement_rows.take_tokens", serials.len() as u64, taken)?;

    let mut reserved: HashMap<(i32, i32), i32> = HashMap::new();
    for a in accepted {
        *reserved.entry((a.variant_id, a.claim.warehouse.id.0)).or_default() += a.claim.claim.quantity.units() as i32;
    }
    let variants = reserved.keys().map(|key| key.0).collect::<Vec<_>>();
    let warehouses = reserved.keys().map(|key| key.1).collect::<Vec<_>>();
    let units = reserved.values().copied().collect::<Vec<_>>();
    grants::lock_inventory(tx, drop.product_id, &variants, &warehouses).await?;
    let statement = tx.prepare_cached(INVENTORY).await?;
    let changed = tx.execute(&statement, &[&drop.product_id, &variants, &warehouses, &units]).await?;
    expect_rows("settlement_rows.reserve", reserved.len() as u64, changed)?;

    let of_next = |next: Next| accepted.iter().filter(move |a| a.priced.next == next).map(|a| a.claim.claim.id.0);
    for order in of_next(Next::WaitsForAgreement) {
        outbox::enqueue(tx, OrderId(order), &Notice::TotalChanged, now).await?;
    }
    let free = of_next(Next::NothingToPay).collect::<Vec<_>>();
    confirm_free(tx, &free, now).await
}

/// The payment of an order that was just made.
fn state_of(next: Next, has_method: bool) -> PaymentState {
    match next {
        Next::WaitsForAddress | Next::WaitsForAgreement => PaymentState::Required,
        Next::NothingToPay => PaymentState::Succeeded,
        Next::Charge if has_method => PaymentState::InFlight,
        Next::Charge => PaymentState::Required,
    }
}

/// Remembers rejected claims, and gives back the units that nobody holds: to standby buyers, else they rest. Whose claim
/// was forgotten by Redis goes first in line himself. The caller holds the lines.
pub(super) async fn write_rejections(
    tx: &Transaction<'_>,
    drop: &SaleDrop,
    rejected: &[(&ClaimToSettle, Rejection)],
    now: Timestamp,
) -> Result<(), LedgerError> {
    const REJECT: &str = "-- settlement_rows.reject
        insert into rejected_claims (claim_id, drop_id, buyer, reason, serials, settled_at, variant_number, units)
        values ($1, $2, $3, $4, $5, $6, $7, $8)";
    const UNAWARD: &str = "-- settlement_rows.unaward
        update tokens set awarded_claim = null where drop_id = $1 and serial = any($2) and awarded_claim = $3";
    const FREE: &str = "-- settlement_rows.free_of
        select variant_number, array_agg(serial order by serial) from tokens
        where drop_id = $1 and serial = any($2) and warehouse_id = $3 and order_id is null and poisoned_claim is null
              and awarded_claim is null and rested_at is null
        group by variant_number order by variant_number";
    for (claim, reason) in rejected {
        let serials = serial_values(&claim.serials);
        let released = grants::Released {
            claim: claim.claim.id,
            buyer: claim.claim.buyer.clone(),
            variant: claim.claim.variant,
            units: claim.claim.quantity.units(),
        };
        let (id, buyer) = (&released.claim, &released.buyer);
        let (number, units) = (i16::from(released.variant.0), released.units as i16);
        let arguments: &[&(dyn ToSql + Sync)] =
            &[&id.0, &drop.id.0, &buyer.as_str(), &reason.as_str(), &serials, /* now */ &now, &number, &units];
        tx.execute(REJECT, arguments).await?;
        awards::refuse_place(tx, *id, *reason, now).await?;
        if *reason == Rejection::TokenHeld {
            standby::stand_in_for(tx, drop, &claim.claim, now).await?;
        }
        tx.execute(UNAWARD, &[&drop.id.0, &serials, &id.0]).await?;
        // Before any award of its units: its buyer may be the first in line.
        grants::insert(tx, claim.warehouse.id, "release", &[], Some(&released), None).await?;
        for row in tx.query(FREE, &[&drop.id.0, &serials, &claim.warehouse.id.0]).await? {
            let number = VariantNumber(row.get::<_, i16>(0) as u8);
            let variant = drop.variant(number).map(|variant| variant.variant_id);
            let variant_id =
                variant.ok_or_else(|| inconsistent("tokens", "variant_number", &drop.name, &number.0.to_string()))?;
            let stock = awards::Stock { drop: drop.id, product: drop.product_id, variant_id };
            let units = vec![(claim.warehouse.id, super::drops::serials(row.get(1)))];
            rest::come_back(tx, stock, number, units, now).await?;
        }
    }
    Ok(())
}

/// Postgres' text form of an array: unnest takes apart arrays of arrays, so each list travels as text.
fn array_text(values: &[i32]) -> String {
    let numbers = values.iter().map(ToString::to_string).collect::<Vec<_>>();
    format!("{{{}}}", numbers.join(","))
}
