//! One run: a database, a drop, a provider, a mail server and a receiver of webhooks of its own, and the program as a child
//! process that is started again whenever it dies.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use doorbuster_engine::domain::catalog::{NewProduct, NewVariant as ShelfVariant};
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::drops::{NewDrop, NewVariant, PayTerms};
use doorbuster_engine::domain::ids::{BuyerId, VariantId};
use doorbuster_engine::domain::requests::{OperatorRequest, RequestId};
use doorbuster_engine::domain::stock::NewAdjustment;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::profiles::CheckoutProfile;
use doorbuster_engine::ledger::rates::RateRow;
use doorbuster_engine::provider::{ProviderClient, ProviderSettings, RateLimit, SecretKey};
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions, WebhookOptions};
use doorbuster_sandbox::smtp_sink::{SmtpSink, SmtpSinkOptions};
use doorbuster_sandbox::webhook_sink::WebhookSink;
use doorbuster_sandbox::{Sandbox, shared};
use jiff::SignedDuration;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::process::program::{bare, output, with_provider};
use crate::support::{Answer, SECRET, client, engine, new_database, token};

const PROVIDER_SECRET: &str = "whsec_of_the_crash_tests";
const SHOP_SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz";
/// Far more than one wait of a run takes, on a machine that is busy with other runs.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(40);

/// What is sold, and by whom it is paid.
pub(super) struct StageOptions {
    pub(super) provider: FakeProviderOptions,
    /// Changes how the provider tells what happened.
    pub(super) news: fn(&mut WebhookOptions),
    pub(super) stock: u32,
    pub(super) decline_grace: SignedDuration,
    pub(super) settle_every: &'static str,
}

pub(super) struct Stage {
    pub(super) engine: Engine,
    pub(super) sql: Client,
    database_url: String,
    redis_url: String,
    pub(super) drop: String,
    pub(super) provider: FakeProvider,
    pub(super) asked: ProviderClient,
    pub(super) mails: SmtpSink,
    pub(super) hooks: WebhookSink,
    http: reqwest::Client,
    ports: [u16; 2],
    settle_every: &'static str,
    /// Holds the log of the program, and the steps that it has passed.
    folder: Sandbox,
}

impl Stage {
    pub(super) async fn new(options: StageOptions) -> Arc<Self> {
        let (database_url, drop) = new_database().await;
        let engine = engine(&database_url).await;
        let provider = FakeProvider::start(options.provider).await.unwrap();
        let ports = [free_port(), free_port()];
        let news = format!("http://127.0.0.1:{}/v1/webhooks/stripe", ports[0]);
        // Long enough for a program that has to be started again.
        let mut news = WebhookOptions { retries_max: 8, ..WebhookOptions::new(&news, PROVIDER_SECRET) };
        (options.news)(&mut news);
        provider.send_webhooks(news);
        let asked = ProviderClient::new(ProviderSettings {
            base_url: provider.url().to_owned(),
            secret_key: SecretKey::from(provider.secret_key().to_owned()),
            connect_timeout: Duration::from_secs(1),
            answer_timeout: Duration::from_secs(5),
        });
        let (sql, connection) = tokio_postgres::connect(&database_url, NoTls).await.unwrap();
        tokio::spawn(connection);
        let new = NewDrop {
            name: drop.parse().unwrap(),
            product_name: "Shoe".to_owned(),
            currency: "EUR".parse().unwrap(),
            variants: vec![NewVariant {
                sku: "shoe-42".to_owned(),
                title: "Shoe 42".to_owned(),
                price_minor: 14_900,
                stock_units: options.stock,
            }],
            buyer_limit: 2,
            warehouses: 2,
            tax_basis_points: 1_900,
            shipping_minor: 490,
            rates_of_shop: false,
            price_includes_tax: false,
            // The workers open it.
            opens_at: Some(engine.clock.now()),
            closes_at: None,
            pay_by: engine.clock.now().checked_add(SignedDuration::from_hours(24)).unwrap(),
            pay_terms: PayTerms { within: None, decline_grace: options.decline_grace },
            acknowledgement: doorbuster_engine::domain::claims::Acknowledgement::Accepted,
            replicas: 0,
            line: None,
        };
        engine.create_drop(&new, 7).await.unwrap().unwrap();
        Arc::new(Self {
            engine,
            sql,
            database_url,
            redis_url: shared::redis_url().await,
            drop,
            provider,
            asked: asked.unwrap().limited_to(RateLimit::NONE),
            mails: SmtpSink::start(SmtpSinkOptions::default()).await.unwrap(),
            hooks: WebhookSink::start(&[SHOP_SECRET]).await.unwrap(),
            http: client(),
            ports,
            settle_every: options.settle_every,
            folder: Sandbox::temporary().unwrap(),
        })
    }

