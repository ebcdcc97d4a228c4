//! Transfers: which warehouse gets units of which other one, and what becomes of units that were set aside.

use super::ids::{Epoch, Serial};

/// Claims of one home for units of one variant, all of which it cannot serve by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Its place among the warehouses.
    pub home: usize,
    pub units: u32,
}

/// Units that one warehouse is to give to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pull {
    pub source: usize,
    pub destination: usize,
    pub units: u32,
}

/// What is pulled, and which of the wants are served when it has come, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub pulls: Vec<Pull>,
    pub is_served: Vec<bool>,
}

/// Serves wants in their order from what is free in each warehouse; `None` is a warehouse of which nothing is known.
///
/// A pull takes what is missing, and an even share of what the donor has left, so that the next buyers of that home need no
/// pull. Near the end the share is nothing, and units go one by one to whoever asks.
pub fn plan(free: &[Option<u32>], wants: &[Want], pull_max: u32) -> Plan {
    // What lies there, and what this plan brings there: a donor gives away only what it has now.
    let mut left = free.iter().map(|free| free.unwrap_or_default()).collect::<Vec<_>>();
    let mut brought = vec![0; left.len()];
    let warehouses = left.len() as u32;
    let mut plan = Plan::default();
    for want in wants {
        let is_known = free.get(want.home).is_some_and(Option::is_some);
        let everywhere = left.iter().map(|units| u64::from(*units)).sum::<u64>();
        if !is_known || everywhere + u64::from(brought[want.home]) < u64::from(want.units) {
            plan.is_served.push(false);
            continue;
        }
        let mut missing = want.units;
        for at_home in [&mut brought[want.home], &mut left[want.home]] {
            let taken = missing.min(*at_home);
            *at_home -= taken;
            missing -= taken;
        }
        while missing > 0 {
            let donors = (0..left.len()).filter(|at| *at != want.home);
            let Some(donor) = donors.max_by_key(|at| (left[*at], std::cmp::Reverse(*at))) else { break };
            let taken = missing.min(left[donor]).min(pull_max);
            let share = ((left[donor] - taken) / warehouses).min(pull_max - taken);
            left[donor] -= taken + share;
            brought[want.home] += share;
            missing -= taken;
            add(&mut plan.pulls, Pull { source: donor, destination: want.home, units: taken + share });
        }
        plan.is_served.push(true);
    }
    // A script call takes so many at the most.
    plan.pulls.iter_mut().for_each(|pull| pull.units = pull.units.min(pull_max));
    plan
}

fn add(pulls: &mut Vec<Pull>, pull: Pull) {
    let same = pulls.iter_mut().find(|p| (p.source, p.destination) == (pull.source, pull.destination));
    match same {
        Some(same) => same.units += pull.units,
        None => pulls.push(pull),
    }
}

/// What becomes of units that a source has set aside under the name of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferDecided {
    /// The units are granted to the destination now.
    Granted,
    /// Somebody finished this transfer before.
    Before,
    /// The name of the transfer was used for other units before: these are granted back to the source.
    Returned,
    /// The source has begun another epoch since: what it had set aside is void, and its rebuild frees the units.
    Void,
}

