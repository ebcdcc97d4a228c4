//! Webhooks to the shop's systems: signed, repeated until taken, told apart by their ids.

use doorbuster_engine::domain::ids::OrderId;
use doorbuster_engine::flows::outbox::Lane;
use doorbuster_engine::ledger::outbox::Replay;
use doorbuster_engine::webhooks::{WebhookClient, WebhookEndpoint};
use doorbuster_sandbox::webhook_sink::{ReceivedEvent, WebhookSink};
use jiff::SignedDuration;

use crate::harness::World;
use crate::mails::{deliver, orders, sell};

pub(crate) const OLD: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz";
const NEW: &str = "whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4";

pub(crate) fn lane(name: &str, url: &str, secrets: &[&str]) -> Lane {
    let secrets = secrets.iter().map(|secret| secret.parse().unwrap()).collect();
    Lane::Webhook(WebhookClient::new(WebhookEndpoint { name: name.to_owned(), url: url.to_owned(), secrets }).unwrap())
}

/// Registers the lanes' endpoints and makes their deliveries.
pub(crate) async fn fan_out(world: &World, lanes: &[&Lane]) -> u64 {
    let names = lanes.iter().filter_map(|lane| lane.endpoint()).map(str::to_owned).collect::<Vec<_>>();
    world.engine.fan_out_events(&names).await.unwrap()
}

async fn hurry(world: &World) {
    let now = "update outbox set next_at = least(next_at, now()) where next_at is not null";
    world.sql.execute(now, &[]).await.unwrap();
}

fn ids(events: &[ReceivedEvent]) -> Vec<String> {
    let mut ids = events.iter().map(|event| event.id.clone()).collect::<Vec<_>>();
    ids.sort();
    ids
}

