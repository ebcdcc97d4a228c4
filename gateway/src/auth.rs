//! Who is asking: the `sub` of a bearer token (JWT). One algorithm, one secret; whatever else a token says of itself is not
//! believed.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::ids::BuyerId;
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

impl Verifier {
    pub fn new(secret: &Secret, clock: Clock) -> Self {
        use_crypto();
        let mut validation = Validation::new(Algorithm::HS256);
        // The library would ask the machine's clock; ours is asked below.
        validation.validate_exp = false;
        validation.set_required_spec_claims(&["exp", "sub"]);
        Self { key: DecodingKey::from_secret(secret.expose().as_bytes()), validation, clock }
    }

    pub fn verify(&self, token: &str) -> Result<BuyerId, Problem> {
        let data = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation);
        let claims = data.map_err(|_| Problem::TokenInvalid)?.claims;
        let now = self.clock.now().as_second() as f64;
        let leeway = LEEWAY.as_secs_f64();
        if claims.exp + leeway <= now || claims.nbf.is_some_and(|nbf| nbf - leeway > now) {
            return Err(Problem::TokenInvalid);
        }
        claims.sub.parse().map_err(|_| Problem::TokenInvalid)
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
        let no_end = jsonwebtoken::encode(&Header::default(), &serde_json::json!({ "sub": "ada" }), &key).unwrap();
        assert_eq!(verifier.verify(&no_end), Err(Problem::TokenInvalid));
    }
}
