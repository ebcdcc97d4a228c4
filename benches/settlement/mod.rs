//! Settlement of claims in Postgres: a shop to settle in, and the comparison with COPY.

pub mod ratio;
pub mod shop;

/// What settlement takes in one transaction (flows/settle.rs).
pub const BATCH: usize = 5_000;
