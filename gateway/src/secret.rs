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
    #[arg(long, env = "DOORBUSTER_JWT_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub jwt_secret: Secret,
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
    pub fn check(&self) -> Result<(), BadConfig> {
        if self.jwt_secret.expose().len() < JWT_SECRET_BYTES_MIN {
            return bad(format!(
                "--jwt-secret (DOORBUSTER_JWT_SECRET) must be at least {JWT_SECRET_BYTES_MIN} bytes long"
            ));
        }
        Ok(())
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
    fn provider_webhook_secrets_are_a_list_of_long_ones() {
        let secrets = |text: &str| provider_webhook_secrets(Some(&Secret::from(text.to_owned())));
        assert_eq!(provider_webhook_secrets(None), Ok(Vec::new()));
        assert_eq!(secrets("whsec_0123456789, whsec_9876543210,").unwrap().len(), 2);
        let error = secrets("whsec_0123456789,short").unwrap_err();
        assert!(!error.0.contains("short"), "{error}");
    }
}
