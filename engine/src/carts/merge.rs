//! A guest logs in: his cart comes into the buyer's.
//!
//! The two carts may lie on two servers, so this is two steps, each safe to repeat: the lines go into the buyer's cart, which
//! notes whose they were and of which version; then the guest's cart is emptied, if it still is that version. Dying in
//! between, or a client that asks again, finds the note and changes nothing; a line added to the guest's cart in between
//! makes another version, which comes with the next round.

use redis::{FromRedisValue, Value};

use super::codec;
use super::contract::{self, TTL_SECONDS};
use super::error::CartError;
use super::store::{CartStore, bad, cart, text};
use crate::domain::carts::{Cart, CartChange, CartMerged, CartOwner, CartSession};
use crate::domain::ids::{BuyerId, VariantId};
use crate::domain::versions::Expected;

/// Rounds for a guest's cart that changes all the time; what is still in it then stays there for the next merge.
const ROUNDS: usize = 5;

impl CartStore {
    /// Brings a guest's cart into a buyer's, where of two quantities the higher one wins, and empties it.
    pub async fn merge_guest(&self, guest: &CartSession, buyer: &BuyerId) -> Result<CartMerged, CartError> {
        let from = CartOwner::Guest(guest.clone());
        let into = CartOwner::Buyer(buyer.clone());
        let mut merged: Option<CartMerged> = None;
        for _ in 0..ROUNDS {
            let Some(read) = self.read(&from).await?.filter(|cart| !cart.lines.is_empty()) else { break };
            let round = self.merge_lines(guest, &read, &into).await?;
            let merged = match &mut merged {
                Some(before) => {
                    before.cart = round.cart;
                    before.clamped.extend(round.clamped);
                    before.left_out = round.left_out;
                    before
                }
                None => merged.insert(round),
            };
            if !merged.left_out.is_empty() {
                break;
            }
            let expected = Expected::OneOf(vec![read.version.into()]);
            if !matches!(self.clear(&from, &expected).await?, CartChange::Stale) {
                break;
            }
        }
        match merged {
            Some(mut merged) => {
                merged.clamped.sort_unstable();
                merged.clamped.dedup();
                Ok(merged)
            }
            None => {
                let cart = self.read(&into).await?.unwrap_or(Cart::none());
                Ok(CartMerged { cart, clamped: Vec::new(), left_out: Vec::new() })
            }
        }
    }

    async fn merge_lines(&self, guest: &CartSession, read: &Cart, into: &CartOwner) -> Result<CartMerged, CartError> {
        let args = vec![
            self.now_ms(),
            text(TTL_SECONDS),
            codec::source(guest, read.version).to_vec(),
            codec::lines(&read.lines)?,
            text(self.limits().lines),
            text(self.limits().quantity),
        ];
        let script = &contract::MERGE;
        let (_, reply) = self.call(script, into, args).await?;
        let Ok([_, merged, clamped, left_out]) = <[Value; 4]>::try_from(reply) else {
            return Err(bad(script.name, "another shape"));
        };
        let cart = cart(script.name, merged)?.unwrap_or(Cart::none());
        Ok(CartMerged { cart, clamped: variants(clamped)?, left_out: variants(left_out)? })
    }
}

fn variants(reply: Value) -> Result<Vec<VariantId>, CartError> {
    let script = contract::MERGE.name;
    let fields = Vec::<Vec<u8>>::from_redis_value(reply).map_err(|error| bad(script, error.to_string()))?;
    fields.iter().map(|field| codec::variant(field).map_err(|what| bad(script, what))).collect()
}
