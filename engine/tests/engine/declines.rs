//! After a decline the order waits for another card, on the same intent, as long as its terms say.

use std::sync::Arc;

use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::drops::{NewDrop, PayTerms};
use doorbuster_engine::domain::ids::OrderId;
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::domain::payments::{CONFIRMS_MAX, PaymentState};
use doorbuster_engine::flows::LiveDrop;
use doorbuster_engine::ledger::orders::OrderView;
use doorbuster_engine::ledger::payments::MethodGiven;
use doorbuster_engine::ledger::refunds::OrderCancelled;
use doorbuster_engine::provider::ProviderClient;
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use jiff::SignedDuration;

use crate::harness::{World, buyer, claim, provider, taken};

const DECLINED: &str = "pm_card_chargeDeclined";
const GOOD: &str = "pm_card_visa";

struct Shop {
    world: World,
    fake: FakeProvider,
    client: ProviderClient,
}

impl Shop {
    async fn new(faults: FakeProviderOptions) -> Self {
        let mut world = World::new().await;
        world.engine.clock = Clock::manual(world.engine.clock.now());
        let (fake, client) = provider(faults).await;
        Self { world, fake, client }
    }

    async fn open(&self, new: NewDrop) -> Arc<LiveDrop> {
        self.world.engine.create_drop(&new, 42).await.unwrap().unwrap();
        self.world.engine.open_drop(&self.world.drop).await.unwrap().unwrap();
        self.world.live().await
    }

    /// Orders of a drop with the default terms, one of each of these buyers, whose cards these are.
    async fn orders(&self, cards: &[&str]) -> Vec<OrderId> {
        let new = self.world.new_drop(&[cards.len() as u32], 1, 1);
        let live = self.open(NewDrop { pay_terms: PayTerms::default(), ..new }).await;
        let mut orders = Vec::new();
        for (who, card) in (0..).zip(cards) {
            self.world.save_profile(who, card).await;
            taken(self.world.claim_until_answered(&live, who, "k", 0, 1).await);
            orders.push(claim(&live, &buyer(who), "k", 0, 1).id.order_id());
        }
        self.world.settle().await;
        orders
    }

    async fn charge(&self) {
        self.world.engine.charge_due(&self.client, 20, 4).await.unwrap();
    }

    async fn charge_until_nothing_is_due(&self) {
        let sooner = "update payments set due_at = least(due_at, $1), leased_until = null where due_at is not null";
        while self.world.sql.execute(sooner, &[&self.world.engine.clock.now()]).await.unwrap() > 0 {
            self.charge().await;
        }
    }

    async fn give(&self, who: u32, order: OrderId, card: &str, key: &str) -> MethodGiven {
        self.world.save_profile(who, card).await;
        self.world.engine.use_profile(order, &buyer(who), &key.parse().unwrap()).await.unwrap()
    }

    async fn order(&self, id: OrderId) -> OrderView {
        self.world.engine.ledger.order(id).await.unwrap().unwrap()
    }

    async fn states(&self, id: OrderId) -> (OrderState, PaymentState) {
        let order = self.order(id).await;
        (order.status, order.payment)
    }

