//! The provider's page on which a buyer saves a card: opened for them, and read back when they are through; and the end of
//! customers whose buyers have been forgotten.
//!
//! That the buyer has come back, and the provider's event, may come in any order, twice, or not at all: each only makes the
//! page be read at once. What it says then is stored once.

use jiff::{SignedDuration, Timestamp};

use crate::ledger::customers::KnownCustomer;
use crate::ledger::setups::LeasedSetup;
use crate::provider::{Deleted, Endpoint, Outcome, ProviderClient, ProviderError, ProviderRequest, SetupSession};

use super::cards::{Urgency, Went, count, hashed};
use super::engine::{Engine, EngineError};

/// How often a page is read of which nobody says anything; the provider ends it after a day.
const READ_EVERY: SignedDuration = SignedDuration::from_mins(10);
/// A page whose making is refused, or never answered, is given up after so many tries: nobody has seen it.
const OPENS_MAX: i32 = 8;

impl Engine {
    /// Opens pages that were asked for, and reads those that are due: up to `limit`. Somebody waits for each, so they go
    /// before cards. Answers how many there were.
    pub async fn look_after_setups(&self, provider: &ProviderClient, limit: usize) -> Result<usize, EngineError> {
        let mut found = 0;
        while found < limit && !provider.is_stopping() {
            let Some(setup) = self.ledger.lease_setups(self.clock.now(), self.card_lease, 1).await?.pop() else {
                break;
            };
            found += 1;
            match &setup.session {
                None => self.open_setup(provider, &setup).await?,
                Some(session) => self.read_setup(provider, &setup, session).await?,
            }
        }
        Ok(found)
    }

    async fn open_setup(&self, provider: &ProviderClient, setup: &LeasedSetup) -> Result<(), EngineError> {
        let customer = match &setup.customer.id {
            Some(customer) => customer.clone(),
            None => match self.make_customer(provider, &setup.customer, setup.tries, Urgency::Awaited).await? {
                Went::On(customer) => customer,
                Went::Later(at) => return Ok(self.ledger.keep_setup(setup, at).await?),
                Went::NextKey(at) => {
                    self.ledger.give_up_customer_key(&setup.customer).await?;
                    return Ok(self.ledger.keep_setup(setup, at).await?);
                }
                Went::Nobody => return Ok(()),
            },
        };
        let shop = &setup.customer.shop;
        let joint = if setup.return_url.contains('?') { '&' } else { '?' };
        let back = format!("{}{joint}card_setup={}", setup.return_url, setup.reference);
        let request = ProviderRequest::setup_session(setup.reference, &customer, &back, shop);
        let Ok(turn) = provider.turn(Endpoint::Card).await else {
            return Ok(self.ledger.keep_setup(setup, self.clock.now()).await?);
        };
        let outcome = provider.send_card_in_turn::<SetupSession>(&request, turn).await;
        count("setup", &outcome);
        match &outcome {
            Outcome::Answered(session) => {
                let due = self.after(READ_EVERY);
                self.ledger.open_setup(setup, &session.id, session.url.as_deref(), due).await?;
            }
            Outcome::Rejected { code, message } if code == "resource_missing" => {
                tracing::warn!("the customer of a page that saves a card is gone at the provider: {message}");
                let now = self.clock.now();
                self.ledger.lose_customer(setup.customer.reference, &customer, now).await?;
                // Its key was used for the customer that is gone.
                self.ledger.expire_setup(setup).await?;
            }
            Outcome::Rejected { code, message } => {
                tracing::error!(code, "the provider refuses a page that saves a card: {message}");
                self.ledger.expire_setup(setup).await?;
            }
            _ if setup.tries >= OPENS_MAX => self.ledger.expire_setup(setup).await?,
            _ => self.ledger.keep_setup(setup, self.again_at(&outcome, setup.tries)).await?,
        }
        Ok(())
    }

