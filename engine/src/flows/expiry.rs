//! Expiry: orders end whose buyers gave no payment method, gave no other card, or did not act, in time.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::domain::ids::{DropId, OrderId};
use crate::ledger::LedgerError;

use super::engine::{Engine, EngineError};

impl Engine {
    /// Ends orders whose buyers were too late, those of one drop together. Answers how many it has ended.
    pub async fn expire_unpaid(&self, limit: i64) -> Result<usize, EngineError> {
        let now = self.clock.now();
        let mut of_drops: BTreeMap<Option<DropId>, Vec<OrderId>> = BTreeMap::new();
        for (drop, order) in self.ledger.unpaid_past_due(now, limit).await? {
            of_drops.entry(drop).or_default().push(order);
        }
        let mut ended = 0;
        for orders in of_drops.values() {
            match self.ledger.expire_unpaid(orders, now).await {
                Ok(count) => ended += count,
                // One of them keeps no other.
                Err(error) if orders.len() > 1 && error.is_about_the_rows() => {
                    ended += self.expire_each(orders, now).await
                }
                Err(error) => could_not_end(orders, &error),
            }
        }
        Ok(ended)
    }

    async fn expire_each(&self, orders: &[OrderId], now: Timestamp) -> usize {
        let mut ended = 0;
        for order in orders {
            match self.ledger.expire_unpaid(&[*order], now).await {
                Ok(count) => ended += count,
                Err(error) => could_not_end(&[*order], &error),
            }
        }
        ended
    }
}

fn could_not_end(orders: &[OrderId], error: &LedgerError) {
    for order in orders {
        tracing::warn!(%order, %error, "order {order} could not be ended yet: {error}");
    }
}
