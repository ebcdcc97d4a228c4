//! The requests that can move money: one function an operation, each the only place that knows its key and body.
//!
//! **The format is frozen.** Keys and bodies are stored with the attempt before anything is sent and repeated byte for
//! byte: two programs of different versions must build the same bytes for the same payment, or the provider sees two
//! payments. `engine/tests/engine/provider/golden.rs` holds golden bytes; a change there is a change of protocol. Nothing that varies
//! from call to call (a time, a price read again, a chance) may enter.
//!
//! There are two formats. The version of the provider's API belongs to a format, and an order keeps the format of its first
//! call. The first knows no customers:
//!
//! | operation | key | path | body |
//! |---|---|---|---|
//! | create | `order-{order}` | `/v1/payment_intents` | amount, currency, metadata\[order_id\], capture_method, confirm, payment_method_types\[\] |
//! | create again | `order-{order}:create:{m}` | same | same |
//! | confirm | `order-{order}:confirm:{n}` | `/v1/payment_intents/{intent}/confirm` | payment_method |
//! | cancel | `order-{order}:cancel` | `/v1/payment_intents/{intent}/cancel` | empty |
//! | cancel again | `order-{order}:cancel:{m}` | same | empty |
//! | refund | `order-{order}:refund:{refund}` | `/v1/refunds` | payment_intent, amount, metadata\[order_id\], metadata\[refund_id\] |
//! | refund again | `order-{order}:refund:{refund}:{m}` | same | same |
//!
//! The second has other bodies for these, under the same keys and paths; refunds are of the first for ever:
//!
//! | operation | body |
//! |---|---|
//! | create | amount, currency, customer (of a saved card), metadata\[order_id\], metadata\[shop\], capture_method, confirm, allowed_payment_method_types\[\] |
//! | confirm, saved card | payment_method, off_session |
//! | confirm, any other | payment_method, return_url (where the shop has one) |

use crate::domain::charges::{NotChargeable, check_charge, check_refund, to_provider};
use crate::domain::ids::{CustomerId, IntentId, OrderId, PaymentMethodId, RefundId};
use crate::domain::money::Money;

use super::intent::is_provider_id;
use super::throttle::Endpoint;

/// How a request is written: its bytes, and the version of the provider's API that they are sent under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Without customers. Orders that began with it end with it.
    First,
    /// With customers.
    Second,
}

impl Format {
    pub const ALL: [Self; 2] = [Self::First, Self::Second];

    /// As it is stored.
    pub fn number(self) -> i16 {
        match self {
            Self::First => 1,
            Self::Second => 2,
        }
    }

    pub fn of_number(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.number() == number)
    }

    /// The version of the provider's API. Without one the account's own setting would choose.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::First => "2024-06-20",
            Self::Second => "2026-10-28.endive",
        }
    }
}

/// Whether the buyer is there when a card is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence<'a> {
    /// The card is their customer's, and nobody is asked.
    OffSession,
    /// Their bank may want them to act, and sends them back here.
    OnSession { return_url: Option<&'a str> },
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// An intent that holds no money.
    Create,
    /// The `again`-th new start (from 1) after a create whose outcome stayed unknown.
    CreateAgain { again: u32 },
    /// The charge itself; `attempt` counts from 1.
    Confirm { attempt: u32 },
    /// The end of an intent that has not captured.
    Cancel,
    /// The `again`-th repeat (from 1) of a cancel that the provider keeps answering with a stored error. It cannot take
    /// money, so a new key is harmless.
    CancelAgain { again: u32 },
    /// Money back; which refund it is stands in the key. Sent by `send_refund`, not by `send`.
    Refund,
    /// The intent's customer, named after it was made; moves no money, and is the same each time.
    NameCustomer,
    /// A buyer at the provider. Moves no money, as what is about their cards; both are sent by `send_card_in_turn`.
    Customer,
    /// A card of theirs, or the page on which it is saved.
    Card,
}

impl Operation {
    /// The limit that its calls count against.
    pub fn endpoint(self) -> Endpoint {
        match self {
            Self::Create | Self::CreateAgain { .. } => Endpoint::Create,
            Self::Confirm { .. } => Endpoint::Confirm,
            Self::Cancel | Self::CancelAgain { .. } => Endpoint::Cancel,
            Self::Refund => Endpoint::Refund,
            Self::NameCustomer => Endpoint::Create,
            Self::Customer => Endpoint::Customer,
            Self::Card => Endpoint::Card,
        }
    }
}

/// The exact bytes of one request, as committed to Postgres before they are sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProviderRequest {
    pub operation: Operation,
    pub format: Format,
    pub path: String,
    pub idempotency_key: String,
    /// `application/x-www-form-urlencoded`.
    pub body: String,
}

impl ProviderRequest {
    pub fn create(order: OrderId, amount: Money) -> Result<Self, NotChargeable> {
        create_with(Operation::Create, format!("order-{order}"), order, amount)
    }

    /// Only after a create whose outcome stayed unknown: see PAYMENTS, "Keys". Intents hold no money, so a second one
    /// is harmless as long as only the one stored on the order is ever confirmed.
    pub fn create_again(order: OrderId, amount: Money, again: u32) -> Result<Self, NotChargeable> {
        create_with(Operation::CreateAgain { again }, format!("order-{order}:create:{again}"), order, amount)
    }

    pub fn confirm(order: OrderId, intent: &IntentId, method: &PaymentMethodId, attempt: u32) -> Self {
        Self {
            operation: Operation::Confirm { attempt },
            format: Format::First,
            path: format!("{}/confirm", intent_path(intent)),
            idempotency_key: format!("order-{order}:confirm:{attempt}"),
            body: form(&[("payment_method", method.as_str())]),
        }
    }

