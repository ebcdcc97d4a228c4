//! Rounds: who of a line is next, and what a round gives them. The worker and the verifier decide by the same
//! [`Allocation`].
//!
//! A round has a snapshot of the units that are free, and gives them in this order:
//!
//! 1. Who was passed over before stands by, and goes first, in the order of the ranks. They do not count in the pace.
//! 2. Then the next `per_round` ranks. Each is decided once; who gets nothing is passed over and stands by from then
//!    on.
//!
//! Everybody gets the first of their choices of which enough units are free and which costs no more than they accepted.
//! Once nothing is free, all later ranks stand by at once, without a step for each.
//!
//! A round goes in chunks: the caller asks for [`Allocation::candidates`], reads what stands against each of them under
//! its locks, and has them decided. How large the chunks are changes nothing in what is given. A million who stand by
//! cost nothing as long as nothing is free that covers their wishes: they are listed by variant and quantity.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::domain::claims::Quantity;
use crate::domain::drops::{MAX_BUYER_LIMIT, MAX_VARIANTS};
use crate::domain::ids::VariantNumber;

/// A place in the order of a line, from 0.
pub type Rank = u32;

/// Choices that one wish may have.
pub const MAX_CHOICES: usize = 3;

/// One to three different variants, the one they like best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Choices {
    count: u8,
    numbers: [u8; MAX_CHOICES],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an entry names 1 to {MAX_CHOICES} different variants of the drop")]
pub struct InvalidChoices;

impl Choices {
    pub fn new(variants: &[VariantNumber]) -> Result<Self, InvalidChoices> {
        let is_known = |variant: &VariantNumber| usize::from(variant.0) < MAX_VARIANTS;
        let is_twice = (1..variants.len()).any(|at| variants[..at].contains(&variants[at]));
        if variants.is_empty() || variants.len() > MAX_CHOICES || is_twice || !variants.iter().all(is_known) {
            return Err(InvalidChoices);
        }
        let mut numbers = [0; MAX_CHOICES];
        for (number, variant) in numbers.iter_mut().zip(variants) {
            *number = variant.0;
        }
        Ok(Self { count: variants.len() as u8, numbers })
    }

    pub fn iter(&self) -> impl Iterator<Item = VariantNumber> + use<> {
        self.numbers.into_iter().take(usize::from(self.count)).map(VariantNumber)
    }

    /// As they stand in a leaf: one byte each.
    pub fn as_bytes(&self) -> &[u8] {
        &self.numbers[..usize::from(self.count)]
    }
}

impl Serialize for Choices {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.as_bytes())
    }
}

impl<'de> Deserialize<'de> for Choices {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let numbers = Vec::<u8>::deserialize(deserializer)?;
        let numbers = numbers.into_iter().map(VariantNumber).collect::<Vec<_>>();
        Self::new(&numbers).map_err(serde::de::Error::custom)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wish {
    pub quantity: Quantity,
    pub choices: Choices,
}

/// Why a rank cannot be given anything. The list is fixed: it stands in the rules that a line publishes when it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bar {
    /// They left the line.
    Left,
    /// Another entry with the same card stands for this one.
    Merged,
    /// They have been given something before.
    Awarded,
    /// With the units they hold already it would be more than a buyer may have.
    OverLimit,
}

impl Bar {
    pub const ALL: [Self; 4] = [Self::Left, Self::Merged, Self::Awarded, Self::OverLimit];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Merged => "merged",
            Self::Awarded => "awarded",
            Self::OverLimit => "over_limit",
        }
    }

    /// It will never be given anything. A limit may be free again later.
    pub fn is_for_good(self) -> bool {
        self != Self::OverLimit
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a rank is barred as left, merged, awarded or over_limit")]
pub struct UnknownBar;

impl FromStr for Bar {
    type Err = UnknownBar;

    fn from_str(text: &str) -> Result<Self, UnknownBar> {
        Self::ALL.into_iter().find(|bar| bar.as_str() == text).ok_or(UnknownBar)
    }
}

/// What was read about a rank under its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub rank: Rank,
    pub bar: Option<Bar>,
    /// Bit i: choice i costs more than its buyer accepted.
    pub dearer: u8,
}

impl Facts {
    /// Nothing stands against it.
    pub fn usual(rank: Rank) -> Self {
        Self { rank, bar: None, dearer: 0 }
    }

    pub fn is_usual(&self) -> bool {
        self.bar.is_none() && self.dearer == 0
    }

    pub fn is_dearer(&self, choice: usize) -> bool {
        self.dearer.checked_shr(choice as u32).is_some_and(|bits| bits & 1 == 1)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// `choice` counts from 0.
    Awarded {
        choice: u8,
        variant: VariantNumber,
    },
    PassedOver,
    Barred(Bar),
}

/// Free units by variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "Vec<u32>")]
pub struct Free([u32; MAX_VARIANTS]);

impl Free {
    pub fn of(&self, variant: VariantNumber) -> u32 {
        self.0.get(usize::from(variant.0)).copied().unwrap_or_default()
    }

