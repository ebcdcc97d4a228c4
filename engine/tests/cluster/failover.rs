//! A primary dies in the middle of a sale. Its replica may miss the newest claims: they are forgotten, and counted; nothing
//! else may happen. Every refusal is weighed at its own instants, from the buyers' log, as the crowd's judge does it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use doorbuster_engine::domain::claims::{Acknowledgement, Claim, ClaimOutcome};
use doorbuster_engine::domain::drops::NewDrop;
use doorbuster_engine::domain::ids::{ClaimId, Serial};
use doorbuster_engine::flows::acknowledge::Acknowledged;
use doorbuster_engine::flows::{EngineError, LiveDrop};
use doorbuster_engine::tokens::keys::WarehouseKeys;
use doorbuster_sandbox::crowd::{BuyersLog, Call, CallOutcome, FreedFact, OrderFact, StoreFacts, Visit, judge};
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

/// When it is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// A third of the stock is sold.
    MidSale,
    /// The first buyer has been refused: what is forgotten is free again while a crowd is being sent away.
    SoldOut,
}

/// How far the sale has come, for those who wait for it.
#[derive(Default)]
struct Sale {
    sold: AtomicUsize,
    refused: AtomicUsize,
    rebuilt: AtomicUsize,
    /// No settlement now: in between two of them much is known to Redis alone.
    is_between_settlements: AtomicBool,
    /// The loss is over: from now on a refusal is taken for an answer.
    is_calm: AtomicBool,
    is_over: AtomicBool,
}

async fn world_on_own_cluster() -> (World, RedisCluster) {
    let servers = servers().await;
    let cluster = servers.sandbox.redis_cluster(RedisClusterOptions::default()).await.expect("a Redis Cluster");
    (World::on(cluster.url(), &servers.postgres).await, cluster)
}

/// What the buyers were told, and when.
struct Told {
    began: Instant,
    calls: Vec<Call>,
    taken: HashMap<ClaimId, Vec<Serial>>,
    /// Of these, those that were on all replicas when they were answered.
    replicated: HashSet<ClaimId>,
    errors: HashMap<String, usize>,
    /// For each warehouse the longest time in which claims were under way and none was answered.
    closed: HashMap<usize, Duration>,
    answered: HashMap<usize, Instant>,
    slowest: Duration,
}

impl Told {
    /// Nobody calls before this.
    fn begin() -> Self {
        Self {
            began: Instant::now(),
            calls: Vec::new(),
            taken: HashMap::new(),
            replicated: HashSet::new(),
            errors: HashMap::new(),
            closed: HashMap::new(),
            answered: HashMap::new(),
            slowest: Duration::ZERO,
        }
    }

    fn us(&self, at: Instant) -> i64 {
        (at - self.began).as_micros() as i64
    }

    fn log(&mut self, claim: &Claim, sent: Instant, outcome: CallOutcome) {
        let (started_us, ended_us) = (self.us(sent), self.us(Instant::now()) + 1);
        self.calls.push(Call {
            buyer: claim.buyer.as_str().to_owned(),
            key: "k".to_owned(),
            sku: "shoe".to_owned(),
            quantity: 1,
            visit: Visit::FirstClick,
            due_us: started_us,
            started_us,
            ended_us,
            outcome,
        });
    }

    /// Notes one call of a buyer who first came at `came`; whether he has been answered.
    fn note(
        &mut self,
        claim: &Claim,
        home: usize,
        came: Instant,
        sent: Instant,
        outcome: Result<ClaimOutcome, EngineError>,
    ) -> bool {
        self.slowest = self.slowest.max(sent.elapsed());
        match outcome {
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                assert!(came.elapsed() < DEADLINE, "no answer: {error}");
                self.log(claim, sent, CallOutcome::Unknown(error.to_string()));
                *self.errors.entry(error.to_string()).or_default() += 1;
                return false;
            }
            Ok(ClaimOutcome::Taken { serials } | ClaimOutcome::Replayed { serials }) => {
                let (claim_id, numbers) = (claim.id.order_id().0.to_string(), serials.iter().map(|serial| serial.0));
                self.log(claim, sent, CallOutcome::Accepted { claim_id, serials: numbers.collect(), replayed: false });
                self.taken.insert(claim.id, serials);
            }
            Ok(ClaimOutcome::SoldOut) => self.log(claim, sent, CallOutcome::SoldOut),
            Ok(other) => panic!("{other:?}"),
        }
        let before = self.answered.insert(home, Instant::now()).unwrap_or(came);
        // Nobody asked for this warehouse before this buyer came.
        let closed = self.closed.entry(home).or_default();
        *closed = (*closed).max(before.elapsed().min(came.elapsed()));
        true
    }
}

