//! Mails to buyers over SMTP: the only module that imports `lettre`.
//!
//! Reading order: `letter` (what is said, as data), `recipient` (to whom), `compose` (the message, from templates), `client` (one attempt to hand it
//! over, and what its end proves), `settings`.
//!
//! **Invariants.** Nothing here retries: the outbox decides, in one layer. A notice makes the same message each time, byte for byte,
//! under a Message-ID made from order and kind, so that a repeat can be recognised. Only what a server says about this one mail
//! refuses it; a server that does not want *us* refuses nothing. A text with a line break never becomes part of a header.

mod letter;
mod recipient;
mod compose;
mod client;
mod settings;

pub use client::{MailOutcome, Mailer, NoMail};
pub use compose::{Mail, NotMailable};
pub use settings::{MailSettings, UnusableMailSettings};