    pub fn is_nothing(&self) -> bool {
        self.0.iter().all(|units| *units == 0)
    }

    pub fn covers(&self, variant: VariantNumber, quantity: Quantity) -> bool {
        self.of(variant) >= quantity.units()
    }

    /// Takes units that [`Free::covers`] says are there.
    fn take(&mut self, variant: VariantNumber, quantity: Quantity) {
        self.0[usize::from(variant.0)] -= quantity.units();
    }

    #[must_use]
    pub fn with(mut self, more: &Self) -> Self {
        for (units, more) in self.0.iter_mut().zip(more.0) {
            *units = units.saturating_add(more);
        }
        self
    }

    /// `None`: there are not so many.
    pub fn without(mut self, fewer: &Self) -> Option<Self> {
        for (units, fewer) in self.0.iter_mut().zip(fewer.0) {
            *units = units.checked_sub(fewer)?;
        }
        Some(self)
    }

    /// By variant number, up to the last variant of which something is free.
    pub fn units(&self) -> &[u32] {
        let count = self.0.iter().rposition(|units| *units > 0).map_or(0, |last| last + 1);
        &self.0[..count]
    }
}

/// Units of the same variant add up. A drop has no variant behind the last number; units of one are not counted.
impl FromIterator<(VariantNumber, u32)> for Free {
    fn from_iter<I: IntoIterator<Item = (VariantNumber, u32)>>(units: I) -> Self {
        let mut free = Self::default();
        for (variant, more) in units {
            if let Some(units) = free.0.get_mut(usize::from(variant.0)) {
                *units = units.saturating_add(more);
            }
        }
        free
    }
}

impl Serialize for Free {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.units().serialize(serializer)
    }
}

impl TryFrom<Vec<u32>> for Free {
    type Error = &'static str;

    fn try_from(units: Vec<u32>) -> Result<Self, Self::Error> {
        if units.len() > MAX_VARIANTS {
            return Err("a drop has at most 32 variants");
        }
        Ok((0_u8..).map(VariantNumber).zip(units).collect())
    }
}

/// Whom a round serves at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Those who stand by. `after`: the last one who was decided in this round.
    StandingBy { after: Option<Rank> },
    /// The ranks that no round has decided yet.
    Next,
}

/// Where an allocation stands: with the wishes, and who still stands by, all that [`Allocation::resume`] needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub phase: Phase,
    /// Ranks below have been decided.
    pub served: Rank,
    pub end_of_round: Rank,
    /// What is left of the round's units.
    pub free: Free,
}

/// The facts are not those of [`Allocation::candidates`], in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a chunk must be decided with the facts of its candidates, in their order")]
pub struct WrongFacts;

/// A line while its rounds run. It is thrown away when a transaction fails, and resumed from what is stored.
#[derive(Debug, Clone)]
pub struct Allocation {
    wishes: Vec<Wish>,
    position: Position,
    /// By rank: was decided, got nothing, and may get something yet.
    stands_by: Vec<bool>,
    /// Ranks that stand by, in their order, by variant and quantity. Those who stand by no longer are removed later.
    waiting: Vec<Vec<Rank>>,
    listed: usize,
    gone: usize,
}

fn list_of(variant: VariantNumber, quantity: u32) -> usize {
    usize::from(variant.0) * MAX_BUYER_LIMIT as usize + quantity as usize - 1
}

impl Allocation {
    /// A line of which nobody has been decided.
    pub fn new(wishes: Vec<Wish>) -> Self {
        let position = Position { phase: Phase::Next, served: 0, end_of_round: 0, free: Free::default() };
        Self::resume(wishes, |_| false, position)
    }

    /// Goes on where a worker stood. `stands_by` says it of each rank below `position.served`.
    pub fn resume(wishes: Vec<Wish>, stands_by: impl Fn(Rank) -> bool, position: Position) -> Self {
        let stands = vec![false; wishes.len()];
        let waiting = vec![Vec::new(); MAX_VARIANTS * MAX_BUYER_LIMIT as usize];
        let mut allocation = Self { wishes, position, stands_by: stands, waiting, listed: 0, gone: 0 };
        for rank in (0..position.served.min(allocation.count())).filter(|rank| stands_by(*rank)) {
            allocation.let_stand_by(rank);
        }
        allocation
    }

    /// One more at the end of the line.
    pub fn push(&mut self, wish: Wish) -> Rank {
        self.wishes.push(wish);
        self.stands_by.push(false);
        self.count() - 1
    }

