//! Where figures are taken: a private Redis and Postgres on the machine's disk, drops that serve one sample each, and the
//! server that is measured as a process of its own, whose processor time can be told from the generator's.

use std::cell::Cell;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use doorbuster::Secret;
use doorbuster_engine::beacon::BeaconClient;
use doorbuster_engine::domain::claims::Acknowledgement;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::drops::{Admission, NewDrop, NewVariant, PayTerms, SaleDrop, WAREHOUSES_PER_PRIMARY};
use doorbuster_engine::domain::ids::VariantNumber;
use doorbuster_engine::domain::line::beacon::commitment;
use doorbuster_engine::domain::line::rules::Beacon;
use doorbuster_engine::domain::line::terms::{CAPACITY, LineTerms, NewLine, REVEAL_AFTER, ROUND_EVERY};
use doorbuster_engine::flows::Engine;
use doorbuster_engine::flows::line::LineMemory;
use doorbuster_engine::ledger::Ledger;
use doorbuster_engine::tokens::keys::WarehouseKeys;
use doorbuster_engine::tokens::store::TokenStore;
use doorbuster_sandbox::provider::FakeProvider;
use doorbuster_sandbox::{AppendFsync, Postgres, Process, ProcessOptions, Redis, RedisOptions, Sandbox};
use jiff::SignedDuration;

use crate::generator::{Buyers, DropPaths};
use crate::served::{DATABASE_URL, JWT_SECRET, LISTEN, PROVIDER_KEY, PROVIDER_URL, REDIS_URL};
use crate::ways::{self, Way};

pub(crate) const SECRET: &str = "load tests sign buyers' tokens with this";
/// Units that a warehouse of a drop without end gives: serials have nine digits then.
const WITHOUT_END: u32 = 100_000_000;
const CONNECTIONS: usize = 8;
/// Sizes of what a line is for: behind the drop's name, their SKUs.
pub(crate) const SIZES: [&str; 3] = ["41", "42", "43"];
/// In Postgres, the user of servers whose statements are counted.
const COUNTED: &str = "counted";
/// What decides the draws of these lines.
const LINE_SECRET: [u8; 32] = *b"load tests draw lines with this!";
/// Longer than any run.
const TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(6);

/// Servers and folder go with it.
pub struct Stage {
    pub redis: Redis,
    pub postgres: Postgres,
    pub engine: Engine,
    pub database_url: String,
    /// A connection past the ledger, of the superuser.
    pub sql: tokio_postgres::Client,
    sandbox: Sandbox,
    /// What is run for each server: this program.
    program: PathBuf,
    drops: Cell<u32>,
    servers: Cell<u32>,
    buyers: Cell<u64>,
}

/// How Redis keeps what was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Fsync {
    /// The product's default.
    #[default]
    Always,
    /// A crash of the machine may lose a second.
    EverySecond,
    /// When the system likes. It opens no drop, so it has to come behind that.
    Never,
}

impl Fsync {
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::EverySecond => "everysec",
            Self::Never => "no",
        }
    }
}

impl Stage {
    /// In a folder of its own below the system's temporary one, which `TMPDIR` names.
    pub async fn start(program: PathBuf) -> anyhow::Result<Self> {
        Self::start_with(program, false).await
    }

    /// The same, with a Postgres that counts statements, each user's by itself.
    pub async fn start_counting(program: PathBuf) -> anyhow::Result<Self> {
        Self::start_with(program, true).await
    }

    async fn start_with(program: PathBuf, counts: bool) -> anyhow::Result<Self> {
        let sandbox = Sandbox::temporary()?;
        // A rewrite of the append-only file in the middle of one sample would be charged to that sample alone.
        let options =
            RedisOptions::default().append_fsync(AppendFsync::Always).setting("auto-aof-rewrite-percentage", "0");
        let (redis, postgres) = tokio::try_join!(sandbox.redis_with(options), sandbox.postgres())?;
        if counts {
            count_statements(&postgres).await?;
        }
        let database_url = postgres.create_database("doorbuster").await?;
        let ledger = Ledger::new(&database_url, CONNECTIONS)?;
        ledger.migrate().await?;
        let engine = Engine::new(ledger, TokenStore::connect(&redis.url()).await?, Clock::System);
        let (sql, connection) = tokio_postgres::connect(&database_url, tokio_postgres::NoTls).await?;
        // Its error is the next statement's error.
        tokio::spawn(async move { drop(connection.await) });
        ways::prepare(&sql).await?;
        let (drops, servers, buyers) = Default::default();
        Ok(Self { redis, postgres, engine, database_url, sql, sandbox, program, drops, servers, buyers })
    }

