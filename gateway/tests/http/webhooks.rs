//! The payment provider's events over HTTP: what is taken, what is refused, and what they lead to. The corpus prints what
//! it sent: `cargo test -p doorbuster --test gateway -- http::webhooks::the_corpus --nocapture`.

use std::collections::HashMap;
use std::time::Duration;

use doorbuster::config::Limits;
use doorbuster::{GatewayConfig, Secret};
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::ids::{BuyerId, OrderId, PaymentMethodId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::ledger::profiles::CheckoutProfile;
use doorbuster_engine::provider::{Outcome, ProviderClient, ProviderRequest, ProviderSettings, RateLimit};
use doorbuster_engine::workers::settle_all;
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions, Signature, WebhookOptions};
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::shop::{Shop, send, shop, shop_with};
use crate::support::{Answer, SECRET, Sale, count, token, until};

const SECRETS: [&str; 2] = ["whsec_of_this_year_1", "whsec_of_last_year_1"];
const PATH: &str = "/v1/webhooks/stripe";

fn config() -> GatewayConfig {
    let mut config = GatewayConfig::on_free_ports(SECRET);
    config.provider_webhook_secrets = SECRETS.map(|secret| Secret::from(secret.to_owned())).into();
    config
}

fn event(id: &str, intent: &str, livemode: bool) -> Value {
    json!({ "id": id, "object": "event", "type": "payment_intent.succeeded", "created": 1_795_773_598, "livemode": livemode,
        "data": { "object": { "id": intent, "object": "payment_intent", "metadata": { "order_id": "o" } } } })
}

fn signature(secret: &str, time: i64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{time}.{body}").as_bytes());
    let digits = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("t={time},v1={digits}")
}

fn now() -> i64 {
    Clock::System.now().as_second()
}

fn delivery(shop: &Shop, header: &str, body: &str) -> RequestBuilder {
    shop.http.post(shop.url(PATH)).header("stripe-signature", header).body(body.to_owned())
}

async fn deliver(shop: &Shop, secret: &str, body: &str) -> Answer {
    send(delivery(shop, &signature(secret, now(), body), body)).await
}

async fn stored(shop: &Shop) -> i64 {
    count(&shop.database_url, "select count(*) from webhook_events").await
}

#[tokio::test]
async fn a_signed_event_is_kept_once_however_often_it_comes_and_by_whichever_secret() {
    let shop = shop_with(Sale::default(), config()).await;
    let body = event("evt_1", "pi_1", false).to_string();
    for secret in [SECRETS[0], SECRETS[1], SECRETS[0]] {
        let answer = deliver(&shop, secret, &body).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({ "received": true })), "{answer:?}");
    }
    assert_eq!(stored(&shop).await, 1);
    // Many at once are one too.
    let body = event("evt_2", "pi_1", false).to_string();
    let answers = futures_util::future::join_all((0..20).map(|_| deliver(&shop, SECRETS[0], &body))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(stored(&shop).await, 2);
}

#[tokio::test]
async fn what_is_not_signed_is_refused_alike_and_not_kept() {
    let shop = shop_with(Sale::default(), config()).await;
    let body = event("evt_1", "pi_1", false).to_string();
    let good = signature(SECRETS[0], now(), &body);
    let mut texts = Vec::new();
    for (header, body) in [
        (signature("whsec_of_somebody_else", now(), &body), body.clone()),
        (signature(SECRETS[0], now() - 301, &body), body.clone()),
        (signature(SECRETS[0], now() + 310, &body), body.clone()),
        (good.clone(), body.replace("pi_1", "pi_2")),
        (good.clone(), format!("{body}\n")),
        (good.replace("v1=", "v0="), body.clone()),
        (String::new(), body.clone()),
        (signature(SECRETS[0], now(), "{}"), "{}".to_owned()),
    ] {
        let answer = send(delivery(&shop, &header, &body)).await;
        answer.is_problem(400, "delivery_refused");
        texts.push(answer.text);
    }
    let unsigned = send(shop.http.post(shop.url(PATH)).body(body.clone())).await;
    unsigned.is_problem(400, "delivery_refused");
    texts.push(unsigned.text);
    let twice = send(delivery(&shop, &good, &body).header("stripe-signature", &good)).await;
    twice.is_problem(400, "delivery_refused");
    // A buyer's token is no credential here.
    let bearer = send(shop.http.post(shop.url(PATH)).bearer_auth(token("ada")).body(body)).await;
    bearer.is_problem(400, "delivery_refused");
    texts.dedup();
    assert_eq!(texts.len(), 1, "they tell apart what was wrong: {texts:?}");
    assert_eq!(stored(&shop).await, 0);
}

