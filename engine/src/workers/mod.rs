//! Workers: loops that call flows. They hold no state that matters, so any number of them may run, and any may die.
//!
//! | loop | each | does |
//! |---|---|---|
//! | settle | second | measures the claim logs; settles them when the interval is over or the backlog is long |
//! | settle at once | 50 ms | settles drops whose buyers are answered once their claims are settled |
//! | charge | when payments are due | charges, refunds, asks about unknown ones |
//! | cards | quarter of a second | has cards saved, opens and reads the provider's pages for them, deletes customers; behind all charges |
//! | cancel | when intents are to be canceled | cancels what was declined, is over its time, or is not wanted any more |
//! | outbox | when deliveries are due | sends mails and webhooks, one loop for each destination |
//! | events | quarter of a second | makes deliveries of what has happened, if there are endpoints |
//! | news | half a second | deals with the provider's events: reads their intents back |
//! | sweep | 5 seconds | once an hour, compares the provider's list of intents with our payments |
//! | figures | 5 seconds | counts what is left to charge |
//! | documents | minute | gives invoices and credit notes their numbers |
//! | checkouts | second | goes on with checkouts that were left half-way |
//! | grants | quarter of a second | brings releases to Redis |
//! | expiry | second | ends orders whose buyers were too late |
//! | allocate | quarter of a second | moves the lines of drops on: seal, draw, rounds |
//! | watch | second | opens and closes drops by the clock, rebuilds fenced warehouses |
//! | answers | second | in every process that answers claims: finds those that Redis forgot ([`look_after_answers`]) |
//! | settings | minute | compares the stores' settings with what keeps claims and orders |

use std::time::{Duration, Instant};

use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::beacon::BeaconClient;
use crate::domain::ids::DropName;
use crate::domain::notices::MailLane;
use crate::domain::payments::{BANK_WITHIN, DECLINE_GRACE};
use crate::domain::turns::Desk;
use crate::flows::backlog::LogWatch;
use crate::flows::charge::CHARGE_LEASE;
use crate::flows::grants::look_again;
use crate::flows::line::LineMemory;
use crate::flows::lost::AnswerWatch;
use crate::flows::outbox::{DeliverySettings, Lane};
use crate::flows::{Engine, EngineError};
use crate::provider::ProviderClient;

