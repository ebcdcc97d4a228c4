//! Intents, refunds, the account book, events and idempotency keys in memory. No I/O, no chance.

mod balance;
mod intents;
mod list;
mod refunds;

use std::collections::HashMap;

use serde_json::{Value, json};

use super::clock::FakeClock;
pub use balance::{FakeBalanceTransaction, FakeDispute};
pub use intents::{End, FakeIntent};
use list::Listed as _;
pub use refunds::FakeRefund;

/// Money that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    pub intent_id: String,
    pub charge_id: String,
    pub order_id: Option<String>,
    pub amount_minor: i64,
    /// In small letters, as on the wire.
    pub currency: String,
}

/// Something that happened, as a webhook tells of it.
#[derive(Debug, Clone, PartialEq)]
pub struct FakeEvent {
    pub event_id: String,
    pub kind: &'static str,
    pub intent_id: String,
    pub order_id: Option<String>,
    /// In seconds since 1970.
    pub created: i64,
    /// The object as it stood then.
    pub object: Value,
}

/// What is still to happen by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Later {
    /// A declined one succeeds after all.
    LateSuccess {
        intent_id: String,
    },
    /// A processing one ends.
    Intent {
        intent_id: String,
    },
    Refund {
        refund_id: String,
        end: End,
    },
}

/// What chance does to one request, while it is executed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Twist {
    pub(crate) decline: bool,
    pub(crate) late_success: bool,
    pub(crate) requires_action: bool,
    pub(crate) processing: bool,
    pub(crate) success_before_cancel: bool,
    pub(crate) refund_pending: bool,
    pub(crate) refund_fails: bool,
}

/// What goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) replayed: bool,
    /// In seconds.
    pub(crate) retry_after: Option<u64>,
    /// False when nothing had begun (parameters that fail validation): such an answer leaves the key unused.
    stored: bool,
}

#[derive(Debug)]
struct KeyRecord {
    path: String,
    parameters: String,
    /// `None` while the first request runs.
    answer: Option<Answer>,
}

#[derive(Debug)]
pub(crate) struct Store {
    /// Keeps the ids of two runs apart: an old order's intent is then unknown here instead of another order's.
    run: String,
    /// Where buyers are sent to authenticate.
    url: String,
    clock: FakeClock,
    ids_given: u64,
    intents: Vec<FakeIntent>,
    positions: HashMap<String, usize>,
    captures: Vec<Capture>,
    refunds: Vec<FakeRefund>,
    disputes: Vec<FakeDispute>,
    balance: Vec<FakeBalanceTransaction>,
    events: Vec<FakeEvent>,
    later: Vec<Later>,
    keys: HashMap<String, KeyRecord>,
}

type Form = Vec<(String, String)>;

impl Store {
    pub(crate) fn new(run: &str, url: &str, clock: FakeClock) -> Self {
        Self {
            run: run.to_owned(),
            url: url.to_owned(),
            clock,
            ids_given: 0,
            intents: Vec::new(),
            positions: HashMap::new(),
            captures: Vec::new(),
            refunds: Vec::new(),
            disputes: Vec::new(),
            balance: Vec::new(),
            events: Vec::new(),
            later: Vec::new(),
            keys: HashMap::new(),
        }
    }

    pub(crate) fn captures(&self) -> &[Capture] {
        &self.captures
    }

    pub(crate) fn events(&self) -> &[FakeEvent] {
        &self.events
    }

    /// Benches keep no events: nothing is delivered, and memory is bounded.
    pub(crate) fn forget_events(&mut self) {
        self.events.clear();
        self.later.clear();
    }

    /// What the last requests have left to happen by itself; handed out once.
    pub(crate) fn take_later(&mut self) -> Vec<Later> {
        std::mem::take(&mut self.later)
    }

    /// Takes the key for a first request; the error is the answer to any other.
    pub(crate) fn begin(&mut self, key: &str, path: &str, parameters: &str) -> Result<(), Answer> {
        let Some(known) = self.keys.get(key) else {
            let record = KeyRecord { path: path.to_owned(), parameters: parameters.to_owned(), answer: None };
            self.keys.insert(key.to_owned(), record);
            return Ok(());
        };
        if known.path != path || known.parameters != parameters {
            let text = "Keys can only be used with the path and parameters they were first used with.";
            return Err(Answer::error(400, json!({ "type": "idempotency_error", "message": text })));
        }
        Err(match &known.answer {
            Some(answer) => Answer { replayed: true, ..answer.clone() },
            None => Answer::error(
                409,
                json!({ "type": "idempotency_error", "code": "idempotency_key_in_use",
                    "message": "Another request with this key is still running." }),
            ),
        })
    }

    /// Ends what `begin` began.
    pub(crate) fn finish(&mut self, key: &str, answer: &Answer) {
        if !answer.stored {
            self.keys.remove(key);
        } else if let Some(record) = self.keys.get_mut(key) {
            record.answer = Some(answer.clone());
        }
    }

