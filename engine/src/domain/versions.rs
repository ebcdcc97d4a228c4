//! Versions of what people edit: who changes something says which version he has seen.

use serde::{Deserialize, Serialize};

/// Counts the edits of one thing, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub i64);

/// Which versions an edit was made for. Compared under the lock of what is edited, never before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Whatever is there, so long as something is.
    Any,
    OneOf(Vec<Version>),
}

impl Expected {
    pub fn admits(&self, version: Version) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(versions) => versions.contains(&version),
        }
    }
}