/// How often the claim logs are looked at for what is new in them.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Batches of one drop that are settled at the same time, of different buyers: while one is being packed or committed, Postgres
/// works on another.
const SETTLE_LANES: usize = 2;
/// For drops that are settled continuously: what a buyer waits on top of the transaction.
const SETTLE_AT_ONCE_EVERY: Duration = Duration::from_millis(50);
/// The same while nobody claims.
const SETTLE_IDLE: Duration = Duration::from_millis(250);
const GRANTS_EVERY: Duration = Duration::from_millis(250);
const WATCH_EVERY: Duration = Duration::from_secs(1);
const ANSWERS_EVERY: Duration = Duration::from_secs(1);
const SETTINGS_EVERY: Duration = Duration::from_secs(60);
const NEWS_EVERY: Duration = Duration::from_millis(500);
/// Events dealt with between two looks; at the provider's limit, 10 seconds' worth.
const NEWS_BATCH: i64 = 250;
const SWEEP_LOOKS_EVERY: Duration = Duration::from_secs(5);
/// One sweep an hour, whichever worker makes it.
const SWEEP_EVERY: SignedDuration = SignedDuration::from_hours(1);
const FIGURES_EVERY: Duration = Duration::from_secs(5);
/// A buyer who asks earlier has theirs numbered then.
const DOCUMENTS_EVERY: Duration = Duration::from_secs(60);
/// Between two looks for due payments when there were none and none has been written in this process.
const CHARGE_IDLE: Duration = Duration::from_millis(250);
/// Payments of one desk between two looks at the other loops' business; no more than its places are leased at a time.
const CHARGE_BATCH: i64 = 256;
const CARDS_EVERY: Duration = Duration::from_millis(250);
/// Cards asked about at the same time: 32 a second, above the 25 that the provider allows, and no burden beside a sale.
const CARDS_BATCH: i64 = 8;
/// Pages, and customers that end, between two looks at cards.
const SETUPS_BATCH: usize = 64;
/// Between two looks for due deliveries when there were none.
const OUTBOX_IDLE: Duration = Duration::from_millis(500);
const EVENTS_EVERY: Duration = Duration::from_millis(250);
/// A page of 1,000 mails each time: a million waiters are told in four minutes, beside everything else.
const LINE_MAILS_EVERY: Duration = Duration::from_millis(250);
const OUTBOX_LOOK_EVERY: Duration = Duration::from_secs(15);
const EXPIRE_BATCH: i64 = 500;
/// Told to stop while Postgres is away, charging tries so often to give its leases back, before others wait for these
/// to run out.
const GIVE_BACK_TRIES: u32 = 3;
/// Between two looks at the lines of drops, unless one of them needs something earlier.
const LINES_EVERY: Duration = Duration::from_millis(250);
/// After an error: long enough not to fill the log, short enough to be back when the store is.
const AFTER_ERROR: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// How long a claim waits for its order at most.
    pub settle_every: Duration,
    /// So many claims waiting are settled at once.
    pub backlog_limit: usize,
    /// Calls to the provider at the same time, beside those that cancel ([`Desk::places`]).
    pub charge_concurrency: usize,
    /// How long the payments of a worker that died wait before another one takes them up.
    pub charge_lease: SignedDuration,
    /// How long an order is kept whose buyer's bank wants them to act.
    pub bank_within: SignedDuration,
    /// How long an order of goods waits for another card after a decline.
    pub decline_grace: SignedDuration,
    /// Who is told what happens to orders. Without a lane for mails, mails wait in the outbox.
    pub lanes: Vec<Lane>,
    pub delivery: DeliverySettings,
    /// Where the rounds are to be had that decide draws.
    pub beacon: BeaconClient,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            settle_every: Duration::from_secs(30),
            backlog_limit: 5_000,
            charge_concurrency: 16,
            charge_lease: CHARGE_LEASE,
            bank_within: BANK_WITHIN,
            decline_grace: DECLINE_GRACE,
            lanes: Vec::new(),
            delivery: DeliverySettings::default(),
            beacon: BeaconClient::default(),
        }
    }
}

