//! Doorbuster's engine: tokens in Redis, truth in Postgres, one protocol between them. See ARCHITECTURE.md beside `src/`.
//!
//! Modules stand in reading order. The arrow: `domain ← {tokens, ledger, provider, mail, webhooks} ← flows ← workers ← gateway`;
//! the adapters do not know each other.

pub mod steps;
pub mod domain;
pub mod tokens;
pub mod ledger;
pub mod provider;
pub mod mail;
pub mod webhooks;
pub mod flows;
pub mod workers;
