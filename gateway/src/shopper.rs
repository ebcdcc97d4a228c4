//! Whose cart a request is about: a buyer's, by his token, or a guest's, by the session he was given.

use axum::extract::FromRequestParts;
use axum::http::HeaderName;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use doorbuster_engine::domain::carts::{CartOwner, CartSession};

use crate::auth::Buyer;
use crate::error::Problem;
use crate::state::Gate;

pub const CART_SESSION: HeaderName = HeaderName::from_static("cart-session");

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

    async fn from_request_parts(parts: &mut Parts, _: &Gate) -> Result<Self, Problem> {
        let mut sessions = parts.headers.get_all(CART_SESSION).iter();
        let session = sessions.next().and_then(|session| session.to_str().ok()?.parse().ok());
        match (session, sessions.next()) {
            (Some(session), None) => Ok(Self(session)),
            _ => Err(Problem::CartSessionInvalid),
        }
    }
}
