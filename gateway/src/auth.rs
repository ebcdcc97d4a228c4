//! Who is asking: the `sub` of a bearer token (JWT). One algorithm, and our secrets; whatever else a token says of itself is
//! not believed. A buyer learns that their token is refused, and nothing more; the log says why, for who issues tokens.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::ids::{BuyerId, InvalidId};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, TokenData, Validation};
use serde::{Deserialize, Serialize};

use crate::config::{Secret, TokenKey};
use crate::error::Problem;
use crate::state::Gate;

/// Clocks of issuer and gateway may differ by this much; the library's own 60 s would keep dead tokens alive.
const LEEWAY: SignedDuration = SignedDuration::from_secs(5);

/// The buyer of this request, taken from its token.
#[derive(Debug, Clone)]
pub struct Buyer(pub BuyerId);

/// Verifies tokens.
pub struct Verifier {
    /// Each with its `kid`, if it has one.
    keys: Vec<(Option<String>, DecodingKey)>,
    validation: Validation,
    life_max: Option<SignedDuration>,
    clock: Clock,
}

#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    // RFC 7519 allows fractions of a second.
    exp: f64,
    nbf: Option<f64>,
    iat: Option<f64>,
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
    #[error("its header names the key {0:?}, which is none of ours")]
    UnknownKey(String),
    #[error("it has expired")]
    Expired,
    #[error("it lives longer than a token may")]
    TooLong,
    #[error("it is not good yet")]
    NotYetGood,
    #[error("its `sub`: {0}")]
    Subject(InvalidId),
}

impl Verifier {
    pub fn new(secret: &Secret, clock: Clock) -> Self {
        Self::of(&[TokenKey::unnamed(secret.clone())], clock)
    }

    /// With several secrets, while they are rotated: a token's `kid` names the one that has signed it.
    pub fn of(keys: &[TokenKey], clock: Clock) -> Self {
        use_crypto();
        let mut validation = Validation::new(Algorithm::HS256);
        // The library would ask the machine's clock; ours is asked below.
        validation.validate_exp = false;
        validation.set_required_spec_claims(&["exp", "sub"]);
        // The secret is ours alone: a token that it signs is for us, unless we are told an audience.
        validation.validate_aud = false;
        let key = |key: &TokenKey| (key.id.clone(), DecodingKey::from_secret(key.secret.expose().as_bytes()));
        Self { keys: keys.iter().map(key).collect(), validation, life_max: None, clock }
    }

    /// Takes tokens of this issuer alone.
    pub fn from_issuer(mut self, issuer: Option<&str>) -> Self {
        if let Some(issuer) = issuer {
            self.validation.set_issuer(&[issuer]);
            self.validation.required_spec_claims.insert("iss".to_owned());
        }
        self
    }

    /// Takes no token that lives longer than this, from its `iat`, or from now if it has none.
    pub fn living_at_most(mut self, life_max: Option<SignedDuration>) -> Self {
        self.life_max = life_max;
        self
    }

