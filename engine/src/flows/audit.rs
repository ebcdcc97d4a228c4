//! The audit: every unit is in exactly one place, by identity and not by count.
//!
//! One reading is Redis, then one snapshot of Postgres, then Redis again. Equal `seq` of every variant in every warehouse
//! before and after means that no unit moved around the snapshot, so all of it is one instant. While buyers are busy that may not
//! happen in a few tries: then the audit says that it was not quiet, and finds nothing, rather than accuse falsely. The same
//! goes for a warehouse that is being loaded, or waits for it behind its fence: what it holds is not what it will hold.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use serde::Serialize;

use crate::domain::drops::{DropState, SaleDrop};
use crate::domain::ids::{BuyerId, ClaimId, DropName, IntentId, OrderId, Serial, WarehouseId};
use crate::domain::line::bundle::{Wrong, verify};
use crate::domain::line::rounds::inversions;
use crate::domain::orders::OrderState;
use crate::domain::payments::PaymentState;
use crate::domain::progress::Progress;
use crate::ledger::audit::{DropFacts, Orphan, ShelfFacts};
use crate::provider::{Intent, IntentStatus, ProviderClient, ProviderError};
use crate::tokens::TokenError;
use crate::tokens::store::Dump;

use super::engine::{Engine, EngineError};

/// Readings tried before a drop counts as not quiet.
const READINGS: u32 = 10;
const BETWEEN_READINGS: Duration = Duration::from_millis(200);
/// Tries of one page of the provider's list: some twenty seconds, if each is refused at once.
const PAGE_TRIES: u32 = 8;
const PAGE_PAUSE: Duration = Duration::from_millis(200);
const PAGE_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Redis, Postgres, Redis again, and comparing them.
const READINGS_OF_DROP: u64 = 4;

/// How far all of them are.
struct Readings<'a> {
    progress: &'a Progress,
    done: u64,
    all: u64,
}

impl Readings<'_> {
    /// Of the drop that is read now. A drop that is not quiet begins again.
    fn are_at(&self, reading: u64) {
        self.progress.tell("readings of drops", self.done + reading, Some(self.all));
    }

    fn of_a_drop_are_done(&mut self) {
        self.done += READINGS_OF_DROP;
        self.are_at(0);
    }
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct AuditReport {
    pub drops: Vec<DropAudit>,
    /// Ordinary stock; all of one instant, however busy.
    pub stock: StockAudit,
    pub violations: Vec<Violation>,
    /// Captured charges of orders of ours at the provider, if it was asked.
    pub captures: Option<usize>,
    /// Captured charges there that name no order of ours: somebody else's on the same account.
    pub strangers: usize,
}

/// What there is of ordinary stock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StockAudit {
    /// A SKU in one place each.
    pub shelves: usize,
    pub available: i64,
    pub reserved: i64,
}

/// Where the units of a drop are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DropAudit {
    pub drop: String,
    /// The stores stood still for one reading. Otherwise the other figures are from different instants.
    pub is_quiet: bool,
    pub stock: usize,
    pub free: usize,
    pub moving: usize,
    /// Came back, and will be on sale in a moment.
    pub resting: usize,
    pub claimed: usize,
    /// Held by claims that settlement had to set aside; see `doorbuster settlement show`.
    pub poisoned: usize,
    pub reserved: usize,
    pub sold: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Stable name of the broken invariant.
    pub rule: &'static str,
    /// Of ordinary stock, the code of its place; of a row without its parent, the table.
    pub drop: String,
    pub detail: String,
}

impl AuditReport {
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.drops.iter().all(|drop| drop.is_quiet)
    }
}

/// A place in which a unit can be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Free(WarehouseId),
    Leaving(WarehouseId),
    Granted(WarehouseId),
    /// It came back, and Postgres has not granted it anew.
    Resting,
    Claimed(ClaimId),
    Poisoned(ClaimId),
    /// On its way to a standby buyer: his home has refused it, and Postgres has not granted it anew.
    Awarded(ClaimId),
    Order(OrderId),
}