/// Every buyer claims until he is answered; between two tries he waits as a browser would. Until the loss is over those who
/// are refused come back too.
async fn crowd(world: &World, live: &Arc<LiveDrop>, buyers: std::ops::Range<u32>, sale: &Sale) -> Told {
    let next = AtomicU32::new(buyers.start);
    let told = Mutex::new(Told::begin());
    let one = async || {
        loop {
            let who = next.fetch_add(1, Ordering::SeqCst);
            if who >= buyers.end {
                return;
            }
            let claim = claim(live, &buyer(who), "k", 0, 1);
            let home = usize::from(live.home_of(&claim.buyer).number.0);
            let mut came = Instant::now();
            loop {
                let sent = Instant::now();
                let is_calm = sale.is_calm.load(Ordering::SeqCst);
                let answered = world.engine.claim(live, &claim).await;
                let is_replicated = matches!(
                    &answered,
                    Ok(answered) if answered.acknowledged == Acknowledged::Reached(Acknowledgement::Replicated)
                );
                let outcome = answered.map(|answered| answered.outcome);
                let is_refused = matches!(outcome, Ok(ClaimOutcome::SoldOut));
                let is_answered = {
                    let mut told = told.lock().unwrap();
                    let is_answered = told.note(&claim, home, came, sent, outcome);
                    if is_replicated {
                        told.replicated.insert(claim.id);
                    }
                    sale.sold.store(told.taken.len(), Ordering::SeqCst);
                    is_answered
                };
                sale.refused.fetch_add(usize::from(is_refused), Ordering::SeqCst);
                if is_answered && (is_calm || !is_refused) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                if is_refused {
                    came = Instant::now();
                }
            }
        }
    };
    futures_util::future::join_all((0..CROWD).map(|_| one())).await;
    told.into_inner().unwrap()
}

/// What the workers do meanwhile: settle, rebuild what is fenced, apply grants. Answers when the last rebuild had ended.
async fn workers(world: &World, sale: &Sale) -> Option<Instant> {
    let mut rebuilt_at = None;
    while !sale.is_over.load(Ordering::SeqCst) {
        // They log what fails and come again.
        if !sale.is_between_settlements.load(Ordering::SeqCst) {
            let _ = doorbuster_engine::workers::settle_all(&world.engine).await;
        }
        // It may have rebuilt some and have failed with another: each load begins an epoch.
        let _ = world.engine.rebuild_fenced().await;
        let rebuilt = "select coalesce(sum(epoch - 1), 0)::bigint from warehouses where state = 'ready'";
        let rebuilt = world.count(rebuilt).await as usize;
        if rebuilt > sale.rebuilt.swap(rebuilt, Ordering::SeqCst) {
            rebuilt_at = Some(Instant::now());
        }
        let _ = world.engine.apply_grants().await;
        tokio::time::sleep(WATCH_EVERY).await;
    }
    rebuilt_at
}

/// How a primary is lost. Returns when all nodes agree on the new one.
async fn lose(how: Loss, moment: Moment, cluster: &RedisCluster, victim: &Redis, sale: &Sale) {
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
            sale.is_between_settlements.store(true, Ordering::SeqCst);
            // Asleep, the replica cannot come back to the primary that has hung up on it.
            replica.pause();
            command(victim, "CLIENT KILL TYPE replica").await;
            let cut_at = sale.sold.load(Ordering::SeqCst);
            until(|| match moment {
                Moment::MidSale => sale.sold.load(Ordering::SeqCst) >= cut_at + 100,
                Moment::SoldOut => sale.refused.load(Ordering::SeqCst) > 0,
            })
            .await;
            victim.kill();
            sale.is_between_settlements.store(false, Ordering::SeqCst);
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

/// The orders as the judge wants them, and when units that were forgotten were surely free again: when the last warehouse had
/// been rebuilt, and not before their buyer had his answer, which a primary may give that wakes up late.
async fn store_facts(world: &World, told: &Told, stock: u32, rebuilt_at: Option<Instant>) -> StoreFacts {
    let sql =
        "select order_id, buyer, serials, status, total_minor, currency from orders join order_items using (order_id)";
    let rows = world.sql.query(sql, &[]).await.unwrap();
    let orders = rows.iter().map(|row| OrderFact {
        order_id: row.get::<_, uuid::Uuid>(0).to_string(),
        buyer: row.get(1),
        sku: "shoe".to_owned(),
        status: row.get(3),
        serials: row.get::<_, Vec<i32>>(2).into_iter().map(i32::cast_unsigned).collect(),
        total_minor: row.get(4),
        currency: row.get(5),
    });
    let orders = orders.collect::<Vec<_>>();
    let ordered = orders.iter().map(|order| order.order_id.as_str()).collect::<HashSet<_>>();
    let freed = told.calls.iter().filter_map(|call| match (&call.outcome, rebuilt_at) {
        (CallOutcome::Accepted { claim_id, .. }, Some(rebuilt_at)) if !ordered.contains(claim_id.as_str()) => {
            let at_us = call.ended_us.max(told.us(rebuilt_at) + 1);
            Some(FreedFact { sku: "shoe".to_owned(), units: 1, at_us })
        }
        _ => None,
    });
    let freed = freed.collect();
    StoreFacts { stock: vec![("shoe".to_owned(), stock)], limit: 1, orders, freed, ..StoreFacts::default() }
}

/// How many answered claims were forgotten, by how safe they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Forgotten {
    accepted: usize,
    replicated: usize,
}

