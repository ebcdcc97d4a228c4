//! A primary dies in the middle of a sale. Its replica may miss the newest claims: they are forgotten, and counted; nothing
//! else may happen.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use doorbuster_engine::domain::claims::{Claim, ClaimOutcome};
use doorbuster_engine::domain::ids::{ClaimId, Serial};
use doorbuster_engine::flows::{EngineError, LiveDrop};
use doorbuster_engine::tokens::keys::WarehouseKeys;
use doorbuster_sandbox::{Redis, RedisCluster, RedisClusterOptions};

use crate::harness::{World, buyer, claim, servers};

/// Claims at the same time, spread over all warehouses.
const CROWD: u32 = 48;
const WAREHOUSES: u32 = 6;
/// A failover takes some seconds; this is only reached by a claim that hangs.
const DEADLINE: Duration = Duration::from_secs(60);
/// What one call may take, whatever happens to the cluster: three sends of a batch, and the search for tokens.
const CALL_MAX: Duration = Duration::from_secs(15);
/// As the worker that rebuilds fenced warehouses, only more often.
const WATCH_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Killed,
    /// Killed some claims after its replica has heard the last from it.
    KilledWithReplicaBehind,
    /// It takes connections and says nothing, long enough to be replaced, and wakes up believing that it still leads.
    Silent,
    /// An operator's orderly failover.
    SteppedDown,
}

async fn world_on_own_cluster() -> (World, RedisCluster) {
    let servers = servers().await;
    let cluster = servers.sandbox.redis_cluster(RedisClusterOptions::default()).await.expect("a Redis Cluster");
    (World::on(cluster.url(), &servers.postgres).await, cluster)
}

/// What the buyers were told, and when.
#[derive(Default)]
struct Told {
    taken: HashMap<ClaimId, Vec<Serial>>,
    refused: usize,
    errors: HashMap<String, usize>,
    /// For each warehouse the longest time in which claims were under way and none was answered.
    closed: HashMap<usize, Duration>,
    answered: HashMap<usize, Instant>,
    slowest: Duration,
}

impl Told {
    /// Notes one call of a buyer who first came at `came`; whether he has been answered.
    fn note(&mut self, claim: &Claim, home: usize, came: Instant, outcome: Result<ClaimOutcome, EngineError>) -> bool {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                assert!(came.elapsed() < DEADLINE, "no answer: {error}");
                *self.errors.entry(error.to_string()).or_default() += 1;
                return false;
            }
        };
        let before = self.answered.insert(home, Instant::now()).unwrap_or(came);
        // Nobody asked for this warehouse before this buyer came.
        let closed = self.closed.entry(home).or_default();
        *closed = (*closed).max(before.elapsed().min(came.elapsed()));
        match outcome {
            ClaimOutcome::Taken { serials } | ClaimOutcome::Replayed { serials } => {
                self.taken.insert(claim.id, serials);
            }
            ClaimOutcome::SoldOut => self.refused += 1,
            other => panic!("{other:?}"),
        }
        true
    }
}

