//! `line`: many buyers in the line of one drop: they join, the draw is held, and rounds give the units, while another
//! transaction runs beside them. At the end the stores are held against what the buyers were told.
//!
//! Gateway and worker are processes of their own, so that the worker's memory is seen alone. The worker is started when
//! everybody has joined: it knows nothing of the line before. With `--written` nobody joins over HTTP, but the places
//! are written by SQL: so a line of a million is measured within minutes.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use doorbuster::auth;
use doorbuster::demo::{LineStores, in_vain, store_facts};
use doorbuster_engine::domain::claims::{Claim, Quantity};
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::drops::{Admission, SaleDrop};
use doorbuster_engine::domain::ids::{BuyerId, ClaimId};
use doorbuster_engine::domain::line::schedule::undecided;
use doorbuster_engine::domain::line::terms::{CAPACITY, LineTerms};
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::domain::stock::StockWay;
use doorbuster_engine::ledger::line::BoardRow;
use doorbuster_sandbox::crowd::{BuyersLog, Crowd, CrowdOptions, LineLog, LineVerdict, judge, judge_line};
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use hdrhistogram::Histogram;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::generator::Percentiles;
use crate::machine::{self, Machine};
use crate::output::{self, Table};
use crate::stage::{self, Stage};
use crate::ways::{Ordered, Way, order_of_goods};

const CONNECTIONS: usize = 128;
const CHARGES_AT_ONCE: u32 = 64;
/// How often the line is looked at from outside: what ends in between is seen so much later.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Whoever joins last is answered within this.
const SEAL_PATIENCE: Duration = Duration::from_secs(3);
/// Places that SQL writes in a second, at least; and what else is done before the seal.
const WRITTEN_PER_S: u32 = 12_000;
const UNTIL_WRITTEN: Duration = Duration::from_secs(5);
/// From starting the worker to the seal.
const WORKER_STARTS: Duration = Duration::from_secs(3);
/// What is charged behind the last round takes at most this.
const REST_LIMIT: Duration = Duration::from_secs(300);
/// Of the places that SQL writes, every so manieth has the card of the one before.
const SHARED_CARDS: u32 = 100;

#[derive(Debug, Args)]
pub struct LineArguments {
    /// Buyers in line
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    waiters: u32,
    /// Their places are written by SQL, and the run ends when every rank is decided; otherwise they join over HTTP, some
    /// watch, some leave, some cannot pay, and the run ends when everything is charged
    #[arg(long)]
    written: bool,
    /// Units for sale
    #[arg(long, default_value_t = 5_000, value_name = "UNITS", value_parser = clap::value_parser!(u32).range(3..))]
    units: u32,
    /// Ranks that a round decides; a fifth of the units if left out
    #[arg(long, value_name = "RANKS")]
    per_round: Option<u32>,
    /// From one round to the next. A shop's line has 30s
    #[arg(long, default_value = "5s", value_name = "DURATION")]
    round_every: SignedDuration,
    /// From the seal to the draw. A shop's line has 2m
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    reveal_after: SignedDuration,
    /// Joins a second
    #[arg(long, default_value_t = 1_500, value_name = "RATE", value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Share of buyers whose card is declined
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    decline_rate: f64,
    /// Orders of ordinary goods a second, placed beside
    #[arg(long, default_value_t = 20, value_name = "RATE", value_parser = clap::value_parser!(u32).range(1..))]
    beside: u32,
    /// Calls of one kind a second that the payment provider allows; 25 is what a real one does. As fast as it can be if not given
    #[arg(long, value_name = "CALLS")]
    provider_rate: Option<NonZeroU32>,
    /// Decides who the buyers are and what they do
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    seed: u64,
    /// Also writes the figures as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What was found. Its JSON form is what `--out` writes.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    waiters: u32,
    units: u32,
    per_round: u32,
    round_every_s: f64,
    joining: Option<Joining>,
    /// From when the seal was due until it was written.
    seal_s: f64,
    /// From the seal to the root.
    root_s: f64,
    /// From when the beacon was due to the draw.
    draw_s: f64,
    sealed: u32,
    merged: u32,
    rounds: Vec<Round>,
    /// From the opening until every rank was decided, and the units that were given.
    decided_s: f64,
    awarded: u64,
    /// Of the worker's process, from its start to the end.
    worker_peak_mib: u64,
    beside: Beside,
    units_sold: u64,
    oversold: u64,
    inversions: usize,
    in_vain: usize,
    draw_verified: bool,
    findings: Vec<String>,
    postgres_s: f64,
    worker_s: f64,
}

