//! Everything there is of a line: Postgres, two workers with what they have in memory, and the buyers with what they
//! were told.

use super::guards::{Guard, Without};

pub(crate) const VARIANTS: usize = 2;
/// Ticks from the seal to the beacon's round.
pub(crate) const REVEAL_AFTER: u8 = 4;
/// The root is written down so many ticks before the beacon's round at the latest.
pub(crate) const ROOT_BEFORE: u8 = 3;
/// A postponement is written down so many ticks before it at the latest.
pub(crate) const POSTPONE_BEFORE: u8 = 1;
/// By so many ticks the round is later that decides instead, after a postponement or a void round.
pub(crate) const LATER: u8 = 4;

/// Where a world begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Nobody has joined.
    Empty,
    /// All buyers have joined under their first keys, and were told.
    Joined,
    /// And their ranks are known: who joined last is first.
    Drawn,
}

/// How large a world is, and how much may happen in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope {
    pub(crate) name: &'static str,
    pub(crate) start: Start,
    pub(crate) is_draw: bool,
    /// What each buyer wants when they join, and what they change it to: variants, the best first.
    pub(crate) wishes: &'static [&'static [&'static [u8]]],
    /// The card of each buyer. Nobody is merged where it is empty.
    pub(crate) cards: &'static [u8],
    /// So many of the buyers have not joined where the world begins with all of them.
    pub(crate) later: usize,
    /// The variant of each unit.
    pub(crate) units: &'static [u8],
    pub(crate) per_round: u8,
    /// Ranks decided in one transaction.
    pub(crate) chunk: usize,
    pub(crate) opens_at: u8,
    pub(crate) closes_at: u8,
    /// The clock goes no further.
    pub(crate) until: u8,
    pub(crate) changes: u8,
    pub(crate) leaves: u8,
    /// Whether requests are repeated by the network, and answers lost.
    pub(crate) repeats: bool,
    /// Whether a request to leave may come once more behind another join.
    pub(crate) late_leaves: bool,
    /// Whether a change may come once more behind another join.
    pub(crate) late_changes: bool,
    pub(crate) releases: u8,
    pub(crate) restocks: u8,
    pub(crate) pauses: u8,
    pub(crate) workers: usize,
    pub(crate) deaths: u8,
    /// Whether the operator may close the drop.
    pub(crate) closes: bool,
    /// What must come about in it.
    pub(crate) reaches: &'static [&'static str],
}

#[derive(Debug, Clone)]
pub(crate) struct LineModel {
    pub(crate) scope: Scope,
    pub(crate) without: Without,
}

impl LineModel {
    pub(crate) fn has(&self, guard: Guard) -> bool {
        self.without.has(guard)
    }

    pub(crate) fn wish(&self, buyer: usize, nth: u8) -> &'static [u8] {
        self.scope.wishes[buyer][usize::from(nth) % self.scope.wishes[buyer].len()]
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// Postgres' clock, and everybody's.
    pub(crate) now: u8,
    pub(crate) line: Line,
    /// By number, from 0.
    pub(crate) entries: Vec<Entry>,
    pub(crate) units: Vec<Unit>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) buyers: Vec<Buyer>,
    pub(crate) left: Left,
    pub(crate) seen: Seen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Phase {
    Open,
    Sealed,
    Rooted,
    Drawn,
    Closed,
}

/// The line's row.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Line {
    pub(crate) phase: Phase,
    pub(crate) sealed: Option<Sealed>,
    /// When the beacon's round is due that decides. `None`: the one before was void, and the root comes first.
    pub(crate) beacon: Option<u8>,
    /// When the root was written down.
    pub(crate) rooted_at: Option<u8>,
    pub(crate) root_seen: Option<u8>,
    pub(crate) round: Option<u8>,
    pub(crate) position: Position,
    pub(crate) chunk: u8,
    pub(crate) last_round_begun: bool,
    pub(crate) paused_at: Option<u8>,
    pub(crate) paused: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Sealed {
    /// So many numbers had been given out.
    pub(crate) numbers: usize,
    pub(crate) count: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Serving {
    /// Those who stand by, from this rank on.
    StandingBy(usize),
    Next,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) serving: Serving,
    pub(crate) served: usize,
    pub(crate) end_of_round: usize,
    pub(crate) free: [u8; VARIANTS],
}

impl Position {
    pub(crate) const FIRST: Self = Self { serving: Serving::Next, served: 0, end_of_round: 0, free: [0; VARIANTS] };

