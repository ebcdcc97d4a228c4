//! How a round of settlement goes through the claim logs, and how far their marks may move.
//!
//! 1. A round reads what stands behind the mark of each log, in the order of the log, as much as a round may hold.
//! 2. It deals the claims to lanes ([`lane_of`]). All claims of a buyer go to the same lane, so one log gives work to every lane.
//! 3. The lanes work at the same time. Each settles its own claims in their order, a bounded number in a transaction.
//! 4. A lane ends at the first claim that it does not know to be committed: the transaction failed, gave no answer, or is still
//!    to be searched for what is bad. Claims of a warehouse that has begun another epoch are left alone.
//! 5. When every lane has ended, what no lane can read is set aside, as far as the mark will pass it.
//! 6. Then the mark of each log moves, once: to the last entry before the first one that is still open ([`marks`]).
//!
//! Nobody reads again what lies behind a mark, so no lane moves one by itself: a lane that is ahead would move it over a gap, and
//! who died then would have lost what lies in the gap. What is committed above a gap comes again with the next round, and is known
//! by its id: as an order, whatever has become of it since, as rejected, or as set aside.

use std::collections::{BTreeMap, HashMap};

use super::drops::SaleDrop;
use super::ids::{BuyerId, Serial, StreamId, WarehouseId};

/// An entry of a claim log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPosition {
    pub warehouse: WarehouseId,
    pub entry: StreamId,
}

/// The lane that settles the claims of this buyer. The earlier claim of two is settled first, so that it is the later one which
/// finds the buyer's limit reached; and no two lanes choose the same place in a limit at the same time.
pub fn lane_of(drop: &SaleDrop, buyer: &BuyerId, lanes: usize) -> usize {
    lane_of_hash(drop.hash_of(buyer), drop.warehouses.len() as u64, lanes as u64) as usize
}

/// The remainder of the first division says the home: all buyers of one log have the same.
fn lane_of_hash(hash: u64, warehouses: u64, lanes: u64) -> u64 {
    hash / warehouses % lanes
}

/// How far the mark of each log may move, after a round that read `read`, each log in its order, and left `open`. A log whose
/// first entry is open is not in the answer.
pub fn marks(read: &[LogPosition], open: impl IntoIterator<Item = LogPosition>) -> BTreeMap<WarehouseId, StreamId> {
    let mut first_open: HashMap<WarehouseId, StreamId> = HashMap::new();
    for position in open {
        let first = first_open.entry(position.warehouse).or_insert(position.entry);
        *first = position.entry.min(*first);
    }
    let is_behind_the_gap =
        |position: &&LogPosition| first_open.get(&position.warehouse).is_none_or(|open| position.entry < *open);
    read.iter().filter(is_behind_the_gap).map(|position| (position.warehouse, position.entry)).collect()
}

/// Of the units that a claim names which was set aside, those that are still its own. Units that it held were kept from
/// everybody meanwhile. Of an entry that nobody could read nothing was held: as long as the epoch lasts in which it was
/// written, its units are in no warehouse all the same; the next one has put them on sale.
pub fn own_units(named: &[Serial], set_aside: &SetAside) -> Vec<Serial> {
    let is_own = |serial: &&Serial| match set_aside {
        SetAside::Claim { held } => held.contains(serial),
        SetAside::Entry { is_of_this_epoch } => *is_of_this_epoch,
    };
    named.iter().filter(is_own).copied().collect()
}