    pub fn folder(&self) -> &Path {
        self.sandbox.folder()
    }

    /// Makes and opens a drop of one variant whose buyers may have one unit each.
    pub async fn open_drop(&self, units: u32, warehouses: u32) -> anyhow::Result<SaleDrop> {
        self.open_drop_that(Acknowledgement::Accepted, units, warehouses).await
    }

    /// The same, with another promise behind its answers.
    pub async fn open_drop_that(
        &self,
        acknowledgement: Acknowledgement,
        units: u32,
        warehouses: u32,
    ) -> anyhow::Result<SaleDrop> {
        let new = NewDrop { acknowledgement, ..self.new_drop(units, warehouses)? };
        self.engine.create_drop(&new, rand::random()).await?.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
        self.engine.open_drop(&new.name).await?.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
        Ok(self.engine.refresh(&new.name).await?.context("the drop is gone")?.drop.clone())
    }

    fn new_drop(&self, units: u32, warehouses: u32) -> anyhow::Result<NewDrop> {
        let number = self.drops.get() + 1;
        self.drops.set(number);
        let name = format!("load-{number}");
        Ok(NewDrop {
            name: name.parse()?,
            product_name: name.clone(),
            currency: "EUR".parse()?,
            variants: vec![NewVariant {
                sku: name.clone(),
                title: name,
                price_minor: 14_900,
                stock_units: units.max(warehouses),
            }],
            buyer_limit: 1,
            warehouses,
            tax_basis_points: 1_900,
            shipping_minor: 490,
            rates_of_shop: false,
            price_includes_tax: false,
            opens_at: None,
            closes_at: None,
            pay_by: Clock::System.now() + SignedDuration::from_hours(24),
            pay_terms: PayTerms::OF_THE_DROP,
            acknowledgement: Acknowledgement::Accepted,
            replicas: 0,
            line: None,
        })
    }

    /// What the next drop will be called.
    pub fn next_name(&self) -> String {
        format!("load-{}", self.drops.get() + 1)
    }

    /// Makes a drop whose line is open for longer than any sample.
    pub async fn open_line(&self) -> anyhow::Result<SaleDrop> {
        let now = Clock::System.now();
        let terms = LineTerms {
            admission: Admission::Queue,
            line_opens_at: now,
            seal_at: now + TOKEN_LIFE,
            reveal_after: REVEAL_AFTER,
            round_every: ROUND_EVERY,
            per_round: 1,
            capacity: CAPACITY,
            requires_card: false,
            then_open: false,
            beacon: beacon(),
        };
        let drop = self.make_line(terms, SIZES.len() as u32).await?;
        self.open_lines().await?;
        Ok(drop)
    }

    /// Opens the lines for which it is time, as a worker does.
    pub async fn open_lines(&self) -> anyhow::Result<()> {
        self.engine.run_lines(&BeaconClient::default(), &mut LineMemory::default()).await?;
        Ok(())
    }

    /// Makes a drop of three variants with this line. A worker opens it, once it is time.
    pub async fn make_line(&self, terms: LineTerms, units: u32) -> anyhow::Result<SaleDrop> {
        let opens_at = terms.seal_at + terms.timing().seal_before_opening();
        let name = self.next_name();
        let parts = SIZES.len() as u32;
        let variants = (0..parts).zip(SIZES).map(|(number, size)| NewVariant {
            sku: format!("{name}-{size}"),
            title: size.to_owned(),
            price_minor: 14_900,
            stock_units: units / parts + u32::from(number < units % parts),
        });
        let new = NewDrop {
            variants: variants.collect(),
            opens_at: Some(opens_at),
            closes_at: Some(opens_at + TOKEN_LIFE),
            pay_by: opens_at + TOKEN_LIFE + SignedDuration::from_hours(1),
            line: Some(NewLine { terms, secret: Some(LINE_SECRET) }),
            ..self.new_drop(units, WAREHOUSES_PER_PRIMARY)?
        };
        self.engine.create_drop(&new, rand::random()).await?.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
        self.engine.ledger.drop_by_name(&new.name).await?.context("the drop is gone")
    }

