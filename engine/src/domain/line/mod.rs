//! A line: who waits for a drop, in which order, and what each round gives them. Everything here can be computed again by
//! anybody who has what the shop publishes; docs/DRAW.md says how.

pub mod hex;
pub mod rounds;
pub mod shuffle;