#[tokio::test]
async fn a_body_is_bounded_before_it_is_read() {
    let shop = shop_with(Sale::default(), config()).await;
    let body = "x".repeat(64 * 1024 + 1);
    deliver(&shop, SECRETS[0], &body).await.is_problem(413, "body_too_large");
    deliver(&shop, SECRETS[0], &body[1..]).await.is_problem(400, "delivery_refused");
    let chunks = futures_util::stream::iter((0..65).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 1024])));
    let request = shop.http.post(shop.url(PATH)).header("stripe-signature", signature(SECRETS[0], now(), ""));
    send(request.body(reqwest::Body::wrap_stream(chunks))).await.is_problem(413, "body_too_large");
}

/// A connection that announces a body of 1,000 bytes and has sent none of them.
async fn announce(shop: &Shop, signature: Option<&str>) -> TcpStream {
    let mut socket = TcpStream::connect(shop.gateway.public_addr).await.unwrap();
    let signature = signature.map(|text| format!("stripe-signature: {text}\r\n")).unwrap_or_default();
    let head = format!("POST {PATH} HTTP/1.1\r\nhost: shop\r\ncontent-length: 1000\r\n{signature}\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    socket
}

/// No request of these ends because it is slow.
fn patient_config() -> GatewayConfig {
    let patience = Duration::from_secs(120);
    GatewayConfig { limits: Limits { body: patience, request: patience, ..Limits::default() }, ..config() }
}

#[tokio::test]
async fn a_body_is_not_waited_for_behind_a_header_that_cannot_be_the_providers() {
    let shop = shop_with(Sale::default(), patient_config()).await;
    let old = signature(SECRETS[0], now() - 301, "x");
    let new = signature(SECRETS[0], now() + 310, "x");
    for header in [None, Some("nonsense"), Some("t=1,v1=00"), Some(&*old), Some(&*new)] {
        let mut socket = announce(&shop, header).await;
        let mut answer = [0; 12];
        let read = tokio::time::timeout(Duration::from_secs(20), socket.read_exact(&mut answer)).await;
        read.unwrap_or_else(|_| panic!("{header:?}: the body is waited for")).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 400", "{header:?}");
    }
}

#[tokio::test]
async fn thirty_two_bodies_are_held_at_a_time_and_the_next_delivery_is_told_to_come_again() {
    let shop = shop_with(Sale::default(), patient_config()).await;
    let forged = signature("whsec_of_somebody_else", now(), "");
    let mut slow = Vec::new();
    for _ in 0..32 {
        slow.push(announce(&shop, Some(&forged)).await);
    }
    let body = event("evt_1", "pi_1", false).to_string();
    // All of them are being waited for once a whole delivery is not taken any more.
    until("no body is taken any more", async || deliver(&shop, SECRETS[0], &body).await.status == 503).await;
    deliver(&shop, SECRETS[0], &body).await.is_problem(503, "overloaded");
    // What is refused by its header needs no place.
    send(delivery(&shop, "nonsense", &body)).await.is_problem(400, "delivery_refused");
    slow.pop();
    until("the place of the one that hung up is free", async || deliver(&shop, SECRETS[0], &body).await.status == 200)
        .await;
}

#[tokio::test]
async fn without_a_secret_the_provider_is_told_to_come_again() {
    let shop = shop(Sale::default()).await;
    let body = event("evt_1", "pi_1", false).to_string();
    deliver(&shop, SECRETS[0], &body).await.is_problem(503, "webhooks_off");
    assert_eq!(stored(&shop).await, 0);
}

fn client_of(fake: &FakeProvider) -> ProviderClient {
    let client = ProviderClient::new(ProviderSettings {
        base_url: fake.url().to_owned(),
        secret_key: fake.secret_key().to_owned().into(),
        connect_timeout: Duration::from_secs(2),
        answer_timeout: Duration::from_secs(20),
    });
    client.unwrap().limited_to(RateLimit::NONE)
}

/// Settles claims, charges and deals with events until every order has ended or waits for its buyer.
async fn work(shop: &Shop, client: &ProviderClient) {
    settle_all(&shop.engine).await.unwrap();
    until("every order has ended", async || {
        let (charged, news) =
            tokio::join!(shop.engine.charge_due(client, 100, 8), shop.engine.deal_with_events(client, 100));
        charged.unwrap();
        news.unwrap();
        let open = "select count(*) from orders where status = 'PENDING_PAYMENT'";
        let waiting = "select count(*) from payments where state = 'ACTION_REQUIRED'";
        count(&shop.database_url, open).await == count(&shop.database_url, waiting).await
    })
    .await;
}

/// Buyers act as soon as they are asked to. Those whose event never comes are asked about by the worker, after a second here.
async fn work_while_buyers_act(shop: &Shop, client: &ProviderClient, fake: &FakeProvider) {
    until("every buyer has acted", async || {
        for intent in fake.intents().iter().filter(|intent| intent.status == "requires_action") {
            fake.complete_action(&intent.intent_id);
        }
        work(shop, client).await;
        let ask = "with asked as (update payments set due_at = now() where state = 'ACTION_REQUIRED'
                   and updated_at < now() - interval '1 second' returning 1) select count(*) from asked";
        count(&shop.database_url, ask).await;
        count(&shop.database_url, "select count(*) from orders where status = 'PENDING_PAYMENT'").await == 0
    })
    .await;
}