    /// Takes tokens of this audience alone; otherwise whatever a token says of its audience is not looked at.
    pub fn for_audience(mut self, audience: Option<&str>) -> Self {
        if let Some(audience) = audience {
            self.validation.validate_aud = true;
            self.validation.set_audience(&[audience]);
            self.validation.required_spec_claims.insert("aud".to_owned());
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
        let data = self.decode(token)?;
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
        let begins = claims.iat.unwrap_or(now);
        if self.life_max.is_some_and(|longest| claims.exp - begins > longest.as_secs_f64() + leeway) {
            return Err(RefusedToken::TooLong);
        }
        if claims.nbf.is_some_and(|nbf| nbf - leeway > now) {
            return Err(RefusedToken::NotYetGood);
        }
        claims.sub.parse().map_err(RefusedToken::Subject)
    }

    /// A `kid` that is ours names its key. One that is not ours may be the issuer's own name for a secret that we were told
    /// without one; a token without any may be signed with each.
    fn decode(&self, token: &str) -> Result<TokenData<Claims>, RefusedToken> {
        // Nearly every shop has one: its tokens are read once.
        if let [(None, key)] = &self.keys[..] {
            return jsonwebtoken::decode::<Claims>(token, key, &self.validation).map_err(RefusedToken::Unusable);
        }
        let kid = jsonwebtoken::decode_header(token).map_err(RefusedToken::Unusable)?.kid;
        let is_named = kid.is_some() && self.keys.iter().any(|(id, _)| *id == kid);
        let may_be = |id: &Option<String>| match is_named {
            true => *id == kid,
            false => kid.is_none() || id.is_none(),
        };
        let mut refused = RefusedToken::UnknownKey(kid.clone().unwrap_or_default());
        for (_, key) in self.keys.iter().filter(|(id, _)| may_be(id)) {
            match jsonwebtoken::decode::<Claims>(token, key, &self.validation) {
                Ok(data) => return Ok(data),
                Err(error) => refused = RefusedToken::Unusable(error),
            }
        }
        Err(refused)
    }
}

/// A token for a test buyer.
pub fn mint(secret: &Secret, buyer: &BuyerId, now: Timestamp, expires_in: SignedDuration) -> String {
    mint_with(&TokenKey::unnamed(secret.clone()), buyer, now, expires_in)
}

/// A token for a test buyer, which names its key if that has a name.
pub fn mint_with(key: &TokenKey, buyer: &BuyerId, now: Timestamp, expires_in: SignedDuration) -> String {
    use_crypto();
    let claims = Minted { sub: buyer.as_str(), iat: now.as_second(), exp: now.as_second() + expires_in.as_secs() };
    let header = Header { kid: key.id.clone(), ..Header::new(Algorithm::HS256) };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(key.secret.expose().as_bytes()))
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
    fn secrets_rotate_by_the_name_that_a_token_gives_its_key() {
        let clock = Clock::manual("2026-11-23T10:00:00Z".parse().unwrap());
        let buyer: BuyerId = "ada".parse().unwrap();
        let key = |id: Option<&str>, letter: &str| TokenKey {
            id: id.map(str::to_owned),
            secret: Secret::from(letter.repeat(32)),
        };
        let (old, new, plain) = (key(Some("2025"), "o"), key(Some("2026"), "n"), key(None, "p"));
        let token = |signed_by: &TokenKey| mint_with(signed_by, &buyer, clock.now(), SignedDuration::from_secs(60));
        let takes = |keys: &[TokenKey], token: &str| Verifier::of(keys, clock.clone()).verify(token).is_ok();
        let both = [new.clone(), old.clone()];
        // Before, during and after the rotation.
        assert!(takes(&both[1..], &token(&old)) && !takes(&both[1..], &token(&new)));
        assert!(takes(&both, &token(&old)) && takes(&both, &token(&new)));
        assert!(takes(&both[..1], &token(&new)) && !takes(&both[..1], &token(&old)));
        // From one secret without a name to named ones.
        let and_plain = [new.clone(), plain.clone()];
        assert!(takes(&and_plain, &token(&plain)) && takes(&and_plain, &token(&new)));
        // An issuer that names no key, and one that names it otherwise.
        let unnamed = |signed_by: &TokenKey| token(&TokenKey { id: None, ..signed_by.clone() });
        assert!(takes(&both, &unnamed(&old)) && takes(&both, &unnamed(&new)) && !takes(&both, &unnamed(&plain)));
        let named_otherwise = token(&key(Some("theirs"), "p"));
        assert!(takes(&and_plain, &named_otherwise) && !takes(&both, &named_otherwise));
        // A name that belongs to another secret.
        assert!(!takes(&both, &token(&key(Some("2025"), "n"))));
    }

    #[test]
    fn a_token_is_from_the_issuer_and_lives_no_longer_than_configured() {
        use_crypto();
        let clock = Clock::manual("2026-11-23T10:00:00Z".parse().unwrap());
        let now = clock.now().as_second();
        let key = EncodingKey::from_secret(secret().expose().as_bytes());
        let hour = Some(SignedDuration::from_hours(1));
        for (claims, issuer, life_max, is_taken) in [
            (serde_json::json!({}), None, None, true),
            (serde_json::json!({}), Some("us"), None, false),
            (serde_json::json!({ "iss": "us" }), Some("us"), None, true),
            (serde_json::json!({ "iss": "them" }), Some("us"), None, false),
            (serde_json::json!({ "iss": ["us", "them"] }), Some("us"), None, true),
            (serde_json::json!({ "exp": now + 3_600 }), None, hour, true),
            (serde_json::json!({ "exp": now + 3_700 }), None, None, true),
            (serde_json::json!({ "exp": now + 3_700 }), None, hour, false),
            (serde_json::json!({ "exp": now + 60, "iat": now - 3_000 }), None, hour, true),
            (serde_json::json!({ "exp": now + 60, "iat": now - 9_000 }), None, hour, false),
        ] {
            let mut all = serde_json::json!({ "sub": "ada", "exp": now + 60 });
            claims.as_object().unwrap().iter().for_each(|(name, value)| all[name] = value.clone());
            let token = jsonwebtoken::encode(&Header::default(), &all, &key).unwrap();
            let verifier = Verifier::new(&secret(), clock.clone()).from_issuer(issuer).living_at_most(life_max);
            assert_eq!(verifier.verify(&token).is_ok(), is_taken, "{claims} {issuer:?} {life_max:?}");
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