/// What the crowd did and saw.
#[derive(Debug, Serialize)]
struct Joining {
    profiles_s: f64,
    joining_s: f64,
    joins_per_s: f64,
    /// By the buyers, in ms.
    join: Percentiles,
    /// Boards that the gateway read, as Postgres counted them, and how many it may read in that time.
    boards_read: u64,
    boards_due: u64,
    #[serde(flatten)]
    verdict: LineVerdict,
}

/// A round in which something was decided.
#[derive(Debug, Clone, Copy, Serialize)]
struct Round {
    round: u32,
    decided: u32,
    awarded: u64,
    /// From when it was due until its last chunk was seen committed.
    took_s: f64,
}

/// How long orders of goods took from when they were due, in ms.
#[derive(Debug, Serialize)]
struct Beside {
    before_the_seal: Percentiles,
    until_the_opening: Percentiles,
    in_rounds: Percentiles,
    orders: usize,
}

/// What was seen of the line while it went on.
#[derive(Default)]
struct Seen {
    sealed_at: Option<Timestamp>,
    ended: BTreeMap<u32, Timestamp>,
    decided_at: Option<Timestamp>,
}

pub async fn run(arguments: LineArguments) -> anyhow::Result<()> {
    let report = Box::pin(hold(&arguments)).await?;
    report.print();
    if let Some(path) = &arguments.out {
        output::write_json(path, &report)?;
    }
    ensure!(report.is_clean(), "the line was not held as it should be");
    Ok(())
}

