//! The sale itself: servers, drop, buyers, and the wait until every order has come to its end.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use doorbuster_engine::domain::claims::Acknowledgement;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::drops::{NewDrop, NewVariant, PayTerms};
use doorbuster_engine::domain::ids::DropName;
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::flows::outbox::Lane;
use doorbuster_engine::ledger::Ledger;
use doorbuster_engine::mail::{MailSettings, Mailer};
use doorbuster_engine::provider::{ProviderClient, ProviderSettings, RateLimit};
use doorbuster_engine::tokens::store::TokenStore;
use doorbuster_engine::workers::WorkerSettings;
use doorbuster_sandbox::crowd::{BuyersLog, Crowd, CrowdOptions, Mint};
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use doorbuster_sandbox::smtp_sink::{SmtpSink, SmtpSinkOptions};
use doorbuster_sandbox::{Postgres, Redis, Sandbox};
use jiff::{SignedDuration, Timestamp};
use rand::RngExt as _;
use tokio_util::sync::CancellationToken;

use super::options::DemoOptions;
use super::screen::Screen;
use super::shop::{Processes, Shop, Stores};
use super::timeline::{Event, Timeline};
use crate::receipt::ReceiptKey;
use crate::{Gateway, GatewayConfig, Secret, Workers, auth};

/// Known to everybody who reads this: the demo's servers live on loopback, for as long as it runs.
pub(super) const JWT_SECRET: &str = "a secret that only the demo uses, and everybody knows";
pub(super) const RECEIPT_KEYS: &str = "demo=a key that only the demo uses to sign receipts";
const SKU: &str = "SHOE-42";
pub(super) const PRICE_MINOR: i64 = 14_900;
/// Who writes to the demo's buyers. Nobody has this domain (RFC 2606).
pub(super) const MAIL_FROM: &str = "Doorbuster <orders@shop.invalid>";
const DATABASE_CONNECTIONS: usize = 24;
/// Requests under way at the same time: enough to keep every batch full, few enough for a laptop's open files.
pub(super) const CONNECTIONS: usize = 256;
/// With the waits of `crowd/shop.rs` nine seconds.
pub(super) const TRIES_MAX: u32 = 10;
/// First clicks come within this, for each ten thousand buyers.
const ARRIVAL_OF_TEN_THOUSAND: Duration = Duration::from_secs(2);
/// With faults they take their time, so that the faults find somebody there.
const CHAOS_ARRIVAL_OF_TEN_THOUSAND: Duration = Duration::from_secs(20);
/// Two rounds of faults take about so long, however few the buyers.
const CHAOS_ARRIVAL_MIN: Duration = Duration::from_secs(8);
/// With the waits of `crowd/shop.rs` more than a minute: twice what warehouses behind a lease may stay closed.
pub(super) const CHAOS_TRIES_MAX: u32 = 40;
/// Two calls an order, 90 ms each, sixteen at a time: a thousand orders are charged for eleven seconds.
const CHAOS_PROVIDER_DELAY: Range<Duration> = Duration::from_millis(30)..Duration::from_millis(150);
/// Small sales are charged a few at a time, so that they too are charged for some seconds.
const CHAOS_ORDERS_PER_CHARGE: u32 = 60;
const CHARGE_CONCURRENCY: u32 = 16;
pub(super) const DOUBLE_CLICK_RATE: f64 = 0.1;
/// The sale is over when nothing has changed for so long and no order waits for its payment.
const QUIET: Duration = Duration::from_secs(4);
/// Whatever happens, the wait for that ends.
const WAIT_LIMIT: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A running sale with everything it needs. What is dropped with it: servers, folder, all of it.
pub struct Demo {
    pub options: DemoOptions,
    pub engine: Engine,
    pub provider: FakeProvider,
    pub provider_client: ProviderClient,
    pub shop: Shop,
    /// Where the orders are, for tests that doctor them.
    pub database_url: String,
    pub drop: DropName,
    /// What the buyers did and were told.
    pub log: BuyersLog,
    pub(super) crowd: Crowd,
    pub(super) redis: Redis,
    pub(super) postgres: Postgres,
    pub(super) mailbox: SmtpSink,
    pub(super) elapsed: Duration,
    pub(super) events: Vec<Event>,
    sandbox: Sandbox,
    patience_over: CancellationToken,
}

/// What the demo waits for, read from the stores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) free: u64,
    pub(super) unsettled: u64,
    pub(super) pending: u64,
    pub(super) confirmed: u64,
    pub(super) failed: u64,
    /// To be sent.
    pub(super) mails: u64,
}

/// What a sale needs, apart from whoever serves and works.
pub(super) struct Servers {
    pub(super) sandbox: Sandbox,
    pub(super) redis: Redis,
    pub(super) postgres: Postgres,
    pub(super) provider: FakeProvider,
    pub(super) provider_client: ProviderClient,
    pub(super) mailbox: SmtpSink,
    pub(super) database_url: String,
    pub(super) engine: Engine,
}

