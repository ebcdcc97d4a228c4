//! Opening, closing and rebuilding: how Redis comes to hold what Postgres says.
//!
//! One way for all of them. Postgres begins a new epoch; `fence` stops the warehouse under it and answers the server's
//! replication id; what the stream still holds is settled; the free serials, holders and last grant are read under the
//! warehouse's row lock and loaded in chunks; `open` lets it issue. Every chunk names epoch and replication id, so a restart
//! or failover in between begins it again.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};

use crate::domain::claims::{Acknowledgement, Quantity};
use crate::domain::drops::{
    DropState, InvalidDrop, MAX_WAREHOUSES, NewDrop, SaleDrop, WAREHOUSES_PER_PRIMARY, Warehouse,
};
use crate::domain::ids::{BuyerId, DropName, RestockId, Serial};
use crate::domain::line::changes::{ChangeRefused, LineChange};
use crate::domain::orders::OrderState;
use crate::domain::rest::{LEASE_MAX, REST};
use crate::ledger::drops::{DropCreated, Due, OpeningBegun, WarehouseContents};
use crate::ledger::restocks::RestockDecided;
use crate::ledger::settlements::Settling;
use crate::steps;
use crate::tokens::TokenError;
use crate::tokens::store::{HeldClaim, LoadVariant, ServerFacts, WarehouseStore};

use super::engine::{Engine, EngineError, REFRESH_PAUSE};
use super::settle::ReadLog;

/// A load is begun again when the server restarts under it; more often than this in a row, something else is wrong.
const LOAD_TRIES: u32 = 5;
/// Warehouses loaded at the same time. Each takes a connection to Postgres for a moment and waits most of its time.
const LOADS_AT_ONCE: usize = 16;
/// Another worker's load is waited for this long: the wait of freed units and a good deal for its own work.
const LOAD_PATIENCE: Duration = Duration::from_secs(5);
/// Times that awards which came in during a load are settled before it gives up.
const AWARD_ROUNDS: u32 = 100;
/// Entries of the stream settled in one transaction of a rebuild.
const REBUILD_ENTRIES: usize = 1000;

/// What a command made of a drop, or why it did not.
pub type Moved = Result<SaleDrop, DropRefused>;

/// A drop after a restock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restocked {
    pub drop: SaleDrop,
    /// Otherwise the same restock had been done before, and nothing was added now.
    pub is_new: bool,
}

/// What keeps a drop from being over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftToDo {
    pub unsettled_claims: u64,
    /// Their logs could not be read, so nobody knows what they hold.
    pub unread_warehouses: u64,
    pub unpaid_orders: u64,
    pub pending_grants: u64,
    /// Units that came back and are not granted yet.
    pub resting_units: u64,
    /// Set aside by settlement: an operator must see to them.
    pub poisoned_claims: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DropRefused {
    Invalid(InvalidDrop),
    NameTaken,
    SkuTaken(String),
    /// The id belongs to another restock: of other units, or of another drop.
    RestockDiffers(RestockId),
    /// The drop has no such variant.
    UnknownSku(String),
    /// Settings of the stores that could lose claims or orders; each is named.
    Configuration(Vec<String>),
    /// Something of the drop is still on its way.
    NotDrained(LeftToDo),
    Unknown,
    /// The warehouses do not lie evenly on the primaries of the cluster; the sentence names these.
    Uneven(String),
    /// The drop is in a state from which this is not possible.
    State(DropState),
    /// Only a draft can be changed or deleted; it is none any more.
    NoDraft(DropState),
    /// Something names the draft that should not; it stays.
    InUse,
    /// Buyers do not stand in line for it.
    NoLine,
    /// Its line stays as it is.
    Line(ChangeRefused),
    /// Its line opens by the clock, and the drop with it.
    HasLine,
}

/// Where the replicas of Redis are not those that a drop waits for before it answers its buyers.
pub fn replication_problems(redis: &ServerFacts, drops: &[SaleDrop]) -> Vec<String> {
    let (fewest, most) = redis.replicas;
    let replicated = drops.iter().filter(|drop| drop.acknowledgement == Acknowledgement::Replicated);
    let problems = replicated.filter_map(|drop| {
        let (name, replicas) = (&drop.name, usize::from(drop.replicas));
        if fewest < replicas {
            return Some(format!("Redis: a primary has {fewest} replicas online, and {name} waits for {replicas}"));
        }
        (most > replicas).then(|| {
            format!(
                "Redis: a primary has {most} replicas, and {name} waits for {replicas} only: another one could be promoted"
            )
        })
    });
    problems.collect()
}

