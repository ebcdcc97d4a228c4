//! What every flow works with: the two stores, the clock, and the drops that this process has met.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use tokio::sync::Notify;

use crate::carts::{CartError, CartStore};
use crate::domain::claims::Claim;
use crate::domain::clock::Clock;
use crate::domain::drops::{SaleDrop, Warehouse};
use crate::domain::ids::{BuyerId, DropId, DropName, Epoch, VariantNumber, WarehouseId};
use crate::domain::line::entries::EntryId;
use crate::domain::rest::ClockWatch;
use crate::ledger::{Ledger, LedgerError};
use crate::tokens::TokenError;
use crate::tokens::batcher::Batcher;
use crate::tokens::store::{Outcome, TokenStore, WarehouseStore};

use super::acknowledge::SettlementWaits;
use super::backlog::{Lag, SETTLEMENT_LAG_LIMIT};
use super::charge::{CHARGE_LEASE, OwedLease};
use super::checkout::{UNPAID_ORDERS_MAX, UNPAID_UNITS_MAX};
use super::grants::ComingBack;
use super::line::{BoardOf, KnownLine};
use super::lost::Answers;
use super::pull::SearchDesk;
use super::readings::Lease;

/// How often claims that were fenced off ask Postgres for new epochs. A rebuild or an opening takes longer than this.
pub(super) const REFRESH_PAUSE: Duration = Duration::from_millis(100);

/// Why a flow could not find out, or could not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Tokens(#[from] Arc<TokenError>),
    #[error(transparent)]
    Carts(#[from] Arc<CartError>),
    #[error(transparent)]
    Ledger(#[from] Arc<LedgerError>),
    /// Units are on the move and the wait for them was too long; nothing was decided.
    #[error("units are being moved between warehouses; ask again")]
    Moving,
    /// Claims wait for their orders longer than they may; no more are taken until settlement has caught up.
    #[error("settlement is behind; ask again")]
    SettlementBehind,
    #[error("the provider: {0}")]
    Provider(String),
    /// What is stored as the keys of a line are none.
    #[error("the keys of the line cannot be read: its row in `lines` was damaged")]
    Keys,
}

impl From<TokenError> for EngineError {
    fn from(error: TokenError) -> Self {
        Self::Tokens(Arc::new(error))
    }
}

impl From<CartError> for EngineError {
    fn from(error: CartError) -> Self {
        Self::Carts(Arc::new(error))
    }
}

impl From<LedgerError> for EngineError {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(Arc::new(error))
    }
}

impl EngineError {
    /// Whether the caller may do the same again with hope of another answer.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Tokens(error) => error.is_retryable(),
            Self::Carts(error) => error.is_retryable(),
            Self::Ledger(error) => error.is_retryable(),
            Self::Moving | Self::SettlementBehind | Self::Provider(_) => true,
            Self::Keys => false,
        }
    }

    /// A store refused: nothing was done, and nothing is as long as it refuses.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Tokens(error) => matches!(**error, TokenError::Refused { .. }),
            Self::Carts(error) => matches!(**error, CartError::Refused { .. }),
            Self::Ledger(error) => error.is_refusal(),
            Self::Moving | Self::SettlementBehind | Self::Provider(_) | Self::Keys => false,
        }
    }

    /// Redis does not have this warehouse as Postgres knows it: our epoch is old, or a rebuild is due.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Tokens(error) if matches!(**error, TokenError::Fenced | TokenError::NotLoaded))
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub ledger: Ledger,
    pub tokens: TokenStore,
    /// In the tokens' Redis, unless they are given one of their own.
    pub carts: CartStore,
    pub clock: Clock,
    /// How old the oldest unsettled claim of a drop may be before no more are taken; see [`super::backlog`].
    pub settlement_lag_limit: SignedDuration,
    /// Orders of goods that one buyer may have unpaid at the same time.
    pub unpaid_orders_max: u32,
    /// Units that they may hold.
    pub unpaid_units_max: u32,
    /// How long a card waits whose worker died, and a charge with it: as long as a charge does. A worker that slept is fenced.
    pub card_lease: SignedDuration,
    /// The shop's page to which a bank, or the provider's page for cards, sends buyers back.
    pub return_url: Option<String>,
    /// Payments that this process has leased: where in [`turns::ROUND`](crate::domain::turns::ROUND) it is.
    pub(super) places_taken: Arc<AtomicUsize>,
    pub(super) owed_leases: Arc<Mutex<Vec<OwedLease>>>,
    /// Wakes the charging of this process.
    pub(super) payments_written: Arc<Notify>,
    drops: Arc<RwLock<HashMap<DropName, Arc<LiveDrop>>>>,
    /// That of all drops, should Redis be one server.
    batcher: Arc<OnceLock<Batcher>>,
    pub(super) coming_back: Arc<Mutex<ComingBack>>,
    pub(super) postgres_clock: Arc<Mutex<ClockWatch>>,
    /// Loads of others that this process has seen under way, with their epoch, and since when.
    pub(super) loads_seen: Arc<Mutex<HashMap<WarehouseId, (Epoch, Instant)>>>,
    pub(super) settlement_waits: Arc<Mutex<SettlementWaits>>,
    pub(super) answers: Arc<Answers>,
    /// What never changes of the lines that this process has met.
    pub(super) lines: Arc<RwLock<HashMap<DropId, Arc<KnownLine>>>>,
    pub(super) boards: Arc<RwLock<HashMap<DropId, Arc<BoardOf>>>>,
    /// The ids of sealed lists, sorted.
    pub(super) sealed_lists: Arc<tokio::sync::Mutex<HashMap<DropId, Arc<Vec<EntryId>>>>>,
}

