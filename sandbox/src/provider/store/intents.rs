//! Payment intents: how they are made, confirmed, canceled, and how money is taken.

use serde_json::{Map, Value, json};

use super::list::Listed;
use super::{Answer, Capture, Form, Later, Store, Twist, invalid, metadata_field, not_found};

/// A payment intent.
#[derive(Debug, Clone, PartialEq)]
pub struct FakeIntent {
    pub intent_id: String,
    pub status: &'static str,
    pub amount_minor: i64,
    pub currency: String,
    pub metadata: Map<String, Value>,
    pub payment_method: Option<String>,
    /// The newest charge, declined ones included.
    pub latest_charge: Option<String>,
    pub last_payment_error: Option<Value>,
    /// Where the buyer has to go while the status is `requires_action`.
    pub action_url: Option<String>,
    /// In seconds since 1970.
    pub created: i64,
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
        format!("{}_secret_{:016x}", self.intent_id, crate::provider::faults::mix(0, 0, &self.intent_id))
    }

    /// Whether a charge was ever tried, so that its money may still come.
    fn was_tried(&self) -> bool {
        self.latest_charge.is_some() || matches!(self.status, "requires_action" | "processing")
    }
}

impl Listed for FakeIntent {
    fn id(&self) -> &str {
        &self.intent_id
    }

    fn created(&self) -> i64 {
        self.created
    }

    fn to_json(&self) -> Value {
        let amount_received = if self.status == "succeeded" { self.amount_minor } else { 0 };
        let next_action = self
            .action_url
            .as_ref()
            .map(|url| json!({ "type": "redirect_to_url", "redirect_to_url": { "url": url, "return_url": null } }));
        json!({ "id": self.intent_id, "object": "payment_intent", "status": self.status, "livemode": false,
            "amount": self.amount_minor, "amount_received": amount_received, "currency": self.currency,
            "capture_method": "automatic", "payment_method_types": ["card"], "metadata": self.metadata,
            "payment_method": self.payment_method, "latest_charge": self.latest_charge,
            "last_payment_error": self.last_payment_error, "next_action": next_action,
            "client_secret": self.client_secret(), "created": self.created })
    }
}

impl Store {
    pub(crate) fn intents(&self) -> &[FakeIntent] {
        &self.intents
    }

