//! Entries of one card count once: otherwise twenty accounts with one card would have the best of twenty ranks. This is
//! done before the seal, so the sealed list has no such entries.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::hex::Digest;

/// Another entry, with a lower number, stands for this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merged {
    pub number: u32,
    pub into: u32,
}

/// Which of these entries are merged, by number. Each comes with the hash of its card's fingerprint, if it has a card.
/// Entries without one are left alone.
pub fn merge(entries: &[(u32, Option<Digest>)]) -> Vec<Merged> {
    let mut in_order = entries.to_vec();
    in_order.sort_unstable_by_key(|(number, _)| *number);
    let mut first = HashMap::new();
    let merged = in_order.into_iter().filter_map(|(number, card)| match first.entry(card?) {
        Entry::Vacant(vacant) => {
            vacant.insert(number);
            None
        }
        Entry::Occupied(first) => Some(Merged { number, into: *first.get() }),
    });
    merged.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::line::hex::Hex;

    #[test]
    fn the_first_entry_of_a_card_stays() {
        let card = |number: u8| Some(Hex([number; 32]));
        let cases = [
            ("nobody", vec![], vec![]),
            ("every card once", vec![(1, card(1)), (2, card(2))], vec![]),
            ("no cards", vec![(1, None), (2, None)], vec![]),
            (
                "one card thrice, not in order",
                vec![(9, card(1)), (3, card(2)), (4, card(1)), (6, card(1))],
                vec![(6, 4), (9, 4)],
            ),
        ];
        for (what, entries, expected) in cases {
            let expected = expected.into_iter().map(|(number, into)| Merged { number, into }).collect::<Vec<_>>();
            assert_eq!(merge(&entries), expected, "{what}");
        }
    }
}
