//! The payment provider, reached over HTTP in Stripe's wire format: the only module that imports `reqwest`.
//!
//! Reading order: `request` (the exact bytes that are stored before they are sent), `intent` (what the provider says
//! about a payment), `customers` (buyers at the provider, and their cards), `refund` and `balance` (about money on its way back, and about all money), `outcome` (what an
//! answer, or its absence, proves), `throttle` (the limit and the circuit), `client` and `reads` (one round trip each), `webhook` (what the provider sends us by
//! itself: a hint, believed only as far as its signature goes).
//!
//! **Invariants.** Nothing here retries: the attempt row decides, in one layer. Nothing here calls an unknown result
//! failed: only an answer the provider wrote itself is a decline or a refusal, and only a connection that never
//! stood proves that nothing was sent.

mod request;
mod intent;
mod refund;
mod customers;
mod balance;
mod outcome;
mod throttle;
mod client;
mod reads;
mod webhook;

pub use balance::{BalanceKind, BalanceTransaction};
pub use client::{ProviderClient, ProviderError, ProviderSettings, SecretKey};
pub use customers::{Customer, Deleted, SavedMethod, SetupSession};
pub use intent::{Intent, IntentStatus, NextAction, UnreadableObject};
pub use outcome::{Decline, Outcome, classify};
pub use reads::{PAGE_LIMIT_MAX, Page};
pub use refund::{Charge, Refund, RefundStatus};
pub use request::{Format, Operation, Presence, ProviderRequest};
pub use throttle::{Admits, Endpoint, NoTurn, RateLimit, Turn};
pub use webhook::{Event, SIGNATURE_HEADER, SignatureError, WebhookError, WebhookVerifier};
