//! Postgres goes away in the middle of a sale, or leaves a COMMIT without its answer: claims go on within a bound, nothing is
//! confirmed, and afterwards every claim is one order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use doorbuster_engine::domain::claims::ClaimOutcome;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::drops::Admission;
use doorbuster_engine::domain::ids::RefundId;
use doorbuster_engine::domain::line::state::LineState;
use doorbuster_engine::domain::line::terms::REVEAL_AFTER;
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::flows::backlog::LogWatch;
use doorbuster_engine::flows::line::LineJoined;
use doorbuster_engine::flows::{Engine, EngineError};
use doorbuster_engine::ledger::Ledger;
use doorbuster_engine::ledger::line::{Joined, LeftPlace};
use doorbuster_engine::tokens::store::TokenStore;
use doorbuster_engine::workers::{self, WorkerSettings, settle_all};
use doorbuster_sandbox::provider::FakeProviderOptions;
use futures_util::future::join_all;
use jiff::SignedDuration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{World, buyer, claim, provider, servers, taken};
use crate::line::{EVERY, Line, SEAL_AFTER, opening_after_seal, same};

#[expect(clippy::print_stdout, reason = "how often it really happened")]
#[tokio::test(flavor = "multi_thread")]
async fn w7_claims_go_on_while_postgres_is_away_and_everything_is_caught_up_afterwards() {
    let servers = servers().await;
    let (postgres, redis) = (servers.sandbox.postgres().await.unwrap(), servers.sandbox.redis().await.unwrap());
    let world = World::on(redis.url(), &postgres).await;
    let (_fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[60], 2, 1).await;
    let home = |who: u32| live.home_of(&buyer(who)).number.0;
    let mut buyers = (0..2_000).filter(|who| home(*who) == 0);
    for who in buyers.by_ref().take(10) {
        world.save_profile(who, "pm_card_visa").await;
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    assert_eq!(world.settle().await, 10);
    postgres.kill();

    // The rest of what the home has: twenty of its thirty.
    let mut took = Vec::new();
    for who in buyers.by_ref().take(20) {
        took.push((who, taken(world.claim(&live, who, "k", 0, 1).await.unwrap())));
    }
    for (who, serials) in &took {
        let again = world.claim(&live, *who, "k", 0, 1).await.unwrap();
        assert_eq!(again, ClaimOutcome::Replayed { serials: serials.clone() }, "a repeat has its answer");
    }
    // Now the home is empty, and the other warehouse's units cannot be moved without Postgres.
    let mut unavailable = 0;
    for who in buyers.by_ref().take(5) {
        let error = world.claim(&live, who, "k", 0, 1).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        unavailable += 1;
    }
    let mut watch = LogWatch::default();
    assert!(world.engine.watch_backlogs(&mut watch).await.is_err(), "Postgres is away");
    let waiting = world.engine.waiting(&live, &mut watch).await;
    assert_eq!(waiting.claims, 20, "the backlog is known all the same");
    assert!(waiting.oldest.is_some());
    assert!(settle_all(&world.engine).await.is_err());
    assert!(world.engine.charge_due(&client, 100, 4).await.is_err(), "nothing is confirmed");

    postgres.restart().await.unwrap();
    let began = Instant::now();
    let settled = loop {
        match settle_all(&world.engine).await {
            Ok(settled) => break settled,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(20), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let caught_up = began.elapsed();
    assert_eq!(settled, 20);
    assert_eq!(world.engine.waiting(&live, &mut watch).await.claims, 0);
    let (sql, connection) = tokio_postgres::connect(&world.database, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let confirmed = "select count(*) from orders where status = 'CONFIRMED'";
    let confirmed: i64 = sql.query_one(confirmed, &[]).await.unwrap().get(0);
    assert_eq!(confirmed, 0, "charged only from now on");
    while world.engine.charge_due(&client, 100, 4).await.unwrap().leased > 0 {}
    let who = buyers.next().unwrap();
    taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    world.engine.apply_grants().await.unwrap();
    let report = world.engine.audit(Some(&client)).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
    println!(
        "Postgres away: {} claims and {} repeats answered, {unavailable} told to ask again, 0 confirmed; \
         {settled} settled {} ms after its return, 0 violations",
        took.len(),
        took.len(),
        caught_up.as_millis()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn w7_past_its_bound_settlement_that_is_behind_makes_claims_unavailable_and_never_sold_out() {
    let mut world = World::new().await;
    let clock = Clock::manual(world.engine.clock.now());
    let ledger = world.engine.ledger.clone();
    world.engine = Engine::new(ledger, TokenStore::connect(&world.redis_url).await.unwrap(), clock.clone());
    let live = world.open(&[10], 1, 1).await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    clock.advance(world.engine.settlement_lag_limit - SignedDuration::from_secs(1));
    let until = async |done: &dyn Fn(&Result<ClaimOutcome, EngineError>) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let outcome = world.claim(&live, 1, "k", 0, 1).await;
            if done(&outcome) {
                return outcome;
            }
            assert!(Instant::now() < deadline, "{outcome:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // Long enough for a measurement, which a claim asks for once a second: within the bound all goes on.
    let began = Instant::now();
    until(&|outcome| outcome.is_err() || began.elapsed() > Duration::from_millis(1_300)).await.unwrap();
    clock.advance(SignedDuration::from_secs(2));
    let behind = until(&Result::is_err).await.unwrap_err();
    assert!(matches!(behind, EngineError::SettlementBehind) && behind.is_retryable(), "{behind}");
    assert_eq!(world.settle().await, 1);
    until(&Result::is_ok).await.unwrap();
    taken(world.claim_until_answered(&live, 2, "k", 0, 1).await);
}

/// What the proxy does with the next COMMIT.
const PASS: u8 = 0;
/// Postgres never hears of it.
const CUT_BEFORE: u8 = 1;
/// Postgres commits, and nobody hears of that.
const CUT_AFTER: u8 = 2;
/// Every connection is cut, until it is told otherwise.
const AWAY: u8 = 3;

/// A way to Postgres that is cut around a COMMIT, once each time it is told to.
struct CommitCutter {
    port: u16,
    next: Arc<AtomicU8>,
    cuts: Arc<[AtomicU32; 3]>,
}

impl CommitCutter {
    async fn before(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cutter = Self { port, next: Arc::default(), cuts: Arc::default() };
        let (next, cuts) = (Arc::clone(&cutter.next), Arc::clone(&cutter.cuts));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, Arc::clone(&next), Arc::clone(&cuts)));
            }
        });
        cutter
    }

    fn cuts(&self, kind: u8) -> u32 {
        self.cuts[usize::from(kind)].load(Ordering::SeqCst)
    }
}

/// The simple query COMMIT: Q, its length, the text, a zero.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

async fn carry(mut client: TcpStream, server: u16, next: Arc<AtomicU8>, cuts: Arc<[AtomicU32; 3]>) {
    let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
    let (mut from_client, mut from_server) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(len @ 1..) = read else { return };
                let bytes = &from_client[..len];
                if next.load(Ordering::SeqCst) == AWAY {
                    return;
                }
                let cut = if bytes.ends_with(COMMIT) { next.swap(PASS, Ordering::SeqCst) } else { PASS };
                if cut == CUT_BEFORE {
                    cuts[usize::from(cut)].fetch_add(1, Ordering::SeqCst);
                    return;
                }
                if server.write_all(bytes).await.is_err() {
                    return;
                }
                if cut == CUT_AFTER {
                    // Its answer has come this far: it is committed.
                    let Ok(1..) = server.read(&mut from_server).await else { return };
                    cuts[usize::from(cut)].fetch_add(1, Ordering::SeqCst);
                    return;
                }
            }
            read = server.read(&mut from_server) => {
                let Ok(len @ 1..) = read else { return };
                if client.write_all(&from_server[..len]).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "how often it really happened")]
#[tokio::test(flavor = "multi_thread")]
async fn l14_a_commit_without_an_answer_is_run_again_by_claim_id_and_nothing_is_doubled_or_lost() {
    const ROUNDS: u32 = 24;
    const CLAIMS: u32 = 10;
    let world = World::new().await;
    let port = servers().await.postgres.port();
    let cutter = CommitCutter::before(port).await;
    let proxied = world.database.replace(&format!(":{port}/"), &format!(":{}/", cutter.port));
    assert_ne!(proxied, world.database);
    let tokens = TokenStore::connect(&world.redis_url).await.unwrap();
    let engine = Engine::new(Ledger::new(&proxied, 4).unwrap(), tokens, world.engine.clock.clone());
    let live = world.open(&[ROUNDS * CLAIMS + 50], 3, 1).await;
    let (mut unknown, mut applied, mut settled) = (0, 0, 0);
    for round in 0..ROUNDS {
        join_all((0..CLAIMS).map(|who| world.claim_until_answered(&live, round * CLAIMS + who, "k", 0, 1))).await;
        let kinds: &[u8] = match round % 3 {
            0 => &[CUT_AFTER],
            1 => &[CUT_BEFORE],
            _ => &[CUT_BEFORE, CUT_AFTER],
        };
        for kind in kinds {
            cutter.next.store(*kind, Ordering::SeqCst);
            let error = settle_all(&engine).await.expect_err("its connection was cut");
            assert!(error.is_retryable(), "{error}");
            unknown += 1;
            // One lane of settlement was cut; the others went on to their ends.
            let missing = i64::from((round + 1) * CLAIMS) - world.count("select count(*) from orders").await;
            assert_eq!(missing == 0, *kind == CUT_AFTER, "{missing} orders are missing");
            applied += u32::from(missing == 0);
        }
        settled += settle_all(&engine).await.unwrap();
    }
    let orders = i64::from(ROUNDS * CLAIMS);
    assert_eq!(world.count("select count(*) from orders").await, orders);
    assert_eq!(world.count("select count(*) from order_items").await, orders);
    assert_eq!(world.count("select count(*) from payments").await, orders);
    assert_eq!(world.count("select sum(quantity_reserved) from inventory").await, orders);
    assert_eq!(world.count("select count(*) from rejected_claims").await, 0);
    assert_eq!(world.count("select count(*) from poisoned_claims").await, 0);
    assert!(unknown > 0 && applied > 0 && applied < unknown);
    assert_eq!((cutter.cuts(CUT_AFTER), cutter.cuts(CUT_BEFORE)), (applied, unknown - applied));
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
    let id = claim(&live, &buyer(0), "k", 0, 1).id;
    assert!(world.engine.claim_of(&buyer(0), id).await.unwrap().unwrap().order.is_some());
    println!(
        "COMMIT without an answer: {unknown} ({applied} had been applied, {} not); of {orders} claims {settled} were settled by \
         the second run, 0 doubled, 0 lost",
        unknown - applied
    );
}

/// Joins, leaves and every step of a line's worker, each of whose COMMITs may be cut off from its answer, applied or not.
#[tokio::test(flavor = "multi_thread")]
async fn l14_no_commit_without_an_answer_loses_or_doubles_a_place_in_line() {
    const BUYERS: u32 = 18;
    let mut line = Line::open(Admission::Queue, &[6], 4, same).await;
    let port = servers().await.postgres.port();
    let cutter = CommitCutter::before(port).await;
    let proxied = line.world.database.replace(&format!(":{port}/"), &format!(":{}/", cutter.port));
    let tokens = TokenStore::connect(&line.world.redis_url).await.unwrap();
    let engine = Engine::new(Ledger::new(&proxied, 4).unwrap(), tokens, line.engine().clock.clone());
    let drop = line.drop().await;
    let cut = |turn: u32| cutter.next.store([CUT_AFTER, PASS, CUT_BEFORE, PASS][turn as usize % 4], Ordering::SeqCst);
    // Whoever is told nothing asks again.
    for who in 0..BUYERS {
        cut(who);
        let asked = Line::asked(who, "k", &[0], 1);
        let joined = loop {
            match engine.join_line(&drop, &asked).await {
                Ok(joined) => break joined,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        };
        assert!(matches!(joined, LineJoined::Answered(Joined::Now(_) | Joined::Before(_))), "{joined:?}");
    }
    for who in 0..4 {
        cut(who);
        while !matches!(engine.leave_line(&drop, &buyer(who), None).await, Ok(LeftPlace::Left)) {}
    }
    let to_opening = opening_after_seal() - REVEAL_AFTER;
    let mut turn = 0;
    for wait in [SEAL_AFTER, REVEAL_AFTER, to_opening, EVERY, EVERY, EVERY, SignedDuration::from_hours(1)] {
        line.engine().clock.advance(wait);
        loop {
            cut(turn);
            turn += 1;
            match engine.run_lines(&line.beacon, &mut line.memory).await {
                Ok(report) if report.steps == 0 => break,
                Ok(_) => {}
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
    }
    cutter.next.store(PASS, Ordering::SeqCst);
    assert_eq!(line.row().await.state, LineState::Closed);
    let counted = "select count(*), count(distinct buyer), count(*) filter (where state = 'LEFT'),
                          count(*) filter (where state = 'AWARDED'), (select count(*) from orders)
                   from line_entries";
    let row = line.world.sql.query_one(counted, &[]).await.unwrap();
    let counts = [0, 1, 2, 3, 4].map(|column| row.get::<_, i64>(column));
    assert_eq!(counts, [i64::from(BUYERS), i64::from(BUYERS), 4, 6, 6]);
    let cuts = (cutter.cuts(CUT_AFTER), cutter.cuts(CUT_BEFORE));
    assert!(cuts.0 >= 4 && cuts.1 >= 4, "too few were cut: {cuts:?}");
    line.audit().await;
}

/// Charges, refunds, cancels and the grants of what they free, each of whose COMMITs may be cut off from its answer, applied or not.
#[tokio::test(flavor = "multi_thread")]
async fn l14_no_commit_without_an_answer_charges_refunds_or_frees_anything_twice() {
    const BUYERS: u32 = 24;
    let world = World::new().await;
    let port = servers().await.postgres.port();
    let cutter = CommitCutter::before(port).await;
    let proxied = world.database.replace(&format!(":{port}/"), &format!(":{}/", cutter.port));
    let tokens = TokenStore::connect(&world.redis_url).await.unwrap();
    let engine = Engine::new(Ledger::new(&proxied, 4).unwrap(), tokens, world.engine.clock.clone());
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[BUYERS], 2, 1).await;
    for who in 0..BUYERS {
        world.save_profile(who, "pm_card_visa").await;
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    world.settle().await;
    let order = |who: u32| claim(&live, &buyer(who), "k", 0, 1).id.order_id();
    // A COMMIT of every second round is cut, before and after in turn, until nothing is due any more.
    let work = async || {
        let began = Instant::now();
        for round in 0_u32.. {
            let kind = [CUT_AFTER, PASS, CUT_BEFORE, PASS][round as usize % 4];
            cutter.next.store(kind, Ordering::SeqCst);
            let charged = engine.charge_due(&client, 3, 2).await;
            assert!(charged.as_ref().err().is_none_or(EngineError::is_retryable), "{charged:?}");
            let again =
                "update payments set leased_until = null, due_at = least(due_at, now()) where due_at is not null";
            world.sql.execute(again, &[]).await.unwrap();
            if world.count("select count(*) from payments where due_at is not null").await == 0 {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "something is due for ever");
        }
        cutter.next.store(PASS, Ordering::SeqCst);
    };
    work().await;
    assert_eq!(world.count("select count(*) from orders where status = 'CONFIRMED'").await, i64::from(BUYERS));
    let now = world.engine.clock.now();
    for who in 0..BUYERS / 2 {
        cutter.next.store(if who % 2 == 0 { CUT_AFTER } else { CUT_BEFORE }, Ordering::SeqCst);
        // Whoever is told nothing asks again: half of them cancel, the others get ten euros back.
        let ask = async || match who % 4 {
            0 | 1 => engine.ledger.cancel_order(order(who), None, ("grace", "asked by mail"), now).await.map(|_| ()),
            _ => {
                let (id, amount) = (RefundId(order(who).0), Money::new(1_000, "EUR".parse().unwrap()));
                engine.ledger.ask_refund(id, order(who), Some(amount), ("grace", "a scratch"), now).await.map(|_| ())
            }
        };
        while ask().await.is_err() {}
    }
    work().await;
    while !world.engine.apply_grants().await.unwrap().is_done() {
        cutter.next.store(CUT_AFTER, Ordering::SeqCst);
        let _ = engine.apply_grants().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(fake.captures().len() as u32, BUYERS);
    let refunds = fake.refunds();
    let of = |amount_minor: i64| refunds.iter().filter(|refund| refund.amount_minor == amount_minor).count();
    assert_eq!((refunds.len(), of(1_000)), (12, 6), "one for each cancel and each scratch");
    assert_eq!(world.free_in_redis(&live).await, 6, "what was cancelled is free, once");
    let report = world.engine.audit(Some(&client)).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
    let (before, after) = (cutter.cuts(CUT_BEFORE), cutter.cuts(CUT_AFTER));
    assert!(before >= 5 && after >= 5, "{before} were cut before, {after} after");
}

/// A world with so many orders to charge, and an engine whose way to Postgres can be cut.
async fn behind_cutter(orders: u32) -> (World, CommitCutter, Engine) {
    let world = World::new().await;
    let port = servers().await.postgres.port();
    let cutter = CommitCutter::before(port).await;
    let proxied = world.database.replace(&format!(":{port}/"), &format!(":{}/", cutter.port));
    let tokens = TokenStore::connect(&world.redis_url).await.unwrap();
    let engine = Engine::new(Ledger::new(&proxied, 4).unwrap(), tokens, world.engine.clock.clone());
    let live = world.open(&[orders], 1, 1).await;
    for who in 0..orders {
        world.save_profile(who, "pm_card_visa").await;
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    world.settle().await;
    (world, cutter, engine)
}

const LEASED: &str = "select count(*) from payments where leased_until is not null";

#[tokio::test(flavor = "multi_thread")]
async fn l7_a_lease_that_nobody_was_told_of_is_given_back_at_once() {
    const ORDERS: u32 = 6;
    let (world, cutter, engine) = behind_cutter(ORDERS).await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    cutter.next.store(CUT_AFTER, Ordering::SeqCst);
    engine.charge_due(&client, 100, 8).await.unwrap_err();
    assert!(world.count(LEASED).await > 0, "it was committed");
    assert_eq!(fake.requests_seen(), 0);
    // Workers that are told to stop leave no lease behind either.
    let stop = tokio_util::sync::CancellationToken::new();
    stop.cancel();
    workers::run(engine.clone(), client.clone(), WorkerSettings::default(), stop).await;
    assert_eq!(world.count(LEASED).await, 0);
    cutter.next.store(CUT_AFTER, Ordering::SeqCst);
    engine.charge_due(&client, 100, 8).await.unwrap_err();
    assert!(world.count(LEASED).await > 0);
    let mut confirmed = 0;
    while confirmed < ORDERS as usize {
        let report = engine.charge_due(&client, 100, 8).await.unwrap();
        assert!(report.leased > 0, "the others wait for their lease");
        confirmed += report.confirmed;
    }
    assert_eq!((fake.captures().len(), world.count(LEASED).await), (ORDERS as usize, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn l7_what_was_not_sent_when_postgres_went_away_is_given_back_and_the_rest_is_read_back() {
    const ORDERS: usize = 2;
    let (world, cutter, engine) = behind_cutter(ORDERS as u32).await;
    let delay = Duration::from_millis(500)..Duration::from_millis(501);
    let (fake, client) = provider(FakeProviderOptions { delay, ..FakeProviderOptions::default() }).await;
    // The second waits a second for its turn, with its first call committed and not sent.
    let slow = client.clone().limited_to(doorbuster_engine::provider::RateLimit { per_second: 1, burst: 1 });
    let charging = {
        let engine = engine.clone();
        tokio::spawn(async move { engine.charge_due(&slow, 100, 4).await })
    };
    while fake.requests_seen() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cutter.next.store(AWAY, Ordering::SeqCst);
    let _ = charging.await.unwrap();
    let sent = "select count(*) from payment_attempts where state = 'DISPATCHED'";
    let sent = world.count(sent).await;
    assert_eq!(world.count(LEASED).await, ORDERS as i64, "nothing could be given back");
    cutter.next.store(PASS, Ordering::SeqCst);
    let report = engine.charge_due(&client, 100, 4).await.unwrap();
    assert_eq!((report.confirmed as i64, world.count(LEASED).await), (ORDERS as i64 - sent, sent));
    assert!(report.confirmed > 0, "both were sent: the turns of the provider are too fast for this test");
    world.sql.execute("update payments set leased_until = null where leased_until is not null", &[]).await.unwrap();
    while engine.charge_due(&client, 100, 4).await.unwrap().leased > 0 {}
    assert_eq!((fake.captures().len(), fake.intents().len()), (ORDERS, ORDERS), "the rest was read back, or repeated");
    assert!(world.engine.audit(Some(&client)).await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn l7_only_what_our_rows_say_was_never_sent_is_given_back() {
    use doorbuster_engine::domain::payments::AttemptState::{self, Dispatched, NotSent, Prepared, Succeeded, Unknown};
    use doorbuster_engine::ledger::attempts::PaymentLease;

    let cases: [(Option<AttemptState>, bool); 6] = [
        (None, true),
        (Some(Prepared), true),
        (Some(NotSent), true),
        (Some(Succeeded), true),
        (Some(Dispatched), false),
        (Some(Unknown), false),
    ];
    let (world, _, _) = behind_cutter(cases.len() as u32).await;
    let (ledger, now) = (&world.engine.ledger, world.engine.clock.now());
    let mut leased = ledger.lease_payments(now, SignedDuration::from_mins(2), 100).await.unwrap();
    let mut expected = std::collections::HashSet::new();
    for (number, (payment, (state, is_given_back))) in leased.iter_mut().zip(cases).enumerate() {
        if let Some(state) = state {
            let key = format!("order-{}:{number}", payment.order);
            if state == Prepared {
                world.prepared_by_an_older_program(payment, "create", "k").await;
            } else {
                let create = ("create", &*key, "/p", "b");
                let attempt = ledger.begin_attempt(payment, None, create, now).await.unwrap().unwrap();
                if state != Dispatched {
                    ledger.finish_attempt(payment, payment.ended(&attempt, state, ""), now).await.unwrap();
                }
            }
        }
        expected.extend(is_given_back.then_some(payment.order));
    }
    let lease = |number: i64| {
        let of = move |payment: &doorbuster_engine::ledger::attempts::LeasedPayment| PaymentLease {
            order: payment.order,
            number: payment.lease + number,
        };
        leased.iter().map(of).collect::<Vec<_>>()
    };
    assert!(ledger.give_back_unsent(&lease(1), now).await.unwrap().is_empty(), "another's lease");
    assert_eq!(ledger.give_back_unsent(&lease(0), now).await.unwrap(), expected);
    assert_eq!(world.count(LEASED).await, 2);
    assert!(ledger.give_back_unsent(&lease(0), now).await.unwrap().is_empty(), "once");
}
