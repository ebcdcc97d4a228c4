//! Checkout: from a cart to an order that asks for its money.
//!
//! What lies on shelves is reserved and ordered in one Postgres transaction. If the cart has units of a drop too, the order of the
//! goods asks for no money yet; then the drop is asked, like for any claim. Taken: the goods are charged, and settlement
//! makes an order of the claim. Refused: the order of the goods is taken back, and nothing was sold. Whoever dies in between leaves a row of
//! `checkouts` that says how far it had come, and [`Engine::finish_checkouts`] goes on from there.
//!
//! Only what was ordered leaves the cart, behind everything else: a cart that was not told is told later. So that nothing is
//! ordered twice, whatever is added meanwhile, one buyer's checkouts run one after the other: one finishes what the last ones
//! left, counts the checkouts whose units have left the cart, then reads the cart, and is placed only if there are no others by
//! then. docs/CHECKOUT.md goes through the ways in which it may be interrupted.

use std::time::Duration;

use jiff::SignedDuration;
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::domain::carts::{Cart, CartOwner, CartVersion};
use crate::domain::checkout::{NoQuote, PriceChange, Quote};
use crate::domain::claims::ClaimOutcome;
use crate::domain::ids::{BuyerId, CheckoutId, IdempotencyKey, OrderId};
use crate::domain::money::Money;
use crate::domain::notices::Notice;
use crate::ledger::checkouts::{Checkout, CheckoutClaim, ClaimState, NewCheckout, Placed, Shortage};
use crate::ledger::profiles::CheckoutProfile;
use crate::steps;

use super::acknowledge::Acknowledged;
use super::engine::{Engine, EngineError};

/// How long goods are kept for a payment that waits for the drop or for the buyer's bank.
const UNPAID: SignedDuration = SignedDuration::from_mins(30);
/// Orders of goods that one buyer may have unpaid at the same time. A charge takes seconds, so an honest buyer has one
/// or two; ten leave room for an evening on which the payment provider is away.
pub const UNPAID_ORDERS_MAX: u32 = 10;
/// Units that these orders may hold together: ten times ten, so that nobody takes a shelf by not paying.
pub const UNPAID_UNITS_MAX: u32 = 100;
/// Tries before what is taken optimistically is locked instead.
const OPTIMISTIC_TRIES: u32 = 8;
/// The longest pause before the second try; it grows with each.
const JITTER: Duration = Duration::from_millis(4);
/// Readings of a cart while other checkouts of its buyer are under way. Each one that is in vain means that another one was placed,
/// or waits for a drop: two seconds of the pauses below, on average.
const CART_TRIES: u32 = 20;
/// The longest pause before the cart is read again; it grows with each.
const CART_JITTER: Duration = Duration::from_millis(20);
/// A little longer than a claim looks for units elsewhere.
const CLAIM_LEASE: SignedDuration = SignedDuration::from_secs(10);
/// Younger checkouts are still being made by whoever was asked.
const FINISH_AFTER: SignedDuration = SignedDuration::from_secs(2);
/// How long one who had lost his lease may come too late with a claim.
const UNWANTED: SignedDuration = SignedDuration::from_hours(24);
const PAGE: i64 = 100;

/// What a buyer asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckoutAsked {
    pub key: IdempotencyKey,
    /// The cart that he has seen; without it, whatever is in it.
    pub cart_version: Option<CartVersion>,
    /// The total that he has seen, and pays: then changed prices are no surprise.
    pub accepted_total: Option<Money>,
}

/// What a cart would cost.
#[derive(Debug, Clone, PartialEq)]
pub struct CartQuote {
    pub cart: Cart,
    pub quote: Quote,
    pub profile: CheckoutProfile,
}

/// How a checkout ended.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckedOut {
    Now(Checkout),
    /// With the same key, earlier.
    Before(Checkout),
    /// Nothing was sold.
    Refused(CheckoutRefused),
}

/// Why nothing was sold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckoutRefused {
    KeyReused,
    CartEmpty,
    /// The cart is not the one that was seen.
    CartChanged {
        version: CartVersion,
    },
    /// It was ordered before, under another key.
    CartOrdered(Box<Checkout>),
    NoProfile,
    NoQuote(NoQuote),
    /// Prices, or the total, are not what the buyer has seen.
    PriceChanged {
        changes: Vec<PriceChange>,
        total: Money,
    },
    OutOfStock(Vec<Shortage>),
    /// The buyer has so many unpaid orders of goods, and may have no more.
    TooManyOpen {
        limit: u32,
    },
    /// The buyer's unpaid orders of goods would hold more units than they may.
    TooManyUnitsOpen {
        limit: u32,
    },
    /// What the drop said.
    Claim(ClaimOutcome),
    /// The drop is not there any more, or could not make an order of the claim.
    ClaimFailed,
}