    pub(super) fn create(&mut self, form: Form) -> Answer {
        let (mut amount_minor, mut currency, mut metadata) = (0_i64, String::new(), Map::new());
        for (name, value) in form {
            match (name.as_str(), value.as_str()) {
                ("amount", _) => amount_minor = value.parse().unwrap_or(0),
                ("currency", _) => currency = value,
                ("capture_method", "automatic") | ("confirm", "false") | ("payment_method_types[]", "card") => {}
                _ => match metadata_field(&name) {
                    Some(field) => drop(metadata.insert(field.to_owned(), value.into())),
                    None => {
                        return invalid("parameter_unknown", &format!("Received unknown parameter: {name}={value}"));
                    }
                },
            }
        }
        if amount_minor <= 0 {
            return invalid("parameter_invalid_integer", "amount must be a positive integer.");
        }
        if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_lowercase()) {
            return invalid("parameter_invalid", "currency must be three small letters.");
        }
        let position = self.insert(FakeIntent {
            intent_id: String::new(),
            status: "requires_payment_method",
            amount_minor,
            currency,
            metadata,
            payment_method: None,
            latest_charge: None,
            last_payment_error: None,
            action_url: None,
            created: self.clock.now(),
        });
        Answer::ok(&self.intents[position].to_json())
    }

    pub(super) fn confirm(&mut self, position: usize, form: Form, twist: Twist) -> Answer {
        let [(name, method)] = <[_; 1]>::try_from(form).unwrap_or_default();
        if name != "payment_method" {
            return invalid("parameter_missing", "payment_method must be the only parameter.");
        }
        if !method.starts_with("pm_") {
            return not_found(&format!("No such PaymentMethod: '{method}'"));
        }
        if !matches!(
            self.intents[position].status,
            "requires_payment_method" | "requires_confirmation" | "requires_action"
        ) {
            return self.unexpected_state(position, "confirm");
        }
        self.intents[position].action_url = None;
        self.intents[position].payment_method = Some(method.clone());
        match method.as_str() {
            _ if twist.decline => return self.decline_now(position, "generic_decline", twist),
            "pm_card_chargeDeclined" => return self.decline_now(position, "generic_decline", twist),
            "pm_card_chargeDeclinedInsufficientFunds" => {
                return self.decline_now(position, "insufficient_funds", twist);
            }
            "pm_fake_declinedThenSucceeds" => {
                return self.decline_now(position, "generic_decline", Twist { late_success: true, ..twist });
            }
            "pm_card_authenticationRequired" => self.require_action(position),
            _ if twist.requires_action => self.require_action(position),
            "pm_fake_processing" => self.process(position),
            _ if twist.processing => self.process(position),
            _ => drop(self.capture(position)),
        }
        if method == "pm_card_createDispute" {
            self.open_dispute(&self.intents[position].intent_id.clone());
        }
        Answer::ok(&self.intents[position].to_json())
    }

    pub(super) fn cancel(&mut self, position: usize, form: &Form, twist: Twist) -> Answer {
        if !form.is_empty() {
            return invalid("parameter_unknown", "cancel takes no parameters.");
        }
        if twist.success_before_cancel {
            self.succeed(position);
        }
        if matches!(self.intents[position].status, "succeeded" | "canceled") {
            return self.unexpected_state(position, "cancel");
        }
        let intent = &mut self.intents[position];
        (intent.status, intent.action_url) = ("canceled", None);
        self.emit_intent(position, "payment_intent.canceled");
        Answer::ok(&self.intents[position].to_json())
    }

    /// The buyer's answer. False if the intent does not wait for it.
    pub(crate) fn finish_action(&mut self, intent_id: &str, end: End) -> bool {
        self.finish_waiting(intent_id, "requires_action", "payment_intent_authentication_failure", end)
    }

    /// The bank's answer. False if the intent does not wait for it.
    pub(crate) fn finish_processing(&mut self, intent_id: &str, end: End) -> bool {
        self.finish_waiting(intent_id, "processing", "payment_intent_payment_attempt_failed", end)
    }

    fn finish_waiting(&mut self, intent_id: &str, waiting: &str, failure: &str, end: End) -> bool {
        let Some(&position) = self.positions.get(intent_id) else { return false };
        if self.intents[position].status != waiting {
            return false;
        }
        match end {
            End::Succeeded => drop(self.capture(position)),
            End::Failed => drop(self.decline(position, failure, None)),
        }
        true
    }

    /// Takes the money after all: of a declined, waiting or processing intent. False if nothing was ever tried, or if
    /// the intent has come to an end.
    pub(crate) fn succeed_late(&mut self, intent_id: &str) -> bool {
        self.positions.get(intent_id).copied().is_some_and(|position| self.succeed(position))
    }

    fn succeed(&mut self, position: usize) -> bool {
        let intent = &self.intents[position];
        let can = intent.was_tried() && !matches!(intent.status, "succeeded" | "canceled");
        if can {
            self.capture(position);
        }
        can
    }

    pub(crate) fn capture_twice(&mut self, order_id: &str) -> Option<Capture> {
        let first = self.captures.iter().find(|capture| capture.order_id.as_deref() == Some(order_id))?;
        let twin = self.intents[self.positions[&first.intent_id]].clone();
        let position = self.insert(twin);
        Some(self.capture(position))
    }

    fn require_action(&mut self, position: usize) {
        let intent = &mut self.intents[position];
        intent.status = "requires_action";
        intent.action_url =
            Some(format!("{}/authenticate/{}?client_secret={}", self.url, intent.intent_id, intent.client_secret()));
        self.emit_intent(position, "payment_intent.requires_action");
    }

    fn process(&mut self, position: usize) {
        self.intents[position].status = "processing";
        self.later.push(Later::Intent { intent_id: self.intents[position].intent_id.clone() });
        self.emit_intent(position, "payment_intent.processing");
    }

    /// Takes the money, once: every caller has just seen that the intent is not captured.
    fn capture(&mut self, position: usize) -> Capture {
        let charge_id = self.new_id("ch");
        let intent = &mut self.intents[position];
        intent.status = "succeeded";
        intent.latest_charge = Some(charge_id.clone());
        intent.last_payment_error = None;
        intent.action_url = None;
        let capture = Capture {
            intent_id: intent.intent_id.clone(),
            charge_id,
            order_id: intent.order_id().map(str::to_owned),
            amount_minor: intent.amount_minor,
            currency: intent.currency.clone(),
        };
        self.captures.push(capture.clone());
        self.book_charge(&capture);
        self.emit_intent(position, "payment_intent.succeeded");
        capture
    }

    fn decline_now(&mut self, position: usize, decline_code: &str, twist: Twist) -> Answer {
        if twist.late_success {
            self.later.push(Later::LateSuccess { intent_id: self.intents[position].intent_id.clone() });
        }
        let error = self.decline(position, "card_declined", Some(decline_code));
        Answer { stored: true, ..Answer::error(402, error) }
    }

    fn decline(&mut self, position: usize, code: &str, decline_code: Option<&str>) -> Value {
        let charge_id = self.new_id("ch");
        let intent = &mut self.intents[position];
        let mut error = json!({ "type": "card_error", "code": code, "decline_code": decline_code,
            "message": "Your card was declined.", "charge": charge_id });
        intent.status = "requires_payment_method";
        intent.payment_method = None;
        intent.latest_charge = Some(charge_id);
        intent.last_payment_error = Some(error.clone());
        intent.action_url = None;
        error["payment_intent"] = intent.to_json();
        self.emit_intent(position, "payment_intent.payment_failed");
        error
    }

    fn unexpected_state(&self, position: usize, verb: &str) -> Answer {
        let intent = &self.intents[position];
        let message = format!("You cannot {verb} this PaymentIntent because it has a status of {}.", intent.status);
        let error = json!({ "type": "invalid_request_error", "code": "payment_intent_unexpected_state",
            "message": message, "payment_intent": intent.to_json() });
        Answer { stored: true, ..Answer::error(400, error) }
    }

    fn insert(&mut self, intent: FakeIntent) -> usize {
        let (position, intent_id) = (self.intents.len(), self.new_id("pi"));
        self.positions.insert(intent_id.clone(), position);
        self.intents.push(FakeIntent { intent_id, ..intent });
        position
    }

    fn emit_intent(&mut self, position: usize, kind: &'static str) {
        let intent = &self.intents[position];
        let (object, intent_id) = (intent.to_json(), intent.intent_id.clone());
        self.emit(kind, object, &intent_id);
    }
}
