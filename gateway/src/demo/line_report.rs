//! The report of a line: what the waiters saw, what the stores hold, and the draw as anybody can check it.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context as _;
use doorbuster_engine::domain::drops::SaleDrop;
use doorbuster_engine::domain::ids::{BuyerId, ClaimId, DropName, OrderId, VariantNumber};
use doorbuster_engine::domain::line::bundle::{Bundle, verify};
use doorbuster_engine::domain::line::entries::EntryId;
use doorbuster_engine::domain::line::rounds::{self, Facts, Free, Outcome, PastRound, Rank, Wish, inversions};
use doorbuster_engine::domain::line::shuffle;
use doorbuster_engine::domain::line::state::EntryState;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::flows::audit::AuditReport;
use doorbuster_engine::ledger::audit::OrderFact;
use doorbuster_engine::ledger::line::LineEntry;
use doorbuster_sandbox::crowd::{BuyersLog, LineFacts, LineVerdict, PlaceFact, Verdict, judge, judge_line};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use super::facts::store_facts;
use super::line::{LineDemo, Stages, per_round};
use super::report::MailsReport;
use super::timeline::Timeline;

/// Places read at the same time.
const READS: usize = 16;

/// What the demo of a line found. Its JSON form is what `--report` writes.
#[derive(Debug, Serialize)]
pub struct LineReport {
    pub admission: &'static str,
    pub stock: u32,
    pub waiters: usize,
    pub limit: u32,
    pub seed: u64,
    pub round_every_s: f64,
    pub per_round: u32,
    pub reveal_after_s: f64,
    /// What the waiters saw, against the stores.
    #[serde(flatten)]
    pub line: LineVerdict,
    /// Why buyers who wanted to join did not, and how many each.
    pub refusals: BTreeMap<String, u64>,
    pub joins_per_s: f64,
    /// Entries of the list that was sealed, and places behind it.
    pub sealed: u32,
    pub behind: usize,
    /// Rounds in which something was decided.
    pub rounds: usize,
    /// Entries that were given units, and units of those that are paid.
    pub awarded: u64,
    pub confirmed: u64,
    pub orders_confirmed: u64,
    pub orders_payment_failed: u64,
    pub units_free: u64,
    pub oversold: u64,
    /// Awards at which an earlier rank could have had what a later one was given.
    pub inversions: usize,
    /// Waiters whose wish the free units would have covered.
    pub in_vain: usize,
    /// Rules, list, root, beacon, seed, ranks and every round are as anybody computes them.
    pub draw_verified: bool,
    /// The first thing that is wrong with them.
    pub draw_wrong: Option<String>,
    /// Entries that have another award than what is published says of their rank.
    pub awards_that_differ: u64,
    pub captures_per_order_max: u64,
    pub capture_mismatches: u64,
    pub over_limit: u64,
    #[serde(flatten)]
    pub mails: MailsReport,
    pub audit_violations: usize,
    #[serde(flatten)]
    pub timeline: Option<Timeline>,
    #[serde(flatten)]
    pub stages: Stages,
    pub postgres_version: String,
    /// What is wrong with orders and money, one sentence each.
    pub findings: Vec<String>,
    #[serde(skip)]
    pub audit: AuditReport,
}

impl LineReport {
    pub fn is_clean(&self) -> bool {
        let zeros = [self.oversold, self.awards_that_differ, self.capture_mismatches, self.over_limit];
        self.line.is_clean()
            && self.draw_verified
            && zeros.iter().all(|count| *count == 0)
            && self.inversions == 0
            && self.in_vain == 0
            && self.captures_per_order_max <= 1
            && self.findings.is_empty()
            && self.mails.is_clean()
            && self.audit.is_clean()
    }
}

/// A published line as anybody puts it together: no line of it comes from whoever gave the units.
struct Published {
    wishes: Vec<Wish>,
    ranks: HashMap<EntryId, Rank>,
    rounds: Vec<PastRound>,
    /// Which variant each rank was given.
    awards: HashMap<Rank, VariantNumber>,
}