    pub fn count(&self) -> Rank {
        Rank::try_from(self.wishes.len()).expect("a line has at most five million entries")
    }

    pub fn wish(&self, rank: Rank) -> Option<&Wish> {
        self.wishes.get(rank as usize)
    }

    pub fn position(&self) -> Position {
        self.position
    }

    /// Who stands by, by rank, with what they like best: at most so many of each variant.
    pub fn standing_by(&self, most: usize) -> Vec<(Rank, VariantNumber)> {
        let mut places = [0_usize; MAX_VARIANTS];
        let ranks = (0..self.position.served).filter(|rank| self.stands_by(*rank));
        let wanted = ranks.filter_map(|rank| Some((rank, self.wish(rank)?.choices.iter().next()?)));
        wanted
            .filter(|(_, variant)| {
                let taken = &mut places[usize::from(variant.0)];
                *taken += 1;
                *taken <= most
            })
            .collect()
    }

    pub fn stands_by(&self, rank: Rank) -> bool {
        self.stands_by.get(rank as usize).copied().unwrap_or_default()
    }

    /// Begins a round. What becomes free after the snapshot belongs to the next one.
    pub fn begin_round(&mut self, free: Free, per_round: u32) {
        let served = self.position.served;
        let end_of_round = served.saturating_add(per_round).min(self.count());
        self.position = Position { phase: Phase::StandingBy { after: None }, served, end_of_round, free };
        // Who has gone is passed by once more in every round, until so many have gone that tidying up costs less.
        if self.gone * 4 > self.listed {
            let stands_by = &self.stands_by;
            self.waiting.iter_mut().for_each(|list| list.retain(|rank| stands_by[*rank as usize]));
            self.listed = self.waiting.iter().map(Vec::len).sum();
            self.gone = 0;
        }
        self.end_if_nothing_is_free();
        self.end_if_over();
    }

    /// The next to be decided, in their order, at most `max`: fewer first are the same ones. Nobody: the round has
    /// ended.
    pub fn candidates(&self, max: usize) -> Vec<Rank> {
        let Position { phase, served, end_of_round, .. } = self.position;
        if let Phase::StandingBy { after } = phase {
            let first = self.candidates_standing_by(after.map_or(0, |rank| rank + 1), max);
            if !first.is_empty() {
                return first;
            }
        }
        (served..end_of_round).take(max).collect()
    }

    pub fn is_round_over(&self) -> bool {
        self.candidates(1).is_empty()
    }

    /// Decides the next candidates. `Err` if the facts are about anybody else; then nothing has changed.
    pub fn decide(&mut self, facts: &[Facts]) -> Result<Vec<(Rank, Outcome)>, WrongFacts> {
        if !self.candidates(facts.len()).into_iter().eq(facts.iter().map(|facts| facts.rank)) {
            return Err(WrongFacts);
        }
        let outcomes = facts.iter().map(|facts| (facts.rank, self.decide_one(facts))).collect();
        self.end_if_nothing_is_free();
        self.end_if_over();
        Ok(outcomes)
    }

    fn decide_one(&mut self, facts: &Facts) -> Outcome {
        let outcome = outcome_of(&self.wishes[facts.rank as usize], facts, &self.position.free);
        if let Outcome::Awarded { variant, .. } = outcome {
            self.position.free.take(variant, self.wishes[facts.rank as usize].quantity);
        }
        let has_gone = match outcome {
            Outcome::Awarded { .. } => true,
            Outcome::Barred(bar) => bar.is_for_good(),
            Outcome::PassedOver => false,
        };
        if facts.rank < self.position.served {
            self.position.phase = Phase::StandingBy { after: Some(facts.rank) };
            if has_gone {
                self.stands_by[facts.rank as usize] = false;
                self.gone += self.wishes[facts.rank as usize].choices.iter().count();
            }
        } else {
            self.position.phase = Phase::Next;
            self.position.served = facts.rank + 1;
            if !has_gone {
                self.let_stand_by(facts.rank);
            }
        }
        outcome
    }

    /// With nothing left to give, everybody who has not been decided stands by.
    fn end_if_nothing_is_free(&mut self) {
        if self.position.free.is_nothing() {
            for rank in self.position.served..self.count() {
                self.let_stand_by(rank);
            }
            let all = self.count();
            self.position = Position { phase: Phase::Next, served: all, end_of_round: all, ..self.position };
        }
    }

    /// Once nobody who stands by can be given anything and no further rank is due, the round is with nobody.
    fn end_if_over(&mut self) {
        if self.is_round_over() {
            self.position.phase = Phase::Next;
        }
    }

    /// Ranks come here in their order, so the lists are sorted.
    fn let_stand_by(&mut self, rank: Rank) {
        let Wish { quantity, choices } = self.wishes[rank as usize];
        self.stands_by[rank as usize] = true;
        for variant in choices.iter() {
            self.waiting[list_of(variant, quantity.units())].push(rank);
            self.listed += 1;
        }
    }

