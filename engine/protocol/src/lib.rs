//! The protocol of tokens, checked exhaustively: every interleaving of claims, pulls, settlement, releases, rests,
//! awards, rebuilds and readings with crashes and failovers, in worlds small enough for that. `docs/MODEL.md` says what is
//! modelled and what is not.
//!
//! Beside it, in `line/`, the line of a drop: joining, the seal, the draw and the rounds.
//!
//! And the other way round: each guard of the protocol is taken out, and the checker must find out what it was for.
//!
//! A crate of its own, because it is all computation: `Cargo.toml` of the workspace has it optimised in every build.

#![cfg(test)]

mod guards;
mod state;
mod actions;
mod steps;
mod comeback;
mod readings;
mod promises;
mod check;
mod line;