/// How far a checkout has come, and what stands in its way if it cannot go on.
enum Followed {
    Made(Checkout),
    Refused(CheckoutRefused),
}

impl Engine {
    /// Orders what is in a buyer's cart, once for each key.
    ///
    /// `Err` means that we could not find out: the same request may be made again. A checkout that was placed is `Now` or `Before`
    /// even while the drop has not answered; then its claim is [`ClaimState::Pending`], and workers see to it.
    pub async fn checkout(&self, buyer: &BuyerId, asked: &CheckoutAsked) -> Result<CheckedOut, EngineError> {
        let digest = digest(asked);
        if let Some(known) = self.ledger.checkout_by_key(buyer, &asked.key).await? {
            return self.again(known, &digest).await;
        }
        let mut tried = 1;
        loop {
            match self.order_cart(buyer, asked, &digest).await? {
                Some(ended) => return Ok(ended),
                None if tried == CART_TRIES => return Err(EngineError::Moving),
                // Another checkout of this buyer was faster.
                None => {
                    pause(CART_JITTER * tried).await;
                    tried += 1;
                }
            }
        }
    }

    /// Reads the cart once and orders it. `None`: another checkout has, or may have, units of the cart that was read.
    async fn order_cart(
        &self,
        buyer: &BuyerId,
        asked: &CheckoutAsked,
        digest: &[u8],
    ) -> Result<Option<CheckedOut>, EngineError> {
        // Until the cart has lost what this buyer ordered last, it would be ordered again.
        let (mut taken, is_unfinished) = self.ledger.checkouts_taken(buyer).await?;
        if is_unfinished {
            for unfinished in self.ledger.unfinished_checkouts_of(buyer).await? {
                self.follow(unfinished).await?;
            }
            (taken, _) = self.ledger.checkouts_taken(buyer).await?;
        }
        let priced = match self.quote_cart(buyer).await?.and_then(|priced| priced.agrees_with(asked)) {
            Ok(priced) => priced,
            // The same request, made twice at once, may have emptied the cart in between.
            Err(refused) => match self.ledger.checkout_by_key(buyer, &asked.key).await? {
                Some(known) => return self.again(known, digest).await.map(Some),
                // What is refused may be what the cart has lost by now.
                None if self.ledger.checkouts_taken(buyer).await? != (taken, false) => return Ok(None),
                None => return Ok(Some(CheckedOut::Refused(refused))),
            },
        };
        // What is known to be sold out needs no rows.
        if let Some(line) = &priced.quote.drop_line
            && let Some(live) = self.live_drop(&line.offer.name).await?.filter(|live| live.drop.id == line.offer.drop)
            && let Some(outcome) = self.refused_already(&live, buyer, line.offer.number, line.units)
        {
            return Ok(Some(CheckedOut::Refused(CheckoutRefused::Claim(outcome))));
        }
        let now = self.clock.now();
        let new = NewCheckout {
            id: CheckoutId(Uuid::now_v7()),
            order: OrderId(Uuid::now_v7()),
            buyer,
            key: &asked.key,
            digest,
            cart_version: priced.cart.version,
            taken,
            quote: &priced.quote,
            profile: &priced.profile,
            pay_by: now.checked_add(UNPAID).unwrap_or(jiff::Timestamp::MAX),
            unpaid_max: self.unpaid_orders_max,
            unpaid_units_max: self.unpaid_units_max,
        };
        let ended = match self.place(&new).await? {
            Placed::Now(checkout) => match self.follow_or_leave(checkout).await {
                Followed::Made(checkout) => CheckedOut::Now(checkout),
                Followed::Refused(refused) => CheckedOut::Refused(refused),
            },
            Placed::KeyKnown(known) => self.again(known, digest).await?,
            Placed::CartKnown(known) => CheckedOut::Refused(CheckoutRefused::CartOrdered(Box::new(known))),
            Placed::Short(short) => CheckedOut::Refused(CheckoutRefused::OutOfStock(short)),
            Placed::TooManyOpen => CheckedOut::Refused(CheckoutRefused::TooManyOpen { limit: self.unpaid_orders_max }),
            Placed::TooManyUnitsOpen => {
                CheckedOut::Refused(CheckoutRefused::TooManyUnitsOpen { limit: self.unpaid_units_max })
            }
            Placed::Changed => return Err(EngineError::Moving),
            Placed::Outdated => return Ok(None),
        };
        Ok(Some(ended))
    }