    /// Profiles of so many buyers from this number on, whose places are written too.
    pub async fn write_profiles(&self, first: u64, count: u32) -> anyhow::Result<()> {
        const PROFILES: &str = "insert into checkout_profiles
            select 'buyer-' || lpad(n::text, 14, '0'), 'pm_card_visa', 'b' || n || '@example.test',
                   '{\"name\": \"B\", \"line1\": \"Long Street 12\", \"city\": \"Berlin\", \"postal_code\": \"10115\", \"country\": \"DE\"}', now()
            from generate_series($1::bigint, $2) n";
        let first = first.cast_signed();
        self.sql.execute(PROFILES, &[&first, &(first + i64::from(count) - 1)]).await?;
        self.sql.batch_execute("analyze checkout_profiles").await?;
        Ok(())
    }

    /// What the provider says of their cards: of every so many, one is the card of the buyer before.
    pub async fn write_cards(&self, first: u64, count: u32, shared: u32) -> anyhow::Result<()> {
        const CARDS: &str = "insert into cards (buyer, given, state, method_id, fingerprint, updated_at)
            select 'buyer-' || lpad(n::text, 14, '0'), 'pm_card_visa', 'SAVED', 'pm_card_visa',
                   sha256((n - (n % $3 = 0)::int)::text::bytea), now()
            from generate_series($1::bigint, $2) n";
        let first = first.cast_signed();
        self.sql.execute(CARDS, &[&first, &(first + i64::from(count) - 1), &i64::from(shared)]).await?;
        self.sql.batch_execute("analyze cards").await?;
        Ok(())
    }

