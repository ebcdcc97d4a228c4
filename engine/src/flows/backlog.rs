//! How far settlement is behind: claims that wait, and since when the oldest does. Read from Redis alone, so that it is known
//! while Postgres is away, which is when it matters.
//!
//! The bound: past [`SETTLEMENT_LAG_LIMIT`] (or what the gateway is told) new claims are refused as unavailable, to be made
//! again, and never as sold out. Memory needs no bound of its own, since the log cannot hold more claims than the drop has
//! units; what grows without end is the time until a buyer hears whether his claim is an order, so that is what is bounded.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};

use crate::domain::ids::{DropName, Epoch, StreamId, WarehouseId};
use crate::tokens::TokenError;
use crate::tokens::store::WarehouseStore;

use super::engine::{DropShared, Engine, EngineError, LiveDrop};

/// Thirty intervals of settlement, or a failover of Postgres with a person in it.
pub const SETTLEMENT_LAG_LIMIT: SignedDuration = SignedDuration::from_mins(15);
/// How old the measured lag may be: a claim waits for no measurement, and the bound is minutes.
const LAG_FRESH: Duration = Duration::from_secs(1);
/// Entries read in one call.
const ENTRIES_PER_CALL: usize = 256;
/// Entries that one watch remembers of a warehouse, of some 24 bytes each. Should more be waiting, the gauge stops here.
const ENTRIES_WATCHED: usize = 50_000;

/// What of one drop waits for settlement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    pub claims: usize,
    /// When the oldest of them was taken.
    pub oldest: Option<Timestamp>,
}

/// What a worker remembers from one look to the next, so that each look reads only what is new. Lost, it is read again.
#[derive(Default)]
pub struct LogWatch {
    tails: HashMap<WarehouseId, Tail>,
    gauged: HashSet<DropName>,
}

/// The entries behind the mark of one warehouse, as of one epoch: a rebuild and a failover begin another.
struct Tail {
    epoch: Epoch,
    read_to: StreamId,
    waiting: VecDeque<Waits>,
}

struct Waits {
    entry: StreamId,
    taken_at_ms: i64,
    claims: u32,
}

/// How far a drop's settlement is behind, as its claims know it.
#[derive(Default)]
pub(super) struct Lag {
    measured: Option<Instant>,
    is_measuring: bool,
    oldest: Option<Timestamp>,
}

impl Engine {
    /// Measures every drop's backlog and sets its gauges. While Postgres is away, of the drops that this process has met; then
    /// the answer is why Postgres cannot be asked.
    pub async fn watch_backlogs(&self, watch: &mut LogWatch) -> Result<usize, EngineError> {
        let (lives, away) = match self.ledger.loaded_drops().await {
            Ok(drops) => (drops.into_iter().map(|drop| self.adopt(drop)).collect(), None),
            Err(error) => (self.known_drops(), Some(error)),
        };
        let now = self.clock.now();
        let mut claims = 0;
        let mut gone = std::mem::take(&mut watch.gauged);
        for live in lives.iter().filter(|live| live.drop.in_warehouses().is_some()) {
            let waiting = self.waiting(live, watch).await;
            claims += waiting.claims;
            gauge(&live.drop.name, waiting, now);
            gone.remove(&live.drop.name);
            watch.gauged.insert(live.drop.name.clone());
        }
        gone.iter().for_each(|name| gauge(name, Waiting::default(), now));
        if let Some(error) = away {
            return Err(error.into());
        }
        for (name, waiting) in self.ledger.standby_counts().await? {
            metrics::gauge!("doorbuster_standby_waiting", "drop" => name.as_str().to_owned()).set(waiting as f64);
        }
        for (name, poisoned) in self.ledger.poisoned_counts().await? {
            metrics::gauge!("doorbuster_poisoned_claims", "drop" => name.as_str().to_owned()).set(poisoned as f64);
        }
        Ok(claims)
    }

