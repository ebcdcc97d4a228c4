//! What can keep us from finding out what a script did, whoever called it.

use redis::{RedisError, RetryMethod};

use super::refusal::{Refusal, describe};

#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// Nothing was done: every send was refused, or none was made.
    #[error("{}", describe("Redis", *.why, .error))]
    Refused { why: Refusal, error: RedisError },
    /// Redis gave no answer, or one that proves nothing. What was sent may have been executed.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    #[error("Redis answered {script} with something that is not in the contract: {what}")]
    BadReply { script: &'static str, what: String },
}

/// What the client itself would have tried again had it had more time: above all a cluster or a server that is being
/// replaced (MOVED, CLUSTERDOWN, READONLY, LOADING, no connection to a primary).
pub(crate) fn is_retryable(error: &RedisError) -> bool {
    Refusal::of(error).is_some()
        || error.is_io_error()
        || !matches!(error.retry_method(), RetryMethod::NoRetry | RetryMethod::Reconnect)
}
