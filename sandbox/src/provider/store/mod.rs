//! The provider's objects and idempotency keys in memory, and what every request means. No I/O, no chance.
//!
//! Reading order: `keys`, `intents` (what a payment is), `confirm` (how money is taken), `methods`, `customers`,
//! `setups` and `sessions` (how a card is saved), `charges`, `refunds`, `balance`, `disputes`, `events`; then `list`,
//! `search` and `expand`, which are about all of them.

mod keys;
mod intents;
mod confirm;
mod methods;
mod customers;
mod setups;
mod sessions;
mod charges;
mod refunds;
mod balance;
mod disputes;
mod events;
mod list;
mod search;
mod expand;

use std::collections::HashMap;

use serde_json::Value;

use super::answer::{Answer, not_found};
use super::clock::FakeClock;
use super::parameters::{ApiVersion, Call, Endpoint};
pub use balance::FakeBalanceTransaction;
pub use charges::Capture;
use charges::Charge;
pub use customers::FakeCustomer;
pub use disputes::FakeDispute;
pub use events::FakeEvent;
pub use intents::{End, FakeIntent};
use keys::Keys;
use list::{Listed, Shown};
use methods::Method;
pub use refunds::FakeRefund;
use sessions::Session;
pub(crate) use sessions::{Completed, Hosted};
use setups::Setup;

/// What is still to happen by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Later {
    /// A declined one succeeds after all.
    LateSuccess {
        intent_id: String,
    },
    /// A processing one ends, or money lands whose request was answered by a 500.
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
    /// A 500 is stored, and the money lands later.
    pub(crate) capture_after_500: bool,
    /// A decline says nothing about its intent.
    pub(crate) bare_decline: bool,
    /// A list leaves out what is younger than `lists_lag_by`.
    pub(crate) lagging_list: bool,
}

/// How strict the store is, and what it keeps.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) one_off_methods_once: bool,
    pub(crate) every_card_is_another: bool,
    pub(crate) links_need_return_url: bool,
    /// In seconds.
    pub(crate) lists_lag_by: i64,
    /// Benches keep no events: nothing is delivered, and memory is bounded.
    pub(crate) keeps_events: bool,
}

#[derive(Debug)]
pub(crate) struct Store {
    /// Keeps the ids of two runs apart: an old order's intent is then unknown here instead of another order's.
    run: String,
    /// Where buyers are sent to authenticate and to save a card.
    url: String,
    clock: FakeClock,
    rules: Rules,
    ids_given: u64,
    intents: Vec<FakeIntent>,
    positions: HashMap<String, usize>,
    methods: Vec<Method>,
    method_positions: HashMap<String, usize>,
    customers: Vec<FakeCustomer>,
    setups: Vec<Setup>,
    sessions: Vec<Session>,
    charges: Vec<Charge>,
    captures: Vec<Capture>,
    refunds: Vec<FakeRefund>,
    disputes: Vec<FakeDispute>,
    balance: Vec<FakeBalanceTransaction>,
    events: Vec<FakeEvent>,
    later: Vec<Later>,
    keys: Keys,
}

impl Store {
    pub(crate) fn new(run: &str, url: &str, clock: FakeClock, rules: Rules) -> Self {
        Self {
            run: run.to_owned(),
            url: url.to_owned(),
            clock,
            rules,
            ids_given: 0,
            intents: Vec::new(),
            positions: HashMap::new(),
            methods: Vec::new(),
            method_positions: HashMap::new(),
            customers: Vec::new(),
            setups: Vec::new(),
            sessions: Vec::new(),
            charges: Vec::new(),
            captures: Vec::new(),
            refunds: Vec::new(),
            disputes: Vec::new(),
            balance: Vec::new(),
            events: Vec::new(),
            later: Vec::new(),
            keys: Keys::default(),
        }
    }

    /// What the last requests have left to happen by itself; handed out once.
    pub(crate) fn take_later(&mut self) -> Vec<Later> {
        std::mem::take(&mut self.later)
    }

    /// Takes the key for a first request; the error is the answer to any other.
    pub(crate) fn begin(&mut self, key: &str, path: &str, parameters: &str) -> Result<(), Answer> {
        self.keys.begin(key, path, parameters, self.clock.now())
    }

    /// Ends what `begin` began. For so many seconds more, a repeat is told that it still runs.
    pub(crate) fn finish(&mut self, key: &str, answer: &Answer, held_seconds: i64) {
        self.keys.finish(key, answer, self.clock.now().saturating_add(held_seconds));
    }

    pub(crate) fn lists_catch_up(&mut self) {
        self.rules.lists_lag_by = 0;
    }

    pub(crate) fn forget_keys(&mut self) {
        self.keys.forget();
    }

    /// Carries out one request whose parameters have passed and whose key, if any, was taken by `begin`.
    pub(crate) fn execute(&mut self, call: &Call, twist: Twist) -> Answer {
        let answer = self.dispatch(call, twist).unwrap_or_else(|refused| refused);
        match answer.status == 200 && call.form.list("expand").next().is_some() {
            true => self.expand(answer, call),
            false => answer,
        }
    }

