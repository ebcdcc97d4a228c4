//! Whose cart a request is about: a buyer's, by their token, or a guest's, by the session they were given. We sign the sessions
//! that we give out, so that nobody can make up carts, nor have a session that they chose themselves merged into somebody
//! else's cart.

use axum::extract::FromRequestParts;
use axum::http::HeaderName;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doorbuster_engine::domain::carts::{CartOwner, CartSession};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::auth::Buyer;
use crate::config::{Secret, TokenKey};
use crate::error::Problem;
use crate::state::Gate;

pub const CART_SESSION: HeaderName = HeaderName::from_static("cart-session");

/// What keeps the key of sessions apart from whatever else the secret of the tokens signs.
const PURPOSE: &[u8] = b"doorbuster: sessions of guests' carts, 1";
/// Of the 32 bytes of a signature so many go with the session: who guesses needs 2^127 requests.
const SIGNATURE_BYTES: usize = 16;

/// Signs guests' sessions, and knows them again. All gateways with one secret of the tokens know the same ones; while secrets are
/// rotated, the first one signs and all of them know.
pub struct Sessions {
    key: Hmac<Sha256>,
    older: Vec<Hmac<Sha256>>,
}

impl Sessions {
    pub fn new(token_secret: &Secret) -> Self {
        let mut derived = keyed(token_secret.expose().as_bytes());
        derived.update(PURPOSE);
        Self { key: keyed(&derived.finalize().into_bytes()), older: Vec::new() }
    }

    pub fn of(token_keys: &[TokenKey]) -> Self {
        let mut all = token_keys.iter().map(|key| Self::new(&key.secret));
        let first = all.next().expect("the configuration has at least one secret of tokens");
        Self { older: all.map(|sessions| sessions.key).collect(), ..first }
    }

    /// A session that nobody has yet, as it is given out: 24 characters that name the cart, and 22 of signature.
    pub fn begin(&self) -> String {
        self.signed(&CartSession::from_random(rand::random()))
    }

    /// The session as it is given out.
    pub fn signed(&self, session: &CartSession) -> String {
        let signature = mac(&self.key, session).finalize().into_bytes();
        format!("{}{}", session.as_str(), URL_SAFE_NO_PAD.encode(&signature[..SIGNATURE_BYTES]))
    }

    /// The session in what a guest sends; `None` if we have never given that out.
    pub fn known(&self, text: &str) -> Option<CartSession> {
        let (session, signature) = text.split_at_checked(CartSession::TEXT_BYTES)?;
        let session = session.parse::<CartSession>().ok()?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok().filter(|bytes| bytes.len() == SIGNATURE_BYTES)?;
        let mut keys = std::iter::once(&self.key).chain(&self.older);
        let is_ours = keys.any(|key| mac(key, &session).verify_truncated_left(&signature).is_ok());
        is_ours.then_some(session)
    }
}

fn mac(key: &Hmac<Sha256>, session: &CartSession) -> Hmac<Sha256> {
    let mut mac = key.clone();
    mac.update(session.as_str().as_bytes());
    mac
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// Who fills a cart. A token wins over a session: who is logged in means his own cart.
pub struct Shopper(pub CartOwner);

/// The header `Cart-Session`.
pub struct Guest(pub CartSession);

impl FromRequestParts<Gate> for Shopper {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gate: &Gate) -> Result<Self, Problem> {
        if !parts.headers.contains_key(AUTHORIZATION) && parts.headers.contains_key(CART_SESSION) {
            let Guest(session) = Guest::from_request_parts(parts, gate).await?;
            return Ok(Self(CartOwner::Guest(session)));
        }
        let Buyer(buyer) = Buyer::from_request_parts(parts, gate).await?;
        Ok(Self(CartOwner::Buyer(buyer)))
    }
}

impl FromRequestParts<Gate> for Guest {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gate: &Gate) -> Result<Self, Problem> {
        let mut sessions = parts.headers.get_all(CART_SESSION).iter();
        let session = sessions.next().and_then(|session| gate.sessions.known(session.to_str().ok()?));
        match (session, sessions.next()) {
            (Some(session), None) => Ok(Self(session)),
            _ => Err(Problem::CartSessionInvalid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(secret: &str) -> Sessions {
        Sessions::new(&Secret::from(secret.to_owned()))
    }

    #[test]
    fn a_guest_keeps_their_cart_while_the_secrets_of_tokens_are_rotated() {
        let key = |letter: &str| TokenKey { id: Some(letter.to_owned()), secret: Secret::from(letter.repeat(32)) };
        let given = Sessions::of(&[key("o")]).begin();
        assert!(Sessions::of(&[key("n"), key("o")]).known(&given).is_some());
        assert!(Sessions::of(&[key("n")]).known(&given).is_none());
        let since = Sessions::of(&[key("n"), key("o")]).begin();
        assert!(Sessions::of(&[key("n")]).known(&since).is_some());
    }

    #[test]
    fn a_session_is_known_if_we_gave_it_out_and_not_otherwise() {
        let ours = sessions("a secret of this test, long enough for HS256");
        let given = ours.begin();
        assert_eq!(given.len(), 46);
        assert_eq!(ours.known(&given).unwrap().as_str(), &given[..24]);
        let again = sessions("a secret of this test, long enough for HS256");
        assert!(again.known(&given).is_some(), "another gateway of the same shop knows it");
        let other = ours.begin();
        let a_bit_off = |at: usize| {
            let mut bytes = given.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            String::from_utf8(bytes).unwrap()
        };
        for made_up in [
            "",
            "A",
            &given[..24],
            &given[..45],
            &format!("{given}A"),
            &format!("{}{}", &given[..24], &other[24..]),
            &a_bit_off(0),
            &a_bit_off(23),
            &a_bit_off(24),
            &a_bit_off(44),
            &"A".repeat(46),
            &"é".repeat(23),
            &sessions("a secret of another shop, long enough for HS256").begin(),
        ] {
            assert_eq!(ours.known(made_up), None, "{made_up:?}");
        }
    }

    #[test]
    fn the_same_session_has_the_same_signature_in_every_version() {
        // Computed apart from this program, by Python's hmac.
        let ours = sessions("a secret of this test, long enough for HS256");
        let session = CartSession::from_random([7; CartSession::RANDOM_BYTES]);
        assert_eq!(ours.signed(&session), "BwcHBwcHBwcHBwcHBwcHBwcHAIJLBDfJXMRvIpiWTalWUg");
    }
}