    async fn read_setup(
        &self,
        provider: &ProviderClient,
        setup: &LeasedSetup,
        session: &str,
    ) -> Result<(), EngineError> {
        match self.saved_in(provider, setup, session).await {
            Ok(Read::Saved) => Ok(()),
            Ok(Read::Open) => Ok(self.ledger.keep_setup(setup, self.after(READ_EVERY)).await?),
            Ok(Read::Expired) => Ok(self.ledger.expire_setup(setup).await?),
            Err(NotRead::Engine(error)) => Err(error),
            Err(NotRead::Provider(error)) => {
                tracing::debug!(%error, "a page that saves a card could not be read: {error}");
                let outcome = Outcome::<SetupSession>::Unknown { reason: String::new() };
                Ok(self.ledger.keep_setup(setup, self.again_at(&outcome, setup.tries)).await?)
            }
        }
    }

    async fn saved_in(&self, provider: &ProviderClient, setup: &LeasedSetup, session: &str) -> Result<Read, NotRead> {
        let session = match provider.read_session(session).await {
            Ok(session) => session,
            Err(ProviderError::NotFound) => return Ok(Read::Expired),
            Err(error) => return Err(error.into()),
        };
        if session.is_expired {
            return Ok(Read::Expired);
        }
        let (true, Some(id)) = (session.is_complete, &session.setup) else { return Ok(Read::Open) };
        let Some(method) = provider.read_setup(id).await? else { return Ok(Read::Open) };
        let method = match provider.read_method(&method).await {
            Ok(method) => method,
            // It was taken from its owner meanwhile.
            Err(ProviderError::NotFound) => return Ok(Read::Expired),
            Err(error) => return Err(error.into()),
        };
        if method.customer.is_none() || method.customer != setup.customer.id {
            tracing::error!("a page has saved a card for another customer than its own: it is not taken");
            return Ok(Read::Expired);
        }
        let fingerprint = match &method.fingerprint {
            Some(fingerprint) => Some(hashed(&self.ledger.pepper().await.map_err(EngineError::from)?, fingerprint)),
            None => None,
        };
        let now = self.clock.now();
        self.ledger.end_setup(setup, &method.id, fingerprint, now).await.map_err(EngineError::from)?;
        Ok(Read::Saved)
    }

    /// Deletes customers whose buyers have been forgotten, until the provider says that they are gone. Answers how many were
    /// looked at.
    pub async fn end_customers(&self, provider: &ProviderClient, limit: usize) -> Result<usize, EngineError> {
        let mut found = 0;
        while found < limit && !provider.is_stopping() {
            let leased = self.ledger.lease_leaving_customers(self.clock.now(), self.card_lease, 1).await?;
            let Some((known, tries)) = leased.into_iter().next() else { break };
            found += 1;
            match self.end_customer(provider, &known, tries).await? {
                None => self.ledger.customer_gone(known.reference).await?,
                Some(at) => self.ledger.keep_leaving_customer(known.reference, tries, at).await?,
            }
        }
        Ok(found)
    }

    /// `None`: there is none any more.
    async fn end_customer(
        &self,
        provider: &ProviderClient,
        known: &KnownCustomer,
        tries: i32,
    ) -> Result<Option<Timestamp>, EngineError> {
        let customer = match &known.id {
            Some(customer) => customer.clone(),
            // It may have been made: the same key says under which name.
            None => match self.learn_customer(provider, known, tries, Urgency::Background).await? {
                Went::On(customer) => customer,
                Went::Later(at) | Went::NextKey(at) => return Ok(Some(at)),
                Went::Nobody => return Ok(None),
            },
        };
        let outcome: Outcome<Deleted> = provider.delete_customer(&customer).await;
        count("delete_customer", &outcome);
        Ok(match &outcome {
            Outcome::Answered(_) => None,
            Outcome::Rejected { code, .. } if code == "resource_missing" => None,
            _ => Some(self.again_at(&outcome, tries)),
        })
    }
}

enum Read {
    Saved,
    Open,
    Expired,
}

enum NotRead {
    Engine(EngineError),
    Provider(ProviderError),
}

impl From<EngineError> for NotRead {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<ProviderError> for NotRead {
    fn from(error: ProviderError) -> Self {
        Self::Provider(error)
    }
}