impl Servers {
    pub(super) async fn start(options: &DemoOptions, screen: &Screen) -> anyhow::Result<Self> {
        screen.step("starting a private Redis, Postgres, payment provider and mail server");
        let sandbox = Sandbox::temporary()?;
        let (redis, postgres) = tokio::try_join!(sandbox.redis(), sandbox.postgres())?;
        let delay = if options.chaos { CHAOS_PROVIDER_DELAY } else { Range::default() };
        let provider = FakeProviderOptions {
            seed: options.seed,
            delay,
            // In a line, one card has one place.
            every_card_is_another: options.admission.has_line(),
            ..FakeProviderOptions::default()
        };
        let provider = FakeProvider::start(provider).await?;
        let provider_client = ProviderClient::new(ProviderSettings {
            base_url: provider.url().to_owned(),
            secret_key: provider.secret_key().to_owned().into(),
            connect_timeout: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(20),
        })?;
        let mailbox = SmtpSink::start(SmtpSinkOptions { seed: options.seed, ..SmtpSinkOptions::default() }).await?;
        let provider_client = provider_client.limited_to(match options.provider_rate {
            Some(rate) => RateLimit { per_second: rate.get(), ..RateLimit::default() },
            // This provider lives on loopback and has no limit; the screen would wait for nothing.
            None => RateLimit::NONE,
        });
        let database_url = postgres.create_database("doorbuster").await?;
        let ledger = Ledger::new(&database_url, DATABASE_CONNECTIONS)?;
        ledger.migrate().await?;
        let engine = Engine::new(ledger, TokenStore::connect(&redis.url()).await?, Clock::System);
        Ok(Self { sandbox, redis, postgres, provider, provider_client, mailbox, database_url, engine })
    }
}

impl Demo {
    /// Starts the servers, makes the drop and opens it.
    pub async fn open(options: DemoOptions, screen: &Screen) -> anyhow::Result<Self> {
        let settle_every = check(&options)?;
        let Servers { sandbox, redis, postgres, provider, provider_client, mailbox, database_url, engine } =
            Servers::start(&options, screen).await?;

        screen.step(&format!("opening the drop: {} units in {} warehouses", options.stock, options.warehouses));
        let drop = create(&engine, &options).await?;
        let shop = if options.chaos {
            screen.step("starting gateway and worker as processes of their own");
            let (redis_url, smtp_url) = (redis.url(), mailbox.url());
            let stores =
                Stores { redis_url, database_url: &database_url, jwt_secret: JWT_SECRET, smtp_url, beacon_url: None };
            let processes =
                Processes::start(&sandbox, &stores, &provider, options.settle_every, charges_at_a_time(&options));
            Shop::Apart(Box::new(processes.await?))
        } else {
            let workers = Workers {
                provider: provider_client.clone(),
                settings: WorkerSettings { settle_every, lanes: mails(&mailbox)?.into(), ..WorkerSettings::default() },
            };
            let receipt_keys = ReceiptKey::parse_list(&Secret::from(RECEIPT_KEYS.to_owned()))?;
            let config = GatewayConfig { receipt_keys, ..GatewayConfig::on_free_ports(JWT_SECRET) };
            Shop::Here(Box::new(Gateway::start(config, engine.clone(), Some(workers)).await?))
        };

        let patience_over = CancellationToken::new();
        let crowd = Crowd::new(CrowdOptions {
            buyers: options.buyers,
            seed: options.seed,
            quantity_max: options.limit,
            double_click_rate: DOUBLE_CLICK_RATE,
            decline_rate: options.decline_rate,
            arrive_within: arrive_within(&options),
            tries_max: if options.chaos { CHAOS_TRIES_MAX } else { TRIES_MAX },
            connections: CONNECTIONS,
            // They get what declined cards give back.
            patient_rate: options.patient,
            patience: WAIT_LIMIT,
            stop: patience_over.clone(),
            ..CrowdOptions::new(
                format!("http://{}", shop.public_addr()),
                drop.as_str(),
                vec![SKU.to_owned()],
                mint(engine.clock.clone()),
            )
        })?;
        let elapsed = Duration::ZERO;
        let log = BuyersLog::default();
        Ok(Self {
            options,
            engine,
            provider,
            provider_client,
            shop,
            database_url,
            drop,
            log,
            crowd,
            redis,
            postgres,
            mailbox,
            elapsed,
            events: Vec::new(),
            sandbox,
            patience_over,
        })
    }