/// Every buyer claims until he is answered; between two tries he waits as a browser would.
async fn crowd(world: &World, live: &Arc<LiveDrop>, buyers: std::ops::Range<u32>, sold: &AtomicUsize) -> Told {
    let next = AtomicU32::new(buyers.start);
    let told = Mutex::new(Told::default());
    let one = async || {
        loop {
            let who = next.fetch_add(1, Ordering::SeqCst);
            if who >= buyers.end {
                return;
            }
            let claim = claim(live, &buyer(who), "k", 0, 1);
            let home = usize::from(live.home_of(&claim.buyer).number.0);
            let came = Instant::now();
            loop {
                let call = Instant::now();
                let outcome = world.engine.claim(live, &claim).await.map(|answered| answered.outcome);
                let is_answered = {
                    let mut told = told.lock().unwrap();
                    told.slowest = told.slowest.max(call.elapsed());
                    let is_answered = told.note(&claim, home, came, outcome);
                    sold.store(told.taken.len(), Ordering::SeqCst);
                    is_answered
                };
                if is_answered {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    futures_util::future::join_all((0..CROWD).map(|_| one())).await;
    told.into_inner().unwrap()
}

/// What the workers do meanwhile: settle, rebuild what is fenced, apply grants.
async fn workers(world: &World, stop: &AtomicBool) -> usize {
    let mut rebuilt = 0;
    while !stop.load(Ordering::SeqCst) {
        // They log what fails and come again.
        let _ = doorbuster_engine::workers::settle_all(&world.engine).await;
        rebuilt += world.engine.rebuild_fenced().await.unwrap_or(0);
        let _ = world.engine.apply_grants().await;
        tokio::time::sleep(WATCH_EVERY).await;
    }
    rebuilt
}

/// How a primary is lost. Returns when all nodes agree on the new one.
async fn lose(how: Loss, cluster: &RedisCluster, victim: &Redis, sold: &AtomicUsize) {
    let replica = cluster.replicas_of(victim).await.unwrap()[0];
    let command = async |node: &Redis, words: &str| {
        let client = redis::Client::open(node.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            command.arg(word);
        });
        command.query_async::<redis::Value>(&mut connection).await.unwrap();
    };
    match how {
        Loss::Killed => {}
        Loss::KilledWithReplicaBehind => {
            // Asleep, the replica cannot come back to the primary that has hung up on it.
            replica.pause();
            command(victim, "CLIENT KILL TYPE replica").await;
            let cut_at = sold.load(Ordering::SeqCst);
            until(|| sold.load(Ordering::SeqCst) >= cut_at + 100).await;
            victim.kill();
            replica.resume();
        }
        Loss::Silent => victim.pause(),
        Loss::SteppedDown => command(replica, "CLUSTER FAILOVER").await,
    }
    match how {
        Loss::Killed | Loss::KilledWithReplicaBehind => drop(cluster.fail_over(victim).await.unwrap()),
        Loss::Silent | Loss::SteppedDown => {
            let began = Instant::now();
            while cluster.primaries().await.unwrap().iter().any(|primary| primary.port() == victim.port()) {
                assert!(began.elapsed() < DEADLINE, "nobody was promoted");
            }
            victim.resume();
            cluster.until_agreed().await.unwrap();
        }
    }
}

async fn until(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < DEADLINE, "waited too long");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A whole sale in which a primary is lost after a third of the stock. Answers how many answered claims were forgotten.
#[expect(clippy::print_stdout, reason = "the figures are what one wants to know of a failover")]
async fn sale_that_loses_a_primary(how: Loss) -> usize {
    let (world, cluster) = world_on_own_cluster().await;
    let stock = 3_000;
    let live = world.open(&[stock], WAREHOUSES, 1).await;
    let keys = |number| WarehouseKeys::new(&world.drop, number, WAREHOUSES as usize).fixed("meta");
    let victim = cluster.primary_of(&keys(live.drop.warehouses[0].number)).await.unwrap();
    let mut hit = Vec::new();
    for warehouse in &live.drop.warehouses {
        hit.push(cluster.primary_of(&keys(warehouse.number)).await.unwrap().port() == victim.port());
    }
    assert_eq!(hit.iter().filter(|hit| **hit).count(), 2, "two of six warehouses on each of three primaries");

    let (stop, sold) = (AtomicBool::new(false), AtomicUsize::new(0));
    let kill = async {
        until(|| sold.load(Ordering::SeqCst) >= stock as usize / 3).await;
        let began = Instant::now();
        lose(how, &cluster, victim, &sold).await;
        began.elapsed()
    };
    let sale = async {
        let (told, agreed) = tokio::join!(crowd(&world, &live, 0..stock + 500, &sold), kill);
        stop.store(true, Ordering::SeqCst);
        (told, agreed)
    };
    let ((told, agreed), rebuilt) = tokio::join!(sale, workers(&world, &stop));
    world.settle().await;
    world.apply_all_grants().await;

    let rows = world.sql.query("select order_id, serials from orders join order_items using (order_id)", &[]).await;
    let orders = rows.unwrap().into_iter().map(|row| (row.get::<_, uuid::Uuid>(0), row.get::<_, Vec<i32>>(1)));
    let orders = orders.collect::<HashMap<_, _>>();
    let forgotten = told.taken.keys().filter(|id| !orders.contains_key(&id.order_id().0)).count();
    let closed =
        |is_hit: bool| told.closed.iter().filter(|(home, _)| hit[**home] == is_hit).map(|(_, time)| *time).max();
    let (closed, elsewhere) = (closed(true).unwrap(), closed(false).unwrap());
    println!(
        "{how:?}: accepted {}, forgotten {forgotten}, refused {}, orders {}, rebuilt {rebuilt}; promoted and agreed after \
         {agreed:.1?}; closed for {closed:.1?} behind this primary, \
         {elsewhere:.1?} behind the others; slowest call {:.1?}",
        told.taken.len(),
        told.refused,
        orders.len(),
        told.slowest,
    );
    for (error, times) in &told.errors {
        println!("  {times:>6} times: {error}");
    }

    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
    let serials = orders.values().flatten().collect::<HashSet<_>>();
    assert_eq!(serials.len(), orders.len(), "no unit is in two orders");
    assert!(orders.len() <= stock as usize, "nothing is oversold");
    assert_eq!(
        world.count("select count(*) from (select buyer from orders group by buyer having count(*) > 1) b").await,
        0
    );
    for (id, serials) in &told.taken {
        if let Some(ordered) = orders.get(&id.order_id().0) {
            assert_eq!(ordered.iter().map(|serial| *serial as u32).collect::<Vec<_>>(), vec![serials[0].0]);
        }
    }
    assert!(rebuilt >= 2, "both warehouses of the killed primary were rebuilt");
    let live = world.live().await;
    let free = world.free_in_redis(&live).await;
    assert_eq!(orders.len() + free, stock as usize, "every unit is ordered or free");
    assert!(told.refused == 0 || free == 0, "nobody was refused while a unit was free");
    assert!(told.slowest < CALL_MAX, "a call ends, with an answer or as retryable: {:?}", told.slowest);
    forgotten
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_under_load_costs_seconds_and_nothing_is_sold_twice() {
    sale_that_loses_a_primary(Loss::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l1_what_the_promoted_replica_never_heard_of_is_forgotten_and_its_units_are_sold_again() {
    assert!(sale_that_loses_a_primary(Loss::KilledWithReplicaBehind).await > 0, "something was forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_a_primary_that_falls_silent_and_comes_back_sells_nothing_twice() {
    sale_that_loses_a_primary(Loss::Silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l6_a_primary_that_steps_down_forgets_nothing() {
    assert_eq!(sale_that_loses_a_primary(Loss::SteppedDown).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_is_refused_when_its_warehouses_lie_unevenly() {
    use doorbuster_engine::flows::open_drop::DropRefused;
    let (world, cluster) = world_on_own_cluster().await;
    let primaries = cluster.primaries().await.unwrap();
    let id = |node: &doorbuster_sandbox::Redis| {
        let client = redis::Client::open(node.url()).unwrap();
        async move {
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let id = redis::cmd("CLUSTER").arg("MYID").query_async::<String>(&mut connection).await.unwrap();
            (connection, id)
        }
    };
    let (first, second) = (id(primaries[0]).await, id(primaries[1]).await);
    // All that the first has, empty as it is, becomes the second's.
    for (mut connection, owner) in [(second.0, &second.1), (first.0, &second.1)] {
        let mut pipe = redis::pipe();
        for slot in 100..5_461 {
            pipe.cmd("CLUSTER").arg("SETSLOT").arg(slot).arg("NODE").arg(owner).ignore();
        }
        pipe.query_async::<()>(&mut connection).await.unwrap();
    }
    cluster.until_agreed().await.unwrap();
    world.engine.create_drop(&world.new_drop(&[5], 3, 1), 42).await.unwrap().unwrap();
    let refused = world.engine.open_drop(&world.drop).await.unwrap().unwrap_err();
    let DropRefused::Uneven(why) = &refused else { panic!("{refused:?}") };
    let named =
        format!("127.0.0.1:{} has 0 (uneven), 127.0.0.1:{} has 2 (uneven)", primaries[0].port(), primaries[1].port());
    assert!(why.contains(&named), "{why}");
    assert_eq!(world.count("select count(*) from drops where state = 'draft'").await, 1, "it can be opened later");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_forgot_its_scripts_learns_them_again_though_another_node_is_dead() {
    let (world, cluster) = world_on_own_cluster().await;
    let live = world.open(&[60], 3, 60).await;
    let primaries = cluster.primaries().await.unwrap();
    for primary in &primaries[..2] {
        let client = redis::Client::open(primary.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        redis::cmd("SCRIPT").arg("FLUSH").query_async::<()>(&mut connection).await.unwrap();
    }
    primaries[2].kill();
    for (number, who) in (0..2).map(|number| (number, (0..).find(|who| live.home_of(&buyer(*who)).number.0 == number)))
    {
        let outcome = world.claim(&live, who.unwrap(), "k", 0, 1).await;
        assert!(matches!(outcome, Ok(ClaimOutcome::Taken { .. })), "warehouse {number}: {outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_lost_whole_stops_neither_sale_nor_settlement_nor_rebuild_of_the_rest() {
    let (world, cluster) = world_on_own_cluster().await;
    let live = world.open(&[30], 3, 1).await;
    let primaries = cluster.primaries().await.unwrap();
    let client = redis::Client::open(primaries[2].url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.unwrap();
    // The replica first, or it would be promoted.
    cluster.replicas_of(primaries[0]).await.unwrap()[0].kill();
    primaries[0].kill();

    let error = world.engine.rebuild_fenced().await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let at_home = |number| (0..).find(|who| live.home_of(&buyer(*who)).number.0 == number).unwrap();
    let lost = world.claim(&live, at_home(0), "k", 0, 1).await.unwrap_err();
    assert!(lost.is_retryable(), "{lost}");
    for number in [1, 2] {
        let outcome = world.claim(&live, at_home(number), "k", 0, 1).await;
        assert!(matches!(outcome, Ok(ClaimOutcome::Taken { .. })), "warehouse {number}: {outcome:?}");
    }
    assert_eq!(world.settle().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cluster_is_like_is_said_by_all_of_its_primaries() {
    let (world, cluster) = world_on_own_cluster().await;
    let facts = world.engine.tokens.server_facts().await.unwrap();
    assert_eq!(facts.maxmemory_policy, "noeviction");
    assert_eq!(facts.appendfsync.as_deref(), Some("always"));
    assert!(facts.appendonly && facts.is_primary && facts.requires_full_coverage == Some(false), "{facts:?}");
    world.engine.tokens.ping().await.unwrap();

    let primaries = cluster.primaries().await.unwrap();
    let client = redis::Client::open(primaries[1].url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let set = redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("allkeys-lru").take();
    set.query_async::<()>(&mut connection).await.unwrap();
    let facts = world.engine.tokens.server_facts().await.unwrap();
    assert_eq!(facts.maxmemory_policy, "allkeys-lru", "the one that differs is named");

    primaries[0].kill();
    let error = world.engine.tokens.ping().await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}
