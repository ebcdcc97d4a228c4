//! A guest logs in: his cart comes into the buyer's.
//!
//! The two carts may lie on two servers, so this is three steps, each safe to repeat. The guest's lines are packed into a parcel
//! for this buyer, beside the guest's cart: from then on nobody else gets them. They go into the buyer's cart, which notes whose
//! they were and of which version. Then the parcel ends, and what had no place goes back into the guest's cart. Dying in between,
//! or a client that asks again, finds the parcel and the note, and changes nothing twice; a line that is added to the guest's
//! cart in between is not in the parcel and stays where it is.

use redis::{FromRedisValue, Value};

use super::codec;
use super::contract::{self, Code, TTL_SECONDS};
use super::error::CartError;
use super::store::{CartStore, bad, cart, text};
use crate::domain::carts::{Cart, CartMerged, CartOwner, CartSession, CartVersion};
use crate::domain::ids::{BuyerId, VariantId};

/// Parcels that one merge brings in: one that was left half-way, and the cart's. More only come if the buyer merges the same cart
/// in several tabs; what is then left is there for the next merge.
const ROUNDS: usize = 5;

impl CartStore {
    /// Brings a guest's cart into a buyer's, where of two quantities the higher one wins, and empties it.
    pub async fn merge_guest(&self, guest: &CartSession, buyer: &BuyerId) -> Result<CartMerged, CartError> {
        let into = CartOwner::Buyer(buyer.clone());
        let mut merged: Option<CartMerged> = None;
        for _ in 0..ROUNDS {
            let Some((parcel, is_left)) = self.hand_over(guest, buyer).await? else { break };
            let mut round = self.merge_lines(guest, &parcel, &into).await?;
            self.hand_back(guest, buyer, parcel.version, &round.left_out).await?;
            if let Some(before) = merged {
                round.clamped.extend(before.clamped);
            }
            merged = Some(round);
            // Behind a parcel that an earlier merge has left there may be more in the cart.
            if !is_left {
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

    /// What a guest has for this buyer, and whether an earlier merge has packed it. `None`: nothing.
    async fn hand_over(&self, guest: &CartSession, buyer: &BuyerId) -> Result<Option<(Cart, bool)>, CartError> {
        let script = &contract::HAND_OVER;
        let args = vec![self.now_ms(), text(TTL_SECONDS)];
        let (code, mut reply) = self.call_with(script, keys(guest, buyer), args).await?;
        if code == Code::NoCart {
            return Ok(None);
        }
        let parcel = (reply.len() == 2).then(|| reply.swap_remove(1));
        let parcel = parcel.ok_or_else(|| bad(script.name, "no parcel"))?;
        Ok(cart(script.name, parcel)?.map(|parcel| (parcel, code == Code::Replayed)))
    }

    async fn hand_back(
        &self,
        guest: &CartSession,
        buyer: &BuyerId,
        packed: CartVersion,
        left_out: &[VariantId],
    ) -> Result<(), CartError> {
        let args = vec![
            self.now_ms(),
            text(TTL_SECONDS),
            text(packed.0),
            codec::variants(left_out),
            text(self.limits().quantity),
        ];
        self.call_with(&contract::HAND_BACK, keys(guest, buyer), args).await.map(|_| ())
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

fn keys(guest: &CartSession, buyer: &BuyerId) -> Vec<String> {
    vec![codec::key(&CartOwner::Guest(guest.clone())), codec::parcel(guest, buyer)]
}

fn variants(reply: Value) -> Result<Vec<VariantId>, CartError> {
    let script = contract::MERGE.name;
    let fields = Vec::<Vec<u8>>::from_redis_value(reply).map_err(|error| bad(script, error.to_string()))?;
    fields.iter().map(|field| codec::variant(field).map_err(|what| bad(script, what))).collect()
}