/// A drop as this process deals with it. A clone deals with it in the same way: it shares queues, leases and the search.
#[derive(Clone)]
pub struct LiveDrop {
    pub drop: SaleDrop,
    pub(super) stores: Vec<Arc<WarehouseStore>>,
    /// Of each warehouse.
    batchers: Vec<Batcher>,
    pub(super) shared: Arc<DropShared>,
}

/// What stays when a warehouse's epoch changes.
#[derive(Default)]
pub(super) struct DropShared {
    pub(super) leases: Mutex<HashMap<VariantNumber, Lease>>,
    /// Who holds something in each warehouse, as last read; see [`super::readings`].
    pub(super) holders: Mutex<HashMap<WarehouseId, Holders>>,
    /// When claims last had the drop read anew.
    pub(super) refreshed: tokio::sync::Mutex<Option<Instant>>,
    /// How far settlement is behind; see [`super::backlog`].
    pub(super) lag: Mutex<Lag>,
    /// This process has left its mark that somebody may be refused.
    pub(super) is_marked: tokio::sync::OnceCell<()>,
    /// Where claims wait that their homes could not serve.
    pub(super) search: SearchDesk,
}

/// The buyers with a record in one warehouse, by hash, as of one reading of it: everybody who had one when `seq` was read.
#[derive(Clone)]
pub(super) struct Holders {
    pub(super) epoch: Epoch,
    /// For each variant of the drop, in order.
    pub(super) seq: Vec<u64>,
    pub(super) buyers: Arc<HashSet<u64>>,
}

impl Engine {
    pub fn new(ledger: Ledger, tokens: TokenStore, clock: Clock) -> Self {
        Self {
            carts: CartStore::over(tokens.connection(), clock.clone()),
            ledger,
            tokens,
            clock,
            settlement_lag_limit: SETTLEMENT_LAG_LIMIT,
            unpaid_orders_max: UNPAID_ORDERS_MAX,
            unpaid_units_max: UNPAID_UNITS_MAX,
            card_lease: CHARGE_LEASE,
            return_url: None,
            places_taken: Arc::default(),
            payments_written: Arc::default(),
            owed_leases: Arc::default(),
            drops: Arc::default(),
            batcher: Arc::default(),
            coming_back: Arc::default(),
            postgres_clock: Arc::default(),
            loads_seen: Arc::default(),
            settlement_waits: Arc::default(),
            answers: Arc::default(),
            lines: Arc::default(),
            boards: Arc::default(),
            sealed_lists: Arc::default(),
        }
    }

    /// The drop of this name, from memory if this process has met it. `None`: there is none.
    pub async fn live_drop(&self, name: &DropName) -> Result<Option<Arc<LiveDrop>>, EngineError> {
        match self.known_drop(name) {
            Some(live) => Ok(Some(live)),
            None => self.refresh(name).await,
        }
    }

