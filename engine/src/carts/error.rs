//! What can keep us from finding out what became of a cart.

use redis::RedisError;

use crate::scripting::{Refusal, ScriptError, describe, is_retryable};

#[derive(Debug, thiserror::Error)]
pub enum CartError {
    /// Nothing was done: every send was refused, or none was made.
    #[error("{}", describe("the carts' Redis", *.why, .error))]
    Refused { why: Refusal, error: RedisError },
    /// Redis gave no answer, or one that proves nothing. What was sent may have been executed.
    #[error("the carts' Redis: {0}")]
    Redis(#[from] RedisError),
    #[error("the carts' Redis answered {script} with something that is not in the contract: {what}")]
    BadReply { script: &'static str, what: String },
    #[error("a price of {0} minor units does not fit into a cart")]
    PriceTooLarge(i64),
}

impl CartError {
    /// Whether the same call may succeed when it is made again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Redis(error) => is_retryable(error),
            Self::Refused { .. } => true,
            Self::BadReply { .. } | Self::PriceTooLarge(_) => false,
        }
    }
}

impl From<ScriptError> for CartError {
    fn from(error: ScriptError) -> Self {
        match error {
            ScriptError::Refused { why, error } => Self::Refused { why, error },
            ScriptError::Redis(error) => Self::Redis(error),
            ScriptError::BadReply { script, what } => Self::BadReply { script, what },
        }
    }
}
