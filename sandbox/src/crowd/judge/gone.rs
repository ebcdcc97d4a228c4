//! How many units of a SKU can have been gone at a time: never fewer than were, so that nobody is accused falsely.
//!
//! - The claims of a key count from its first call that was not refused: a refused call has taken nothing. If the claim
//!   was later released, its units come back with the [`FreedFact`](super::FreedFact) of the release.
//! - A key without a claim whose calls left somebody in doubt (no answer, "try again", a server error) counts until a
//!   later call is told that the key holds nothing, or for ever. Should the doubtful request be executed even later, it
//!   leaves an order, and then:
//! - An order that no answer explains counts from its buyer's first call, or, if he has none in this log, from the
//!   beginning of time.

use std::collections::{HashMap, HashSet};

use super::{BuyersLog, Call, CallOutcome, OrderFact, StoreFacts};

pub(super) struct Gone<'a> {
    by_sku: HashMap<&'a str, Levels>,
}

/// A step function of time, and its maximum over any interval in O(log n).
struct Levels {
    /// Distinct and ascending.
    times: Vec<i64>,
    /// `highest[k][i]` is the maximum of the 2^k levels from the i-th on. Level 0 is that before `times[0]`, and level i
    /// the one from `times[i - 1]` on.
    highest: Vec<Vec<i64>>,
}

/// Changes of the level: time and units, for each SKU.
#[derive(Default)]
struct Changes<'a> {
    by_sku: HashMap<&'a str, Vec<(i64, i64)>>,
}

impl<'a> Gone<'a> {
    /// O(n log n) for n calls, orders and freed units.
    pub(super) fn possibly(log: &'a BuyersLog, facts: &'a StoreFacts) -> Self {
        let mut changes = Changes::default();
        let mut by_key: HashMap<(&str, &str), Vec<&'a Call>> = HashMap::new();
        let mut first_call_us: HashMap<(&str, &str), i64> = HashMap::new();
        for call in &log.calls {
            by_key.entry((&call.buyer, &call.key)).or_default().push(call);
            let first_us = first_call_us.entry((&call.buyer, &call.sku)).or_insert(i64::MAX);
            *first_us = call.started_us.min(*first_us);
        }

        let mut answered: HashSet<&str> = HashSet::new();
        // Units that count for ever without a claim id: an order may be theirs, and must not be counted again.
        let mut nameless: HashMap<(&str, &str), u32> = HashMap::new();
        for calls in by_key.values() {
            let Some(taken_us) = calls.iter().filter(|call| may_have_taken(call)).map(|call| call.started_us).min()
            else {
                continue;
            };
            let mut claims: HashMap<&str, u32> = HashMap::new();
            for call in calls {
                if let CallOutcome::Accepted { claim_id, serials, .. } = &call.outcome {
                    let units = claims.entry(claim_id).or_default();
                    *units = call.quantity.max(serials.len() as u32).max(*units);
                }
            }
            let sku = &calls[0].sku;
            for (&claim_id, &units) in &claims {
                // A claim given for two keys is counted for each: rather too much.
                answered.insert(claim_id);
                changes.add(sku, taken_us, units.into());
            }
            if claims.is_empty() {
                let units = calls.iter().map(|call| call.quantity).max().unwrap_or(0);
                changes.add(sku, taken_us, units.into());
                match decided_us(calls) {
                    Some(decided_us) => changes.add(sku, decided_us, -i64::from(units)),
                    None => *nameless.entry((&calls[0].buyer, sku)).or_default() += units,
                }
            }
        }

        for order in facts.orders.iter().filter(|order| !answered.contains(order.order_id.as_str())) {
            let units = units_once_held(order, facts);
            let whose = (order.buyer.as_str(), order.sku.as_str());
            let counted = nameless.entry(whose).or_default();
            let already = units.min(*counted);
            *counted -= already;
            let from_us = first_call_us.get(&whose).copied().unwrap_or(i64::MIN);
            changes.add(&order.sku, from_us, i64::from(units - already));
        }
        for freed in &facts.freed {
            changes.add(&freed.sku, freed.at_us, -i64::from(freed.units));
        }
        Self { by_sku: changes.by_sku.into_iter().map(|(sku, changes)| (sku, Levels::new(changes))).collect() }
    }

