//! Opening, closing and rebuilding: how Redis comes to hold what Postgres says.
//!
//! One way for all of them. Postgres begins a new epoch; `fence` stops the warehouse under it and answers the server's
//! replication id; what the stream still holds is settled; the free serials, holders and last grant are read under the
//! warehouse's row lock and loaded in chunks; `open` lets it issue. Every chunk names epoch and replication id, so a restart
//! or failover in between begins it again.

use futures_util::future::join_all;

use crate::domain::claims::Quantity;
use crate::domain::drops::{DropState, InvalidDrop, NewDrop, SaleDrop, Warehouse};
use crate::domain::ids::{BuyerId, DropName, Serial};
use crate::ledger::drops::{DropCreated, Due, WarehouseContents};
use crate::ledger::settlements::{ClaimToSettle, Settling};
use crate::provider::check_chargeable;
use crate::tokens::TokenError;
use crate::tokens::store::{HeldClaim, LoadVariant, View, WarehouseStore};

use super::engine::{Engine, EngineError};
use super::grants::FREED_UNITS_WAIT;

/// A load is begun again when the server restarts under it; more often than this in a row, something else is wrong.
const LOAD_TRIES: u32 = 5;
/// Entries of the stream settled in one transaction of a rebuild.
const REBUILD_ENTRIES: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DropRefused {
    Invalid(InvalidDrop),
    /// The provider cannot take this price.
    NotChargeable(String),
    NameTaken,
    SkuTaken(String),
    Unknown,
    /// The warehouses do not lie evenly on the primaries of the cluster; the sentence names these.
    Uneven(String),
    /// The drop is in a state from which this is not possible.
    State(DropState),
}