async fn hold(arguments: &LineArguments) -> anyhow::Result<Report> {
    let stage = Stage::start_counting(std::env::current_exe()?).await?;
    let machine = Machine::look(stage.folder(), stage.redis.version(), stage.postgres.version())?;
    let orders = u64::from(arguments.units) * 2 + u64::from(arguments.beside) * 600;
    let provider = FakeProvider::start(FakeProviderOptions::bench(4 * orders + 400_000)).await?;
    let gateway = stage.serve_counted(Way::Tokens).await?;
    let over = CancellationToken::new();
    let beside = Goods::prepare(&stage, arguments.beside).await?;

    // Profiles come first: a line asks for them.
    let began = Instant::now();
    let name = stage.next_name();
    let crowd = crowd(arguments, &format!("http://{}", gateway.address), &name)?;
    match &crowd {
        Some(crowd) => crowd.save_profiles().await?,
        None => stage.write_profiles(WRITTEN_FROM, arguments.waiters).await?,
    }
    if crowd.is_none() {
        stage.write_cards(WRITTEN_FROM, arguments.waiters, SHARED_CARDS).await?;
    }
    let profiles_s = began.elapsed().as_secs_f64();

    let now = Clock::System.now();
    let joining = match &crowd {
        Some(_) => Duration::from_secs_f64(f64::from(arguments.waiters) / f64::from(arguments.rate)) + SEAL_PATIENCE,
        None => Duration::from_secs((arguments.waiters / WRITTEN_PER_S).into()) + UNTIL_WRITTEN,
    };
    let terms = LineTerms {
        admission: Admission::Queue,
        line_opens_at: now,
        seal_at: now + SignedDuration::try_from(joining + WORKER_STARTS)?,
        reveal_after: arguments.reveal_after,
        round_every: arguments.round_every,
        per_round: arguments.per_round(),
        capacity: CAPACITY,
        requires_card: true,
        then_open: false,
        beacon: stage::beacon(),
    };
    let drop = stage.make_line(terms, arguments.units).await?;
    ensure!(drop.name.as_str() == name, "the drop has another name");
    stage.open_lines().await?;
    let boards_before = stage.boards_read().await?;
    let made = Instant::now();
    let selling = tokio::spawn({
        let (engine, over) = (stage.engine.clone(), over.clone());
        async move { beside.sell(engine, over).await }
    });
    let standing = match &crowd {
        Some(crowd) => {
            let (line, over) = (crowd.before_a_line()?, over.clone());
            Some(tokio::spawn(async move { line.stand_in_line(over).await }))
        }
        None => {
            stage.write_places(&drop, WRITTEN_FROM, arguments.waiters).await?;
            None
        }
    };
    tokio::time::sleep(joining.saturating_sub(made.elapsed())).await;
    let worker = stage.serve_with_workers_at(&provider, CHARGES_AT_ONCE, arguments.provider_rate).await?;
    let used_before = (machine::cpu_of_family(stage.postgres.pid()), machine::cpu_of(worker.pid()));
    let seen = watch(&stage, &drop, arguments).await?;
    let used = (machine::cpu_of_family(stage.postgres.pid()), machine::cpu_of(worker.pid()));
    let worker_peak_mib = machine::memory_peak_mib_of(worker.pid());
    let (boards_read, boards_due) = (stage.boards_read().await? - boards_before, made.elapsed().as_secs() + 2);
    over.cancel();
    let orders = selling.await??;
    let log = match standing {
        Some(standing) => Some(standing.await.context("the buyers' task")?),
        None => None,
    };
    // From here on nobody changes anything.
    std::mem::drop(worker);

    let buyers = log.iter().flat_map(|log| log.visits.iter().map(|visit| visit.buyer.clone())).collect::<Vec<_>>();
    let stores = LineStores::read(&stage.engine, &drop.name, buyers).await?;
    let audit = stage.engine.audit(None).await?;
    let free = audit.drops.iter().filter(|audited| audited.drop == drop.name.as_str()).map(|audited| audited.free);
    let free = u32::try_from(free.sum::<usize>())?;
    let goods = orders.iter().map(|placed| placed.order.as_str()).collect::<HashSet<_>>();
    let is_of_line = |order: &Option<String>| order.as_deref().is_none_or(|order| !goods.contains(order));
    let captures = provider.captures().into_iter().filter(|capture| is_of_line(&capture.order_id));
    let facts = store_facts(&stage.engine, &drop.name, captures.collect(), free).await?;
    let sold = judge(&BuyersLog::default(), &facts);
    let board = stage.engine.ledger.line_board(drop.id).await?.context("the line is gone")?;
    let line = &board.line;
    let sealed = line.sealed.context("the line is not sealed")?;
    let seconds = |from: Timestamp, to: Timestamp| to.duration_since(from).as_secs_f64();
    let drawn_at = line.drawn.as_ref().context("the line is not drawn")?.at;
    let rounds = rounds(&stage, &drop, &board, &seen).await?;
    let joining = log.as_ref().map(|log| Joining {
        profiles_s,
        joining_s: joining.as_secs_f64(),
        joins_per_s: log.joins_per_s(),
        join: joins_of(log),
        boards_read,
        boards_due,
        verdict: judge_line(log, &stores.facts(&drop, boards_read, boards_due)),
    });
    let mut findings = Vec::new();
    if !arguments.written {
        // All of it is charged.
        findings.extend(sold.findings.iter().cloned());
        // The goods beside lie on shelves of the stage, which keep no history.
        let of_line = audit.violations.iter().filter(|violation| violation.drop == drop.name.as_str());
        findings.extend(of_line.map(|violation| format!("{violation:?}")));
    }
    findings.extend(stores.wrong());
    findings.extend(joining.iter().flat_map(|joining| joining.verdict.line_findings.clone()));
    Ok(Report {
        machine,
        waiters: arguments.waiters,
        units: arguments.units,
        per_round: arguments.per_round(),
        round_every_s: arguments.round_every.as_secs_f64(),
        joining,
        seal_s: seconds(line.terms.seal_at, seen.sealed_at.unwrap_or(sealed.at)),
        root_s: seconds(sealed.at, line.root_seen_at.unwrap_or(drawn_at)),
        draw_s: seconds(line.terms.time_of(None), drawn_at),
        sealed: sealed.count,
        merged: stage.merged(&drop).await?,
        decided_s: seen.decided_at.map_or(0.0, |at| seconds(board.opens_at, at)),
        awarded: rounds.iter().map(|round| round.awarded).sum(),
        rounds,
        worker_peak_mib,
        beside: Beside::of(&orders, sealed.at, board.opens_at),
        units_sold: sold.units_confirmed,
        oversold: sold.oversold,
        inversions: stores.inversions(),
        in_vain: in_vain(&stage.engine, &drop).await?.len(),
        draw_verified: stores.wrong().is_none(),
        findings,
        postgres_s: (used.0 - used_before.0).as_secs_f64(),
        worker_s: (used.1 - used_before.1).as_secs_f64(),
    })
}