/// For how long after a move a gateway may answer as before it. A drop that is not open is looked at again ten times a second;
/// and a refusal that a gateway keeps is as good as its lease, whatever has become of the drop.
pub fn known_within(state: DropState) -> Duration {
    match state {
        DropState::Paused | DropState::Closed => LEASE_MAX,
        _ => 2 * REFRESH_PAUSE,
    }
}

impl Engine {
    /// So many warehouses a drop has unless its operator asks for others. A cluster is asked for its primaries, one server is not.
    pub async fn usual_warehouses(&self) -> Result<u32, EngineError> {
        let primaries = self.tokens.primaries().await? as u32;
        Ok((primaries * WAREHOUSES_PER_PRIMARY).min(MAX_WAREHOUSES))
    }

    /// Makes a drop in Postgres. Nothing is sold before it is opened.
    pub async fn create_drop(&self, new: &NewDrop, home_key: u64) -> Result<Moved, EngineError> {
        if let Err(invalid) = new.check() {
            return Ok(Err(DropRefused::Invalid(invalid)));
        }
        if let Err(invalid) = self.check_tax(new).await? {
            return Ok(Err(DropRefused::Invalid(invalid)));
        }
        match self.ledger.create_drop(new, home_key).await? {
            DropCreated::NameTaken => Ok(Err(DropRefused::NameTaken)),
            DropCreated::SkuTaken(sku) => Ok(Err(DropRefused::SkuTaken(sku))),
            DropCreated::Created(id) => {
                let created = self.ledger.drop_by_id(id).await?;
                Ok(created.ok_or(DropRefused::Unknown))
            }
        }
    }

    /// Holds a drop's own tax against the shop's rates.
    pub(super) async fn check_tax(&self, new: &NewDrop) -> Result<Result<(), InvalidDrop>, EngineError> {
        let rates = self.ledger.rates().await?;
        let same = rates.iter().filter(|rate| rate.currency == new.currency);
        Ok(new.check_tax(same.map(|rate| rate.tax_basis_points)))
    }

    /// Loads every warehouse and lets them issue. May be repeated, also after a crash half-way.
    pub async fn open_drop(&self, name: &DropName) -> Result<Moved, EngineError> {
        let Some(drop) = self.ledger.drop_by_name(name).await? else {
            return Ok(Err(DropRefused::Unknown));
        };
        match drop.state {
            DropState::Draft if drop.admission.has_line() => Ok(Err(DropRefused::HasLine)),
            DropState::Draft | DropState::Opening => {
                let problems = self.configuration_problems(std::slice::from_ref(&drop)).await?;
                if !problems.is_empty() {
                    return Ok(Err(DropRefused::Configuration(problems)));
                }
                if let Err(uneven) = self.tokens.check_spread(&drop).await? {
                    return Ok(Err(DropRefused::Uneven(uneven)));
                }
                match self.ledger.begin_opening(drop.id).await? {
                    OpeningBegun::Begun => {}
                    OpeningBegun::OtherState => return Box::pin(self.open_drop(name)).await,
                    OpeningBegun::Invalid(invalid) => return Ok(Err(DropRefused::Invalid(invalid))),
                }
                // A draft may have been changed since it was read; from now on it cannot be. What was changed is
                // checked too.
                let opening = self.ledger.drop_by_id(drop.id).await?;
                if !opening.is_some_and(|opening| has_same_terms(&opening, &drop)) {
                    return Box::pin(self.open_drop(name)).await;
                }
                steps::passed("open.begun");
                self.load_warehouses(&drop, drop.warehouses.iter(), "ready").await?;
                steps::passed("open.loaded");
                self.ledger.move_drop(drop.id, &[DropState::Opening], DropState::Open).await?;
                steps::passed("open.moved");
                let opened = self.tell_warehouses(name).await?;
                steps::passed("open.told");
                Ok(opened)
            }
            DropState::Open => self.tell_warehouses(name).await,
            state => Ok(Err(DropRefused::State(state))),
        }
    }

