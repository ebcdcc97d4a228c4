//! Carts that were ordered.
//!
//! One buyer's checkouts are placed one after the other: [`Ledger::place_checkout`] locks the buyer, and places a cart only if
//! everything that this buyer ordered before had left the cart when it was read. An erasure takes the same lock.
//!
//! [`Ledger::place_checkout`] is the only birth of an order of ordinary goods: the units are reserved and order, payment and
//! checkout written in one transaction. Units of a drop are claimed behind it; who finds out how that ended holds the
//! checkout's lease, and what he found is recorded only if the lease is still his.

use futures_util::join;
use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::drops::inconsistent;
use super::error::{LedgerError, expect_rows};
use super::locked_order::{confirm_free, lock_orders, lock_payment, remove};
use super::outbox;
use super::poison::told;
use super::pool::Ledger;
use super::profiles::{CheckoutProfile, LOCK_BUYER};
use super::reservations::{Demand, Portion, Reserved, Shortage as ShortOf, reserve};
use super::tx::run_tx;
use crate::domain::carts::CartVersion;
use crate::domain::checkout::{Goods, Quote, Source};
use crate::domain::claims::{Claim, Quantity};
use crate::domain::ids::{
    BuyerId, CheckoutId, DropId, IdempotencyKey, OrderId, PaymentMethodId, VariantId, VariantNumber,
};
use crate::domain::money::Money;
use crate::domain::notices::Notice;
use crate::domain::orders::OrderState;
use crate::domain::payments::PaymentState;
use crate::domain::turns::{Turn, Work, may_order, may_reserve};

pub use super::reservations::Shortage;

/// A cart to be ordered.
#[derive(Debug, Clone)]
pub struct NewCheckout<'a> {
    pub id: CheckoutId,
    /// The order of the goods, if there will be one.
    pub order: OrderId,
    pub buyer: &'a BuyerId,
    pub key: &'a IdempotencyKey,
    /// Of what was asked under the key.
    pub digest: &'a [u8],
    pub cart_version: CartVersion,
    /// From before the cart was read.
    pub taken: Taken,
    pub quote: &'a Quote,
    pub profile: &'a CheckoutProfile,
    /// Until when the goods are kept for a payment that does not come.
    pub pay_by: Timestamp,
    /// Orders of goods that this buyer may have without having paid them, this one among them.
    pub unpaid_max: u32,
    /// Units that these may hold together.
    pub unpaid_units_max: u32,
}

/// A checkout as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout {
    pub id: CheckoutId,
    pub buyer: BuyerId,
    pub digest: Vec<u8>,
    /// What leaves the cart.
    pub lines: Vec<(VariantId, u32)>,
    pub total: Money,
    /// The order of what lies on shelves.
    pub order: Option<OrderId>,
    /// The units of a drop.
    pub claim: Option<CheckoutClaim>,
    /// Nothing is left to do.
    pub is_over: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckoutClaim {
    pub drop: DropId,
    pub claim: Claim,
    pub state: ClaimState,
}

/// What is known of a checkout's claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimState {
    Pending,
    Taken,
    Refused,
}

impl ClaimState {
    const ALL: [Self; 3] = [Self::Pending, Self::Taken, Self::Refused];

    fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Taken => "TAKEN",
            Self::Refused => "REFUSED",
        }
    }
}

/// How many checkouts of a buyer had left the cart at some moment. A cart that was read afterwards has none of their units, and
/// one that is placed while this is still the number of all of the buyer's checkouts orders nothing twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken(i64);

/// How placing a checkout ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    Now(Checkout),
    /// The key was used before.
    KeyKnown(Checkout),
    /// This very cart was ordered before, under another key.
    CartKnown(Checkout),
    /// Nothing was reserved: these are short.
    Short(Vec<ShortOf>),
    /// Nothing was reserved: the buyer has as many unpaid orders of goods as they may have.
    TooManyOpen,
    /// Nothing was reserved: the buyer's unpaid orders of goods would hold more units than they may.
    TooManyUnitsOpen,
    /// Nothing was done; it may be tried again at once.
    Changed,
    /// Nothing was done: the cart, or the profile, must be read again. It may still have had what another checkout has ordered.
    Outdated,
}