/// Runs all loops until `stop`; then every loop finishes its step, and what is accepted is settled once more.
pub async fn run(mut engine: Engine, provider: ProviderClient, settings: WorkerSettings, stop: CancellationToken) {
    engine.ledger.bank_within = settings.bank_within;
    engine.ledger.decline_grace = settings.decline_grace;
    engine.card_lease = settings.charge_lease;
    let tasks = TaskTracker::new();
    if !settings.lanes.iter().any(|lane| matches!(lane, Lane::Mail(..))) {
        tracing::warn!("no mail server is configured: mails to buyers wait in the outbox");
    }
    for lane in &settings.lanes {
        tasks.spawn(deliver(engine.clone(), lane.clone(), settings.delivery, stop.clone()));
    }
    tasks.spawn(repeat("outbox", OUTBOX_LOOK_EVERY, stop.clone(), {
        let (engine, lanes) = (engine.clone(), settings.lanes.clone());
        async move || engine.count_waiting_deliveries(&lanes).await
    }));
    let endpoints = settings.lanes.iter().filter_map(Lane::endpoint).map(str::to_owned).collect::<Vec<_>>();
    if !endpoints.is_empty() {
        tasks.spawn(repeat("events", EVENTS_EVERY, stop.clone(), {
            let engine = engine.clone();
            async move || engine.fan_out_events(&endpoints).await.map(|_| ())
        }));
    }
    if settings.lanes.iter().any(|lane| matches!(lane, Lane::Mail(MailLane::Lines, _))) {
        tasks.spawn(repeat("line mails", LINE_MAILS_EVERY, stop.clone(), {
            let engine = engine.clone();
            async move || engine.write_line_mails().await.map(|_| ())
        }));
    }
    tasks.spawn(settle(engine.clone(), settings.clone(), stop.clone()));
    tasks.spawn(settle_at_once(engine.clone(), stop.clone()));
    tasks.spawn(repeat("attempts", WATCH_EVERY, stop.clone(), {
        let (engine, lease) = (engine.clone(), settings.charge_lease);
        async move || engine.end_settled_attempts(lease).await.map(|_| ())
    }));
    // Told to stop, they make no new calls, end those under way and give their leases back.
    let provider = provider.until(&stop);
    for desk in [Desk::Charges, Desk::Cancels] {
        tasks.spawn(charge(desk, engine.clone(), provider.clone(), settings.clone(), stop.clone()));
    }
    tasks.spawn(repeat("cards", CARDS_EVERY, stop.clone(), {
        let (engine, provider) = (engine.clone(), provider.clone());
        async move || {
            // Buyers wait for their pages.
            engine.look_after_setups(&provider, SETUPS_BATCH).await?;
            engine.end_customers(&provider, SETUPS_BATCH).await?;
            engine.check_cards(&provider, CARDS_BATCH).await.map(|_| ())
        }
    }));
    tasks.spawn(repeat("news", NEWS_EVERY, stop.clone(), {
        let (engine, provider) = (engine.clone(), provider.clone());
        async move || {
            // Again at once while a whole batch was there.
            while engine.deal_with_events(&provider, NEWS_BATCH).await?.leased == NEWS_BATCH as usize {}
            Ok(())
        }
    }));
    tasks.spawn(repeat("sweep", SWEEP_LOOKS_EVERY, stop.clone(), {
        let (engine, provider) = (engine.clone(), provider.clone());
        async move || {
            if let Some(report) = engine.sweep_if_due(&provider, SWEEP_EVERY).await? {
                let (intents, findings) = (report.intents, report.findings.len());
                tracing::info!(intents, findings, "compared {intents} intents of the provider's: {findings} findings");
            }
            Ok(())
        }
    }));
    tasks.spawn(repeat("figures", FIGURES_EVERY, stop.clone(), {
        let engine = engine.clone();
        async move || engine.measure_payments(&provider).await
    }));
    tasks.spawn(repeat("documents", DOCUMENTS_EVERY, stop.clone(), {
        let engine = engine.clone();
        async move || engine.issue_documents().await
    }));
    tasks.spawn(bring_back(engine.clone(), stop.clone()));
    tasks.spawn(allocate(engine.clone(), settings.beacon.clone(), stop.clone()));
    tasks.spawn(repeat("checkouts", WATCH_EVERY, stop.clone(), {
        let engine = engine.clone();
        async move || engine.finish_checkouts().await.map(|_| ())
    }));
    tasks.spawn(repeat("expiry", WATCH_EVERY, stop.clone(), {
        let engine = engine.clone();
        async move || {
            // Again at once while a whole batch was there and ended.
            while engine.expire_unpaid(EXPIRE_BATCH).await? == EXPIRE_BATCH as usize {}
            Ok(())
        }
    }));
    tasks.spawn(repeat("watch", WATCH_EVERY, stop.clone(), {
        let engine = engine.clone();
        async move || {
            engine.run_schedule().await?;
            engine.rebuild_fenced().await.map(|_| ())
        }
    }));
    tasks.spawn(repeat("settings", SETTINGS_EVERY, stop, async move || {
        let drops = engine.ledger.loaded_drops().await?;
        for problem in engine.configuration_problems(&drops).await? {
            tracing::error!(problem, "a setting can lose claims or orders: {problem}");
        }
        Ok(())
    }));
    tasks.close();
    tasks.wait().await;
    tracing::info!("all workers have stopped");
}

