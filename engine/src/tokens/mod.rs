//! Tokens in Redis: the only user of Redis for stock.
//!
//! A claim costs one EVALSHA for a whole batch of claims; nothing else here lies on the buyer's way.

pub mod contract;
pub mod keys;
mod codec;
mod replication;
pub mod store;
mod log;
pub mod batcher;
pub mod error;

pub use error::TokenError;
