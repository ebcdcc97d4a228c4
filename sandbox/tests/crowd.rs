//! The crowd before a tiny shop in memory: an honest one, and shops with a bug that the judge must see.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{post, put};
use axum::{Json, Router};
use doorbuster_sandbox::crowd::{
    BuyersLog, CallOutcome, CaptureFact, Crowd, CrowdError, CrowdOptions, FreedFact, OrderFact, StoreFacts, Verdict,
    Visit, judge,
};
use serde_json::{Value, json};

const STOCK: u32 = 100;
/// Only a hang takes as long.
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq)]
enum Bug {
    None,
    /// Says "sold out" when ten are left.
    RefusesEarly,
    /// Sells each tenth serial twice.
    Oversells,
    /// A repeated key is a new claim.
    ForgetsKeys,
}

struct Shop {
    bug: Bug,
    free: Vec<u32>,
    claims: HashMap<String, OrderFact>,
    requests: u32,
    profiles: HashMap<String, Value>,
}

type Shared = Arc<Mutex<Shop>>;

async fn save_profile(State(shop): State<Shared>, headers: HeaderMap, Json(profile): Json<Value>) -> StatusCode {
    shop.lock().unwrap().profiles.insert(header(&headers, "authorization"), profile);
    StatusCode::OK
}

async fn claim(
    State(shop): State<Shared>,
    Path(drop): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    assert_eq!(drop, "sneaker");
    let buyer = header(&headers, "authorization");
    let mut shop = shop.lock().unwrap();
    shop.requests += 1;
    // Every tenth request is turned away, every eleventh is executed but not answered.
    if shop.requests % 10 == 0 {
        return (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "0")]).into_response();
    }
    let mut key = header(&headers, "idempotency-key");
    if shop.bug == Bug::ForgetsKeys {
        key = format!("{key} {}", shop.requests);
    }
    let replayed = shop.claims.contains_key(&key);
    if !replayed {
        let wanted = usize::try_from(body["quantity"].as_u64().unwrap()).unwrap();
        let left = shop.free.len() - if shop.bug == Bug::RefusesEarly { shop.free.len().min(10) } else { 0 };
        if left < wanted {
            let code = if left == 0 { "sold_out" } else { "not_enough" };
            return (StatusCode::CONFLICT, Json(json!({ "code": code, "available": left }))).into_response();
        }
        let kept = shop.free.len() - wanted;
        let serials = shop.free.split_off(kept);
        if shop.bug == Bug::Oversells {
            let again: Vec<u32> = serials.iter().copied().filter(|serial| serial % 10 == 0 && *serial > 10).collect();
            shop.free.extend(again.iter().map(|serial| serial - 1));
        }
        let order = OrderFact {
            order_id: uuid::Uuid::new_v4().to_string(),
            buyer: buyer.clone(),
            sku: body["sku"].as_str().unwrap().to_owned(),
            status: "CONFIRMED".to_owned(),
            serials,
            total_minor: 100,
            currency: "EUR".to_owned(),
        };
        shop.claims.insert(key.clone(), order);
    }
    if shop.requests % 11 == 0 {
        return StatusCode::ACCEPTED.into_response();
    }
    let order = &shop.claims[&key];
    let answer = json!({ "claim_id": order.order_id, "serials": order.serials, "acknowledgement": "accepted" });
    (StatusCode::CREATED, [("idempotent-replayed", replayed.to_string())], Json(answer)).into_response()
}

fn header(headers: &HeaderMap, name: &str) -> String {
    headers[name].to_str().unwrap().to_owned()
}

async fn open(bug: Bug) -> (Shared, CrowdOptions) {
    let shop = Shop { bug, free: (1..=STOCK).collect(), claims: HashMap::new(), requests: 0, profiles: HashMap::new() };
    let shop = Arc::new(Mutex::new(shop));
    let routes = Router::new()
        .route("/v1/me/checkout-profile", put(save_profile))
        .route("/v1/drops/{drop}/claims", post(claim))
        .with_state(Arc::clone(&shop));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let mut options =
        CrowdOptions::new(base_url, "sneaker", vec!["shoe".to_owned()], Arc::new(|buyer| buyer.to_owned()));
    (options.buyers, options.connections, options.arrive_within) = (400, 16, Duration::from_millis(200));
    (shop, options)
}

/// The shop settles and charges on the spot.
fn facts(shop: &Shared) -> StoreFacts {
    let shop = shop.lock().unwrap();
    let bare = |order: &OrderFact| OrderFact { buyer: order.buyer.replace("Bearer ", ""), ..order.clone() };
    let capture = |order: &OrderFact| CaptureFact {
        order_id: Some(order.order_id.clone()),
        amount_minor: order.total_minor,
        currency: order.currency.clone(),
    };
    StoreFacts {
        stock: vec![("shoe".to_owned(), STOCK)],
        added: Vec::new(),
        limit: 2,
        orders: shop.claims.values().map(bare).collect(),
        freed: Vec::new(),
        tokens_free: u32::try_from(shop.free.len()).unwrap(),
        captures: shop.claims.values().map(capture).collect(),
    }
}

async fn rush(bug: Bug) -> (BuyersLog, Verdict) {
    let (shop, mut options) = open(bug).await;
    (options.double_click_rate, options.quantity_max) = (0.3, 2);
    let log = tokio::time::timeout(DEADLINE, Crowd::new(options).unwrap().rush()).await.unwrap();
    let verdict = judge(&log, &facts(&shop));
    (log, verdict)
}