    /// No new claims for now. Known claims are answered, settled and charged as ever.
    pub async fn pause_drop(&self, name: &DropName) -> Result<Moved, EngineError> {
        if let Some(moved) = self.pause_line(name, true).await? {
            return Ok(moved);
        }
        self.move_open_drop(name, &[DropState::Open], DropState::Paused).await
    }

    pub async fn resume_drop(&self, name: &DropName) -> Result<Moved, EngineError> {
        if let Some(moved) = self.pause_line(name, false).await? {
            return Ok(moved);
        }
        self.move_open_drop(name, &[DropState::Paused], DropState::Open).await
    }

    /// Holds no rounds of a drop whose buyers stand in line, or holds them again. `None`: they do not.
    async fn pause_line(&self, name: &DropName, paused: bool) -> Result<Option<Moved>, EngineError> {
        let Some(drop) = self.ledger.drop_by_name(name).await? else { return Ok(None) };
        if drop.state != DropState::Lining {
            return Ok(None);
        }
        self.ledger.pause_line(drop.id, paused, self.clock.now()).await?;
        Ok(Some(Ok(drop)))
    }

    /// Tells those who wait in its line something, or lets its rounds decide more ranks.
    pub async fn change_line(&self, name: &DropName, change: &LineChange) -> Result<Moved, EngineError> {
        let Some(drop) = self.ledger.drop_by_name(name).await? else {
            return Ok(Err(DropRefused::Unknown));
        };
        Ok(match self.ledger.change_line(drop.id, change, self.clock.now()).await? {
            None => Err(DropRefused::NoLine),
            Some(Err(refused)) => Err(DropRefused::Line(refused)),
            Some(Ok(())) => Ok(drop),
        })
    }

    /// Ends the sale: known claims are still answered and settled, new ones are refused. In a line, a round goes to its end
    /// first, and what came back since goes to those who stand by.
    pub async fn close_drop(&self, name: &DropName) -> Result<Moved, EngineError> {
        if let Some(drop) = self.ledger.drop_by_name(name).await?
            && drop.state == DropState::Lining
        {
            Box::pin(self.end_line(drop)).await?;
            return Ok(self.refresh(name).await?.map(|live| live.drop.clone()).ok_or(DropRefused::Unknown));
        }
        let closed = self.move_open_drop(name, &[DropState::Open, DropState::Paused], DropState::Closed).await?;
        self.ledger.expire_standby(self.clock.now()).await?;
        Ok(closed)
    }

    /// Takes a closed drop out of Redis, once nothing of it is on its way any more. What was sold stays in Postgres.
    pub async fn archive_drop(&self, name: &DropName) -> Result<Moved, EngineError> {
        let Some(drop) = self.ledger.drop_by_name(name).await? else {
            return Ok(Err(DropRefused::Unknown));
        };
        if drop.state == DropState::Closed {
            let left = self.left_to_do(&drop).await?;
            if left != LeftToDo::default() {
                return Ok(Err(DropRefused::NotDrained(left)));
            }
        }
        // Postgres first: from here on no worker rebuilds what is taken away.
        if !self.ledger.archive_drop(drop.id, self.clock.now()).await? {
            return Ok(Err(DropRefused::State(drop.state)));
        }
        for warehouse in &drop.warehouses {
            self.tokens.warehouse(&drop, warehouse).forget().await?;
        }
        Ok(self.refresh(name).await?.map(|live| live.drop.clone()).ok_or(DropRefused::Unknown))
    }

    /// What of a drop has not come to its end: a drain waits until this is nothing.
    pub async fn left_to_do(&self, drop: &SaleDrop) -> Result<LeftToDo, EngineError> {
        let counts = self.ledger.order_counts(drop.id).await?;
        let backlog = self.backlog(&drop.name).await?;
        let poisoned_claims = self.ledger.poisoned(Some(&drop.name)).await?.len() as u64;
        Ok(LeftToDo {
            poisoned_claims,
            unsettled_claims: backlog.as_ref().map_or(0, |backlog| backlog.claims() as u64),
            unread_warehouses: backlog.as_ref().map_or(0, |backlog| backlog.unread as u64),
            unpaid_orders: counts.get(&OrderState::PendingPayment).copied().unwrap_or_default(),
            pending_grants: self.ledger.count_pending_grants(drop.id).await?,
            resting_units: self.ledger.count_resting(drop.id).await?,
        })
    }

