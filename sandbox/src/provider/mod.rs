//! A fake payment provider: real HTTP, Stripe's wire format, its own ledger of captured charges and of its balance.
//!
//! It must never help the engine: it knows nothing of its types, and its list of captures is written at the moment of
//! capture, so that an audit can hold the engine's books against it.
//!
//! **How strict it is.** Every request is held against a table of endpoints, parameters, types and words by API
//! version: what the real provider does not know is refused with its code and parameter, and so is what it knows and
//! this one does not play. A POST is form-encoded and a GET has no body. Amounts keep their currency's bounds and
//! steps. A card that is a customer's is charged for that customer only, a detached one for nobody; a card whose owner
//! has to authenticate is declined without a link while they are away. Answers are whole objects: every field is there,
//! null where there is nothing. `make stripe-client` lets the provider's own clients judge all this. Two rules can be
//! turned off for programs that do not keep them: `one_off_methods_once` and `links_need_return_url`.
//!
//! Reading order: `options`, `parameters` (the table), `store` (what requests mean), `server` (HTTP, and what goes
//! wrong there), `pages` (what buyers' browsers see), `webhooks`.

mod answer;
mod cards;
mod clock;
mod currencies;
mod form;
mod options;
mod parameters;
pub(crate) mod faults;
mod limit;
mod store;
mod webhooks;
mod wire;
mod server;
mod pages;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

pub use answer::Refusal;
pub use clock::FakeClock;
pub use faults::FaultCounts;
pub use options::{FakeProviderOptions, WebhookOptions};
pub use parameters::{ApiVersion, check_parameters};
use server::Server;
pub use store::{Capture, End, FakeBalanceTransaction, FakeCustomer, FakeDispute, FakeEvent, FakeIntent, FakeRefund};
pub use webhooks::{Delivery, Signature, WebhookCounts};

/// A running provider. Dropping it stops it.
#[derive(Debug)]
pub struct FakeProvider {
    server: Arc<Server>,
    url: String,
    listening: JoinHandle<()>,
}

impl FakeProvider {
    pub async fn start(options: FakeProviderOptions) -> io::Result<Self> {
        let (server, address, listening) = server::start(options).await?;
        Ok(Self { server, url: format!("http://{address}"), listening })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn secret_key(&self) -> &str {
        &self.server.options().secret_key
    }

    /// Every captured charge, oldest first: the ledger, not what the intents say.
    pub fn captures(&self) -> Vec<Capture> {
        self.server.store().captures().to_vec()
    }

    /// Every intent, oldest first.
    pub fn intents(&self) -> Vec<FakeIntent> {
        self.server.store().intents().to_vec()
    }

    /// Every customer, oldest first, deleted ones included.
    pub fn customers(&self) -> Vec<FakeCustomer> {
        self.server.store().customers().to_vec()
    }

    /// A payment method of nobody's, as the provider's script in a buyer's browser makes one of a card. `None` if there
    /// is no such card: cards are named as the provider's test cards are.
    pub fn new_payment_method(&self, card: &str) -> Option<String> {
        self.server.store().new_method(card)
    }

    /// Every refund, oldest first, failed ones included.
    pub fn refunds(&self) -> Vec<FakeRefund> {
        self.server.store().refunds().to_vec()
    }

    /// From now on lists show everything.
    pub fn lists_catch_up(&self) {
        self.server.store().lists_catch_up();
    }

    /// Every movement of the merchant's balance, oldest first.
    pub fn balance(&self) -> Vec<FakeBalanceTransaction> {
        self.server.store().balance().to_vec()
    }

    /// Everything that happened, oldest first, whether it was delivered or not.
    pub fn events(&self) -> Vec<FakeEvent> {
        self.server.store().events().to_vec()
    }

    /// Requests read, lost ones included.
    pub fn requests_seen(&self) -> u64 {
        self.server.requests_seen()
    }

    pub fn fault_counts(&self) -> FaultCounts {
        self.server.fault_counts()
    }

    /// From now on events go there; those of before do not.
    pub fn send_webhooks(&self, options: WebhookOptions) {
        self.server.webhooks().set_options(Some(options));
    }

    pub fn webhook_counts(&self) -> WebhookCounts {
        self.server.webhooks().counts()
    }

    /// Every HTTP request to the merchant, in the order of their answers.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.server.webhooks().deliveries()
    }

    /// Delivers an event again, however long ago it happened. False if there is no such event.
    pub fn send_again(&self, event_id: &str) -> bool {
        let event = self.server.store().events().iter().find(|event| event.event_id == event_id).cloned();
        event.is_some_and(|event| self.server.deliver_again(&event))
    }

    /// Waits until no delivery and no late end is under way any more. False if `patience` runs out first.
    pub async fn settled(&self, patience: Duration) -> bool {
        const PAUSE: Duration = Duration::from_millis(2);
        let idle = async {
            while self.server.tasks_running() > 0 {
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(patience, idle).await.is_ok()
    }

    /// The buyer has authenticated at the address of `next_action`: the money is taken. False if the intent does not
    /// wait for that.
    pub fn complete_action(&self, intent_id: &str) -> bool {
        self.server.change(|store| store.finish_action(intent_id, End::Succeeded))
    }

    /// The buyer could not authenticate: the intent is open for another payment method.
    pub fn fail_action(&self, intent_id: &str) -> bool {
        self.server.change(|store| store.finish_action(intent_id, End::Failed))
    }

    /// The bank has answered a processing charge. False if the intent is not processing.
    pub fn finish_processing(&self, intent_id: &str, end: End) -> bool {
        self.server.change(|store| store.finish_processing(intent_id, end))
    }

    /// Takes the money of a declined, waiting or processing intent after all, or of one whose confirm was answered by a
    /// 500. False if nothing was ever tried, or if the intent has come to an end.
    pub fn succeed_late(&self, intent_id: &str) -> bool {
        self.server.change(|store| store.succeed_late(intent_id))
    }

    /// Ends a pending refund, or fails one that had succeeded. False if there is nothing to change.
    pub fn settle_refund(&self, refund_id: &str, end: End) -> bool {
        self.server.change(|store| store.settle_refund(refund_id, end))
    }

    /// The buyer's bank takes back what the intent captured. `None` without such a charge, or if it is disputed.
    pub fn open_dispute(&self, intent_id: &str) -> Option<FakeDispute> {
        self.server.change(|store| store.open_dispute(intent_id))
    }

    /// Pays the balance out, one payout a currency.
    pub fn pay_out(&self) {
        self.server.change(|store| store.pay_out());
    }

    /// From now on connections are closed without an answer, those with a running request too.
    pub fn cut_off(&self) {
        self.server.set_reachable(false);
    }

    pub fn reconnect(&self) {
        self.server.set_reachable(true);
    }

    /// Forgets all idempotency keys, as providers do from 24 h: from now on a repeat is a new request.
    pub fn forget_keys(&self) {
        self.server.store().forget_keys();
    }

    /// Captures an order's money a second time, with an intent of its own: an audit that stays green after this is
    /// broken. `None` if nothing was captured for the order.
    pub fn capture_twice(&self, order_id: &str) -> Option<Capture> {
        self.server.change(|store| store.capture_twice(order_id))
    }
}

impl Drop for FakeProvider {
    fn drop(&mut self) {
        // Connections live in tasks of their own: without the cut, kept-alive ones would go on being served.
        self.cut_off();
        self.server.end_tasks();
        self.listening.abort();
    }
}
