//! The shop's end of a webhook: verifies signatures as Standard Webhooks 1.0.0 tells receivers to, and keeps what it was told.
//!
//! It must never help the sender: what it makes of secrets and signatures it makes by itself.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How far the sender's clock may be off: the usual figure.
const TOLERANCE: Duration = Duration::from_secs(300);

/// An event as it came in.
#[derive(Debug, Clone, PartialEq)]
pub struct ReceivedEvent {
    /// `webhook-id`
    pub id: String,
    pub timestamp_s: u64,
    /// `webhook-signature`, as it came.
    pub user_agent: String,
    pub signatures: String,
    pub body: Value,
    /// Why it is not to be believed. `None`: its signature is good.
    pub problem: Option<&'static str>,
    /// How it was answered.
    pub status: u16,
}

/// A running receiver. Dropping it stops it.
#[derive(Debug)]
pub struct WebhookSink {
    receiver: Arc<Receiver>,
    address: SocketAddr,
    listening: JoinHandle<()>,
}

#[derive(Debug)]
struct Receiver {
    // Plain mutexes: they guard memory only and are never held across an await.
    secrets: Mutex<Vec<String>>,
    events: Mutex<Vec<ReceivedEvent>>,
    /// What good events are answered with.
    status: AtomicU16,
}

impl WebhookSink {
    /// Believes whoever knows one of these secrets, each `whsec_…`.
    pub async fn start(secrets: &[&str]) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let receiver = Arc::new(Receiver {
            secrets: Mutex::new(secrets.iter().map(|&secret| secret.to_owned()).collect()),
            events: Mutex::default(),
            status: AtomicU16::new(200),
        });
        let router = Router::new().route("/hooks", post(receive)).with_state(Arc::clone(&receiver));
        let listening = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the webhook sink stopped listening");
            }
        });
        Ok(Self { receiver, address, listening })
    }

    pub fn url(&self) -> String {
        format!("http://{}/hooks", self.address)
    }

    /// Everything that came, good or not, in the order in which it came.
    pub fn events(&self) -> Vec<ReceivedEvent> {
        self.receiver.events().clone()
    }

    /// From now on good events are answered with this; 307 points to a page of the sink itself.
    pub fn answer_with(&self, status: u16) {
        self.receiver.status.store(status, Ordering::Relaxed);
    }

    pub fn set_secrets(&self, secrets: &[&str]) {
        let secrets = secrets.iter().map(|&secret| secret.to_owned()).collect();
        *self.receiver.secrets.lock().unwrap_or_else(PoisonError::into_inner) = secrets;
    }
}

impl Drop for WebhookSink {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Receiver {
    fn events(&self) -> MutexGuard<'_, Vec<ReceivedEvent>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn problem(&self, id: &str, timestamp: &str, signatures: &str, body: &[u8]) -> Option<&'static str> {
        let Ok(at_s) = timestamp.parse::<u64>() else { return Some("no timestamp") };
        #[expect(clippy::disallowed_methods, reason = "a receiver has a clock of its own")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if now.abs_diff(Duration::from_secs(at_s)) > TOLERANCE {
            return Some("too old, or from the future");
        }
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let is_good = secrets.iter().any(|secret| {
            let key = secret.strip_prefix("whsec_").and_then(|key| STANDARD.decode(key).ok()).unwrap_or_default();
            signatures.split(' ').filter_map(|signature| signature.strip_prefix("v1,")).any(|signature| {
                let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of every length");
                mac.update(format!("{id}.{timestamp}.").as_bytes());
                mac.update(body);
                STANDARD.decode(signature).is_ok_and(|given| mac.verify_slice(&given).is_ok())
            })
        });
        if is_good { None } else { Some("no signature by a known secret") }
    }
}

async fn receive(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Bytes) -> Response {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (id, timestamp, signatures) = (text("webhook-id"), text("webhook-timestamp"), text("webhook-signature"));
    let problem = receiver.problem(id, timestamp, signatures, &body);
    let status = if problem.is_none() { receiver.status.load(Ordering::Relaxed) } else { 401 };
    let status = StatusCode::from_u16(status).expect("tests answer with known status codes");
    receiver.events().push(ReceivedEvent {
        id: id.to_owned(),
        timestamp_s: timestamp.parse().unwrap_or_default(),
        signatures: signatures.to_owned(),
        user_agent: text("user-agent").to_owned(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        problem,
        status: status.as_u16(),
    });
    (status, [("location", "/hooks")]).into_response()
}
