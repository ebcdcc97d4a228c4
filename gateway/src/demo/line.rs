//! The demo of a line: the buyers stand in it over HTTP, it is sealed, a beacon decides the order, and rounds give the
//! units. Nobody has to be there when it is their turn; most of this crowd are not.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use doorbuster_engine::beacon::BeaconClient;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::drops::{NewDrop, NewVariant, SaleDrop};
use doorbuster_engine::domain::ids::DropName;
use doorbuster_engine::domain::line::beacon::Chain;
use doorbuster_engine::domain::line::draw::Timing;
use doorbuster_engine::domain::line::rules::Beacon as BeaconRule;
use doorbuster_engine::domain::line::schedule::undecided;
use doorbuster_engine::domain::line::state::LineState;
use doorbuster_engine::domain::line::terms::{CAPACITY, LineTerms, NewLine, REVEAL_AFTER};
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::line::BoardRow;
use doorbuster_engine::provider::ProviderClient;
use doorbuster_engine::workers::WorkerSettings;
use doorbuster_sandbox::beacon::{Beacon, BeaconOptions};
use doorbuster_sandbox::crowd::{Crowd, CrowdOptions, LineCrowd, LineLog};
use doorbuster_sandbox::provider::{FakeClock, FakeProvider};
use doorbuster_sandbox::smtp_sink::SmtpSink;
use doorbuster_sandbox::{Postgres, Redis, Sandbox};
use jiff::{SignedDuration, Timestamp};
use rand::RngExt as _;
use tokio_util::sync::CancellationToken;

use super::line_report::in_vain;
use super::options::DemoOptions;
use super::sale::{
    CHAOS_TRIES_MAX, CONNECTIONS, DOUBLE_CLICK_RATE, JWT_SECRET, PRICE_MINOR, RECEIPT_KEYS, Servers, TRIES_MAX,
    charges_at_a_time, check, leave_settings, mails, mint, new_drop,
};
use super::screen::Screen;
use super::shop::{Processes, Shop, Stores};
use super::timeline::Event;
use crate::receipt::ReceiptKey;
use crate::{Gateway, GatewayConfig, Secret, Workers};

const SKUS: [(&str, &str); 3] = [("SHOE-41", "EU 41"), ("SHOE-42", "EU 42"), ("SHOE-43", "EU 43")];
/// Joins come within this, for each ten thousand buyers.
const ARRIVAL_OF_TEN_THOUSAND: Duration = Duration::from_secs(5);
/// The line is sealed so long after it should be complete. Who comes later all the same stands behind.
const SEAL_PATIENCE: Duration = Duration::from_secs(1);
/// Gateway and Redis are struck while the line is open.
const FAULTS_PATIENCE: Duration = Duration::from_secs(3);
/// Of the stock, so many parts make the ranks of a round.
const PARTS_PER_ROUND: u32 = 2;
/// From a round of the beacon to the next, in seconds.
const BEACON_PERIOD: u32 = 1;
/// The drop is open for longer than any demo takes.
const OPEN_FOR: SignedDuration = SignedDuration::from_hours(2);
/// The line opens at once, and the draw is held at its time. A try that was void takes many times as long.
const STEP_LIMIT: Duration = Duration::from_secs(60);
/// What is charged and told behind the last round takes at most this.
const REST_LIMIT: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A running line with everything it needs. What is dropped with it: servers, folder, all of it.
pub struct LineDemo {
    pub options: DemoOptions,
    pub engine: Engine,
    pub provider: FakeProvider,
    pub provider_client: ProviderClient,
    pub shop: Shop,
    /// Where the line is, for tests that doctor it.
    pub database_url: String,
    pub drop: DropName,
    /// What the buyers did and were told.
    pub log: LineLog,
    pub(super) postgres: Postgres,
    pub(super) mailbox: SmtpSink,
    pub(super) stages: Stages,
    /// When its drop was made: nobody could look at its board before.
    pub(super) made: Instant,
    /// Boards that had been read by then.
    pub(super) reads_before: u64,
    pub(super) events: Vec<Event>,
    pub(super) redis: Redis,
    crowd: Crowd,
    line: LineCrowd,
    chain: Chain,
    sandbox: Sandbox,
    _beacon: Beacon,
}