/// Looks after what this process has answered, until `stop`. In every process that claims, once, with or without workers.
pub async fn look_after_answers(engine: Engine, stop: CancellationToken) {
    let mut watch = AnswerWatch::default();
    while !pause(ANSWERS_EVERY, &stop).await {
        if let Err(error) = engine.look_after_answers(&mut watch).await {
            tracing::warn!(%error, "the claims that were answered could not be looked after: {error}");
            pause(AFTER_ERROR, &stop).await;
        }
    }
}

/// Settles every drop's backlog now, until nothing is left. A drop that cannot be settled keeps none of the others from it;
/// its error is the answer.
pub async fn settle_all(engine: &Engine) -> Result<usize, EngineError> {
    let (mut settled, mut failed) = (0, None);
    for drop in engine.ledger.loaded_drops().await?.iter().filter(|drop| drop.was_loaded()) {
        match settle_drop(engine, &drop.name).await {
            Ok(of_drop) => settled += of_drop,
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(settled), Err)
}

async fn settle_drop(engine: &Engine, name: &DropName) -> Result<usize, EngineError> {
    let mut settled = 0;
    while let Some(backlog) = engine.backlog_in_lanes(name, SETTLE_LANES).await? {
        let report = engine.settle(&backlog).await?;
        settled += report.settled;
        let is_moving = report.settled + report.duplicates + report.rejected + report.poisoned > 0;
        if !is_moving || !(backlog.is_cut || report.is_cut) {
            break;
        }
    }
    Ok(settled)
}

async fn settle(engine: Engine, settings: WorkerSettings, stop: CancellationToken) {
    let (mut last, mut watch) = (Instant::now(), LogWatch::default());
    loop {
        let stopping = pause(LOOK_EVERY.min(settings.settle_every), &stop).await;
        match settle_if_due(&engine, &settings, &mut watch, &mut last, stopping).await {
            Ok(()) if stopping => return,
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, "settlement could not finish its round: {error}");
                if stopping || pause(AFTER_ERROR, &stop).await {
                    return;
                }
            }
        }
    }
}

async fn settle_if_due(
    engine: &Engine,
    settings: &WorkerSettings,
    watch: &mut LogWatch,
    last: &mut Instant,
    stopping: bool,
) -> Result<(), EngineError> {
    let waiting = engine.watch_backlogs(watch).await?;
    let is_time = stopping || last.elapsed() >= settings.settle_every;
    if is_time || waiting >= settings.backlog_limit {
        let settled = settle_all(engine).await?;
        if settled > 0 {
            tracing::info!(settled, "settled {settled} claims");
        }
        // What has just been settled is not waiting any more, and the gauges should say so.
        engine.watch_backlogs(watch).await?;
    }
    if is_time {
        *last = Instant::now();
    }
    Ok(())
}

/// Settles the drops whose buyers wait for it.
async fn settle_at_once(engine: Engine, stop: CancellationToken) {
    let (mut names, mut looked, mut wait) = (Vec::new(), None::<Instant>, SETTLE_AT_ONCE_EVERY);
    while !pause(wait, &stop).await {
        let round = async {
            if looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                names = engine.ledger.drops_settled_at_once().await?;
                looked = Some(Instant::now());
            }
            let mut claims = 0;
            for name in &names {
                if let Some(backlog) = engine.backlog(name).await? {
                    claims += backlog.claims();
                    engine.settle(&backlog).await?;
                }
            }
            Ok::<_, EngineError>(claims)
        };
        wait = match round.await {
            Ok(0) if names.is_empty() => LOOK_EVERY,
            Ok(0) => (wait * 2).min(SETTLE_IDLE),
            Ok(_) => SETTLE_AT_ONCE_EVERY,
            Err(error) => {
                tracing::warn!(%error, "settlement at once could not finish its round: {error}");
                AFTER_ERROR
            }
        };
    }
}

