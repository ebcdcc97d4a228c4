//! The worlds of a line that are checked, and the table of its guards.

use super::guards::{Guard, Without};
use super::promises::{
    AWARDED, COMES_BACK, GIVEN_AT_LAST, IN_LINE, IS_CLOSED, IS_DRAWN, IS_MERGED, SERVED_STANDING_BY, WAS_POSTPONED,
    WAS_VOID,
};
use super::state::{LineModel, Scope, Start};
use crate::check::{Checked, look_everywhere};
use crate::guards::Missed;

const NOTHING: Scope = Scope {
    name: "",
    start: Start::Empty,
    is_draw: false,
    wishes: &[],
    cards: &[],
    later: 0,
    units: &[],
    per_round: 1,
    chunk: 1,
    opens_at: 5,
    closes_at: 7,
    until: 0,
    changes: 0,
    leaves: 0,
    repeats: false,
    late_leaves: false,
    late_changes: false,
    releases: 0,
    restocks: 0,
    pauses: 0,
    workers: 1,
    deaths: 0,
    closes: false,
    reaches: &[],
};

/// Everybody wants the first variant, or whatever there is.
const ONE: &[&[u8]] = &[&[0]];
const ANY: &[&[u8]] = &[&[0, 1]];
const OTHER: &[&[u8]] = &[&[1]];
const CHANGING: &[&[u8]] = &[&[0], &[1], &[0, 1]];

/// A drawn line from its first round on, with two workers.
const ROUNDS: Scope =
    Scope { start: Start::Drawn, opens_at: 0, closes_at: 4, until: 3, workers: 2, reaches: &[AWARDED], ..NOTHING };

/// Small worlds, each for some of the dangers. Every one of them is exhausted.
const SCOPES: &[Scope] = &[
    Scope { name: "joining", wishes: &[ONE, ONE], leaves: 2, repeats: true, reaches: &[COMES_BACK], ..NOTHING },
    Scope { name: "changing", start: Start::Joined, wishes: &[CHANGING, ONE], changes: 2, repeats: true, ..NOTHING },
    Scope { name: "a sealed draw", is_draw: true, wishes: &[ONE, ONE], leaves: 2, reaches: &[COMES_BACK], ..NOTHING },
    Scope { name: "cards", wishes: &[ONE, ONE, ONE], cards: &[0, 1, 0], leaves: 1, reaches: &[IS_MERGED], ..NOTHING },
    Scope {
        name: "beacon",
        start: Start::Joined,
        wishes: &[ONE],
        opens_at: 9,
        closes_at: 11,
        until: 9,
        workers: 2,
        closes: true,
        reaches: &[IS_DRAWN, WAS_VOID, WAS_POSTPONED, IS_CLOSED],
        ..NOTHING
    },
    Scope {
        name: "late changes",
        wishes: &[CHANGING],
        leaves: 1,
        changes: 1,
        repeats: true,
        late_changes: true,
        ..NOTHING
    },
    Scope {
        name: "rounds",
        wishes: &[ANY, OTHER, ONE],
        units: &[0, 1],
        releases: 2,
        until: 2,
        reaches: &[AWARDED, SERVED_STANDING_BY],
        ..ROUNDS
    },
    Scope { name: "leaving", wishes: &[ONE, ONE], units: &[0], leaves: 2, releases: 1, until: 1, ..ROUNDS },
    Scope {
        name: "pace",
        wishes: &[ANY, ONE, ONE, ONE],
        units: &[0, 1],
        per_round: 2,
        releases: 1,
        restocks: 1,
        reaches: &[AWARDED, SERVED_STANDING_BY],
        ..ROUNDS
    },
    Scope { name: "pause", wishes: &[ONE, ONE], units: &[0, 0], pauses: 1, deaths: 1, ..ROUNDS },
    Scope {
        name: "the end",
        wishes: &[ONE, ANY, ONE],
        later: 1,
        units: &[0, 1],
        per_round: 2,
        releases: 2,
        closes_at: 1,
        until: 1,
        closes: true,
        reaches: &[AWARDED, GIVEN_AT_LAST, IS_CLOSED],
        ..ROUNDS
    },
];

/// Too large for every day.
const LARGER: &[Scope] = &[Scope {
    name: "rounds, leaving and the end",
    wishes: &[ANY, OTHER, ONE, ONE],
    units: &[0, 1],
    per_round: 2,
    leaves: 1,
    releases: 1,
    deaths: 1,
    closes_at: 2,
    until: 2,
    reaches: &[AWARDED, SERVED_STANDING_BY, GIVEN_AT_LAST, IS_CLOSED],
    ..ROUNDS
}];

