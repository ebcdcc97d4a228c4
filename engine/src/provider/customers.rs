//! Buyers at the provider: customers, the cards that are theirs, and the provider's page on which a card is saved. No call
//! here moves money.
//!
//! | asks for | key | path | body |
//! |---|---|---|---|
//! | a customer | `customer-{ref}`, then `…:{n}` | `/v1/customers` | metadata\[shop\], metadata\[customer_ref\] |
//! | a card for a customer | `card-{ref}:attach`, then `…:{n}` | `/v1/payment_methods/{method}/attach` | customer |
//! | a page that saves a card | `setup-{ref}` | `/v1/checkout/sessions` | mode, customer, success_url, cancel_url, allowed_payment_method_types\[\], metadata\[shop\] |
//!
//! A customer's body names nobody: a second one, made after the provider had forgotten the key, holds nothing.

use serde::Deserialize;
use uuid::Uuid;

use crate::domain::ids::{CustomerId, PaymentMethodId};

use super::client::{ProviderClient, ProviderError};
use super::intent::{UnreadableObject, check_id, check_kind, is_provider_id};
use super::outcome::Outcome;
use super::request::{Format, Operation, ProviderRequest, form};

const CUSTOMERS_PATH: &str = "/v1/customers";
const METHODS_PATH: &str = "/v1/payment_methods";
const SESSIONS_PATH: &str = "/v1/checkout/sessions";
const SETUPS_PATH: &str = "/v1/setup_intents";

/// A buyer at the provider.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WireCustomer")]
pub struct Customer {
    pub id: CustomerId,
    pub livemode: bool,
}

/// A customer that is no more.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WireDeleted")]
pub struct Deleted {
    pub id: CustomerId,
}

/// A card, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WireMethod")]
pub struct SavedMethod {
    pub id: PaymentMethodId,
    /// `None`: nobody's.
    pub customer: Option<CustomerId>,
    /// The same for the same number, in the provider's words.
    pub fingerprint: Option<String>,
}

/// A page of the provider's on which a buyer saves a card.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WireSession")]
pub struct SetupSession {
    pub id: String,
    /// A card was saved.
    pub is_complete: bool,
    /// Nobody can save one any more.
    pub is_expired: bool,
    pub customer: Option<CustomerId>,
    pub setup: Option<String>,
    /// Where the buyer goes, while it is open.
    pub url: Option<String>,
}

/// How a card was saved.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Setup {
    object: String,
    status: String,
    payment_method: Option<String>,
}

impl ProviderRequest {
    /// `again` counts keys that were given up, from 0.
    pub fn customer(reference: Uuid, shop: &str, again: u32) -> Self {
        let name = reference.to_string();
        let body = form(&[("metadata[shop]", shop), ("metadata[customer_ref]", &name)]);
        let key = numbered(format!("customer-{reference}"), again);
        ProviderRequest { operation: Operation::Customer, ..card_request(CUSTOMERS_PATH.to_owned(), key, body) }
    }

    /// Makes a card a customer's own; nothing changes if it is theirs already.
    pub fn attach(card: Uuid, method: &PaymentMethodId, customer: &CustomerId, again: u32) -> Self {
        let path = format!("{}/attach", method_path(method));
        card_request(path, numbered(format!("card-{card}:attach"), again), form(&[("customer", &customer.0)]))
    }

    /// Buyers come back to `return_url`, whether they have saved a card or not.
    pub fn setup_session(reference: Uuid, customer: &CustomerId, return_url: &str, shop: &str) -> Self {
        let body = form(&[
            ("mode", "setup"),
            ("customer", &customer.0),
            ("success_url", return_url),
            ("cancel_url", return_url),
            ("allowed_payment_method_types[]", "card"),
            ("metadata[shop]", shop),
        ]);
        card_request(SESSIONS_PATH.to_owned(), format!("setup-{reference}"), body)
    }
}

fn card_request(path: String, idempotency_key: String, body: String) -> ProviderRequest {
    ProviderRequest { operation: Operation::Card, format: Format::Second, path, idempotency_key, body }
}

fn numbered(key: String, again: u32) -> String {
    if again == 0 { key } else { format!("{key}:{again}") }
}

/// Its id has the form of the provider's ids, which is that of a path segment.
fn method_path(method: &PaymentMethodId) -> String {
    format!("{METHODS_PATH}/{}", method.as_str())
}

