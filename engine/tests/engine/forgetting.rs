//! Redis forgets: the warehouse issues nothing until it has been rebuilt from Postgres.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use doorbuster_engine::domain::claims::ClaimOutcome;
use doorbuster_engine::domain::ids::{ClaimId, Serial};
use doorbuster_engine::flows::LiveDrop;
use doorbuster_engine::flows::lost::AnswerWatch;
use doorbuster_engine::ledger::settlements::{ClaimToSettle, Settling};
use doorbuster_engine::tokens::keys::WarehouseKeys;
use doorbuster_sandbox::{Redis, RedisCluster, RedisClusterOptions, RedisOptions};

use crate::harness::{World, buyer, claim, is_on_cluster, servers, taken};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_fences_every_warehouse_and_the_rebuild_loses_nothing() {
    let (world, redis) = World::with_own_redis().await;
    let live = world.open(&[6], 2, 2).await;
    let settled = taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    let unsettled = taken(world.claim_until_answered(&live, 2, "k", 0, 1).await);
    redis.kill();
    redis.restart().await.unwrap();
    let error = wait_for_answer(&world, &live).await;
    assert!(error.is_fenced(), "{error}");
    assert_eq!(world.engine.rebuild_fenced().await.unwrap(), 2);
    let live = world.live().await;
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 1).await, ClaimOutcome::Replayed { serials: settled });
    assert_eq!(world.claim_until_answered(&live, 2, "k", 0, 1).await, ClaimOutcome::Replayed { serials: unsettled });
    let mut sold = 2;
    for who in 10..30 {
        match world.claim_until_answered(&live, who, "k", 0, 1).await {
            ClaimOutcome::Taken { .. } => sold += 1,
            ClaimOutcome::SoldOut => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sold, 6);
    world.settle().await;
    assert_eq!(world.count("select count(*) from orders").await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_after_opening_a_warehouse_leaves_a_load_that_the_next_one_ends() {
    let world = World::new().await;
    let live = world.open(&[4], 2, 1).await;
    // Redis has it open, Postgres was not told.
    world.sql.execute("update warehouses set state = 'rebuilding'", &[]).await.unwrap();
    assert_eq!(world.engine.rebuild_fenced().await.unwrap(), 0, "nothing is loaded again");
    assert_eq!(world.count("select count(*) from warehouses where state = 'ready'").await, 2);
    let after = world.live().await;
    assert_eq!(after.drop.warehouses, live.drop.warehouses, "under the same epochs");
    taken(world.claim_until_answered(&after, 1, "k", 0, 1).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_an_emptied_server_is_not_sold_out_and_what_was_settled_comes_back() {
    let (world, redis) = World::with_own_redis().await;
    let live = world.open(&[4], 2, 1).await;
    let kept = taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    taken(world.claim_until_answered(&live, 2, "k", 0, 1).await);
    let mut connection = redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.unwrap();
    let error = world.claim(&live, 3, "k", 0, 1).await.unwrap_err();
    assert!(error.is_fenced(), "{error}");
    assert_eq!(world.engine.rebuild_fenced().await.unwrap(), 2);
    let live = world.live().await;
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 1).await, ClaimOutcome::Replayed { serials: kept });
    assert_eq!(world.free_in_redis(&live).await, 3, "a claim that Redis alone knew is forgotten, its unit is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_claim_stays_over_after_a_rebuild() {
    let world = World::new().await;
    let live = world.open(&[10], 1, 4).await;
    let home = live.drop.warehouses[0];
    let mine = taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    taken(world.claim_until_answered(&live, 2, "k", 0, 1).await);
    // As if Redis had forgotten the first claim and issued its unit again: the second one's order holds it.
    let mut to_settle = Vec::new();
    let now = world.engine.clock.now();
    for entry in live.store(&home).unsettled(10).await.unwrap() {
        let of_second = entry.claims.into_iter().filter(|logged| logged.claim.buyer == buyer(2));
        to_settle.extend(of_second.map(|logged| ClaimToSettle {
            claim: logged.claim,
            serials: mine.clone(),
            warehouse: home,
            epoch: entry.epoch,
            taken_at: now,
            entry: entry.id,
        }));
    }
    world.engine.ledger.settle(&live.drop, &to_settle, Settling::Live, now).await.unwrap();
    world.settle().await;
    assert_eq!(world.count("select count(*) from rejected_claims").await, 1);
    world.apply_all_grants().await;
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 1).await, ClaimOutcome::Released);

    world.engine.rebuild_drop(&world.drop).await.unwrap().unwrap();
    let live = world.live().await;
    // Taken, it would never be settled: its id has been seen.
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 1).await, ClaimOutcome::Released);
    assert_eq!(world.free_in_redis(&live).await, 9);
}

/// Which file of an earlier hour Redis is started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OldFile {
    AppendOnly,
    Snapshot,
}

/// Whether the sale was settled once more between the copy and the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastSettled {
    BeforeTheCopy,
    AfterTheCopy,
}

