//! The judge: what the buyers were told, held against what the stores hold. Pure functions, no I/O.
//!
//! It must never accuse falsely, and it believes nobody: units are counted by the serials of orders, refusals are
//! weighed by the buyers' own clock, and money by the provider's captures. Give it facts read after everything is
//! settled, charged and released; a claim that still waits for settlement is a lost one.

mod gone;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::{BuyersLog, Call, CallOutcome};
use gone::Gone;

/// Sentences per kind of finding; the figures count the rest.
const SENTENCES_PER_KIND: usize = 20;

/// What the stores and the payment provider say about one drop.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StoreFacts {
    /// SKU and units put on sale. Serials are 1 to the sum.
    pub stock: Vec<(String, u32)>,
    /// Of these, what was put on sale after the opening: nobody could claim it before it is in `freed`.
    #[serde(default)]
    pub added: Vec<(String, u32)>,
    /// Units one buyer may hold.
    pub limit: u32,
    /// All orders of the drop, also those that ended and those of buyers who are not in the log.
    pub orders: Vec<OrderFact>,
    pub freed: Vec<FreedFact>,
    pub tokens_free: u32,
    /// All captures of the provider, none left out.
    pub captures: Vec<CaptureFact>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OrderFact {
    /// The claim id.
    pub order_id: String,
    pub buyer: String,
    pub sku: String,
    /// PENDING_PAYMENT, CONFIRMED, PROCESSING, SHIPPED, DELIVERED, PAYMENT_FAILED or CANCELLED.
    pub status: String,
    /// What a live order holds. One that ended may have given them up.
    pub serials: Vec<u32>,
    pub total_minor: i64,
    pub currency: String,
}

/// Units that nobody could claim and that came on sale, for whatever reason; those awarded to a waiting buyer never did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FreedFact {
    pub sku: String,
    pub units: u32,
    /// The time from which they were surely free again, on the clock of the log, rounded up.
    pub at_us: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CaptureFact {
    pub order_id: Option<String>,
    pub amount_minor: i64,
    pub currency: String,
}

/// The figures. An order is *live* unless it is PAYMENT_FAILED or CANCELLED, and *sold* from CONFIRMED on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Distinct claim ids that buyers were given.
    pub claims_accepted: u64,
    /// Answers that were stored ones.
    pub replayed_clicks: u64,
    pub sold_out_answers: u64,
    pub not_enough_answers: u64,
    pub orders_confirmed: u64,
    /// Units of sold orders.
    pub units_confirmed: u64,
    pub orders_payment_failed: u64,
    pub orders_cancelled: u64,
    pub orders_pending: u64,
    pub tokens_free: u64,
    /// Units sold or held beyond stock, by identity and by count: for each serial the live orders that hold it beyond
    /// the first, plus for each SKU the units of live orders beyond its stock, plus serials of live orders outside 1 to
    /// stock. One superfluous unit may count more than once.
    pub oversold: u64,
    /// Answers "sold out" and "not enough" that are provably wrong: during the whole call, from sending to answer, what
    /// was asked for was free.
    ///
    /// The proof. A claim takes nothing before the first of its calls that may have taken it was sent, so the units
    /// gone at t are at most those of claims whose call had started by t, less those surely given back by t. If stock
    /// less that number is no less than what was asked, at each t of the call, then no instant of the call justifies
    /// the refusal. Everything unknown counts as gone: see `gone.rs`. So a refusal that overlaps the sell-out, or
    /// somebody's unanswered claim, is not accused; one given early, or after a unit came back, is.
    pub refused_while_stock_remained: u64,
    /// The most captures that name the same order. More than one is a finding.
    pub captures_per_order_max: u64,
    /// Keys under which a buyer was given two claim ids, or two sets of serials.
    pub answers_that_differ: u64,
    /// Claims that a buyer was given and that are no order of his with that id, SKU and, while it is live, serials.
    pub lost_claims: u64,
    /// Buyers whose live orders hold more units than the limit.
    pub over_limit: u64,
    /// Sold orders without exactly one capture of exactly their total, and captures without a sold order.
    pub capture_mismatches: u64,
    /// What is wrong, one sentence each.
    pub findings: Vec<String>,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.oversold == 0
            && self.refused_while_stock_remained == 0
            && self.captures_per_order_max <= 1
            && self.answers_that_differ == 0
            && self.lost_claims == 0
            && self.over_limit == 0
            && self.capture_mismatches == 0
            && self.findings.is_empty()
    }
}

/// What became of an order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pending,
    Sold,
    PaymentFailed,
    Cancelled,
    /// A status that the judge does not know: live, and a finding.
    Unheard,
}

/// Claim id and serials, as answered.
type Promise<'a> = (&'a str, &'a [u32]);

#[derive(Default)]
struct Findings {
    told: BTreeMap<&'static str, usize>,
    sentences: Vec<String>,
}