fn event(order: OrderId, kind: &str) -> String {
    format!("evt_{}_{kind}", order.0.simple())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_an_order_is_an_event_with_a_good_signature() {
    let world = World::new().await;
    let sink = WebhookSink::start(&[OLD]).await.unwrap();
    let lane = lane("shop", &sink.url(), &[OLD]);
    fan_out(&world, &[&lane]).await;
    sell(&world, 5, "pm_card_chargeDeclined").await;
    assert_eq!(fan_out(&world, &[&lane]).await, 10);
    while deliver(&world.engine, &lane).await.leased > 0 {}
    let events = sink.events();
    assert!(events.iter().all(|event| event.problem.is_none() && event.status == 200), "{events:?}");
    let orders = orders(&world).await;
    let end = |at: usize| if at == 4 { "payment_failed" } else { "order_confirmed" };
    let mut expected = orders
        .iter()
        .enumerate()
        .flat_map(|(at, order)| [event(*order, "order_created"), event(*order, end(at))])
        .collect::<Vec<_>>();
    expected.sort();
    assert_eq!(ids(&events), expected);
    let failed = events.iter().find(|event| event.id.ends_with("payment_failed")).unwrap();
    assert_eq!(failed.body["type"], "order.payment_failed");
    assert_eq!(
        (&failed.body["id"], failed.body["data"]["order_id"].as_str()),
        (&failed.id.clone().into(), Some(&*orders[4].to_string()))
    );
    assert_eq!(failed.body["data"]["total"], serde_json::json!({ "amount_minor": 18_314, "currency": "EUR" }));
    assert_eq!(failed.body["data"]["detail"], serde_json::json!({ "reason": "generic_decline" }));
    let text = failed.body.to_string();
    assert!(!text.contains("example.test") && !text.contains("ship_to"), "no person is named: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_rotate_without_a_lost_event() {
    let world = World::new().await;
    let sink = WebhookSink::start(&[OLD]).await.unwrap();
    let (old, both, new) =
        (lane("shop", &sink.url(), &[OLD]), lane("shop", &sink.url(), &[NEW, OLD]), lane("shop", &sink.url(), &[NEW]));
    fan_out(&world, &[&old]).await;
    sell(&world, 1, "").await;
    let order = orders(&world).await[0];
    // The sender learns the new secret first, then the receiver, then the old one ends.
    for (step, lane, receiver, status) in
        [(1, &both, OLD, 200), (2, &both, NEW, 200), (3, &new, NEW, 200), (4, &old, NEW, 401), (5, &new, NEW, 200)]
    {
        sink.set_secrets(&[receiver]);
        let replay = Replay::Event(event(order, "order_confirmed").parse().unwrap());
        assert_eq!(world.engine.ledger.replay_events(&replay, world.engine.clock.now()).await.unwrap(), 1);
        let report = deliver(&world.engine, lane).await;
        assert_eq!((report.sent, report.later), if status == 200 { (1, 0) } else { (0, 1) }, "step {step}");
        let last = sink.events().pop().unwrap();
        assert_eq!((last.status, last.problem.is_none()), (status, status == 200), "step {step}");
    }
    let signatures = &sink.events()[0].signatures;
    assert_eq!(signatures.split(' ').filter(|signature| signature.starts_with("v1,")).count(), 2);
    assert_eq!(ids(&sink.events()).windows(2).filter(|pair| pair[0] != pair[1]).count(), 0, "one event, one id");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_down_is_tried_for_three_days_and_delays_nobody_else() {
    let world = World::new().await;
    let (sink, other) = (WebhookSink::start(&[OLD]).await.unwrap(), WebhookSink::start(&[OLD]).await.unwrap());
    let (down, up) = (lane("down", &sink.url(), &[OLD]), lane("up", &other.url(), &[OLD]));
    fan_out(&world, &[&down, &up]).await;
    sell(&world, 1, "").await;
    assert_eq!(fan_out(&world, &[&down, &up]).await, 2);
    sink.answer_with(503);
    assert_eq!(deliver(&world.engine, &down).await.later, 2);
    assert_eq!(deliver(&world.engine, &up).await.sent, 2);
    assert_eq!(deliver(&world.engine, &down).await.leased, 0, "backoff");
    // A redirect is a failure, and is not followed.
    sink.answer_with(307);
    hurry(&world).await;
    assert_eq!(deliver(&world.engine, &down).await.later, 2);
    assert_eq!(sink.events().len(), 4, "each attempt is one request");

    let old = "update outbox set queued_at = queued_at - interval '3 days' where destination = 'webhook:down'";
    world.sql.execute(old, &[]).await.unwrap();
    hurry(&world).await;
    assert_eq!(deliver(&world.engine, &down).await.dead, 2);
    hurry(&world).await;
    assert_eq!(deliver(&world.engine, &down).await.leased, 0);
    let unsent = world.engine.ledger.unsent_deliveries(10).await.unwrap();
    assert!(
        unsent.iter().all(|one| one.state == "dead" && one.last_error.as_deref() == Some("answered with 307")),
        "{unsent:?}"
    );

    // Mended, and told again: everybody gets it, under the ids of the first time.
    sink.answer_with(200);
    let since = world.engine.clock.now() - SignedDuration::from_hours(1);
    let replayed = world.engine.ledger.replay_events(&Replay::Since(since), world.engine.clock.now()).await.unwrap();
    assert_eq!(replayed, 4);
    assert_eq!((deliver(&world.engine, &down).await.sent, deliver(&world.engine, &up).await.sent), (2, 2));
    assert_eq!(ids(&sink.events()[6..]), ids(&other.events()[..2]));
    assert_eq!(ids(&other.events()[2..]), ids(&other.events()[..2]));
    let tomorrow = world.engine.clock.now() + SignedDuration::from_hours(24);
    assert_eq!(world.engine.ledger.replay_events(&Replay::Since(tomorrow), world.engine.clock.now()).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_gone_is_left_alone_until_it_is_enabled() {
    let world = World::new().await;
    let sink = WebhookSink::start(&[OLD]).await.unwrap();
    let lane = lane("shop", &sink.url(), &[OLD]);
    fan_out(&world, &[&lane]).await;
    sell(&world, 1, "").await;
    sink.answer_with(410);
    fan_out(&world, &[&lane]).await;
    let report = deliver(&world.engine, &lane).await;
    assert_eq!((report.leased, report.disabled), (2, 1));
    let now = world.engine.clock.now();
    assert!(
        !world.engine.ledger.disable_endpoint("shop", now).await.unwrap(),
        "however many were under way, it is said once"
    );
    let agent = concat!("doorbuster/", env!("CARGO_PKG_VERSION"));
    assert!(sink.events().iter().all(|event| event.user_agent == agent), "{:?}", sink.events());
    let heard = sink.events().len();
    hurry(&world).await;
    assert_eq!(deliver(&world.engine, &lane).await.leased, 0);
    assert_eq!(world.engine.ledger.disabled_endpoints().await.unwrap()[0].0, "shop");
    sink.answer_with(200);
    assert!(world.engine.ledger.enable_endpoint("shop", world.engine.clock.now()).await.unwrap());
    assert!(!world.engine.ledger.enable_endpoint("nobody", world.engine.clock.now()).await.unwrap());
    assert_eq!(deliver(&world.engine, &lane).await.sent, 2);
    assert_eq!(sink.events().len(), heard + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_endpoint_hears_of_what_happens_from_then_on_and_of_the_rest_when_asked_to() {
    let world = World::new().await;
    let sink = WebhookSink::start(&[OLD]).await.unwrap();
    let lane = lane("late", &sink.url(), &[OLD]);
    sell(&world, 1, "").await;
    assert_eq!(fan_out(&world, &[&lane]).await, 2);
    assert_eq!(deliver(&world.engine, &lane).await.leased, 0);
    let since = world.engine.clock.now() - SignedDuration::from_hours(1);
    world.engine.ledger.replay_events(&Replay::Since(since), world.engine.clock.now()).await.unwrap();
    assert_eq!(deliver(&world.engine, &lane).await.sent, 2);
    // A replay while a worker is at it takes the lease away: what the worker says then is old.
    world.engine.ledger.replay_events(&Replay::Since(since), world.engine.clock.now()).await.unwrap();
    let destination = doorbuster_engine::ledger::outbox::Destination::Webhook("late".to_owned());
    let (now, lease) = (world.engine.clock.now(), SignedDuration::from_secs(60));
    let leased = world.engine.ledger.lease_deliveries(&destination, now, lease, 10).await.unwrap();
    world.engine.ledger.replay_events(&Replay::Since(since), world.engine.clock.now()).await.unwrap();
    let sent = doorbuster_engine::ledger::outbox::DeliveryState::Sent;
    assert!(!world.engine.ledger.record_delivery(&leased[0], &sent, now).await.unwrap());
    assert_eq!(deliver(&world.engine, &lane).await.sent, 2);
}