    /// Every step passed so far, by all processes of this run, in order.
    pub(super) fn steps(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.steps_file()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(super) fn steps_file(&self) -> PathBuf {
        self.folder.folder().join("steps")
    }

    /// What its processes have logged.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.folder().join("log")).unwrap_or_default()
    }

    /// The program with this run's stores, and with the ports that it keeps.
    fn program(&self, arguments: &[&str], die_at: Option<&str>) -> Command {
        let mut command = bare(arguments);
        command.arg("--steps-file").arg(self.steps_file());
        if let Some(die_at) = die_at {
            command.args(["--die-at", die_at]);
        }
        command
            .env("DOORBUSTER_REDIS_URL", &self.redis_url)
            .env("DOORBUSTER_DATABASE_URL", &self.database_url)
            .env("DOORBUSTER_JWT_SECRET", SECRET);
        command
    }

    fn spawn(&self, die_at: Option<&str>) -> Child {
        let mut command = self.program(&["serve", "--with-workers"], die_at);
        let log = std::fs::File::options().create(true).append(true).open(self.folder.folder().join("log")).unwrap();
        with_provider(&mut command, &self.provider)
            .env("DOORBUSTER_LISTEN", format!("127.0.0.1:{}", self.ports[0]))
            .env("DOORBUSTER_OPS_LISTEN", format!("127.0.0.1:{}", self.ports[1]))
            .env("DOORBUSTER_PROVIDER_WEBHOOK_SECRETS", PROVIDER_SECRET)
            .env("DOORBUSTER_PROVIDER_RATE", "100000")
            .env("DOORBUSTER_PROVIDER_BURST", "1000")
            .env("DOORBUSTER_SETTLE_EVERY", self.settle_every)
            .env("DOORBUSTER_RETURN_URL", "https://shop.example/account")
            .env("DOORBUSTER_DATABASE_CONNECTIONS", "8")
            .env("DOORBUSTER_SMTP_URL", self.mails.url())
            .env("DOORBUSTER_MAIL_FROM", "Shop <orders@shop.example>")
            .env("DOORBUSTER_WEBHOOKS", format!("shop={}", self.hooks.url()))
            .env("DOORBUSTER_WEBHOOK_SECRETS", format!("shop={SHOP_SECRET}"))
            .env("DOORBUSTER_LOG", "warn,doorbuster_engine=info,doorbuster_engine::tokens::batcher=error");
        command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// What a death leaves behind becomes due at once, instead of when its leases run out: the dead worker's, so only after
    /// what it had sent to Postgres has come to its end there.
    async fn after_death(&self) {
        let busy = "select count(*) from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle'";
        while self.count(busy).await > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let leases = "update payments set leased_until = null where leased_until is not null;
            update outbox set leased_until = null where leased_until is not null;
            update checkouts set leased_until = null where leased_until is not null;
            update webhook_events set due_at = now() where due_at > now();
            update cards set due_at = now() where due_at > now();
            update sweeps set started_at = null;
            update payment_attempts set prepared_at = prepared_at - interval '1 hour', dispatched_at = dispatched_at - interval '1 hour'
            where state in ('PREPARED', 'DISPATCHED', 'NOT_SENT', 'UNKNOWN')";
        self.sql.batch_execute(leases).await.unwrap();
    }

    /// Brings forward what waits for its time only: another try, another question to the provider.
    pub(super) async fn hurry(&self) {
        let sooner = "update payments set due_at = now() where due_at > now() and (leased_until is null or leased_until < now());
            update outbox set next_at = now() where next_at > now() and (leased_until is null or leased_until < now());
            update webhook_events set due_at = now() where due_at > now() and detail is not null;
            update cards set due_at = now() where due_at > now() and due_at < now() + interval '4 minutes';
            update sweeps set started_at = null where started_at < now() - interval '10 minutes'";
        self.sql.batch_execute(sooner).await.unwrap();
    }

    pub(super) async fn count(&self, sql: &str) -> i64 {
        self.sql.query_one(sql, &[]).await.unwrap().get(0)
    }

    pub(super) async fn execute(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap();
    }

    /// Waits for a condition, hurrying everything along. The error names what did not come.
    pub(super) async fn until(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) -> Result<(), String> {
        let (deadline, mut looks) = (Instant::now() + PATIENCE, 0_u32);
        while !condition().await {
            if Instant::now() > deadline {
                return Err(format!("in vain waited for: {what}"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
            looks += 1;
            if looks.is_multiple_of(8) {
                self.hurry().await;
            }
        }
        Ok(())
    }

    /// Brings the end of the time to pay forward: not while a mail is under way that tells of it and may have to be sent again.
    pub(super) async fn time_is_up(&self) -> Result<(), String> {
        let end = "with ended as (
                update drops set pay_by = now() - interval '1 second'
                where admission = 'open'
                      and not exists (select from outbox where destination like 'mail%' and state = 'queued')
                returning 1
            ), orders as (
                update orders set pay_by = now() - interval '1 second' from ended where pay_by is not null
            ) select count(*) from ended";
        self.until("every mail is written down as sent", async || self.count(end).await == 1).await
    }

    /// A request of a buyer's, made again under the same key until it has an answer that is final.
    pub(super) async fn ask(
        &self,
        buyer: &BuyerId,
        method: Method,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<Answer, String> {
        let url = format!("http://127.0.0.1:{}{path}", self.ports[0]);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = self.http.request(method.clone(), &url).bearer_auth(token(buyer.as_str()));
            let answer = match request.header("Idempotency-Key", "once").json(body).send().await {
                Ok(answer) => Answer::read_if_whole(answer).await,
                Err(_) => None,
            };
            let again = |status: StatusCode| status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT;
            match answer {
                // Before it is opened by the clock.
                Some(answer) if answer.text.contains("\"not_open\"") => {}
                Some(answer) if !again(answer.status) => return Ok(answer),
                _ => {}
            }
            if Instant::now() > deadline {
                return Err(format!("{method} {path} got no answer"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(super) async fn save_profile(&self, buyer: &BuyerId, method: &str) {
        let profile = CheckoutProfile {
            payment_method: Some(method.parse().unwrap()),
            email: format!("{buyer}@example.com"),
            ship_to: json!({ "country": "DE" }),
        };
        self.engine.ledger.save_profile_and_card(buyer, &profile, self.engine.clock.now()).await.unwrap();
    }

    /// Ten mugs for 9.00 €, sent everywhere.
    pub(super) async fn put_mugs_on_shelves(&self) -> VariantId {
        let ledger = &self.engine.ledger;
        let now = self.engine.clock.now();
        let request = || OperatorRequest { id: RequestId(Uuid::now_v7()), actor: "ada".to_owned() };
        let currency = "EUR".parse().unwrap();
        let rate = RateRow {
            country: "*".to_owned(),
            currency,
            tax_basis_points: 1_900,
            shipping_tax_basis_points: Some(0),
            shipping_minor: 490,
            free_shipping_from_minor: None,
        };
        ledger.replace_rates(&[rate]).await.unwrap();
        let (sku, warehouse) = ("mug".to_owned(), "berlin".parse().unwrap());
        let variant = ShelfVariant { sku: sku.clone(), title: "Mug".to_owned(), price_minor: 900, currency };
        let product = NewProduct { name: "Mug".to_owned(), variants: vec![variant] };
        ledger.make_product(&request(), &product, now).await.unwrap().unwrap();
        ledger.make_warehouse(&warehouse).await.unwrap();
        let new = NewAdjustment { sku, warehouse, delta: 10, reason: "counted".to_owned() };
        ledger.adjust_stock(&request(), &new, now).await.unwrap().unwrap();
        ledger.variant_of_sku("mug").await.unwrap().unwrap()
    }

    /// An operator's command, which may be told where to die.
    pub(super) async fn command(&self, arguments: &[&str], die_at: Option<&str>) -> bool {
        let command = self.program(arguments, die_at);
        output(command).await.status.success()
    }

    /// The books of today and of the days beside it, as they will be closed when they are over. Answers the differences.
    pub(super) async fn close_days(&self) -> Result<Vec<String>, String> {
        let mut later = self.engine.clone();
        let now = self.engine.clock.now();
        later.clock = Clock::manual(now + SignedDuration::from_hours(72));
        let today = now.to_zoned(jiff::tz::TimeZone::UTC).date();
        let mut differences = Vec::new();
        for day in [today.yesterday().unwrap(), today, today.tomorrow().unwrap()] {
            // A provider that loses requests has to be asked again.
            let mut tries = 0;
            let report = loop {
                match later.close_day(&self.asked, day, &jiff::tz::TimeZone::UTC).await {
                    Ok(report) => break report.map_err(|_| "the day is not over".to_owned())?,
                    Err(error) if tries == 50 => return Err(error.to_string()),
                    Err(_) => tries += 1,
                }
            };
            differences.extend(report.differences.into_iter().map(|found| format!("{}: {}", found.rule, found.detail)));
        }
        Ok(differences)
    }
}

/// Keeps the program running: whenever it dies another one is started. Dropped, it ends.
pub(super) struct Keeper {
    running: JoinHandle<Vec<String>>,
    stop: CancellationToken,
    kill: Arc<Notify>,
    deaths: Arc<AtomicU32>,
}

impl Keeper {
    /// The first one dies at this step, if it is given: STEP=N.
    pub(super) fn start(stage: &Arc<Stage>, die_at: Option<String>) -> Self {
        let (stop, kill, deaths) = (CancellationToken::new(), Arc::new(Notify::new()), Arc::new(AtomicU32::new(0)));
        let running =
            tokio::spawn(keep(Arc::clone(stage), die_at, stop.clone(), Arc::clone(&kill), Arc::clone(&deaths)));
        Self { running, stop, kill, deaths }
    }

    /// `kill -9`, now.
    pub(super) fn kill(&self) {
        self.kill.notify_one();
    }

    pub(super) fn deaths(&self) -> u32 {
        self.deaths.load(Ordering::SeqCst)
    }

    /// Ends the program. Answers what was wrong with its deaths.
    pub(super) async fn end(self) -> Vec<String> {
        self.stop.cancel();
        self.running.await.unwrap_or_else(|error| vec![error.to_string()])
    }
}

async fn keep(
    stage: Arc<Stage>,
    mut die_at: Option<String>,
    stop: CancellationToken,
    killed: Arc<Notify>,
    deaths: Arc<AtomicU32>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    loop {
        let mut child = stage.spawn(die_at.take().as_deref());
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.unwrap(),
                () = stop.cancelled() => {
                    child.kill().await.unwrap();
                    return wrong;
                }
                () = killed.notified() => {
                    if let Some(pid) = child.id() {
                        // One that has just died by itself is as dead.
                        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
                    }
                }
            }
        };
        if std::os::unix::process::ExitStatusExt::signal(&status) != Some(Signal::SIGKILL as i32) {
            wrong.push(format!("the program ended by itself: {status}"));
            if wrong.len() > 3 {
                return wrong;
            }
        }
        stage.after_death().await;
        deaths.fetch_add(1, Ordering::SeqCst);
    }
}

/// Below the range from which connections get theirs, so that no connection takes it while the program is dead.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = (std::process::id() as u16 % 97) * 100 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + offset % 10_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
