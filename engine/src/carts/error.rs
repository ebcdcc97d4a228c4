//! What can keep us from finding out what became of a cart.

use redis::RedisError;

use crate::scripting::{ScriptError, is_retryable};

#[derive(Debug, thiserror::Error)]
pub enum CartError {
    /// Redis gave no answer, or refused. What was sent may have been executed.
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
            Self::BadReply { .. } | Self::PriceTooLarge(_) => false,
        }
    }
}

impl From<ScriptError> for CartError {
    fn from(error: ScriptError) -> Self {
        match error {
            ScriptError::Redis(error) => Self::Redis(error),
            ScriptError::BadReply { script, what } => Self::BadReply { script, what },
        }
    }
}
