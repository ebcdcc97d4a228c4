//! What the stores hold of one drop, in the words of the judge of the buyers' log. Read after everything is settled.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context as _;
use doorbuster_engine::domain::grant_kinds::GrantKind;
use doorbuster_engine::domain::ids::{DropName, OrderId, Serial, VariantNumber};
use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::audit::GrantFact;
use doorbuster_sandbox::crowd::{CaptureFact, FreedFact, OrderFact, StoreFacts};
use doorbuster_sandbox::provider::Capture;
use jiff::Timestamp;

/// `captures` are all of the provider's, none left out; `tokens_free` is what the audit found.
pub async fn store_facts(
    engine: &Engine,
    drop: &DropName,
    captures: Vec<Capture>,
    tokens_free: u32,
) -> anyhow::Result<StoreFacts> {
    let live = engine.refresh(drop).await?.context("the drop is gone")?;
    let facts = engine.ledger.drop_facts(&live.drop).await?;
    let sku = |number: VariantNumber| live.drop.variant(number).map(|variant| variant.sku.clone()).unwrap_or_default();
    let variants = facts.tokens.iter().map(|token| (token.serial, token.variant)).collect::<HashMap<_, _>>();
    let orders = facts.orders.iter().map(|(id, order)| OrderFact {
        order_id: id.to_string(),
        buyer: order.buyer.to_string(),
        sku: sku(order.variant),
        status: order.status.as_str().to_owned(),
        serials: order.serials.iter().map(|serial| serial.0).collect(),
        total_minor: order.total.amount_minor,
        currency: order.total.currency.to_string(),
    });
    let named = |units: Vec<(VariantNumber, u32)>| units.into_iter().map(|(variant, units)| (sku(variant), units));
    let freed = freed(&facts.grants, &variants).into_iter().map(|(variant, units, at)| FreedFact {
        sku: sku(variant),
        units,
        at_us: at.as_microsecond(),
    });
    let added = added(&facts.grants, &variants);
    let captures = captures.into_iter().map(|capture| CaptureFact {
        order_id: capture.order_id,
        amount_minor: capture.amount_minor,
        currency: capture.currency.to_ascii_uppercase(),
    });
    Ok(StoreFacts {
        stock: live.drop.variants.iter().map(|variant| (variant.sku.clone(), variant.stock_units)).collect(),
        added: named(added).collect(),
        limit: live.drop.buyer_limit,
        orders: orders.collect(),
        freed: freed.collect(),
        tokens_free,
        captures: captures.collect(),
    })
}

/// Of each unit of a declined order that is or was on sale again, the seconds from the decline to that moment.
pub(super) async fn off_sale_s(engine: &Engine, drop: &DropName) -> anyhow::Result<Vec<f64>> {
    let live = engine.refresh(drop).await?.context("the drop is gone")?;
    let facts = engine.ledger.drop_facts(&live.drop).await?;
    let declines = engine.ledger.declines(live.drop.id).await?;
    let held = |order: &OrderId| facts.orders.get(order).map(|order| order.serials.as_slice()).unwrap_or_default();
    let declined = declines.iter().flat_map(|(order, at)| held(order).iter().map(move |serial| (*serial, *at)));
    Ok(off_sale(&facts.grants, declined))
}

/// When units came on sale that nobody could claim before, whatever had brought them back, by variant.
fn freed(grants: &[GrantFact], variants: &HashMap<Serial, VariantNumber>) -> Vec<(VariantNumber, u32, Timestamp)> {
    let on_sale = grants.iter().filter(|grant| grant.kind.puts_on_sale());
    let freed = on_sale.filter_map(|grant| {
        let at = grant.applied_at?;
        Some(by_variant(&grant.serials, variants).into_iter().map(move |(variant, units)| (variant, units, at)))
    });
    freed.flatten().collect()
}

/// Units that were not there when the drop opened.
fn added(grants: &[GrantFact], variants: &HashMap<Serial, VariantNumber>) -> Vec<(VariantNumber, u32)> {
    let mut later = variants.clone();
    for serial in grants.iter().filter(|grant| grant.kind == GrantKind::FirstLoad).flat_map(|grant| &grant.serials) {
        later.remove(serial);
    }
    by_variant(&later.into_keys().collect::<Vec<_>>(), variants)
}

fn by_variant(serials: &[Serial], variants: &HashMap<Serial, VariantNumber>) -> Vec<(VariantNumber, u32)> {
    let mut units = BTreeMap::new();
    for variant in serials.iter().filter_map(|serial| variants.get(serial)) {
        *units.entry(variant.0).or_default() += 1;
    }
    units.into_iter().map(|(variant, units)| (VariantNumber(variant), units)).collect()
}

/// From each decline to the first grant behind it that put the unit on sale.
fn off_sale(grants: &[GrantFact], declined: impl Iterator<Item = (Serial, Timestamp)>) -> Vec<f64> {
    let mut on_sale = HashMap::<Serial, Vec<Timestamp>>::new();
    for grant in grants.iter().filter(|grant| grant.kind.puts_on_sale()) {
        for (serial, at) in grant.serials.iter().zip(std::iter::repeat(grant.applied_at)) {
            on_sale.entry(*serial).or_default().extend(at);
        }
    }
    let waits = declined.filter_map(|(serial, declined_at)| {
        let again = on_sale.get(&serial)?.iter().filter(|at| **at >= declined_at).min()?;
        Some(again.duration_since(declined_at).as_secs_f64())
    });
    waits.collect()
}

