//! Types and state machines. No I/O, no chance: everything but [`clock`] is a function of its arguments.

pub mod ids;
pub mod texts;
pub mod emails;
pub mod countries;
pub mod money;
pub mod versions;
pub mod requests;
pub mod catalog;
pub mod stock;
pub mod imports;
pub mod clock;
pub mod progress;
pub mod pricing;
pub mod drops;
pub mod drafts;
pub mod figures;
pub mod claims;
pub mod lost;
pub mod carts;
pub mod checkout;
pub mod standby;
pub mod orders;
pub mod fulfilment;
pub mod payments;
pub mod turns;
pub mod notices;