    /// Free units only fall while a chunk is decided, so nobody else of those who stand by can get anything in it.
    fn candidates_standing_by(&self, from: Rank, max: usize) -> Vec<Rank> {
        let next = |list: usize, at: usize| {
            let ranks = &self.waiting[list][at..];
            let skipped = ranks.iter().position(|rank| self.stands_by[*rank as usize])?;
            Some(Reverse((ranks[skipped], list, at + skipped)))
        };
        let mut heads = BinaryHeap::new();
        for variant in (0..MAX_VARIANTS as u8).map(VariantNumber) {
            for quantity in 1..=self.position.free.of(variant).min(MAX_BUYER_LIMIT) {
                let list = list_of(variant, quantity);
                heads.extend(next(list, self.waiting[list].partition_point(|rank| *rank < from)));
            }
        }
        let mut found = Vec::new();
        while let Some(Reverse((rank, list, at))) = heads.pop() {
            // A rank stands in a list for each of its choices.
            if found.last() != Some(&rank) {
                if found.len() == max {
                    break;
                }
                found.push(rank);
            }
            heads.extend(next(list, at + 1));
        }
        found
    }
}

fn outcome_of(wish: &Wish, facts: &Facts, free: &Free) -> Outcome {
    if let Some(bar) = facts.bar {
        return Outcome::Barred(bar);
    }
    let mut choices = (0_u8..).zip(wish.choices.iter());
    let given = choices
        .find(|(choice, variant)| free.covers(*variant, wish.quantity) && !facts.is_dearer(usize::from(*choice)));
    given.map_or(Outcome::PassedOver, |(choice, variant)| Outcome::Awarded { choice, variant })
}

/// The most rounds that pass until a rank is decided, counted from the first one.
pub fn bound(rank: Rank, per_round: u32) -> u32 {
    rounds_left(rank, 0, per_round)
}

/// The same when the ranks below `served` have been decided. It falls by one with every round at least, and never
/// rises.
pub fn rounds_left(rank: Rank, served: Rank, per_round: u32) -> u32 {
    let ranks = (u64::from(rank) + 1).saturating_sub(u64::from(served));
    u32::try_from(ranks.div_ceil(u64::from(per_round.max(1)))).unwrap_or(u32::MAX)
}

/// One round as it was, for the audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastRound {
    pub free: Free,
    /// In the order in which they were decided.
    pub steps: Vec<(Facts, Outcome)>,
}

/// `given` got units that `before`, with the lower rank, wanted and could have had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inversion {
    pub round: usize,
    pub variant: VariantNumber,
    pub before: Rank,
    pub given: Rank,
}

/// Every award at which an earlier rank could have had that variant: it had neither left nor been merged, awarded or
/// over its limit, accepted the price, and wanted no more units than were free at that step. It does not ask by which
/// rule the awards were made, so it tells of a mistake in [`Allocation`] too. Of an earlier rank that a round did not
/// look at, nothing is known against it.
pub fn inversions(wishes: &[Wish], rounds: &[PastRound]) -> Vec<Inversion> {
    let mut lists = vec![Vec::new(); MAX_VARIANTS * MAX_BUYER_LIMIT as usize];
    for (rank, wish) in (0..).zip(wishes) {
        for variant in wish.choices.iter() {
            lists[list_of(variant, wish.quantity.units())].push(rank);
        }
    }
    let mut gone = vec![false; wishes.len()];
    let mut heads_for_good = vec![0; lists.len()];
    let mut found = Vec::new();
    for (number, round) in rounds.iter().enumerate() {
        let facts: HashMap<Rank, &Facts> =
            round.steps.iter().filter(|(facts, _)| !facts.is_usual()).map(|(facts, _)| (facts.rank, facts)).collect();
        for facts in facts.values().filter(|facts| facts.bar.is_some_and(Bar::is_for_good)) {
            gone[facts.rank as usize] = true;
        }
        let could_have = |rank: Rank, variant: VariantNumber| {
            facts.get(&rank).is_none_or(|facts| {
                let choice = wishes[rank as usize].choices.iter().position(|choice| choice == variant);
                facts.bar.is_none() && choice.is_some_and(|choice| !facts.is_dearer(choice))
            })
        };
        for (head, list) in heads_for_good.iter_mut().zip(&lists) {
            while list.get(*head).is_some_and(|rank| gone[*rank as usize]) {
                *head += 1;
            }
        }
        // Within a round a rank only ever drops out, so these only move on.
        let mut heads = heads_for_good.clone();
        let mut free = round.free;
        for (facts, outcome) in &round.steps {
            let Outcome::Awarded { variant, .. } = *outcome else { continue };
            gone[facts.rank as usize] = true;
            for quantity in 1..=free.of(variant).min(MAX_BUYER_LIMIT) {
                let list = list_of(variant, quantity);
                let head = &mut heads[list];
                let has_dropped_out = |rank: &Rank| gone[*rank as usize] || !could_have(*rank, variant);
                while lists[list].get(*head).is_some_and(has_dropped_out) {
                    *head += 1;
                }
                if let Some(before) = lists[list].get(*head).copied().filter(|before| *before < facts.rank) {
                    found.push(Inversion { round: number, variant, before, given: facts.rank });
                    break;
                }
            }
            let units = wishes[facts.rank as usize].quantity.units();
            let left = free.of(variant).saturating_sub(units);
            free.0[usize::from(variant.0)] = left;
        }
    }
    found
}