    /// Reserves and orders what was priced, trying again where others were faster. `Changed` only if they were each time.
    pub async fn place(&self, new: &NewCheckout<'_>) -> Result<Placed, EngineError> {
        let mut tried = 1;
        loop {
            match self.ledger.place_checkout(new, tried < OPTIMISTIC_TRIES, self.clock.now()).await? {
                // Without optimism only a checkout that was refused in between can make it change again.
                Placed::Changed if tried < 2 * OPTIMISTIC_TRIES => {
                    metrics::counter!("doorbuster_checkout_conflicts_total").increment(1);
                    pause(JITTER * tried).await;
                    tried += 1;
                }
                placed => {
                    self.payments_written.notify_waiters();
                    return Ok(placed);
                }
            }
        }
    }

    /// What a buyer's cart would cost today, sent to the address of his profile.
    pub async fn quote_cart(&self, buyer: &BuyerId) -> Result<Result<CartQuote, CheckoutRefused>, EngineError> {
        let cart = self.carts.read(&CartOwner::Buyer(buyer.clone())).await?;
        let Some(cart) = cart.filter(|cart| !cart.lines.is_empty()) else {
            return Ok(Err(CheckoutRefused::CartEmpty));
        };
        let Some(profile) = self.ledger.profile_of(buyer).await? else { return Ok(Err(CheckoutRefused::NoProfile)) };
        let variants = cart.lines.iter().map(|line| line.variant_id).collect::<Vec<_>>();
        let sales = self.ledger.for_sale(&variants).await?;
        let country = profile.ship_to.get("country").and_then(serde_json::Value::as_str).unwrap_or_default();
        let first = cart.lines.iter().find_map(|line| sales.get(&line.variant_id));
        let rate = match first {
            Some(sale) => self.ledger.rate_for(country, sale.price.currency).await?,
            None => None,
        };
        match Quote::of(&cart.lines, sales, country.parse().ok(), rate.as_ref()) {
            Ok(quote) => Ok(Ok(CartQuote { cart, quote, profile })),
            Err(no_quote) => Ok(Err(CheckoutRefused::NoQuote(no_quote))),
        }
    }

    /// Goes on with checkouts that were left half-way. Answers how many there were.
    pub async fn finish_checkouts(&self) -> Result<usize, EngineError> {
        let now = self.clock.now();
        let before = now.checked_sub(FINISH_AFTER).unwrap_or(jiff::Timestamp::MIN);
        let (mut after, mut found) = (None, 0);
        loop {
            let page = self.ledger.unfinished_checkouts(before, after, PAGE).await?;
            found += page.len();
            let Some(last) = page.last().map(|(at, checkout)| (*at, checkout.id)) else { break };
            after = Some(last);
            for (_, checkout) in page {
                self.follow_or_leave(checkout).await;
            }
        }
        let since = now.checked_sub(UNWANTED).unwrap_or(jiff::Timestamp::MIN);
        for order in self.ledger.unwanted_claims(since).await? {
            let why = ("checkout", "its checkout had been refused");
            self.ledger.cancel_order(order, None, why, now).await?;
        }
        self.ledger.forget_refused(since).await?;
        Ok(found)
    }

    async fn again(&self, known: Checkout, digest: &[u8]) -> Result<CheckedOut, EngineError> {
        if known.digest != digest {
            return Ok(CheckedOut::Refused(CheckoutRefused::KeyReused));
        }
        Ok(match self.follow_or_leave(known).await {
            Followed::Made(checkout) => CheckedOut::Before(checkout),
            Followed::Refused(refused) => CheckedOut::Refused(refused),
        })
    }

    /// What was placed is placed: what cannot be done for it now is done by the workers.
    async fn follow_or_leave(&self, checkout: Checkout) -> Followed {
        let left = checkout.clone();
        match self.follow(checkout).await {
            Ok(followed) => followed,
            Err(error) => {
                tracing::warn!(checkout = %left.id, %error, "checkout {} is left to the workers: {error}", left.id);
                // The claim may have ended before the error; then this is not what is known by now, and still true.
                Followed::Made(left)
            }
        }
    }

    /// Does what is left to do for a checkout. Safe to repeat, and for two at once.
    async fn follow(&self, mut checkout: Checkout) -> Result<Followed, EngineError> {
        if checkout.is_over {
            return Ok(Followed::Made(checkout));
        }
        let mut refused = CheckoutRefused::ClaimFailed;
        if let Some(claim) = checkout.claim.take_if(|claim| claim.state == ClaimState::Pending) {
            let (state, why) = self.decide(&checkout, &claim).await?;
            refused = why.unwrap_or(refused);
            checkout.claim = Some(CheckoutClaim { state, ..claim });
        }
        let now = self.clock.now();
        match checkout.claim.as_ref().map(|claim| claim.state) {
            // Somebody else is finding out.
            Some(ClaimState::Pending) => return Ok(Followed::Made(checkout)),
            Some(ClaimState::Refused) => {
                if let Some(order) = checkout.order
                    && !self.ledger.undo_order(checkout.id, order).await?
                {
                    let why = ("checkout", "the units of the drop could not be had");
                    self.ledger.cancel_order(order, None, why, now).await?;
                }
                self.ledger.end_checkout(checkout.id, now).await?;
                return Ok(Followed::Refused(refused));
            }
            Some(ClaimState::Taken) => {
                if let Some(order) = checkout.order {
                    self.ledger.enqueue_notice(order, &Notice::OrderCreated, now).await?;
                    let key = format!("checkout-{}", checkout.id).parse();
                    let key = key.expect("a word and a UUID are an idempotency key");
                    self.use_profile(order, &checkout.buyer, &key).await?;
                }
            }
            None => {}
        }
        let owner = CartOwner::Buyer(checkout.buyer.clone());
        self.carts.take_ordered(&owner, checkout.id, &checkout.lines).await?;
        steps::passed("checkout.cart_told");
        self.ledger.end_checkout(checkout.id, now).await?;
        checkout.is_over = true;
        Ok(Followed::Made(checkout))
    }

