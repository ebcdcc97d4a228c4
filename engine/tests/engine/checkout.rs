//! Checkout: what becomes of a cart, whatever comes in between.

use doorbuster_engine::domain::carts::CartOwner;
use doorbuster_engine::domain::checkout::{LineFault, NoQuote};
use doorbuster_engine::domain::claims::ClaimOutcome;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::ids::{BuyerId, CheckoutId, OrderId, VariantId};
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::domain::payments::PaymentState;
use doorbuster_engine::domain::stock::StockWay;
use doorbuster_engine::domain::versions::Expected;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::flows::checkout::{CartQuote, CheckedOut, CheckoutAsked, CheckoutRefused};
use doorbuster_engine::ledger::checkouts::{Checkout, ClaimState, NewCheckout, Placed, Taken};
use doorbuster_engine::ledger::erasures::Erasure;
use doorbuster_engine::tokens::store::TokenStore;
use doorbuster_sandbox::provider::FakeProviderOptions;
use futures_util::future::join_all;
use jiff::SignedDuration;
use uuid::Uuid;

use crate::harness::{World, provider, taken};
use crate::shelves::{
    add, asked, audited, cart, check_out, euros, fill, made, ordered, put_on_shelves, refused, save_profile,
    serve_everywhere, shopper, stock,
};

/// Ten mugs and ten bowls.
async fn shop() -> (World, VariantId, VariantId) {
    let world = World::new().await;
    serve_everywhere(&world).await;
    let mug = put_on_shelves(&world, "mug", StockWay::RowLock, &[10]).await;
    let bowl = put_on_shelves(&world, "bowl", StockWay::Optimistic, &[5, 5]).await;
    (world, mug, bowl)
}

/// The same, and a drop of so many units, two a buyer.
async fn shop_with_drop(units: u32) -> (World, VariantId, VariantId) {
    let (world, mug, _) = shop().await;
    let live = world.open(&[units], 2, 2).await;
    let shoe = VariantId(live.drop.variants[0].variant_id);
    (world, mug, shoe)
}

async fn add_shoe(world: &World, buyer: &BuyerId, shoe: VariantId, units: i64) {
    add(world, buyer, shoe, units, euros(14_900)).await;
}

/// As if whoever was asked had died right after the checkout was placed.
async fn place_only(world: &World, buyer: &BuyerId, key: &str) -> Checkout {
    let (taken, _) = world.engine.ledger.checkouts_taken(buyer).await.unwrap();
    let priced = world.engine.quote_cart(buyer).await.unwrap().unwrap();
    match place_read(world, buyer, key, taken, &priced).await {
        Placed::Now(checkout) => checkout,
        other => panic!("{other:?}"),
    }
}

/// Places a cart that was read a while ago.
async fn place_read(world: &World, buyer: &BuyerId, key: &str, taken: Taken, priced: &CartQuote) -> Placed {
    let now = world.engine.clock.now();
    let key = key.parse().unwrap();
    let new = NewCheckout {
        id: CheckoutId(Uuid::now_v7()),
        order: OrderId(Uuid::now_v7()),
        buyer,
        key: &key,
        digest: b"as asked",
        cart_version: priced.cart.version,
        taken,
        quote: &priced.quote,
        profile: &priced.profile,
        pay_by: now + SignedDuration::from_mins(30),
        unpaid_max: world.engine.unpaid_orders_max,
        unpaid_units_max: world.engine.unpaid_units_max,
    };
    world.engine.ledger.place_checkout(&new, true, now).await.unwrap()
}

async fn state(world: &World, order: OrderId) -> (OrderState, PaymentState) {
    let order = world.engine.ledger.order(order).await.unwrap().expect("an order");
    (order.status, order.payment)
}

const WAITS: (OrderState, PaymentState) = (OrderState::PendingPayment, PaymentState::InFlight);
const CANCELLED: (OrderState, PaymentState) = (OrderState::Cancelled, PaymentState::Canceled);

