//! Who is asking: the `sub` of a bearer token (JWT). One algorithm, one secret; whatever else a token says of itself is not
//! believed. A buyer learns that their token is refused, and nothing more; the log says why, for who issues tokens.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::ids::{BuyerId, InvalidId};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::config::Secret;
use crate::error::Problem;
use crate::state::Gate;

/// Clocks of issuer and gateway may differ by this much; the library's own 60 s would keep dead tokens alive.
const LEEWAY: SignedDuration = SignedDuration::from_secs(5);

/// The buyer of this request, taken from its token.
#[derive(Debug, Clone)]
pub struct Buyer(pub BuyerId);

/// Verifies tokens.
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
    clock: Clock,
}

#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    // RFC 7519 allows fractions of a second.
    exp: f64,
    nbf: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Minted<'a> {
    sub: &'a str,
    iat: i64,
    exp: i64,
}

/// Why a token is refused.
#[derive(Debug, thiserror::Error)]
enum RefusedToken {
    #[error("{0}")]
    Unusable(jsonwebtoken::errors::Error),
    #[error("its header `crit` names extensions, and none is known here")]
    Critical,
    #[error("it has expired")]
    Expired,
    #[error("it is not good yet")]
    NotYetGood,
    #[error("its `sub`: {0}")]
    Subject(InvalidId),
}

impl Verifier {
    pub fn new(secret: &Secret, clock: Clock) -> Self {
        use_crypto();
        let mut validation = Validation::new(Algorithm::HS256);
        // The library would ask the machine's clock; ours is asked below.
        validation.validate_exp = false;
        validation.set_required_spec_claims(&["exp", "sub"]);
        // The secret is ours alone: a token that it signs is for us, unless we are told an audience.
        validation.validate_aud = false;
        Self { key: DecodingKey::from_secret(secret.expose().as_bytes()), validation, clock }
    }

    /// Takes tokens of this audience alone; otherwise whatever a token says of its audience is not looked at.
    pub fn for_audience(mut self, audience: Option<&str>) -> Self {
        if let Some(audience) = audience {
            self.validation.validate_aud = true;
            self.validation.set_audience(&[audience]);
            self.validation.set_required_spec_claims(&["exp", "sub", "aud"]);
        }
        self
    }

    pub fn verify(&self, token: &str) -> Result<BuyerId, Problem> {
        self.buyer_of(token).map_err(|why| {
            // Anybody can cause this line.
            tracing::debug!(%why, "a token is refused: {why}");
            Problem::TokenInvalid
        })
    }

    fn buyer_of(&self, token: &str) -> Result<BuyerId, RefusedToken> {
        let data =
            jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation).map_err(RefusedToken::Unusable)?;
        // RFC 7515: what a token calls critical must be understood, and we understand no extension.
        if data.header.crit.is_some() {
            return Err(RefusedToken::Critical);
        }
        let claims = data.claims;
        let now = self.clock.now().as_second() as f64;
        let leeway = LEEWAY.as_secs_f64();
        if claims.exp + leeway <= now {
            return Err(RefusedToken::Expired);
        }
        if claims.nbf.is_some_and(|nbf| nbf - leeway > now) {
            return Err(RefusedToken::NotYetGood);
        }
        claims.sub.parse().map_err(RefusedToken::Subject)
    }
}

/// A token for a test buyer.
pub fn mint(secret: &Secret, buyer: &BuyerId, now: Timestamp, expires_in: SignedDuration) -> String {
    use_crypto();
    let claims = Minted { sub: buyer.as_str(), iat: now.as_second(), exp: now.as_second() + expires_in.as_secs() };
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
        .expect("texts and numbers can be signed by HMAC")
}

/// The library chooses by itself only while no other crate switches on its second implementation.
pub(crate) fn use_crypto() {
    // A second call finds the first one's choice, which is the same.
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
}