impl ProviderClient {
    /// A card as it stands now.
    pub async fn read_method(&self, method: &PaymentMethodId) -> Result<SavedMethod, ProviderError> {
        self.get_card(&method_path(method)).await
    }

    /// A page as it stands now.
    pub async fn read_session(&self, id: &str) -> Result<SetupSession, ProviderError> {
        if !is_provider_id(id) {
            return Err(ProviderError::NotFound);
        }
        let session: SetupSession = self.get_card(&format!("{SESSIONS_PATH}/{id}")).await?;
        match session.id == id {
            true => Ok(session),
            false => Err(ProviderError::Unreadable("the answer is about another session".to_owned())),
        }
    }

    /// The card that a page has saved. `None`: none yet.
    pub async fn read_setup(&self, id: &str) -> Result<Option<PaymentMethodId>, ProviderError> {
        if !is_provider_id(id) {
            return Err(ProviderError::NotFound);
        }
        let setup: Setup = self.get_card(&format!("{SETUPS_PATH}/{id}")).await?;
        if setup.object != "setup_intent" {
            return Err(ProviderError::Unreadable(format!("the object is a {:?}", setup.object)));
        }
        match setup.payment_method.filter(|_| setup.status == "succeeded").map(|method| method.parse()) {
            Some(Err(_)) => Err(ProviderError::Unreadable("the setup's card has no name of the provider's".to_owned())),
            Some(Ok(method)) => Ok(Some(method)),
            None => Ok(None),
        }
    }

    /// Deletes a customer, and the cards with them. One that is not there is `Rejected` with `resource_missing`.
    pub async fn delete_customer(&self, customer: &CustomerId) -> Outcome<Deleted> {
        assert!(is_provider_id(&customer.0), "a customer's id names one path segment");
        self.delete(&format!("{CUSTOMERS_PATH}/{}", customer.0)).await
    }
}

#[derive(Deserialize)]
struct WireCustomer {
    object: String,
    id: String,
    livemode: bool,
}

impl TryFrom<WireCustomer> for Customer {
    type Error = UnreadableObject;

    fn try_from(wire: WireCustomer) -> Result<Self, UnreadableObject> {
        check_kind(wire.object, "customer")?;
        check_id(&wire.id)?;
        Ok(Self { id: CustomerId(wire.id), livemode: wire.livemode })
    }
}

#[derive(Deserialize)]
struct WireDeleted {
    object: String,
    id: String,
    deleted: bool,
}

impl TryFrom<WireDeleted> for Deleted {
    type Error = UnreadableObject;

    fn try_from(wire: WireDeleted) -> Result<Self, UnreadableObject> {
        check_kind(wire.object, if wire.deleted { "customer" } else { "deleted customer" })?;
        check_id(&wire.id)?;
        Ok(Self { id: CustomerId(wire.id) })
    }
}

#[derive(Deserialize)]
struct WireMethod {
    object: String,
    id: String,
    customer: Option<String>,
    card: Option<WireCard>,
}

#[derive(Deserialize)]
struct WireCard {
    fingerprint: Option<String>,
}

impl TryFrom<WireMethod> for SavedMethod {
    type Error = UnreadableObject;

    fn try_from(wire: WireMethod) -> Result<Self, UnreadableObject> {
        check_kind(wire.object, "payment_method")?;
        wire.customer.as_deref().map_or(Ok(()), check_id)?;
        Ok(Self {
            id: wire.id.parse().map_err(|_| UnreadableObject::Id(wire.id))?,
            customer: wire.customer.map(CustomerId),
            fingerprint: wire.card.and_then(|card| card.fingerprint),
        })
    }
}

#[derive(Deserialize)]
struct WireSession {
    object: String,
    id: String,
    status: String,
    customer: Option<String>,
    setup_intent: Option<String>,
    url: Option<String>,
}

impl TryFrom<WireSession> for SetupSession {
    type Error = UnreadableObject;

    fn try_from(wire: WireSession) -> Result<Self, UnreadableObject> {
        check_kind(wire.object, "checkout.session")?;
        for id in std::iter::once(&wire.id).chain(&wire.customer).chain(&wire.setup_intent) {
            check_id(id)?;
        }
        Ok(Self {
            is_complete: wire.status == "complete",
            is_expired: wire.status == "expired",
            customer: wire.customer.map(CustomerId),
            setup: wire.setup_intent,
            url: wire.url,
            id: wire.id,
        })
    }
}