    /// What the logs of one drop hold behind their marks. A warehouse that cannot be read counts as it was read last.
    pub async fn waiting(&self, live: &LiveDrop, watch: &mut LogWatch) -> Waiting {
        let tails = live.drop.warehouses.iter().map(|warehouse| watch.tails.remove(&warehouse.id));
        let looks = live.stores.iter().zip(tails.collect::<Vec<_>>()).map(|(store, tail)| look(store, tail));
        let mut waiting = Waiting::default();
        for (warehouse, (tail, outcome)) in live.drop.warehouses.iter().zip(join_all(looks).await) {
            if let Err(error) = outcome {
                tracing::debug!(%error, "the log of warehouse {} is as it was read last: {error}", warehouse.number.0);
            }
            waiting.claims += tail.waiting.iter().map(|entry| entry.claims as usize).sum::<usize>();
            let oldest = tail.waiting.front().and_then(|entry| Timestamp::from_millisecond(entry.taken_at_ms).ok());
            waiting.oldest = [waiting.oldest, oldest].into_iter().flatten().min();
            watch.tails.insert(warehouse.id, tail);
        }
        waiting
    }

    /// Whether settlement is so far behind that no more claims are taken. Asks nobody: who finds the measurement old has a new
    /// one made, for those who come after him.
    pub(super) fn is_settlement_behind(&self, live: &LiveDrop) -> bool {
        let mut lag = live.shared.lag.lock().expect("nobody panics holding this lock");
        if !lag.is_measuring && lag.measured.is_none_or(|at| at.elapsed() >= LAG_FRESH) {
            lag.is_measuring = true;
            tokio::spawn(measure(live.stores.clone(), Arc::clone(&live.shared)));
        }
        let limit = self.settlement_lag_limit;
        lag.oldest.is_some_and(|oldest| self.clock.now().duration_since(oldest) > limit)
    }
}

async fn measure(stores: Vec<Arc<WarehouseStore>>, shared: Arc<DropShared>) {
    let oldest = join_all(stores.iter().map(|store| store.oldest_unsettled_ms())).await;
    let known = oldest.iter().any(Result::is_ok);
    let oldest = oldest.into_iter().filter_map(|oldest| oldest.ok().flatten()).min();
    let mut lag = shared.lag.lock().expect("nobody panics holding this lock");
    (lag.is_measuring, lag.measured) = (false, Some(Instant::now()));
    // While Redis is away as well, nobody knows better than before; claims get an error anyway.
    if known {
        lag.oldest = oldest.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    }
}

async fn look(store: &WarehouseStore, tail: Option<Tail>) -> (Tail, Result<(), TokenError>) {
    let fresh = || Tail { epoch: store.epoch(), read_to: StreamId::ZERO, waiting: VecDeque::new() };
    let mut tail = tail.filter(|tail| tail.epoch == store.epoch()).unwrap_or_else(fresh);
    let outcome = read_on(store, &mut tail).await;
    (tail, outcome)
}

async fn read_on(store: &WarehouseStore, tail: &mut Tail) -> Result<(), TokenError> {
    let mark = match store.settled_mark().await {
        Err(TokenError::NotLoaded) => {
            tail.waiting.clear();
            return Ok(());
        }
        other => other?,
    };
    while tail.waiting.front().is_some_and(|entry| entry.entry <= mark) {
        tail.waiting.pop_front();
    }
    tail.read_to = tail.read_to.max(mark);
    while tail.waiting.len() < ENTRIES_WATCHED {
        let entries = store.log_after(tail.read_to, ENTRIES_PER_CALL).await?;
        let is_last = entries.len() < ENTRIES_PER_CALL;
        for entry in entries {
            tail.read_to = entry.id;
            let (taken_at_ms, claims) = (entry.taken_at_ms, entry.claims.len() as u32);
            tail.waiting.push_back(Waits { entry: entry.id, taken_at_ms, claims });
        }
        if is_last {
            break;
        }
    }
    Ok(())
}

fn gauge(drop: &DropName, waiting: Waiting, now: Timestamp) {
    let name = drop.as_str().to_owned();
    let age = waiting.oldest.map_or(0.0, |oldest| now.duration_since(oldest).as_secs_f64().max(0.0));
    metrics::gauge!("doorbuster_settlement_backlog_claims", "drop" => name.clone()).set(waiting.claims as f64);
    metrics::gauge!("doorbuster_settlement_oldest_seconds", "drop" => name).set(age);
}