/// What an order leaves behind, table by table.
async fn rows_left(world: &World) -> [i64; 6] {
    let tables = ["orders", "order_items", "payments", "order_history", "order_events", "outbox"];
    let mut left = [0; 6];
    for (left, table) in left.iter_mut().zip(tables) {
        *left = world.count(&format!("select count(*) from {table}")).await;
    }
    left
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cart_becomes_an_order_and_is_paid() {
    let (world, mug, bowl) = shop().await;
    let (fake, provider) = provider(FakeProviderOptions::default()).await;
    let buyer = fill(&world, 1, &[(mug, 2), (bowl, 7)]).await;
    let order = ordered(&world, &buyer, "a").await;
    assert_eq!(cart(&world, &buyer).await, []);
    let view = world.engine.ledger.order_of(&buyer, order).await.unwrap().unwrap();
    // 19 % of 81.00 is 15.39.
    assert_eq!(view.totals.total, euros(8_100 + 1_539 + 490));
    let items = view.items.iter().map(|item| (&*item.sku, item.quantity, item.unit_price)).collect::<Vec<_>>();
    assert_eq!(items, [("mug", 2, euros(900)), ("bowl", 5, euros(900)), ("bowl", 2, euros(900))]);
    assert_eq!(state(&world, order).await, WAITS);
    assert_eq!((stock(&world, "mug").await, stock(&world, "bowl").await), ((10, 2), (10, 7)));
    audited(&world).await;
    world.engine.charge_due(&provider, 10, 4).await.unwrap();
    assert_eq!(state(&world, order).await, (OrderState::Confirmed, PaymentState::Succeeded));
    assert_eq!((stock(&world, "mug").await, stock(&world, "bowl").await), ((8, 0), (3, 0)));
    assert_eq!(fake.intents().len(), 1);
    let report = world.engine.audit(Some(&provider)).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bank_that_wants_its_customer_keeps_units_for_ten_minutes_and_no_order_longer_than_before() {
    const ASKED: &str = "pm_card_authenticationRequired";
    let (mut world, mug, _) = shop().await;
    let clock = Clock::manual(world.engine.clock.now());
    let tokens = TokenStore::connect(&world.redis_url).await.unwrap();
    world.engine = Engine::new(world.engine.ledger.clone(), tokens, clock.clone());
    let (fake, provider) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[1], 1, 1).await;
    world.save_profile(1, ASKED).await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    let order_mugs = async |world: &World, key: &str, units: i64| {
        let buyer = fill(world, 1, &[(mug, units)]).await;
        world.sql.execute("update checkout_profiles set payment_method = $1", &[&ASKED]).await.unwrap();
        ordered(world, &buyer, key).await
    };
    let order = order_mugs(&world, "a", 10).await;
    assert_eq!(world.engine.charge_due(&provider, 10, 4).await.unwrap().leased, 2);
    assert_eq!(state(&world, order).await, (OrderState::PendingPayment, PaymentState::ActionRequired));
    clock.advance(SignedDuration::from_secs(599));
    assert_eq!(world.engine.expire_unpaid(10).await.unwrap(), 0, "there is time to act");
    clock.advance(SignedDuration::from_secs(1));
    assert_eq!(world.engine.expire_unpaid(10).await.unwrap(), 2, "goods, and a drop's unit");
    assert_eq!(stock(&world, "mug").await, (10, 10), "not before the provider's word");
    assert_eq!(world.engine.charge_due(&provider, 10, 4).await.unwrap().released, 2);
    assert_eq!(stock(&world, "mug").await, (10, 0));
    assert_eq!(world.count("select count(*) from tokens where order_id is not null").await, 0);
    assert!(fake.intents().iter().all(|intent| intent.status == "canceled"));

    // More time than the order has anyway.
    world.engine.ledger.bank_within = SignedDuration::from_hours(2);
    order_mugs(&world, "b", 1).await;
    world.engine.charge_due(&provider, 10, 4).await.unwrap();
    let as_before =
        "select count(*) from orders where status = 'PENDING_PAYMENT' and pay_by = created_at + interval '30 minutes'";
    assert_eq!(world.count(as_before).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decline_gives_the_goods_back() {
    let (mut world, mug, _) = shop().await;
    world.engine.clock = Clock::manual(world.engine.clock.now());
    let clock = world.engine.clock.clone();
    let (_fake, provider) = provider(FakeProviderOptions::default()).await;
    let buyer = fill(&world, 1, &[(mug, 2)]).await;
    let order = ordered(&world, &buyer, "a").await;
    let method = "update payments set payment_method = 'pm_card_chargeDeclined'";
    world.sql.batch_execute(method).await.unwrap();
    world.engine.charge_due(&provider, 10, 4).await.unwrap();
    assert_eq!(state(&world, order).await, (OrderState::PendingPayment, PaymentState::MethodRequired));
    clock.advance(SignedDuration::from_secs(299));
    assert_eq!(world.engine.expire_unpaid(10).await.unwrap(), 0);
    clock.advance(SignedDuration::from_secs(1));
    assert_eq!(world.engine.expire_unpaid(10).await.unwrap(), 1);
    world.engine.charge_due(&provider, 10, 4).await.unwrap();
    assert_eq!(state(&world, order).await, (OrderState::PaymentFailed, PaymentState::Failed));
    assert_eq!(stock(&world, "mug").await, (10, 0));
    audited(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_orders_once_and_stands_for_nothing_else() {
    let (world, mug, _) = shop().await;
    let buyer = fill(&world, 1, &[(mug, 1)]).await;
    let ends = join_all((0..6).map(|_| check_out(&world, &buyer, "a"))).await;
    let mut orders = ends.iter().map(|end| match end {
        CheckedOut::Now(checkout) | CheckedOut::Before(checkout) => checkout.order.unwrap(),
        CheckedOut::Refused(refused) => panic!("{refused:?}"),
    });
    let first = orders.next().unwrap();
    assert!(orders.all(|order| order == first));
    assert_eq!(ends.iter().filter(|end| matches!(end, CheckedOut::Now(_))).count(), 1);
    let other = CheckoutAsked { accepted_total: Some(euros(1)), ..asked("a") };
    let reused = world.engine.checkout(&buyer, &other).await.unwrap();
    assert_eq!(reused, CheckedOut::Refused(CheckoutRefused::KeyReused));
    assert_eq!(stock(&world, "mug").await, (10, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cart_is_ordered_once_whatever_the_keys() {
    let (world, mug, _) = shop().await;
    let buyer = fill(&world, 1, &[(mug, 1)]).await;
    let keys = (0..6).map(|number| format!("key-{number}")).collect::<Vec<_>>();
    let ends = join_all(keys.iter().map(|key| check_out(&world, &buyer, key))).await;
    assert_eq!(ends.iter().filter(|end| matches!(end, CheckedOut::Now(_))).count(), 1, "{ends:?}");
    for end in &ends {
        let is_told = matches!(
            end,
            CheckedOut::Now(_) | CheckedOut::Refused(CheckoutRefused::CartEmpty | CheckoutRefused::CartOrdered(_))
        );
        assert!(is_told, "{end:?}");
    }
    assert_eq!((stock(&world, "mug").await, cart(&world, &buyer).await), ((10, 1), vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_is_told_and_nothing_is_reserved() {
    let (world, mug, bowl) = shop().await;
    let buyer = shopper(&world, 1);
    assert_eq!(refused(&world, &buyer, "a").await, CheckoutRefused::CartEmpty);
    add(&world, &buyer, mug, 2, euros(800)).await;
    assert_eq!(refused(&world, &buyer, "a").await, CheckoutRefused::NoProfile);
    save_profile(&world, &buyer).await;
    let CheckoutRefused::PriceChanged { changes, total } = refused(&world, &buyer, "a").await else { panic!() };
    assert_eq!((changes[0].old, changes[0].new, total), (euros(800), euros(900), euros(1_800 + 342 + 490)));
    let wrong = CheckoutAsked { accepted_total: Some(euros(1)), ..asked("a") };
    let refusal = world.engine.checkout(&buyer, &wrong).await.unwrap();
    assert!(matches!(refusal, CheckedOut::Refused(CheckoutRefused::PriceChanged { .. })), "{refusal:?}");
    let priced = world.engine.quote_cart(&buyer).await.unwrap().unwrap();
    add(&world, &buyer, bowl, 11, euros(900)).await;
    let stale = CheckoutAsked { cart_version: Some(priced.cart.version), ..asked("a") };
    let refusal = world.engine.checkout(&buyer, &stale).await.unwrap();
    assert!(matches!(refusal, CheckedOut::Refused(CheckoutRefused::CartChanged { .. })), "{refusal:?}");
    let total = world.engine.quote_cart(&buyer).await.unwrap().unwrap().quote.total;
    let accepting = CheckoutAsked { accepted_total: Some(total), ..asked("a") };
    let refusal = world.engine.checkout(&buyer, &accepting).await.unwrap();
    let CheckedOut::Refused(CheckoutRefused::OutOfStock(short)) = refusal else { panic!("{refusal:?}") };
    assert_eq!((short.len(), short[0].variant_id, short[0].available), (1, bowl, 10));
    world.sql.batch_execute("update variants set active = false where sku = 'bowl'").await.unwrap();
    let faults = NoQuote::Lines(vec![(bowl, LineFault::NotForSale)]);
    assert_eq!(refused(&world, &buyer, "a").await, CheckoutRefused::NoQuote(faults));
    let sql = "update variants set active = true, currency = 'ZZZ'; update rates set currency = 'ZZZ'";
    world.sql.batch_execute(sql).await.unwrap();
    let unknown = CheckoutAsked { accepted_total: Some(euros(1)), ..asked("a") };
    let refusal = world.engine.checkout(&buyer, &unknown).await.unwrap();
    assert!(matches!(refusal, CheckedOut::Refused(CheckoutRefused::NoQuote(NoQuote::NotChargeable(_)))));
    world.sql.batch_execute("update variants set currency = 'EUR'").await.unwrap();
    world.engine.ledger.replace_rates(&[]).await.unwrap();
    world.sql.batch_execute("update variants set active = true").await.unwrap();
    assert_eq!(refused(&world, &buyer, "a").await, CheckoutRefused::NoQuote(NoQuote::NotServed));
    assert_eq!((stock(&world, "mug").await, stock(&world, "bowl").await), ((10, 0), (10, 0)));
    assert_eq!(cart(&world, &buyer).await, [(mug, 2), (bowl, 11)]);
    assert_eq!(world.count("select count(*) from orders").await, 0);
    assert_eq!(world.count("select count(*) from checkouts").await, 0);
    // What was refused may be asked for again under the same key.
    serve_everywhere(&world).await;
    let few = CheckoutAsked { accepted_total: Some(euros(1_800 + 342 + 490)), ..asked("a") };
    let owner = CartOwner::Buyer(buyer.clone());
    world.engine.carts.remove(&owner, &Expected::Any, bowl).await.unwrap();
    assert!(matches!(world.engine.checkout(&buyer, &few).await.unwrap(), CheckedOut::Now(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_whose_maker_died_is_finished_once() {
    let (mut world, mug, bowl) = shop().await;
    world.engine.clock = Clock::manual(world.engine.clock.now());
    let buyer = fill(&world, 1, &[(mug, 2), (bowl, 1)]).await;
    let order = place_only(&world, &buyer, "a").await.order.unwrap();
    assert_eq!(cart(&world, &buyer).await, [(mug, 2), (bowl, 1)], "nobody has told the cart");
    add(&world, &buyer, mug, 3, euros(900)).await;
    // Young ones are left to whoever makes them.
    assert_eq!(world.engine.finish_checkouts().await.unwrap(), 0);
    world.engine.clock.advance(SignedDuration::from_secs(3));
    assert_eq!(world.engine.finish_checkouts().await.unwrap(), 1);
    assert_eq!(world.engine.finish_checkouts().await.unwrap(), 0);
    assert_eq!(cart(&world, &buyer).await, [(mug, 3)], "what was added since stays");
    assert_eq!(state(&world, order).await, WAITS);
    // Dead between telling the cart and saying so: it is told again, and takes nothing.
    world.sql.batch_execute("update checkouts set ended_at = null").await.unwrap();
    assert_eq!(world.engine.finish_checkouts().await.unwrap(), 1);
    assert_eq!(cart(&world, &buyer).await, [(mug, 3)]);
    audited(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_does_not_order_again_what_his_cart_still_shows() {
    let (world, mug, _) = shop().await;
    let buyer = fill(&world, 1, &[(mug, 2)]).await;
    place_only(&world, &buyer, "a").await;
    add(&world, &buyer, mug, 1, euros(900)).await;
    let second = made(&world, &buyer, "b").await;
    assert_eq!(second.lines, [(mug, 1)]);
    assert_eq!((stock(&world, "mug").await, cart(&world, &buyer).await), ((10, 3), vec![]));
}

/// The second request read the cart before it had lost what the first one ordered, and after something was added: it is told
/// to read again, whether the cart has been told meanwhile or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_cart_that_was_read_before_another_checkout_took_its_units_is_read_again() {
    let (world, mug, _) = shop().await;
    let buyer = fill(&world, 1, &[(mug, 2)]).await;
    let ledger = &world.engine.ledger;
    let (taken, _) = ledger.checkouts_taken(&buyer).await.unwrap();
    let first = world.engine.quote_cart(&buyer).await.unwrap().unwrap();
    add(&world, &buyer, mug, 1, euros(900)).await;
    let second = world.engine.quote_cart(&buyer).await.unwrap().unwrap();
    let Placed::Now(placed) = place_read(&world, &buyer, "a", taken, &first).await else { panic!("not placed") };
    assert_eq!(place_read(&world, &buyer, "b", taken, &second).await, Placed::Outdated);
    let owner = CartOwner::Buyer(buyer.clone());
    world.engine.carts.take_ordered(&owner, placed.id, &placed.lines).await.unwrap();
    ledger.end_checkout(placed.id, world.engine.clock.now()).await.unwrap();
    assert_eq!(place_read(&world, &buyer, "b", taken, &second).await, Placed::Outdated);
    assert_eq!(made(&world, &buyer, "b").await.lines, [(mug, 1)]);
    assert_eq!((stock(&world, "mug").await, cart(&world, &buyer).await), ((10, 3), vec![]));
}

/// While the drop has not answered, the cart still has what was ordered, and nobody may order it with what was added.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_more_is_ordered_while_an_earlier_checkout_waits_for_its_drop() {
    let (world, mug, shoe) = shop_with_drop(5).await;
    let buyer = fill(&world, 1, &[(mug, 2)]).await;
    add_shoe(&world, &buyer, shoe, 1).await;
    let placed = place_only(&world, &buyer, "a").await;
    let lease = SignedDuration::from_secs(60);
    let (ledger, now) = (&world.engine.ledger, world.engine.clock.now());
    let lease = ledger.lease_claim(placed.id, lease, now).await.unwrap().unwrap();
    add(&world, &buyer, mug, 1, euros(900)).await;
    // Nor is anything refused for what it still has.
    let wrong = CheckoutAsked { accepted_total: Some(euros(1)), ..asked("c") };
    let (right, wrong) = (asked("b"), wrong);
    let errors = tokio::join!(world.engine.checkout(&buyer, &right), world.engine.checkout(&buyer, &wrong));
    for error in [errors.0.unwrap_err(), errors.1.unwrap_err()] {
        assert!(error.is_retryable(), "{error}");
    }
    assert_eq!(stock(&world, "mug").await, (10, 2));
    ledger.give_back_claim(placed.id, lease).await.unwrap();
    assert_eq!(made(&world, &buyer, "b").await.lines, [(mug, 1)]);
    assert_eq!((stock(&world, "mug").await, cart(&world, &buyer).await), ((10, 3), vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn additions_and_checkouts_at_once_order_exactly_what_was_put_in() {
    let world = World::new().await;
    serve_everywhere(&world).await;
    let mug = put_on_shelves(&world, "mug", StockWay::RowLock, &[100]).await;
    let other = world.another_engine().await;
    for who in 1..=4 {
        let buyer = fill(&world, who, &[]).await;
        // One behind the other, so that checkouts come in between.
        let additions = async {
            for _ in 0..10 {
                add(&world, &buyer, mug, 1, euros(900)).await;
            }
        };
        let keys = (0..5).map(|number| format!("key-{number}")).collect::<Vec<_>>();
        // Two gateways.
        let checkouts = join_all(keys.iter().enumerate().map(async |(number, key)| {
            let engine = if number % 2 == 0 { &world.engine } else { &other };
            match engine.checkout(&buyer, &asked(key)).await.unwrap() {
                CheckedOut::Now(checkout) => checkout.lines.iter().map(|(_, units)| *units).sum(),
                CheckedOut::Refused(CheckoutRefused::CartEmpty | CheckoutRefused::CartOrdered(_)) => 0,
                other => panic!("{other:?}"),
            }
        }));
        let ((), ordered) = tokio::join!(additions, checkouts);
        let left = cart(&world, &buyer).await.iter().map(|(_, units)| *units).sum::<u32>();
        assert_eq!(ordered.iter().sum::<u32>() + left, 10, "{ordered:?}, and {left} are left");
        let sql = format!("select sum(quantity) from order_items join orders using (order_id) where buyer = '{buyer}'");
        let sold = world.sql.query_one(&sql, &[]).await.unwrap().get::<_, Option<i64>>(0).unwrap_or(0);
        assert_eq!(sold + i64::from(left), 10);
    }
    audited(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goods_that_nobody_pays_for_come_back() {
    let (mut world, mug, shoe) = shop_with_drop(5).await;
    world.engine.clock = Clock::manual(world.engine.clock.now());
    let buyer = fill(&world, 1, &[(mug, 2)]).await;
    add_shoe(&world, &buyer, shoe, 1).await;
    let order = place_only(&world, &buyer, "a").await.order.unwrap();
    assert_eq!(state(&world, order).await, (OrderState::PendingPayment, PaymentState::Required));
    world.engine.clock.advance(SignedDuration::from_mins(31));
    assert_eq!(world.engine.expire_unpaid(10).await.unwrap(), 1);
    assert_eq!((state(&world, order).await.0, stock(&world, "mug").await), (OrderState::PaymentFailed, (10, 0)));
    // With its goods gone, the checkout takes nothing of the drop.
    world.engine.finish_checkouts().await.unwrap();
    assert_eq!(world.settle().await, 0);
    assert_eq!(cart(&world, &buyer).await, [(mug, 2), (shoe, 1)]);
    audited(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goods_and_a_drops_unit_are_bought_together() {
    let (world, mug, shoe) = shop_with_drop(5).await;
    let (_fake, provider) = provider(FakeProviderOptions::default()).await;
    let buyer = fill(&world, 1, &[(mug, 2)]).await;
    add_shoe(&world, &buyer, shoe, 2).await;
    let checkout = made(&world, &buyer, "a").await;
    let claim = checkout.claim.unwrap();
    assert_eq!(claim.state, ClaimState::Taken);
    assert_eq!(checkout.total, euros(1_800 + 342 + 490 + 29_800 + 5_662 + 490 + 93));
    assert_eq!((state(&world, checkout.order.unwrap()).await, cart(&world, &buyer).await), (WAITS, vec![]));
    let created = "select count(*) from order_events where kind = 'order_created'";
    assert_eq!(world.count(created).await, 1, "the shop hears of the goods once they are sold");
    let again = check_out(&world, &buyer, "a").await;
    assert!(matches!(again, CheckedOut::Before(_)), "{again:?}");
    assert_eq!(world.settle().await, 1);
    world.engine.charge_due(&provider, 10, 4).await.unwrap();
    for order in [checkout.order.unwrap(), claim.claim.id.order_id()] {
        assert_eq!(state(&world, order).await, (OrderState::Confirmed, PaymentState::Succeeded));
    }
    let report = world.engine.audit(Some(&provider)).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_drop_refuses_leaves_nothing_of_the_goods() {
    let (world, mug, shoe) = shop_with_drop(1).await;
    let buyer = fill(&world, 1, &[(mug, 2)]).await;
    add_shoe(&world, &buyer, shoe, 2).await;
    let refusal = refused(&world, &buyer, "a").await;
    assert_eq!(refusal, CheckoutRefused::Claim(ClaimOutcome::NotEnough { available: 1 }));
    assert_eq!((stock(&world, "mug").await, world.settle().await), ((10, 0), 0));
    assert_eq!(cart(&world, &buyer).await, [(mug, 2), (shoe, 2)]);
    assert_eq!(rows_left(&world).await, [0; 6], "no order, no event, no mail");
    // The same key and cart may be tried again, and are a new claim.
    let drop = world.drop.clone();
    world.engine.close_drop(&drop).await.unwrap().unwrap();
    let refusal = refused(&world, &buyer, "a").await;
    assert_eq!(refusal, CheckoutRefused::NoQuote(NoQuote::Lines(vec![(shoe, LineFault::NotForSale)])));
    audited(&world).await;
}

/// Again and again, as somebody would who wants a shop to write to others.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_to_be_sold_out_is_refused_without_a_row_and_what_was_refused_is_forgotten() {
    let (mut world, mug, shoe) = shop_with_drop(1).await;
    world.engine.clock = Clock::manual(world.engine.clock.now());
    let live = world.live().await;
    crate::harness::taken(world.claim_until_answered(&live, 7, "k", 0, 1).await);
    let first = fill(&world, 1, &[(mug, 1)]).await;
    add_shoe(&world, &first, shoe, 1).await;
    let sold_out = CheckoutRefused::Claim(ClaimOutcome::SoldOut);
    assert_eq!(refused(&world, &first, "a").await, sold_out);
    let known = world.count("select count(*) from checkouts").await;
    assert_eq!((known, rows_left(&world).await), (1, [0; 6]));
    // The proof holds for a second: whoever asks meanwhile leaves nothing at all.
    let second = fill(&world, 2, &[(mug, 1)]).await;
    add_shoe(&world, &second, shoe, 1).await;
    assert_eq!(refused(&world, &second, "a").await, sold_out);
    assert!(world.count("select count(*) from checkouts").await <= known + 1);
    // For a day a claim of it may come too late.
    world.engine.clock.advance(SignedDuration::from_hours(23));
    world.engine.finish_checkouts().await.unwrap();
    assert!(world.count("select count(*) from checkouts").await >= 1);
    world.engine.clock.advance(SignedDuration::from_hours(2));
    world.engine.finish_checkouts().await.unwrap();
    assert_eq!(world.count("select count(*) from checkouts").await, 0);
    assert_eq!(stock(&world, "mug").await, (10, 0));
}

/// What its buyer has dealt with exists for them: it is cancelled, and they are told.
#[tokio::test(flavor = "multi_thread")]
async fn goods_that_their_buyer_was_told_of_are_cancelled_rather_than_taken_back() {
    let (world, mug, shoe) = shop_with_drop(1).await;
    let buyer = fill(&world, 1, &[(mug, 2)]).await;
    add_shoe(&world, &buyer, shoe, 2).await;
    let placed = place_only(&world, &buyer, "a").await;
    let (order, now) = (placed.order.unwrap(), world.engine.clock.now());
    let given = "update payments set method_key = 'given', payment_method = 'pm_card_visa', state = 'IN_FLIGHT'";
    world.sql.batch_execute(given).await.unwrap();
    let lease = world.engine.ledger.lease_claim(placed.id, SignedDuration::from_secs(10), now).await.unwrap().unwrap();
    assert!(world.engine.ledger.end_claim(placed.id, lease, ClaimState::Refused).await.unwrap());
    assert!(!world.engine.ledger.undo_order(placed.id, order).await.unwrap());
    assert!(matches!(world.engine.checkout(&buyer, &asked("b")).await.unwrap(), CheckedOut::Refused(_)));
    assert_eq!(state(&world, order).await, CANCELLED);
    assert_eq!(stock(&world, "mug").await, (10, 0));
    audited(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_unit_of_a_drop_is_sold_once_through_carts_too() {
    let (world, mug, shoe) = shop_with_drop(3).await;
    let buyers = join_all((0..16).map(async |who| {
        // Every other one wants goods beside it.
        let goods: &[_] = if who % 2 == 0 { &[(mug, 1)] } else { &[] };
        let buyer = fill(&world, who, goods).await;
        add_shoe(&world, &buyer, shoe, 1).await;
        buyer
    }))
    .await;
    let ends = join_all(buyers.iter().map(async |buyer| {
        loop {
            match world.engine.checkout(buyer, &asked("a")).await.unwrap() {
                CheckedOut::Now(checkout) | CheckedOut::Before(checkout)
                    if checkout.claim.as_ref().unwrap().state == ClaimState::Pending =>
                {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                end => break end,
            }
        }
    }))
    .await;
    let sold = ends.iter().filter(|end| !matches!(end, CheckedOut::Refused(_))).count();
    assert_eq!(sold, 3, "{ends:?}");
    assert_eq!(world.settle().await, 3);
    let with_goods = ends.iter().step_by(2).filter(|end| !matches!(end, CheckedOut::Refused(_))).count();
    assert_eq!(stock(&world, "mug").await, (10, with_goods as i64));
    let live = world.count("select count(*) from orders where status = 'PENDING_PAYMENT'").await;
    assert_eq!(live, 3 + with_goods as i64);
    audited(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_maker_died_is_made_once_by_whoever_comes() {
    let (mut world, mug, shoe) = shop_with_drop(5).await;
    world.engine.clock = Clock::manual(world.engine.clock.now());
    let buyer = fill(&world, 1, &[(mug, 1)]).await;
    add_shoe(&world, &buyer, shoe, 1).await;
    let placed = place_only(&world, &buyer, "a").await;
    let claim = placed.claim.clone().unwrap().claim;
    // It had claimed, and died before it could say so.
    let lease = SignedDuration::from_secs(10);
    world.engine.ledger.lease_claim(placed.id, lease, world.engine.clock.now()).await.unwrap().unwrap();
    let live = world.live().await;
    world.engine.claim(&live, &claim).await.unwrap();
    world.engine.clock.advance(SignedDuration::from_secs(3));
    world.engine.finish_checkouts().await.unwrap();
    let known = world.engine.ledger.checkout(placed.id).await.unwrap().unwrap();
    assert_eq!(known.claim.unwrap().state, ClaimState::Pending, "the lease is another's");
    world.engine.clock.advance(SignedDuration::from_secs(8));
    world.engine.finish_checkouts().await.unwrap();
    let known = world.engine.ledger.checkout(placed.id).await.unwrap().unwrap();
    assert_eq!((known.claim.unwrap().state, known.is_over), (ClaimState::Taken, true));
    assert_eq!(state(&world, placed.order.unwrap()).await, WAITS);
    assert_eq!(cart(&world, &buyer).await, []);
    assert_eq!((world.settle().await, world.free_in_redis(&live).await), (1, 4));
    audited(&world).await;
}

/// Whoever lost his lease may claim after the checkout was refused: what comes of it is given back.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_comes_too_late_is_given_back() {
    let (world, mug, shoe) = shop_with_drop(5).await;
    let buyer = fill(&world, 1, &[(mug, 1)]).await;
    add_shoe(&world, &buyer, shoe, 1).await;
    let placed = place_only(&world, &buyer, "a").await;
    let ledger = &world.engine.ledger;
    let now = world.engine.clock.now();
    let slow = ledger.lease_claim(placed.id, SignedDuration::from_secs(0), now).await.unwrap().unwrap();
    let quick = ledger.lease_claim(placed.id, SignedDuration::from_secs(10), now).await.unwrap().unwrap();
    assert!(ledger.end_claim(placed.id, quick, ClaimState::Refused).await.unwrap());
    let live = world.live().await;
    world.engine.claim(&live, &placed.claim.unwrap().claim).await.unwrap();
    assert!(!ledger.end_claim(placed.id, slow, ClaimState::Taken).await.unwrap(), "the lease had passed on");
    assert_eq!(world.settle().await, 1);
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    world.engine.finish_checkouts().await.unwrap();
    // The late claim was answered, so its order is cancelled; the goods were refused, and leave nothing.
    assert_eq!(world.count("select count(*) from orders where status <> 'CANCELLED'").await, 0);
    assert_eq!(world.engine.ledger.order(placed.order.unwrap()).await.unwrap(), None);
    world.apply_all_grants().await;
    assert_eq!((world.free_in_redis(&live).await, stock(&world, "mug").await), (5, (10, 0)));
    audited(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_forgotten_has_no_checkouts_and_who_waits_for_a_claim_is_not_forgotten() {
    let (mut world, mug, shoe) = shop_with_drop(5).await;
    world.engine.clock = Clock::manual(world.engine.clock.now());
    let ledger = &world.engine.ledger;
    let now = world.engine.clock.now();
    let buyer = fill(&world, 1, &[]).await;
    add_shoe(&world, &buyer, shoe, 1).await;
    let claim = place_only(&world, &buyer, "a").await.claim.unwrap().claim.id;
    let open = Erasure::Open(vec![claim.order_id()]);
    assert_eq!(ledger.erase_buyer(&buyer, now).await.unwrap(), open);
    // Taken, and not yet an order: also then; but not for ever, should Redis have forgotten it.
    assert!(matches!(check_out(&world, &buyer, "a").await, CheckedOut::Refused(CheckoutRefused::KeyReused)));
    world.engine.clock.advance(SignedDuration::from_secs(3));
    world.engine.finish_checkouts().await.unwrap();
    let known = ledger.checkout_by_key(&buyer, &"a".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(known.claim.unwrap().state, ClaimState::Taken);
    assert_eq!(ledger.erase_buyer(&buyer, now).await.unwrap(), open);
    let later = now + SignedDuration::from_mins(61);
    assert!(matches!(ledger.erase_buyer(&buyer, later).await.unwrap(), Erasure::Done(_)));

    // Somebody was about to say that this one is over.
    let buyer = fill(&world, 2, &[(mug, 1)]).await;
    let placed = place_only(&world, &buyer, "a").await;
    ledger.cancel_order(placed.order.unwrap(), None, ("buyer", "a test"), now).await.unwrap();
    assert!(matches!(ledger.erase_buyer(&buyer, now).await.unwrap(), Erasure::Done(_)));
    assert_eq!(world.count("select count(*) from checkouts").await, 0);
    ledger.end_checkout(placed.id, now).await.unwrap();
}