async fn charge(
    desk: Desk,
    engine: Engine,
    provider: ProviderClient,
    settings: WorkerSettings,
    stop: CancellationToken,
) {
    let WorkerSettings { charge_concurrency, charge_lease, .. } = settings;
    while !stop.is_cancelled() {
        // From before the look, so that none which is written meanwhile is missed.
        let mut written = std::pin::pin!(engine.payments_written());
        written.as_mut().enable();
        match engine.charge_due_leasing(desk, &provider, CHARGE_BATCH, charge_concurrency, charge_lease).await {
            Ok(report) if report.leased > 0 => {}
            Ok(_) if desk == Desk::Cancels => {
                pause(CHARGE_IDLE, &stop).await;
            }
            Ok(_) => {
                // What another process writes is seen after the pause.
                let _ = stop.run_until_cancelled(tokio::time::timeout(CHARGE_IDLE, written)).await;
            }
            Err(error) => {
                tracing::warn!(%error, "charging could not finish its round: {error}");
                pause(AFTER_ERROR, &stop).await;
            }
        }
    }
    for _ in 0..GIVE_BACK_TRIES {
        match engine.give_back_owed().await {
            Ok(_) => return,
            Err(error) => tracing::warn!(%error, "leases of payments could not be given back: {error}"),
        }
        tokio::time::sleep(AFTER_ERROR).await;
    }
}

/// Puts units that come back on sale as soon as they may be.
async fn bring_back(engine: Engine, stop: CancellationToken) {
    let mut wait = GRANTS_EVERY;
    while !pause(wait, &stop).await {
        wait = match engine.apply_grants().await {
            Ok(report) => look_again(&report, GRANTS_EVERY),
            Err(error) => {
                tracing::warn!(%error, "units that come back could not all be put on sale: {error}");
                AFTER_ERROR
            }
        };
    }
}

/// Moves the lines of drops on: seals them, draws, and gives units in rounds.
async fn allocate(engine: Engine, beacon: BeaconClient, stop: CancellationToken) {
    let (mut memory, mut wait) = (LineMemory::default(), LINES_EVERY);
    while !pause(wait, &stop).await {
        wait = match engine.run_lines(&beacon, &mut memory).await {
            Ok(report) => {
                let now = engine.clock.now();
                let until = report.next.map_or(SignedDuration::MAX, |next| next.duration_since(now));
                Duration::try_from(until).unwrap_or_default().min(LINES_EVERY)
            }
            Err(error) => {
                tracing::warn!(%error, "a line could not be moved on: {error}");
                AFTER_ERROR
            }
        };
    }
}

async fn deliver(engine: Engine, lane: Lane, settings: DeliverySettings, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let wait = match engine.deliver_due(&lane, settings, &stop).await {
            Ok(report) => match report.rest {
                // What is to be waited for has a bound of its own, so this never fails.
                Some(rest) => Duration::try_from(rest).unwrap_or(AFTER_ERROR),
                None if report.leased > 0 => continue,
                None => OUTBOX_IDLE,
            },
            Err(error) => {
                let lane = lane.name();
                tracing::warn!(lane, %error, "the outbox could not finish its round for {lane}: {error}");
                AFTER_ERROR
            }
        };
        pause(wait, &stop).await;
    }
}

async fn repeat(
    name: &'static str,
    every: Duration,
    stop: CancellationToken,
    step: impl AsyncFn() -> Result<(), EngineError>,
) {
    while !pause(every, &stop).await {
        if let Err(error) = step().await {
            tracing::warn!(%error, "the {name} worker could not finish its round: {error}");
            pause(AFTER_ERROR, &stop).await;
        }
    }
}

/// Waits; `true` at once when it is time to stop.
async fn pause(wait: Duration, stop: &CancellationToken) -> bool {
    stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none()
}