/// How long each stage took.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Stages {
    pub profiles_s: f64,
    /// From the opening of the line to its seal.
    pub joining_s: f64,
    /// From the seal to the draw.
    pub reveal_s: f64,
    /// From the draw to the first round.
    pub until_opening_s: f64,
    /// From the first round until everybody is decided, and all is charged and told.
    pub rounds_s: f64,
}

/// What the demo waits for, read from Postgres.
pub(super) struct LineStanding {
    pub(super) board: BoardRow,
    pub(super) undecided: u32,
    pub(super) pending: u64,
    pub(super) confirmed: u64,
    pub(super) failed: u64,
    /// To be sent, or to be written to everybody in the line.
    pub(super) mails: u64,
}

impl LineDemo {
    /// Starts the servers, the gateway and its workers.
    pub async fn open(options: DemoOptions, screen: &Screen) -> anyhow::Result<Self> {
        let settle_every = check(&options)?;
        check_line(&options)?;
        let Servers { sandbox, redis, postgres, provider, provider_client, mailbox, database_url, engine } =
            Servers::start(&options, screen).await?;
        let genesis = engine.clock.now().as_second() - 60;
        let beacon =
            BeaconOptions { period_seconds: BEACON_PERIOD, ..BeaconOptions::new(genesis, FakeClock::system()) };
        let beacon = Beacon::start(beacon).await?;
        let chain = Chain::from_info(&beacon.info())?;
        let shop = if options.chaos {
            screen.step("starting gateway and worker as processes of their own");
            let (redis_url, smtp_url, beacon_url) = (redis.url(), mailbox.url(), Some(beacon.url().to_owned()));
            let stores =
                Stores { redis_url, database_url: &database_url, jwt_secret: JWT_SECRET, smtp_url, beacon_url };
            let at_a_time = charges_at_a_time(&options);
            let processes = Processes::start(&sandbox, &stores, &provider, options.settle_every, at_a_time);
            Shop::Apart(Box::new(processes.await?))
        } else {
            let workers = Workers {
                provider: provider_client.clone(),
                settings: WorkerSettings {
                    settle_every,
                    lanes: mails(&mailbox)?.into(),
                    beacon: BeaconClient::new(vec![beacon.url().parse()?])?,
                    ..WorkerSettings::default()
                },
            };
            let receipt_keys = ReceiptKey::parse_list(&Secret::from(RECEIPT_KEYS.to_owned()))?;
            let config = GatewayConfig { receipt_keys, ..GatewayConfig::on_free_ports(JWT_SECRET) };
            Shop::Here(Box::new(Gateway::start(config, engine.clone(), Some(workers)).await?))
        };
        let drop = new_drop(&options, engine.clock.now())?.name;
        let crowd = Crowd::new(CrowdOptions {
            buyers: options.buyers,
            seed: options.seed,
            quantity_max: options.limit,
            double_click_rate: DOUBLE_CLICK_RATE,
            decline_rate: options.decline_rate,
            arrive_within: arrive_within(&options),
            tries_max: if options.chaos { CHAOS_TRIES_MAX } else { TRIES_MAX },
            connections: CONNECTIONS,
            ..CrowdOptions::new(
                format!("http://{}", shop.public_addr()),
                drop.as_str(),
                SKUS.map(|(sku, _)| sku.to_owned()).to_vec(),
                mint(engine.clock.clone()),
            )
        })?;
        let line = crowd.before_a_line()?;
        let (log, stages, made) = (LineLog::default(), Stages::default(), Instant::now());
        Ok(Self {
            options,
            engine,
            provider,
            provider_client,
            shop,
            database_url,
            drop,
            log,
            postgres,
            mailbox,
            stages,
            made,
            reads_before: 0,
            crowd,
            events: Vec::new(),
            redis,
            line,
            chain,
            sandbox,
            _beacon: beacon,
        })
    }