pub fn judge(log: &BuyersLog, facts: &StoreFacts) -> Verdict {
    let mut findings = Findings::default();
    let mut verdict = Verdict { tokens_free: u64::from(facts.tokens_free), ..Verdict::default() };
    count_orders(facts, &mut verdict, &mut findings);
    verdict.oversold = oversold(facts, &mut findings);
    verdict.over_limit = over_limit(facts, &mut findings);
    weigh_captures(facts, &mut verdict, &mut findings);
    weigh_answers(log, facts, &mut verdict, &mut findings);
    weigh_refusals(log, facts, &mut verdict, &mut findings);
    verdict.findings = findings.sentences();
    verdict
}

fn count_orders(facts: &StoreFacts, verdict: &mut Verdict, findings: &mut Findings) {
    for order in &facts.orders {
        match order.fate() {
            Fate::Pending => verdict.orders_pending += 1,
            Fate::PaymentFailed => verdict.orders_payment_failed += 1,
            Fate::Cancelled => verdict.orders_cancelled += 1,
            Fate::Sold => {
                verdict.orders_confirmed += 1;
                verdict.units_confirmed += order.units();
            }
            Fate::Unheard => {
                findings.tell("order status", || format!("Order {} has the status {}.", order.order_id, order.status));
            }
        }
    }
}

fn oversold(facts: &StoreFacts, findings: &mut Findings) -> u64 {
    let mut beyond_stock = 0;
    let stock = facts.stock_by_sku();
    let serial_max: u64 = stock.values().sum();
    let mut holders: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    let mut units: BTreeMap<&str, u64> = BTreeMap::new();
    for order in facts.live_orders() {
        *units.entry(&order.sku).or_default() += order.units();
        for &serial in &order.serials {
            holders.entry(serial).or_default().push(&order.order_id);
        }
    }
    for (serial, orders) in holders {
        if orders.len() > 1 {
            beyond_stock += orders.len() as u64 - 1;
            findings.tell("serial held twice", || format!("Serial {serial} is held by {}.", orders.join(" and ")));
        }
        if serial == 0 || u64::from(serial) > serial_max {
            beyond_stock += orders.len() as u64;
            findings.tell("serial outside stock", || {
                format!("Serial {serial}, held by {}, is not one of 1 to {serial_max}.", orders.join(" and "))
            });
        }
    }
    for (sku, units) in units {
        let stock = stock.get(sku).copied().unwrap_or(0);
        if units > stock {
            beyond_stock += units - stock;
            findings
                .tell("beyond stock", || format!("Live orders hold {units} units of {sku}, whose stock is {stock}."));
        }
    }
    beyond_stock
}

fn over_limit(facts: &StoreFacts, findings: &mut Findings) -> u64 {
    let mut units: BTreeMap<&str, u64> = BTreeMap::new();
    for order in facts.live_orders() {
        *units.entry(&order.buyer).or_default() += order.units();
    }
    units.retain(|_, units| *units > u64::from(facts.limit));
    for (buyer, units) in &units {
        findings.tell("over limit", || format!("{buyer} holds {units} units, and {} is the limit.", facts.limit));
    }
    units.len() as u64
}

fn weigh_captures(facts: &StoreFacts, verdict: &mut Verdict, findings: &mut Findings) {
    let sold: HashMap<&str, &OrderFact> =
        facts.orders.iter().filter(|o| o.fate() == Fate::Sold).map(|o| (o.order_id.as_str(), o)).collect();
    let mut captures: BTreeMap<&str, Vec<&CaptureFact>> = BTreeMap::new();
    for capture in &facts.captures {
        if let Some(order_id) = &capture.order_id {
            captures.entry(order_id).or_default().push(capture);
        }
        if capture.order_id.as_ref().is_none_or(|order_id| !sold.contains_key(order_id.as_str())) {
            verdict.capture_mismatches += 1;
            let order = capture.order_id.as_deref().unwrap_or("no order");
            findings.tell("capture without sale", || {
                format!("{} were captured for {order}, which is not sold.", capture.amount())
            });
        }
    }
    for (order_id, captures) in &captures {
        verdict.captures_per_order_max = verdict.captures_per_order_max.max(captures.len() as u64);
        if captures.len() > 1 {
            findings.tell("second capture", || format!("Order {order_id} was captured {} times.", captures.len()));
        }
    }
    for order in facts.orders.iter().filter(|order| order.fate() == Fate::Sold) {
        let captured = captures.get(order.order_id.as_str()).map_or(&[][..], Vec::as_slice);
        let is_paid =
            matches!(captured, [one] if one.amount_minor == order.total_minor && one.currency == order.currency);
        if !is_paid {
            verdict.capture_mismatches += 1;
            findings.tell("capture mismatch", || {
                let amounts: Vec<String> = captured.iter().map(|capture| capture.amount()).collect();
                let (total, currency) = (order.total_minor, &order.currency);
                format!("Order {} of {total} {currency} has the captures [{}].", order.order_id, amounts.join(", "))
            });
        }
    }
}