impl Published {
    fn new(bundle: &Bundle) -> Self {
        let order = shuffle::order(bundle.count, &bundle.seed.0);
        // A list that is shorter than it should be fails the verification; here nothing may fall over it.
        let sealed = order.iter().filter_map(|index| bundle.leaves.get(*index as usize));
        let entries = sealed.chain(bundle.joins.iter().map(|join| &join.entry)).collect::<Vec<_>>();
        let wishes = entries.iter().map(|entry| entry.wish).collect::<Vec<_>>();
        let ranks = entries.iter().zip(0..).map(|(entry, rank)| (entry.id, rank)).collect();
        let mut by_round: BTreeMap<u32, PastRound> = BTreeMap::new();
        let mut awards = HashMap::new();
        for chunk in &bundle.chunks {
            let new = || PastRound { free: chunk.free, steps: Vec::new() };
            let steps = &mut by_round.entry(chunk.round).or_insert_with(new).steps;
            for against in &chunk.against {
                let bar = against.1.as_deref().and_then(|bar| bar.parse().ok());
                let facts = Facts { rank: against.0, bar, dearer: against.2 };
                steps.push((facts, bar.map_or(Outcome::PassedOver, Outcome::Barred)));
            }
            for (rank, choice) in &chunk.awards {
                let Some(wish) = wishes.get(*rank as usize) else { continue };
                let Some(variant) = wish.choices.iter().nth(usize::from(*choice)) else { continue };
                steps.push((Facts::usual(*rank), Outcome::Awarded { choice: *choice, variant }));
                awards.insert(*rank, variant);
            }
        }
        Self { wishes, ranks, rounds: by_round.into_values().collect(), awards }
    }
}

/// A line as the stores have it when all is over, and as it is published.
pub struct LineStores {
    bundle: Bundle,
    published: Published,
    entries: Vec<(BuyerId, LineEntry)>,
    orders: HashMap<OrderId, OrderFact>,
}

impl LineStores {
    /// Of these buyers the places are read too.
    pub async fn read(engine: &Engine, name: &DropName, buyers: Vec<String>) -> anyhow::Result<Self> {
        let drop = engine.ledger.drop_by_name(name).await?.context("the drop is gone")?;
        let bundle = engine.line_bundle(name).await?;
        let bundle = bundle.map_err(|none| anyhow::anyhow!("nothing is published: {none:?}"))?;
        let id = drop.id;
        let read = |buyer: String| async move {
            let buyer: BuyerId = buyer.parse().context("the crowd's buyers have well-formed ids")?;
            let entry = engine.ledger.line_entry(id, &buyer).await?;
            anyhow::Ok(entry.map(|entry| (buyer, entry)))
        };
        let entries = stream::iter(buyers).map(read).buffered(READS).try_collect::<Vec<_>>().await?;
        Ok(Self {
            published: Published::new(&bundle),
            bundle,
            entries: entries.into_iter().flatten().collect(),
            orders: engine.ledger.drop_facts(&drop).await?.orders,
        })
    }

    /// For the judge of what the buyers were told.
    pub fn facts(&self, drop: &SaleDrop, board_reads: u64, board_reads_due: u64) -> LineFacts {
        let places = self.entries.iter().map(|(buyer, entry)| place_fact(drop, &self.published, buyer, entry));
        LineFacts {
            places: places.collect(),
            orders: self.orders.iter().map(|(id, order)| (order.buyer.to_string(), id.0.to_string())).collect(),
            board_reads,
            board_reads_due,
        }
    }

    /// The first thing of what is published that is not as anybody computes it.
    pub fn wrong(&self) -> Option<String> {
        verify(&self.bundle, None).err().map(|wrong| wrong.to_string())
    }

    pub fn inversions(&self) -> usize {
        inversions(&self.published.wishes, &self.published.rounds).len()
    }

    fn awarded(&self) -> u64 {
        self.entries.iter().filter(|(_, entry)| entry.state == EntryState::Awarded).count() as u64
    }

    /// Entries that have another award than what is published says of their rank.
    fn awards_that_differ(&self) -> u64 {
        let differs = |entry: &LineEntry| {
            let rank = self.published.ranks.get(&entry.id);
            let given = entry.claim.map(|claim| self.orders.get(&claim.order_id()).map(|order| order.variant));
            given != rank.and_then(|rank| self.published.awards.get(rank)).map(|variant| Some(*variant))
        };
        self.entries.iter().filter(|(_, entry)| differs(entry)).count() as u64
    }
}

