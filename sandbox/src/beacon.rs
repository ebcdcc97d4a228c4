//! A beacon as drand serves one, with a key of its own: rounds every few seconds, signed with BLS on the curve
//! BLS12-381. It can be late, forge a signature, sign with a foreign key or miss rounds. Nothing here helps the
//! verifier: what it signs, it signs by itself.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use blst::min_sig::SecretKey;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::provider::FakeClock;

const SCHEME: &str = "bls-unchained-g1-rfc9380";
const DOMAIN: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";
const BEACON_ID: &str = "doorbuster";

#[derive(Debug, Clone)]
pub struct BeaconOptions {
    pub listen: SocketAddr,
    /// Whose key it is: the same bytes make the same chain.
    pub seed: [u8; 32],
    pub period_seconds: u32,
    /// When round 1 was due, in seconds since 1970.
    pub genesis: i64,
    pub clock: FakeClock,
}

impl BeaconOptions {
    /// Rounds every 3 seconds, as those of quicknet, on a port that is free.
    pub fn new(genesis: i64, clock: FakeClock) -> Self {
        Self { listen: ([127, 0, 0, 1], 0).into(), seed: [42; 32], period_seconds: 3, genesis, clock }
    }
}

/// What it does to a round instead of answering it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BeaconFault {
    #[default]
    None,
    /// Rounds come so many seconds after they are due.
    Late { seconds: u32 },
    /// The signature of another round, and the randomness that belongs to it.
    Forged,
    /// Signed with another key.
    Foreign,
    /// It has no rounds: 404, as for one that is still to come.
    Missing,
}

/// A running beacon. Dropping it stops it.
#[derive(Debug)]
pub struct Beacon {
    server: Arc<Server>,
    address: SocketAddr,
    listening: JoinHandle<()>,
}

struct Server {
    key: SecretKey,
    foreign: SecretKey,
    options: BeaconOptions,
    group_hash: [u8; 32],
    // A plain mutex: it guards memory only and is never held across an await.
    fault: Mutex<BeaconFault>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Beacon {
    pub async fn start(options: BeaconOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let key = |material: &[u8]| SecretKey::key_gen(material, &[]).expect("32 bytes make a key");
        let server = Arc::new(Server {
            key: key(&options.seed),
            foreign: key(&Sha256::digest(options.seed)),
            group_hash: Sha256::digest(b"the group of the sandbox's beacon").into(),
            options,
            fault: Mutex::default(),
        });
        let router = Router::new()
            .route("/{chain}/info", get(info))
            .route("/{chain}/public/{round}", get(public))
            .with_state(Arc::clone(&server));
        let listening = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the beacon stopped listening");
            }
        });
        Ok(Self { server, address, listening })
    }

    /// In front of the chain's hash.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn chain_hash(&self) -> String {
        hex(&self.server.chain_hash())
    }

    /// As `/{chain hash}/info` answers it.
    pub fn info(&self) -> String {
        self.server.info()
    }

    /// A round as it is signed when nothing is wrong, also before it is due.
    pub fn pulse(&self, round: u64) -> String {
        pulse(&self.server.key, round, round)
    }

    pub fn set_fault(&self, fault: BeaconFault) {
        *self.server.fault() = fault;
    }
}

impl Drop for Beacon {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Server {
    fn fault(&self) -> MutexGuard<'_, BeaconFault> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chain_hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.options.period_seconds.to_be_bytes());
        hash.update(self.options.genesis.to_be_bytes());
        hash.update(self.key.sk_to_pk().to_bytes());
        hash.update(self.group_hash);
        hash.update(BEACON_ID);
        hash.finalize().into()
    }

    fn info(&self) -> String {
        json!({
            "public_key": hex(&self.key.sk_to_pk().to_bytes()),
            "period": self.options.period_seconds,
            "genesis_time": self.options.genesis,
            "genesis_seed": hex(&self.group_hash),
            "hash": hex(&self.chain_hash()),
            "groupHash": hex(&self.group_hash),
            "schemeID": SCHEME,
            "metadata": { "beaconID": BEACON_ID },
        })
        .to_string()
    }

    /// The last round that has been signed; 0 before the first one.
    fn latest(&self) -> u64 {
        let late = match *self.fault() {
            BeaconFault::Late { seconds } => i64::from(seconds),
            _ => 0,
        };
        let elapsed = self.options.clock.now() - late - self.options.genesis;
        u64::try_from(elapsed.div_euclid(i64::from(self.options.period_seconds.max(1))) + 1).unwrap_or_default()
    }

    fn answer(&self, round: u64) -> Option<String> {
        let latest = self.latest();
        let fault = *self.fault();
        if !(1..=latest).contains(&round) {
            return None;
        }
        match fault {
            BeaconFault::None | BeaconFault::Late { .. } => Some(pulse(&self.key, round, round)),
            BeaconFault::Forged => Some(pulse(&self.key, round, round + 1)),
            BeaconFault::Foreign => Some(pulse(&self.foreign, round, round)),
            BeaconFault::Missing => None,
        }
    }
}

/// Says that it is `round`, with the signature of `signed`.
fn pulse(key: &SecretKey, round: u64, signed: u64) -> String {
    let message = Sha256::digest(signed.to_be_bytes());
    let signature = key.sign(&message, DOMAIN, &[]).to_bytes();
    json!({ "round": round, "randomness": hex(&Sha256::digest(signature)), "signature": hex(&signature) }).to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn info(State(server): State<Arc<Server>>, Path(chain): Path<String>) -> Response {
    let is_ours = chain == hex(&server.chain_hash());
    json_or_404(is_ours.then(|| server.info()))
}

async fn public(State(server): State<Arc<Server>>, Path((chain, round)): Path<(String, String)>) -> Response {
    let is_ours = chain == hex(&server.chain_hash());
    let round = if round == "latest" { Some(server.latest()) } else { round.parse().ok() };
    json_or_404(round.filter(|_| is_ours).and_then(|round| server.answer(round)))
}

fn json_or_404(body: Option<String>) -> Response {
    match body {
        Some(body) => ([("content-type", "application/json")], body).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
