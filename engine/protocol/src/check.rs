//! The worlds that are checked, and the table of guards.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, DiscoveryClassification, HasDiscoveries, Model};

use crate::guards::{Guard, Missed, Without};
use crate::state::{Protocol, Scope, WAREHOUSES};

const NOTHING: Scope = Scope {
    name: "",
    tokens: &[],
    claims: &[],
    sold: 0,
    pulls: 0,
    releases: 0,
    old_releases: 0,
    award: None,
    proofs: 0,
    workers: 1,
    rebuilders: 0,
    finishers: 0,
    forgetful: WAREHOUSES,
    failovers: 0,
    returns: 0,
    rebuilds: 0,
};

pub(crate) struct Checked {
    pub(crate) states: usize,
    pub(crate) depth: usize,
    pub(crate) seconds: f64,
    /// The promise, and the steps that break it.
    pub(crate) broken: Option<(&'static str, Vec<String>)>,
    /// What is to be seen in some state, and was.
    pub(crate) reached: Vec<&'static str>,
}

fn check(scope: Scope, without: Without) -> Checked {
    check_with(1, scope, without)
}

/// With more than one thread, what it finds first need not be the shortest.
fn check_with(threads: usize, scope: Scope, without: Without) -> Checked {
    look_everywhere(Protocol { scope, without }, threads)
}

/// Looks at every state of a model, or at all until a promise is broken.
pub(crate) fn look_everywhere<M>(model: M, threads: usize) -> Checked
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let started = Instant::now();
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).threads(threads).spawn_bfs().join();
    let is_example = |name: &&str| matches!(checker.discovery_classification(name), DiscoveryClassification::Example);
    let (reached, broken) =
        checker.discoveries().into_iter().partition::<HashMap<_, _>, _>(|(name, _)| is_example(name));
    let shortest = broken.into_iter().min_by_key(|(_, path)| path.clone().into_actions().len());
    Checked {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        seconds: started.elapsed().as_secs_f64(),
        broken: shortest
            .map(|(promise, path)| (promise, path.into_actions().iter().map(|action| format!("{action:?}")).collect())),
        reached: reached.into_keys().collect(),
    }
}