    /// As [`Self::create`] in the second format; `again` counts new starts, 0 is the first.
    pub fn create_for(
        order: OrderId,
        amount: Money,
        shop: &str,
        customer: Option<&CustomerId>,
        again: u32,
    ) -> Result<Self, NotChargeable> {
        let first = match again {
            0 => Self::create(order, amount)?,
            again => Self::create_again(order, amount, again)?,
        };
        let (amount_minor, currency) = (to_provider(amount).to_string(), amount.currency.as_str().to_ascii_lowercase());
        let order = order.to_string();
        let mut fields = vec![("amount", &*amount_minor), ("currency", &*currency)];
        fields.extend(customer.map(|customer| ("customer", &*customer.0)));
        fields.extend([
            ("metadata[order_id]", &*order),
            ("metadata[shop]", shop),
            ("capture_method", "automatic"),
            ("confirm", "false"),
            ("allowed_payment_method_types[]", "card"),
        ]);
        Ok(Self { format: Format::Second, body: form(&fields), ..first })
    }

    /// As [`Self::confirm`] in the second format.
    pub fn confirm_for(
        order: OrderId,
        intent: &IntentId,
        method: &PaymentMethodId,
        presence: Presence<'_>,
        attempt: u32,
    ) -> Self {
        let first = Self::confirm(order, intent, method, attempt);
        let mut fields = vec![("payment_method", method.as_str())];
        match presence {
            Presence::OffSession => fields.push(("off_session", "true")),
            Presence::OnSession { return_url } => fields.extend(return_url.map(|url| ("return_url", url))),
        }
        Self { format: Format::Second, body: form(&fields), ..first }
    }

    /// Names the customer of an intent that was made without one. A repeat changes nothing, so that an answer that the
    /// provider has stored is of no use: `nth` makes each call's key its own.
    pub fn name_customer(order: OrderId, intent: &IntentId, customer: &CustomerId, nth: i64) -> Self {
        Self {
            operation: Operation::NameCustomer,
            format: Format::Second,
            path: intent_path(intent),
            idempotency_key: format!("order-{order}:customer:{nth}"),
            body: form(&[("customer", &customer.0)]),
        }
    }

    /// The same request in another format: where nothing but the version differs.
    pub fn in_format(self, format: Format) -> Self {
        Self { format, ..self }
    }

    pub fn cancel(order: OrderId, intent: &IntentId) -> Self {
        cancel_with(Operation::Cancel, format!("order-{order}:cancel"), intent)
    }

    pub fn cancel_again(order: OrderId, intent: &IntentId, again: u32) -> Self {
        cancel_with(Operation::CancelAgain { again }, format!("order-{order}:cancel:{again}"), intent)
    }

    /// Gives back `amount` of what the order's intent captured. The intent is named rather than its charge: it
    /// captures at most once, so both mean the same money, and the intent is what the order has stored.
    ///
    /// Never sent again later than 20 h after the first time: a forgotten key would be a second refund. Look it up
    /// with `list_refunds`; `metadata[refund_id]` says which are ours.
    pub fn refund(order: OrderId, refund: RefundId, intent: &IntentId, amount: Money) -> Result<Self, NotChargeable> {
        check_refund(amount)?;
        let body = form(&[
            ("payment_intent", &intent.0),
            ("amount", &to_provider(amount).to_string()),
            ("metadata[order_id]", &order.to_string()),
            ("metadata[refund_id]", &refund.to_string()),
        ]);
        Ok(Self {
            operation: Operation::Refund,
            format: Format::First,
            path: REFUNDS_PATH.to_owned(),
            idempotency_key: format!("order-{order}:refund:{refund}"),
            body,
        })
    }

    /// The `again`-th repeat (from 1) of a refund that the provider keeps answering with a stored error, and that is not
    /// in its list: the list is asked right before.
    pub fn refund_again(
        order: OrderId,
        refund: RefundId,
        intent: &IntentId,
        amount: Money,
        again: u32,
    ) -> Result<Self, NotChargeable> {
        let first = Self::refund(order, refund, intent, amount)?;
        Ok(Self { idempotency_key: format!("{}:{again}", first.idempotency_key), ..first })
    }
}

fn create_with(
    operation: Operation,
    idempotency_key: String,
    order: OrderId,
    amount: Money,
) -> Result<ProviderRequest, NotChargeable> {
    check_charge(amount)?;
    let body = form(&[
        ("amount", &to_provider(amount).to_string()),
        ("currency", &amount.currency.as_str().to_ascii_lowercase()),
        ("metadata[order_id]", &order.to_string()),
        ("capture_method", "automatic"),
        ("confirm", "false"),
        ("payment_method_types[]", "card"),
    ]);
    let path = INTENTS_PATH.to_owned();
    Ok(ProviderRequest { operation, format: Format::First, path, idempotency_key, body })
}

fn cancel_with(operation: Operation, idempotency_key: String, intent: &IntentId) -> ProviderRequest {
    let path = format!("{}/cancel", intent_path(intent));
    ProviderRequest { operation, format: Format::First, path, idempotency_key, body: String::new() }
}

pub(super) const INTENTS_PATH: &str = "/v1/payment_intents";
pub(super) const REFUNDS_PATH: &str = "/v1/refunds";

pub(super) fn intent_path(intent: &IntentId) -> String {
    // Ids come from answers and from our own rows, both checked; another one could point at another path.
    assert!(is_provider_id(&intent.0), "an intent's id names one path segment, {:?} does not", intent.0);
    format!("{INTENTS_PATH}/{}", intent.0)
}

pub(super) fn form(fields: &[(&str, &str)]) -> String {
    serde_urlencoded::to_string(fields).expect("pairs of strings are always encodable")
}