    /// Adds units to an open or paused drop, once for each id: what got no answer is repeated under the same one. They rest, as
    /// all units that come back, and a worker puts them on sale.
    pub async fn restock_drop(
        &self,
        name: &DropName,
        id: RestockId,
        sku: &str,
        units: u32,
    ) -> Result<Result<Restocked, DropRefused>, EngineError> {
        let Some(drop) = self.ledger.drop_by_name(name).await? else {
            return Ok(Err(DropRefused::Unknown));
        };
        let Some(variant) = drop.variant_by_sku(sku) else {
            return Ok(Err(DropRefused::UnknownSku(sku.to_owned())));
        };
        if units == 0 {
            return Ok(Err(DropRefused::Invalid(InvalidDrop::Stock(drop.stock_units()))));
        }
        let is_new = match self.ledger.restock(&drop, id, variant.number, units, self.clock.now()).await? {
            RestockDecided::Added => true,
            RestockDecided::Before => false,
            RestockDecided::Differs => return Ok(Err(DropRefused::RestockDiffers(id))),
            RestockDecided::NotSelling => return Ok(Err(DropRefused::State(drop.state))),
            RestockDecided::TooMany(units) => return Ok(Err(DropRefused::Invalid(InvalidDrop::Stock(units)))),
        };
        let live = self.refresh(name).await?;
        Ok(live.map(|live| Restocked { drop: live.drop.clone(), is_new }).ok_or(DropRefused::Unknown))
    }

    /// Rebuilds every warehouse of a drop from Postgres, fenced or not.
    pub async fn rebuild_drop(&self, name: &DropName) -> Result<Moved, EngineError> {
        let Some(drop) = self.ledger.drop_by_name(name).await? else {
            return Ok(Err(DropRefused::Unknown));
        };
        let Some(state) = drop.in_warehouses() else {
            return Ok(Err(DropRefused::State(drop.state)));
        };
        self.load_warehouses(&drop, drop.warehouses.iter(), state).await?;
        Ok(self.refresh(name).await?.map(|live| live.drop.clone()).ok_or(DropRefused::Unknown))
    }

    async fn move_open_drop(&self, name: &DropName, from: &[DropState], to: DropState) -> Result<Moved, EngineError> {
        let Some(drop) = self.ledger.drop_by_name(name).await? else {
            return Ok(Err(DropRefused::Unknown));
        };
        if !self.ledger.move_drop(drop.id, from, to).await? {
            return Ok(Err(DropRefused::State(drop.state)));
        }
        self.tell_warehouses(name).await
    }

    /// Brings the state that Postgres has to the warehouses. Dying before it is mended by the watch.
    async fn tell_warehouses(&self, name: &DropName) -> Result<Moved, EngineError> {
        let Some(live) = self.refresh(name).await? else {
            return Ok(Err(DropRefused::Unknown));
        };
        if let Some(state) = live.drop.in_warehouses() {
            for store in &live.stores {
                match store.set_state(state).await {
                    // Whoever loads it reads the drop's state when he is through.
                    Err(TokenError::Fenced | TokenError::NotLoaded) => {}
                    told => told?,
                }
            }
        }
        Ok(Ok(live.drop.clone()))
    }

    /// What of Redis' and Postgres' settings could lose what they were given, or breaks what these drops promise their
    /// buyers; each named with what it should be.
    pub async fn configuration_problems(&self, drops: &[SaleDrop]) -> Result<Vec<String>, EngineError> {
        let redis = self.tokens.server_facts().await?;
        let mut problems = self.ledger.configuration_problems().await?;
        if redis.maxmemory_policy != "noeviction" {
            problems.push(format!("Redis: maxmemory-policy is {}, it must be noeviction", redis.maxmemory_policy));
        }
        if !redis.appendonly {
            problems.push("Redis: appendonly is no, it must be yes".to_owned());
        }
        if redis.appendfsync.as_deref() == Some("no") {
            problems
                .push("Redis: appendfsync is no, it must be always (or everysec, which may lose a second)".to_owned());
        }
        if !redis.is_primary {
            problems.push("Redis: the server is a replica, it must be the primary".to_owned());
        }
        if redis.requires_full_coverage == Some(true) {
            problems.push("Redis: cluster-require-full-coverage is yes, it must be no".to_owned());
        }
        problems.extend(replication_problems(&redis, drops));
        metrics::gauge!("doorbuster_configuration_problems").set(problems.len() as f64);
        Ok(problems)
    }

