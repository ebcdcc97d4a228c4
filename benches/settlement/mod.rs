//! Settlement of claims in Postgres: a shop to settle in, and the comparison with COPY.

pub mod ratio;
pub mod shop;

pub use doorbuster_engine::flows::settle::CLAIMS_PER_TRANSACTION as BATCH;
