//! Types and state machines. No I/O, no clock, no chance: everything here is a function of its arguments.

pub mod ids;
pub mod money;
