//! The line of a drop in Postgres: who waits, and what the rounds gave them.
//!
//! The order of locks: the drop, `lines`, `line_counters`, entries by number, then as everywhere (ledger/mod.rs). A join takes the
//! counter alone, a round everything but the counter. The cursors of mails are taken by themselves.

mod draws;
mod joins;
mod mails;
mod rows;
mod rounds;

pub use draws::{NewRoot, SealedEntry, Sealing};
pub use joins::{Changed, Choice, Joined, LeftPlace, LineEntry, NewEntry};
pub use mails::LineMail;
pub use rounds::{Begin, Chunk, ChunkRow, OrderOfLine, Restocked};
pub use rows::{BoardRow, LineKeys};

pub(super) use joins::JoinCall;
pub(super) use rows::{insert_line, write_change};
