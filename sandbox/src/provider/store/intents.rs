//! Payment intents: what they hold, how they are made, changed and canceled. `confirm` takes their money.

use std::ops::Deref;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};

use super::super::answer::{Answer, Refusal, missing, not_found};
use super::super::cards::Card;
use super::super::currencies::{check_amount, check_currency};
use super::super::form::Form;
use super::super::parameters::ApiVersion;
use super::list::Listed;
use super::{Capture, Store, Twist, secret_of};

/// A payment intent.
#[derive(Debug, Clone, PartialEq)]
pub struct FakeIntent {
    pub intent_id: String,
    pub status: &'static str,
    pub amount_minor: i64,
    pub currency: String,
    pub metadata: Map<String, Value>,
    pub customer: Option<String>,
    pub payment_method: Option<String>,
    /// The newest charge, declined ones included.
    pub latest_charge: Option<String>,
    pub last_payment_error: Option<Value>,
    /// Where the buyer has to go while the status is `requires_action`.
    pub action_url: Option<String>,
    /// In seconds since 1970.
    pub created: i64,
    pub(super) details: Details,
    /// What the buyer comes back to from there.
    pub(super) return_url: Option<String>,
    /// Whether the answer leads there; else only the provider's script in the buyer's browser does.
    pub(super) has_link: bool,
    /// When and why it was canceled.
    pub(super) canceled: Option<(i64, Option<String>)>,
    /// A 500 has answered its confirm, and the money is still to land.
    pub(super) lands_late: Option<&'static Card>,
}

/// What is only kept and told.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Details {
    pub(super) description: Option<String>,
    pub(super) receipt_email: Option<String>,
    pub(super) statement_descriptor: Option<String>,
    pub(super) statement_descriptor_suffix: Option<String>,
    pub(super) setup_future_usage: Option<String>,
    pub(super) shipping: Option<Value>,
    pub(super) is_async: bool,
    /// The types of payment methods were left to the provider, and such as leave the shop's page are among them.
    pub(super) may_redirect: bool,
    pub(super) is_automatic: bool,
}

/// How something that was left open ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Succeeded,
    Failed,
}

impl FakeIntent {
    pub fn order_id(&self) -> Option<&str> {
        self.metadata.get("order_id").and_then(Value::as_str)
    }

    pub(crate) fn client_secret(&self) -> String {
        secret_of(&self.intent_id)
    }

    pub(crate) fn return_url(&self) -> Option<&str> {
        self.return_url.as_deref()
    }

    /// Whether a charge was ever tried, so that its money may still come.
    pub(super) fn was_tried(&self) -> bool {
        self.latest_charge.is_some()
            || self.lands_late.is_some()
            || matches!(self.status, "requires_action" | "processing")
    }

    /// As it stands on the wire.
    pub(super) fn wire(&self, version: ApiVersion) -> Wire<'_> {
        Wire { intent: self, version }
    }

    fn next_action(&self) -> Option<Value> {
        let url = self.action_url.as_ref()?;
        Some(match self.has_link {
            true => json!({ "type": "redirect_to_url",
                "redirect_to_url": { "url": url, "return_url": self.return_url } }),
            false => json!({ "type": "use_stripe_sdk", "use_stripe_sdk": {} }),
        })
    }
}

/// Written field by field: intents are what a bench asks for, and a tree of values for each would be most of its work.
pub(super) struct Wire<'a> {
    intent: &'a FakeIntent,
    version: ApiVersion,
}

impl Deref for Wire<'_> {
    type Target = FakeIntent;

    fn deref(&self) -> &FakeIntent {
        self.intent
    }
}

