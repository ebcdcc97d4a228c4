//! Text that is given by the operator and shown to nobody.

use std::fmt;

use clap::Args;

use crate::config::{BadConfig, bad};
use crate::receipt::ReceiptKey;

/// HMAC-SHA256 is as strong as its key up to 32 bytes; a shorter secret can be guessed from one token.
const JWT_SECRET_BYTES_MIN: usize = 32;
/// The provider's own are twice as long; a shorter one is a mistake, and could be guessed from one delivery.
const WEBHOOK_SECRET_BYTES_MIN: usize = 16;

/// Text that must not be seen: no `Display`, and `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

#[derive(Debug, Clone, Args)]
pub struct TokenSecret {
    /// Secret of the buyers' bearer tokens (JWT, HS256), at least 32 bytes
    #[arg(
        long,
        env = "DOORBUSTER_JWT_SECRET",
        hide_env_values = true,
        value_name = "SECRET",
        required_unless_present = "jwt_secrets"
    )]
    pub jwt_secret: Option<Secret>,
    /// Several secrets, while they are rotated, as KID=SECRET,KID=SECRET: a token's header `kid` names the one that has
    /// signed it. The first signs what we sign ourselves. Beside it --jwt-secret is for tokens that name none of these
    #[arg(long, env = "DOORBUSTER_JWT_SECRETS", hide_env_values = true, value_name = "SECRETS")]
    pub jwt_secrets: Option<Secret>,
}

/// A secret of buyers' tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenKey {
    /// What the header `kid` of a token calls it.
    pub id: Option<String>,
    pub secret: Secret,
}

impl TokenKey {
    pub fn unnamed(secret: Secret) -> Self {
        Self { id: None, secret }
    }
}

/// The keys that sign and verify receipts.
#[derive(Debug, Clone, Args)]
pub struct ReceiptSecrets {
    /// Keys of the receipts that buyers get with their claims, as ID=SECRET,ID=SECRET: the first signs, all verify.
    /// Secrets have at least 32 bytes. Without any key there are no receipts
    #[arg(long, env = "DOORBUSTER_RECEIPT_KEYS", hide_env_values = true, value_name = "KEYS")]
    pub receipt_keys: Option<Secret>,
}

impl TokenSecret {
    /// At least one key; the first signs.
    pub fn check(&self) -> Result<Vec<TokenKey>, BadConfig> {
        const LIST: &str = "--jwt-secrets (DOORBUSTER_JWT_SECRETS)";
        let mut keys: Vec<TokenKey> = Vec::new();
        let listed = self.jwt_secrets.as_ref().map(Secret::expose).unwrap_or_default();
        for entry in listed.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let Some((id, secret)) = entry.split_once('=').filter(|(id, _)| !id.is_empty()) else {
                return bad(format!("{LIST} must be KID=SECRET,KID=SECRET"));
            };
            if secret.len() < JWT_SECRET_BYTES_MIN {
                return bad(format!("{LIST}: the secret of {id:?} must be at least {JWT_SECRET_BYTES_MIN} bytes long"));
            }
            if keys.iter().any(|key| key.id.as_deref() == Some(id)) {
                return bad(format!("{LIST} names {id:?} twice"));
            }
            keys.push(TokenKey { id: Some(id.to_owned()), secret: Secret::from(secret.to_owned()) });
        }
        // An empty variable beside a list is none.
        let alone = self.jwt_secret.as_ref().filter(|secret| keys.is_empty() || !secret.expose().is_empty());
        if alone.is_some_and(|secret| secret.expose().len() < JWT_SECRET_BYTES_MIN) {
            return bad(format!(
                "--jwt-secret (DOORBUSTER_JWT_SECRET) must be at least {JWT_SECRET_BYTES_MIN} bytes long"
            ));
        }
        keys.extend(alone.cloned().map(TokenKey::unnamed));
        if keys.is_empty() { bad(format!("{LIST} names no secret")) } else { Ok(keys) }
    }
}

impl ReceiptSecrets {
    pub fn check(&self) -> Result<Vec<ReceiptKey>, BadConfig> {
        self.receipt_keys.as_ref().map_or_else(|| Ok(Vec::new()), ReceiptKey::parse_list)
    }
}

/// The provider's secrets, as a list.
pub(crate) fn provider_webhook_secrets(given: Option<&Secret>) -> Result<Vec<Secret>, BadConfig> {
    let secrets = given.map(Secret::expose).unwrap_or_default().split(',').map(str::trim);
    let secrets = secrets.filter(|secret| !secret.is_empty()).map(|secret| Secret::from(secret.to_owned()));
    let secrets = secrets.collect::<Vec<_>>();
    if secrets.iter().any(|secret| secret.expose().len() < WEBHOOK_SECRET_BYTES_MIN) {
        return bad(format!(
            "--provider-webhook-secrets (DOORBUSTER_PROVIDER_WEBHOOK_SECRETS): each must be at least {WEBHOOK_SECRET_BYTES_MIN} bytes long"
        ));
    }
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_secrets_are_one_or_a_list_with_names() {
        let (old, new) = ("o".repeat(32), "n=".repeat(16));
        let keys = |alone: Option<&str>, list: Option<&str>| {
            let secret = |text: Option<&str>| text.map(|text| Secret::from(text.to_owned()));
            let keys = TokenSecret { jwt_secret: secret(alone), jwt_secrets: secret(list) }.check();
            keys.map(|keys| keys.into_iter().map(|key| (key.id, key.secret.0)).collect::<Vec<_>>())
        };
        let named = |id: &str, secret: &str| (Some(id.to_owned()), secret.to_owned());
        // A secret in base64 may end in the sign that stands between a name and its secret.
        assert_eq!(keys(Some(&new), None), Ok(vec![(None, new.clone())]));
        let list = format!("2026={new}, 2025={old},");
        assert_eq!(keys(None, Some(&list)), Ok(vec![named("2026", &new), named("2025", &old)]));
        assert_eq!(keys(Some(""), Some(&list)).unwrap().len(), 2);
        let both = keys(Some(&old), Some(&format!("2026={new}")));
        assert_eq!(both, Ok(vec![named("2026", &new), (None, old.clone())]));
        for bad in ["", "2026", "=secret", "2026=short", &format!("{list}2025={old}"), &format!("2026={old},{new}x")] {
            let error = keys(None, Some(bad)).unwrap_err();
            assert!(!error.0.contains(&old) && !error.0.contains("short"), "{error}");
        }
        assert!(keys(Some("short"), Some(&list)).is_err());
    }

    #[test]
    fn provider_webhook_secrets_are_a_list_of_long_ones() {
        let secrets = |text: &str| provider_webhook_secrets(Some(&Secret::from(text.to_owned())));
        assert_eq!(provider_webhook_secrets(None), Ok(Vec::new()));
        assert_eq!(secrets("whsec_0123456789, whsec_9876543210,").unwrap().len(), 2);
        let error = secrets("whsec_0123456789,short").unwrap_err();
        assert!(!error.0.contains("short"), "{error}");
    }
}
