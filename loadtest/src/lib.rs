//! Load tests of Doorbuster: a generator, a comparison of ways to sell, and the proof of what buyers were told.
//!
//! Modules stand in reading order. Everything but [`generator`] and [`output`] starts private servers of its own, on the
//! machine's disk.

pub mod generator;
pub mod output;
pub mod run;
pub mod ways;
pub mod served;
pub mod machine;
pub mod stage;
pub mod verify;
pub mod checkout;
pub mod waiting;
pub mod line;
pub mod compare;
pub mod versus;
pub mod staged;
pub mod siege;