    /// The most units that can have been gone at one time between the two, both included.
    pub(super) fn most_during(&self, sku: &str, from_us: i64, to_us: i64) -> i64 {
        self.by_sku.get(sku).map_or(0, |levels| levels.highest_during(from_us, to_us))
    }
}

fn may_have_taken(call: &Call) -> bool {
    match call.outcome {
        CallOutcome::Accepted { .. } | CallOutcome::Released => true,
        _ => !call.outcome.is_decided(),
    }
}

/// When a key without an accepted call was told for sure that it holds nothing: the answer of a call that started when
/// all doubtful ones had ended. `None` also if its claim was released, which is then in the freed facts.
fn decided_us(calls: &[&Call]) -> Option<i64> {
    if calls.iter().any(|call| call.outcome == CallOutcome::Released) {
        return None;
    }
    let doubtful_until_us = calls.iter().filter(|call| may_have_taken(call)).map(|call| call.ended_us).max()?;
    // The warehouse that knows the key refuses with one of these; a closed door asks no warehouse.
    let looked = |call: &Call| {
        matches!(call.outcome, CallOutcome::SoldOut | CallOutcome::NotEnough { .. } | CallOutcome::LimitExceeded)
    };
    calls.iter().filter(|c| looked(c) && c.started_us > doubtful_until_us).map(|call| call.ended_us).min()
}

/// An order that ended may have given up its serials: then it held no more than the limit.
fn units_once_held(order: &OrderFact, facts: &StoreFacts) -> u32 {
    if order.serials.is_empty() { facts.limit } else { order.serials.len() as u32 }
}

impl<'a> Changes<'a> {
    fn add(&mut self, sku: &'a str, at_us: i64, units: i64) {
        self.by_sku.entry(sku).or_default().push((at_us, units));
    }
}

impl Levels {
    fn new(mut changes: Vec<(i64, i64)>) -> Self {
        changes.sort_unstable();
        let mut times: Vec<i64> = Vec::new();
        let mut levels: Vec<i64> = vec![0];
        let mut level = 0;
        for (at_us, units) in changes {
            level += units;
            if times.last() == Some(&at_us) {
                levels.pop();
            } else {
                times.push(at_us);
            }
            levels.push(level);
        }
        let mut highest = vec![levels];
        while let Some(last) = highest.last()
            && last.len() > 1 << (highest.len() - 1)
        {
            let half = 1 << (highest.len() - 1);
            highest.push(last.iter().zip(&last[half..]).map(|(&left, &right)| left.max(right)).collect());
        }
        Self { times, highest }
    }

    fn highest_during(&self, from_us: i64, to_us: i64) -> i64 {
        let first = self.times.partition_point(|&time| time <= from_us);
        let after_last = self.times.partition_point(|&time| time <= to_us).max(first) + 1;
        let power = (after_last - first).ilog2() as usize;
        self.highest[power][first].max(self.highest[power][after_last - (1 << power)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_level_of_every_interval_is_found() {
        // A fixed scramble: ups and downs, some at the same time.
        let changes: Vec<(i64, i64)> = (0..37).map(|i| ((i * 29) % 31, (i * 17) % 7 - 3)).collect();
        let levels = Levels::new(changes.clone());
        let level_at = |t| changes.iter().filter(|change| change.0 <= t).map(|change| change.1).sum::<i64>();
        for from in -1..33 {
            for to in from..33 {
                let expected = (from..=to).map(level_at).max().unwrap();
                assert_eq!(levels.highest_during(from, to), expected, "{from}..={to}");
            }
        }
        assert_eq!(Levels::new(Vec::new()).highest_during(3, 9), 0);
    }
}
