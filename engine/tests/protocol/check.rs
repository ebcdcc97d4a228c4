//! The worlds that are checked, and the table of guards.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use crate::guards::{Guard, Without};
use crate::state::{Protocol, Scope};

const NOTHING: Scope = Scope {
    name: "",
    tokens: &[],
    claims: &[],
    pulls: 0,
    releases: 0,
    proofs: 0,
    workers: 1,
    rebuilders: 0,
    finishers: 0,
    failovers: 0,
    returns: 0,
    rebuilds: 0,
};

struct Checked {
    states: usize,
    depth: usize,
    seconds: f64,
    /// The promise, and the steps that break it.
    broken: Option<(&'static str, Vec<String>)>,
}

fn check(scope: Scope, without: Without) -> Checked {
    let started = Instant::now();
    let checker = Protocol { scope, without }.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let shortest = checker.discoveries().into_iter().min_by_key(|(_, path)| path.clone().into_actions().len());
    Checked {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        seconds: started.elapsed().as_secs_f64(),
        broken: shortest
            .map(|(promise, path)| (promise, path.into_actions().iter().map(|action| format!("{action:?}")).collect())),
    }
}

/// Small worlds, each for some of the dangers. Every one of them is exhausted.
const SMALL: &[Scope] = &[
    Scope { name: "sale", tokens: &[0, 1], claims: &[0, 1, 2], pulls: 1, releases: 1, finishers: 1, ..NOTHING },
    Scope { name: "two clicks", tokens: &[0, 0], claims: &[0, 0, 2], releases: 1, workers: 2, ..NOTHING },
    Scope { name: "ping-pong", tokens: &[0], claims: &[0, 1], pulls: 2, finishers: 2, ..NOTHING },
    Scope { name: "forgetting", tokens: &[0, 0], claims: &[0, 2], rebuilders: 2, failovers: 1, rebuilds: 2, ..NOTHING },
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
        rebuilders: 1,
        failovers: 1,
        rebuilds: 1,
        ..NOTHING
    },
    Scope { name: "refusal", tokens: &[0], claims: &[0, 1], pulls: 2, proofs: 1, releases: 1, finishers: 1, ..NOTHING },
    Scope {
        name: "refusal and forgetting",
        tokens: &[0],
        claims: &[0],
        pulls: 1,
        proofs: 1,
        finishers: 1,
        rebuilders: 1,
        failovers: 1,
        rebuilds: 1,
        ..NOTHING
    },
    Scope {
        name: "return",
        tokens: &[0, 0],
        claims: &[0, 0, 2],
        rebuilders: 1,
        failovers: 1,
        returns: 1,
        rebuilds: 2,
        ..NOTHING
    },
];

#[test]
#[ignore = "x"]
fn sizes() {
    for scope in SMALL {
        let checked = check(*scope, Without::nothing());
        println!("{}: {} states, depth {}, {:.1} s", scope.name, checked.states, checked.depth, checked.seconds);
        if let Some((promise, steps)) = checked.broken {
            println!("BROKEN {promise}:\n  {}", steps.join("\n  "));
        }
    }
}

#[test]
#[ignore = "x"]
fn table() {
    for guard in Guard::ALL {
        let mut states = 0;
        let mut found = None;
        for scope in SMALL {
            let checked = check(*scope, Without::one(*guard));
            states += checked.states;
            if let Some(broken) = checked.broken {
                found = Some((scope.name, broken));
                break;
            }
        }
        match found {
            Some((scope, (promise, steps))) => {
                println!(
                    "| {} | {} | {} | {scope} | {promise} | {} | {states} |",
                    guard.words(),
                    guard.place(),
                    steps.len(),
                    steps.len()
                );
                println!("       {}", steps.join(" ; "));
            }
            None => println!("| {} | {} | NONE | {states}", guard.words(), guard.place()),
        }
    }
}
