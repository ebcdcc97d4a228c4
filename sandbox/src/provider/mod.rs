//! A fake payment provider: real HTTP on 127.0.0.1, Stripe's wire format, its own ledger of captured charges.
//!
//! It must never help the engine: it knows nothing of its types, forgives no unknown parameter, and its list of
//! captures is written at the moment of capture, so that an audit can hold the engine's books against it.

mod clock;
mod faults;
mod server;
mod store;

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

pub use clock::FakeClock;
use server::Server;
pub use store::{Capture, FakeIntent};

/// How the provider behaves. The default is quick, reliable and deterministic.
#[derive(Debug, Clone)]
pub struct FakeProviderOptions {
    pub secret_key: String,
    /// The same seed loses the same requests: each draw depends on seed, idempotency key and attempt.
    pub seed: u64,
    /// How long a request takes, between the idempotency check and its execution.
    pub delay: Range<Duration>,
    /// Executed, then the connection is closed without an answer.
    pub lost_answer_rate: f64,
    /// The connection is closed and nothing is executed.
    pub lost_request_rate: f64,
    /// Nothing is executed, but the 500 is stored under the key and replayed.
    pub error_500_rate: f64,
    /// When objects are made.
    pub clock: FakeClock,
}

impl Default for FakeProviderOptions {
    fn default() -> Self {
        Self {
            secret_key: "sk_test_doorbuster".to_owned(),
            seed: 1,
            delay: Duration::ZERO..Duration::ZERO,
            lost_answer_rate: 0.0,
            lost_request_rate: 0.0,
            error_500_rate: 0.0,
            clock: FakeClock::system(),
        }
    }
}

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

    /// Requests read, lost ones included.
    pub fn requests_seen(&self) -> u64 {
        self.server.requests_seen()
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
        self.server.store().capture_twice(order_id)
    }
}

impl Drop for FakeProvider {
    fn drop(&mut self) {
        // Connections live in tasks of their own: without the cut, kept-alive ones would go on being served.
        self.cut_off();
        self.listening.abort();
    }
}
