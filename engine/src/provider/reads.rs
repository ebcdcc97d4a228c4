//! What can be read back: intents, refunds and the provider's account book. Reading changes nothing.
//!
//! One page is one request, so that each can be held back by the rate limit: looping over pages is the caller's, and so
//! is the bound of the loop.

use std::ops::Range;

use jiff::Timestamp;
use serde::Deserialize;

use crate::domain::ids::{IntentId, ProviderRefundId};

use super::balance::BalanceTransaction;
use super::client::{ProviderClient, ProviderError};
use super::intent::{Intent, is_provider_id};
use super::refund::{Charge, Refund};
use super::request::{INTENTS_PATH, REFUNDS_PATH, intent_path};

/// What the provider allows in one page.
pub const PAGE_LIMIT_MAX: u32 = 100;

const CHARGES_PATH: &str = "/v1/charges";
const BALANCE_PATH: &str = "/v1/balance_transactions";

/// One page of a list, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Page<T> {
    pub data: Vec<T>,
    pub has_more: bool,
}

impl ProviderClient {
    /// The intent as it stands now.
    pub async fn read_intent(&self, id: &IntentId) -> Result<Intent, ProviderError> {
        if !is_provider_id(&id.0) {
            return Err(ProviderError::NotFound);
        }
        let intent: Intent = self.get(&intent_path(id), &[]).await?;
        if intent.id != *id {
            return Err(ProviderError::Unreadable("the answer is about another intent".to_owned()));
        }
        Ok(intent)
    }

    /// Up to `limit` (1 to 100) intents, newest first, from behind `starting_after`.
    pub async fn list_intents(
        &self,
        starting_after: Option<&IntentId>,
        limit: u32,
    ) -> Result<Page<Intent>, ProviderError> {
        self.get(INTENTS_PATH, &page(starting_after.map(|id| &id.0), limit)).await
    }

    /// The same, of those made at `since` or later, by the provider's clock.
    pub async fn list_intents_since(
        &self,
        since: Timestamp,
        starting_after: Option<&IntentId>,
        limit: u32,
    ) -> Result<Page<Intent>, ProviderError> {
        let mut query = page(starting_after.map(|id| &id.0), limit);
        query.push(("created[gte]", since.as_second().to_string()));
        self.get(INTENTS_PATH, &query).await
    }

    /// The refund as it stands now.
    pub async fn read_refund(&self, id: &ProviderRefundId) -> Result<Refund, ProviderError> {
        if !is_provider_id(&id.0) {
            return Err(ProviderError::NotFound);
        }
        let refund: Refund = self.get(&format!("{REFUNDS_PATH}/{}", id.0), &[]).await?;
        if refund.id != *id {
            return Err(ProviderError::Unreadable("the answer is about another refund".to_owned()));
        }
        Ok(refund)
    }

    /// The charge as it stands now.
    pub async fn read_charge(&self, id: &str) -> Result<Charge, ProviderError> {
        if !is_provider_id(id) {
            return Err(ProviderError::NotFound);
        }
        let charge: Charge = self.get(&format!("{CHARGES_PATH}/{id}"), &[]).await?;
        if charge.id != id {
            return Err(ProviderError::Unreadable("the answer is about another charge".to_owned()));
        }
        Ok(charge)
    }

    /// Up to `limit` (1 to 100) refunds of one intent, those made by hand at the provider too. A list can be behind: see
    /// [`is_list_whole`](crate::domain::payments::is_list_whole).
    pub async fn list_refunds(
        &self,
        intent: &IntentId,
        starting_after: Option<&ProviderRefundId>,
        limit: u32,
    ) -> Result<Page<Refund>, ProviderError> {
        let mut query = page(starting_after.map(|id| &id.0), limit);
        query.push(("payment_intent", intent.0.clone()));
        let refunds: Page<Refund> = self.get(REFUNDS_PATH, &query).await?;
        // Another intent's refund, taken for this one's, would be money that nobody gets back.
        if refunds.data.iter().any(|refund| refund.intent.as_ref() != Some(intent)) {
            return Err(ProviderError::Unreadable("the list has a refund of another intent".to_owned()));
        }
        Ok(refunds)
    }

    /// Up to `limit` (1 to 100) refunds of the whole account, those made at `since` or later, newest first.
    pub async fn list_refunds_since(
        &self,
        since: Timestamp,
        starting_after: Option<&ProviderRefundId>,
        limit: u32,
    ) -> Result<Page<Refund>, ProviderError> {
        let mut query = page(starting_after.map(|id| &id.0), limit);
        query.push(("created[gte]", since.as_second().to_string()));
        self.get(REFUNDS_PATH, &query).await
    }

    /// Up to `limit` (1 to 100) movements of our balance, made from `created.start` on and before `created.end`.
    pub async fn list_balance_transactions(
        &self,
        created: Range<Timestamp>,
        starting_after: Option<&str>,
        limit: u32,
    ) -> Result<Page<BalanceTransaction>, ProviderError> {
        let mut query = page(starting_after, limit);
        query.push(("created[gte]", created.start.as_second().to_string()));
        query.push(("created[lt]", created.end.as_second().to_string()));
        self.get(BALANCE_PATH, &query).await
    }
}

fn page(starting_after: Option<impl AsRef<str>>, limit: u32) -> Vec<(&'static str, String)> {
    let mut query = vec![("limit", limit.clamp(1, PAGE_LIMIT_MAX).to_string())];
    query.extend(starting_after.map(|id| ("starting_after", id.as_ref().to_owned())));
    query
}