async fn save_profile(shop: &Shop, buyer: &str, method: &str) {
    let profile = CheckoutProfile {
        payment_method: Some(method.parse::<PaymentMethodId>().unwrap()),
        email: format!("{buyer}@example.test"),
        ship_to: json!({ "name": "B", "country": "DE" }),
    };
    let buyer: BuyerId = buyer.parse().unwrap();
    shop.engine.ledger.save_profile(&buyer, &profile, Clock::System.now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_who_must_act_sees_how_and_his_order_is_confirmed_when_he_has() {
    let shop = shop_with(Sale::default(), config()).await;
    let fake = FakeProvider::start(FakeProviderOptions::default()).await.unwrap();
    fake.send_webhooks(WebhookOptions::new(&shop.url(PATH), SECRETS[0]));
    let client = client_of(&fake);
    save_profile(&shop, "ada", "pm_card_authenticationRequired").await;
    let id = shop.claim("ada", "k", 1).await.json()["claim_id"].as_str().unwrap().to_owned();
    work(&shop, &client).await;
    let path = format!("/v1/orders/{id}");
    let order = shop.get("ada", &path).await.json();
    assert_eq!(order["payment"], "ACTION_REQUIRED");
    let action = &order["next_action"];
    assert_eq!(action["type"], "redirect_to_url", "{order}");
    assert!(action["url"].as_str().unwrap().starts_with(fake.url()), "{order}");
    assert!(action["client_secret"].as_str().unwrap().contains("secret"), "{order}");
    shop.get("eve", &path).await.is_problem(404, "order_not_found");

    let intent = fake.intents()[0].intent_id.clone();
    assert!(fake.complete_action(&intent));
    assert!(fake.settled(Duration::from_secs(10)).await);
    // Nobody asks the provider about this payment for a minute: the event alone brings the news.
    shop.engine.deal_with_events(&client, 100).await.unwrap();
    let order = shop.get("ada", &path).await.json();
    assert_eq!((&order["status"], &order["payment"]), (&json!("CONFIRMED"), &json!("SUCCEEDED")));
    assert_eq!(order["next_action"], Value::Null);
}

/// Every way in which an event can mislead, and none of them does.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "the counts are what the corpus is for")]
async fn the_corpus_of_misleading_events_moves_no_money_wrongly() {
    const ORDERS: u32 = 120;
    let sale = Sale { variants: vec![("shoe-42", ORDERS)], limit: 1, ..Sale::default() };
    let shop = shop_with(sale, config()).await;
    let delay = Duration::ZERO..Duration::from_millis(20);
    let fake = FakeProvider::start(FakeProviderOptions { seed: 5, delay, ..Default::default() }).await.unwrap();
    fake.send_webhooks(WebhookOptions {
        secrets: vec![SECRETS[0].to_owned()],
        first_rate: 0.2,
        twice_rate: 0.15,
        late_rate: 0.1,
        reordered_rate: 0.15,
        never_rate: 0.1,
        badly_signed_rate: 0.1,
        old_timestamp_rate: 0.1,
        late_by: Duration::from_millis(500),
        ..WebhookOptions::new(&shop.url(PATH), SECRETS[0])
    });
    let client = client_of(&fake);
    let mut orders = Vec::new();
    for who in 0..ORDERS {
        let buyer = format!("b{who}");
        let method = match who % 6 {
            0 => "pm_card_chargeDeclined",
            1 | 2 => "pm_card_authenticationRequired",
            _ => "pm_card_visa",
        };
        save_profile(&shop, &buyer, method).await;
        let claim = shop.claim(&buyer, "k", 1).await;
        assert_eq!(claim.status, 201);
        orders.push(OrderId(claim.json()["claim_id"].as_str().unwrap().parse().unwrap()));
    }
    settle_all(&shop.engine).await.unwrap();
    // Early: ten intents whose creation was answered to nobody, and events about them before we know them.
    let name = shop.engine.ledger.shop_id().await.unwrap();
    for (number, order) in orders.iter().take(10).enumerate() {
        let total = shop.engine.ledger.order(*order).await.unwrap().unwrap().totals.total;
        let create = ProviderRequest::create_for(*order, total, &name, None, 0).unwrap();
        let Outcome::Answered(intent) = client.send(&create).await else { panic!("not created") };
        let body = event(&format!("evt_early_{number}"), &intent.id.0, false).to_string();
        assert_eq!(deliver(&shop, SECRETS[1], &body).await.status, 200);
    }
    shop.engine.deal_with_events(&client, 1_000).await.unwrap();
    let early = "select count(*) from webhook_events where event_id like 'evt_early_%' and tries > 0 and state = ";
    let early_kept = count(&shop.database_url, &format!("{early} 'WAITING'")).await;
    // Somebody else's charge, on the same account.
    let stranger = OrderId(uuid::Uuid::now_v7());
    let create = ProviderRequest::create(stranger, Money::new(100, "EUR".parse().unwrap())).unwrap();
    let Outcome::Answered(intent) = client.send(&create).await else { panic!("not created") };
    let visa = "pm_card_visa".parse().unwrap();
    let Outcome::Answered(strange) = client.send(&ProviderRequest::confirm(stranger, &intent.id, &visa, 1)).await
    else {
        panic!("not confirmed")
    };
    work_while_buyers_act(&shop, &client, &fake).await;
    assert!(fake.settled(Duration::from_secs(30)).await);

    // Late: after every order is final, what was never delivered, and everything else again.
    let known = stored(&shop).await;
    let events = fake.events();
    let mut out_of_order = 0;
    for (index, event) in events.iter().enumerate() {
        // Newer ones of its intent have been delivered already.
        out_of_order += i64::from(events[index + 1..].iter().any(|newer| newer.intent_id == event.intent_id));
        assert!(fake.send_again(&event.event_id));
    }
    assert!(fake.settled(Duration::from_secs(30)).await);
    let late = stored(&shop).await - known;
    // Signed, true in every word but one.
    let paid = &fake.captures()[0].intent_id;
    for number in 0..10 {
        let body = event(&format!("evt_live_{number}"), paid, true).to_string();
        assert_eq!(deliver(&shop, SECRETS[0], &body).await.status, 200);
    }
    // True of an intent that exists, but forged: a failure is announced of what was paid.
    for number in 0..10 {
        let body = event(&format!("evt_forged_{number}"), paid, false).to_string().replace("succeeded", "canceled");
        deliver(&shop, "whsec_of_somebody_else", &body).await.is_problem(400, "delivery_refused");
        // And one that is signed, and still a lie: only the provider's own word counts.
        let body = body.replace("evt_forged", "evt_lie");
        assert_eq!(deliver(&shop, SECRETS[0], &body).await.status, 200);
    }
    let unknown = format!("select count(*) from webhook_events where intent_id = '{}'", strange.id.0);
    let unknown_kept = format!("{unknown} and state = 'WAITING'");
    until("only the stranger's events wait", async || {
        shop.engine.deal_with_events(&client, 1_000).await.unwrap();
        let waiting = "select count(*) from webhook_events where state = 'WAITING'";
        count(&shop.database_url, waiting).await == count(&shop.database_url, &unknown_kept).await
    })
    .await;

    let counts = fake.webhook_counts();
    let by = |signature| fake.deliveries().iter().filter(|delivery| delivery.signature == signature).count();
    let ignored = "select count(*) from webhook_events where state = 'IGNORED'";
    let corpus = [
        ("forged", by(Signature::Wrong) as i64 + 10),
        ("old", by(Signature::Old) as i64),
        ("twice", counts.twice as i64),
        ("reordered", counts.reordered as i64 + out_of_order),
        ("early, before the answer", counts.first as i64),
        ("early, before our commit", early_kept),
        ("late, after the order is final", late),
        ("unknown order, kept", count(&shop.database_url, &unknown_kept).await),
        ("wrong livemode", count(&shop.database_url, ignored).await),
        ("signed lies", 10),
    ];
    let mut captures: HashMap<String, u32> = HashMap::new();
    for capture in fake.captures().iter().filter(|capture| capture.intent_id != strange.id.0) {
        *captures.entry(capture.order_id.clone().unwrap()).or_default() += 1;
    }
    let paid = "select count(*) from orders where status = 'CONFIRMED'";
    let failed = "select count(*) from orders where status = 'PAYMENT_FAILED'";
    let journal =
        "select count(*) from (select order_id, sum(amount_minor) from journal where debit_account = 'provider'
                   group by order_id having sum(amount_minor) <> (select total_minor from orders o
                   where o.order_id = journal.order_id)) wrong";
    let moves = "select count(*) from (select order_id from order_history where from_state is not null
                 group by order_id having count(*) > 1) twice";
    // The stranger's own capture is the one that the audit must not take for ours.
    let audit = shop.engine.audit(Some(&client)).await.unwrap();
    let ours =
        audit.violations.iter().filter(|violation| !violation.detail.contains(&strange.id.0)).collect::<Vec<_>>();
    let violations = [
        ("captured more than once", captures.values().filter(|captures| **captures > 1).count() as i64),
        ("wrongly accepted", counts.accepted_wrongly as i64),
        ("paid and not captured", (count(&shop.database_url, paid).await - captures.len() as i64).abs()),
        (
            "neither paid nor failed",
            i64::from(ORDERS) - captures.len() as i64 - count(&shop.database_url, failed).await,
        ),
        ("orders moved twice", count(&shop.database_url, moves).await),
        ("early and never dealt with", 10 - count(&shop.database_url, &format!("{early} 'DONE'")).await),
        ("booked wrongly", count(&shop.database_url, journal).await),
        ("in review", count(&shop.database_url, "select count(*) from payments where state = 'MANUAL_REVIEW'").await),
        ("audit", ours.len() as i64),
    ];
    println!("{ORDERS} orders, {} deliveries, {} events kept", counts.sent + 40, stored(&shop).await);
    for (what, number) in corpus {
        println!("  {what:<32}{number:>6}");
    }
    for (what, number) in violations {
        println!("  violations: {what:<28}{number:>2}");
    }
    assert!(corpus.iter().all(|(_, number)| *number > 0), "something never happened");
    assert!(violations.iter().all(|(_, number)| *number == 0), "{ours:?}");
}
