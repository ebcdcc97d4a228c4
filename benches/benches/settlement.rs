//! Settlement against COPY.
fn main() {}
