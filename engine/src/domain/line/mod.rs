//! A line: who waits for a drop, in which order, and what each round gives them. Everything here can be computed again
//! by anybody who has what the shop publishes; docs/DRAW.md says how.

pub mod hex;
pub mod rounds;
pub mod shuffle;
pub mod entries;
pub mod tree;
pub mod merge;
pub mod tickets;
pub mod beacon;
pub mod rules;
pub mod draw;
pub mod terms;
pub mod state;
pub mod changes;
pub mod facts;
pub mod joining;
pub mod schedule;
pub mod bundle;
pub mod example;
#[cfg(test)]
mod forgeries;
