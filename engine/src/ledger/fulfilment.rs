//! What an operator does with a paid order: it is packed, handed to a carrier, delivered. Each step is asked for by order and
//! done once; whether it may be done is decided under the locks of order and payment, so of shipping and cancelling that
//! meet, one wins and the other is told.

use deadpool_postgres::Transaction;
use jiff::Timestamp;

use super::error::{LedgerError, expect_rows};
use super::locked_order::{LockedOrder, LockedPayment, lock_order, lock_payment, move_order};
use super::outbox;
use super::pool::Ledger;
use super::tx::run_tx;
use crate::domain::fulfilment::Tracking;
use crate::domain::ids::OrderId;
use crate::domain::notices::Notice;
use crate::domain::orders::{OrderEvent, OrderState};
use crate::domain::payments::PaymentState;

/// One step of an order on its way to the buyer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FulfilmentStep {
    Process,
    Ship(Tracking),
    Deliver,
}

/// What a step did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fulfilled {
    Now,
    /// The same, earlier.
    Before,
    /// It was shipped otherwise: another carrier or another number.
    ShippedOtherwise(Tracking),
    /// Its state does not lead there.
    WrongState(OrderState),
    /// Somebody wants it cancelled, and that has not come to an end.
    CancelRequested,
    /// Money is on its way back, or all of it went back, or a person looks at it: the goods stay here until that is over.
    NotPaid(PaymentState),
    NoSuchOrder,
}

impl FulfilmentStep {
    fn event(&self) -> OrderEvent {
        match self {
            Self::Process => OrderEvent::Process,
            Self::Ship(_) => OrderEvent::Ship,
            Self::Deliver => OrderEvent::Deliver,
        }
    }

    /// The state that it leads to, and those behind it: who is there has taken the step before.
    fn was_taken(&self, state: OrderState) -> bool {
        match self {
            Self::Process => state == OrderState::Processing || state.has_shipped(),
            Self::Ship(_) => state.has_shipped(),
            Self::Deliver => state == OrderState::Delivered,
        }
    }

    fn notice(&self) -> Notice {
        match self {
            Self::Process => Notice::OrderProcessing,
            Self::Ship(tracking) => Notice::OrderShipped { tracking: tracking.clone() },
            Self::Deliver => Notice::OrderDelivered,
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::Process => "being packed".to_owned(),
            Self::Ship(tracking) => format!("handed over to {}", tracking.carrier),
            Self::Deliver => "delivered".to_owned(),
        }
    }
}

impl Ledger {
    /// Takes an order one step further. `by` is who says so.
    pub async fn fulfil(
        &self,
        order: OrderId,
        step: &FulfilmentStep,
        by: &str,
        now: Timestamp,
    ) -> Result<Fulfilled, LedgerError> {
        run_tx!(self, "fulfilment.fulfil", tx, {
            const FIND: &str = "-- fulfilment.find\nselect 1 from orders where order_id = $1";
            if tx.query_opt(&tx.prepare_cached(FIND).await?, &[&order.0]).await?.is_none() {
                return Ok(Fulfilled::NoSuchOrder);
            }
            let found = lock_order(tx, order).await?;
            let payment = lock_payment(tx, order).await?;
            if let Some(refused) = refuse(tx, &found, &payment, step).await? {
                return Ok(refused);
            }
            move_order(tx, &found, step.event(), (by, &step.reason()), now).await?;
            if let FulfilmentStep::Ship(tracking) = step {
                const SHIPMENT: &str = "-- fulfilment.ship
                    insert into shipments (order_id, carrier, tracking_number, shipped_at) values ($1, $2, $3, $4)";
                let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
                    &[&order.0, &tracking.carrier, &tracking.number, /* now */ &now];
                expect_rows("fulfilment.ship", 1, tx.execute(&tx.prepare_cached(SHIPMENT).await?, arguments).await?)?;
            }
            outbox::enqueue(tx, order, &step.notice(), now).await?;
            Ok(Fulfilled::Now)
        })
    }
}

/// Why this step is not taken now.
async fn refuse(
    tx: &Transaction<'_>,
    order: &LockedOrder,
    payment: &LockedPayment,
    step: &FulfilmentStep,
) -> Result<Option<Fulfilled>, LedgerError> {
    if step.was_taken(order.status) {
        let FulfilmentStep::Ship(asked) = step else { return Ok(Some(Fulfilled::Before)) };
        const SHIPMENT: &str = "-- fulfilment.shipment
            select carrier, tracking_number from shipments where order_id = $1";
        let row = tx.query_one(SHIPMENT, &[&order.id.0]).await?;
        let tracking = Tracking { carrier: row.get(0), number: row.get(1) };
        return Ok(Some(if tracking == *asked { Fulfilled::Before } else { Fulfilled::ShippedOtherwise(tracking) }));
    }
    if order.status.apply(step.event()).is_err() {
        return Ok(Some(Fulfilled::WrongState(order.status)));
    }
    // What is on its way cannot be held back any more.
    if *step == FulfilmentStep::Deliver {
        return Ok(None);
    }
    if order.cancel_asked.is_some() {
        return Ok(Some(Fulfilled::CancelRequested));
    }
    let is_paid = matches!(payment.state, PaymentState::Succeeded | PaymentState::PartiallyRefunded);
    Ok((!is_paid).then_some(Fulfilled::NotPaid(payment.state)))
}