/// The first of the buyers whose places SQL writes: nobody else has such numbers.
const WRITTEN_FROM: u64 = 10_u64.pow(12);

impl LineArguments {
    fn per_round(&self) -> u32 {
        self.per_round.unwrap_or(self.units / 5).max(1)
    }
}

fn crowd(arguments: &LineArguments, base_url: &str, drop: &str) -> anyhow::Result<Option<Crowd>> {
    if arguments.written {
        return Ok(None);
    }
    let secret = stage::secret();
    let mint = move |buyer: &str| {
        let buyer: BuyerId = buyer.parse().expect("the crowd's buyers have well-formed ids");
        auth::mint(&secret, &buyer, Clock::System.now(), SignedDuration::from_hours(1))
    };
    let skus = stage::SIZES.map(|size| format!("{drop}-{size}")).to_vec();
    Ok(Some(Crowd::new(CrowdOptions {
        buyers: arguments.waiters as usize,
        seed: arguments.seed,
        decline_rate: arguments.decline_rate,
        arrive_within: Duration::from_secs_f64(f64::from(arguments.waiters) / f64::from(arguments.rate)),
        connections: CONNECTIONS,
        ..CrowdOptions::new(base_url, drop, skus, Arc::new(mint))
    })?))
}

/// Looks at the line until all is over.
async fn watch(stage: &Stage, drop: &SaleDrop, arguments: &LineArguments) -> anyhow::Result<Seen> {
    let every = Duration::try_from(arguments.round_every)?;
    let rounds = arguments.waiters.div_ceil(arguments.per_round()) + 20;
    let limit = every * rounds + Duration::try_from(arguments.reveal_after)? * 2 + REST_LIMIT;
    let (deadline, mut seen) = (Instant::now() + limit, Seen::default());
    let ledger = &stage.engine.ledger;
    loop {
        let board = ledger.line_board(drop.id).await?.context("the line is gone")?;
        let now = Clock::System.now();
        seen.note(board.line.state.is_sealed(), board.line.round, board.line.is_in_round(), now);
        let is_decided = seen.ended.contains_key(&0) && undecided(&board.line, board.last_number) == 0;
        if is_decided && !board.line.is_in_round() {
            seen.decided_at.get_or_insert(now);
            let pending = || async {
                let counts = ledger.order_counts(drop.id).await?;
                anyhow::Ok(counts.get(&OrderState::PendingPayment).copied().unwrap_or_default())
            };
            if arguments.written || (pending().await? == 0 && in_vain(&stage.engine, drop).await?.is_empty()) {
                return Ok(seen);
            }
            // Nothing is measured any more.
            tokio::time::sleep(10 * LOOK_EVERY).await;
        }
        if Instant::now() >= deadline {
            bail!("not over after {limit:?}: the line is {} in round {:?}", board.line.state, board.line.round);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Seen {
    fn note(&mut self, is_sealed: bool, round: Option<u32>, is_in_round: bool, now: Timestamp) {
        if is_sealed {
            self.sealed_at.get_or_insert(now);
        }
        // Those before it have ended; itself too, if nothing more is to be decided.
        let ended = round.map_or(0, |round| round + u32::from(!is_in_round));
        let known = self.ended.last_key_value().map_or(0, |(round, _)| round + 1);
        self.ended.extend((known..ended).map(|round| (round, now)));
    }
}

/// What each round gave, and how long it took.
async fn rounds(stage: &Stage, drop: &SaleDrop, board: &BoardRow, seen: &Seen) -> anyhow::Result<Vec<Round>> {
    let mut rounds: BTreeMap<u32, Round> = BTreeMap::new();
    for chunk in stage.engine.ledger.line_chunks(drop.id).await? {
        let Some(ended) = seen.ended.get(&chunk.round) else { continue };
        let due = board.line.round_due_at(board.opens_at, chunk.round);
        let took_s = ended.duration_since(due).as_secs_f64();
        let new = Round { round: chunk.round, decided: 0, awarded: 0, took_s };
        let round = rounds.entry(chunk.round).or_insert(new);
        round.decided += chunk.decided;
        round.awarded += chunk.awards.len() as u64;
    }
    Ok(rounds.into_values().collect())
}

/// Orders of ordinary goods, one after the other at a rate.
struct Goods {
    drop: SaleDrop,
    buyers: Vec<BuyerId>,
    rate: u32,
}

struct Placed {
    order: String,
    due: Timestamp,
    /// From then on.
    took_us: u64,
}

impl Goods {
    /// Of the longest run; whoever comes behind is the first again, whose order is known then.
    const SECONDS: u32 = 900;

    async fn prepare(stage: &Stage, rate: u32) -> anyhow::Result<Self> {
        let buyers = stage.buyers(rate * Self::SECONDS);
        stage.save_profiles(&buyers).await?;
        let drop = stage.open_drop(1, 1).await?;
        stage.put_on_shelves(&drop, 1, buyers.len()).await?;
        let buyers = (0..buyers.len()).map(|buyer| buyers.id(buyer).parse::<BuyerId>());
        Ok(Self { drop, buyers: buyers.collect::<Result<_, _>>().context("the stage's buyers have ids")?, rate })
    }

    async fn sell(
        self,
        engine: doorbuster_engine::flows::Engine,
        over: CancellationToken,
    ) -> anyhow::Result<Vec<Placed>> {
        let (began, began_at) = (tokio::time::Instant::now(), Clock::System.now());
        let mut placed = Vec::new();
        for (nth, buyer) in (0_u32..).zip(self.buyers) {
            let after = Duration::from_secs(1) * nth / self.rate;
            if over.run_until_cancelled(tokio::time::sleep_until(began + after)).await.is_none() {
                break;
            }
            let claim = Claim {
                id: ClaimId(uuid::Uuid::from_u128(rand::random())),
                buyer,
                variant: self.drop.variants[0].number,
                quantity: Quantity::new(1)?,
                told: None,
            };
            let ordered = order_of_goods(&engine, StockWay::RowLock, &self.drop, &claim).await?;
            ensure!(ordered == Ordered::Made, "an order of goods was not placed");
            let took = began.elapsed().saturating_sub(after);
            placed.push(Placed {
                order: claim.id.0.to_string(),
                due: began_at + SignedDuration::try_from(after)?,
                took_us: took.as_micros().try_into()?,
            });
        }
        Ok(placed)
    }
}

impl Beside {
    fn of(placed: &[Placed], sealed_at: Timestamp, opens_at: Timestamp) -> Self {
        let between = |from: Timestamp, to: Timestamp| {
            let mut took_us = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("a minute has eight digits");
            for placed in placed.iter().filter(|placed| placed.due >= from && placed.due < to) {
                took_us.saturating_record(placed.took_us);
            }
            Percentiles::of(&took_us)
        };
        Self {
            before_the_seal: between(Timestamp::MIN, sealed_at),
            until_the_opening: between(sealed_at, opens_at),
            in_rounds: between(opens_at, Timestamp::MAX),
            orders: placed.len(),
        }
    }
}

fn joins_of(log: &LineLog) -> Percentiles {
    let mut took_us = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("a minute has eight digits");
    for call in log.visits.iter().flat_map(|visit| &visit.joins) {
        took_us.saturating_record((call.ended_us - call.started_us).max(0).cast_unsigned());
    }
    Percentiles::of(&took_us)
}

impl Report {
    fn is_clean(&self) -> bool {
        self.oversold == 0
            && self.inversions == 0
            && self.in_vain == 0
            && self.findings.is_empty()
            && self.joining.as_ref().is_none_or(|joining| joining.verdict.is_clean())
    }

    fn print(&self) {
        output::print(self.machine.sentence());
        let mut table = Table::new(&["line", ""]);
        let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
        row("waiters", self.waiters.to_string());
        if let Some(joining) = &self.joining {
            let verdict = &joining.verdict;
            row(
                "joined",
                format!("{} at {:.0} a second, p99 {:.0} ms", verdict.joined, joining.joins_per_s, joining.join.p99_ms),
            );
            row("left, changed their wish", format!("{}, {}", verdict.left, verdict.changed));
            row("looks at the board", format!("{} by {}", verdict.looks, verdict.watchers));
            row("boards read, by Postgres, and due", format!("{}, {}", joining.boards_read, joining.boards_due));
            row("looks that reached a store", verdict.looks_that_reached_a_store.to_string());
            row("waits that rose", verdict.waits_that_rose.to_string());
        }
        row("sealed, merged", format!("{}, {}", self.sealed, self.merged));
        row("seal, from its time", format!("{:.2} s", self.seal_s));
        row("root, from the seal", format!("{:.2} s", self.root_s));
        row("draw, from the beacon's time", format!("{:.2} s", self.draw_s));
        row("every rank decided, from the opening", format!("{:.2} s", self.decided_s));
        row("units given, paid", format!("{}, {} of {}", self.awarded, self.units_sold, self.units));
        row("units oversold", self.oversold.to_string());
        row("later ranks served first", self.inversions.to_string());
        row("waiters whose wish was free at the end", self.in_vain.to_string());
        row("draw as anybody computes it", self.draw_verified.to_string());
        row("worker's memory at most", format!("{} MiB", self.worker_peak_mib));
        row("processor time of worker, Postgres", format!("{:.1} s, {:.1} s", self.worker_s, self.postgres_s));
        let Beside { before_the_seal, until_the_opening, in_rounds, orders } = &self.beside;
        row(
            "p99 of orders of goods: before the seal, until the opening, in rounds",
            format!(
                "{:.0}, {:.0}, {:.0} ms ({orders})",
                before_the_seal.p99_ms, until_the_opening.p99_ms, in_rounds.p99_ms
            ),
        );
        output::print(table.to_string());
        let mut table = Table::new(&["round", "ranks decided", "given units", "s after it was due"]);
        for round in &self.rounds {
            let numbers = [u64::from(round.round) + 1, round.decided.into(), round.awarded];
            table.row(numbers.map(|number| number.to_string()).into_iter().chain([format!("{:.2}", round.took_s)]));
        }
        output::print(table.to_string());
        self.findings.iter().for_each(output::print);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_has_ended_when_it_was_first_seen_without_anything_more_to_decide_or_a_later_one_under_way() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut seen = Seen::default();
        let looks = [(false, None, false), (true, None, false), (true, Some(0), true), (true, Some(2), true)];
        for (second, (is_sealed, round, is_in_round)) in (1..).zip(looks) {
            seen.note(is_sealed, round, is_in_round, at(second));
        }
        for second in [5, 6] {
            seen.note(true, Some(2), false, at(second));
        }
        assert_eq!(seen.sealed_at, Some(at(2)));
        assert_eq!(seen.ended.into_iter().collect::<Vec<_>>(), [(0, at(4)), (1, at(4)), (2, at(5))]);
    }
}
