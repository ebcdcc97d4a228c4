//! The line of a drop: who joins and leaves, what everybody sees of it, and the worker that seals it, draws and gives units.

mod board;
mod mails;
mod places;
mod publish;
mod reveal;
mod steps;

pub use board::{Board, BoardOf};
pub use places::{JoinAsked, KnownLine, LineJoined, MyPlace, Where};
pub use publish::NoBundle;
pub use reveal::{RevealRefused, RevealTaken, Revealing};
pub use steps::{Answer, LineMemory, LineReport};