fn weigh_answers(log: &BuyersLog, facts: &StoreFacts, verdict: &mut Verdict, findings: &mut Findings) {
    // Ordered, so that the same log gives the same sentences.
    let mut answers: BTreeMap<(&str, &str), BTreeSet<Promise<'_>>> = BTreeMap::new();
    let mut claims: HashSet<&str> = HashSet::new();
    let orders: HashMap<&str, &OrderFact> = facts.orders.iter().map(|o| (o.order_id.as_str(), o)).collect();
    for call in &log.calls {
        match &call.outcome {
            CallOutcome::Accepted { claim_id, serials, replayed } => {
                verdict.replayed_clicks += u64::from(*replayed);
                answers.entry((&call.buyer, &call.key)).or_default().insert((claim_id, serials));
                // The first answer is the promise; a later one that differs is counted as that.
                if claims.insert(claim_id) && !orders.get(claim_id.as_str()).is_some_and(|o| o.keeps(call, serials)) {
                    verdict.lost_claims += 1;
                    findings.tell("lost claim", || {
                        format!("{} was given claim {claim_id}, which is no such order.", call.buyer)
                    });
                }
            }
            CallOutcome::SoldOut => verdict.sold_out_answers += 1,
            CallOutcome::NotEnough { .. } => verdict.not_enough_answers += 1,
            _ => {}
        }
    }
    verdict.claims_accepted = claims.len() as u64;
    for ((buyer, key), answers) in answers.into_iter().filter(|(_, answers)| answers.len() > 1) {
        verdict.answers_that_differ += 1;
        findings.tell("answers differ", || format!("{buyer} was given different answers for key {key}: {answers:?}."));
    }
}

fn weigh_refusals(log: &BuyersLog, facts: &StoreFacts, verdict: &mut Verdict, findings: &mut Findings) {
    let gone = Gone::possibly(log, facts);
    let stock = facts.stock_at_opening();
    for call in &log.calls {
        if !matches!(call.outcome, CallOutcome::SoldOut | CallOutcome::NotEnough { .. }) {
            continue;
        }
        let stock = stock.get(call.sku.as_str()).copied().unwrap_or(0);
        let free = stock - gone.most_during(&call.sku, call.started_us, call.ended_us);
        if free >= i64::from(call.quantity) {
            verdict.refused_while_stock_remained += 1;
            findings.tell("refused while stock remained", || {
                let Call { buyer, quantity, sku, started_us, ended_us, .. } = call;
                format!("{buyer} was refused {quantity} of {sku} from {started_us} to {ended_us} µs; {free} were free.")
            });
        }
    }
}

impl StoreFacts {
    fn stock_by_sku(&self) -> HashMap<&str, u64> {
        let mut stock = HashMap::new();
        for (sku, units) in &self.stock {
            *stock.entry(sku.as_str()).or_default() += u64::from(*units);
        }
        stock
    }

    fn stock_at_opening(&self) -> HashMap<&str, i64> {
        let mut stock = HashMap::new();
        for (sku, units) in &self.stock {
            *stock.entry(sku.as_str()).or_default() += i64::from(*units);
        }
        for (sku, units) in &self.added {
            *stock.entry(sku.as_str()).or_default() -= i64::from(*units);
        }
        stock
    }

    fn live_orders(&self) -> impl Iterator<Item = &OrderFact> {
        self.orders.iter().filter(|order| order.fate().is_live())
    }
}

impl OrderFact {
    fn fate(&self) -> Fate {
        match self.status.as_str() {
            "PENDING_PAYMENT" => Fate::Pending,
            "CONFIRMED" | "PROCESSING" | "SHIPPED" | "DELIVERED" => Fate::Sold,
            "PAYMENT_FAILED" => Fate::PaymentFailed,
            "CANCELLED" => Fate::Cancelled,
            _ => Fate::Unheard,
        }
    }

    fn units(&self) -> u64 {
        self.serials.len() as u64
    }

    /// Is this what the buyer was promised?
    fn keeps(&self, call: &Call, promised: &[u32]) -> bool {
        let sorted = |serials: &[u32]| serials.iter().copied().collect::<BTreeSet<u32>>();
        self.buyer == call.buyer
            && self.sku == call.sku
            && (!self.fate().is_live() || sorted(&self.serials) == sorted(promised))
    }
}

impl Fate {
    fn is_live(self) -> bool {
        !matches!(self, Self::PaymentFailed | Self::Cancelled)
    }
}

impl CaptureFact {
    fn amount(&self) -> String {
        format!("{} {}", self.amount_minor, self.currency)
    }
}

impl Findings {
    fn tell(&mut self, kind: &'static str, sentence: impl FnOnce() -> String) {
        let told = self.told.entry(kind).or_default();
        *told += 1;
        if *told <= SENTENCES_PER_KIND {
            self.sentences.push(sentence());
        }
    }

    fn sentences(mut self) -> Vec<String> {
        for (kind, told) in self.told {
            if let Some(more @ 1..) = told.checked_sub(SENTENCES_PER_KIND) {
                self.sentences.push(format!("There are {more} more of this kind: {kind}."));
            }
        }
        self.sentences
    }
}

#[cfg(test)]
mod tests;