    /// Opens and closes what the clock says. Answers how many drops it moved.
    pub async fn run_schedule(&self) -> Result<usize, EngineError> {
        // Also what somebody who closed a drop and died left waiting, and who joined at that very moment.
        self.ledger.expire_standby(self.clock.now()).await?;
        let due = self.ledger.due_drops(self.clock.now()).await?;
        let mut moved = 0;
        for drop in &due {
            let (name, refused) = match drop {
                Due::GoOnOpening(name) if !self.is_opening_left_alone(name).await? => continue,
                Due::Open(name) | Due::GoOnOpening(name) => (name, self.open_drop(name).await?.err()),
                Due::Close(name) => (name, self.close_drop(name).await?.err()),
            };
            moved += 1;
            match refused {
                None => tracing::info!(drop = %name, "the clock moved the drop {name}"),
                Some(refused) => tracing::warn!(drop = %name, ?refused, "the drop {name} cannot be moved"),
            }
        }
        Ok(moved)
    }

    /// Rebuilds every warehouse that Redis has lost or may have forgotten something of. Answers how many. One that cannot be
    /// reached, on a part of a cluster that is being replaced, does not keep the others from it; its error is the answer.
    pub async fn rebuild_fenced(&self) -> Result<usize, EngineError> {
        let mut rebuilt = 0;
        let mut failed = None;
        for drop in self.ledger.loaded_drops().await? {
            let Some(state) = drop.in_warehouses() else { continue };
            let stores = drop.warehouses.iter().map(|warehouse| self.tokens.warehouse(&drop, warehouse));
            let stores = stores.collect::<Vec<_>>();
            // At the same time, so that those that cannot be reached cost one deadline together.
            let looks = join_all(stores.iter().map(|store| store.look())).await;
            let loading = self.ledger.loading_warehouses(drop.id).await?;
            let mut fenced = Vec::new();
            for ((warehouse, store), look) in drop.warehouses.iter().zip(&stores).zip(looks) {
                match look {
                    Err(TokenError::Fenced | TokenError::NotLoaded) => fenced.push(warehouse),
                    Err(error) => failed = Some(error.into()),
                    // Somebody died between telling Postgres and telling Redis.
                    Ok(view) if view.state != state => {
                        if let Err(error) = store.set_state(state).await {
                            failed = Some(error.into());
                        }
                    }
                    // Somebody died between opening it and telling Postgres.
                    Ok(_) if loading.contains(&warehouse.id) => {
                        self.ledger.finish_load(warehouse.id, warehouse.epoch).await?;
                    }
                    Ok(_) => {}
                }
            }
            if fenced.is_empty() {
                continue;
            }
            fenced.retain(|warehouse| !loading.contains(&warehouse.id) || self.is_left_alone(warehouse));
            for warehouse in &fenced {
                let lost = self.tokens.warehouse(&drop, warehouse).lost_keys().await.unwrap_or_default().join(" ");
                tracing::warn!(drop = %drop.name, warehouse = warehouse.number.0, lost, "rebuilding a fenced warehouse");
            }
            let (count, began) = (fenced.len(), Instant::now());
            match self.load_warehouses(&drop, fenced.into_iter(), state).await {
                Ok(()) => {
                    rebuilt += count;
                    let took = began.elapsed();
                    let drop = &drop.name;
                    tracing::info!(%drop, warehouses = count, ?took, "rebuilt after {took:.1?}: claims go on");
                }
                Err(error) => failed = Some(error),
            }
            metrics::counter!("doorbuster_rebuilds_total").increment(count as u64);
            if rebuilt > 0 {
                self.refresh(&drop.name).await?;
            }
        }
        failed.map_or(Ok(rebuilt), Err)
    }

    /// Whether no warehouse of a drop that somebody began to open has come any further for so long that he must be gone.
    async fn is_opening_left_alone(&self, name: &DropName) -> Result<bool, EngineError> {
        let Some(drop) = self.ledger.drop_by_name(name).await? else { return Ok(false) };
        // All of them are looked at, so that the time of each runs from now.
        Ok(drop.warehouses.iter().filter(|warehouse| !self.is_left_alone(warehouse)).count() == 0)
    }