    /// Lets the buyers in, and waits until every order has come to its end.
    pub async fn sell(&mut self, screen: &Screen) -> anyhow::Result<()> {
        let bar = screen.watch_profiles(&self.crowd, self.options.buyers);
        let saved = self.crowd.save_profiles().await;
        drop(bar);
        saved?;
        screen.step(&format!("{} buyers click", self.options.buyers));
        let started = Instant::now();
        let rush = tokio::spawn({
            let crowd = self.crowd.clone();
            async move { crowd.rush().await }
        });
        let struck = CancellationToken::new();
        let faults = async {
            let events = match &self.shop {
                Shop::Apart(processes) => self.strike(processes, screen, started).await?,
                Shop::Here(_) => Vec::new(),
            };
            struck.cancel();
            Ok(events)
        };
        let waited = tokio::try_join!(faults, self.wait_until_quiet(screen, &struck));
        self.patience_over.cancel();
        self.log = rush.await.context("the buyers' task")?;
        self.elapsed = started.elapsed();
        (self.events, ()) = waited?;
        Ok(())
    }

    async fn wait_until_quiet(&self, screen: &Screen, struck: &CancellationToken) -> anyhow::Result<()> {
        let bars = screen.sale(self.options.buyers, self.options.stock);
        let deadline = Instant::now() + WAIT_LIMIT;
        let mut last = (Standing::default(), 0);
        let mut changed = Instant::now();
        while Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
            // In the order of a claim's way, so that none passes between two of these looks.
            let (progress, unanswered) = (self.crowd.progress(), self.clicks_unanswered());
            let standing = match self.standing().await {
                Ok(standing) => standing,
                // Redis is away, or a warehouse is closed: there is nothing to see, and all will be rebuilt.
                Err(_) if self.options.chaos => continue,
                Err(error) => return Err(error),
            };
            bars.show(&progress, &standing);
            // A unit that comes back rests for longer than two looks are apart: it is seen here, or in the standing.
            let ledger = &self.engine.ledger;
            let coming_back = ledger.resting_units().await?.len() + ledger.pending_grants().await?.len();
            if (standing, coming_back) != last {
                (last, changed) = ((standing, coming_back), Instant::now());
            }
            let everybody_clicked = progress.clicked as usize >= self.options.buyers;
            let at_rest = everybody_clicked
                && unanswered == 0
                && standing.unsettled == 0
                && standing.pending == 0
                && standing.mails == 0
                && struck.is_cancelled();
            let all_sold = standing.free == 0 && coming_back == 0;
            if at_rest && (changed.elapsed() > QUIET || (all_sold && changed.elapsed() > 2 * LOOK_EVERY)) {
                return Ok(());
            }
        }
        bail!("orders are still open after {WAIT_LIMIT:?}: {:?}", last.0)
    }

    /// What happened to the sale, with what it did to the buyers' calls. `None` if nothing was to happen.
    pub(super) fn timeline(&self) -> Option<Timeline> {
        self.options.chaos.then(|| Timeline::new(self.events.clone(), &self.log))
    }

    /// Writes a file of settings that lead to this sale, for a shell: `. FILE`. It goes with the sale.
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

    /// Copies the logs of servers and processes to a folder that stays when this sale goes. `None`: they were one process,
    /// or the logs cannot be copied.
    pub fn keep_logs(&self) -> Option<PathBuf> {
        match &self.shop {
            Shop::Here(_) => None,
            Shop::Apart(processes) => processes.keep_logs(self.sandbox.folder()).ok(),
        }
    }

    /// Orders that wait for their payment.
    pub(super) async fn pending(&self) -> anyhow::Result<u64> {
        let live = self.engine.live_drop(&self.drop).await?.context("the drop is gone")?;
        let counts = self.engine.ledger.order_counts(live.drop.id).await?;
        Ok(counts.get(&OrderState::PendingPayment).copied().unwrap_or_default())
    }

    pub(super) async fn standing(&self) -> anyhow::Result<Standing> {
        let live = self.engine.refresh(&self.drop).await?.context("the drop is gone")?;
        // A claim leaves the backlog for the orders: looked at first, it is in one of them.
        let backlog = self.engine.backlog(&self.drop).await?;
        let counts = self.engine.ledger.order_counts(live.drop.id).await?;
        let of = |state: OrderState| counts.get(&state).copied().unwrap_or_default();
        Ok(Standing {
            free: live.free_units().await?.into_iter().map(u64::from).sum(),
            unsettled: backlog.map_or(0, |backlog| backlog.claims() as u64),
            pending: of(OrderState::PendingPayment),
            confirmed: OrderState::ALL.into_iter().filter(|state| state.is_sold()).map(of).sum(),
            failed: of(OrderState::PaymentFailed),
            mails: self.engine.ledger.waiting_deliveries().await?.values().map(|count| count.cast_unsigned()).sum(),
        })
    }
}