/// Who waits, though what is free would cover a wish of theirs: entries by their position in the list.
pub async fn in_vain(engine: &Engine, drop: &SaleDrop) -> anyhow::Result<Vec<u32>> {
    if !engine.ledger.has_free_units(drop).await? {
        return Ok(Vec::new());
    }
    let facts = engine.ledger.drop_facts(drop).await?;
    let free = facts.tokens.iter().filter(|token| token.is_free()).map(|token| (token.variant, 1));
    let free = free.collect::<Free>();
    let list = engine.ledger.line_list(drop.id, 0).await?;
    let wishes = list.iter().map(|entry| entry.entry.wish).collect::<Vec<_>>();
    let waiting = (0..).zip(&list).filter(|(_, entry)| entry.state == EntryState::Waiting);
    let standing = waiting.map(|(position, _)| Facts::usual(position)).collect::<Vec<_>>();
    Ok(rounds::in_vain(&wishes, &standing, &free).collect())
}

impl LineDemo {
    /// Reads log and stores as they are now.
    pub async fn report(&self) -> anyhow::Result<LineReport> {
        let reads = self.shop.board_reads(&self.drop).await?.saturating_sub(self.reads_before);
        // Rounded up, and one for the moment at which the clock began.
        let reads_due = self.made.elapsed().as_secs() + 2;
        let audit = self.engine.audit(Some(&self.provider_client)).await?;
        let tokens_free = audit.drops.iter().map(|drop| drop.free as u32).sum();
        let store = store_facts(&self.engine, &self.drop, self.provider.captures(), tokens_free).await?;
        // Nobody clicked; orders and money are judged all the same.
        let sold: Verdict = judge(&BuyersLog::default(), &store);
        let drop = self.sale_drop().await?;
        let buyers = self.log.visits.iter().map(|visit| visit.buyer.clone()).collect();
        let stores = LineStores::read(&self.engine, &self.drop, buyers).await?;
        let facts = stores.facts(&drop, reads, reads_due);
        let wrong = stores.wrong();
        // Whoever was given something, or had left, before the mail was written has none that says they are in line.
        let told = |(buyer, entry): &(BuyerId, LineEntry)| {
            let id = ClaimId::of_entry(drop.id, buyer, entry.number).order_id().to_string();
            (id, "line_joined", entry.state == EntryState::Waiting)
        };
        let in_line = stores.entries.iter().map(told).collect::<Vec<_>>();
        Ok(LineReport {
            admission: self.options.admission.as_str(),
            stock: self.options.stock,
            waiters: self.options.buyers,
            limit: self.options.limit,
            seed: self.options.seed,
            round_every_s: self.options.round_every.as_secs_f64(),
            per_round: per_round(&self.options),
            reveal_after_s: self.options.reveal_after.as_secs_f64(),
            line: judge_line(&self.log, &facts),
            refusals: self.log.refusals(),
            joins_per_s: self.log.joins_per_s(),
            sealed: stores.bundle.count,
            behind: stores.bundle.joins.len(),
            rounds: stores.published.rounds.len(),
            awarded: stores.awarded(),
            confirmed: sold.units_confirmed,
            orders_confirmed: sold.orders_confirmed,
            orders_payment_failed: sold.orders_payment_failed,
            units_free: sold.tokens_free,
            oversold: sold.oversold,
            inversions: stores.inversions(),
            in_vain: in_vain(&self.engine, &drop).await?.len(),
            draw_verified: wrong.is_none(),
            draw_wrong: wrong,
            awards_that_differ: stores.awards_that_differ(),
            captures_per_order_max: sold.captures_per_order_max,
            capture_mismatches: sold.capture_mismatches,
            over_limit: sold.over_limit,
            mails: MailsReport::new(&store.orders, &self.mailbox.mails(), &["line_awarded"], &in_line),
            timeline: self.options.chaos.then(|| Timeline::new(self.events.clone(), &BuyersLog::default())),
            audit_violations: audit.violations.len(),
            stages: self.stages,
            postgres_version: self.postgres.version().to_owned(),
            findings: sold.findings,
            audit,
        })
    }
}

fn place_fact(drop: &SaleDrop, published: &Published, buyer: &BuyerId, entry: &LineEntry) -> PlaceFact {
    let sku = |number: VariantNumber| drop.variant(number).map(|variant| variant.sku.clone()).unwrap_or_default();
    PlaceFact {
        buyer: buyer.to_string(),
        entry_id: entry.id.to_string(),
        status: match entry.state {
            EntryState::Waiting => "waiting",
            EntryState::Left | EntryState::Withdrawn => "left",
            EntryState::Merged => "merged",
            EntryState::Awarded => "awarded",
        }
        .to_owned(),
        wish: entry.choices.iter().map(|choice| sku(choice.variant)).collect(),
        rank: published.ranks.get(&entry.id).copied(),
        order_id: entry.claim.map(|claim| claim.order_id()).map(|order: OrderId| order.0.to_string()),
    }
}