/// A whole sale in which a primary is lost, of a drop that answers at this level.
async fn sale_that_loses_a_primary(how: Loss, moment: Moment, level: Acknowledgement) -> Forgotten {
    Box::pin(whole_sale(how, moment, level)).await
}

#[expect(clippy::print_stdout, reason = "the figures are what one wants to know of a failover")]
async fn whole_sale(how: Loss, moment: Moment, level: Acknowledgement) -> Forgotten {
    let (world, cluster) = world_on_own_cluster().await;
    let stock = 3_000;
    let replicas = u8::from(level == Acknowledgement::Replicated);
    let new = NewDrop { acknowledgement: level, replicas, ..world.new_drop(&[stock], WAREHOUSES, 1) };
    world.engine.create_drop(&new, 42).await.unwrap().unwrap();
    world.engine.open_drop(&world.drop).await.unwrap().unwrap();
    let live = world.live().await;
    let keys = |number| WarehouseKeys::new(&world.drop, number, WAREHOUSES as usize).fixed("meta");
    let victim = cluster.primary_of(&keys(live.drop.warehouses[0].number)).await.unwrap();
    let mut hit = Vec::new();
    for warehouse in &live.drop.warehouses {
        hit.push(cluster.primary_of(&keys(warehouse.number)).await.unwrap().port() == victim.port());
    }
    assert_eq!(hit.iter().filter(|hit| **hit).count(), 2, "two of six warehouses on each of three primaries");

    let sale = Sale::default();
    let from = match moment {
        Moment::MidSale => stock as usize / 3,
        // So many that some hundred of them lie behind the primary that is lost.
        Moment::SoldOut => stock as usize - 400,
    };
    let kill = async {
        until(|| sale.sold.load(Ordering::SeqCst) >= from).await;
        let began = Instant::now();
        lose(how, moment, &cluster, victim, &sale).await;
        let agreed = began.elapsed();
        until(|| sale.rebuilt.load(Ordering::SeqCst) >= 2).await;
        sale.is_calm.store(true, Ordering::SeqCst);
        agreed
    };
    let buyers = async {
        let (told, agreed) = tokio::join!(crowd(&world, &live, 0..stock + 500, &sale), kill);
        sale.is_over.store(true, Ordering::SeqCst);
        (told, agreed)
    };
    let ((told, agreed), rebuilt_at) = tokio::join!(buyers, workers(&world, &sale));
    let rebuilt = sale.rebuilt.load(Ordering::SeqCst);
    world.settle().await;
    world.apply_all_grants().await;
    let free = world.free_in_redis(&*world.live().await).await;

    let facts = store_facts(&world, &told, stock, rebuilt_at).await;
    let (forgotten, orders) = (facts.freed.len(), facts.orders.len());
    let ordered = facts.orders.iter().map(|order| order.order_id.as_str()).collect::<HashSet<_>>();
    let is_forgotten = |id: &&ClaimId| !ordered.contains(id.order_id().to_string().as_str());
    let replicated = told.replicated.iter().filter(is_forgotten).count();
    let verdict = judge(&BuyersLog { calls: told.calls.clone() }, &facts);
    let refused_before = told.calls.iter().filter(|call| {
        call.outcome == CallOutcome::SoldOut && rebuilt_at.is_some_and(|at| call.started_us < told.us(at))
    });
    let closed =
        |is_hit: bool| told.closed.iter().filter(|(home, _)| hit[**home] == is_hit).map(|(_, time)| *time).max();
    let (closed, elsewhere) = (closed(true).unwrap(), closed(false).unwrap());
    println!(
        "{how:?}, {moment:?}, {}: accepted {}, forgotten {forgotten}; of these {} were replicated, forgotten \
         {replicated}; {} of these units sold again, orders {orders}, \
         oversold {}; refusals {} ({} of them before the rebuild had ended), refused while stock remained {}; \
         rebuilt {rebuilt}; promoted and agreed after {agreed:.1?}; closed for {closed:.1?} behind this primary, \
         {elsewhere:.1?} behind the others; slowest call {:.1?}",
        level.as_str(),
        told.taken.len(),
        told.replicated.len(),
        forgotten.saturating_sub(free),
        verdict.oversold,
        verdict.sold_out_answers,
        refused_before.count(),
        verdict.refused_while_stock_remained,
        told.slowest,
    );
    for (error, times) in &told.errors {
        println!("  {times:>6} times: {error}");
    }

    assert_eq!((verdict.oversold, verdict.over_limit), (0, 0), "{:#?}", verdict.findings);
    assert_eq!(verdict.refused_while_stock_remained, 0, "{:#?}", verdict.findings);
    assert_eq!(verdict.lost_claims as usize, forgotten, "an order is what its buyer was told: {:#?}", verdict.findings);
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
    assert!(rebuilt >= 2, "both warehouses of the lost primary were rebuilt");
    assert_eq!(orders + free, stock as usize, "every unit is ordered or free");
    assert!(told.slowest < CALL_MAX, "a call ends, with an answer or as retryable: {:?}", told.slowest);
    Forgotten { accepted: forgotten - replicated, replicated }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_under_load_costs_seconds_and_nothing_is_sold_twice() {
    sale_that_loses_a_primary(Loss::Killed, Moment::MidSale, Acknowledgement::Accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l1_what_the_promoted_replica_never_heard_of_is_forgotten_and_its_units_are_sold_again() {
    let level = Acknowledgement::Accepted;
    let forgotten = sale_that_loses_a_primary(Loss::KilledWithReplicaBehind, Moment::MidSale, level).await;
    assert!(forgotten.accepted > 0, "something was forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_what_was_answered_as_replicated_is_never_forgotten() {
    let level = Acknowledgement::Replicated;
    for how in [Loss::KilledWithReplicaBehind, Loss::Silent] {
        let forgotten = sale_that_loses_a_primary(how, Moment::MidSale, level).await;
        assert_eq!(forgotten.replicated, 0, "{how:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l1_what_is_forgotten_after_the_sell_out_is_sold_to_those_who_come_back() {
    let level = Acknowledgement::Accepted;
    let forgotten = sale_that_loses_a_primary(Loss::KilledWithReplicaBehind, Moment::SoldOut, level).await;
    assert!(forgotten.accepted > 0, "something was forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_a_primary_that_falls_silent_and_comes_back_sells_nothing_twice() {
    sale_that_loses_a_primary(Loss::Silent, Moment::MidSale, Acknowledgement::Accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l6_a_primary_that_steps_down_forgets_nothing() {
    let forgotten = sale_that_loses_a_primary(Loss::SteppedDown, Moment::MidSale, Acknowledgement::Accepted).await;
    assert_eq!(forgotten, Forgotten { accepted: 0, replicated: 0 });
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
    let (first, mut second) = (id(primaries[0]).await, id(primaries[1]).await);
    // All that the first has, empty as it is, becomes the second's. The others believe the later epoch.
    redis::cmd("CLUSTER").arg("BUMPEPOCH").query_async::<()>(&mut second.0).await.unwrap();
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
    let whole = world.engine.tokens.reach().await.unwrap();
    assert_eq!((whole.answering, whole.away.len()), (3, 0));

    let primaries = cluster.primaries().await.unwrap();
    let client = redis::Client::open(primaries[1].url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let set = redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("allkeys-lru").take();
    set.query_async::<()>(&mut connection).await.unwrap();
    let facts = world.engine.tokens.server_facts().await.unwrap();
    assert_eq!(facts.maxmemory_policy, "allkeys-lru", "the one that differs is named");

    primaries[0].kill();
    let reach = world.engine.tokens.reach().await.unwrap();
    let away = format!("127.0.0.1:{} (slots 0 to 5460)", primaries[0].port());
    assert_eq!((reach.answering, reach.away), (2, vec![away]), "the others are asked all the same");
}
