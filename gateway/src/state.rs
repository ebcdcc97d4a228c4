//! What every request may use: the engine, the verifier of tokens, and the drops as of a second ago.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use axum::extract::FromRef;
use axum::http::HeaderValue;
use bytes::Bytes;
use doorbuster_engine::domain::ids::{DropId, DropName};
use doorbuster_engine::flows::line::Board;
use doorbuster_engine::flows::{Engine, EngineError, LiveDrop};
use doorbuster_engine::provider::{SecretKey, WebhookVerifier};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::anonymous::Anonymous;
use crate::auth::Verifier;
use crate::bundles::Bundles;
use crate::config::{GatewayConfig, Limits};
use crate::error::Problem;
use crate::etag::etag_of_bytes;
use crate::pages::Pages;
use crate::receipt::Receipts;
use crate::routes::webhooks::BODIES_MAX;
use crate::shopper::Sessions;
use crate::showcase::Showcase;

/// How old a drop's public state may be.
const FRESH: Duration = Duration::from_secs(1);
/// How long a name is remembered as unknown: a drop that is made or opened meanwhile is not there for so long.
const UNKNOWN: Duration = Duration::from_millis(100);
/// Names that are remembered as unknown; the whole memory is dropped when it is full.
const UNKNOWN_NAMES: usize = 1024;
/// Lookups of names never met, at the same time: a quarter of the default pool, so that somebody who tries names
/// leaves the rest of it to those who buy.
const LOOKUPS: usize = 4;

pub type Gate = Arc<GateState>;

pub struct GateState {
    pub engine: Engine,
    pub verifier: Verifier,
    pub sessions: Sessions,
    /// `None`: buyers get no receipts.
    pub receipts: Option<Receipts>,
    /// `None`: no secret is configured, and no event is taken.
    pub webhooks: Option<WebhookVerifier>,
    /// Bodies of events that are in memory at the same time.
    pub webhook_bodies: Semaphore,
    pub boards: Boards,
    pub bundles: Bundles,
    pub drops: Drops,
    /// The catalog's pages, for everybody.
    pub pages: Pages,
    /// What variants are called and cost, for those who fill carts.
    pub showcase: Showcase,
    pub limits: Limits,
    /// Claims under way, whether or not somebody still waits for them. Stopping waits for these.
    pub claims: TaskTracker,
}

impl GateState {
    pub fn new(config: &GatewayConfig, engine: Engine) -> Self {
        let anonymous = Arc::<Anonymous>::default();
        Self {
            verifier: Verifier::of(&config.jwt_keys, engine.clock.clone())
                .for_audience(config.jwt_audience.as_deref())
                .from_issuer(config.jwt_issuer.as_deref())
                .living_at_most(config.jwt_life_max),
            sessions: Sessions::of(&config.jwt_keys),
            receipts: Receipts::new(&config.receipt_keys),
            webhooks: WebhookVerifier::new(
                config
                    .provider_webhook_secrets
                    .iter()
                    .map(|secret| SecretKey::from(secret.expose().to_owned()))
                    .collect(),
            ),
            webhook_bodies: Semaphore::new(BODIES_MAX),
            drops: Drops::new(engine.clone(), Arc::clone(&anonymous)),
            boards: Boards::default(),
            bundles: Bundles::new(Arc::clone(&anonymous)),
            pages: Pages::new(Arc::clone(&anonymous)),
            showcase: Showcase::new(engine.ledger.clone(), anonymous),
            engine,
            limits: config.limits,
            claims: TaskTracker::new(),
        }
    }
}

fn announced(live: Option<Arc<LiveDrop>>) -> Option<Arc<LiveDrop>> {
    live.filter(|live| live.drop.is_announced())
}

impl FromRef<Gate> for Limits {
    fn from_ref(gate: &Gate) -> Self {
        gate.limits
    }
}

/// The boards of lines as they are sent: made once for each reading, however many look.
#[derive(Default)]
pub struct Boards(RwLock<HashMap<DropId, Arc<ShownBoard>>>);

