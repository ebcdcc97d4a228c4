//! Who may use the operators' API: names with secrets, from the configuration. The name is the actor in every history row.
//!
//! A layer around all of those routes asks, so that none can forget to; handlers take the [`Operator`] that it found.

use std::fmt;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use clap::Args;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use crate::auth;
use crate::config::{BadConfig, Secret, bad, pairs};
use crate::error::Problem;
use crate::routes::ops::Ops;

/// As long as the buyers' secret: whoever guesses one sets prices and stock.
const OPERATOR_SECRET_BYTES_MIN: usize = 32;
/// A name stands in log lines and history rows.
const OPERATOR_NAME_BYTES_MAX: usize = 32;

#[derive(Debug, Clone, Default, Args)]
pub struct OperatorTokens {
    /// Operators and their bearer tokens for /v1 of the operators' listener, comma-separated: ada=SECRET,bob=SECRET. Secrets have
    /// at least 32 bytes. Without any, those routes answer 403
    #[arg(
        long,
        env = "DOORBUSTER_OPERATOR_TOKENS",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "NAME=SECRET"
    )]
    pub operator_tokens: Vec<Secret>,
}

/// The operator of this request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator(pub Arc<str>);

/// The operators that there are. Cheap to clone; holds digests, never the secrets.
#[derive(Clone, Default)]
pub struct Operators(Arc<[(Arc<str>, [u8; 32])]>);

impl OperatorTokens {
    pub fn check(&self) -> Result<Operators, BadConfig> {
        const WHAT: &str = "--operator-tokens (DOORBUSTER_OPERATOR_TOKENS)";
        let mut operators: Vec<(Arc<str>, [u8; 32])> = Vec::new();
        for (name, secret) in pairs(&format!("{WHAT}: NAME=SECRET"), &self.operator_tokens)? {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
            if !(1..=OPERATOR_NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(allowed) {
                return bad(format!("{WHAT}: {name:?} is not a name: 1 to 32 of A-Z, a-z, 0-9 and -_.@"));
            }
            if secret.len() < OPERATOR_SECRET_BYTES_MIN || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
                return bad(format!(
                    "{WHAT}: the secret of {name} must be at least {OPERATOR_SECRET_BYTES_MIN} visible ASCII characters"
                ));
            }
            let digest = Sha256::digest(secret.as_bytes()).into();
            if let Some((other, _)) = operators.iter().find(|(_, known)| *known == digest) {
                return bad(format!("{WHAT}: {other} and {name} have the same secret: nobody could tell them apart"));
            }
            operators.push((name.into(), digest));
        }
        Ok(Operators(operators.into()))
    }
}

impl Operators {
    /// Whose secret this is. How long it takes tells nothing about how much of a secret was right: digests are compared,
    /// every one of them, all of their bytes.
    fn named_by(&self, token: &str) -> Option<Operator> {
        let digest = Sha256::digest(token.as_bytes());
        let mut found = u32::MAX;
        for (position, (_, known)) in self.0.iter().enumerate() {
            let is_it: Choice = known.as_slice().ct_eq(digest.as_slice());
            found.conditional_assign(&(position as u32), is_it);
        }
        self.0.get(found as usize).map(|(name, _)| Operator(Arc::clone(name)))
    }

    /// Who they are.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_ref())
    }

    pub fn has_secret(&self, secret: &Secret) -> bool {
        self.named_by(secret.expose()).is_some()
    }
}

impl fmt::Debug for Operators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Operator {
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// The layer around every route of the operators' API.
pub(crate) async fn require(State(ops): State<Ops>, mut request: Request, next: Next) -> Response {
    if ops.operators.0.is_empty() {
        return Problem::OperatorsOff.into_response();
    }
    let found =
        auth::bearer(request.headers()).and_then(|token| ops.operators.named_by(token).ok_or(Problem::TokenInvalid));
    match found {
        Ok(operator) => {
            request.extensions_mut().insert(operator);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

impl<S: Sync> FromRequestParts<S> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // Missing only where somebody declared the route outside of the layer.
        parts.extensions.get::<Self>().cloned().ok_or(Problem::Internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: &str = "0123456789abcdef0123456789abcdef";
    const BOB: &str = "0123456789abcdef0123456789abcdeg";

    fn operators(given: &[&str]) -> Result<Operators, BadConfig> {
        let operator_tokens = given.iter().map(|text| Secret::from((*text).to_owned())).collect();
        OperatorTokens { operator_tokens }.check()
    }

    #[test]
    fn each_secret_names_its_operator_and_nothing_else_does() {
        let both = operators(&[&format!("ada={ADA}"), &format!("bob={BOB}")]).unwrap();
        assert_eq!(both.named_by(ADA).unwrap().name(), "ada");
        assert_eq!(both.named_by(BOB).unwrap().name(), "bob");
        for wrong in ["", "ada", &ADA[..31], &format!("{ADA}0"), &format!("ada={ADA}")] {
            assert_eq!(both.named_by(wrong), None, "{wrong:?}");
        }
        assert_eq!(operators(&[]).unwrap().named_by(""), None);
        assert!(!format!("{both:?}").contains(ADA));
    }

    #[test]
    fn operators_that_cannot_be_told_apart_or_guessed_are_refused() {
        for (given, wrong) in [
            (vec!["ada".to_owned()], "has no ="),
            (vec![format!("={ADA}")], "is not a name"),
            (vec![format!("a b={ADA}")], "is not a name"),
            (vec![format!("ada={}", &ADA[..31])], "at least 32"),
            (vec![format!("ada={ADA}"), format!("ada={BOB}")], "twice"),
            (vec![format!("ada={ADA}"), format!("bob={ADA}")], "the same secret"),
        ] {
            let given = given.iter().map(String::as_str).collect::<Vec<_>>();
            let error = operators(&given).unwrap_err();
            assert!(error.0.contains(wrong) && !error.0.contains(&ADA[..31]), "{error}");
        }
    }
}
