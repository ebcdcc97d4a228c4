//! Entries of one card count once: otherwise twenty accounts with one card would have the best of twenty ranks. This is
//! done before the seal, so the sealed list has no such entries.

use std::collections::HashMap;

use super::hex::Digest;

/// Another entry, with a lower number, stands for this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merged {
    pub number: u32,
    pub into: u32,
}

/// Which of these entries are merged, by number. Each comes with the hash of its card's fingerprint, if it has a card; once
/// more with each other card of its buyer. Entries without one are left alone. An entry that is merged holds its place no
/// more, so another card of its buyer stands for nobody else.
pub fn merge(entries: &[(u32, Option<Digest>)]) -> Vec<Merged> {
    let mut cards = entries.iter().filter_map(|(number, card)| Some((*number, (*card)?))).collect::<Vec<_>>();
    cards.sort_unstable_by_key(|(number, _)| *number);
    let mut first: HashMap<Digest, u32> = HashMap::new();
    let mut merged = Vec::new();
    for of_entry in cards.chunk_by(|(one, _), (other, _)| one == other) {
        let number = of_entry[0].0;
        match of_entry.iter().filter_map(|(_, card)| first.get(card)).min() {
            Some(into) => merged.push(Merged { number, into: *into }),
            None => first.extend(of_entry.iter().map(|(number, card)| (*card, *number))),
        }
    }
    merged
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
            ("a buyer who saved one card twice", vec![(1, card(1)), (1, card(1)), (2, card(2))], vec![]),
            (
                "two cards, of which two others have one each, and a third card that nobody had",
                vec![(1, card(1)), (2, card(2)), (3, card(2)), (3, card(1)), (3, card(3)), (4, card(3))],
                vec![(3, 1)],
            ),
        ];
        for (what, entries, expected) in cases {
            let expected = expected.into_iter().map(|(number, into)| Merged { number, into }).collect::<Vec<_>>();
            assert_eq!(merge(&entries), expected, "{what}");
        }
    }
}