    pub(crate) fn forget_keys(&mut self) {
        self.keys.retain(|_, record| record.answer.is_none());
    }

    /// Carries out one request whose key, if any, was taken by `begin`.
    pub(crate) fn execute(&mut self, method: &str, path: &str, parameters: &str, twist: Twist) -> Answer {
        let Ok(form) = serde_urlencoded::from_str::<Form>(parameters) else {
            return invalid("parameter_unknown", "The parameters are not form-encoded.");
        };
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let (id, verb) = match (method, segments.as_slice()) {
            ("POST", ["v1", "payment_intents"]) => return self.create(form),
            ("GET", ["v1", "payment_intents"]) => return list::page(&self.intents, path, &[], &form),
            ("POST", ["v1", "refunds"]) => return self.create_refund(form, twist),
            ("GET", ["v1", "refunds"]) => {
                return list::page(&self.refunds, path, &["payment_intent", "charge"], &form);
            }
            ("GET", ["v1", "refunds", id]) => return self.read_refund(id),
            ("GET", ["v1", "balance_transactions"]) => {
                return list::page(&self.balance, path, &["type", "source", "currency"], &form);
            }
            ("GET", ["v1", "payment_intents", id]) => (*id, "read"),
            ("POST", ["v1", "payment_intents", id, verb @ ("confirm" | "cancel")]) => (*id, *verb),
            _ => return not_found(&format!("Unrecognized request URL ({method}: {path}).")),
        };
        let Some(&position) = self.positions.get(id) else {
            return not_found(&format!("No such payment_intent: '{id}'"));
        };
        match verb {
            "confirm" => self.confirm(position, form, twist),
            "cancel" => self.cancel(position, &form, twist),
            _ => Answer::ok(&self.intents[position].to_json()),
        }
    }

    fn emit(&mut self, kind: &'static str, object: Value, intent_id: &str) {
        let order_id = self.intents[self.positions[intent_id]].order_id().map(str::to_owned);
        let event = FakeEvent {
            event_id: self.new_id("evt"),
            kind,
            intent_id: intent_id.to_owned(),
            order_id,
            created: self.clock.now(),
            object,
        };
        self.events.push(event);
    }

    fn new_id(&mut self, kind: &str) -> String {
        self.ids_given += 1;
        format!("{kind}_{}{:08}", self.run, self.ids_given)
    }
}

impl FakeEvent {
    /// The body of its delivery.
    pub fn to_json(&self) -> Value {
        json!({ "id": self.event_id, "object": "event", "api_version": "2024-06-20", "created": self.created,
            "livemode": false, "pending_webhooks": 1, "request": { "id": null, "idempotency_key": null },
            "type": self.kind, "data": { "object": self.object } })
    }
}

impl Answer {
    fn ok(object: &Value) -> Self {
        Self { status: 200, body: object.to_string(), replayed: false, retry_after: None, stored: true }
    }

    fn error(status: u16, error: Value) -> Self {
        let body = json!({ "error": error }).to_string();
        Self { status, body, replayed: false, retry_after: None, stored: false }
    }

    pub(crate) fn error_500() -> Self {
        let error = json!({ "type": "api_error", "message": "Something went wrong on our end." });
        Self { stored: true, ..Self::error(500, error) }
    }

    pub(crate) fn unavailable() -> Self {
        Self::error(503, json!({ "type": "api_error", "message": "We are not available at the moment." }))
    }

    pub(crate) fn rate_limited(retry_after: u64) -> Self {
        let error = json!({ "type": "invalid_request_error", "code": "rate_limit",
            "message": "Request rate limit exceeded." });
        Self { retry_after: Some(retry_after), ..Self::error(429, error) }
    }

    pub(crate) fn wrong_credential() -> Self {
        Self::error(401, json!({ "type": "invalid_request_error", "message": "Invalid API Key provided." }))
    }
}

fn invalid(code: &str, message: &str) -> Answer {
    Answer::error(400, json!({ "type": "invalid_request_error", "code": code, "message": message }))
}

/// A refusal that needed a look at the objects: stored under its key, like a success.
fn executed_error(code: &str, message: &str) -> Answer {
    Answer { stored: true, ..invalid(code, message) }
}

fn not_found(message: &str) -> Answer {
    let error = json!({ "type": "invalid_request_error", "code": "resource_missing", "message": message });
    Answer::error(404, error)
}

