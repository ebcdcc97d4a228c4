//! Requests through the gateway's whole router in process, without sockets: everything between hyper and the stores, and behind
//! `claim` Redis with its fsync.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use doorbuster::state::GateState;
use doorbuster::{GatewayConfig, Secret, auth, routes};
use doorbuster_benches::sale;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::ids::BuyerId;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::Ledger;
use doorbuster_engine::tokens::store::TokenStore;
use doorbuster_sandbox::{Postgres, Redis, Sandbox};
use jiff::SignedDuration;
use mimalloc::MiMalloc;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

/// As the program itself has it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const SECRET: &str = "a secret of this bench, long enough for HS256";

fn requests(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let sandbox = Sandbox::temporary().expect("a folder");
    let (router, _redis, _postgres) = runtime.block_on(router(&sandbox));
    let mut number = 0_u64;
    let mut new_buyer = || {
        number += 1;
        claim(&format!("buyer-{number:014x}").parse().expect("a buyer"))
    };

    let mut group = criterion.benchmark_group("http");
    group.bench_function("no_such_path", |bencher| {
        bencher.iter_batched(
            || get("/v1/nothing"),
            |ask| runtime.block_on(send(&router, ask, 404)),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("drop", |bencher| {
        bencher.iter_batched(
            || get("/v1/drops/drop"),
            |ask| runtime.block_on(send(&router, ask, 200)),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("claim", |bencher| {
        bencher.iter_batched(&mut new_buyer, |ask| runtime.block_on(send(&router, ask, 201)), BatchSize::SmallInput);
    });
    let known: BuyerId = "somebody-who-clicks-again".parse().expect("a buyer");
    runtime.block_on(send(&router, claim(&known), 201));
    group.bench_function("claim_again", |bencher| {
        bencher.iter_batched(|| claim(&known), |ask| runtime.block_on(send(&router, ask, 201)), BatchSize::SmallInput);
    });
    group.finish();
}

/// With its servers, which end when they are dropped.
async fn router(sandbox: &Sandbox) -> (Router, Redis, Postgres) {
    let (redis, postgres) = (sandbox.redis().await.expect("redis-server"), sandbox.postgres().await.expect("Postgres"));
    let ledger = Ledger::new(&postgres.create_database("http").await.expect("a database"), 4).expect("a pool");
    ledger.migrate().await.expect("the schema");
    let tokens = TokenStore::connect(&redis.url()).await.expect("a connection");
    let engine = Engine::new(ledger, tokens, Clock::System);
    engine.create_drop(&sale("drop", 8, engine.clock.now()), 42).await.expect("a drop").expect("a name that is free");
    engine.open_drop(&"drop".parse().expect("a name")).await.expect("a drop").expect("open");
    let config = GatewayConfig::on_free_ports(SECRET);
    (routes::public(GateState::new(&config, engine).into(), &config), redis, postgres)
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).expect("a request")
}

fn claim(buyer: &BuyerId) -> Request<Body> {
    let secret = Secret::from(SECRET.to_owned());
    let token = auth::mint(&secret, buyer, Clock::System.now(), SignedDuration::from_hours(1));
    Request::post("/v1/drops/drop/claims")
        .header("authorization", format!("Bearer {token}"))
        .header("idempotency-key", "once")
        .header("content-type", "application/json")
        .body(Body::from(r#"{"sku":"shoe","quantity":1}"#))
        .expect("a request")
}

async fn send(router: &Router, request: Request<Body>, status: u16) {
    let answer = router.clone().oneshot(request).await.expect("a router never fails");
    let answered = answer.status();
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
    assert_eq!(answered, StatusCode::from_u16(status).expect("a status"), "{}", String::from_utf8_lossy(&body));
}

criterion_group!(benches, requests);
criterion_main!(benches);