impl Serialize for Wire<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// What an intent has and this provider never puts anything into.
        const EMPTY: [&str; 12] = [
            "application",
            "application_fee_amount",
            "customer_account",
            "excluded_payment_method_types",
            "managed_payments",
            "on_behalf_of",
            "payment_method_configuration_details",
            "processing",
            "review",
            "source",
            "transfer_data",
            "transfer_group",
        ];
        let (details, nothing) = (&self.details, None::<()>);
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("id", &self.intent_id)?;
        object.serialize_entry("object", "payment_intent")?;
        object.serialize_entry("status", self.status)?;
        object.serialize_entry("livemode", &false)?;
        object.serialize_entry("amount", &self.amount_minor)?;
        object.serialize_entry("amount_capturable", &0)?;
        object.serialize_entry("amount_details", &json!({ "tip": {} }))?;
        let received = if self.status == "succeeded" { self.amount_minor } else { 0 };
        object.serialize_entry("amount_received", &received)?;
        let automatic = details
            .is_automatic
            .then(|| json!({ "enabled": true, "allow_redirects": redirects(details.may_redirect) }));
        object.serialize_entry("automatic_payment_methods", &automatic)?;
        object.serialize_entry("canceled_at", &self.canceled.as_ref().map(|(at, _)| at))?;
        object.serialize_entry("cancellation_reason", &self.canceled.as_ref().and_then(|(_, why)| why.as_ref()))?;
        object.serialize_entry("capture_method", if details.is_async { "automatic_async" } else { "automatic" })?;
        object.serialize_entry("client_secret", &self.client_secret())?;
        object.serialize_entry("confirmation_method", "automatic")?;
        object.serialize_entry("created", &self.created)?;
        object.serialize_entry("currency", &self.currency)?;
        object.serialize_entry("customer", &self.customer)?;
        object.serialize_entry("description", &details.description)?;
        object.serialize_entry("last_payment_error", &self.last_payment_error)?;
        object.serialize_entry("latest_charge", &self.latest_charge)?;
        object.serialize_entry("metadata", &self.metadata)?;
        object.serialize_entry("next_action", &self.next_action())?;
        object.serialize_entry("payment_method", &self.payment_method)?;
        object.serialize_entry("payment_method_options", &json!({}))?;
        object.serialize_entry("payment_method_types", &["card"])?;
        if self.version >= ApiVersion::V2026_10_28 {
            object.serialize_entry("allowed_payment_method_types", &(!details.is_automatic).then_some(["card"]))?;
        }
        object.serialize_entry("receipt_email", &details.receipt_email)?;
        object.serialize_entry("setup_future_usage", &details.setup_future_usage)?;
        object.serialize_entry("shipping", &details.shipping)?;
        object.serialize_entry("statement_descriptor", &details.statement_descriptor)?;
        object.serialize_entry("statement_descriptor_suffix", &details.statement_descriptor_suffix)?;
        for name in EMPTY {
            object.serialize_entry(name, &nothing)?;
        }
        object.end()
    }
}

fn redirects(may_redirect: bool) -> &'static str {
    if may_redirect { "always" } else { "never" }
}

impl Listed for FakeIntent {
    fn id(&self) -> &str {
        &self.intent_id
    }

    fn created(&self) -> i64 {
        self.created
    }

    fn has(&self, _field: &str, value: &str) -> bool {
        self.customer.as_deref() == Some(value)
    }

    fn to_json(&self, version: ApiVersion) -> Value {
        serde_json::to_value(self.wire(version)).expect("an intent has names of text")
    }
}

impl Store {
    pub(crate) fn intents(&self) -> &[FakeIntent] {
        &self.intents
    }

    pub(super) fn intent_at(&self, id: &str) -> Result<usize, Answer> {
        self.positions.get(id).copied().ok_or_else(|| not_found("payment_intent", id, "intent"))
    }