/// Who still waits at the close, though what is free would have covered a choice of theirs. `standing` is what is known
/// of everybody who has been given nothing.
pub fn in_vain<'a>(wishes: &'a [Wish], standing: &'a [Facts], free: &'a Free) -> impl Iterator<Item = Rank> + 'a {
    let could_have = |facts: &&Facts| {
        let wish = wishes.get(facts.rank as usize);
        wish.is_some_and(|wish| matches!(outcome_of(wish, facts, free), Outcome::Awarded { .. }))
    };
    standing.iter().filter(could_have).map(|facts| facts.rank)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wish(quantity: i64, choices: &[u8]) -> Wish {
        let choices = choices.iter().copied().map(VariantNumber).collect::<Vec<_>>();
        Wish { quantity: Quantity::new(quantity).unwrap(), choices: Choices::new(&choices).unwrap() }
    }

    fn free(units: &[u32]) -> Free {
        Free::try_from(units.to_vec()).unwrap()
    }

    /// Runs what is left of a round; answers who was given what, with the number of the choice.
    fn run(line: &mut Allocation, chunk: usize, facts: impl Fn(Rank) -> Facts) -> Vec<(Rank, u8)> {
        let mut awards = Vec::new();
        while !line.is_round_over() {
            let facts = line.candidates(chunk).into_iter().map(&facts).collect::<Vec<_>>();
            awards.extend(line.decide(&facts).unwrap().into_iter().filter_map(award));
        }
        awards
    }

    fn award((rank, outcome): (Rank, Outcome)) -> Option<(Rank, u8)> {
        match outcome {
            Outcome::Awarded { choice, .. } => Some((rank, choice)),
            _ => None,
        }
    }

    #[test]
    fn choices_are_one_to_three_different_variants() {
        let choices = |numbers: &[u8]| Choices::new(&numbers.iter().copied().map(VariantNumber).collect::<Vec<_>>());
        for bad in [&[][..], &[1, 1], &[1, 2, 1], &[1, 2, 3, 4], &[32]] {
            assert_eq!(choices(bad), Err(InvalidChoices), "{bad:?}");
        }
        assert_eq!(choices(&[31, 0, 5]).unwrap().as_bytes(), [31, 0, 5]);
        assert_eq!(size_of::<Choices>(), 4);
    }

    #[test]
    fn texts_of_bars_are_as_published() {
        for bar in Bar::ALL {
            assert_eq!(bar.as_str().parse(), Ok(bar));
            assert_eq!(serde_json::to_value(bar).unwrap(), bar.as_str());
        }
    }

    #[test]
    fn a_rank_is_given_the_first_choice_that_is_free_and_no_dearer_than_it_accepted() {
        let cases = [
            (
                "the first is free",
                wish(1, &[0, 1]),
                [5, 5],
                None,
                0b00,
                Outcome::Awarded { choice: 0, variant: VariantNumber(0) },
            ),
            (
                "the first is short",
                wish(2, &[0, 1]),
                [1, 2],
                None,
                0b00,
                Outcome::Awarded { choice: 1, variant: VariantNumber(1) },
            ),
            (
                "the first is dearer",
                wish(1, &[1, 0]),
                [5, 5],
                None,
                0b01,
                Outcome::Awarded { choice: 1, variant: VariantNumber(0) },
            ),
            ("both are dearer", wish(1, &[0, 1]), [5, 5], None, 0b11, Outcome::PassedOver),
            ("both are short", wish(3, &[0, 1]), [2, 2], None, 0b00, Outcome::PassedOver),
            ("they left", wish(1, &[0]), [5, 5], Some(Bar::Left), 0b00, Outcome::Barred(Bar::Left)),
        ];
        for (what, wish, units, bar, dearer, expected) in cases {
            let mut line = Allocation::new(vec![wish]);
            line.begin_round(free(&units), 1);
            assert_eq!(line.decide(&[Facts { rank: 0, bar, dearer }]).unwrap(), [(0, expected)], "{what}");
            let stands_by = expected == Outcome::PassedOver;
            assert_eq!(line.stands_by(0), stands_by, "{what}");
        }
    }

    #[test]
    fn returned_units_go_to_those_passed_over_and_take_nobody_from_the_pace() {
        let mut line = Allocation::new(vec![wish(1, &[0]); 10]);
        line.begin_round(free(&[1]), 3);
        // Nothing is left after the first: everybody else stands by at once.
        assert_eq!(run(&mut line, 2, Facts::usual), [(0, 0)]);
        assert_eq!(line.position().served, 10);
        line.push(wish(1, &[0]));
        line.begin_round(free(&[2]), 3);
        assert_eq!(run(&mut line, 100, Facts::usual), [(1, 0), (2, 0)]);

        let mut line = Allocation::new(vec![wish(2, &[0]), wish(1, &[0]), wish(1, &[1]), wish(1, &[1])]);
        line.begin_round(free(&[1, 9]), 1);
        assert_eq!(run(&mut line, 9, Facts::usual), []);
        line.begin_round(free(&[2, 9]), 2);
        assert_eq!(run(&mut line, 9, Facts::usual), [(0, 0), (2, 0)]);
        assert_eq!(line.position().served, 3, "the returned units took nobody's place in the round");
    }

    #[test]
    fn a_limit_may_be_free_again_and_whoever_left_is_gone_for_good() {
        for (bar, may_have_it_later) in
            [(Bar::OverLimit, true), (Bar::Left, false), (Bar::Merged, false), (Bar::Awarded, false)]
        {
            let barred = |rank| Facts { bar: Some(bar), ..Facts::usual(rank) };
            let mut line = Allocation::new(vec![wish(1, &[0])]);
            line.begin_round(free(&[1]), 1);
            run(&mut line, 1, barred);
            assert_eq!(line.stands_by(0), may_have_it_later, "{bar:?}");
            let mut line = Allocation::new(vec![wish(2, &[0])]);
            line.begin_round(free(&[1]), 1);
            run(&mut line, 1, Facts::usual);
            line.begin_round(free(&[2]), 1);
            run(&mut line, 1, barred);
            assert_eq!(line.stands_by(0), may_have_it_later, "{bar:?}");
            line.begin_round(free(&[2]), 1);
            assert_eq!(run(&mut line, 1, Facts::usual).len(), usize::from(may_have_it_later), "{bar:?}");
        }
    }

    #[test]
    fn facts_about_anybody_else_decide_nothing() {
        let mut line = Allocation::new(vec![wish(1, &[0]); 3]);
        line.begin_round(free(&[9]), 2);
        let before = line.position();
        for wrong in [&[1][..], &[1, 0], &[0, 1, 2], &[0, 0]] {
            let facts = wrong.iter().copied().map(Facts::usual).collect::<Vec<_>>();
            assert_eq!(line.decide(&facts), Err(WrongFacts), "{wrong:?}");
            assert_eq!(line.position(), before);
        }
        assert_eq!(line.decide(&[]), Ok(Vec::new()));
        assert!(!line.is_round_over());
    }

    #[test]
    fn a_position_is_stored_as_text_and_read_again() {
        let mut line = Allocation::new(vec![wish(1, &[0, 2]); 5]);
        line.begin_round(free(&[0, 0, 3]), 4);
        line.decide(&[Facts::usual(0)]).unwrap();
        let text = serde_json::to_string(&line.position()).unwrap();
        assert_eq!(text, r#"{"phase":"next","served":1,"end_of_round":4,"free":[0,0,2]}"#);
        assert_eq!(serde_json::from_str::<Position>(&text).unwrap(), line.position());
    }

    #[test]
    fn free_units_are_those_of_variants_that_a_drop_can_have() {
        assert!(Free::try_from(vec![1; MAX_VARIANTS + 1]).is_err());
        let most = Free::try_from(vec![1; MAX_VARIANTS]).unwrap();
        assert_eq!((most.of(VariantNumber(31)), most.of(VariantNumber(32))), (1, 0));
        assert_eq!(Free::from_iter([(VariantNumber(0), 1), (VariantNumber(32), 5), (VariantNumber(0), 2)]), free(&[3]));
        assert_eq!(free(&[3, 1]).without(&free(&[2])), Some(free(&[1, 1])));
        assert_eq!(free(&[3, 1]).without(&free(&[0, 2])), None);
    }

    #[test]
    fn the_bound_of_a_rank_is_the_round_that_decides_it() {
        for (rank, per_round, expected) in [(0, 1, 1), (0, 10, 1), (9, 10, 1), (10, 10, 2), (Rank::MAX, 1, u32::MAX)] {
            assert_eq!(bound(rank, per_round), expected, "{rank} at {per_round}");
        }
        assert_eq!(rounds_left(10, 5, 3), 2);
        assert_eq!(rounds_left(10, 11, 3), 0);
    }

    #[test]
    fn an_inversion_is_an_award_that_an_earlier_rank_could_have_had() {
        let given =
            |rank, choice, variant| (Facts::usual(rank), Outcome::Awarded { choice, variant: VariantNumber(variant) });
        let over = |rank| (Facts::usual(rank), Outcome::PassedOver);
        let against = |rank, bar, dearer| (Facts { rank, bar, dearer }, Outcome::PassedOver);
        let cases = [
            ("in order", vec![given(0, 0, 0), given(1, 0, 0)], None),
            ("the first was not looked at", vec![given(1, 0, 0)], Some((0, 1))),
            ("the first was passed over", vec![over(0), given(1, 0, 0)], Some((0, 1))),
            ("the first comes later", vec![given(1, 0, 0), given(0, 0, 0)], Some((0, 1))),
            ("the first left", vec![against(0, Some(Bar::Left), 0), given(1, 0, 0)], None),
            ("the first did not accept the price", vec![against(0, None, 1), given(1, 0, 0)], None),
            ("the first accepted this price", vec![against(0, None, 2), given(1, 0, 0)], Some((0, 1))),
            ("the first was over the limit", vec![against(0, Some(Bar::OverLimit), 0), given(1, 0, 0)], None),
            ("the first wants something else", vec![over(0), given(2, 0, 1)], None),
            ("the first wants more than is free", vec![given(1, 0, 0), over(0), given(3, 0, 0)], None),
        ];
        let wishes = [wish(2, &[0]), wish(1, &[0]), wish(1, &[1]), wish(1, &[0])];
        for (what, steps, expected) in cases {
            let units = if what.contains("more than is free") { [1, 2] } else { [3, 3] };
            let rounds = [PastRound { free: free(&units), steps }];
            let found = inversions(&wishes, &rounds);
            assert_eq!(found.first().map(|found| (found.before, found.given)), expected, "{what}");
        }
    }

    #[test]
    fn nobody_who_could_have_had_what_is_free_waits_in_vain() {
        let wishes = [wish(2, &[0]), wish(1, &[1, 0]), wish(1, &[1]), wish(1, &[0])];
        let standing = [
            Facts::usual(0),
            Facts { dearer: 0b01, ..Facts::usual(1) },
            Facts::usual(2),
            Facts { bar: Some(Bar::OverLimit), ..Facts::usual(3) },
        ];
        assert_eq!(in_vain(&wishes, &standing, &free(&[1])).collect::<Vec<_>>(), [1]);
        assert_eq!(in_vain(&wishes, &standing, &free(&[])).count(), 0);
    }

    /// The rule as the top of this file has it, without lists, cursors or chunks.
    struct Slow {
        wishes: Vec<Wish>,
        served: usize,
        stands_by: Vec<bool>,
    }

    impl Slow {
        fn round(&mut self, mut free: Free, per_round: u32, facts: impl Fn(Rank) -> Facts) -> PastRound {
            let mut round = PastRound { free, steps: Vec::new() };
            let end = (self.served + per_round as usize).min(self.wishes.len());
            let standing = (0..self.served).filter(|rank| self.stands_by[*rank]);
            for rank in standing.chain(self.served..end).collect::<Vec<_>>() {
                let facts = facts(rank as Rank);
                let wish = self.wishes[rank];
                let mut choices = (0_u8..).zip(wish.choices.iter());
                let choice = choices.find(|(choice, variant)| {
                    free.of(*variant) >= wish.quantity.units() && facts.dearer & (1 << choice) == 0
                });
                let outcome = match (facts.bar, choice) {
                    (Some(bar), _) => Outcome::Barred(bar),
                    (None, None) => Outcome::PassedOver,
                    (None, Some((choice, variant))) => {
                        free.0[usize::from(variant.0)] -= wish.quantity.units();
                        Outcome::Awarded { choice, variant }
                    }
                };
                self.stands_by[rank] = matches!(outcome, Outcome::PassedOver | Outcome::Barred(Bar::OverLimit));
                self.served = self.served.max(rank + 1);
                round.steps.push((facts, outcome));
            }
            if free.is_nothing() {
                (self.served..self.wishes.len()).for_each(|rank| self.stands_by[rank] = true);
                self.served = self.wishes.len();
            }
            round
        }
    }

    #[derive(Debug, Clone)]
    struct Plan {
        wishes: Vec<Wish>,
        joins: Vec<Vec<Wish>>,
        rounds: Vec<(Vec<u32>, u32)>,
        /// From which round on a rank has left, and in which rounds something else stands against it.
        left: Vec<u8>,
        against: Vec<u16>,
        chunk: usize,
    }

    impl Plan {
        fn facts(&self, round: usize, rank: Rank) -> Facts {
            let seed = self.against[(rank as usize * 7 + round * 3) % self.against.len()];
            let left = self.left[rank as usize % self.left.len()];
            let bar = if left < 10 && round >= usize::from(left) {
                Some(Bar::Left)
            } else if seed.is_multiple_of(16) {
                Some(Bar::OverLimit)
            } else {
                None
            };
            Facts { rank, bar, dearer: if seed.is_multiple_of(3) { (seed >> 4) as u8 & 0b111 } else { 0 } }
        }
    }

    fn wishes(most: usize) -> impl Strategy<Value = Vec<Wish>> {
        let choices = prop::sample::subsequence((0..4).map(VariantNumber).collect::<Vec<_>>(), 1..=3).prop_shuffle();
        let one = (1_i64..4, choices).prop_map(|(quantity, choices)| Wish {
            quantity: Quantity::new(quantity).unwrap(),
            choices: Choices::new(&choices).unwrap(),
        });
        prop::collection::vec(one, 0..most)
    }

    fn plans() -> impl Strategy<Value = Plan> {
        let units = prop::collection::vec(prop_oneof![2 => Just(0_u32), 3 => 0_u32..6], 4);
        let rounds = prop::collection::vec((units, 1_u32..12), 1..8);
        let joins = prop::collection::vec(wishes(4), 8);
        let (left, against) = (prop::collection::vec(0_u8..20, 5), prop::collection::vec(any::<u16>(), 11));
        (wishes(40), joins, rounds, left, against, 1_usize..9).prop_map(
            |(wishes, joins, rounds, left, against, chunk)| Plan { wishes, joins, rounds, left, against, chunk },
        )
    }

    fn awards(round: &PastRound) -> Vec<(Rank, u8)> {
        round.steps.iter().filter_map(|(facts, outcome)| award((facts.rank, *outcome))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        /// With any wishes, stock, bars, returns, later joins and chunks; and a worker that dies after every chunk.
        #[test]
        fn rounds_give_what_the_rule_gives(plan in plans()) {
            let mut slow = Slow { wishes: plan.wishes.clone(), served: 0, stands_by: vec![false; plan.wishes.len()] };
            let mut line = Allocation::new(plan.wishes.clone());
            let mut past = Vec::new();
            for (number, (units, per_round)) in plan.rounds.iter().enumerate() {
                let facts = |rank| plan.facts(number, rank);
                let before = line.position().served;
                let expected = slow.round(free(units), *per_round, facts);
                line.begin_round(free(units), *per_round);
                let mut given = Vec::new();
                while !line.is_round_over() {
                    let position = line.position();
                    line = Allocation::resume(line.wishes.clone(), |rank| line.stands_by(rank), position);
                    prop_assert_eq!(line.position(), position);
                    let chunk = line.candidates(plan.chunk);
                    prop_assert!(chunk.len() <= plan.chunk);
                    let facts = chunk.into_iter().map(facts).collect::<Vec<_>>();
                    given.extend(line.decide(&facts).unwrap().into_iter().filter_map(award));
                }
                prop_assert_eq!(given, awards(&expected), "round {}", number);
                prop_assert_eq!(line.position().served as usize, slow.served);
                for rank in 0..line.count() {
                    // Who left and was not looked at still stands in the list, in one of the two perhaps.
                    if facts(rank).bar != Some(Bar::Left) {
                        prop_assert_eq!(line.stands_by(rank), slow.stands_by[rank as usize], "rank {}", rank);
                    }
                    let (then, now) = (rounds_left(rank, before, *per_round), rounds_left(rank, slow.served as u32, *per_round));
                    prop_assert!(now <= then.saturating_sub(1), "the wait of {} was {} and is {}", rank, then, now);
                }
                past.push(expected);
                for wish in &plan.joins[number] {
                    slow.wishes.push(*wish);
                    slow.stands_by.push(false);
                    line.push(*wish);
                }
            }
            prop_assert_eq!(inversions(&slow.wishes, &past), []);
        }

        /// Also without the interruptions, which build all lists anew.
        #[test]
        fn chunks_of_any_size_give_the_same(plan in plans()) {
            let (mut one, mut whole) = (Allocation::new(plan.wishes.clone()), Allocation::new(plan.wishes.clone()));
            for (number, (units, per_round)) in plan.rounds.iter().enumerate() {
                one.begin_round(free(units), *per_round);
                whole.begin_round(free(units), *per_round);
                let facts = |rank| plan.facts(number, rank);
                prop_assert_eq!(run(&mut one, plan.chunk, facts), run(&mut whole, usize::MAX, facts));
                let end = |line: &Allocation| (line.position().served, line.position().free);
                prop_assert_eq!(end(&one), end(&whole));
            }
        }
    }
}