/// Guards that stand in for each other: with one of them gone nothing happens, without both a promise is broken.
const PAIRS: &[(Guard, Guard, &str)] = &[
    (Guard::LeaveLocks, Guard::LeaveWaiting, "leaving"),
    (Guard::RootSeen, Guard::VoidUnseen, "beacon"),
    (Guard::ChunkCompared, Guard::PositionFollows, "rounds"),
    (Guard::FactsLocked, Guard::AwardWaiting, "leaving"),
];

fn check(scope: Scope, without: Without) -> Checked {
    look_everywhere(LineModel { scope, without }, 1)
}

fn world(name: &str) -> Scope {
    *SCOPES.iter().find(|scope| scope.name == name).unwrap_or_else(|| panic!("no world {name}"))
}

fn keeps_its_promises(scope: Scope) -> Checked {
    let checked = check(scope, Without::nothing());
    assert!(checked.broken.is_none(), "{}: {:#?}", scope.name, checked.broken);
    for reached in scope.reaches {
        assert!(checked.reached.contains(reached), "{}: it is never seen that {reached}", scope.name);
    }
    checked
}

#[test]
fn a_line_keeps_its_promises_in_small_worlds() {
    for scope in SCOPES {
        let checked = keeps_its_promises(*scope);
        assert!(checked.states > 30, "{}: only {} states", scope.name, checked.states);
    }
}

#[test]
fn without_a_guard_of_a_line_a_promise_is_broken() {
    for guard in Guard::ALL {
        let Missed::In(name) = guard.missed() else { continue };
        let checked = check(world(name), Without::one(*guard));
        assert!(checked.broken.is_some(), "without {guard:?} nothing happens in {name}");
    }
    for (one, other, name) in PAIRS {
        let checked = check(world(name), Without::one(*one).and(*other));
        assert!(checked.broken.is_some(), "without {one:?} and {other:?} nothing happens in {name}");
    }
}

/// docs/MODEL.md says so. Once it cannot happen any more, its scope belongs among the others.
#[test]
fn a_leave_that_names_no_revision_may_come_late_and_meet_the_next_place() {
    let scope =
        Scope { name: "a late leave", wishes: &[CHANGING], leaves: 1, repeats: true, late_leaves: true, ..NOTHING };
    let broken = check(scope, Without::nothing()).broken;
    assert_eq!(broken.map(|(broken, _)| broken), Some(IN_LINE));
}

#[test]
#[ignore = "soak"]
#[expect(clippy::print_stdout, reason = "the tables are what it is for")]
fn every_world_and_every_guard_of_a_line() {
    println!("| world | states | depth | seconds |\n|---|---|---|---|");
    for scope in SCOPES.iter().chain(LARGER) {
        let Checked { states, depth, seconds, .. } = keeps_its_promises(*scope);
        println!("| {} | {states} | {depth} | {seconds:.1} |", scope.name);
    }
    println!("\n| without | in | broken promise | steps | states | world |\n|---|---|---|---|---|---|");
    for guard in Guard::ALL {
        let (words, place) = (guard.words(), guard.place());
        match guard.missed() {
            Missed::In(name) => {
                let checked = check(world(name), Without::one(*guard));
                let (promise, steps) = checked.broken.unwrap_or_else(|| panic!("without {guard:?} nothing happens"));
                println!("| {words} | {place} | {promise} | {} | {} | {name} |", steps.len(), checked.states);
            }
            Missed::Nowhere(why) => {
                let mut states = 0;
                for scope in SCOPES {
                    let checked = check(*scope, Without::one(*guard));
                    states += checked.states;
                    assert!(checked.broken.is_none(), "without {guard:?} in {}: {:#?}", scope.name, checked.broken);
                }
                println!("| {words} | {place} | none found: {why} | | {states} | all |");
            }
        }
    }
    for (one, other, name) in PAIRS {
        let checked = check(world(name), Without::one(*one).and(*other));
        let (promise, steps) =
            checked.broken.unwrap_or_else(|| panic!("without {one:?} and {other:?} nothing happens"));
        let (one, other) = (one.words(), other.words());
        println!("| both: {one}; {other} | | {promise} | {} | {} | {name} |", steps.len(), checked.states);
    }
}