    pub(super) fn create_intent(&mut self, form: &Form, version: ApiVersion, twist: Twist) -> Result<Answer, Answer> {
        let (amount_minor, currency) = (form.integer("amount").unwrap_or(0), form.get("currency").unwrap_or_default());
        check_amount(amount_minor, currency)?;
        check_played(form)?;
        let is_confirmed = form.is_true("confirm");
        for name in ["off_session", "return_url"] {
            if !is_confirmed && form.text(name).is_some() {
                let message = format!("You can only use {name} together with confirm=true.");
                return Err(Refusal::new(None, name, message).into());
            }
        }
        let customer = self.customer_of(form)?;
        let method = match form.text("payment_method") {
            Some(id) => Some(self.method_for_payment(id, customer.as_deref(), None)?),
            None => None,
        };
        let mut types = form.list("payment_method_types").chain(form.list("allowed_payment_method_types"));
        let is_automatic = types.next().is_none() && form.get("automatic_payment_methods[enabled]") != Some("false");
        let mut intent = FakeIntent {
            intent_id: String::new(),
            status: if method.is_some() { "requires_confirmation" } else { "requires_payment_method" },
            amount_minor,
            currency: currency.to_owned(),
            metadata: form.map("metadata"),
            customer,
            payment_method: method.map(|position| self.methods[position].method_id.clone()),
            latest_charge: None,
            last_payment_error: None,
            action_url: None,
            created: self.clock.now(),
            details: Details {
                is_automatic,
                may_redirect: is_automatic && form.get("automatic_payment_methods[allow_redirects]") != Some("never"),
                ..Details::default()
            },
            return_url: None,
            has_link: false,
            canceled: None,
            lands_late: None,
        };
        intent.details.take(form);
        let position = self.insert_intent(intent);
        if !is_confirmed {
            return Ok(Answer::ok(&self.intents[position].wire(version)));
        }
        let answer = self.confirm(position, form, version, twist);
        if answer.as_ref().is_err_and(|refused| refused.status == 400) {
            // Refused, not declined: there is no intent then.
            let refused = self.intents.pop().map(|intent| intent.intent_id);
            refused.and_then(|intent_id| self.positions.remove(&intent_id));
        }
        answer
    }

    pub(super) fn update_intent(
        &mut self,
        position: usize,
        form: &Form,
        version: ApiVersion,
    ) -> Result<Answer, Answer> {
        check_played(form)?;
        let intent = &self.intents[position];
        let changes_payment =
            ["amount", "currency", "customer", "payment_method"].iter().any(|it| form.get(it).is_some());
        let is_open = matches!(intent.status, "requires_payment_method" | "requires_confirmation" | "requires_action");
        if changes_payment && !is_open {
            return Err(self.unexpected_state(position, "update"));
        }
        let amount_minor = form.integer("amount").unwrap_or(intent.amount_minor);
        let currency = form.text("currency").unwrap_or(&intent.currency).to_owned();
        check_amount(amount_minor, &currency)?;
        let customer = match (self.customer_of(form)?, &intent.customer) {
            (Some(new), Some(known)) if new != *known => {
                let message = "You cannot modify `customer` on a PaymentIntent once it already has been set. To \
                    fulfill a payment with a different Customer, cancel this PaymentIntent and create a new one.";
                return Err(Refusal::new(None, "customer", message).into());
            }
            (Some(new), _) => Some(new),
            (None, known) => known.clone(),
        };
        let current = intent.payment_method.clone();
        let method = match form.text("payment_method") {
            Some(id) => Some(self.method_for_payment(id, customer.as_deref(), current.as_deref())?),
            None => None,
        };
        let method = method.map(|position| self.methods[position].method_id.clone());
        let intent = &mut self.intents[position];
        (intent.amount_minor, intent.currency, intent.customer) = (amount_minor, currency, customer);
        if method.is_some() {
            (intent.payment_method, intent.status, intent.action_url) = (method, "requires_confirmation", None);
        }
        intent.details.take(form);
        form.merge_into(&mut intent.metadata, "metadata");
        Ok(Answer::ok(&intent.wire(version)))
    }