/// `order_id` of `metadata[order_id]`.
fn metadata_field(name: &str) -> Option<&str> {
    name.strip_prefix("metadata[")?.strip_suffix(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTENTS: &str = "/v1/payment_intents";

    fn post(store: &mut Store, path: &str, parameters: &str) -> Answer {
        store.execute("POST", path, parameters, Twist::default())
    }

    fn store_with_intent(order_id: &str) -> (Store, String) {
        let mut store = Store::new("0", "http://fake", FakeClock::unix_seconds(|| 1_795_773_600));
        let answer = post(&mut store, INTENTS, &format!("amount=5&currency=eur&metadata[order_id]={order_id}"));
        assert_eq!(answer.status, 200, "{}", answer.body);
        let path = format!("{INTENTS}/{}", store.intents()[0].intent_id);
        (store, path)
    }

    #[test]
    fn an_intent_moves_as_its_table_says_and_captures_once() {
        let (visa, declined) = ("payment_method=pm_card_visa", "payment_method=pm_card_chargeDeclined");
        let action = "payment_method=pm_card_authenticationRequired";
        // (verb, parameters, status code, status of the intent, captures) one after the other on the same intent.
        type Step = (&'static str, &'static str, u16, &'static str, usize);
        let paid: &[Step] = &[
            ("confirm", "", 400, "requires_payment_method", 0),
            ("confirm", "payment_method=visa", 404, "requires_payment_method", 0),
            ("confirm", declined, 402, "requires_payment_method", 0),
            ("confirm", action, 200, "requires_action", 0),
            ("confirm", visa, 200, "succeeded", 1),
            ("confirm", visa, 400, "succeeded", 1),
            ("confirm", declined, 400, "succeeded", 1),
            ("cancel", "", 400, "succeeded", 1),
        ];
        let canceled: &[Step] = &[
            ("confirm", action, 200, "requires_action", 0),
            ("cancel", "", 200, "canceled", 0),
            ("confirm", visa, 400, "canceled", 0),
            ("cancel", "", 400, "canceled", 0),
        ];
        for steps in [paid, canceled] {
            let (mut store, path) = store_with_intent("o-1");
            for (verb, parameters, code, status, captures) in steps {
                let answer = post(&mut store, &format!("{path}/{verb}"), parameters);
                assert_eq!(answer.status, *code, "{verb} {parameters}: {}", answer.body);
                assert_eq!(store.intents()[0].status, *status, "{verb} {parameters}");
                assert_eq!(store.captures().len(), *captures, "{verb} {parameters}");
            }
        }
    }

    #[test]
    fn a_key_runs_once_and_replays_unless_nothing_had_begun() {
        let (mut store, path) = store_with_intent("o-1");
        assert_eq!(store.begin("k", &path, "a=1"), Ok(()));
        assert_eq!(store.begin("k", &path, "a=1").unwrap_err().status, 409);
        assert_eq!(store.begin("k", &path, "a=2").unwrap_err().status, 400);
        assert_eq!(store.begin("k", INTENTS, "a=1").unwrap_err().status, 400);
        store.finish("k", &Answer::error_500());
        let replay = store.begin("k", &path, "a=1").unwrap_err();
        assert_eq!((replay.status, replay.replayed), (500, true));

        assert_eq!(store.begin("invalid", &path, ""), Ok(()));
        store.finish("invalid", &invalid("parameter_missing", ""));
        assert_eq!(store.begin("invalid", &path, "corrected=1"), Ok(()));

        store.forget_keys();
        assert_eq!(store.begin("k", &path, "a=2"), Ok(()));
        assert_eq!(store.begin("invalid", &path, "corrected=1").unwrap_err().status, 409, "still running");
    }

    #[test]
    fn unknown_parameters_and_paths_are_refused() {
        let mut store = Store::new("0", "http://fake", FakeClock::unix_seconds(|| 1_795_773_600));
        for parameters in ["", "amount=5", "amount=5&currency=EUR", "amount=-5&currency=eur", "amount=0.5&currency=eur"]
        {
            assert_eq!(post(&mut store, INTENTS, parameters).status, 400, "{parameters}");
        }
        assert_eq!(post(&mut store, INTENTS, "amount=5&currency=eur&confirm=true").status, 400);
        assert_eq!(post(&mut store, "/v1/payment_intents/pi_x/confirm", "").status, 404);
        assert_eq!(store.execute("GET", "/v1/charges", "", Twist::default()).status, 404);
        assert!(store.intents().is_empty());
    }

    #[test]
    fn capturing_twice_shows_in_the_ledger_and_in_the_list() {
        let (mut store, path) = store_with_intent("o-1");
        assert_eq!(store.capture_twice("o-1"), None);
        post(&mut store, &format!("{path}/confirm"), "payment_method=pm_card_visa");
        let second = store.capture_twice("o-1").unwrap();
        assert_eq!(store.captures().len(), 2);
        assert_ne!(second.charge_id, store.captures()[0].charge_id);
        let succeeded = store.intents().iter().filter(|intent| intent.status == "succeeded");
        assert_eq!(succeeded.filter(|intent| intent.order_id() == Some("o-1")).count(), 2);
    }
}
