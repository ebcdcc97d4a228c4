//! The token scripts against a model: random operations on a real Redis and on plain Rust, and after each of them the same
//! reply, and every few of them the same warehouse. And calls that are wrong in form: refused before the first write.

mod harness;
mod warehouse;
mod operations;
mod driver;
mod random;
mod large;
mod malformed;
mod lost;
