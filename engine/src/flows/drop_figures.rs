//! How drops stand: a list of them, and of one the units by variant, its orders and its money. Read only; while a
//! store is away, what only that one knows is unknown.

use std::collections::HashMap;

use futures_util::future::join_all;
use jiff::Timestamp;

use super::engine::{Engine, EngineError};
use crate::domain::drops::{DropState, SaleDrop};
use crate::domain::figures::{VariantFigures, variant_figures};
use crate::domain::ids::DropName;
use crate::domain::orders::OrderState;
use crate::ledger::drop_figures::DropLine;
use crate::ledger::finance::AccountSum;

/// Drops read at once: a list is for eyes.
pub const DROPS_AT_ONCE: u16 = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropPage {
    /// The newest first.
    pub drops: Vec<DropLine>,
    /// Others follow behind the last one.
    pub has_more: bool,
}

/// One drop's units at an instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropFigures {
    pub drop: SaleDrop,
    pub at: Timestamp,
    pub variants: Vec<VariantFigures>,
    /// Why some warehouses could not be read, once each; the units that are left are unknown then.
    pub unread: Vec<String>,
}

/// What a drop's orders are and brought in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropAccount {
    pub orders: HashMap<OrderState, u64>,
    pub accounts: Vec<AccountSum>,
}

impl Engine {
    /// A page of drops, of these states or of any, behind the drop `after`. `None`: there is no drop of that name.
    pub async fn list_drops(
        &self,
        states: &[DropState],
        after: Option<&DropName>,
        limit: u16,
    ) -> Result<Option<DropPage>, EngineError> {
        let before = match after {
            None => None,
            Some(name) => match self.ledger.drop_id(name).await? {
                Some(id) => Some(id),
                None => return Ok(None),
            },
        };
        let limit = usize::from(limit.clamp(1, DROPS_AT_ONCE));
        let mut drops = self.ledger.list_drops(states, before, limit as i64 + 1).await?;
        let has_more = drops.len() > limit;
        drops.truncate(limit);
        Ok(Some(DropPage { drops, has_more }))
    }

    /// The units of a drop, by variant. One look at each warehouse, and a row of Postgres for each variant and
    /// warehouse: it costs the same however many units there are, so it may be asked every second. `None`: there is
    /// no such drop.
    pub async fn drop_figures(&self, name: &DropName) -> Result<Option<DropFigures>, EngineError> {
        let Some(drop) = self.ledger.drop_by_name(name).await? else { return Ok(None) };
        let mut free = vec![0; drop.variants.len()];
        let mut unread = Vec::new();
        if drop.was_loaded() && drop.state != DropState::Archived {
            let stores = drop.warehouses.iter().map(|warehouse| self.tokens.warehouse(&drop, warehouse));
            let stores = stores.collect::<Vec<_>>();
            for look in join_all(stores.iter().map(|store| store.look())).await {
                match look {
                    Ok(view) => free.iter_mut().zip(view.free).for_each(|(sum, units)| *sum += u64::from(units)),
                    Err(error) => unread.push(error.to_string()),
                }
            }
            unread.sort();
            unread.dedup();
        }
        let shelves = self.ledger.shelf_counts(&drop).await?;
        let variants = variant_figures(&drop, &shelves, unread.is_empty().then_some(free.as_slice()));
        Ok(Some(DropFigures { drop, at: self.clock.now(), variants, unread }))
    }

    /// The orders of a drop and what they brought in and gave back, by account. Goes through all of its orders.
    pub async fn drop_account(&self, drop: &SaleDrop) -> Result<DropAccount, EngineError> {
        let orders = self.ledger.order_counts(drop.id).await?;
        let accounts = self.ledger.account_sums_of_drop(drop.id).await?;
        Ok(DropAccount { orders, accounts })
    }
}