impl Engine {
    /// Audits every drop that was ever opened, and ordinary stock; with a provider, its captures too.
    pub async fn audit(&self, provider: Option<&ProviderClient>) -> Result<AuditReport, EngineError> {
        let mut report = AuditReport::default();
        let mut orders = HashMap::new();
        let drops = self.ledger.loaded_drops().await?;
        let mut readings =
            Readings { progress: &self.ledger.progress, done: 0, all: READINGS_OF_DROP * drops.len() as u64 };
        for drop in drops {
            let (audit, facts) = match self.audit_drop(&drop, &mut report.violations, &readings).await {
                // The others are audited all the same.
                Err(EngineError::Tokens(error)) if error.is_about_the_keys() => {
                    let detail = format!("its warehouses cannot be read: {error}");
                    report.violations.push(Violation { rule: "drop_unreadable", drop: drop.name.to_string(), detail });
                    self.unread_drop(&drop).await?
                }
                audited => audited?,
            };
            readings.of_a_drop_are_done();
            report.drops.push(audit);
            orders.extend(facts.orders.into_iter().map(|(id, order)| (id, (drop.name.clone(), order))));
        }
        report.stock = check_shelves(&self.ledger.shelf_facts().await?, &mut report.violations);
        for key in self.ledger.keys_used_twice().await? {
            let detail = format!("two calls to the provider have the key {key}");
            let drop = "payment_attempts".to_owned();
            report.violations.push(Violation { rule: "key_used_twice", drop, detail });
        }
        for Orphan { table, row, parent } in self.ledger.orphans().await? {
            let detail = format!("a row names {row} of {parent}, which is not there");
            report.violations.push(Violation { rule: "parent_missing", drop: table.to_owned(), detail });
        }
        if let Some(provider) = provider {
            let mut intents = all_intents(provider).await?;
            look_up_unlisted(provider, orders.values().map(|(_, order)| order), &mut intents).await?;
            let captured = intents.iter().filter(|intent| intent.status == IntentStatus::Succeeded).collect::<Vec<_>>();
            // Of drops that are archived, or orders of carts: not audited here, and not strange either.
            let named = captured.iter().filter_map(|intent| intent.order_named()).collect::<Vec<_>>();
            let existing = self.ledger.existing_orders(&named).await?;
            report.strangers = check_captures(&orders, &existing, &captured, &mut report.violations);
            report.captures = Some(captured.len() - report.strangers);
        }
        metrics::gauge!("doorbuster_audit_violations").set(report.violations.len() as f64);
        Ok(report)
    }

    async fn audit_drop(
        &self,
        drop: &SaleDrop,
        violations: &mut Vec<Violation>,
        readings: &Readings<'_>,
    ) -> Result<(DropAudit, DropFacts), EngineError> {
        for _ in 0..READINGS {
            // Anew each time: a load has changed the epochs, an opening the state.
            let Some(drop) = self.ledger.drop_by_id(drop.id).await? else { break };
            readings.are_at(0);
            let before = self.dump_all(&drop).await?;
            readings.are_at(1);
            let facts = self.ledger.drop_facts(&drop).await?;
            readings.are_at(2);
            let after = self.dump_all(&drop).await?;
            readings.are_at(3);
            // A grant without units changes no variant, so its number counts too.
            let of = |dump: &Dump| (dump.epoch, dump.granted, dump.seq.clone());
            let marks = |dumps: &[Option<Dump>]| dumps.iter().map(|dump| dump.as_ref().map(of)).collect::<Vec<_>>();
            if marks(&before) == marks(&after) && !self.is_being_loaded(&drop, &before).await? {
                let mut checks = Checks {
                    drop: &drop,
                    violations,
                    places: HashMap::new(),
                    lost: HashSet::new(),
                    audit: DropAudit::default(),
                };
                // The reading before: the settlement mark moves without `seq`, and what lay behind it then is in the facts.
                let audit = checks.run(&facts, &before);
                self.audit_line(&drop, violations).await?;
                return Ok((audit, facts));
            }
            tokio::time::sleep(BETWEEN_READINGS).await;
        }
        self.unread_drop(drop).await
    }

