//! Doorbuster's engine: tokens in Redis, truth in Postgres, one protocol between them.

pub mod domain;
pub mod provider;