#[tokio::test(flavor = "multi_thread")]
async fn l4_an_old_append_only_file_sells_nothing_twice_and_keeps_what_it_holds() {
    sale_that_is_put_back(OldFile::AppendOnly, LastSettled::BeforeTheCopy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l4_an_old_append_only_file_keeps_what_was_settled_after_it() {
    sale_that_is_put_back(OldFile::AppendOnly, LastSettled::AfterTheCopy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l4_an_old_snapshot_sells_nothing_twice_and_keeps_what_was_settled_after_it() {
    // A node of a cluster is not started without its append-only file; the server is alike in all else.
    if !is_on_cluster() {
        sale_that_is_put_back(OldFile::Snapshot, LastSettled::AfterTheCopy).await;
    }
}

/// A server to hurt, with the cluster around it if there is one.
enum Hurt {
    Server(Box<Redis>),
    Cluster(RedisCluster),
}

impl Hurt {
    async fn start(file: OldFile) -> (World, Self) {
        let servers = servers().await;
        if is_on_cluster() {
            // Without a replica to take its place, the node comes back as the primary it was.
            let options = RedisClusterOptions::default().replicas_of_each(0);
            let cluster = servers.sandbox.redis_cluster(options).await.expect("a Redis Cluster");
            (World::on(cluster.url(), &servers.postgres).await, Self::Cluster(cluster))
        } else {
            let appendonly = if file == OldFile::Snapshot { "no" } else { "yes" };
            let options = RedisOptions::default().setting("appendonly", appendonly);
            let redis = servers.sandbox.redis_with(options).await.expect("redis-server");
            let world = World::on(redis.url(), &servers.postgres).await;
            (world, Self::Server(Box::new(redis)))
        }
    }

    /// The server that has the first warehouse, and for each warehouse whether it lies there.
    async fn victim(&self, world: &World, live: &LiveDrop) -> (&Redis, Vec<bool>) {
        let count = live.drop.warehouses.len();
        match self {
            Self::Server(redis) => (redis, vec![true; count]),
            Self::Cluster(cluster) => {
                let mut owners = Vec::new();
                for warehouse in &live.drop.warehouses {
                    let meta = WarehouseKeys::new(&world.drop, warehouse.number, count).fixed("meta");
                    owners.push(cluster.primary_of(&meta).await.unwrap());
                }
                (owners[0], owners.iter().map(|owner| owner.port() == owners[0].port()).collect())
            }
        }
    }
}

/// A sale whose Redis is killed and started from a file copied earlier: the file has the same epoch, and in it units are
/// free that have been sold since.
#[expect(clippy::print_stdout, reason = "the figures are what one wants to know of a drill")]
async fn sale_that_is_put_back(file: OldFile, last_settled: LastSettled) {
    const STOCK: u32 = 60;
    const WAREHOUSES: u32 = 6;
    let (world, hurt) = Hurt::start(file).await;
    if file == OldFile::Snapshot {
        run(&world.redis_url, "CONFIG SET appendonly yes").await;
    }
    let live = world.open(&[STOCK], WAREHOUSES, 1).await;
    let (victim, is_hit) = hurt.victim(&world, &live).await;
    let home_of = |who: u32| usize::from(live.home_of(&buyer(who)).number.0);

    let mut told: HashMap<ClaimId, (u32, Vec<Serial>)> = HashMap::new();
    let mut told_by = async |buyers: &[u32]| {
        for &who in buyers {
            let serials = taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
            told.insert(claim(&live, &buyer(who), "k", 0, 1).id, (who, serials));
        }
    };
    let early = (0..10).collect::<Vec<_>>();
    let in_file = (10..20).collect::<Vec<_>>();
    // More than the last home has: units have moved between warehouses since the copy.
    let after = (100..).filter(|who| home_of(*who) == WAREHOUSES as usize - 1).take(15).collect::<Vec<_>>();
    let last = (20..30).collect::<Vec<_>>();
    told_by(&early).await;
    world.settle().await;
    told_by(&in_file).await;
    let copy = copy_data(victim, file).await;
    let transfers = "select count(*) from grants where kind = 'transfer'";
    let moved_before = world.count(transfers).await;
    told_by(&after).await;
    assert!(world.count(transfers).await > moved_before);
    if last_settled == LastSettled::AfterTheCopy {
        world.settle().await;
    }
    told_by(&last).await;
    let epochs = live.drop.warehouses.iter().map(|warehouse| warehouse.epoch).collect::<Vec<_>>();

    victim.kill();
    put_back(victim, &copy);
    victim.restart().await.unwrap();
    if let Hurt::Cluster(cluster) = &hurt {
        cluster.until_agreed().await.unwrap();
    }
    let before = live.store(&live.drop.warehouses[0]).dump().await.unwrap().expect("the file holds the warehouse");
    assert_eq!(before.epoch, epochs[0], "the epoch alone would not tell the old file from the new one");
    for number in (0..WAREHOUSES as usize).filter(|number| is_hit[*number]) {
        let who = (1_000..).find(|who| home_of(*who) == number).unwrap();
        let error = wait_for_answer_to(&world, &live, who).await;
        assert!(error.is_fenced(), "{error}");
    }
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.violations.is_empty() && !report.drops[0].is_quiet, "what waits for its rebuild is not accused");
    let hit = is_hit.iter().filter(|hit| **hit).count();
    assert_eq!(world.engine.rebuild_fenced().await.unwrap(), hit);
    world.settle().await;

    // What the buyers were told, against what became an order.
    let rows = world.sql.query("select order_id from orders", &[]).await.unwrap();
    let orders = rows.iter().map(|row| row.get::<_, uuid::Uuid>(0)).collect::<HashSet<_>>();
    let is_kept = |id: &ClaimId| orders.contains(&id.order_id().0);
    let was_settled = |who: &u32| last_settled == LastSettled::AfterTheCopy && after.contains(who);
    for (id, (who, _)) in &told {
        let in_neither = !early.contains(who) && !in_file.contains(who) && !was_settled(who);
        let only_redis_knew = in_neither && is_hit[home_of(*who)];
        assert_eq!(is_kept(id), !only_redis_knew, "the claim of buyer {who}");
    }
    let forgotten = told.keys().filter(|id| !is_kept(id)).count();
    assert!(forgotten > 0, "the file was old");
    // Whoever answered them finds these and no others, and nothing of it is settled any more.
    let lost = world.engine.look_after_answers(&mut AnswerWatch::default()).await.unwrap().lost;
    let expected = told.keys().filter(|id| !is_kept(id)).copied().collect::<HashSet<_>>();
    assert_eq!((lost.len(), lost.into_iter().collect::<HashSet<_>>()), (forgotten, expected));
    assert_eq!(world.count("select count(*) from standby_places where precedence = 0").await, forgotten as i64);

    // Everybody comes again, and more than there is.
    let live = world.live().await;
    for (id, (who, serials)) in &told {
        if is_kept(id) {
            let outcome = world.claim_until_answered(&live, *who, "k", 0, 1).await;
            assert_eq!(outcome, ClaimOutcome::Replayed { serials: serials.clone() });
        }
    }
    let (mut sold, mut refused) = (0, 0);
    for who in 10_000..10_000 + STOCK {
        match world.claim_until_answered(&live, who, "k", 0, 1).await {
            ClaimOutcome::Taken { .. } => sold += 1,
            ClaimOutcome::SoldOut => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((told.len() - forgotten + sold, refused > 0), (STOCK as usize, true));
    world.settle().await;
    world.apply_all_grants().await;
    let distinct = "select count(distinct serial) from order_items, unnest(serials) serial";
    let (units, orders) = (world.count(distinct).await, world.count("select count(*) from orders").await);
    assert_eq!((units, orders), (i64::from(STOCK), i64::from(STOCK)), "every unit once");
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
    println!(
        "old {file:?}, last settled {last_settled:?}: answered {}, kept {}, forgotten {forgotten}, oversold 0, \
         {hit} of {WAREHOUSES} warehouses rebuilt",
        told.len(),
        told.len() - forgotten
    );
}

async fn run(url: &str, words: &str) -> redis::Value {
    let mut connection = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
    let mut words = words.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        command.arg(word);
    });
    command.query_async(&mut connection).await.unwrap()
}

/// Where a server keeps the file, and what stood there.
struct Copied {
    path: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
}

async fn copy_data(server: &Redis, file: OldFile) -> Copied {
    let folder: HashMap<String, String> = redis::from_redis_value(run(&server.url(), "CONFIG GET dir").await).unwrap();
    let folder = Path::new(&folder["dir"]);
    let (path, files) = match file {
        OldFile::Snapshot => {
            run(&server.url(), "SAVE").await;
            (folder.to_owned(), vec![folder.join("dump.rdb")])
        }
        OldFile::AppendOnly => {
            let path = folder.join("appendonlydir");
            // Asleep, it writes nothing beside the copy.
            server.pause();
            let files = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            (path, files)
        }
    };
    let files = files.into_iter().map(|file| (file.clone(), fs::read(&file).unwrap())).collect();
    server.resume();
    Copied { path, files }
}

fn put_back(server: &Redis, copy: &Copied) {
    assert!(server.pid().is_none(), "a server that runs would not see it");
    if copy.path.ends_with("appendonlydir") {
        fs::remove_dir_all(&copy.path).unwrap();
        fs::create_dir(&copy.path).unwrap();
    }
    for (file, bytes) in &copy.files {
        fs::write(file, bytes).unwrap();
    }
}

/// The first error that comes from the server itself, once it answers again.
async fn wait_for_answer(world: &World, live: &LiveDrop) -> doorbuster_engine::flows::EngineError {
    wait_for_answer_to(world, live, 9).await
}

async fn wait_for_answer_to(world: &World, live: &LiveDrop, who: u32) -> doorbuster_engine::flows::EngineError {
    for _ in 0..200 {
        match world.claim(live, who, "probe", 0, 1).await {
            Err(error) if error.is_fenced() => return error,
            Err(_) => tokio::time::sleep(Duration::from_millis(25)).await,
            Ok(outcome) => panic!("a fenced warehouse answered {outcome:?}"),
        }
    }
    panic!("no answer");
}