/// What was set aside, as far as its units go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetAside {
    /// A claim, and the units that have been held for it.
    Claim { held: Vec<Serial> },
    /// Bytes that nobody could read then.
    Entry { is_of_this_epoch: bool },
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// `a3`: the third entry in the log of warehouse a. `a0`: all of that log.
    fn positions(text: &str) -> Vec<LogPosition> {
        let position = |word: &str| {
            let (log, entry) = word.split_at(1);
            LogPosition {
                warehouse: WarehouseId(i32::from(log.as_bytes()[0])),
                entry: StreamId { ms: entry.parse().unwrap(), seq: 0 },
            }
        };
        text.split_whitespace().map(position).collect()
    }

    #[test]
    fn what_was_set_aside_owns_the_units_that_nobody_else_can_have() {
        let units = [Serial(1), Serial(2)];
        let cases = [
            ("both were held", SetAside::Claim { held: units.to_vec() }, vec![Serial(1), Serial(2)]),
            ("one was somebody's", SetAside::Claim { held: vec![Serial(2)] }, vec![Serial(2)]),
            ("both were somebody's", SetAside::Claim { held: Vec::new() }, vec![]),
            ("an entry of this epoch", SetAside::Entry { is_of_this_epoch: true }, vec![Serial(1), Serial(2)]),
            ("the warehouse was rebuilt", SetAside::Entry { is_of_this_epoch: false }, vec![]),
        ];
        for (what, set_aside, expected) in cases {
            assert_eq!(own_units(&units, &set_aside), expected, "{what}");
        }
    }

    #[test]
    fn a_mark_moves_to_the_end_of_the_unbroken_run_and_never_over_a_gap() {
        let cases = [
            ("nothing was read", "", "", ""),
            ("everything is committed", "a1 a2 a3", "", "a3"),
            ("the lane behind failed, the one ahead is through", "a1 a2 a3 a4", "a1", ""),
            ("a lane failed in the middle, the other is through", "a1 a2 a3 a4", "a3", "a2"),
            ("a lane failed, and never came to what follows", "a1 a2 a3 a4", "a4 a2 a3", "a1"),
            ("both lanes failed, the older gap counts", "a1 a2 a3 a4", "a4 a3", "a2"),
            ("only the last entry is open", "a1 a2", "a2", "a1"),
            ("a gap in one log holds up no other", "a1 a2 b1 b2 c5", "a2 c5", "a1 b2"),
            ("the warehouse has begun another epoch", "a1 a2 b1", "a0", "b1"),
            ("what is open was not read", "a1", "b1", "a1"),
        ];
        for (case, read, open, expected) in cases {
            let expected = positions(expected).into_iter().map(|position| (position.warehouse, position.entry));
            assert_eq!(marks(&positions(read), positions(open)), expected.collect(), "{case}");
        }
    }

    proptest! {
        /// Whatever lanes the claims of a log are dealt to and wherever each lane ends: behind the mark nothing is open, and the
        /// entry after it is.
        #[test]
        fn no_claim_that_is_open_lies_behind_a_mark(
            lanes in prop::collection::vec(0_usize..3, 0..40),
            per_entry in 1_usize..4,
            ends in prop::array::uniform3(0_usize..20),
        ) {
            let entry_of = |claim: usize| StreamId { ms: (claim / per_entry) as u64 + 1, seq: 0 };
            let at = |claim: usize| LogPosition { warehouse: WarehouseId(1), entry: entry_of(claim) };
            let open = (0..lanes.len()).filter(|claim| {
                let before = lanes[..*claim].iter().filter(|lane| **lane == lanes[*claim]).count();
                before >= ends[lanes[*claim]]
            });
            let open = open.map(at).collect::<Vec<_>>();
            let mut read = (0..lanes.len()).map(at).collect::<Vec<_>>();
            read.dedup();
            let mark = marks(&read, open.iter().copied()).get(&WarehouseId(1)).copied().unwrap_or(StreamId::ZERO);
            prop_assert!(open.iter().all(|open| open.entry > mark));
            let open = open.iter().map(|open| open.entry.ms).collect::<HashSet<_>>();
            let next = read.iter().find(|position| position.entry > mark);
            prop_assert!(next.is_none_or(|next| open.contains(&next.entry.ms)));
        }
    }

    #[test]
    fn the_buyers_of_one_warehouse_are_shared_out_to_all_lanes() {
        for (warehouses, lanes) in [(1, 1), (1, 2), (2, 2), (16, 2), (3, 3)] {
            let hashes = (0..20_000_u64).map(|who| xxhash_rust::xxh3::xxh3_64(&who.to_be_bytes()));
            let mut each = vec![0_usize; lanes as usize];
            for hash in hashes.filter(|hash| hash % warehouses == 0) {
                each[lane_of_hash(hash, warehouses, lanes) as usize] += 1;
            }
            let fair = each.iter().sum::<usize>() / each.len();
            assert!(each.iter().all(|count| count.abs_diff(fair) < fair / 5), "{warehouses}, {lanes}: {each:?}");
        }
    }
}
