//! Intents, captures and idempotency keys in memory. No I/O, no chance.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::clock::FakeClock;

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
    /// In seconds since 1970.
    pub created: i64,
}

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

/// What goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) replayed: bool,
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
    clock: FakeClock,
    ids_given: u64,
    intents: Vec<FakeIntent>,
    positions: HashMap<String, usize>,
    captures: Vec<Capture>,
    keys: HashMap<String, KeyRecord>,
}

type Form = Vec<(String, String)>;

impl Store {
    pub(crate) fn new(run: &str, clock: FakeClock) -> Self {
        Self {
            run: run.to_owned(),
            clock,
            ids_given: 0,
            intents: Vec::new(),
            positions: HashMap::new(),
            captures: Vec::new(),
            keys: HashMap::new(),
        }
    }

    pub(crate) fn intents(&self) -> &[FakeIntent] {
        &self.intents
    }

    pub(crate) fn captures(&self) -> &[Capture] {
        &self.captures
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

    pub(crate) fn capture_twice(&mut self, order_id: &str) -> Option<Capture> {
        let first = self.captures.iter().find(|capture| capture.order_id.as_deref() == Some(order_id))?;
        let twin = self.intents[self.positions[&first.intent_id]].clone();
        let position = self.insert(twin);
        Some(self.capture(position))
    }

    /// Carries out one request whose key, if any, was taken by `begin`.
    pub(crate) fn execute(&mut self, method: &str, path: &str, parameters: &str) -> Answer {
        let Ok(form) = serde_urlencoded::from_str::<Form>(parameters) else {
            return invalid("parameter_unknown", "The parameters are not form-encoded.");
        };
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let (id, verb) = match (method, segments.as_slice()) {
            ("POST", ["v1", "payment_intents"]) => return self.create(form),
            ("GET", ["v1", "payment_intents"]) => return self.list(&form),
            ("GET", ["v1", "payment_intents", id]) => (*id, "read"),
            ("POST", ["v1", "payment_intents", id, verb @ ("confirm" | "cancel")]) => (*id, *verb),
            _ => return not_found(&format!("Unrecognized request URL ({method}: {path}).")),
        };
        let Some(&position) = self.positions.get(id) else {
            return not_found(&format!("No such payment_intent: '{id}'"));
        };
        match verb {
            "confirm" => self.confirm(position, form),
            "cancel" => self.cancel(position, &form),
            _ => Answer::ok(&self.intents[position].to_json()),
        }
    }

    fn create(&mut self, form: Form) -> Answer {
        let (mut amount_minor, mut currency, mut metadata) = (0_i64, String::new(), Map::new());
        for (name, value) in form {
            match (name.as_str(), value.as_str()) {
                ("amount", _) => amount_minor = value.parse().unwrap_or(0),
                ("currency", _) => currency = value,
                ("capture_method", "automatic") | ("confirm", "false") | ("payment_method_types[]", "card") => {}
                _ => match name.strip_prefix("metadata[").and_then(|rest| rest.strip_suffix(']')) {
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
            created: self.clock.now(),
        });
        Answer::ok(&self.intents[position].to_json())
    }

    fn confirm(&mut self, position: usize, form: Form) -> Answer {
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
        match method.as_str() {
            "pm_card_chargeDeclined" => return self.decline(position),
            "pm_card_authenticationRequired" => self.intents[position].status = "requires_action",
            _ => drop(self.capture(position)),
        }
        let intent = &mut self.intents[position];
        intent.payment_method = Some(method);
        Answer::ok(&intent.to_json())
    }

    fn cancel(&mut self, position: usize, form: &Form) -> Answer {
        if !form.is_empty() {
            return invalid("parameter_unknown", "cancel takes no parameters.");
        }
        if matches!(self.intents[position].status, "succeeded" | "canceled") {
            return self.unexpected_state(position, "cancel");
        }
        self.intents[position].status = "canceled";
        Answer::ok(&self.intents[position].to_json())
    }

    fn list(&self, form: &Form) -> Answer {
        const LIMIT_DEFAULT: usize = 10;
        let (mut limit, mut end) = (LIMIT_DEFAULT, self.intents.len());
        for (name, value) in form {
            match name.as_str() {
                "limit" => match value.parse() {
                    Ok(number @ 1..=100) => limit = number,
                    _ => return invalid("parameter_invalid_integer", "limit must be 1 to 100."),
                },
                "starting_after" => match self.positions.get(value) {
                    Some(position) => end = *position,
                    None => return invalid("resource_missing", &format!("No such payment_intent: '{value}'")),
                },
                _ => return invalid("parameter_unknown", &format!("Received unknown parameter: {name}")),
            }
        }
        let data: Vec<Value> = self.intents[..end].iter().rev().take(limit).map(FakeIntent::to_json).collect();
        Answer::ok(&json!({ "object": "list", "url": "/v1/payment_intents", "has_more": end > limit, "data": data }))
    }

    /// Takes the money, once: every caller has just seen that the intent is not captured.
    fn capture(&mut self, position: usize) -> Capture {
        let charge_id = self.new_id("ch");
        let intent = &mut self.intents[position];
        intent.status = "succeeded";
        intent.latest_charge = Some(charge_id.clone());
        intent.last_payment_error = None;
        let capture = Capture {
            intent_id: intent.intent_id.clone(),
            charge_id,
            order_id: intent.order_id().map(str::to_owned),
            amount_minor: intent.amount_minor,
            currency: intent.currency.clone(),
        };
        self.captures.push(capture.clone());
        capture
    }

    fn decline(&mut self, position: usize) -> Answer {
        let charge_id = self.new_id("ch");
        let intent = &mut self.intents[position];
        let mut error = json!({ "type": "card_error", "code": "card_declined", "decline_code": "generic_decline",
            "message": "Your card was declined.", "charge": charge_id });
        intent.status = "requires_payment_method";
        intent.payment_method = None;
        intent.latest_charge = Some(charge_id);
        intent.last_payment_error = Some(error.clone());
        error["payment_intent"] = intent.to_json();
        Answer { stored: true, ..Answer::error(402, error) }
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

    fn new_id(&mut self, kind: &str) -> String {
        self.ids_given += 1;
        format!("{kind}_{}{:08}", self.run, self.ids_given)
    }
}

impl FakeIntent {
    pub fn order_id(&self) -> Option<&str> {
        self.metadata.get("order_id").and_then(Value::as_str)
    }

    fn to_json(&self) -> Value {
        let amount_received = if self.status == "succeeded" { self.amount_minor } else { 0 };
        json!({ "id": self.intent_id, "object": "payment_intent", "status": self.status, "livemode": false,
            "amount": self.amount_minor, "amount_received": amount_received, "currency": self.currency,
            "capture_method": "automatic", "payment_method_types": ["card"], "metadata": self.metadata,
            "payment_method": self.payment_method, "latest_charge": self.latest_charge,
            "last_payment_error": self.last_payment_error, "created": self.created })
    }
}

impl Answer {
    fn ok(object: &Value) -> Self {
        Self { status: 200, body: object.to_string(), replayed: false, stored: true }
    }

    fn error(status: u16, error: Value) -> Self {
        Self { status, body: json!({ "error": error }).to_string(), replayed: false, stored: false }
    }

    pub(crate) fn error_500() -> Self {
        let error = json!({ "type": "api_error", "message": "Something went wrong on our end." });
        Self { stored: true, ..Self::error(500, error) }
    }

    pub(crate) fn wrong_credential() -> Self {
        Self::error(401, json!({ "type": "invalid_request_error", "message": "Invalid API Key provided." }))
    }
}

fn invalid(code: &str, message: &str) -> Answer {
    Answer::error(400, json!({ "type": "invalid_request_error", "code": code, "message": message }))
}

fn not_found(message: &str) -> Answer {
    let error = json!({ "type": "invalid_request_error", "code": "resource_missing", "message": message });
    Answer::error(404, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTENTS: &str = "/v1/payment_intents";

    fn store_with_intent(order_id: &str) -> (Store, String) {
        let mut store = Store::new("0", FakeClock::unix_seconds(|| 1_795_773_600));
        let answer = store.execute("POST", INTENTS, &format!("amount=5&currency=eur&metadata[order_id]={order_id}"));
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
                let answer = store.execute("POST", &format!("{path}/{verb}"), parameters);
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
        let mut store = Store::new("0", FakeClock::unix_seconds(|| 1_795_773_600));
        for parameters in ["", "amount=5", "amount=5&currency=EUR", "amount=-5&currency=eur", "amount=0.5&currency=eur"]
        {
            assert_eq!(store.execute("POST", INTENTS, parameters).status, 400, "{parameters}");
        }
        assert_eq!(store.execute("POST", INTENTS, "amount=5&currency=eur&confirm=true").status, 400);
        assert_eq!(store.execute("POST", "/v1/payment_intents/pi_x/confirm", "").status, 404);
        assert_eq!(store.execute("GET", "/v1/charges", "").status, 404);
        assert!(store.intents().is_empty());
    }

    #[test]
    fn capturing_twice_shows_in_the_ledger_and_in_the_list() {
        let (mut store, path) = store_with_intent("o-1");
        assert_eq!(store.capture_twice("o-1"), None);
        store.execute("POST", &format!("{path}/confirm"), "payment_method=pm_card_visa");
        let second = store.capture_twice("o-1").unwrap();
        assert_eq!(store.captures().len(), 2);
        assert_ne!(second.charge_id, store.captures()[0].charge_id);
        let succeeded = store.intents().iter().filter(|intent| intent.status == "succeeded");
        assert_eq!(succeeded.filter(|intent| intent.order_id() == Some("o-1")).count(), 2);
    }
}
