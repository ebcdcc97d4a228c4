//! What goes wrong by seed, one fault at a time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use doorbuster_sandbox::provider::FakeProviderOptions;

use super::{INTENT, INTENTS, Shop, by_hand};

#[tokio::test]
async fn a_held_key_is_in_use_for_a_minute_and_then_has_its_answer() {
    let (clock, now) = by_hand();
    let shop = Shop::open(FakeProviderOptions { key_held_rate: 1.0, clock, ..Default::default() }).await;
    assert!(shop.post_with_key(INTENTS, "k", INTENT).await.is_err(), "cut off");
    assert_eq!(shop.fake.intents().len(), 1, "and carried out");
    for (later, status, replayed) in [(0, 409, None), (59, 409, None), (60, 200, Some("true"))] {
        now.store(1_795_773_600 + later, Ordering::SeqCst);
        let answer = shop.post_with_key(INTENTS, "k", INTENT).await.unwrap();
        assert_eq!((answer.status, answer.header("idempotent-replayed")), (status, replayed), "{later}");
    }
    assert_eq!(shop.fake.intents().len(), 1);
    let counts = shop.fake.fault_counts();
    assert_eq!((counts.keys_held, counts.keys_in_use, counts.lost_answers), (1, 2, 0));
    // What was refused before it began holds nothing.
    assert_eq!(shop.post_with_key(INTENTS, "wrong", "amount=1").await.unwrap().status, 400);
}

#[tokio::test]
async fn a_locked_object_is_no_limit_and_nothing_is_carried_out() {
    let shop = Shop::open(FakeProviderOptions { lock_timeout_rate: 1.0, ..Default::default() }).await;
    let id = shop.post(INTENTS, INTENT).await.id();
    let cancel = shop.post(&format!("{INTENTS}/{id}/cancel"), "").await;
    assert_eq!(cancel.short(), "429 lock_timeout");
    assert_eq!((cancel.header("stripe-rate-limited-reason"), cancel.header("retry-after")), (None, None));
    assert_eq!(shop.get(&format!("{INTENTS}/{id}")).await.short(), "200 requires_payment_method");
    assert_eq!(shop.fake.fault_counts().lock_timeouts, 1);
}

#[tokio::test]
async fn money_lands_after_its_500_by_itself_or_when_the_test_says_so() {
    for settles_after in [Some(Duration::from_millis(20)), None] {
        let options = FakeProviderOptions { capture_after_500_rate: 1.0, settles_after, ..Default::default() };
        let shop = Shop::open(options).await;
        let id = shop.post(INTENTS, INTENT).await.id();
        let (path, visa) = (format!("{INTENTS}/{id}"), "payment_method=pm_card_visa");
        for _ in 0..2 {
            let stored = shop.post_with_key(&format!("{path}/confirm"), "k", visa).await.unwrap();
            assert_eq!(stored.status, 500);
        }
        if settles_after.is_none() {
            assert_eq!(shop.get(&path).await.short(), "200 requires_payment_method");
            assert!(shop.fake.succeed_late(&id));
        }
        assert!(shop.fake.settled(Duration::from_secs(10)).await);
        assert_eq!(shop.get(&path).await.short(), "200 succeeded");
        assert_eq!(shop.fake.captures().len(), 1);
        let counts = shop.fake.fault_counts();
        assert_eq!((counts.stored_500s, counts.captures_after_500, counts.stored_500s_executed), (1, 1, 0));
    }
}

#[tokio::test]
async fn a_bare_decline_and_a_lagging_list_happen_and_are_counted() {
    let options = FakeProviderOptions { bare_decline_rate: 1.0, lagging_list_rate: 1.0, ..Default::default() };
    let (clock, now) = by_hand();
    let shop = Shop::open(FakeProviderOptions { clock, ..options }).await;
    let id = shop.post(INTENTS, INTENT).await.id();
    let declined = shop.post(&format!("{INTENTS}/{id}/confirm"), "payment_method=pm_card_chargeDeclined").await;
    assert_eq!(declined.short(), "402 card_declined");
    assert!(declined.json()["error"].get("payment_intent").is_none(), "{}", declined.text);
    for (later, listed) in [(59, 0), (60, 1)] {
        now.store(1_795_773_600 + later, Ordering::SeqCst);
        assert_eq!(shop.get(INTENTS).await.json()["data"].as_array().unwrap().len(), listed, "{later}");
    }
    let counts = shop.fake.fault_counts();
    assert_eq!((counts.bare_declines, counts.lagging_lists), (1, 2));
}

#[tokio::test]
async fn a_bench_answers_whole_objects_keeps_its_rules_and_stops_at_its_number() {
    let shop = Shop::open(FakeProviderOptions { lock_timeout_rate: 1.0, ..FakeProviderOptions::bench(5) }).await;
    let id = shop.post(INTENTS, INTENT).await.id();
    assert_eq!(shop.post(INTENTS, "amount=100").await.short(), "400 parameter_missing");
    let paid = shop.post(&format!("{INTENTS}/{id}/confirm"), "payment_method=pm_card_visa").await;
    assert_eq!((paid.short().as_str(), paid.header("request-id").is_some()), ("200 succeeded", true));
    assert_eq!(shop.get("/v1/events").await.json()["data"].as_array().unwrap().len(), 0, "none are kept");
    assert_eq!(shop.get(INTENTS).await.status, 200);
    assert_eq!(shop.get(INTENTS).await.status, 503);
}