    /// A line: what its rows say of each other, and all that was drawn and given, decided again from what is published.
    async fn audit_line(&self, drop: &SaleDrop, violations: &mut Vec<Violation>) -> Result<(), EngineError> {
        if !drop.admission.has_line() {
            return Ok(());
        }
        let mut violation = |rule, detail| violations.push(Violation { rule, drop: drop.name.to_string(), detail });
        for (rule, detail) in self.ledger.line_faults(drop.id).await? {
            violation("line_differs", format!("{rule}: {detail}"));
        }
        let Ok(bundle) = self.line_bundle(&drop.name).await? else { return Ok(()) };
        match verify(&bundle, None) {
            // Its last round is not over.
            Err(Wrong::RoundCut(round)) if bundle.chunks.last().is_some_and(|chunk| chunk.round == round) => {}
            Err(wrong) => violation("draw_differs", wrong.to_string()),
            Ok(proven) => {
                for inversion in inversions(&proven.wishes, &proven.rounds) {
                    violation("passed_by_a_later_rank", format!("{inversion:?}"));
                }
            }
        }
        Ok(())
    }

    /// What Postgres alone tells of a drop.
    async fn unread_drop(&self, drop: &SaleDrop) -> Result<(DropAudit, DropFacts), EngineError> {
        let facts = self.ledger.drop_facts(drop).await?;
        let stock = facts.tokens.len();
        Ok((DropAudit { drop: drop.name.to_string(), stock, ..DropAudit::default() }, facts))
    }