impl Engine {
    /// Makes a drop in Postgres. Nothing is sold before it is opened.
    pub async fn create_drop(
        &self,
        new: &NewDrop,
        home_key: u64,
    ) -> Result<Result<SaleDrop, DropRefused>, EngineError> {
        if let Err(invalid) = new.check() {
            return Ok(Err(DropRefused::Invalid(invalid)));
        }
        for variant in &new.variants {
            let price = crate::domain::money::Money::new(variant.price_minor, new.currency);
            if let Err(error) = check_chargeable(price) {
                return Ok(Err(DropRefused::NotChargeable(error.to_string())));
            }
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

    /// Loads every warehouse and lets them issue. May be repeated, also after a crash half-way.
    pub async fn open_drop(&self, name: &DropName) -> Result<Result<SaleDrop, DropRefused>, EngineError> {
        let Some(drop) = self.ledger.drop_by_name(name).await? else {
            return Ok(Err(DropRefused::Unknown));
        };
        match drop.state {
            DropState::Draft | DropState::Opening => {
                if let Err(uneven) = self.tokens.check_spread(&drop).await? {
                    return Ok(Err(DropRefused::Uneven(uneven)));
                }
                if !self.ledger.move_drop(drop.id, DropState::Draft, DropState::Opening).await? {
                    return Box::pin(self.open_drop(name)).await;
                }
                for warehouse in &drop.warehouses {
                    self.load_warehouse(&drop, warehouse, "ready").await?;
                }
                self.ledger.move_drop(drop.id, DropState::Opening, DropState::Open).await?;
            }
            DropState::Open => {}
            DropState::Closed => return Ok(Err(DropRefused::State(DropState::Closed))),
        }
        self.set_states(name, "open").await
    }

    /// Ends the sale: known claims are still answered and settled, new ones are refused.
    pub async fn close_drop(&self, name: &DropName) -> Result<Result<SaleDrop, DropRefused>, EngineError> {
        let Some(drop) = self.ledger.drop_by_name(name).await? else {
            return Ok(Err(DropRefused::Unknown));
        };
        if !self.ledger.move_drop(drop.id, DropState::Open, DropState::Closed).await? {
            return Ok(Err(DropRefused::State(drop.state)));
        }
        self.set_states(name, "closed").await
    }

    async fn set_states(&self, name: &DropName, state: &str) -> Result<Result<SaleDrop, DropRefused>, EngineError> {
        let Some(live) = self.refresh(name).await? else {
            return Ok(Err(DropRefused::Unknown));
        };
        for store in &live.stores {
            store.set_state(state).await?;
        }
        Ok(Ok(live.drop.clone()))
    }

    /// Opens and closes what the clock says. Answers how many drops it moved.
    pub async fn run_schedule(&self) -> Result<usize, EngineError> {
        let due = self.ledger.due_drops(self.clock.now()).await?;
        for drop in &due {
            let (name, refused) = match drop {
                Due::Open(name) => (name, self.open_drop(name).await?.err()),
                Due::Close(name) => (name, self.close_drop(name).await?.err()),
            };
            match refused {
                None => tracing::info!(drop = %name, "the clock moved the drop {name}"),
                Some(refused) => tracing::warn!(drop = %name, ?refused, "the drop {name} cannot be moved"),
            }
        }
        Ok(due.len())
    }

    /// Rebuilds every warehouse that Redis has lost or may have forgotten something of. Answers how many. One that cannot be
    /// reached, on a part of a cluster that is being replaced, does not keep the others from it; its error is the answer.
    pub async fn rebuild_fenced(&self) -> Result<usize, EngineError> {
        let mut rebuilt = 0;
        let mut failed = None;
        for drop in self.ledger.loaded_drops().await? {
            let state = match drop.state {
                DropState::Draft | DropState::Opening => continue,
                DropState::Open => "open",
                DropState::Closed => "closed",
            };
            let stores = drop.warehouses.iter().map(|warehouse| self.tokens.warehouse(&drop, warehouse));
            let stores = stores.collect::<Vec<_>>();
            // At the same time, so that those that cannot be reached cost one deadline together.
            let looks = join_all(stores.iter().map(|store| store.look())).await;
            for ((warehouse, store), look) in drop.warehouses.iter().zip(&stores).zip(looks) {
                match self.rebuild_if_fenced(&drop, warehouse, state, store, look).await {
                    Ok(is_rebuilt) => rebuilt += usize::from(is_rebuilt),
                    Err(error) => failed = Some(error),
                }
            }
            if rebuilt > 0 {
                self.refresh(&drop.name).await?;
            }
        }
        failed.map_or(Ok(rebuilt), Err)
    }

    async fn rebuild_if_fenced(
        &self,
        drop: &SaleDrop,
        warehouse: &Warehouse,
        state: &str,
        store: &WarehouseStore,
        look: Result<View, TokenError>,
    ) -> Result<bool, EngineError> {
        match look {
            Err(TokenError::Fenced | TokenError::NotLoaded) => {
                tracing::warn!(drop = %drop.name, warehouse = warehouse.number.0, "rebuilding a fenced warehouse");
                self.load_warehouse(drop, warehouse, state).await?;
                metrics::counter!("doorbuster_rebuilds_total").increment(1);
                Ok(true)
            }
            Err(error) => Err(error.into()),
            // Somebody died between telling Postgres and telling Redis.
            Ok(view) if view.state != state => Ok(store.set_state(state).await.map(|()| false)?),
            Ok(_) => Ok(false),
        }
    }

    /// Fills one warehouse from Postgres, under a new epoch, and opens it in `state`.
    async fn load_warehouse(&self, drop: &SaleDrop, warehouse: &Warehouse, state: &str) -> Result<(), EngineError> {
        let mut tried = 1;
        loop {
            let epoch = self.ledger.begin_load(warehouse.id).await?;
            let loading = Warehouse { epoch, ..*warehouse };
            match self.try_load(drop, &loading, state).await {
                Err(error) if error.is_fenced() && tried < LOAD_TRIES => {
                    let marks = self.ledger.warehouse_marks(drop.id).await?;
                    let newest = marks.get(usize::from(warehouse.number.0)).map(|(epoch, _)| *epoch);
                    if newest != Some(epoch) {
                        // Not a restart of the server: somebody began a newer load, which will do.
                        return Ok(());
                    }
                    tried += 1;
                }
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
        self.settle_leftovers(drop, warehouse, &store).await?;
        let Some(contents) = self.ledger.warehouse_contents(drop, warehouse.id, epoch).await? else {
            return Ok(());
        };
        let variants = (0..drop.variants.len()).map(|position| variant_load(&contents, position)).collect::<Vec<_>>();
        let holders = holders(&contents);
        let chunks = store.load(&replid, contents.last_grant, drop.buyer_limit, &variants, &holders).await?;
        if self.ledger.is_proof_marked(drop.id).await? {
            // Units that were granted but not yet applied come in with this load: no refusal may overlap them.
            tokio::time::sleep(FREED_UNITS_WAIT).await;
        }
        store.open(&replid, chunks, state).await?;
        self.ledger.finish_load(warehouse.id, epoch).await?;
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
            let claims = entries.into_iter().flat_map(|entry| {
                entry.claims.into_iter().map(move |logged| ClaimToSettle {
                    claim: logged.claim,
                    serials: logged.serials,
                    warehouse: *warehouse,
                    epoch: entry.epoch,
                })
            });
            let claims = claims.collect::<Vec<_>>();
            let settlement = self.ledger.settle(drop, &claims, Settling::Rebuild, self.clock.now()).await?;
            if !settlement.stale.is_empty() {
                return Ok(());
            }
            store.settled(last, crate::tokens::store::StreamId::ZERO).await?;
        }
    }
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