#[cfg(test)]
mod tests {
    use doorbuster_engine::domain::ids::{GrantNumber, WarehouseId};
    use doorbuster_sandbox::crowd::{BuyersLog, Call, CallOutcome, Visit, judge};

    use super::*;

    const SHOE: VariantNumber = VariantNumber(0);
    const SOCK: VariantNumber = VariantNumber(1);
    const SECOND_US: i64 = 1_000_000;

    fn grant(kind: GrantKind, serials: &[u32], applied_s: Option<i64>) -> GrantFact {
        GrantFact {
            warehouse: WarehouseId(1),
            number: GrantNumber(1),
            serials: serials.iter().map(|serial| Serial(*serial)).collect(),
            kind,
            applied_at: applied_s.map(at),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Shoes have odd serials, socks even ones.
    fn variants(units: u32) -> HashMap<Serial, VariantNumber> {
        (1..=units).map(|serial| (Serial(serial), if serial % 2 == 1 { SHOE } else { SOCK })).collect()
    }

    #[test]
    fn every_way_in_which_units_come_on_sale_counts_and_each_variant_by_itself() {
        for kind in GrantKind::ALL {
            let grants = [grant(kind, &[1, 2, 3], Some(5)), grant(kind, &[4], None), grant(kind, &[], Some(6))];
            let expected = match kind {
                GrantKind::Release | GrantKind::Restock | GrantKind::Rested => vec![(SHOE, 2, at(5)), (SOCK, 1, at(5))],
                GrantKind::FirstLoad | GrantKind::Transfer | GrantKind::Return | GrantKind::Award => vec![],
            };
            assert_eq!(freed(&grants, &variants(4)), expected, "{kind:?}");
        }
    }

    #[test]
    fn what_the_first_load_did_not_bring_was_added_later() {
        let grants = [grant(GrantKind::FirstLoad, &[1, 2, 3], Some(1)), grant(GrantKind::Restock, &[4, 5], Some(2))];
        // One of them went to a buyer who waited.
        assert_eq!(added(&grants, &variants(6)), [(SHOE, 1), (SOCK, 2)]);
        assert!(added(&grants[..1], &variants(3)).is_empty());
    }

    /// Of two shoes and two socks, three come back at once by a grant of this kind. A shoe is sold again, and then the
    /// shop refuses everybody for two seconds.
    fn accused(kind: GrantKind) -> u64 {
        let mut log = BuyersLog::default();
        let mut call = |buyer: String, sku: &str, us: i64, outcome| {
            let (key, sku) = (format!("key of {buyer}"), sku.to_owned());
            let (started_us, ended_us) = (us, us + 100);
            let visit = Visit::FirstClick;
            log.calls.push(Call { buyer, key, sku, quantity: 1, visit, due_us: us, started_us, ended_us, outcome });
        };
        let taken = |serial: u32| CallOutcome::Accepted {
            claim_id: format!("claim of {serial}"),
            serials: vec![serial],
            replayed: false,
        };
        for serial in 1..=4 {
            call(format!("buyer {serial}"), if serial % 2 == 1 { "shoe" } else { "sock" }, 0, taken(serial));
        }
        call("erin".to_owned(), "shoe", 5 * SECOND_US + 10, taken(1));
        for number in 1..20 {
            let us = 5 * SECOND_US + number * SECOND_US / 10;
            call(format!("shoe {number}"), "shoe", us, CallOutcome::SoldOut);
            call(format!("sock {number}"), "sock", us, CallOutcome::SoldOut);
        }
        let name = |variant| if variant == SHOE { "shoe" } else { "sock" }.to_owned();
        let freed = freed(&[grant(kind, &[1, 2, 3], Some(5))], &variants(4)).into_iter();
        let facts = StoreFacts {
            stock: vec![(name(SHOE), 2), (name(SOCK), 2)],
            limit: 1,
            freed: freed
                .map(|(variant, units, at)| FreedFact { sku: name(variant), units, at_us: at.as_microsecond() })
                .collect(),
            ..StoreFacts::default()
        };
        judge(&log, &facts).refused_while_stock_remained
    }

    #[test]
    fn a_shop_that_refuses_everybody_for_two_seconds_after_a_resale_is_found_whatever_brought_the_units() {
        for kind in GrantKind::ALL {
            assert_eq!(accused(kind), if kind.puts_on_sale() { 38 } else { 0 }, "{kind:?}");
        }
    }

    #[test]
    fn a_unit_is_off_sale_from_its_decline_to_the_next_grant_that_brings_it() {
        let grants = [
            grant(GrantKind::Release, &[1], Some(2)),
            grant(GrantKind::Transfer, &[1], Some(11)),
            grant(GrantKind::Release, &[2, 1], Some(13)),
            grant(GrantKind::Release, &[1], Some(20)),
            grant(GrantKind::Award, &[3], Some(12)),
            grant(GrantKind::Release, &[4], None),
        ];
        let declined = [(1, 10), (2, 10), (3, 10), (4, 10), (1, 13), (1, 15)];
        let declined = declined.into_iter().map(|(serial, second)| (Serial(serial), at(second)));
        assert_eq!(off_sale(&grants, declined), [3.0, 3.0, 0.0, 5.0], "3 was awarded, and 4 is not there yet");
    }
}
