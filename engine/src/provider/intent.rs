//! A payment intent as the provider describes it. What cannot be read completely is not read at all.

use std::fmt;

use jiff::Timestamp;
use serde::Deserialize;

use crate::domain::charges::from_provider;
use crate::domain::ids::{CustomerId, IntentId, OrderId};
use crate::domain::money::{Currency, InvalidCurrency, Money};

/// Where an intent stands, in the provider's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IntentStatus {
    RequiresPaymentMethod,
    RequiresConfirmation,
    RequiresAction,
    Processing,
    RequiresCapture,
    Canceled,
    Succeeded,
    /// A word we do not know: neither success nor failure.
    Other(String),
}

/// What the provider says about one payment. Amount, order and live mode are compared by whoever settles it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WireIntent")]
pub struct Intent {
    pub id: IntentId,
    pub status: IntentStatus,
    pub amount: Money,
    pub amount_received: Money,
    /// `metadata[order_id]`, as text: the provider keeps whatever anybody wrote there.
    pub order_id: Option<String>,
    /// Whose saved cards it may be confirmed with.
    pub customer: Option<CustomerId>,
    pub livemode: bool,
    /// The newest charge, which may be a declined one: no proof of payment.
    pub latest_charge: Option<String>,
    pub last_payment_error: Option<String>,
    /// By the provider's clock, in whole seconds.
    pub created: Timestamp,
    /// What the buyer has to do, while he has to.
    pub next_action: Option<NextAction>,
}

/// How a buyer goes on with a payment that wants him to act: a page to go to, or the secret that the provider's own
/// script in his browser takes. For this buyer only, so it cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct NextAction {
    /// In the provider's words: `redirect_to_url`, `use_stripe_sdk`, and so on.
    pub kind: String,
    pub url: Option<String>,
    pub client_secret: Option<String>,
}

impl Intent {
    /// The order that its metadata name, be it one of ours or not.
    pub fn order_named(&self) -> Option<OrderId> {
        self.order_id.as_deref().and_then(|id| id.parse().ok()).map(OrderId)
    }
}

impl fmt::Debug for NextAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NextAction({}, redacted)", self.kind)
    }
}

/// Why a JSON object is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableObject {
    #[error("the object is a {found:?}, not a {expected}")]
    OtherObject { found: String, expected: &'static str },
    #[error("{0:?} cannot be an id of the provider's")]
    Id(String),
    #[error("an amount is negative: {0}")]
    Amount(i64),
    #[error("{amount} of the provider's units are no whole amount of {currency}")]
    Part { amount: i64, currency: Currency },
    #[error("{net} is not {amount} less the fee of {fee}")]
    Net { amount: i64, fee: i64, net: i64 },
    #[error(transparent)]
    Currency(#[from] InvalidCurrency),
    #[error(transparent)]
    Created(#[from] jiff::Error),
}

/// Whether a text can be a name of the provider's, and so stand in a path: letters, digits and `_` only.
pub(super) fn is_provider_id(text: &str) -> bool {
    matches!(text.len(), 1..=255) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

pub(super) fn check_kind(found: String, expected: &'static str) -> Result<(), UnreadableObject> {
    if found == expected { Ok(()) } else { Err(UnreadableObject::OtherObject { found, expected }) }
}

pub(super) fn check_id(id: &str) -> Result<(), UnreadableObject> {
    if is_provider_id(id) { Ok(()) } else { Err(UnreadableObject::Id(id.to_owned())) }
}

fn is_page(url: &str) -> bool {
    ["https://", "http://"].iter().any(|scheme| url.starts_with(scheme))
}

pub(super) fn amount_of(wire: i64, currency: Currency) -> Result<Money, UnreadableObject> {
    from_provider(wire, currency).ok_or(UnreadableObject::Part { amount: wire, currency })
}

/// The provider writes currencies in small letters.
pub(super) fn currency_of(wire: &str) -> Result<Currency, InvalidCurrency> {
    wire.to_ascii_uppercase().parse()
}

#[derive(Deserialize)]
struct WireIntent {
    object: String,
    id: String,
    status: String,
    amount: i64,
    amount_received: i64,
    currency: String,
    metadata: WireMetadata,
    livemode: bool,
    customer: Option<String>,
    latest_charge: Option<String>,
    last_payment_error: Option<WirePaymentError>,
    created: i64,
    client_secret: Option<String>,
    next_action: Option<WireNextAction>,
}

#[derive(Deserialize)]
struct WireNextAction {
    #[serde(rename = "type")]
    kind: String,
    redirect_to_url: Option<WireRedirect>,
}

#[derive(Deserialize)]
struct WireRedirect {
    url: Option<String>,
}

#[derive(Deserialize)]
struct WireMetadata {
    order_id: Option<String>,
}

#[derive(Deserialize)]
struct WirePaymentError {
    code: Option<String>,
    decline_code: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl WirePaymentError {
    /// An error is an error whatever it is called: without a name it must not read as "never tried".
    fn name(self) -> String {
        self.code.or(self.decline_code).or(self.kind).unwrap_or_else(|| "declined".to_owned())
    }
}

impl TryFrom<WireIntent> for Intent {
    type Error = UnreadableObject;

    fn try_from(wire: WireIntent) -> Result<Self, UnreadableObject> {
        check_kind(wire.object, "payment_intent")?;
        check_id(&wire.id)?;
        if let Some(negative) = [wire.amount, wire.amount_received].into_iter().find(|amount| *amount < 0) {
            return Err(UnreadableObject::Amount(negative));
        }
        let currency = currency_of(&wire.currency)?;
        let client_secret = wire.client_secret;
        let next_action = wire.next_action.map(|action| NextAction {
            kind: action.kind,
            // The buyer's browser goes there: nothing but a page.
            url: action.redirect_to_url.and_then(|redirect| redirect.url).filter(|url| is_page(url)),
            client_secret,
        });
        Ok(Self {
            next_action,
            id: IntentId(wire.id),
            status: wire.status.into(),
            amount: amount_of(wire.amount, currency)?,
            amount_received: amount_of(wire.amount_received, currency)?,
            order_id: wire.metadata.order_id,
            customer: wire.customer.map(CustomerId),
            livemode: wire.livemode,
            latest_charge: wire.latest_charge,
            last_payment_error: wire.last_payment_error.map(WirePaymentError::name),
            created: Timestamp::from_second(wire.created)?,
        })
    }
}

impl From<String> for IntentStatus {
    fn from(word: String) -> Self {
        match word.as_str() {
            "requires_payment_method" => Self::RequiresPaymentMethod,
            "requires_confirmation" => Self::RequiresConfirmation,
            "requires_action" => Self::RequiresAction,
            "processing" => Self::Processing,
            "requires_capture" => Self::RequiresCapture,
            "canceled" => Self::Canceled,
            "succeeded" => Self::Succeeded,
            _ => Self::Other(word),
        }
    }
}