    fn dispatch(&mut self, call: &Call, twist: Twist) -> Result<Answer, Answer> {
        let (form, id, version) = (&call.form, call.id.as_str(), call.version);
        let lag = if twist.lagging_list { self.rules.lists_lag_by } else { 0 };
        let shown = Shown { form, version, until: self.clock.now() - lag };
        match call.endpoint {
            Endpoint::CreateIntent => self.create_intent(form, version, twist),
            Endpoint::UpdateIntent => self.update_intent(self.intent_at(id)?, form, version),
            Endpoint::ConfirmIntent => self.confirm(self.intent_at(id)?, form, version, twist),
            Endpoint::CancelIntent => self.cancel(self.intent_at(id)?, form, version, twist),
            Endpoint::ReadIntent => Ok(Answer::ok(&self.intents[self.intent_at(id)?].wire(version))),
            Endpoint::ListIntents => list::page(&self.intents, "/v1/payment_intents", &["customer"], &shown),
            Endpoint::SearchIntents => search::page(&self.intents, "/v1/payment_intents/search", &shown),

            Endpoint::CreateCustomer => self.create_customer(form),
            Endpoint::UpdateCustomer => self.update_customer(id, form),
            Endpoint::ReadCustomer => self.read_customer(id),
            Endpoint::DeleteCustomer => self.delete_customer(id),
            Endpoint::ListCustomers => list::page(&self.customers, "/v1/customers", &["email"], &shown),

            Endpoint::ReadMethod => self.read_method(id),
            Endpoint::AttachMethod => self.attach_method(id, form),
            Endpoint::DetachMethod => self.detach_method(id),

            Endpoint::CreateSetup => self.create_setup(form, version),
            Endpoint::ConfirmSetup => self.confirm_setup(id, form, version),
            Endpoint::ReadSetup => read(&self.setups, id, "setupintent", version),
            Endpoint::ListSetups => {
                list::page(&self.setups, "/v1/setup_intents", &["customer", "payment_method"], &shown)
            }

            Endpoint::CreateSession => self.create_session(form, version),
            Endpoint::ExpireSession => self.expire_session(id, version),
            Endpoint::ReadSession => self.read_session(id, version),
            Endpoint::ListSessions => {
                list::page(&self.sessions, "/v1/checkout/sessions", &["customer", "status"], &shown)
            }

            Endpoint::CreateRefund => self.create_refund(form, twist),
            Endpoint::ReadRefund => read(&self.refunds, id, "refund", version),
            Endpoint::ListRefunds => list::page(&self.refunds, "/v1/refunds", &["payment_intent", "charge"], &shown),
            Endpoint::ReadCharge => self.read_charge(id),
            Endpoint::ListCharges => self.list_charges(&shown),
            Endpoint::ReadTransaction => read(&self.balance, id, "balance transaction", version),
            Endpoint::ListTransactions => {
                list::page(&self.balance, "/v1/balance_transactions", &["type", "source", "currency"], &shown)
            }
            Endpoint::ReadDispute => read(&self.disputes, id, "dispute", version),
            Endpoint::ListDisputes => list::page(&self.disputes, "/v1/disputes", &["charge", "payment_intent"], &shown),
            Endpoint::ReadEvent => read(&self.events, id, "event", version),
            Endpoint::ListEvents => list::page(&self.events, "/v1/events", &["type", "types"], &shown),
        }
    }

    fn new_id(&mut self, kind: &str) -> String {
        self.ids_given += 1;
        format!("{kind}_{}{:08}", self.run, self.ids_given)
    }
}

/// What only whoever has made an object, and its buyer's browser, know.
fn secret_of(id: &str) -> String {
    format!("{id}_secret_{:016x}", super::faults::mix(0, 0, id))
}

/// An object with these fields too, which nothing is ever put into: the real provider writes them all.
fn with_empty(mut object: Value, names: &str) -> Value {
    for name in names.split_whitespace() {
        object[name] = Value::Null;
    }
    object
}

fn read<T: Listed>(items: &[T], id: &str, kind: &str, version: ApiVersion) -> Result<Answer, Answer> {
    match items.iter().find(|item| item.id() == id) {
        Some(item) => Ok(Answer::ok(&item.to_json(version))),
        None => Err(not_found(kind, id, "id")),
    }
}

#[cfg(test)]
mod testing {
    //! What the tests of every part need.

    use super::*;
    use crate::provider::parameters;

    impl Rules {
        pub(in crate::provider) fn strictest() -> Self {
            Self {
                one_off_methods_once: true,
                every_card_is_another: false,
                links_need_return_url: true,
                lists_lag_by: 60,
                keeps_events: true,
            }
        }
    }

    pub(super) fn store() -> Store {
        let clock = FakeClock::unix_seconds(|| 1_795_773_600);
        Store::new("0", "http://fake", clock, Rules::strictest())
    }

    pub(super) fn call(store: &mut Store, method: &str, path: &str, parameters: &str, twist: Twist) -> Answer {
        let version = match parameters.contains("payment_method_types") && !parameters.contains("allowed_") {
            true => ApiVersion::V2024_06_20,
            false => ApiVersion::V2026_10_28,
        };
        match parameters::read(method, path, parameters, version) {
            Ok(call) => store.execute(&call, twist),
            Err(refusal) => refusal.into(),
        }
    }

    pub(super) fn post(store: &mut Store, path: &str, parameters: &str) -> Answer {
        call(store, "POST", path, parameters, Twist::default())
    }

    pub(super) fn get(store: &mut Store, path: &str, parameters: &str) -> Answer {
        call(store, "GET", path, parameters, Twist::default())
    }

    impl Answer {
        pub(super) fn json(&self) -> serde_json::Value {
            serde_json::from_str(&self.body).unwrap()
        }

        /// `402 card_declined`, or `200 succeeded`.
        pub(super) fn short(&self) -> String {
            let json = self.json();
            let word = |word: &serde_json::Value| word.as_str().unwrap_or("-").to_owned();
            match self.status {
                200 => format!("200 {}", word(&json["status"])),
                status => format!("{status} {}", word(&json["error"]["code"])),
            }
        }

        pub(super) fn id(&self) -> String {
            assert_eq!(self.status, 200, "{}", self.body);
            self.json()["id"].as_str().unwrap().to_owned()
        }
    }
}