/// The bearer token of a request, which sends exactly one.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut headers = headers.get_all(AUTHORIZATION).iter();
    let (Some(header), None) = (headers.next(), headers.next()) else {
        return Err(Problem::TokenMissing);
    };
    let (scheme, token) = header.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Problem::TokenMissing)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(Problem::TokenMissing) }
}

impl FromRequestParts<Gate> for Buyer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gate: &Gate) -> Result<Self, Problem> {
        gate.verifier.verify(bearer(&parts.headers)?).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret {
        Secret::from("0123456789abcdef0123456789abcdef".to_owned())
    }

    #[test]
    fn a_token_lives_until_its_end_and_five_seconds_more() {
        let start: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
        let clock = Clock::manual(start);
        let verifier = Verifier::new(&secret(), clock.clone());
        let buyer: BuyerId = "ada".parse().unwrap();
        let token = mint(&secret(), &buyer, start, SignedDuration::from_secs(60));
        for (passed, is_good) in [(0, true), (60, true), (64, true), (65, false), (3600, false)] {
            let then = start.checked_add(SignedDuration::from_secs(passed)).unwrap();
            clock.advance(then.duration_since(clock.now()));
            assert_eq!(verifier.verify(&token).ok(), is_good.then(|| buyer.clone()), "after {passed} s");
        }
    }

    #[test]
    fn a_token_signed_otherwise_is_refused() {
        use_crypto();
        let clock = Clock::manual("2026-11-23T10:00:00Z".parse().unwrap());
        let verifier = Verifier::new(&secret(), clock.clone());
        let claims = serde_json::json!({ "sub": "ada", "exp": clock.now().as_second() + 60 });
        let key = EncodingKey::from_secret(secret().expose().as_bytes());
        // The right secret, and another algorithm of the same family.
        let other = jsonwebtoken::encode(&Header::new(Algorithm::HS512), &claims, &key).unwrap();
        assert_eq!(verifier.verify(&other), Err(Problem::TokenInvalid));
        let critical = Header { crit: Some(vec!["b64".to_owned()]), ..Header::default() };
        let critical = jsonwebtoken::encode(&critical, &claims, &key).unwrap();
        assert_eq!(verifier.verify(&critical), Err(Problem::TokenInvalid));
        let no_end = jsonwebtoken::encode(&Header::default(), &serde_json::json!({ "sub": "ada" }), &key).unwrap();
        assert_eq!(verifier.verify(&no_end), Err(Problem::TokenInvalid));
    }

    #[test]
    fn an_audience_matters_once_it_is_configured() {
        use_crypto();
        let clock = Clock::manual("2026-11-23T10:00:00Z".parse().unwrap());
        let key = EncodingKey::from_secret(secret().expose().as_bytes());
        let verifier = |audience| Verifier::new(&secret(), clock.clone()).for_audience(audience);
        for (aud, is_taken, is_taken_by_shop) in [
            (None, true, false),
            (Some(serde_json::json!("authenticated")), true, false),
            (Some(serde_json::json!("shop")), true, true),
            (Some(serde_json::json!(["other", "shop"])), true, true),
        ] {
            let mut claims = serde_json::json!({ "sub": "ada", "exp": clock.now().as_second() + 60 });
            if let Some(aud) = &aud {
                claims["aud"] = aud.clone();
            }
            let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
            let taken = (verifier(None).verify(&token).is_ok(), verifier(Some("shop")).verify(&token).is_ok());
            assert_eq!(taken, (is_taken, is_taken_by_shop), "{aud:?}");
        }
    }

    #[test]
    fn a_buyer_may_have_a_name_of_255_characters() {
        let clock = Clock::manual("2026-11-23T10:00:00Z".parse().unwrap());
        let verifier = Verifier::new(&secret(), clock.clone());
        let long: BuyerId = "a".repeat(255).parse().unwrap();
        let token = mint(&secret(), &long, clock.now(), SignedDuration::from_secs(60));
        assert_eq!(verifier.verify(&token), Ok(long));
        assert!("a".repeat(256).parse::<BuyerId>().is_err());
    }
}