/// Small worlds, each for some of the dangers. Every one of them is exhausted.
const SCOPES: &[Scope] = &[
    Scope { name: "ping-pong", tokens: &[0], claims: &[0, 1], pulls: 2, finishers: 2, ..NOTHING },
    Scope { name: "two clicks", tokens: &[0, 0], claims: &[0, 0, 2], releases: 1, workers: 2, ..NOTHING },
    Scope { name: "sale", tokens: &[0, 1], claims: &[0, 1, 2], pulls: 1, releases: 1, finishers: 1, ..NOTHING },
    Scope { name: "refusal", tokens: &[0], claims: &[0, 1], pulls: 2, proofs: 1, finishers: 1, ..NOTHING },
    Scope { name: "rest", tokens: &[0], claims: &[0, 2], sold: 1, proofs: 2, releases: 1, ..NOTHING },
    Scope { name: "two rests", tokens: &[0, 0], claims: &[0, 2], sold: 2, proofs: 1, releases: 2, ..NOTHING },
    Scope { name: "rest again", tokens: &[0], claims: &[0, 0], sold: 1, proofs: 1, releases: 2, ..NOTHING },
    Scope { name: "older workers", tokens: &[0], claims: &[0, 2], sold: 1, proofs: 2, old_releases: 1, ..NOTHING },
    Scope {
        name: "award",
        tokens: &[0, 1],
        claims: &[0, 1, 1],
        sold: 2,
        award: Some(2),
        proofs: 1,
        releases: 1,
        ..NOTHING
    },
    Scope {
        name: "forgetting",
        tokens: &[0, 0],
        claims: &[0, 2],
        forgetful: 1,
        rebuilders: 1,
        failovers: 1,
        rebuilds: 1,
        ..NOTHING
    },
    Scope {
        name: "forgetting a move",
        tokens: &[0],
        claims: &[0, 1],
        pulls: 1,
        finishers: 1,
        rebuilders: 1,
        failovers: 1,
        rebuilds: 1,
        ..NOTHING
    },
    Scope {
        name: "forgetting a release",
        tokens: &[0],
        claims: &[0, 2],
        releases: 1,
        forgetful: 1,
        rebuilders: 1,
        failovers: 1,
        rebuilds: 1,
        ..NOTHING
    },
    Scope {
        name: "refusal and forgetting",
        tokens: &[0],
        claims: &[0],
        pulls: 1,
        proofs: 1,
        finishers: 1,
        forgetful: 1,
        rebuilders: 1,
        failovers: 1,
        rebuilds: 1,
        ..NOTHING
    },
    Scope {
        name: "lease and forgetting",
        tokens: &[0],
        claims: &[0],
        proofs: 1,
        workers: 0,
        forgetful: 1,
        rebuilders: 1,
        failovers: 1,
        rebuilds: 1,
        ..NOTHING
    },
    Scope {
        name: "rest and forgetting",
        tokens: &[0],
        claims: &[0, 2],
        sold: 1,
        proofs: 1,
        releases: 1,
        forgetful: 1,
        rebuilders: 1,
        failovers: 1,
        rebuilds: 1,
        ..NOTHING
    },
    Scope {
        name: "award and forgetting",
        tokens: &[0],
        claims: &[0, 0],
        sold: 1,
        award: Some(1),
        releases: 1,
        forgetful: 1,
        rebuilders: 1,
        failovers: 1,
        rebuilds: 1,
        ..NOTHING
    },
    Scope {
        name: "rest and moves",
        tokens: &[0, 1],
        claims: &[0, 1, 2],
        sold: 2,
        pulls: 1,
        proofs: 1,
        releases: 2,
        finishers: 1,
        ..NOTHING
    },
    Scope {
        name: "award and moves",
        tokens: &[0, 1],
        claims: &[0, 1, 1, 2],
        sold: 2,
        award: Some(2),
        pulls: 1,
        proofs: 1,
        releases: 1,
        finishers: 1,
        ..NOTHING
    },
    Scope {
        name: "award, lease and forgetting",
        tokens: &[0],
        claims: &[0, 0],
        sold: 1,
        award: Some(1),
        proofs: 1,
        releases: 1,
        workers: 0,
        forgetful: 1,
        rebuilders: 1,
        failovers: 1,
        rebuilds: 1,
        ..NOTHING
    },
    Scope {
        name: "older workers and forgetting",
        tokens: &[0],
        claims: &[0],
        sold: 1,
        proofs: 1,
        old_releases: 1,
        forgetful: 1,
        rebuilders: 1,
        failovers: 1,
        rebuilds: 1,
        ..NOTHING
    },
    Scope {
        name: "two rebuilds",
        tokens: &[0, 0],
        claims: &[0, 2],
        forgetful: 1,
        rebuilders: 2,
        failovers: 1,
        rebuilds: 2,
        ..NOTHING
    },
    Scope {
        name: "return",
        tokens: &[0, 0],
        claims: &[0, 0, 2],
        forgetful: 1,
        rebuilders: 1,
        failovers: 1,
        returns: 1,
        rebuilds: 2,
        ..NOTHING
    },
];

/// Too large for every day: up to half a million states.
const LARGE: [&str; 7] = [
    "refusal and forgetting",
    "rest and forgetting",
    "rest and moves",
    "award, lease and forgetting",
    "older workers and forgetting",
    "two rebuilds",
    "return",
];

/// Guards that stand in for each other: with one of them gone nothing happens, without both a promise is broken.
const PAIRS: [(Guard, Guard, &str); 2] =
    [(Guard::LoadReplid, Guard::LoadChunks, "return"), (Guard::LoadChunks, Guard::LoadEpoch, "two rebuilds")];

