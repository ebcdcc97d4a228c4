//! Standby: a buyer who was refused waits in line for units that come back.
//!
//! Nobody waits for what they could buy now. What is on sale is looked at twice: before, so that a refusal leaves no trace; and
//! behind it, since a unit that comes back after the place is there goes to the line first, and one that came before is seen.

use crate::domain::ids::{BuyerId, ClaimId, VariantNumber};
use crate::domain::standby::{Place, could_buy, held_units};
use crate::ledger::standby::{Joined, LeftLine, NewPlace};

use super::engine::{Engine, EngineError, LiveDrop};
use super::readings::leased;

/// How asking for a place in line ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Queued {
    Joined(Joined),
    /// So many units they could buy now.
    OnSale,
    /// With what they hold, settled or not, it would be more than one buyer may have.
    OverLimit {
        held: u32,
        limit: u32,
    },
}

impl Engine {
    /// Gives a buyer a place in line, unless they may have no more units, or could buy what they want now. Whoever lost a claim
    /// that was answered goes first, whatever is on sale.
    pub async fn join_standby(&self, live: &LiveDrop, new: &NewPlace) -> Result<Queued, EngineError> {
        // Asked for again it is answered as it was, whatever is on sale by now. Who lost a claim is not kept waiting.
        let is_new = new.lost.is_none() && self.ledger.may_be_new_in_line(live.drop.id, &new.buyer, &new.key).await?;
        if is_new && let Some(refused) = self.why_not_wait(live, new).await {
            return Ok(refused);
        }
        let joined = self.ledger.join_standby(&live.drop, new, self.clock.now()).await?;
        if is_new
            && matches!(joined, Joined::Now(_))
            && let Some(refused) = self.why_not_wait(live, new).await
            // An award may have been faster: then the units are on their way.
            && self.ledger.withdraw_place(live.drop.id, &new.buyer, &new.key).await?
        {
            return Ok(refused);
        }
        Ok(Queued::Joined(joined))
    }

    async fn why_not_wait(&self, live: &LiveDrop, new: &NewPlace) -> Option<Queued> {
        let (limit, wanted) = (live.drop.buyer_limit, new.quantity.units());
        let held = self.held_by(live, &new.buyer).await;
        if held + wanted > limit {
            return Some(Queued::OverLimit { held, limit });
        }
        let could_buy = leased(live, new.variant, wanted).is_none() && self.could_buy(live, new).await;
        could_buy.then_some(Queued::OnSale)
    }

    pub async fn standby_of(&self, live: &LiveDrop, buyer: &BuyerId) -> Result<Vec<Place>, EngineError> {
        Ok(self.ledger.standby_of(live.drop.id, buyer).await?)
    }

    /// Takes a buyer out of one line of a drop, or of all.
    pub async fn leave_standby(
        &self,
        live: &LiveDrop,
        buyer: &BuyerId,
        variant: Option<VariantNumber>,
    ) -> Result<LeftLine, EngineError> {
        Ok(self.ledger.leave_standby(live.drop.id, buyer, variant, self.clock.now()).await?)
    }

    /// Whether nothing is known any more of a claim that a receipt proves.
    pub async fn is_lost(&self, buyer: &BuyerId, claim: ClaimId) -> Result<bool, EngineError> {
        Ok(self.claim_of(buyer, claim).await?.is_none())
    }

    /// What a buyer holds of a drop. Where their home cannot be asked nothing counts: it will refuse the award itself.
    async fn held_by(&self, live: &LiveDrop, buyer: &BuyerId) -> u32 {
        match live.store(live.home_of(buyer)).record_of(buyer).await {
            Ok(record) => held_units(record.iter().map(|claim| (claim.quantity, claim.serials.is_some()))),
            Err(error) => {
                tracing::debug!(%error, "a buyer's home does not say what they hold");
                0
            }
        }
    }

    /// Where Redis or Postgres cannot be asked, nobody is kept from waiting.
    async fn could_buy(&self, live: &LiveDrop, new: &NewPlace) -> bool {
        let look = self.look_everywhere(live).await;
        match self.read_behind(live, &look).await {
            Ok(read) => could_buy(&read.evidence(live, new.variant, &look), new.quantity),
            Err(error) => {
                tracing::debug!(%error, "nobody can say what is on sale");
                false
            }
        }
    }
}
