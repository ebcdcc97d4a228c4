//! The payment provider, reached over HTTP in Stripe's wire format: the only module that imports `reqwest`.
//!
//! Reading order: `request` (the exact bytes that are stored before they are sent), `intent` (what the provider says
//! about a payment), `outcome` (what an answer, or its absence, proves), `client` (one round trip each).
//!
//! **Invariants.** Nothing here retries: the attempt row decides, in one layer. Nothing here calls an unknown result
//! failed: only an answer the provider wrote itself is a decline or a refusal, and only a connection that never
//! stood proves that nothing was sent.

mod client;
mod intent;
mod outcome;
mod request;

pub use client::{Page, ProviderClient, ProviderError, ProviderSettings, SecretKey};
pub use intent::{Intent, IntentStatus, UnreadableIntent};
pub use outcome::{Decline, Outcome, classify};
pub use request::{NotChargeable, Operation, ProviderRequest, check_chargeable};
