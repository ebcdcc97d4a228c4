//! How the adapters that live in Redis reach it: the connection, and what a script is. Who keeps what there is their affair.

mod contract;
mod address;
mod refusal;
mod server;
mod node;
mod connection;
mod facts;
mod error;

pub use connection::Reach;
pub(crate) use connection::{Connection, Primary, connect, first_node, open, open_server};
#[cfg(test)]
pub(crate) use contract::checks;
pub use contract::{ReplyCode, ScriptContract};
pub(crate) use contract::{ScriptCall, script};
pub use error::ScriptError;
pub(crate) use error::is_retryable;
pub use facts::ServerFacts;
pub use refusal::Refusal;
pub(crate) use refusal::describe;