#[tokio::test]
async fn a_rush_on_an_honest_shop_is_clean() {
    let (shop, mut options) = open(Bug::None).await;
    (options.double_click_rate, options.decline_rate) = (0.3, 0.05);
    let crowd = Crowd::new(options).unwrap();
    crowd.save_profiles().await.unwrap();
    let log = tokio::time::timeout(DEADLINE, crowd.rush()).await.unwrap();
    let verdict = judge(&log, &facts(&shop));
    assert!(verdict.is_clean(), "{verdict:#?}");
    assert_eq!(verdict.units_confirmed, u64::from(STOCK));

    let profiles = std::mem::take(&mut shop.lock().unwrap().profiles);
    assert_eq!(profiles.len(), 400);
    assert_eq!(profiles.values().filter(|p| p["payment_method"] == "pm_card_chargeDeclined").count(), 20);
    let progress = crowd.progress();
    assert_eq!((progress.profiles_saved, progress.clicked, progress.accepted), (400, 400, u64::from(STOCK)));
    assert_eq!((progress.sold_out, progress.other_refusals, progress.failed), (300, 0, 0));
    assert_eq!(progress.replayed, verdict.replayed_clicks);
    let double_clicks = log.calls.iter().filter(|call| call.visit == Visit::DoubleClick).count();
    assert!((60..180).contains(&double_clicks), "{double_clicks} of 400 buyers clicked twice, at a rate of 0.3");
    assert!(log.calls.iter().any(|call| call.visit == Visit::Retry));
    assert!(log.calls.iter().any(|call| matches!(call.outcome, CallOutcome::Overloaded)));
    let latencies = log.latencies();
    assert!(latencies.calls > 300 && latencies.p50_ms > 0.0 && latencies.p99_ms <= latencies.max_ms);
    assert!(log.claims_per_s() > 0.0);
}

#[tokio::test]
async fn a_shop_that_refuses_early_is_found_out() {
    let (_, verdict) = rush(Bug::RefusesEarly).await;
    assert!(verdict.refused_while_stock_remained > 0, "{verdict:#?}");
    assert_eq!((verdict.oversold, verdict.answers_that_differ, verdict.lost_claims), (0, 0, 0));
}

#[tokio::test]
async fn a_shop_that_oversells_is_found_out() {
    let (_, verdict) = rush(Bug::Oversells).await;
    assert!(verdict.oversold > 0, "{verdict:#?}");
    assert_eq!((verdict.refused_while_stock_remained, verdict.answers_that_differ, verdict.lost_claims), (0, 0, 0));
}

#[tokio::test]
async fn a_shop_that_forgets_keys_is_found_out() {
    let (_, verdict) = rush(Bug::ForgetsKeys).await;
    assert!(verdict.answers_that_differ > 0, "{verdict:#?}");
    assert_eq!((verdict.oversold, verdict.lost_claims), (0, 0));
}

#[tokio::test]
async fn patient_buyers_take_what_comes_back_until_they_are_stopped() {
    let (shop, mut options) = open(Bug::None).await;
    (options.patient_rate, options.return_after, options.patience) = (0.5, Duration::from_millis(50), DEADLINE * 2);
    // The second click of the buyer whose claim fails below could come late, and take the freed unit under the old key.
    options.double_click_rate = 0.0;
    let stop = options.stop.clone();
    let crowd = Crowd::new(options).unwrap();
    let rushing = tokio::spawn({
        let crowd = crowd.clone();
        async move { crowd.rush().await }
    });
    until(|| crowd.progress().sold_out == 300).await;
    let mut facts_before = facts(&shop);
    let failed = {
        let mut shop = shop.lock().unwrap();
        let key = shop.claims.keys().next().unwrap().clone();
        let failed = shop.claims.remove(&key).unwrap();
        shop.free.extend(&failed.serials);
        failed
    };
    let freed = FreedFact { sku: "shoe".to_owned(), units: 1, at_us: crowd.now_us() };
    until(|| crowd.progress().accepted == u64::from(STOCK) + 1).await;
    stop.cancel();
    let log = tokio::time::timeout(DEADLINE, rushing).await.unwrap().unwrap();

    facts_before.orders.retain(|order| order.order_id == failed.order_id);
    facts_before.orders[0].status = "PAYMENT_FAILED".to_owned();
    let mut facts = facts(&shop);
    facts.orders.append(&mut facts_before.orders);
    facts.freed.push(freed);
    let verdict = judge(&log, &facts);
    assert!(verdict.is_clean(), "{verdict:#?}");
    assert_eq!((verdict.claims_accepted, verdict.orders_payment_failed), (u64::from(STOCK) + 1, 1));
    assert!(log.calls.iter().any(|call| call.visit == Visit::Return));
}

#[tokio::test]
async fn without_a_shop_every_buyer_fails_and_says_why() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mint = Arc::new(|buyer: &str| buyer.to_owned());
    let mut options = CrowdOptions::new(format!("http://{unused}"), "sneaker", vec!["shoe".to_owned()], mint);
    (options.buyers, options.tries_max, options.arrive_within) = (5, 2, Duration::ZERO);
    let crowd = Crowd::new(options).unwrap();
    assert!(matches!(crowd.save_profiles().await, Err(CrowdError::Profiles { missing: 5, .. })));
    let log = crowd.rush().await;
    assert_eq!((log.calls.len(), crowd.progress().failed, log.claims_per_s()), (10, 5, 0.0));
    assert!(log.calls.iter().all(|call| matches!(&call.outcome, CallOutcome::Unknown(why) if why.contains("refused"))));
}

async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.expect("the condition was not met in time");
}