pub struct ShownBoard {
    of: Arc<Board>,
    pub body: Bytes,
    pub etag: HeaderValue,
}

impl Boards {
    /// A board as it is sent; `make` writes it, once.
    pub fn shown(&self, drop: DropId, board: &Arc<Board>, make: impl FnOnce(&Board) -> Bytes) -> Arc<ShownBoard> {
        let known = self.0.read().expect("nobody panics holding this lock").get(&drop).cloned();
        if let Some(known) = known.filter(|known| Arc::ptr_eq(&known.of, board)) {
            return known;
        }
        let body = make(board);
        let etag = etag_of_bytes(&body);
        let shown = Arc::new(ShownBoard { of: Arc::clone(board), body, etag });
        self.0.write().expect("nobody panics holding this lock").insert(drop, Arc::clone(&shown));
        shown
    }
}

/// The drops, so that a crowd in front of the gateway is not a crowd in front of Postgres.
pub struct Drops {
    engine: Engine,
    asked: Mutex<HashMap<DropName, Instant>>,
    lookups: Semaphore,
    anonymous: Arc<Anonymous>,
}

impl Drops {
    fn new(engine: Engine, anonymous: Arc<Anonymous>) -> Self {
        Self { engine, asked: Mutex::default(), lookups: Semaphore::new(LOOKUPS), anonymous }
    }

    /// For anybody: the drop with a state that is at most a second old, or as old as Postgres has been away. A name
    /// that was not met yet is looked up in a place of anonymous statements; that a known drop is read once a second
    /// needs none.
    pub async fn fresh(&self, name: &DropName) -> Result<Option<Arc<LiveDrop>>, Problem> {
        let known = match self.engine.known_drop(name) {
            Some(known) => Some(known),
            None if self.was_just_asked(name) => None,
            None => {
                let _place = self.anonymous.place().await?;
                self.get(name).await?
            }
        };
        let Some(known) = known else { return Ok(None) };
        if !self.is_my_turn(name) {
            return Ok(Some(known));
        }
        match self.engine.refresh(name).await {
            Ok(fresh) => Ok(announced(fresh)),
            Err(error) => {
                tracing::warn!(drop = %name, %error, "the drop {name} is shown as it was: {error}");
                Ok(Some(known))
            }
        }
    }

    /// The drop as this process knows it: Postgres is asked once about a name that was not met yet, and ten times a second
    /// about one that does not exist, or is a draft that nobody shall know of. What Redis answers about its warehouses is newer than this anyway.
    pub async fn get(&self, name: &DropName) -> Result<Option<Arc<LiveDrop>>, EngineError> {
        let known = || announced(self.engine.known_drop(name));
        if let Some(known) = known() {
            return Ok(Some(known));
        }
        if self.was_just_asked(name) {
            return Ok(None);
        }
        let _permit = self.lookups.acquire().await.expect("this semaphore is never closed");
        if self.was_just_asked(name) {
            return Ok(known());
        }
        // Also what is known as a draft: somebody may have opened it.
        let found = announced(self.engine.refresh(name).await?);
        let mut asked = self.asked.lock().expect("nobody panics holding this lock");
        if asked.len() >= UNKNOWN_NAMES {
            asked.clear();
        }
        asked.insert(name.clone(), Instant::now());
        Ok(found)
    }

    fn was_just_asked(&self, name: &DropName) -> bool {
        let asked = self.asked.lock().expect("nobody panics holding this lock");
        asked.get(name).is_some_and(|at| at.elapsed() < UNKNOWN)
    }

    /// One caller a second goes to Postgres; the others take what is known.
    fn is_my_turn(&self, name: &DropName) -> bool {
        let mut asked = self.asked.lock().expect("nobody panics holding this lock");
        let is_due = asked.get(name).is_none_or(|at| at.elapsed() >= FRESH);
        if is_due {
            asked.insert(name.clone(), Instant::now());
        }
        is_due
    }
}