    /// The drop of this name if this process has met it.
    pub fn known_drop(&self, name: &DropName) -> Option<Arc<LiveDrop>> {
        self.drops.read().expect("nobody panics holding this lock").get(name).cloned()
    }

    /// Every drop that this process has met.
    pub(super) fn known_drops(&self) -> Vec<Arc<LiveDrop>> {
        self.drops.read().expect("nobody panics holding this lock").values().cloned().collect()
    }

    /// As [`Self::refresh`], but Postgres is asked at most once in [`REFRESH_PAUSE`], whoever asks: the crowd in front of a
    /// fenced warehouse, or of a drop that is not loaded yet, must not become a crowd in front of Postgres.
    pub(super) async fn refresh_for_crowd(&self, live: &LiveDrop) -> Result<Option<Arc<LiveDrop>>, EngineError> {
        let mut asked_at = live.shared.refreshed.lock().await;
        if asked_at.is_some_and(|at| at.elapsed() < REFRESH_PAUSE) {
            return Ok(self.known_drop(&live.drop.name));
        }
        let fresh = self.refresh(&live.drop.name).await;
        // After the answer, and whatever it was: while Postgres is away, one wait serves everybody.
        *asked_at = Some(Instant::now());
        fresh
    }

    /// Reads the drop anew from Postgres: its state, and the epochs of its warehouses.
    pub async fn refresh(&self, name: &DropName) -> Result<Option<Arc<LiveDrop>>, EngineError> {
        let Some(drop) = self.ledger.drop_by_name(name).await? else {
            // A draft that was deleted.
            self.drops.write().expect("nobody panics holding this lock").remove(name);
            return Ok(None);
        };
        Ok(Some(self.adopt(drop)))
    }

    /// Makes a drop that was just read the one this process works with.
    pub(super) fn adopt(&self, drop: SaleDrop) -> Arc<LiveDrop> {
        let mut drops = self.drops.write().expect("nobody panics holding this lock");
        // A draft that was deleted and made again is another drop, with other warehouses.
        let before = drops.get(&drop.name).filter(|before| before.drop.id == drop.id).cloned();
        if let Some(before) = &before
            && before.drop == drop
        {
            return Arc::clone(before);
        }
        let warehouses = drop.warehouses.iter();
        let stores = warehouses.map(|warehouse| Arc::new(self.tokens.warehouse(&drop, warehouse))).collect();
        // They outlive an epoch: claims that wait know the one they were made in, and are told that it is fenced.
        let batchers = match &before {
            Some(before) => before.batchers.clone(),
            None => drop.warehouses.iter().map(|_| self.batcher_of_warehouse()).collect(),
        };
        let shared = before.map_or_else(Arc::default, |before| Arc::clone(&before.shared));
        let live = Arc::new(LiveDrop { drop, stores, batchers, shared });
        drops.insert(live.drop.name.clone(), Arc::clone(&live));
        live
    }

    fn batcher_of_warehouse(&self) -> Batcher {
        let start = || Batcher::start(self.clock.clone());
        if self.tokens.is_one_server() { self.batcher.get_or_init(start).clone() } else { start() }
    }
}

impl LiveDrop {
    pub fn home_of(&self, buyer: &BuyerId) -> &Warehouse {
        self.drop.home_of(buyer)
    }

    pub fn store(&self, warehouse: &Warehouse) -> &WarehouseStore {
        &self.stores[usize::from(warehouse.number.0)]
    }

    /// Units free in each warehouse now, summed over the variants; each warehouse at its own instant.
    pub async fn free_units(&self) -> Result<Vec<u32>, EngineError> {
        let views = futures_util::future::try_join_all(self.stores.iter().map(|store| store.look())).await?;
        Ok(views.iter().map(|view| view.free.iter().sum()).collect())
    }

    pub(super) fn store_by_id(&self, id: WarehouseId) -> Option<&WarehouseStore> {
        self.drop.warehouse_by_id(id).map(|warehouse| self.store(warehouse))
    }

    /// Asks a warehouse for tokens, in a batch with others.
    pub(super) async fn submit(&self, warehouse: &Warehouse, claim: Claim) -> Result<Outcome, Arc<TokenError>> {
        let position = usize::from(warehouse.number.0);
        self.batchers[position].submit(&self.stores[position], claim).await
    }

    pub(super) fn variant_position(&self, variant: VariantNumber) -> usize {
        usize::from(variant.0)
    }
}