    /// Their places in a line, each with two wishes.
    pub async fn write_places(&self, drop: &SaleDrop, first: u64, count: u32) -> anyhow::Result<()> {
        const PLACES: &str = "insert into line_entries (drop_id, number, buyer, nth, entry_id, key_hash, body_hash, quantity,
                                                        choice1, choice2, country, joined_at)
            select $1, n, 'buyer-' || lpad(($2::bigint + n - 1)::text, 14, '0'), 0, hash, hash, hash, 1, n % 3, (n + 1) % 3, 'DE', now()
            from (select n, decode(md5(n::text), 'hex') as hash from generate_series(1, $3::int) n) numbered";
        const COUNT: &str = "update line_counters set next = joined + $2 + 1, joined = joined + $2 where drop_id = $1";
        let of = count.cast_signed();
        self.sql.execute(PLACES, &[&drop.id.0, &first.cast_signed(), &of]).await?;
        self.sql.execute(COUNT, &[&drop.id.0, &of]).await?;
        self.sql.batch_execute("analyze line_entries").await?;
        Ok(())
    }

    /// Places of a line for which another one stands.
    pub async fn merged(&self, drop: &SaleDrop) -> anyhow::Result<u32> {
        const MERGED: &str = "select count(*)::int from line_entries where drop_id = $1 and state = 'MERGED'";
        Ok(self.sql.query_one(MERGED, &[&drop.id.0]).await?.get::<_, i32>(0).cast_unsigned())
    }

    /// How often the servers of [`Stage::serve_counted`] have read a board, as Postgres has counted it.
    pub async fn boards_read(&self) -> anyhow::Result<u64> {
        const READ: &str =
            "select coalesce(sum(s.calls), 0)::bigint from pg_stat_statements s join pg_roles r on r.oid = s.userid
            where r.rolname = $1 and s.query like '%rows.board%'";
        Ok(self.sql.query_one(READ, &[&COUNTED]).await?.get::<_, i64>(0).cast_unsigned())
    }

    /// Takes a line away with all its places, and says how many there were.
    pub async fn forget_line(&self, drop: &SaleDrop) -> anyhow::Result<u64> {
        const ROWS: &str = "select count(*) from line_entries where drop_id = $1";
        let rows: i64 = self.sql.query_one(ROWS, &[&drop.id.0]).await?.get(0);
        self.sql.batch_execute("truncate line_entries").await?;
        self.forget(drop).await?;
        Ok(rows.cast_unsigned())
    }

    /// A drop that no sample can sell out, for figures of claims alone: Redis is given more units than Postgres knows of, and
    /// rows of stock more than there are. Nothing of it can be settled.
    pub async fn open_drop_without_end(&self, warehouses: u32) -> anyhow::Result<SaleDrop> {
        let drop = self.open_drop(warehouses, warehouses).await?;
        let mut connection = self.redis_connection().await?;
        for warehouse in &drop.warehouses {
            let keys = WarehouseKeys::new(&drop.name, warehouse.number, drop.warehouses.len());
            let range = keys.of_variant("tokens", VariantNumber(0));
            redis::cmd("SET").arg(range).arg(WITHOUT_END).query_async::<()>(&mut connection).await?;
        }
        const STOCK: &str = "update inventory set quantity_available = 1000000000 where product_id = $1";
        self.sql.execute(STOCK, &[&drop.product_id]).await?;
        Ok(drop)
    }

    /// Lays units of a drop's product on so many ordinary shelves as well, for the ways that sell from there.
    pub async fn put_on_shelves(&self, drop: &SaleDrop, shelves: u32, units_each: u32) -> anyhow::Result<()> {
        const SHELVES: &str = "insert into warehouses (number, state, code)
            select nextval('warehouse_numbers')::smallint, 'ready', 'shelf-' || n from generate_series(1, $1::int) n
            where not exists (select from warehouses where code = 'shelf-' || n)";
        const STOCK: &str = "insert into inventory (product_id, variant_id, warehouse_id, quantity_available)
            select $1, $2, warehouse_id, $4 from warehouses, generate_series(1, $3::int) n where code = 'shelf-' || n";
        let (shelves, units) = (shelves.cast_signed(), units_each.cast_signed());
        self.sql.execute(SHELVES, &[&shelves]).await?;
        self.sql.execute(STOCK, &[&drop.product_id, &drop.variants[0].variant_id, &shelves, &units]).await?;
        Ok(())
    }

    /// Takes a drop out of Redis, whose memory and file would grow from sample to sample. A later server's workers find nothing
    /// to do for it: no warehouse to rebuild, no order of goods to charge.
    pub async fn forget(&self, drop: &SaleDrop) -> anyhow::Result<()> {
        const ORDERS: &str =
            "with over as (update checkouts set ended_at = now() where ended_at is null returning order_id)
            update payments p set state = 'REQUIRED', payment_method = null, due_at = null from over
            where p.order_id = over.order_id";
        self.sql.execute(ORDERS, &[]).await?;
        let archive = "update drops set state = 'archived' where drop_id = $1";
        self.sql.execute(archive, &[&drop.id.0]).await?;
        for warehouse in &drop.warehouses {
            self.engine.tokens.warehouse(drop, warehouse).forget().await?;
        }
        Ok(())
    }

    /// Buyers whom no sample has seen before.
    pub fn buyers(&self, count: u32) -> Arc<Buyers> {
        let first = self.buyers.get();
        self.buyers.set(first + u64::from(count));
        Arc::new(Buyers::mint(first, count, &secret(), Clock::System.now(), TOKEN_LIFE))
    }

    /// How these buyers pay and where they live, so that their orders are charged.
    pub async fn save_profiles(&self, buyers: &Buyers) -> anyhow::Result<()> {
        self.write_profiles(buyers.first(), buyers.len()).await
    }

    /// How often statements were called so far, and how many milliseconds they took, where Postgres counts that.
    pub async fn statements(&self) -> anyhow::Result<Option<(f64, f64)>> {
        const COUNTED: &str = "select current_setting('shared_preload_libraries') like '%pg_stat_statements%'";
        const SUMS: &str = "select sum(s.calls)::float8, sum(s.total_exec_time + s.total_plan_time)
            from pg_stat_statements s join pg_database d on d.oid = s.dbid
            where s.toplevel and d.datname = current_database() and s.query not like '%where order_id = any($1) and status%'";
        if !self.sql.query_one(COUNTED, &[]).await?.get::<_, bool>(0) {
            return Ok(None);
        }
        self.sql.batch_execute("create extension if not exists pg_stat_statements").await?;
        let row = self.sql.query_one(SUMS, &[]).await?;
        Ok(Some((row.get(0), row.get(1))))
    }

    pub async fn set_fsync(&self, fsync: Fsync) -> anyhow::Result<()> {
        let mut connection = self.redis_connection().await?;
        let set = redis::cmd("CONFIG").arg("SET").arg("appendfsync").arg(fsync.name()).to_owned();
        Ok(set.query_async(&mut connection).await?)
    }

    /// A server that only answers claims this way.
    pub async fn serve(&self, way: Way) -> anyhow::Result<Served> {
        self.start_server(self.options(way)).await
    }

    /// The same by a user of its own in Postgres, so that its statements are counted by themselves.
    pub async fn serve_counted(&self, way: Way) -> anyhow::Result<Served> {
        self.sql.batch_execute(&format!("create role {COUNTED} superuser login")).await?;
        let (scheme, rest) = self.database_url.split_once("://").context("the database's address is no address")?;
        let (_, host) = rest.split_once('@').context("the database's address names no user")?;
        self.start_server(self.options(way).variable(DATABASE_URL, format!("{scheme}://{COUNTED}@{host}"))).await
    }

    /// The product with its workers, which settle and, if the buyers have profiles, charge.
    pub async fn serve_with_workers(&self, provider: &FakeProvider, concurrency: u32) -> anyhow::Result<Served> {
        self.serve_with_workers_at(provider, concurrency, None).await
    }

    /// The same with a provider that takes so many calls of one kind a second.
    pub async fn serve_with_workers_at(
        &self,
        provider: &FakeProvider,
        concurrency: u32,
        rate: Option<NonZeroU32>,
    ) -> anyhow::Result<Served> {
        let mut options = self
            .options(Way::Tokens)
            .variable(PROVIDER_URL, provider.url())
            .variable(PROVIDER_KEY, provider.secret_key())
            .argument("--charge-concurrency")
            .argument(concurrency.to_string());
        if let Some(rate) = rate {
            options = options.argument("--provider-rate").argument(rate.to_string());
        }
        self.start_server(options).await
    }

    fn options(&self, way: Way) -> ProcessOptions {
        use clap::ValueEnum as _;
        let name = way.to_possible_value().expect("no way is hidden").get_name().to_owned();
        ProcessOptions::new(&self.program, LISTEN)
            .argument("serve")
            .argument("--way")
            .argument(name)
            .variable(JWT_SECRET, SECRET)
            .variable(REDIS_URL, self.redis.url())
            .variable(DATABASE_URL, &self.database_url)
    }

    async fn start_server(&self, options: ProcessOptions) -> anyhow::Result<Served> {
        let number = self.servers.get() + 1;
        self.servers.set(number);
        let process = self.sandbox.process(&format!("server-{number}"), options).await?;
        Ok(Served { address: process.address(LISTEN), process })
    }

    /// Another program beside the stores.
    pub async fn process(&self, name: &str, options: ProcessOptions) -> anyhow::Result<Process> {
        Ok(self.sandbox.process(name, options).await?)
    }

    async fn redis_connection(&self) -> anyhow::Result<redis::aio::MultiplexedConnection> {
        Ok(redis::Client::open(self.redis.url())?.get_multiplexed_async_connection().await?)
    }
}

