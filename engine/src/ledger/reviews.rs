//! Payments that wait for a person, and the ways out that he has. Each leaves his name and reason in the order's history.

use deadpool_postgres::Transaction;
use jiff::Timestamp;

use super::error::LedgerError;
use super::locked_order::{
    LockedOrder, UnitsWere, cancel, confirm, lock_order, lock_payment, lock_warehouses_of, money, move_payment, release,
};
use super::pool::Ledger;
use super::tx::run_tx;
use crate::domain::ids::{DropName, OrderId};
use crate::domain::money::Money;
use crate::domain::orders::OrderState;
use crate::domain::payments::PaymentEvent;

/// A payment that waits for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Review {
    pub order: OrderId,
    pub intent: Option<String>,
    pub amount: Money,
    pub reason: String,
    pub since: Timestamp,
}

/// Which payments that wait for a person are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReviewsOf {
    All,
    Drop(DropName),
    /// Those whose reason has this text in it.
    Reason(String),
}

/// How a person ends a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Workers read the intent back and settle what the provider says now.
    AskAgain,
    /// Workers have the provider cancel the intent; with its word the order ends.
    Cancel,
    /// He has seen the money: the order is paid.
    Paid,
    /// He has seen that there is none and will be none: the order ends now.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReviewResolved {
    Now,
    NoSuchOrder,
    /// Its payment waits for nobody.
    NotInReview,
    /// There is nothing at the provider to cancel.
    NoIntent,
    /// The order has ended meanwhile, so its money can only go back by hand.
    OrderOver(OrderState),
}

impl Ledger {
    /// Payments that wait for a person, those that wait longest first.
    pub async fn reviews(&self, of: &ReviewsOf, limit: i64) -> Result<Vec<Review>, LedgerError> {
        const SQL: &str = "-- reviews.list
            select order_id, intent_id, amount_minor, currency, coalesce(failure, ''), updated_at from payments p
            where state = 'MANUAL_REVIEW'
                  and ($2::text is null or exists (select 1 from orders o join drops d using (drop_id)
                                                   where o.order_id = p.order_id and d.name = $2))
                  and ($3::text is null or position(lower($3) in lower(coalesce(failure, ''))) > 0)
            order by updated_at, order_id limit $1";
        let (drop, reason) = match of {
            ReviewsOf::All => (None, None),
            ReviewsOf::Drop(name) => (Some(name.as_str()), None),
            ReviewsOf::Reason(text) => (None, Some(text.as_str())),
        };
        let rows = self.connection().await?.query(SQL, &[&limit, &drop, &reason]).await?;
        let review = |row: &tokio_postgres::Row| {
            let order = row.get(0);
            Ok(Review {
                order: OrderId(order),
                intent: row.get(1),
                amount: money(row.get(2), row.get(3), order)?,
                reason: row.get(4),
                since: row.get(5),
            })
        };
        rows.iter().map(review).collect()
    }

    /// Ends a review as a person says. `why` is his name and his reason.
    pub async fn resolve_review(
        &self,
        order: OrderId,
        resolution: Resolution,
        why: (&str, &str),
        now: Timestamp,
    ) -> Result<ReviewResolved, LedgerError> {
        run_tx!(self, "reviews.resolve", tx, {
            const FOUND: &str = "-- reviews.found\nselect 1 from orders where order_id = $1";
            if tx.query_opt(FOUND, &[&order.0]).await?.is_none() {
                return Ok(ReviewResolved::NoSuchOrder);
            }
            lock_warehouses_of(tx, order).await?;
            let found = lock_order(tx, order).await?;
            let payment = lock_payment(tx, order).await?;
            let event = match resolution {
                Resolution::AskAgain => PaymentEvent::Reopened,
                Resolution::Cancel => PaymentEvent::ReviewCancel,
                Resolution::Paid => PaymentEvent::ReviewPaid,
                Resolution::Failed => PaymentEvent::ReviewFailed,
            };
            let Ok(to) = payment.state.apply(event) else { return Ok(ReviewResolved::NotInReview) };
            if resolution == Resolution::Cancel && payment.intent.is_none() {
                return Ok(ReviewResolved::NoIntent);
            }
            if found.status != OrderState::PendingPayment {
                return Ok(ReviewResolved::OrderOver(found.status));
            }
            let due_at = matches!(resolution, Resolution::AskAgain | Resolution::Cancel).then_some(now);
            move_payment(tx, order, &payment, to, Some(why.1), None, due_at, now).await?;
            note(tx, &found, why, now).await?;
            match (resolution, &found.cancel_asked) {
                (Resolution::AskAgain | Resolution::Cancel, _) => {}
                (Resolution::Paid, _) => confirm(tx, &[&found], now).await?,
                (Resolution::Failed, Some((by, reason))) => {
                    cancel(tx, &found, UnitsWere::Reserved, false, (by, reason), now).await?;
                }
                (Resolution::Failed, None) => release(tx, &[&found], why.1, "reviewed", now).await?,
            }
            Ok(ReviewResolved::Now)
        })
    }
}

/// Who looked, and what he said; the order itself stays where it is.
async fn note(
    tx: &Transaction<'_>,
    order: &LockedOrder,
    (actor, reason): (&str, &str),
    now: Timestamp,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- reviews.note
        insert into order_history (order_id, at, from_state, to_state, actor, reason) values ($1, $2, $3, $3, $4, $5)";
    let reason = format!("review: {reason}");
    tx.execute(SQL, &[&order.id.0, /* now */ &now, &order.status.as_str(), &actor, &reason]).await?;
    Ok(())
}