/// Who finds out how a claim ends: recorded with this number, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimLease(i64);

impl Ledger {
    /// Reserves the goods of a cart and orders them, all or nothing. `optimism`: see [`super::reservations`].
    pub async fn place_checkout(
        &self,
        new: &NewCheckout<'_>,
        optimism: bool,
        now: Timestamp,
    ) -> Result<Placed, LedgerError> {
        run_tx!(self, "checkouts.place", tx, keep if Placed::Now(_), {
            // First: a second request waits here for the first one, and then sees what it has done instead of its shortage.
            let before = lock_buyer_and_compare(tx, new).await?;
            if !insert(tx, new, now).await? {
                let known = format!("{SELECT} where c.buyer = $1 and c.claim_state is distinct from 'REFUSED'
                    and (c.key = $2 or c.cart_version = $3) order by c.key = $2 desc limit 1");
                let version = cart_version(new.cart_version);
                let arguments: &[&(dyn ToSql + Sync)] = &[&new.buyer.as_str(), &new.key.as_str(), &version];
                // Refused in between: then the next try begins anew.
                let Some(row) = tx.query_opt(&known, arguments).await? else { return Ok(Placed::Changed) };
                let is_key = row.get::<_, &str>(13) == new.key.as_str();
                let checkout = checkout(&row)?;
                return Ok(if is_key { Placed::KeyKnown(checkout) } else { Placed::CartKnown(checkout) });
            }
            if !before.is_current {
                return Ok(Placed::Outdated);
            }
            if let Some(goods) = &new.quote.goods {
                if !may_order(before.unpaid, new.unpaid_max) {
                    return Ok(Placed::TooManyOpen);
                }
                let more = demands(goods).iter().map(|demand| demand.units.unsigned_abs()).sum();
                if !may_reserve(before.unpaid_units, more, new.unpaid_units_max) {
                    return Ok(Placed::TooManyUnitsOpen);
                }
                let turn = Turn::of(Work::ChargeOfGoods { unpaid_before: before.unpaid });
                match reserve(tx, &demands(goods), optimism).await? {
                    Reserved::All(portions) => write_order(tx, new, goods, &portions, turn, now).await?,
                    Reserved::Short(short) => return Ok(Placed::Short(short)),
                    Reserved::Changed => return Ok(Placed::Changed),
                }
            }
            let made = format!("{SELECT} where c.checkout_id = $1");
            Ok(Placed::Now(checkout(&tx.query_one(&tx.prepare_cached(&made).await?, &[&new.id.0]).await?)?))
        })
    }

    pub async fn checkout(&self, id: CheckoutId) -> Result<Option<Checkout>, LedgerError> {
        Ok(self.checkouts_where("c.checkout_id = $1", &[&id.0]).await?.pop())
    }

    /// What this buyer ordered under this key.
    pub async fn checkout_by_key(
        &self,
        buyer: &BuyerId,
        key: &IdempotencyKey,
    ) -> Result<Option<Checkout>, LedgerError> {
        let condition = "c.buyer = $1 and c.key = $2 and c.claim_state is distinct from 'REFUSED'";
        Ok(self.checkouts_where(condition, &[&buyer.as_str(), &key.as_str()]).await?.pop())
    }

    /// How many of this buyer's checkouts have left the cart, and whether one has not. To be asked before the cart is read.
    pub async fn checkouts_taken(&self, buyer: &BuyerId) -> Result<(Taken, bool), LedgerError> {
        const SQL: &str = "-- checkouts.taken
            select (select count(*) from checkouts
                    where buyer = $1 and claim_state is distinct from 'REFUSED' and ended_at is not null),
                   exists (select 1 from checkouts where buyer = $1 and ended_at is null)";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let row = connection.query_one(&statement, &[&buyer.as_str()]).await?;
        Ok((Taken(row.get(0)), row.get(1)))
    }

    /// Checkouts of this buyer with something left to do.
    pub async fn unfinished_checkouts_of(&self, buyer: &BuyerId) -> Result<Vec<Checkout>, LedgerError> {
        self.checkouts_where("c.buyer = $1 and c.ended_at is null order by c.created_at", &[&buyer.as_str()]).await
    }

    /// Checkouts from before this instant with something left to do, the oldest first, behind a position.
    pub async fn unfinished_checkouts(
        &self,
        before: Timestamp,
        after: Option<(Timestamp, CheckoutId)>,
        limit: i64,
    ) -> Result<Vec<(Timestamp, Checkout)>, LedgerError> {
        let sql = format!(
            "{SELECT} where c.ended_at is null and c.created_at < $1
               and ($2::timestamptz is null or (c.created_at, c.checkout_id) > ($2, $3))
             order by c.created_at, c.checkout_id limit $4"
        );
        let (at, id) = after.unzip();
        let arguments: &[&(dyn ToSql + Sync)] =
            &[/* before */ &before, /* after */ &at, &id.map(|id| id.0), /* limit */ &limit];
        let rows = self.connection().await?.query(&sql, arguments).await?;
        rows.iter().map(|row| Ok((row.get(14), checkout(row)?))).collect()
    }

    /// Orders that were made of claims which their checkouts have since been told to do without: refused to the one who held
    /// the lease, and taken by one who had lost it.
    pub async fn unwanted_claims(&self, since: Timestamp) -> Result<Vec<OrderId>, LedgerError> {
        const SQL: &str = "-- checkouts.unwanted_claims
            select o.order_id from checkouts c join orders o on o.order_id = c.claim_id
            where c.claim_state = 'REFUSED' and c.created_at > $1 and o.cancel_asked_by is null and o.status = any($2)";
        let live = OrderState::ALL.into_iter().filter(|state| state.is_live() && !state.has_shipped());
        let live = live.map(OrderState::as_str).collect::<Vec<_>>();
        let rows = self.connection().await?.query(SQL, &[/* since */ &since, &live]).await?;
        Ok(rows.iter().map(|row| OrderId(row.get(0))).collect())
    }

    /// The right to find out how a checkout's claim ends. `None`: somebody else has it, or it has been found out.
    pub async fn lease_claim(
        &self,
        id: CheckoutId,
        lease: SignedDuration,
        now: Timestamp,
    ) -> Result<Option<ClaimLease>, LedgerError> {
        const SQL: &str = "-- checkouts.lease_claim
            update checkouts set lease_number = lease_number + 1, leased_until = $3
            where checkout_id = $1 and claim_state = 'PENDING' and (leased_until is null or leased_until <= $2)
            returning lease_number";
        let until = now.checked_add(lease).unwrap_or(Timestamp::MAX);
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let row = connection.query_opt(&statement, &[&id.0, /* now */ &now, /* until */ &until]).await?;
        Ok(row.map(|row| ClaimLease(row.get(0))))
    }

    /// Lets somebody else find out at once.
    pub async fn give_back_claim(&self, id: CheckoutId, lease: ClaimLease) -> Result<(), LedgerError> {
        const SQL: &str = "-- checkouts.give_back_claim
            update checkouts set leased_until = null where checkout_id = $1 and lease_number = $2";
        self.connection().await?.execute(SQL, &[&id.0, &lease.0]).await?;
        Ok(())
    }

    /// Records how a claim ended. `false`: the lease had passed to somebody else, and it is his word that counts.
    pub async fn end_claim(&self, id: CheckoutId, lease: ClaimLease, end: ClaimState) -> Result<bool, LedgerError> {
        const SQL: &str = "-- checkouts.end_claim
            update checkouts set claim_state = $3, leased_until = null
            where checkout_id = $1 and lease_number = $2 and claim_state = 'PENDING'";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        Ok(connection.execute(&statement, &[&id.0, &lease.0, &end.as_str()]).await? == 1)
    }

    /// Takes back the order of the goods of a checkout whose claim was refused: the units are free, and no row, event or mail
    /// tells that there was one. `false`: somebody has dealt with the order meanwhile, so it stays.
    pub async fn undo_order(&self, id: CheckoutId, order: OrderId) -> Result<bool, LedgerError> {
        const UNTOUCHED: &str = "-- checkouts.untouched
            select 1 from orders o join payments p using (order_id)
            where order_id = $1 and p.method_key is null and p.intent_id is null and o.cancel_asked_by is null
                  and not exists (select 1 from payment_attempts where order_id = $1)";
        const LEAVE: &str = "-- checkouts.leave_order
            update checkouts set order_id = null where checkout_id = $1 and claim_state = 'REFUSED'";
        run_tx!(self, "checkouts.undo_order", tx, {
            let Some(found) = lock_orders(tx, &[order.0]).await?.pop() else { return Ok(true) };
            let payment = lock_payment(tx, order).await?;
            let is_untouched = tx.query_opt(UNTOUCHED, &[&order.0]).await?.is_some();
            let is_waiting = (found.status, payment.state) == (OrderState::PendingPayment, PaymentState::Required);
            if !is_untouched || !is_waiting {
                return Ok(false);
            }
            expect_rows("checkouts.leave_order", 1, tx.execute(LEAVE, &[&id.0]).await?)?;
            remove(tx, &found).await?;
            Ok(true)
        })
    }

    /// Checkouts that were refused are kept for as long as a claim of theirs may come too late, and no longer.
    pub async fn forget_refused(&self, before: Timestamp) -> Result<u64, LedgerError> {
        const SQL: &str = "-- checkouts.forget_refused
            delete from checkouts where checkout_id in (
                select checkout_id from checkouts
                where claim_state = 'REFUSED' and ended_at is not null and order_id is null and created_at <= $1
                order by created_at limit 1000)";
        let connection = self.connection().await?;
        Ok(connection.execute(&connection.prepare_cached(SQL).await?, &[/* before */ &before]).await?)
    }

    /// Nothing is left to do for a checkout. One that is not there was over, and its buyer has been erased.
    pub async fn end_checkout(&self, id: CheckoutId, now: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- checkouts.end
            update checkouts set ended_at = coalesce(ended_at, $2)
            where checkout_id = $1 and claim_state is distinct from 'PENDING'";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let changed = connection.execute(&statement, &[&id.0, /* now */ &now]).await?;
        if changed == 0 && self.checkout(id).await?.is_none() {
            return Ok(());
        }
        expect_rows("checkouts.end", 1, changed)
    }

    async fn checkouts_where(
        &self,
        condition: &str,
        arguments: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Checkout>, LedgerError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(&format!("{SELECT} where {condition}")).await?;
        connection.query(&statement, arguments).await?.iter().map(checkout).collect()
    }
}

const SELECT: &str = "-- checkouts.select
    select c.checkout_id, c.buyer, c.digest, c.variants, c.quantities, c.currency, c.total_minor, c.order_id, c.claim_id,
           c.drop_id, c.claim_variant, c.claim_units, c.claim_state, c.key, c.created_at, c.ended_at is not null,
           c.claim_country, c.claim_total_minor
    from checkouts c";

fn checkout(row: &Row) -> Result<Checkout, LedgerError> {
    let id = CheckoutId(row.get(0));
    let wrong = |column, value: &str| inconsistent("checkouts", column, id, value);
    let (buyer, currency): (&str, &str) = (row.get(1), row.get(5));
    let buyer: BuyerId = buyer.parse().map_err(|_| wrong("buyer", buyer))?;
    let currency = currency.parse().map_err(|_| wrong("currency", currency))?;
    let lines = row.get::<_, Vec<i32>>(3).into_iter().map(VariantId).zip(row.get::<_, Vec<i32>>(4));
    let claim = match (row.get::<_, Option<Uuid>>(8), row.get::<_, Option<i32>>(9), row.get::<_, Option<&str>>(12)) {
        (Some(claim), Some(drop), Some(state)) => {
            let units: i16 = row.get(11);
            let claim = Claim {
                id: crate::domain::ids::ClaimId(claim),
                buyer: buyer.clone(),
                variant: VariantNumber(row.get::<_, i16>(10) as u8),
                quantity: Quantity::new(units.into()).map_err(|_| wrong("claim_units", &units.to_string()))?,
                told: told(row.get(16), row.get(17)).ok_or_else(|| wrong("claim_country", "no country"))?,
            };
            let known = ClaimState::ALL.into_iter().find(|known| known.as_str() == state);
            let state = known.ok_or_else(|| wrong("claim_state", state))?;
            Some(CheckoutClaim { drop: DropId(drop), claim, state })
        }
        _ => None,
    };
    Ok(Checkout {
        id,
        buyer,
        digest: row.get(2),
        lines: lines.map(|(variant, units)| (variant, units.cast_unsigned())).collect(),
        total: Money::new(row.get(6), currency),
        order: row.get::<_, Option<Uuid>>(7).map(OrderId),
        claim,
        is_over: row.get(15),
    })
}

/// What the buyer's lock showed.
struct Before {
    /// What was read before is still so: no other checkout has taken units from the cart since, and the profile is
    /// there as it was.
    is_current: bool,
    /// The buyer's orders of goods that are not paid.
    unpaid: u32,
    /// The units that these hold.
    unpaid_units: u64,
}

/// Makes this buyer's checkouts, and an erasure, wait for each other; then compares what was read before, and counts.
async fn lock_buyer_and_compare(
    tx: &deadpool_postgres::Transaction<'_>,
    new: &NewCheckout<'_>,
) -> Result<Before, LedgerError> {
    const SQL: &str = "-- checkouts.compare
        select (select count(*) from checkouts where buyer = $1 and claim_state is distinct from 'REFUSED') = $2,
               exists (select 1 from checkout_profiles
                       where buyer = $1 and payment_method = $3 and email = $4 and ship_to = $5),
               (select count(*) from orders where buyer = $1 and status = 'PENDING_PAYMENT' and drop_id is null),
               (select coalesce(sum(i.quantity), 0) from orders o join order_items i using (order_id)
                where o.buyer = $1 and o.status = 'PENDING_PAYMENT' and o.drop_id is null)";
    // Both first: what is prepared on the way would be sent behind the other's words.
    let (lock, compare) = (tx.prepare_cached(LOCK_BUYER).await?, tx.prepare_cached(SQL).await?);
    let (buyer, profile) = (new.buyer.as_str(), new.profile);
    let method = profile.method_column();
    let arguments: [&(dyn ToSql + Sync); 5] =
        [&buyer, /* taken */ &new.taken.0, &method, &profile.email, &profile.ship_to];
    // Sent one behind the other: the second sees what was committed when the first had the lock.
    let lock_arguments: [&(dyn ToSql + Sync); 1] = [&buyer];
    let (locked, row) = join!(tx.query(&lock, &lock_arguments), tx.query_one(&compare, &arguments));
    locked?;
    let row = row?;
    let unpaid = u32::try_from(row.get::<_, i64>(2)).unwrap_or(u32::MAX);
    let unpaid_units = row.get::<_, i64>(3).unsigned_abs();
    Ok(Before { is_current: row.get::<_, bool>(0) && row.get::<_, bool>(1), unpaid, unpaid_units })
}

/// The row of a checkout. `false`: the key or the cart has one already.
async fn insert(
    tx: &deadpool_postgres::Transaction<'_>,
    new: &NewCheckout<'_>,
    now: Timestamp,
) -> Result<bool, LedgerError> {
    const SQL: &str = "-- checkouts.insert
        insert into checkouts (checkout_id, buyer, key, digest, cart_version, variants, quantities, currency, total_minor, order_id,
                               claim_id, drop_id, claim_variant, claim_units, claim_state, created_at, claim_country,
                               claim_total_minor)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
        on conflict do nothing";
    let quote = new.quote;
    let (variants, quantities): (Vec<_>, Vec<_>) =
        quote.lines().map(|line| (line.sale.variant_id.0, line.quantity.cast_signed())).unzip();
    let claim = quote.drop_line.as_ref().map(|line| (claim_of(new.id, new.buyer, line), line));
    let told = claim.as_ref().and_then(|(claim, _)| claim.told);
    let arguments: &[&(dyn ToSql + Sync)] = &[
        &new.id.0,
        &new.buyer.as_str(),
        &new.key.as_str(),
        &new.digest,
        &cart_version(new.cart_version),
        &variants,
        &quantities,
        &quote.total.currency.as_str(),
        &quote.total.amount_minor,
        /* order */ &quote.goods.as_ref().map(|_| new.order.0),
        /* claim */ &claim.as_ref().map(|(claim, _)| claim.id.0),
        /* drop */ &claim.as_ref().map(|(_, line)| line.offer.drop.0),
        /* variant */ &claim.as_ref().map(|(claim, _)| i16::from(claim.variant.0)),
        /* units */ &claim.as_ref().map(|(claim, _)| i16::from(claim.quantity.as_byte())),
        /* state */ &claim.as_ref().map(|_| ClaimState::Pending.as_str()),
        /* now */ &now,
        /* country */ &told.as_ref().map(|told| told.country.as_str()),
        /* total */ &told.map(|told| told.total_minor),
    ];
    Ok(tx.execute(&tx.prepare_cached(SQL).await?, arguments).await? == 1)
}

/// The claim of a checkout: its id is made of the checkout's, so that every try of it is the same claim.
fn claim_of(id: CheckoutId, buyer: &BuyerId, line: &crate::domain::checkout::DropLine) -> Claim {
    let key = format!("checkout-{id}").parse().expect("a word and a UUID are an idempotency key");
    let claim = Claim::new(line.offer.drop, buyer.clone(), &key, line.offer.number, line.units);
    // What the buyer has agreed to, whatever their address is by the time that the claim is settled.
    claim.told(line.to, line.totals.total)
}

fn demands(goods: &Goods) -> Vec<Demand> {
    let demand = |line: &crate::domain::checkout::Line| match line.sale.from {
        Source::Shelves(way) => {
            Some(Demand { product: line.sale.product, variant: line.sale.variant_id, units: line.quantity.into(), way })
        }
        Source::Drop(_) | Source::Nothing => None,
    };
    goods.lines.iter().filter_map(demand).collect()
}

async fn write_order(
    tx: &deadpool_postgres::Transaction<'_>,
    new: &NewCheckout<'_>,
    goods: &Goods,
    portions: &[Vec<Portion>],
    turn: Turn,
    now: Timestamp,
) -> Result<(), LedgerError> {
    const ORDER: &str = "-- checkouts.insert_order
        insert into orders (order_id, buyer, status, currency, subtotal_minor, tax_minor, shipping_minor, total_minor, email, ship_to,
                            pay_by, created_at, updated_at, tax_basis_points, shipping_tax_basis_points)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12, $13, $14)";
    const ITEMS: &str = "-- checkouts.insert_items
        insert into order_items (order_id, line, product_id, variant_id, warehouse_id, quantity, unit_price_minor)
        select $1, line, product_id, variant_id, warehouse_id, quantity, unit_price
        from unnest($2::int[], $3::int[], $4::int[], $5::int[], $6::bigint[]) with ordinality
             as i (product_id, variant_id, warehouse_id, quantity, unit_price, line)";
    const PAYMENT: &str = "-- checkouts.insert_payment
        insert into payments (order_id, state, amount_minor, currency, idempotency_key, payment_method, due_at,
                              updated_at, turn)
        values ($1, $2, $3, $4, 'order-' || $1::uuid, $5, $6, $7, $8)";
    const HISTORY: &str = "-- checkouts.history
        insert into order_history (order_id, at, from_state, to_state, actor, reason)
        values ($1, $2, null, $3, 'checkout', 'the cart was ordered')";
    let (pending, totals, currency) =
        (OrderState::PendingPayment.as_str(), goods.totals, goods.totals.total.currency.as_str());
    let arguments: &[&(dyn ToSql + Sync)] = &[
        &new.order.0,
        &new.buyer.as_str(),
        &pending,
        &currency,
        &totals.subtotal.amount_minor,
        &totals.tax.amount_minor,
        &totals.shipping.amount_minor,
        &totals.total.amount_minor,
        &new.profile.email,
        &new.profile.ship_to,
        /* pay_by */ &new.pay_by,
        /* now */ &now,
        &goods.tax_basis_points.cast_signed(),
        &goods.shipping_tax_basis_points.cast_signed(),
    ];
    tx.execute(&tx.prepare_cached(ORDER).await?, arguments).await?;
    let items = goods.lines.iter().zip(portions).flat_map(|(line, portions)| portions.iter().map(move |p| (line, p)));
    let items = items.collect::<Vec<_>>();
    let products = items.iter().map(|(line, _)| line.sale.product).collect::<Vec<_>>();
    let variants = items.iter().map(|(line, _)| line.sale.variant_id.0).collect::<Vec<_>>();
    let warehouses = items.iter().map(|(_, portion)| portion.warehouse.0).collect::<Vec<_>>();
    // A line has at most 999 units.
    let quantities = items.iter().map(|(_, portion)| portion.units as i32).collect::<Vec<_>>();
    let prices = items.iter().map(|(line, _)| line.sale.price.amount_minor).collect::<Vec<_>>();
    let arguments: &[&(dyn ToSql + Sync)] = &[&new.order.0, &products, &variants, &warehouses, &quantities, &prices];
    tx.execute(&tx.prepare_cached(ITEMS).await?, arguments).await?;
    // Nobody is charged before the units of the drop are his.
    let is_waiting = new.quote.drop_line.is_some();
    let is_free = !is_waiting && totals.total.amount_minor == 0;
    // Nor without a card.
    let method = new.profile.payment_method.as_ref().filter(|_| !is_waiting && !is_free).map(PaymentMethodId::as_str);
    let state = match (is_free, method) {
        (true, _) => PaymentState::Succeeded,
        (false, Some(_)) => PaymentState::InFlight,
        (false, None) => PaymentState::Required,
    };
    let state = state.as_str();
    let due_at = method.map(|_| now);
    let arguments: &[&(dyn ToSql + Sync)] = &[
        &new.order.0,
        &state,
        &totals.total.amount_minor,
        &currency,
        &method,
        /* due_at */ &due_at,
        /* now */ &now,
        &turn.number(),
    ];
    tx.execute(&tx.prepare_cached(PAYMENT).await?, arguments).await?;
    tx.execute(&tx.prepare_cached(HISTORY).await?, &[&new.order.0, /* now */ &now, &pending]).await?;
    // Nor is anybody told of an order that the drop may undo.
    if !is_waiting {
        outbox::enqueue(tx, new.order, &Notice::OrderCreated, now).await?;
    }
    if is_free { confirm_free(tx, &[new.order.0], now).await } else { Ok(()) }
}

fn cart_version(version: CartVersion) -> i64 {
    // Made of milliseconds since 1970: far below.
    i64::try_from(version.0).unwrap_or(i64::MAX)
}