    /// Makes the drop, lets the buyers into its line, and waits until every rank is decided and every order has come to
    /// its end.
    pub async fn run(&mut self, screen: &Screen) -> anyhow::Result<()> {
        let began = Instant::now();
        let bar = screen.watch_profiles(&self.crowd, self.options.buyers);
        let saved = self.crowd.save_profiles().await;
        drop(bar);
        saved?;
        self.stages.profiles_s = began.elapsed().as_secs_f64();

        (self.made, self.reads_before) = (Instant::now(), self.shop.board_reads(&self.drop).await?);
        let new = new_line_drop(&self.options, &self.chain, self.joining(), self.engine.clock.now())?;
        self.engine.create_drop(&new, rand::rng().random()).await?.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
        let opens =
            self.until("the line opens", STEP_LIMIT, |standing| standing.board.line.state != LineState::Planned);
        opens.await?;
        let reveal = self.options.reveal_after;
        if reveal < REVEAL_AFTER {
            screen.step(&format!(
                "{reveal:#} from the seal to the draw are for this demo; a real line takes {REVEAL_AFTER:#}"
            ));
        }
        screen.step(&format!("{} buyers join; most close their tab and never ask again", self.options.buyers));
        let over = CancellationToken::new();
        let standing = tokio::spawn({
            let (line, over) = (self.line.clone(), over.clone());
            async move { line.stand_in_line(over).await }
        });
        let faults = async {
            match &self.shop {
                Shop::Apart(processes) => self.strike(processes, screen).await,
                Shop::Here(_) => Ok(Vec::new()),
            }
        };
        let held = tokio::try_join!(self.hold(screen), faults);
        over.cancel();
        self.log = standing.await.context("the buyers' task")?;
        let (stages, events) = held?;
        self.events = events;
        self.stages = Stages { profiles_s: self.stages.profiles_s, ..stages };
        Ok(())
    }

    /// Seal, draw and rounds, as the worker holds them.
    async fn hold(&self, screen: &Screen) -> anyhow::Result<Stages> {
        let bars = screen.line(self.options.buyers, self.options.stock);
        let mut stages = Stages::default();
        let mut stage = Instant::now();
        let mut lap = || std::mem::replace(&mut stage, Instant::now()).elapsed().as_secs_f64();
        let patience = STEP_LIMIT + self.joining();
        let show = |standing: &LineStanding| bars.show(&self.line.progress(), standing);
        self.until("the line is sealed", patience, |standing| {
            show(standing);
            standing.board.line.state.is_sealed()
        })
        .await?;
        stages.joining_s = lap();
        screen.step("the line is sealed: who comes now stands behind");
        let reveal = Duration::try_from(self.options.reveal_after)?;
        let drawn = self.until("the line is drawn", STEP_LIMIT + reveal * 20, |standing| {
            show(standing);
            standing.board.line.drawn.is_some()
        });
        let board = drawn.await?.board;
        stages.reveal_s = lap();
        let (count, round) = (board.line.sealed.map_or(0, |sealed| sealed.count), board.line.beacon_round);
        screen.step(&format!("drawn by round {} of the beacon: {count} know their rank", round.unwrap_or_default()));
        self.until("the first round begins", STEP_LIMIT + reveal, |standing| {
            show(standing);
            standing.board.line.round.is_some()
        })
        .await?;
        stages.until_opening_s = lap();
        self.until_over(&show).await?;
        stages.rounds_s = lap();
        Ok(stages)
    }

    /// How long the line is open: a join takes this machine about as long as a profile.
    fn joining(&self) -> Duration {
        let arrival = arrive_within(&self.options).mul_f64(1.5);
        let faults = if self.options.chaos { FAULTS_PATIENCE } else { Duration::ZERO };
        arrival.max(Duration::from_secs_f64(self.stages.profiles_s)) + SEAL_PATIENCE + faults
    }

