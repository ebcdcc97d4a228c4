//! What an operator asks for: once each, under his name.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::ids::IdempotencyKey;

/// One request of an operator, so that it is done once. Given by him, or made of his name and his idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(pub Uuid);

impl RequestId {
    /// A UUID of version 8 (RFC 9562): the hash of operator and key, so that two operators may use one key.
    pub fn new(operator: &str, key: &IdempotencyKey) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"doorbuster operator request 1");
        // The length in front keeps (operator "ab", key "c") apart from (operator "a", key "bc").
        hash.update((operator.len() as u32).to_be_bytes());
        hash.update(operator.as_bytes());
        hash.update(key.as_str().as_bytes());
        let mut bytes = [0_u8; 16];
        bytes.copy_from_slice(&hash.finalize()[..16]);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

/// Who asks for something, and under which id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorRequest {
    pub id: RequestId,
    /// His name, for the history.
    pub actor: String,
}

/// Something was done for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done<T> {
    Now(T),
    /// The same request had done it; nothing was done now. As it was then.
    Before(T),
}

impl<T> Done<T> {
    pub fn is_replay(&self) -> bool {
        matches!(self, Self::Before(_))
    }

    pub fn into_inner(self) -> T {
        match self {
            Self::Now(inner) | Self::Before(inner) => inner,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_of_two_operators_is_two_requests() {
        let id = |operator, key: &str| RequestId::new(operator, &key.parse().unwrap());
        assert_eq!(id("ada", "k"), id("ada", "k"));
        assert_ne!(id("ada", "k"), id("bob", "k"));
        assert_ne!(id("ab", "c"), id("a", "bc"));
    }
}
