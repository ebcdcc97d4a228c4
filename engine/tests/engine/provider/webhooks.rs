//! Events from the fake provider to the engine's verifier: signed there, verified here, each by its own code.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use doorbuster_engine::domain::ids::EventId;
use doorbuster_engine::provider::{
    Event, IntentStatus, ProviderRequest, SIGNATURE_HEADER, SignatureError, WebhookError, WebhookVerifier,
};
use doorbuster_sandbox::provider::{End, FakeClock, FakeProvider, FakeProviderOptions, Signature, WebhookOptions};
use jiff::Timestamp;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::{ANSWER_TIMEOUT, answered, confirm, create, header, order, price, read_request, start, start_reliable};

const SECRET: &str = "whsec_in_force";
const NOW: i64 = 1_795_773_600;

/// A merchant's endpoint, over bare sockets: what it verified, and what it refused.
struct Merchant {
    url: String,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    accepted: Vec<Event>,
    refused: Vec<WebhookError>,
    /// Answered by 500 before anything is accepted again.
    failures_left: u32,
}

impl Merchant {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/webhooks", listener.local_addr().unwrap());
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(receive(connection, Arc::clone(&shared)));
            }
        });
        Self { url, seen }
    }

    fn options(&self) -> WebhookOptions {
        WebhookOptions { retry_pause: Duration::from_millis(5), ..WebhookOptions::new(&self.url, SECRET) }
    }

    fn accepted(&self) -> Vec<Event> {
        self.seen.lock().unwrap().accepted.clone()
    }
}

/// One request, then the connection is closed.
async fn receive(mut connection: TcpStream, seen: Arc<Mutex<Seen>>) {
    let (head, body) = read_request(&mut connection).await;
    let status = {
        let verifier = WebhookVerifier::new(vec!["whsec_next".to_owned().into(), SECRET.to_owned().into()]).unwrap();
        let now = Timestamp::from_second(NOW).unwrap();
        let verified = verifier.verify(header(&head, SIGNATURE_HEADER), &body, now);
        let mut seen = seen.lock().unwrap();
        match verified {
            Ok(_) if seen.failures_left > 0 => {
                seen.failures_left -= 1;
                "500 Internal Server Error"
            }
            Ok(event) => {
                seen.accepted.push(event);
                "200 OK"
            }
            Err(error) => {
                seen.refused.push(error);
                "400 Bad Request"
            }
        }
    };
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    connection.write_all(answer.as_bytes()).await.unwrap();
}

fn options() -> FakeProviderOptions {
    FakeProviderOptions { clock: FakeClock::unix_seconds(|| NOW), ..Default::default() }
}

fn kinds(fake: &FakeProvider) -> Vec<&'static str> {
    fake.events().iter().map(|event| event.kind).collect()
}

#[tokio::test]
async fn every_kind_of_event_arrives_signed_and_says_what_it_is_about() {
    let (fake, client) = start(options()).await;
    let merchant = Merchant::open().await;
    fake.send_webhooks(merchant.options());

    let intent = answered(client.send(&create(1)).await).id;
    let _ = client.send(&confirm(1, &intent, "pm_card_chargeDeclined", 1)).await;
    answered(client.send(&confirm(1, &intent, "pm_card_authenticationRequired", 2)).await);
    assert!(fake.fail_action(&intent.0));
    answered(client.send(&confirm(1, &intent, "pm_fake_processing", 3)).await);
    assert!(fake.finish_processing(&intent.0, End::Failed));
    let paid = answered(client.send(&confirm(1, &intent, "pm_card_pendingRefund", 4)).await);
    assert_eq!(paid.status, IntentStatus::Succeeded);
    let half = doorbuster_engine::domain::money::Money::new(7_450, price().currency);
    let refund_id = doorbuster_engine::domain::ids::RefundId(uuid::Uuid::from_u128(1));
    let _ = client.send_refund(&ProviderRequest::refund(order(1), refund_id, &intent, half).unwrap()).await;
    assert!(fake.settle_refund(&fake.refunds()[0].refund_id, End::Failed));
    fake.open_dispute(&intent.0).unwrap();
    let other = answered(client.send(&create(2)).await).id;
    answered(client.send(&ProviderRequest::cancel(order(2), &other)).await);

    let expected = [
        "payment_intent.payment_failed",
        "payment_intent.requires_action",
        "payment_intent.payment_failed",
        "payment_intent.processing",
        "payment_intent.payment_failed",
        "payment_intent.succeeded",
        "charge.refunded",
        "refund.updated",
        "refund.failed",
        "charge.dispute.created",
        "payment_intent.canceled",
    ];
    assert_eq!(kinds(&fake), expected);
    assert!(fake.settled(ANSWER_TIMEOUT).await);
    let accepted = merchant.accepted();
    assert_eq!(accepted.len(), expected.len(), "{:?}", fake.webhook_counts());
    for event in fake.events() {
        let received = accepted.iter().find(|received| received.id.0 == event.event_id).unwrap();
        assert_eq!(received.kind, event.kind);
        assert_eq!(received.intent.as_ref().map(|intent| intent.0.as_str()), Some(event.intent_id.as_str()));
        assert_eq!(received.created.as_second(), NOW);
        assert!(!received.livemode);
        // A dispute has no metadata of ours; whoever reads it finds the order by its intent.
        let has_order = received.order_id == event.order_id;
        assert!(has_order || event.kind == "charge.dispute.created", "{received:?}");
    }
    let counts = fake.webhook_counts();
    assert_eq!((counts.events, counts.sent, counts.accepted, counts.retried), (11, 11, 11, 0));
}