    async fn until(
        &self,
        what: &str,
        limit: Duration,
        is_so: impl Fn(&LineStanding) -> bool,
    ) -> anyhow::Result<LineStanding> {
        let deadline = Instant::now() + limit;
        loop {
            let standing = self.standing().await?;
            if is_so(&standing) {
                return Ok(standing);
            }
            if Instant::now() >= deadline {
                bail!("waited {limit:?} until {what}: it is {}", standing.board.line.state);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Until every rank is decided and nobody who still waits could be given what is free.
    async fn until_over(&self, show: &impl Fn(&LineStanding)) -> anyhow::Result<()> {
        let standing = self.standing().await?;
        let every = Duration::try_from(self.options.round_every)?;
        let rounds = standing.undecided.div_ceil(per_round(&self.options)) + 20;
        let limit = every * rounds + REST_LIMIT;
        let deadline = Instant::now() + limit;
        loop {
            let standing = self.standing().await?;
            show(&standing);
            if self.is_over(&standing) && in_vain(&self.engine, &self.sale_drop().await?).await?.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let LineStanding { undecided, pending, mails, .. } = standing;
                bail!("not over after {limit:?}: {undecided} ranks, {pending} orders, {mails} mails are open");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Every rank is decided, every order has come to its end and everybody has been told.
    pub(super) fn is_over(&self, standing: &LineStanding) -> bool {
        let line = &standing.board.line;
        let is_decided = line.round.is_some() && !line.is_in_round() && standing.undecided == 0;
        (line.state == LineState::Closed || is_decided) && standing.pending == 0 && standing.mails == 0
    }

    /// Buyers who have been told that they are in line.
    pub(super) fn joined(&self) -> u64 {
        self.line.progress().joined
    }

    pub(super) async fn standing(&self) -> anyhow::Result<LineStanding> {
        let drop = self.sale_drop().await?;
        let board = self.engine.ledger.line_board(drop.id).await?.context("the drop has no line")?;
        let counts = self.engine.ledger.order_counts(drop.id).await?;
        let of = |state: OrderState| counts.get(&state).copied().unwrap_or_default();
        Ok(LineStanding {
            undecided: undecided(&board.line, board.last_number),
            pending: of(OrderState::PendingPayment),
            confirmed: OrderState::ALL.into_iter().filter(|state| state.is_sold()).map(of).sum(),
            failed: of(OrderState::PaymentFailed),
            mails: self
                .engine
                .ledger
                .waiting_deliveries()
                .await?
                .values()
                .map(|count| count.cast_unsigned())
                .sum::<u64>()
                + self.engine.ledger.lines_to_tell().await?.len() as u64,
            board,
        })
    }

    pub(super) async fn sale_drop(&self) -> anyhow::Result<SaleDrop> {
        self.engine.ledger.drop_by_name(&self.drop).await?.context("the drop is gone")
    }

    /// As [`super::Demo::keep_logs`].
    pub fn keep_logs(&self) -> Option<PathBuf> {
        let Shop::Apart(processes) = &self.shop else { return None };
        processes.keep_logs(self.sandbox.folder()).ok()
    }

    /// As [`super::Demo::leave_settings`].
    pub fn leave_settings(&self) -> anyhow::Result<PathBuf> {
        leave_settings(
            self.sandbox.folder(),
            &self.database_url,
            &self.redis,
            &self.provider,
            &self.mailbox,
            &self.shop,
        )
    }
}

fn arrive_within(options: &DemoOptions) -> Duration {
    let given = options.arrive_within.and_then(|within| Duration::try_from(within).ok());
    given.unwrap_or_else(|| ARRIVAL_OF_TEN_THOUSAND.mul_f64((options.buyers as f64 / 10_000.0).max(0.1)))
}

pub(super) fn per_round(options: &DemoOptions) -> u32 {
    options.per_round.unwrap_or(options.stock.div_ceil(PARTS_PER_ROUND)).max(1)
}

/// What cannot be held is refused before anything is started.
fn check_line(options: &DemoOptions) -> anyhow::Result<()> {
    if (options.stock as usize) < SKUS.len() {
        bail!("--stock must be at least {}: there are so many sizes", SKUS.len());
    }
    Ok(new_line_drop(options, &Chain::quicknet(), SEAL_PATIENCE, Clock::System.now())?.check()?)
}

fn new_line_drop(options: &DemoOptions, chain: &Chain, joining: Duration, now: Timestamp) -> anyhow::Result<NewDrop> {
    let parts = u32::try_from(SKUS.len())?;
    let variants = (0..parts).zip(SKUS).map(|(number, (sku, title))| NewVariant {
        sku: sku.to_owned(),
        title: title.to_owned(),
        price_minor: PRICE_MINOR,
        stock_units: options.stock / parts + u32::from(number < options.stock % parts),
    });
    let seal_at = now + SignedDuration::try_from(joining)?;
    let opens_at = seal_at + Timing::new(options.reveal_after).seal_before_opening();
    let terms = LineTerms {
        admission: options.admission,
        line_opens_at: now,
        seal_at,
        reveal_after: options.reveal_after,
        round_every: options.round_every,
        per_round: per_round(options),
        capacity: CAPACITY,
        requires_card: true,
        then_open: false,
        beacon: BeaconRule::Drand(chain.clone()),
    };
    Ok(NewDrop {
        variants: variants.collect(),
        opens_at: Some(opens_at),
        closes_at: Some(opens_at + OPEN_FOR),
        pay_by: opens_at + OPEN_FOR + SignedDuration::from_hours(1),
        line: Some(NewLine { terms, secret: None }),
        ..new_drop(options, now)?
    })
}
