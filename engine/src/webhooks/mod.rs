//! Webhooks to the shop's own systems, signed as Standard Webhooks 1.0.0 has it
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).
//!
//! Reading order: `secret` (keys and signatures), `event` (the body), `reach` (a look at an endpoint that it does not
//! notice), `client` (one POST, and what its end proves).
//!
//! **Invariants.** Addresses come from the configuration only; none ever comes from a buyer, an event or an answer, so redirects are
//! not followed. Nothing here retries: the outbox decides. The same event has the same id and the same body each time; only the
//! timestamp of the attempt and the signature differ. The body names no person.

mod secret;
mod event;
mod reach;
mod client;

pub use client::{UnusableEndpoint, WebhookClient, WebhookEndpoint, WebhookOutcome};
pub use event::Event;
pub use reach::NotReached;
pub use secret::{InvalidSecret, WebhookSecret};