    pub(super) fn cancel(
        &mut self,
        position: usize,
        form: &Form,
        version: ApiVersion,
        twist: Twist,
    ) -> Result<Answer, Answer> {
        if twist.success_before_cancel {
            self.succeed(position);
        }
        if matches!(self.intents[position].status, "succeeded" | "canceled") {
            return Err(self.unexpected_state(position, "cancel"));
        }
        let now = self.clock.now();
        let intent = &mut self.intents[position];
        (intent.status, intent.action_url) = ("canceled", None);
        intent.canceled = Some((now, form.owned("cancellation_reason")));
        self.emit_intent(position, "payment_intent.canceled");
        Ok(Answer::ok(&self.intents[position].wire(version)))
    }

    pub(crate) fn capture_twice(&mut self, order_id: &str) -> Option<Capture> {
        let first = self.captures.iter().find(|capture| capture.order_id.as_deref() == Some(order_id))?;
        let first = self.positions[&first.intent_id];
        let card = self.card_of(first)?;
        let position = self.insert_intent(self.intents[first].clone());
        Some(self.capture(position, card))
    }

    /// The customer that a request names, if they are there.
    pub(super) fn customer_of(&self, form: &Form) -> Result<Option<String>, Answer> {
        match form.text("customer") {
            Some(id) if !self.has_customer(id) => Err(missing("customer", id, "customer")),
            id => Ok(id.map(str::to_owned)),
        }
    }

    pub(super) fn unexpected_state(&self, position: usize, verb: &str) -> Answer {
        let status = self.intents[position].status;
        self.state_error(
            position,
            &format!("You cannot {verb} this PaymentIntent because it has a status of {status}."),
        )
    }

    pub(super) fn state_error(&self, position: usize, message: &str) -> Answer {
        let intent = self.intents[position].to_json(ApiVersion::OF_ACCOUNT);
        let error = json!({ "type": "invalid_request_error", "code": "payment_intent_unexpected_state",
            "message": message, "payment_intent": intent });
        Answer::error(400, &error).executed()
    }

    fn insert_intent(&mut self, intent: FakeIntent) -> usize {
        let (position, intent_id) = (self.intents.len(), self.new_id("pi"));
        self.positions.insert(intent_id.clone(), position);
        self.intents.push(FakeIntent { intent_id, ..intent });
        position
    }

    pub(super) fn emit_intent(&mut self, position: usize, kind: &'static str) {
        let intent_id = self.intents[position].intent_id.clone();
        self.emit(kind, &intent_id, |store| store.intents[position].to_json(ApiVersion::OF_ACCOUNT));
    }
}

/// What the real provider takes here and this one would have to pretend.
pub(super) fn check_played(form: &Form) -> Result<(), Answer> {
    if let Some(currency) = form.text("currency") {
        check_currency(currency)?;
    }
    for name in ["capture_method", "confirmation_method"] {
        if form.get(name) == Some("manual") {
            return Err(Refusal::not_played(&format!("{name}=manual")).into());
        }
    }
    for name in ["payment_method_types", "allowed_payment_method_types"] {
        if let Some(other) = form.list(name).find(|kind| *kind != "card") {
            return Err(Refusal::not_played(&format!("{name}[]={other}")).into());
        }
    }
    Ok(())
}

impl Details {
    /// What a request says of them; the rest stays.
    pub(super) fn take(&mut self, form: &Form) {
        let kept = [
            ("description", &mut self.description),
            ("receipt_email", &mut self.receipt_email),
            ("statement_descriptor", &mut self.statement_descriptor),
            ("statement_descriptor_suffix", &mut self.statement_descriptor_suffix),
            ("setup_future_usage", &mut self.setup_future_usage),
        ];
        for (name, place) in kept {
            if form.get(name).is_some() {
                *place = form.owned(name);
            }
        }
        if let Some(shipping) = super::customers::shipping_of(form) {
            self.shipping = Some(shipping);
        }
        if let Some(method) = form.get("capture_method") {
            self.is_async = method == "automatic_async";
        }
    }
}