    /// Whether a load that somebody else began has shown no end for so long that its worker must be gone. Two workers that
    /// both load a warehouse hurt nobody, but each undoes the other's work.
    fn is_left_alone(&self, warehouse: &Warehouse) -> bool {
        let mut seen = self.loads_seen.lock().expect("nobody panics holding this lock");
        let (epoch, since) = seen.entry(warehouse.id).or_insert((warehouse.epoch, Instant::now()));
        if *epoch != warehouse.epoch {
            (*epoch, *since) = (warehouse.epoch, Instant::now());
        }
        since.elapsed() > LOAD_PATIENCE
    }

    /// Fills warehouses from Postgres, several at a time: most of a load is the wait of freed units.
    async fn load_warehouses(
        &self,
        drop: &SaleDrop,
        warehouses: impl Iterator<Item = &Warehouse>,
        state: &str,
    ) -> Result<(), EngineError> {
        let loads = warehouses.map(|warehouse| Box::pin(self.load_warehouse(drop, warehouse, state)));
        let loads = loads.collect::<Vec<_>>();
        let (mut loaded, all) = (0, loads.len() as u64);
        let mut loads = stream::iter(loads).buffer_unordered(LOADS_AT_ONCE);
        let mut failed = None;
        while let Some(outcome) = loads.next().await {
            loaded += 1;
            self.ledger.progress.tell("warehouses loaded", loaded, Some(all));
            if let Err(error) = outcome {
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Fills one warehouse from Postgres, under a new epoch, and opens it in `state`.
    async fn load_warehouse(&self, drop: &SaleDrop, warehouse: &Warehouse, state: &str) -> Result<(), EngineError> {
        let (mut tried, mut seen) = (1, warehouse.epoch);
        loop {
            let Some(epoch) = self.ledger.begin_load(warehouse.id, seen).await? else {
                // Not a restart of the server: somebody began a newer load, which will do.
                return Ok(());
            };
            steps::passed("load.begun");
            seen = epoch;
            let loading = Warehouse { epoch, ..*warehouse };
            match self.try_load(drop, &loading, state).await {
                Err(error) if error.is_fenced() && tried < LOAD_TRIES => tried += 1,
                outcome => return outcome,
            }
        }
    }

    async fn try_load(&self, drop: &SaleDrop, warehouse: &Warehouse, state: &str) -> Result<(), EngineError> {
        let epoch = warehouse.epoch;
        let store = self.tokens.warehouse(drop, warehouse);
        let replid = match store.fence().await {
            // Somebody began a newer load meanwhile: it will do.
            Err(TokenError::Stale) => return Ok(()),
            other => other?,
        };
        let fenced_at = Instant::now();
        steps::passed("load.fenced");
        let mut rounds = 0;
        let contents = loop {
            self.settle_leftovers(drop, warehouse, &store).await?;
            self.settle_unlogged(drop, warehouse, &store).await?;
            self.settle_awards(drop, warehouse).await?;
            match self.ledger.warehouse_contents(drop, warehouse.id, epoch).await? {
                None => return Ok(()),
                // Awarded since: rare, as each takes an order that ends in between.
                Some(contents) if contents.has_awards && rounds < AWARD_ROUNDS => rounds += 1,
                Some(contents) if contents.has_awards => return Err(EngineError::Moving),
                Some(contents) => break contents,
            }
        };
        steps::passed("load.settled");
        let variants = (0..drop.variants.len()).map(|position| variant_load(&contents, position)).collect::<Vec<_>>();
        let holders = holders(&contents);
        let chunks = store.load(&replid, contents.last_grant, drop.buyer_limit, &variants, &holders).await?;
        steps::passed("load.loaded");
        if self.ledger.is_proof_marked(drop.id).await? {
            // Units that Redis had forgotten are free again with this load: no lease may overlap them. Whoever looks at the
            // warehouse since it was fenced gets no reading.
            tokio::time::sleep_until((fenced_at + REST).into()).await;
        }
        store.open(&replid, chunks, state).await?;
        steps::passed("load.opened");
        self.ledger.finish_load(warehouse.id, epoch).await?;
        steps::passed("load.reported");
        // The drop may have been moved while this was under way.
        let moved = self.ledger.drop_by_id(drop.id).await?.and_then(|drop| drop.state.in_warehouses());
        if let Some(moved) = moved.filter(|moved| *moved != state) {
            store.set_state(moved).await?;
        }
        Ok(())
    }

    /// Settles what the stream still holds from before the fence, so that the load does not count it as free.
    async fn settle_leftovers(
        &self,
        drop: &SaleDrop,
        warehouse: &Warehouse,
        store: &WarehouseStore,
    ) -> Result<(), EngineError> {
        loop {
            let entries = match store.unsettled(REBUILD_ENTRIES).await {
                // Never loaded, or lost with everything: no stream.
                Err(TokenError::NotLoaded) => return Ok(()),
                other => other?,
            };
            let Some(last) = entries.last().map(|entry| entry.id) else { return Ok(()) };
            let read = ReadLog::of(warehouse, entries);
            let settled = self.settle_or_set_aside(drop, &read, Settling::Rebuild).await?;
            if !settled.settlement.stale.is_empty() {
                return Ok(());
            }
            if !settled.is_complete {
                continue;
            }
            store.settled(last, crate::tokens::store::StreamId::ZERO).await?;
        }
    }

    /// Settles what the buyers' records hold and Postgres does not know, where the log itself is lost.
    async fn settle_unlogged(
        &self,
        drop: &SaleDrop,
        warehouse: &Warehouse,
        store: &WarehouseStore,
    ) -> Result<(), EngineError> {
        let recorded = store.recorded_without_log().await?;
        if !recorded.is_empty() {
            let read = ReadLog::of_recorded(recorded, warehouse, self.clock.now());
            self.settle_or_set_aside(drop, &read, Settling::Rebuild).await?;
        }
        Ok(())
    }

    /// Decides the awards that were on their way to this warehouse: Redis was never told, or has forgotten what it made of them.
    /// With its log settled Postgres knows everything that the script would, so they become orders, or are rejected, here.
    async fn settle_awards(&self, drop: &SaleDrop, warehouse: &Warehouse) -> Result<(), EngineError> {
        let claims = self.ledger.awards_in_flight(drop, warehouse, self.clock.now()).await?;
        if !claims.is_empty() {
            // What is left of a long search for bad ones comes again: the contents still have awards then.
            self.settle_or_set_aside(drop, &ReadLog::of_claims(claims), Settling::Rebuild).await?;
        }
        Ok(())
    }
}

/// Whether everything is the same but how far the drop has come.
fn has_same_terms(one: &SaleDrop, other: &SaleDrop) -> bool {
    *one == SaleDrop { state: one.state, warehouses: one.warehouses.clone(), ..other.clone() }
}

/// The longest unbroken run becomes the range that DECR counts down; the other serials are spare.
fn variant_load(contents: &WarehouseContents, position: usize) -> LoadVariant {
    let serials =
        contents.free.iter().filter(|(variant, _)| usize::from(variant.0) == position).map(|(_, serial)| serial.0);
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for serial in serials {
        match runs.last_mut() {
            Some((first, length)) if *first + *length == serial => *length += 1,
            _ => runs.push((serial, 1)),
        }
    }
    let Some(longest) = runs.iter().copied().max_by_key(|(_, length)| *length) else {
        return LoadVariant::default();
    };
    let spare = runs.iter().filter(|run| **run != longest).flat_map(|(first, length)| *first..first + length);
    LoadVariant { run: Some((Serial(longest.0), longest.1)), serials: spare.map(Serial).collect() }
}

fn holders(contents: &WarehouseContents) -> Vec<(BuyerId, Vec<HeldClaim>)> {
    let mut holders: std::collections::BTreeMap<BuyerId, Vec<HeldClaim>> = std::collections::BTreeMap::new();
    for claim in &contents.claims {
        let quantity = Quantity::new(i64::from(claim.quantity)).expect("an order of a drop was made from a claim");
        let serials = claim.live.then(|| claim.serials.clone());
        let held = HeldClaim { id: claim.id, variant: claim.variant, quantity, serials };
        holders.entry(claim.buyer.clone()).or_default().push(held);
    }
    holders.into_iter().collect()
}
