//! What can keep us from finding out what Redis did.

use redis::{RedisError, RetryMethod};

use crate::scripting::{Refusal, ScriptError, describe, is_retryable};

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The warehouse was never loaded, or some of its keys are gone. Never shown as sold out.
    #[error("the warehouse is not loaded in Redis")]
    NotLoaded,
    /// Redis may have forgotten claims, or our epoch is old. Never shown as sold out.
    #[error("the warehouse is fenced until it has been rebuilt")]
    Fenced,
    /// A newer load has begun.
    #[error("a newer load of this warehouse has begun")]
    Stale,
    /// An earlier grant or chunk is missing.
    #[error("an earlier grant or chunk is missing in Redis")]
    Gap,
    /// Nothing was done: every send was refused, or none was made.
    #[error("{}", describe("Redis", *.why, .error))]
    Refused { why: Refusal, error: RedisError },
    /// Redis gave no answer, or one that proves nothing. What was sent may have been executed.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    #[error("Redis answered {script} with something that is not in the contract: {what}")]
    BadReply { script: &'static str, what: String },
    /// The queue in front of a warehouse is full, or this process is stopping. Nothing was sent.
    #[error("too many claims are waiting for this warehouse")]
    Overloaded,
}

impl TokenError {
    /// Whether Redis did answer, and what it has there is not what a warehouse has: a key of another type, say.
    pub fn is_about_the_keys(&self) -> bool {
        match self {
            Self::BadReply { .. } => true,
            // The server has answered, and would answer so again.
            Self::Redis(error) => !error.is_io_error() && matches!(error.retry_method(), RetryMethod::NoRetry),
            _ => false,
        }
    }

    /// Whether the same call may succeed when it is made again. Every script may be called twice.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Redis(error) => is_retryable(error),
            Self::Refused { .. } | Self::NotLoaded | Self::Fenced | Self::Gap | Self::Overloaded => true,
            Self::Stale | Self::BadReply { .. } => false,
        }
    }
}

impl From<ScriptError> for TokenError {
    fn from(error: ScriptError) -> Self {
        match error {
            ScriptError::Refused { why, error } => Self::Refused { why, error },
            ScriptError::Redis(error) => Self::Redis(error),
            ScriptError::BadReply { script, what } => Self::BadReply { script, what },
        }
    }
}
