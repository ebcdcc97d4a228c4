//! Events: what a webhook tells of, kept as it stood then.

use serde_json::{Value, json};

use super::super::parameters::ApiVersion;
use super::Store;
use super::list::Listed;

/// Something that happened, as a webhook tells of it.
#[derive(Debug, Clone, PartialEq)]
pub struct FakeEvent {
    pub event_id: String,
    pub kind: &'static str,
    /// Empty for what is about no payment.
    pub intent_id: String,
    pub order_id: Option<String>,
    /// In seconds since 1970.
    pub created: i64,
    /// The object as it stood then.
    pub object: Value,
}

impl FakeEvent {
    /// The body of its delivery.
    pub fn to_json(&self) -> Value {
        json!({ "id": self.event_id, "object": "event", "api_version": ApiVersion::OF_ACCOUNT.name(),
            "created": self.created, "livemode": false, "pending_webhooks": 1,
            "request": { "id": null, "idempotency_key": null }, "type": self.kind, "data": { "object": self.object } })
    }
}

impl Listed for FakeEvent {
    fn id(&self) -> &str {
        &self.event_id
    }

    fn created(&self) -> i64 {
        self.created
    }

    fn has(&self, _field: &str, value: &str) -> bool {
        self.kind == value
    }

    fn to_json(&self, _version: ApiVersion) -> Value {
        Self::to_json(self)
    }
}

impl Store {
    pub(crate) fn events(&self) -> &[FakeEvent] {
        &self.events
    }

    /// About a payment.
    pub(super) fn emit(&mut self, kind: &'static str, intent_id: &str, object: impl FnOnce(&Self) -> Value) {
        if self.rules.keeps_events {
            let order_id = self.intents[self.positions[intent_id]].order_id().map(str::to_owned);
            let object = object(self);
            self.push_event(kind, intent_id.to_owned(), order_id, object);
        }
    }

    /// About a customer, a card, or how one is saved.
    pub(super) fn emit_other(&mut self, kind: &'static str, object: Value) {
        if self.rules.keeps_events {
            self.push_event(kind, String::new(), None, object);
        }
    }

    fn push_event(&mut self, kind: &'static str, intent_id: String, order_id: Option<String>, object: Value) {
        let (event_id, created) = (self.new_id("evt"), self.clock.now());
        self.events.push(FakeEvent { event_id, kind, intent_id, order_id, created, object });
    }
}