/// Writes the file that a shell reads.
pub(super) fn leave_settings(
    folder: &Path,
    database_url: &str,
    redis: &Redis,
    provider: &FakeProvider,
    mailbox: &SmtpSink,
    shop: &Shop,
) -> anyhow::Result<PathBuf> {
    let settings = [
        ("REDIS_URL", redis.url()),
        ("DATABASE_URL", database_url.to_owned()),
        ("PROVIDER_URL", provider.url().to_owned()),
        ("PROVIDER_KEY", provider.secret_key().to_owned()),
        ("SMTP_URL", mailbox.url()),
        ("MAIL_FROM", MAIL_FROM.to_owned()),
        ("JWT_SECRET", JWT_SECRET.to_owned()),
        ("RECEIPT_KEYS", RECEIPT_KEYS.to_owned()),
        ("LISTEN", shop.public_addr().to_string()),
        ("OPS_LISTEN", shop.ops_addr().to_string()),
    ];
    let lines = settings.map(|(name, value)| format!("export DOORBUSTER_{name}='{value}'\n")).concat();
    let path = folder.join("env");
    std::fs::write(&path, lines).context("the file of the settings")?;
    Ok(path)
}

/// Few enough that a fault finds charging under way.
pub(super) fn charges_at_a_time(options: &DemoOptions) -> u32 {
    (options.stock / CHAOS_ORDERS_PER_CHARGE).clamp(2, CHARGE_CONCURRENCY)
}

pub(super) fn mails(mailbox: &SmtpSink) -> anyhow::Result<[Lane; 3]> {
    let settings = MailSettings {
        url: mailbox.url(),
        from: MAIL_FROM.to_owned(),
        order_link: None,
        invoice_link: None,
        send_timeout: Duration::from_secs(10),
    };
    Ok(Lane::mails(&Mailer::new(&settings)?))
}

fn arrive_within(options: &DemoOptions) -> Duration {
    if let Some(within) = options.arrive_within.and_then(|within| Duration::try_from(within).ok()) {
        return within;
    }
    let share = options.buyers as f64 / 10_000.0;
    match options.chaos {
        true => CHAOS_ARRIVAL_OF_TEN_THOUSAND.mul_f64(share).max(CHAOS_ARRIVAL_MIN),
        false => ARRIVAL_OF_TEN_THOUSAND.mul_f64(share.max(0.1)),
    }
}

/// What cannot be sold is refused before anything is started.
pub(super) fn check(options: &DemoOptions) -> anyhow::Result<Duration> {
    let settle_every = Duration::try_from(options.settle_every).context("--settle-every cannot be negative")?;
    if settle_every.is_zero() {
        bail!("--settle-every must be above zero");
    }
    if options.buyers == 0 {
        bail!("--buyers must be at least 1");
    }
    for (name, rate) in [("--decline-rate", options.decline_rate), ("--patient", options.patient)] {
        if !(0.0..=1.0).contains(&rate) {
            bail!("{name} is a share from 0 to 1");
        }
    }
    if options.arrive_within.is_some_and(|within| within.is_negative()) {
        bail!("--arrive-within cannot be negative");
    }
    new_drop(options, Clock::System.now())?.check()?;
    Ok(settle_every)
}

pub(super) fn new_drop(options: &DemoOptions, now: Timestamp) -> anyhow::Result<NewDrop> {
    Ok(NewDrop {
        name: "shoe-drop".parse()?,
        product_name: "Doorbuster One".to_owned(),
        currency: "EUR".parse()?,
        variants: vec![NewVariant {
            sku: SKU.to_owned(),
            title: "EU 42".to_owned(),
            price_minor: PRICE_MINOR,
            stock_units: options.stock,
        }],
        buyer_limit: options.limit,
        warehouses: options.warehouses,
        tax_basis_points: 1_900,
        shipping_minor: 490,
        rates_of_shop: false,
        price_includes_tax: false,
        opens_at: None,
        closes_at: None,
        pay_by: now + SignedDuration::from_hours(1),
        pay_terms: PayTerms::OF_THE_DROP,
        acknowledgement: Acknowledgement::Accepted,
        replicas: 0,
        line: None,
    })
}

async fn create(engine: &Engine, options: &DemoOptions) -> anyhow::Result<DropName> {
    let new = new_drop(options, engine.clock.now())?;
    let home_key = rand::rng().random();
    engine.create_drop(&new, home_key).await?.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
    engine.open_drop(&new.name).await?.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
    Ok(new.name)
}

/// Makes the bearer tokens of the demo's buyers.
pub(super) fn mint(clock: Clock) -> Mint {
    let secret = Secret::from(JWT_SECRET.to_owned());
    Arc::new(move |buyer: &str| {
        let buyer = buyer.parse().expect("the crowd's buyers have well-formed ids");
        auth::mint(&secret, &buyer, clock.now(), SignedDuration::from_hours(1))
    })
}