#[tokio::test]
async fn a_card_that_was_saved_at_the_provider_is_told_by_a_signed_event() {
    let (fake, _) = start(options()).await;
    let merchant = Merchant::open().await;
    fake.send_webhooks(merchant.options());
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let form = [("mode", "setup"), ("currency", "eur"), ("success_url", "https://shop.example"), ("metadata[a]", "1")];
    let ask = http.post(format!("{}/v1/checkout/sessions", fake.url())).bearer_auth(fake.secret_key()).form(&form);
    let session: serde_json::Value = serde_json::from_str(&ask.send().await.unwrap().text().await.unwrap()).unwrap();
    let page = http.post(session["url"].as_str().unwrap()).form(&[("card", "pm_card_visa")]).send().await.unwrap();
    assert_eq!(page.headers()["location"], "https://shop.example");
    assert!(fake.settled(ANSWER_TIMEOUT).await);
    let accepted = merchant.accepted();
    let told = accepted.iter().find(|event| event.kind == "checkout.session.completed").unwrap();
    assert_eq!((told.object.as_str(), told.object_id.as_str()), ("checkout.session", session["id"].as_str().unwrap()));
    assert_eq!((&told.intent, &told.order_id), (&None, &None));
}

#[tokio::test]
async fn each_fault_happens_and_no_forgery_is_accepted() {
    const ORDERS: u128 = 120;
    let (fake, client) = start(options()).await;
    let merchant = Merchant::open().await;
    fake.send_webhooks(WebhookOptions {
        first_rate: 0.1,
        twice_rate: 0.1,
        late_rate: 0.1,
        reordered_rate: 0.2,
        never_rate: 0.1,
        badly_signed_rate: 0.1,
        old_timestamp_rate: 0.1,
        late_by: Duration::from_millis(300),
        ..merchant.options()
    });
    for number in 0..ORDERS {
        let intent = answered(client.send(&create(number)).await).id;
        let _ = client.send(&confirm(number, &intent, "pm_card_chargeDeclined", 1)).await;
        answered(client.send(&confirm(number, &intent, "pm_card_visa", 2)).await);
    }
    assert!(fake.settled(ANSWER_TIMEOUT).await);
    let counts = fake.webhook_counts();
    let faults = [
        ("first", counts.first),
        ("twice", counts.twice),
        ("late", counts.late),
        ("reordered", counts.reordered),
        ("never", counts.never),
        ("badly signed", counts.badly_signed),
        ("old timestamp", counts.old_timestamp),
    ];
    for (fault, count) in faults {
        assert!(count > 5, "{fault}: {count} of {}", counts.events);
    }
    assert_eq!(counts.events, 2 * ORDERS as u64);
    assert_eq!((counts.accepted_wrongly, counts.given_up), (0, 0));

    let accepted = merchant.accepted();
    let ids: HashSet<&EventId> = accepted.iter().map(|event| &event.id).collect();
    assert_eq!(ids.len() as u64, counts.events - counts.never, "all but those that were never sent");
    assert_eq!(accepted.len() as u64, ids.len() as u64 + counts.twice);
    let refused = std::mem::take(&mut merchant.seen.lock().unwrap().refused);
    let is = |error: &WebhookError, wanted: fn(&SignatureError) -> bool| match error {
        WebhookError::Signature(error) => wanted(error),
        WebhookError::Unreadable(_) => false,
    };
    let no_match = refused.iter().filter(|error| is(error, |error| matches!(error, SignatureError::NoMatch { .. })));
    assert_eq!(no_match.count() as u64, counts.badly_signed);
    let too_old =
        refused.iter().filter(|error| is(error, |error| *error == SignatureError::TooOld { age_seconds: 301 }));
    assert_eq!(too_old.count() as u64, counts.old_timestamp);
    assert_eq!(refused.len() as u64, counts.badly_signed + counts.old_timestamp);
    assert_eq!(counts.sent, counts.accepted + refused.len() as u64);
}

