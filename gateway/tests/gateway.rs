//! The gateway over real HTTP, the program as a process, and whole demos: one binary, so that it is linked once.

mod support;
mod http;
mod process;
mod demo;
mod docs;