    /// Whether what was read of some warehouse is no whole: somebody loads it, or it is fenced and waits for that. Asked after
    /// the last reading: an epoch and a fence that hold now have held since the first.
    async fn is_being_loaded(&self, drop: &SaleDrop, dumps: &[Option<Dump>]) -> Result<bool, EngineError> {
        let loading = self.ledger.loading_warehouses(drop.id).await?;
        let stores = drop.warehouses.iter().map(|warehouse| self.tokens.warehouse(drop, warehouse)).collect::<Vec<_>>();
        let looks = join_all(stores.iter().map(|store| store.look())).await;
        for ((warehouse, dump), look) in drop.warehouses.iter().zip(dumps).zip(looks) {
            match (dump, look) {
                (Some(dump), Ok(_)) if dump.epoch == warehouse.epoch && dump.state != "loading" => {}
                // Lost, unless an opening has not come to this one yet or a load has just begun. Postgres alone would not do:
                // a loader that dies after the last step leaves its word there, beside a warehouse that sells.
                (None, Err(TokenError::NotLoaded))
                    if drop.state != DropState::Opening && !loading.contains(&warehouse.id) => {}
                (_, Err(error)) if !matches!(error, TokenError::NotLoaded | TokenError::Fenced) => {
                    return Err(error.into());
                }
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    async fn dump_all(&self, drop: &SaleDrop) -> Result<Vec<Option<Dump>>, EngineError> {
        let stores = drop.warehouses.iter().map(|warehouse| self.tokens.warehouse(drop, warehouse));
        let dumps = stores.map(|store| async move {
            match store.dump().await {
                // Only just fenced, for its first load.
                Err(TokenError::Fenced) => Ok(None),
                other => other,
            }
        });
        Ok(try_join_all(dumps).await?)
    }
}

fn check_shelves(shelves: &[ShelfFacts], violations: &mut Vec<Violation>) -> StockAudit {
    let mut audit = StockAudit { shelves: shelves.len(), ..StockAudit::default() };
    for shelf in shelves {
        audit.available += shelf.available;
        audit.reserved += shelf.reserved;
        let mut violation = |rule, detail| violations.push(Violation { rule, drop: shelf.warehouse.clone(), detail });
        if shelf.available != shelf.available_by_history {
            let (sku, there, expected) = (&shelf.sku, shelf.available, shelf.available_by_history);
            violation("stock_differs", format!("{there} units of {sku} are there, and by its history {expected}"));
        }
        if shelf.reserved != shelf.reserved_by_orders {
            let (sku, there, expected) = (&shelf.sku, shelf.reserved, shelf.reserved_by_orders);
            violation("reserved_differs", format!("{there} units of {sku} are reserved, and orders hold {expected}"));
        }
    }
    audit
}

struct Checks<'a> {
    drop: &'a SaleDrop,
    violations: &'a mut Vec<Violation>,
    places: HashMap<Serial, Vec<Place>>,
    /// What their units are is not known, so none of them is called lost.
    lost: HashSet<WarehouseId>,
    audit: DropAudit,
}

impl Checks<'_> {
    fn violation(&mut self, rule: &'static str, detail: String) {
        self.violations.push(Violation { rule, drop: self.drop.name.to_string(), detail });
    }

    fn put(&mut self, serials: &[Serial], place: &Place) {
        for serial in serials {
            self.places.entry(*serial).or_default().push(place.clone());
        }
        match place {
            Place::Free(_) => self.audit.free += serials.len(),
            Place::Leaving(_) | Place::Granted(_) | Place::Awarded(_) => self.audit.moving += serials.len(),
            Place::Resting => self.audit.resting += serials.len(),
            Place::Claimed(_) => self.audit.claimed += serials.len(),
            Place::Poisoned(_) => self.audit.poisoned += serials.len(),
            Place::Order(_) => {}
        }
    }

    fn run(&mut self, facts: &DropFacts, dumps: &[Option<Dump>]) -> DropAudit {
        let rejected = facts.rejected_claims.iter().copied().collect::<HashSet<_>>();
        let mut held: HashMap<BuyerId, u32> = HashMap::new();
        for (warehouse, dump) in self.drop.warehouses.clone().iter().zip(dumps) {
            match dump {
                Some(dump) => self.place_warehouse(warehouse.id, dump, facts, &rejected, &mut held),
                None if self.drop.in_warehouses().is_some() => {
                    let number = warehouse.number.0;
                    let detail =
                        format!("warehouse {number} is not in Redis, or some of it is lost; it is rebuilt soon");
                    self.violation("warehouse_not_loaded", detail);
                    self.lost.insert(warehouse.id);
                }
                None => {}
            }
        }
        for token in &facts.tokens {
            // Redis knows nothing of the drop: what nobody holds is free in Postgres.
            if !self.drop.was_loaded() && token.is_free() {
                self.put(&[token.serial], &Place::Free(token.warehouse));
            }
            if let Some(order) = token.holder {
                self.put(&[token.serial], &Place::Order(order));
            }
            if let Some(claim) = token.poisoned {
                self.put(&[token.serial], &Place::Poisoned(claim));
            }
            if token.is_resting {
                self.put(&[token.serial], &Place::Resting);
            }
        }
        for (buyer, serials) in facts.poisoned_claims.values() {
            *held.entry(buyer.clone()).or_default() += serials.len() as u32;
        }
        self.check_poisoned(facts);
        self.check_awards(facts);
        self.check_places(facts);
        self.check_orders(facts, &mut held);
        for (buyer, units) in held.iter().filter(|(_, units)| **units > self.drop.buyer_limit) {
            let limit = self.drop.buyer_limit;
            self.violation("over_limit", format!("buyer {buyer} holds {units} units; the limit is {limit}"));
        }
        self.check_inventory(facts);
        self.check_grants(facts);
        self.count(facts)
    }

    fn place_warehouse(
        &mut self,
        warehouse: WarehouseId,
        dump: &Dump,
        facts: &DropFacts,
        rejected: &HashSet<OrderId>,
        held: &mut HashMap<BuyerId, u32>,
    ) {
        for (_, serials) in &dump.free {
            self.put(serials, &Place::Free(warehouse));
        }
        for leaving in &dump.leaving {
            // Once granted, the destination's grant is the place, and `out` only waits to be cleared.
            let granted = |serial: &&Serial| {
                facts.tokens.iter().any(|token| token.serial == **serial && token.warehouse == warehouse)
            };
            let here = leaving.serials.iter().filter(granted).copied().collect::<Vec<_>>();
            self.put(&here, &Place::Leaving(warehouse));
        }
        for grant in facts.grants.iter().filter(|grant| grant.warehouse == warehouse && grant.number > dump.granted) {
            self.put(&grant.serials, &Place::Granted(warehouse));
        }
        let unsettled = dump.log.iter().filter(|entry| entry.id > dump.settled).flat_map(|entry| &entry.claims);
        let unsettled = unsettled.map(|logged| logged.claim.id).collect::<HashSet<_>>();
        for (buyer, claims) in &dump.buyers {
            for claim in claims {
                let Some(serials) = &claim.serials else { continue };
                let order = claim.id.order_id();
                let is_set_aside = facts.poisoned_claims.contains_key(&claim.id);
                if facts.orders.contains_key(&order) || rejected.contains(&order) || is_set_aside {
                    continue;
                }
                *held.entry(buyer.clone()).or_default() += claim.quantity.units();
                self.put(serials, &Place::Claimed(claim.id));
                if !unsettled.contains(&claim.id) {
                    self.violation("claim_without_log_entry", format!("claim {} will never be settled", claim.id));
                }
            }
        }
    }

    /// A claim that waits set aside holds its units, and nothing else is marked as held by one.
    fn check_poisoned(&mut self, facts: &DropFacts) {
        let mut named = facts
            .poisoned_claims
            .iter()
            .flat_map(|(claim, (_, serials))| serials.iter().map(move |serial| (*serial, *claim)))
            .collect::<HashSet<_>>();
        for token in &facts.tokens {
            let Some(claim) = token.poisoned else { continue };
            if !named.remove(&(token.serial, claim)) {
                let detail = format!("unit {} is held for claim {claim}, which is not set aside", token.serial.0);
                self.violation("poison_differs", detail);
            }
        }
        for (serial, claim) in named {
            let detail = format!("claim {claim} is set aside and does not hold its unit {}", serial.0);
            self.violation("poison_differs", detail);
        }
    }

    /// A unit that was awarded is granted, claimed by its buyer, or refused and waits to be granted anew: never free, never on
    /// its way elsewhere. And every award has all its units.
    fn check_awards(&mut self, facts: &DropFacts) {
        let mut units: HashMap<ClaimId, u32> = HashMap::new();
        for token in &facts.tokens {
            if let Some(claim) = token.awarded.or(token.poisoned) {
                *units.entry(claim).or_default() += 1;
            }
            let Some(claim) = token.awarded else { continue };
            match self.places.get(&token.serial).map_or(&[][..], Vec::as_slice) {
                [] => self.put(&[token.serial], &Place::Awarded(claim)),
                [Place::Granted(_)] => {}
                [Place::Claimed(its)] if *its == claim => {}
                others => {
                    let detail = format!("unit {} is awarded to claim {claim} and is in {others:?}", token.serial.0);
                    self.violation("award_differs", detail);
                }
            }
            if !facts.awards.contains_key(&claim) {
                let detail = format!("unit {} is kept for the award {claim}, which is none", token.serial.0);
                self.violation("award_differs", detail);
            }
        }
        for (claim, quantity) in &facts.awards {
            let has = units.get(claim).copied().unwrap_or_default();
            if has != *quantity {
                self.violation("award_differs", format!("award {claim} of {quantity} units has {has}"));
            }
        }
    }

    fn check_places(&mut self, facts: &DropFacts) {
        for token in &facts.tokens {
            let places = self.places.remove(&token.serial).unwrap_or_default();
            match places.as_slice() {
                [] if self.lost.contains(&token.warehouse) => {}
                [] => self.violation("unit_lost", format!("unit {} is nowhere", token.serial.0)),
                [Place::Free(warehouse) | Place::Granted(warehouse)] if *warehouse != token.warehouse => self
                    .violation(
                        "unit_in_wrong_warehouse",
                        format!(
                            "unit {} belongs to warehouse {} and lies in {}",
                            token.serial.0, token.warehouse.0, warehouse.0
                        ),
                    ),
                [_] => {}
                several => {
                    let detail = format!("unit {} is in {} places: {several:?}", token.serial.0, several.len());
                    self.violation("unit_twice", detail);
                }
            }
        }
        let strange = self.places.drain().collect::<Vec<_>>();
        for (serial, places) in strange {
            self.violation("unit_unknown", format!("unit {} does not exist and is in {places:?}", serial.0));
        }
    }

    fn check_orders(&mut self, facts: &DropFacts, held: &mut HashMap<BuyerId, u32>) {
        let mut owners: HashMap<Serial, OrderId> = HashMap::new();
        let holders = facts.tokens.iter().map(|token| (token.serial, token.holder)).collect::<HashMap<_, _>>();
        for (id, order) in &facts.orders {
            let units = order.serials.len() as u32;
            let holdings = facts.holdings.get(id).copied().unwrap_or_default();
            if order.status.is_live() {
                *held.entry(order.buyer.clone()).or_default() += units;
                // What came back to be sold again is another buyer's now, or nobody's.
                for serial in order.serials.iter().filter(|serial| !order.restocked.contains(serial)) {
                    if let Some(other) = owners.insert(*serial, *id) {
                        self.violation(
                            "unit_sold_twice",
                            format!("unit {} is in the orders {other} and {id}", serial.0),
                        );
                    }
                    if holders.get(serial).copied().flatten() != Some(*id) {
                        self.violation("unit_not_held", format!("order {id} does not hold its unit {}", serial.0));
                    }
                }
            }
            for serial in order.restocked.iter().filter(|serial| holders.get(*serial).copied().flatten() == Some(*id)) {
                self.violation("returned_unit_held", format!("order {id} holds unit {}, which came back", serial.0));
            }
            // Also of what came back: he has had his units, so they count against his limit.
            let expected = if order.status.is_live() { units } else { 0 };
            if holdings != expected {
                self.violation("holdings_differ", format!("order {id} has {holdings} holdings, not {expected}"));
            }
            let is_paid = order.payment.was_paid();
            // An order that ended may keep no money: it is on its way back, or has gone.
            let fits = match order.status.is_sold() {
                true => is_paid,
                false => !matches!(order.payment, PaymentState::Succeeded | PaymentState::PartiallyRefunded),
            };
            if !fits || (order.status == OrderState::PendingPayment && is_paid) {
                let detail =
                    format!("order {id} is {} and its payment {}", order.status.as_str(), order.payment.as_str());
                self.violation("payment_differs", detail);
            }
            let due = if is_paid { order.total.amount_minor - order.refunded_minor } else { 0 };
            if order.booked_minor != due {
                self.violation("journal_differs", format!("order {id}: {} booked, {due} due", order.booked_minor));
            }
        }
        for token in &facts.tokens {
            let Some(holder) = token.holder else { continue };
            if !facts.orders.get(&holder).is_some_and(|order| order.status.is_live()) {
                self.violation("unit_held_by_dead_order", format!("unit {} is held by order {holder}", token.serial.0));
            }
        }
    }

    /// The two-column rule, from the token rows: available is what was not sold, reserved is what unpaid orders hold.
    fn check_inventory(&mut self, facts: &DropFacts) {
        let mut expected: HashMap<_, (i64, i64)> = HashMap::new();
        for token in &facts.tokens {
            let columns = expected.entry((token.variant, token.warehouse)).or_default();
            let status = token.holder.and_then(|holder| facts.orders.get(&holder)).map(|order| order.status);
            columns.0 += i64::from(!status.is_some_and(OrderState::is_sold));
            columns.1 += i64::from(status == Some(OrderState::PendingPayment));
        }
        for row in &facts.inventory {
            let (available, reserved) = expected.remove(&(row.variant, row.warehouse)).unwrap_or_default();
            if (row.available, row.reserved) != (available, reserved) {
                let detail = format!(
                    "variant {} in warehouse {}: inventory says {} available and {} reserved, the units say {available} and {reserved}",
                    row.variant.0, row.warehouse.0, row.available, row.reserved
                );
                self.violation("inventory_differs", detail);
            }
        }
        for ((variant, warehouse), _) in expected {
            let detail = format!("variant {} in warehouse {} has units and no inventory row", variant.0, warehouse.0);
            self.violation("inventory_differs", detail);
        }
    }

    fn check_grants(&mut self, facts: &DropFacts) {
        for (warehouse, last) in self.drop.warehouses.clone().iter().zip(&facts.last_grants) {
            let numbers =
                facts.grants.iter().filter(|grant| grant.warehouse == warehouse.id).map(|grant| grant.number.0);
            if !numbers.eq(1..=last.0) {
                let detail = format!("the grants of warehouse {} are not numbered 1 to {}", warehouse.number.0, last.0);
                self.violation("grants_have_gaps", detail);
            }
        }
    }

    fn count(&self, facts: &DropFacts) -> DropAudit {
        let status = |token: &&crate::ledger::audit::TokenFact| {
            token.holder.and_then(|holder| facts.orders.get(&holder)).map(|order| order.status)
        };
        let sold = facts.tokens.iter().filter(|token| status(token).is_some_and(OrderState::is_sold)).count();
        let reserved = facts.tokens.iter().filter(|token| status(token) == Some(OrderState::PendingPayment)).count();
        DropAudit {
            drop: self.drop.name.to_string(),
            is_quiet: true,
            stock: facts.tokens.len(),
            reserved,
            sold,
            ..self.audit.clone()
        }
    }
}

async fn all_intents(provider: &ProviderClient) -> Result<Vec<Intent>, EngineError> {
    const PAGE: u32 = 100;
    let mut intents: Vec<Intent> = Vec::new();
    loop {
        let after = intents.last().map(|intent| intent.id.clone());
        let page = until_it_answers(async || provider.list_intents(after.as_ref(), PAGE).await).await?;
        intents.extend(page.data);
        if !page.has_more {
            return Ok(intents);
        }
    }
}

/// The provider's list may be seconds behind: what a paid order names and the list does not show is read by its id.
async fn look_up_unlisted(
    provider: &ProviderClient,
    orders: impl Iterator<Item = &crate::ledger::audit::OrderFact>,
    intents: &mut Vec<Intent>,
) -> Result<(), EngineError> {
    let captured = intents.iter().filter(|intent| intent.status == IntentStatus::Succeeded);
    let captured = captured.map(|intent| intent.id.clone()).collect::<HashSet<_>>();
    let paid = orders.filter(|order| order.payment.was_paid() && order.total.amount_minor > 0);
    let unlisted = paid.filter_map(|order| order.intent.as_ref()).filter(|intent| !captured.contains(*intent));
    for id in unlisted {
        let read = until_it_answers(async || match provider.read_intent(id).await {
            Err(ProviderError::NotFound) => Ok(None),
            read => read.map(Some),
        });
        if let Some(intent) = read.await? {
            intents.retain(|other| other.id != intent.id);
            intents.push(intent);
        }
    }
    Ok(())
}

/// Asks until an answer comes: an audit of thousands of charges must not begin anew for one that was lost.
async fn until_it_answers<T>(ask: impl AsyncFn() -> Result<T, ProviderError>) -> Result<T, EngineError> {
    let mut pause = PAGE_PAUSE;
    let mut tries = 1;
    loop {
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if tries == PAGE_TRIES || !error.is_retryable() {
            return Err(EngineError::Provider(error.to_string()));
        }
        let asked = match &error {
            ProviderError::RateLimited { retry_after } => retry_after.unwrap_or_default().min(PAGE_PAUSE_MAX),
            _ => Duration::ZERO,
        };
        tokio::time::sleep(asked.max(pause)).await;
        (pause, tries) = ((pause * 2).min(PAGE_PAUSE_MAX), tries + 1);
    }
}

/// At most one captured charge an order; every capture has its sold order, every sold order its capture. Answers how
/// many captures are nobody's here.
fn check_captures(
    orders: &HashMap<OrderId, (DropName, crate::ledger::audit::OrderFact)>,
    existing: &HashSet<OrderId>,
    captured: &[&Intent],
    violations: &mut Vec<Violation>,
) -> usize {
    let mut strangers = 0;
    let mut by_order: HashMap<OrderId, Vec<&Intent>> = HashMap::new();
    for intent in captured.iter().copied() {
        match intent.order_named().filter(|order| existing.contains(order)) {
            Some(order) => by_order.entry(order).or_default().push(intent),
            None => strangers += 1,
        }
    }
    for (id, (drop, order)) in orders {
        let found = by_order.get(id).map_or(&[][..], Vec::as_slice);
        let mut violation = |rule, detail| violations.push(Violation { rule, drop: drop.to_string(), detail });
        if found.len() > 1 {
            violation("captured_twice", format!("order {id} was captured {} times", found.len()));
        }
        let stored: Option<&IntentId> = order.intent.as_ref();
        let ours = found.iter().any(|intent| Some(&intent.id) == stored && intent.amount_received == order.total);
        // What costs nothing is not captured.
        if order.payment.was_paid() && order.total.amount_minor > 0 && !ours {
            violation("paid_without_capture", format!("order {id} is paid and the provider has no such capture"));
        }
        if order.payment == PaymentState::ManualReview && !found.is_empty() {
            violation("captured_in_review", format!("order {id} waits for a person and was captured"));
        }
        // While a charge is under way its capture may be there before our row says so.
        let is_over = matches!(order.payment, PaymentState::Failed | PaymentState::Canceled | PaymentState::Required);
        if is_over && !found.is_empty() {
            violation("captured_without_sale", format!("order {id} is {} and was captured", order.status.as_str()));
        }
    }
    strangers
}