/// A server that runs. Dropped, it is killed.
pub struct Served {
    pub address: SocketAddr,
    process: Process,
}

impl Served {
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// The last of what it has warned of.
    pub fn warnings(&self) -> anyhow::Result<String> {
        const LINES: usize = 12;
        // Every server says it: a stage has no mail server.
        const EXPECTED: &str = "no mail server is configured";
        let log = std::fs::read_to_string(self.process.log())?;
        let is_warning =
            |line: &&str| (line.contains(" WARN ") || line.contains(" ERROR ")) && !line.contains(EXPECTED);
        let mut last = log.lines().rev().filter(is_warning).take(LINES).collect::<Vec<_>>();
        last.reverse();
        Ok(last.join("\n"))
    }

    pub fn paths(&self, drop: &SaleDrop) -> DropPaths {
        let skus = drop.variants.iter().map(|variant| variant.sku.clone()).collect();
        DropPaths::new(self.address, drop.name.as_str(), skus)
    }
}

/// Only a secret of ours.
pub fn beacon() -> Beacon {
    Beacon::None { commitment: commitment(&LINE_SECRET) }
}

/// It is loaded with the server, so the server starts once more.
async fn count_statements(postgres: &Postgres) -> anyhow::Result<()> {
    let connect = async || {
        let (client, connection) =
            tokio_postgres::connect(&postgres.url_of("template1"), tokio_postgres::NoTls).await?;
        tokio::spawn(async move { std::mem::drop(connection.await) });
        anyhow::Ok(client)
    };
    connect().await?.batch_execute("alter system set shared_preload_libraries = 'pg_stat_statements'").await?;
    postgres.restart().await?;
    // Every database is made from this one.
    let create = "create extension if not exists pg_stat_statements";
    connect()
        .await?
        .batch_execute(create)
        .await
        .context("Postgres cannot count statements: install its contrib package")
}

pub fn secret() -> Secret {
    Secret::from(SECRET.to_owned())
}
