//! Flows: the only place where the adapters meet. Each file is one story, told from its first step to its last.

pub mod engine;
pub mod open_drop;
pub mod drafts;
pub mod drop_figures;
pub mod claim;
pub mod acknowledge;
pub mod lost;
pub mod standby;
pub mod line;
mod readings;
pub mod pull;
pub mod grants;
pub mod settle;
pub mod checkout;
pub mod backlog;
pub mod poison;
pub mod charge;
mod expiry;
pub mod cards;
mod setups;
pub mod news;
pub mod reconcile;
mod refund;
pub mod finance;
pub mod outbox;
pub mod audit;

pub use engine::{Engine, EngineError, LiveDrop};