    /// Asks the drop, unless somebody else is asking; answers what is known then, and what the drop said.
    async fn decide(
        &self,
        checkout: &Checkout,
        claim: &CheckoutClaim,
    ) -> Result<(ClaimState, Option<CheckoutRefused>), EngineError> {
        let id = checkout.id;
        let Some(lease) = self.ledger.lease_claim(id, CLAIM_LEASE, self.clock.now()).await? else {
            return self.known_end(id).await;
        };
        steps::passed("checkout.leased");
        let (end, refused) = match self.ask_drop(checkout, claim).await {
            Ok(Ok(())) => (ClaimState::Taken, None),
            Ok(Err(refused)) => (ClaimState::Refused, Some(refused)),
            Err(error) => {
                self.ledger.give_back_claim(id, lease).await?;
                return Err(error);
            }
        };
        if !self.ledger.end_claim(id, lease, end).await? {
            return self.known_end(id).await;
        }
        steps::passed("checkout.decided");
        Ok((end, refused))
    }

    async fn known_end(&self, id: CheckoutId) -> Result<(ClaimState, Option<CheckoutRefused>), EngineError> {
        let known = self.ledger.checkout(id).await?.and_then(|checkout| checkout.claim);
        Ok((known.map_or(ClaimState::Refused, |claim| claim.state), None))
    }

    /// Makes the checkout's claim. `Err` inside: its units cannot be had.
    async fn ask_drop(
        &self,
        checkout: &Checkout,
        claim: &CheckoutClaim,
    ) -> Result<Result<(), CheckoutRefused>, EngineError> {
        // The buyer, or the time for paying, may have ended the order of the goods.
        if let Some(order) = checkout.order
            && !self
                .ledger
                .order(order)
                .await?
                .is_some_and(|order| order.status.is_live() && !order.is_cancel_requested)
        {
            return Ok(Err(CheckoutRefused::ClaimFailed));
        }
        let Some(drop) = self.ledger.drop_by_id(claim.drop).await? else {
            return Ok(Err(CheckoutRefused::ClaimFailed));
        };
        let live = self.adopt(drop);
        let answered = self.claim(&live, &claim.claim).await?;
        Ok(match (answered.outcome, answered.acknowledged) {
            (ClaimOutcome::Taken { .. } | ClaimOutcome::Replayed { .. }, Acknowledged::Reached(_)) => Ok(()),
            // Taken by this very claim, and over since: its order tells how.
            (ClaimOutcome::Released, _) => Ok(()),
            (ClaimOutcome::Taken { .. } | ClaimOutcome::Replayed { .. }, _) => Err(CheckoutRefused::ClaimFailed),
            (refused, _) => Err(CheckoutRefused::Claim(refused)),
        })
    }
}

impl CartQuote {
    /// Refused, if it is not as the buyer has seen it.
    fn agrees_with(self, asked: &CheckoutAsked) -> Result<Self, CheckoutRefused> {
        if asked.cart_version.is_some_and(|seen| seen != self.cart.version) {
            return Err(CheckoutRefused::CartChanged { version: self.cart.version });
        }
        let changes = self.quote.price_changes();
        let is_accepted = match asked.accepted_total {
            Some(accepted) => accepted == self.quote.total,
            None => changes.is_empty(),
        };
        if is_accepted { Ok(self) } else { Err(CheckoutRefused::PriceChanged { changes, total: self.quote.total }) }
    }
}

/// Lets others go first, for a while of chance.
async fn pause(longest: Duration) {
    let pause = rand::rng().random_range(Duration::ZERO..=longest);
    tokio::time::sleep(pause).await;
}

/// The same key stands for the same request only.
fn digest(asked: &CheckoutAsked) -> Vec<u8> {
    let CheckoutAsked { key: _, cart_version, accepted_total } = asked;
    let text = format!("{:?} {:?}", cart_version.map(|version| version.0), accepted_total);
    Sha256::digest(text).to_vec()
}