/// `epoch`: the one in which they were set aside; `now`: the one that Postgres has. `granted`: the units that were granted under
/// the same name before.
pub fn decide(epoch: Epoch, now: Option<Epoch>, moved: &[Serial], granted: Option<&[Serial]>) -> TransferDecided {
    if now != Some(epoch) {
        return TransferDecided::Void;
    }
    match granted {
        None => TransferDecided::Granted,
        Some(granted) if granted.len() == moved.len() && granted.iter().all(|serial| moved.contains(serial)) => {
            TransferDecided::Before
        }
        // The same call was executed twice, the second time after its transfer was over, and set other units aside.
        Some(_) => TransferDecided::Returned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(of: &[(usize, u32)]) -> Vec<Want> {
        of.iter().map(|(home, units)| Want { home: *home, units: *units }).collect()
    }

    fn planned(free: &[u32], of: &[(usize, u32)]) -> (Vec<(usize, usize, u32)>, Vec<bool>) {
        let free = free.iter().map(|free| Some(*free)).collect::<Vec<_>>();
        let plan = plan(&free, &wants(of), 1000);
        (plan.pulls.iter().map(|p| (p.source, p.destination, p.units)).collect(), plan.is_served)
    }

    #[test]
    fn one_plan_serves_all_homes() {
        // What lies at home needs no pull.
        assert_eq!(planned(&[1, 0], &[(0, 1)]), (vec![], vec![true]));
        // One by one near the end, to whoever came first.
        assert_eq!(
            planned(&[0, 2, 0], &[(0, 1), (2, 1), (0, 1)]),
            (vec![(1, 0, 1), (1, 2, 1)], vec![true, true, false])
        );
        // A share of what is left comes along, and serves the next.
        assert_eq!(planned(&[0, 101], &[(0, 1), (0, 3)]), (vec![(1, 0, 51)], vec![true, true]));
        // From several donors, the richest first.
        assert_eq!(planned(&[0, 1, 2], &[(0, 3)]), (vec![(2, 0, 2), (1, 0, 1)], vec![true]));
        // A claim is all or nothing, and takes nothing from the next where it is too large.
        assert_eq!(planned(&[0, 2], &[(0, 3), (0, 2)]), (vec![(1, 0, 2)], vec![false, true]));
        assert_eq!(planned(&[0, 0], &[(0, 1)]), (vec![], vec![false]));
    }

    #[test]
    fn a_warehouse_of_which_nothing_is_known_hides_no_other() {
        let found = plan(&[None, Some(0), Some(2)], &wants(&[(1, 1), (0, 1)]), 1000);
        assert_eq!(found.pulls, vec![Pull { source: 2, destination: 1, units: 1 }]);
        assert_eq!(found.is_served, vec![true, false], "a home of which nothing is known cannot be served");
    }

    #[test]
    fn nobody_is_promised_more_than_there_is() {
        let mut random = 12345_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % below
        };
        for _ in 0..2_000 {
            let warehouses = 1 + next(5) as usize;
            let free = (0..warehouses).map(|_| Some(next(8) as u32)).collect::<Vec<_>>();
            let of = (0..next(8)).map(|_| Want { home: next(warehouses as u64) as usize, units: 1 + next(4) as u32 });
            let of = of.collect::<Vec<_>>();
            let plan = plan(&free, &of, 3);
            let mut after = free.iter().map(|free| i64::from(free.unwrap())).collect::<Vec<_>>();
            for pull in &plan.pulls {
                assert_ne!(pull.source, pull.destination);
                after[pull.source] -= i64::from(pull.units);
            }
            assert!(after.iter().all(|left| *left >= 0), "{free:?} {of:?} {plan:?}");
            let served = of.iter().zip(&plan.is_served).filter(|(_, served)| **served);
            let promised = served.map(|(want, _)| u64::from(want.units)).sum::<u64>();
            assert!(promised <= free.iter().map(|free| u64::from(free.unwrap())).sum(), "{free:?} {of:?} {plan:?}");
        }
    }

    #[test]
    fn units_that_were_set_aside_are_granted_once() {
        let (one, other) = ([Serial(1), Serial(2)], [Serial(3)]);
        let cases = [
            (Some(Epoch(4)), None, TransferDecided::Granted),
            (Some(Epoch(4)), Some(&[Serial(2), Serial(1)][..]), TransferDecided::Before),
            (Some(Epoch(4)), Some(&other[..]), TransferDecided::Returned),
            (Some(Epoch(4)), Some(&one[..1]), TransferDecided::Returned),
            (Some(Epoch(5)), None, TransferDecided::Void),
            (Some(Epoch(5)), Some(&one[..]), TransferDecided::Void),
            (None, None, TransferDecided::Void),
        ];
        for (now, granted, decided) in cases {
            assert_eq!(decide(Epoch(4), now, &one, granted), decided, "{now:?} {granted:?}");
        }
    }
}