#[tokio::test]
async fn a_first_webhook_is_there_before_the_answer() {
    let (fake, client) = start(options()).await;
    let merchant = Merchant::open().await;
    fake.send_webhooks(WebhookOptions { first_rate: 1.0, ..merchant.options() });
    for number in 0..10 {
        let intent = answered(client.send(&create(number)).await).id;
        answered(client.send(&confirm(number, &intent, "pm_card_visa", 1)).await);
        assert_eq!(merchant.accepted().len() as u128, number + 1);
    }
}

#[tokio::test]
async fn a_delivery_that_is_not_accepted_is_repeated_until_it_is() {
    let (fake, client) = start(options()).await;
    let merchant = Merchant::open().await;
    fake.send_webhooks(merchant.options());
    merchant.seen.lock().unwrap().failures_left = 3;
    let intent = answered(client.send(&create(1)).await).id;
    answered(client.send(&confirm(1, &intent, "pm_card_visa", 1)).await);
    assert!(fake.settled(ANSWER_TIMEOUT).await);
    let statuses: Vec<_> = fake.deliveries().iter().map(|delivery| (delivery.signature, delivery.status)).collect();
    let failed = (Signature::Good, Some(500));
    assert_eq!(statuses, [failed, failed, failed, (Signature::Good, Some(200))]);
    let counts = fake.webhook_counts();
    assert_eq!((counts.retried, counts.given_up, merchant.accepted().len()), (3, 0, 1));

    // Nobody listens there: given up in the end, and sent again when somebody does.
    fake.send_webhooks(WebhookOptions { url: "http://127.0.0.1:1".to_owned(), retries_max: 2, ..merchant.options() });
    let event = fake.events()[0].event_id.clone();
    assert!(fake.send_again(&event));
    assert!(fake.settled(ANSWER_TIMEOUT).await);
    assert_eq!(fake.webhook_counts().given_up, 1);
    fake.send_webhooks(merchant.options());
    assert!(fake.send_again(&event) && !fake.send_again("evt_missing"));
    assert!(fake.settled(ANSWER_TIMEOUT).await);
    assert_eq!(merchant.accepted()[1], merchant.accepted()[0], "the same event, whenever it comes");
}

#[tokio::test]
async fn the_same_seed_does_the_same_to_the_same_events() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let (fake, client) = start(FakeProviderOptions { seed: 9, ..options() }).await;
        let merchant = Merchant::open().await;
        fake.send_webhooks(WebhookOptions {
            twice_rate: 0.3,
            never_rate: 0.3,
            badly_signed_rate: 0.3,
            ..merchant.options()
        });
        for number in 0..20 {
            let intent = answered(client.send(&create(number)).await).id;
            answered(client.send(&confirm(number, &intent, "pm_card_visa", 1)).await);
        }
        assert!(fake.settled(ANSWER_TIMEOUT).await);
        let counts = fake.webhook_counts();
        assert!(counts.twice > 0 && counts.never > 0 && counts.badly_signed > 0, "{counts:?}");
        runs.push(counts);
    }
    assert_eq!(runs[0], runs[1]);
}

#[tokio::test]
async fn without_an_address_nothing_is_sent_and_everything_is_remembered() {
    let (fake, client) = start_reliable().await;
    let intent = answered(client.send(&create(1)).await).id;
    answered(client.send(&confirm(1, &intent, "pm_card_visa", 1)).await);
    assert_eq!(kinds(&fake), ["payment_intent.succeeded"]);
    assert!(!fake.send_again(&fake.events()[0].event_id));
    assert_eq!(fake.webhook_counts(), Default::default());
}
