//! Carts in Redis: one hash an owner, one script a change, one round trip each. Postgres is never asked here, nor told.
//!
//! A cart is a wish: losing the last second of them with a machine is allowed, selling by them is not. What is sold, and at
//! which price, is decided at checkout.

pub mod contract;
mod codec;
mod beginnings;
pub mod store;
mod merge;
pub mod error;

pub use error::CartError;
pub use store::CartStore;
