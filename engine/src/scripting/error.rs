//! What can keep us from finding out what a script did, whoever called it.

use redis::{RedisError, RetryMethod};

#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// Redis gave no answer, or refused. What was sent may have been executed.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    #[error("Redis answered {script} with something that is not in the contract: {what}")]
    BadReply { script: &'static str, what: String },
}

/// What the client itself would have tried again had it had more time: above all a cluster or a server that is being
/// replaced (MOVED, CLUSTERDOWN, READONLY, LOADING, no connection to a primary).
pub(crate) fn is_retryable(error: &RedisError) -> bool {
    error.is_io_error() || !matches!(error.retry_method(), RetryMethod::NoRetry | RetryMethod::Reconnect)
}
