//! Tokens in Redis: the only user of Redis for stock.
//!
//! A claim costs one EVALSHA for a whole batch of claims; nothing else here lies on the buyer's way.

pub mod batcher;
mod codec;
pub mod connection;
pub mod contract;
pub mod error;
pub mod keys;
pub mod store;

pub use error::TokenError;
