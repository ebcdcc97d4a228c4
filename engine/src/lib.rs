//! Doorbuster's engine: tokens in Redis, truth in Postgres, one protocol between them. See ARCHITECTURE.md beside `src/`.
//!
//! Modules stand in reading order. The arrow: `domain ← {tokens, carts, ledger, provider, mail, webhooks} ← flows ← workers ←
//! gateway`; the adapters do not know each other. What tokens and carts share of Redis is `scripting`.

pub mod steps;
pub mod domain;
pub mod scripting;
pub mod tokens;
pub mod carts;
pub mod ledger;
pub mod provider;
pub mod mail;
pub mod webhooks;
pub mod beacon;
pub mod flows;
pub mod workers;