/// Claims, moves, a release and a failover in one world.
const EVERYTHING: Scope = Scope {
    name: "everything",
    tokens: &[0, 1],
    claims: &[0, 1, 2],
    pulls: 1,
    releases: 1,
    finishers: 1,
    rebuilders: 1,
    failovers: 1,
    rebuilds: 1,
    ..NOTHING
};

/// The same with a reading, and so with time: of two units one is sold at first.
const EVERYTHING_AND_A_READING: Scope = Scope {
    name: "everything and a reading",
    tokens: &[0, 1],
    claims: &[0, 1],
    sold: 1,
    pulls: 1,
    proofs: 1,
    releases: 1,
    finishers: 1,
    forgetful: 1,
    rebuilders: 1,
    failovers: 1,
    rebuilds: 1,
    ..NOTHING
};

fn world(name: &str) -> Scope {
    *SCOPES.iter().find(|scope| scope.name == name).unwrap_or_else(|| panic!("no world {name}"))
}

fn is_large(name: &str) -> bool {
    LARGE.contains(&name)
}

#[test]
fn the_protocol_keeps_its_promises_in_small_worlds() {
    for scope in SCOPES.iter().filter(|scope| !is_large(scope.name)) {
        let checked = check(*scope, Without::nothing());
        assert!(checked.broken.is_none(), "{}: {:#?}", scope.name, checked.broken);
        assert!(checked.states > 100, "{}: only {} states", scope.name, checked.states);
    }
}

#[test]
fn without_a_guard_a_promise_is_broken() {
    for guard in Guard::ALL {
        let Missed::In(name) = guard.missed() else { continue };
        if !is_large(name) {
            let checked = check(world(name), Without::one(*guard));
            assert!(checked.broken.is_some(), "without {guard:?} nothing happens in {name}");
        }
    }
}

#[test]
#[ignore = "soak"]
#[expect(clippy::print_stdout, reason = "the tables are what it is for")]
fn every_world_and_every_guard() {
    println!("| world | states | depth | seconds | counterexamples |\n|---|---|---|---|---|");
    for scope in SCOPES {
        let checked = check(*scope, Without::nothing());
        let Checked { states, depth, seconds, broken, .. } = checked;
        println!("| {} | {states} | {depth} | {seconds:.1} | {} |", scope.name, u32::from(broken.is_some()));
        assert!(broken.is_none(), "{}: {broken:#?}", scope.name);
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
                    let checked = check_with(2, *scope, Without::one(*guard));
                    states += checked.states;
                    assert!(checked.broken.is_none(), "without {guard:?} in {}: {:#?}", scope.name, checked.broken);
                }
                println!("| {words} | {place} | none found: {why} | | {states} | all |");
            }
        }
    }
    for (one, other, name) in PAIRS {
        let checked = check(world(name), Without::one(one).and(other));
        let (promise, steps) =
            checked.broken.unwrap_or_else(|| panic!("without {one:?} and {other:?} nothing happens"));
        let (one, other) = (one.words(), other.words());
        println!("| both: {one}; {other} | | {promise} | {} | {} | {name} |", steps.len(), checked.states);
    }
}

#[test]
#[ignore = "soak"]
fn everything_at_once() {
    exhaust(EVERYTHING);
}

#[test]
#[ignore = "soak"]
fn everything_and_a_reading_at_once() {
    exhaust(EVERYTHING_AND_A_READING);
}

#[expect(clippy::print_stdout, reason = "the count is what it is for")]
fn exhaust(scope: Scope) {
    let Checked { states, depth, seconds, broken, .. } = check_with(2, scope, Without::nothing());
    let found = u32::from(broken.is_some());
    println!("{}: {states} states, to depth {depth}, {seconds:.1} s, {found} counterexamples", scope.name);
    assert!(broken.is_none(), "{}: {broken:#?}", scope.name);
}