    pub(crate) fn is_in_round(&self) -> bool {
        self.serving != Serving::Next || self.served < self.end_of_round
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum EntryState {
    Waiting,
    Left,
    Withdrawn,
    Merged,
    /// `is_live`: its order holds its unit.
    Awarded {
        unit: usize,
        is_live: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) buyer: usize,
    pub(crate) key: u8,
    /// Which of their wishes.
    pub(crate) wish: u8,
    pub(crate) revision: u8,
    pub(crate) state: EntryState,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Unit {
    pub(crate) variant: u8,
    /// The entry whose order has it.
    pub(crate) holder: Option<usize>,
    /// It came back, or was added, when the drop's time was over.
    pub(crate) is_late: bool,
}

/// A step that a worker has chosen by what it read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Step {
    Seal,
    Root,
    Confirm,
    Postpone { round: u8 },
    Void { round: u8 },
    Reveal,
    Give(Option<Begin>),
    Skip { to: u8 },
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Begin {
    pub(crate) round: u8,
    pub(crate) per_round: u8,
    pub(crate) is_last: bool,
}

/// The order of the line in a worker's memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Order {
    /// So many ranks are known.
    pub(crate) count: usize,
    /// By rank: who stands by.
    pub(crate) stands: Vec<bool>,
    pub(crate) position: Position,
    pub(crate) chunk: u8,
    pub(crate) round: Option<u8>,
}

/// What a worker is about to do: it may be stopped for any time before.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Plan {
    pub(crate) step: Step,
    pub(crate) at: u8,
    pub(crate) beacon: Option<u8>,
    pub(crate) round: Option<u8>,
    pub(crate) order: Option<Order>,
    /// Who waits, by rank, as it was read too early: only without a guard.
    pub(crate) waits: Vec<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct Worker {
    pub(crate) memory: Option<Order>,
    pub(crate) plan: Option<Plan>,
}

/// What a buyer knows, and what they have sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Buyer {
    pub(crate) told: Told,
    /// Keys under which they have asked to join.
    pub(crate) keys: u8,
    /// Changes that they have asked for, all of their first place.
    pub(crate) changes: u8,
    pub(crate) has_asked_to_leave: bool,
    /// A request on its way has read the line's state, and whether its entry waits: only without a guard.
    pub(crate) read: Option<(Phase, bool)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Told {
    /// Or the answer was lost.
    Nothing,
    /// The number of their place, and their wish, if no change is open.
    InLine {
        number: usize,
        wish: Option<u8>,
    },
    Left,
}

/// What may still happen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    pub(crate) leaves: u8,
    pub(crate) releases: u8,
    pub(crate) restocks: u8,
    pub(crate) pauses: u8,
    pub(crate) deaths: u8,
}

/// What must never have happened, and what should have once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Seen {
    /// The list as it was sealed: number and wish.
    pub(crate) list: Option<Vec<(usize, u8)>>,
    pub(crate) drawn_too_early: bool,
    pub(crate) root_replaced: bool,
    pub(crate) postponed_late: bool,
    pub(crate) void_early: bool,
    pub(crate) behind_the_close: bool,
    pub(crate) came_back_to_a_draw: bool,
    pub(crate) awarded_twice: bool,
    pub(crate) inverted: bool,
    pub(crate) later_than_shown: bool,
    pub(crate) begun_in_pause: bool,
    pub(crate) cut: bool,
    pub(crate) in_vain: bool,
    pub(crate) was_void: bool,
    pub(crate) was_postponed: bool,
    pub(crate) served_standing_by: bool,
    pub(crate) given_at_last: bool,
}

impl State {
    pub(crate) fn first(model: &LineModel) -> Self {
        let scope = &model.scope;
        let joined = if scope.start == Start::Empty { 0 } else { scope.wishes.len() - scope.later };
        let entry = |buyer| Entry { buyer, key: 0, wish: 0, revision: 1, state: EntryState::Waiting };
        let buyer = |number| {
            let is_in_line = number < joined;
            let told = if is_in_line { Told::InLine { number, wish: Some(0) } } else { Told::Nothing };
            Buyer { told, keys: u8::from(is_in_line), changes: 0, has_asked_to_leave: false, read: None }
        };
        let is_drawn = scope.start == Start::Drawn;
        let mut state = Self {
            now: 0,
            line: Line {
                phase: if is_drawn { Phase::Drawn } else { Phase::Open },
                sealed: is_drawn.then_some(Sealed { numbers: joined, count: joined }),
                beacon: is_drawn.then_some(0),
                rooted_at: is_drawn.then_some(0),
                root_seen: is_drawn.then_some(0),
                round: None,
                position: Position::FIRST,
                chunk: 0,
                last_round_begun: false,
                paused_at: None,
                paused: 0,
            },
            entries: (0..joined).map(entry).collect(),
            units: scope.units.iter().map(|variant| Unit { variant: *variant, holder: None, is_late: false }).collect(),
            workers: vec![Worker::default(); scope.workers],
            buyers: (0..scope.wishes.len()).map(buyer).collect(),
            left: Left {
                leaves: scope.leaves,
                releases: scope.releases,
                restocks: scope.restocks,
                pauses: scope.pauses,
                deaths: scope.deaths,
            },
            seen: Seen::default(),
        };
        if is_drawn {
            state.seen.list = Some(state.sealed_list());
        }
        state
    }

    /// The sealed list as it reads now.
    pub(crate) fn sealed_list(&self) -> Vec<(usize, u8)> {
        let numbers = self.line.sealed.map_or(0, |sealed| sealed.numbers);
        let listed = |number: &usize| !matches!(self.entries[*number].state, EntryState::Left | EntryState::Merged);
        (0..numbers).filter(listed).map(|number| (number, self.entries[number].wish)).collect()
    }

    /// Numbers by rank. The shuffle turns the list round; who joined later stands behind it, by number.
    pub(crate) fn ranks(&self) -> Vec<usize> {
        let Some(sealed) = self.line.sealed else { return Vec::new() };
        let list = self.sealed_list();
        let later = (sealed.numbers..self.entries.len())
            .filter(|number| !matches!(self.entries[*number].state, EntryState::Left | EntryState::Merged));
        list.into_iter().rev().map(|(number, _)| number).chain(later).collect()
    }

    pub(crate) fn free(&self) -> [u8; VARIANTS] {
        let mut free = [0; VARIANTS];
        self.units.iter().filter(|unit| unit.holder.is_none()).for_each(|unit| free[usize::from(unit.variant)] += 1);
        free
    }

    pub(crate) fn wishes_of(&self, model: &LineModel, number: usize) -> &'static [u8] {
        let entry = &self.entries[number];
        model.wish(entry.buyer, entry.wish)
    }
}