    async fn mails(&self, kind: &str) -> i64 {
        self.world.count(&format!("select count(*) from outbox where kind = '{kind}'")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_card_pays_the_same_intent() {
    let shop = Shop::new(FakeProviderOptions::default()).await;
    let order = shop.orders(&[DECLINED]).await[0];
    let made = shop.world.engine.clock.now();
    shop.charge().await;
    assert_eq!(shop.states(order).await, (OrderState::PendingPayment, PaymentState::MethodRequired));
    let shown = shop.order(order).await;
    assert_eq!(shown.pay_by, Some(made + SignedDuration::from_mins(5)));
    assert_eq!(shown.decline.as_deref(), Some("generic_decline"));
    assert_eq!(shop.mails("payment_method_required").await, 1);
    assert_eq!(shop.world.count("select count(*) from tokens where order_id is null").await, 0, "its unit is kept");

    assert_eq!(shop.give(0, order, GOOD, "another").await, MethodGiven::Now);
    assert_eq!(shop.give(0, order, GOOD, "another").await, MethodGiven::Before);
    shop.charge().await;
    assert_eq!(shop.states(order).await, (OrderState::Confirmed, PaymentState::Succeeded));
    assert_eq!((shop.fake.intents().len(), shop.fake.captures().len()), (1, 1));
    let keys = "select string_agg(idempotency_key, ' ' order by number) from payment_attempts";
    let keys: String = shop.world.sql.query_one(keys, &[]).await.unwrap().get(0);
    assert_eq!(keys, format!("order-{order} order-{order}:confirm:1 order-{order}:confirm:2"));
    assert!(shop.world.engine.audit(Some(&shop.client)).await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_no_other_card_in_time_loses_the_unit_once_the_intent_is_canceled() {
    let shop = Shop::new(FakeProviderOptions::default()).await;
    let order = shop.orders(&[DECLINED]).await[0];
    shop.charge().await;
    shop.world.engine.clock.advance(SignedDuration::from_secs(299));
    assert_eq!(shop.world.engine.expire_unpaid(10).await.unwrap(), 0);
    shop.world.engine.clock.advance(SignedDuration::from_secs(1));
    assert_eq!(shop.world.engine.expire_unpaid(10).await.unwrap(), 1);
    assert_eq!(shop.states(order).await, (OrderState::PendingPayment, PaymentState::CancelRequested));
    assert_eq!(shop.give(0, order, GOOD, "late").await, MethodGiven::NotRequired);
    shop.charge().await;
    assert_eq!(shop.states(order).await, (OrderState::PaymentFailed, PaymentState::Failed));
    assert_eq!(shop.fake.intents()[0].status, "canceled");
    let why = "select failure from payments";
    let why: String = shop.world.sql.query_one(why, &[]).await.unwrap().get(0);
    assert_eq!(why, "generic_decline", "not that its time was over");
    assert!(shop.world.engine.audit(Some(&shop.client)).await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_decline_tells_the_buyer_again_and_does_not_prolong_their_time() {
    let shop = Shop::new(FakeProviderOptions::default()).await;
    let order = shop.orders(&[DECLINED]).await[0];
    let made = shop.world.engine.clock.now();
    shop.charge().await;
    for nth in 1..CONFIRMS_MAX {
        shop.world.engine.clock.advance(SignedDuration::from_secs(10));
        assert_eq!(shop.states(order).await.1, PaymentState::MethodRequired);
        assert_eq!(shop.order(order).await.pay_by, Some(made + SignedDuration::from_mins(5)));
        assert_eq!(shop.mails("payment_method_required").await, i64::from(nth));
        assert_eq!(shop.give(0, order, DECLINED, &format!("again-{nth}")).await, MethodGiven::Now);
        shop.charge().await;
    }
    // So many cards are enough.
    shop.charge().await;
    assert_eq!(shop.states(order).await, (OrderState::PaymentFailed, PaymentState::Failed));
    assert_eq!(shop.mails("payment_method_required").await, i64::from(CONFIRMS_MAX) - 1);
    assert_eq!((shop.fake.intents().len(), shop.fake.captures().len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_waits_for_another_card_can_be_cancelled() {
    let shop = Shop::new(FakeProviderOptions::default()).await;
    let order = shop.orders(&[DECLINED]).await[0];
    shop.charge().await;
    let now = shop.world.engine.clock.now();
    let why = ("buyer", "too small");
    let cancelled = shop.world.engine.ledger.cancel_order(order, Some(&buyer(0)), why, now).await.unwrap();
    assert_eq!(cancelled, OrderCancelled::Requested, "its intent is canceled first");
    shop.charge().await;
    assert_eq!(shop.states(order).await, (OrderState::Cancelled, PaymentState::Canceled));
    assert_eq!(shop.fake.intents()[0].status, "canceled");
}

/// What the intent tells of may be the card before: only the second card's own answer counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_card_whose_answer_is_lost_is_neither_declined_nor_charged_twice() {
    let faults = FakeProviderOptions {
        lost_request_rate: 0.2,
        lost_answer_rate: 0.2,
        error_500_rate: 0.15,
        error_500_executed_rate: 0.15,
        seed: 5,
        ..FakeProviderOptions::default()
    };
    let shop = Shop::new(faults).await;
    let orders = shop.orders(&[DECLINED; 12]).await;
    shop.charge_until_nothing_is_due().await;
    for (who, order) in (0..).zip(&orders) {
        assert_eq!(shop.states(*order).await.1, PaymentState::MethodRequired);
        assert_eq!(shop.give(who, *order, GOOD, "another").await, MethodGiven::Now);
    }
    shop.charge_until_nothing_is_due().await;
    for order in orders {
        assert_eq!(shop.states(order).await, (OrderState::Confirmed, PaymentState::Succeeded));
    }
    // A create whose answer was lost may leave an intent behind that is never confirmed.
    let mut paid = shop.fake.captures().into_iter().map(|capture| capture.order_id).collect::<Vec<_>>();
    paid.sort();
    paid.dedup();
    assert_eq!((paid.len(), shop.fake.captures().len()), (12, 12));
    assert_eq!(shop.mails("payment_method_required").await, 12, "none was told of a decline that was not");
    assert!(shop.world.engine.audit(Some(&shop.client)).await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_order_of_a_drop_has_its_own_time_to_pay() {
    let shop = Shop::new(FakeProviderOptions::default()).await;
    let new = shop.world.new_drop(&[2], 1, 1);
    let end = shop.world.engine.clock.now() + SignedDuration::from_mins(45);
    let live = shop.open(NewDrop { pay_terms: PayTerms::default(), pay_by: end, ..new }).await;
    let mut orders = Vec::new();
    for who in 0..2 {
        taken(shop.world.claim_until_answered(&live, who, "k", 0, 1).await);
        shop.world.settle().await;
        orders.push(claim(&live, &buyer(who), "k", 0, 1).id.order_id());
        shop.world.engine.clock.advance(SignedDuration::from_mins(20));
    }
    let made = end - SignedDuration::from_mins(45);
    assert_eq!(shop.order(orders[0]).await.pay_by, Some(made + SignedDuration::from_mins(30)));
    assert_eq!(shop.order(orders[1]).await.pay_by, Some(end), "the drop's end is earlier than its own");
    assert_eq!(shop.world.engine.expire_unpaid(10).await.unwrap(), 1);
    assert_eq!(shop.states(orders[0]).await.0, OrderState::PaymentFailed);
    assert_eq!(shop.states(orders[1]).await.0, OrderState::PendingPayment);
}
