//! The whole price before the click: a drop's rates by country, what a buyer was told, and orders that wait or cost
//! nothing.

use doorbuster_engine::domain::claims::{Claim, ClaimOutcome, Quantity};
use doorbuster_engine::domain::countries::Country;
use doorbuster_engine::domain::drops::{InvalidDrop, NewDrop};
use doorbuster_engine::domain::ids::{OrderId, PaymentMethodId, VariantId};
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::domain::payments::PaymentState;
use doorbuster_engine::flows::LiveDrop;
use doorbuster_engine::flows::open_drop::DropRefused;
use doorbuster_engine::ledger::orders::OrderView;
use doorbuster_engine::ledger::payments::{MethodGiven, TotalAccepted};
use doorbuster_engine::ledger::profiles::CheckoutProfile;
use doorbuster_engine::ledger::rates::RateRow;
use doorbuster_engine::ledger::refunds::OrderCancelled;
use doorbuster_sandbox::provider::FakeProviderOptions;

use crate::harness::{World, buyer, claim, provider, taken};
use crate::refunds::{assert_audit_is_clean, owed_by_provider, until_nothing_is_due};
use crate::shelves::{add, euros, made, put_on_shelves, save_profile, shopper};

/// 100.00 and 5.00 shipping, both at 19 %: 124.95. In France 10.00 and 20 %: 132.00. In the United States just 100.00.
const GERMANY: i64 = 12_495;
const FRANCE: i64 = 13_200;
const AMERICA: i64 = 10_000;

fn rate(country: &str, tax_basis_points: u32, shipping_minor: i64) -> RateRow {
    RateRow {
        country: country.to_owned(),
        currency: "EUR".parse().unwrap(),
        tax_basis_points,
        shipping_tax_basis_points: None,
        shipping_minor,
        free_shipping_from_minor: None,
    }
}

async fn set_rates(world: &World) {
    let rows = [rate("DE", 1_900, 500), rate("FR", 2_000, 1_000), rate("US", 0, 0)];
    world.engine.ledger.replace_rates(&rows).await.unwrap();
}

/// One variant at 100.00, at the shop's rates.
fn at_shop_rates(world: &World) -> NewDrop {
    let mut new = world.new_drop(&[5], 2, 2);
    (new.rates_of_shop, new.tax_basis_points, new.shipping_minor) = (true, 0, 0);
    new.variants[0].price_minor = 10_000;
    new
}

async fn open(world: &World, new: &NewDrop) -> std::sync::Arc<LiveDrop> {
    world.engine.create_drop(new, 42).await.unwrap().unwrap();
    world.engine.open_drop(&world.drop).await.unwrap().unwrap();
    world.live().await
}

async fn open_at_shop_rates(world: &World) -> std::sync::Arc<LiveDrop> {
    set_rates(world).await;
    open(world, &at_shop_rates(world)).await
}

fn told(live: &LiveDrop, who: u32, country: &str, total: i64) -> Claim {
    claim(live, &buyer(who), "k", 0, 1).told(country.parse().unwrap(), euros(total))
}

async fn answer(world: &World, live: &LiveDrop, claim: &Claim) -> ClaimOutcome {
    world.engine.claim(live, claim).await.unwrap().outcome
}

async fn lives_in(world: &World, who: u32, country: &str) {
    let profile = CheckoutProfile {
        payment_method: Some("pm_card_visa".parse::<PaymentMethodId>().unwrap()),
        email: format!("b{who}@example.test"),
        ship_to: serde_json::json!({ "name": "B", "country": country }),
    };
    world.engine.ledger.save_profile(&buyer(who), &profile, world.engine.clock.now()).await.unwrap();
}

fn order_id(live: &LiveDrop, who: u32) -> OrderId {
    claim(live, &buyer(who), "k", 0, 1).id.order_id()
}

async fn order(world: &World, id: OrderId) -> OrderView {
    world.engine.ledger.order(id).await.unwrap().unwrap()
}

async fn accept(world: &World, id: OrderId, who: u32, key: &str, minor: i64) -> TotalAccepted {
    let (key, now) = (key.parse().unwrap(), world.engine.clock.now());
    world.engine.ledger.accept_total(id, &buyer(who), &key, euros(minor), now).await.unwrap()
}

async fn use_profile(world: &World, id: OrderId, who: u32, key: &str) -> MethodGiven {
    let (key, now) = (key.parse().unwrap(), world.engine.clock.now());
    world.engine.ledger.use_profile(id, &buyer(who), &key, now).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_taken_at_the_total_of_its_country_and_at_no_other() {
    let world = World::new().await;
    let live = open_at_shop_rates(&world).await;
    let changed = |minor| ClaimOutcome::PriceChanged { total: euros(minor) };
    assert_eq!(answer(&world, &live, &told(&live, 1, "DE", FRANCE)).await, changed(GERMANY));
    assert_eq!(answer(&world, &live, &told(&live, 1, "FR", FRANCE - 1)).await, changed(FRANCE));
    assert_eq!(answer(&world, &live, &told(&live, 1, "CH", AMERICA)).await, ClaimOutcome::NotServed);
    let at_home = world.engine.claim_at_home(&live, &told(&live, 1, "DE", 1)).await.unwrap().unwrap();
    assert_eq!(at_home.outcome, changed(GERMANY), "and no store was asked");
    assert!(world.dumps(&live).await.iter().all(|dump| dump.buyers.is_empty()), "nothing was taken");
    // The key was not used up by the refusals; and a repeat is answered as the claim was.
    let first = told(&live, 1, "DE", GERMANY);
    let serials = taken(answer(&world, &live, &first).await);
    assert_eq!(answer(&world, &live, &first).await, ClaimOutcome::Replayed { serials });
    let two = Claim { quantity: Quantity::new(2).unwrap(), ..claim(&live, &buyer(2), "two", 0, 2) };
    taken(answer(&world, &live, &two.told("DE".parse().unwrap(), euros(23_800 + 595))).await);
    taken(answer(&world, &live, &claim(&live, &buyer(3), "k", 0, 1)).await);
    let dumps = world.dumps(&live).await;
    let logged = dumps.iter().flat_map(|dump| &dump.log).flat_map(|entry| &entry.claims);
    let mut logged = logged.map(|logged| logged.claim.told.map(|told| told.total_minor)).collect::<Vec<_>>();
    logged.sort_unstable();
    assert_eq!(logged, [None, Some(GERMANY), Some(23_800 + 595)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_its_address_makes_dearer_is_not_charged_before_its_buyer_agrees() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = open_at_shop_rates(&world).await;
    lives_in(&world, 1, "FR").await;
    taken(answer(&world, &live, &told(&live, 1, "DE", GERMANY)).await);
    assert_eq!(world.settle().await, 1);
    let id = order_id(&live, 1);
    let waiting = order(&world, id).await;
    assert_eq!((waiting.status, waiting.payment), (OrderState::PendingPayment, PaymentState::Required));
    assert_eq!((waiting.totals.total, waiting.waits_beyond), (euros(FRANCE), Some(euros(GERMANY))));
    assert_eq!(world.count("select count(*) from payments where due_at is null").await, 1);
    assert_eq!(world.engine.charge_due(&client, 10, 4).await.unwrap().leased, 0);
    let total = euros(FRANCE);
    assert_eq!(use_profile(&world, id, 1, "pay").await, MethodGiven::TotalNotAccepted { total });
    assert_eq!(accept(&world, id, 2, "a", FRANCE).await, TotalAccepted::NoSuchOrder, "not theirs");
    for other in [GERMANY, FRANCE + 1] {
        assert_eq!(accept(&world, id, 1, "a", other).await, TotalAccepted::Changed { total });
    }
    assert_eq!(world.engine.charge_due(&client, 10, 4).await.unwrap().leased, 0);
    assert!(fake.captures().is_empty());
    assert_eq!(accept(&world, id, 1, "a", FRANCE).await, TotalAccepted::Now);
    assert_eq!(accept(&world, id, 1, "a", FRANCE).await, TotalAccepted::Before);
    assert_eq!(accept(&world, id, 1, "a", GERMANY).await, TotalAccepted::KeyReused);
    assert_eq!(accept(&world, id, 1, "b", FRANCE).await, TotalAccepted::NotRequired);
    until_nothing_is_due(&world, &client).await;
    let paid = order(&world, id).await;
    assert_eq!((paid.status, paid.waits_beyond), (OrderState::Confirmed, None));
    assert_eq!(fake.captures().iter().map(|capture| capture.amount_minor).collect::<Vec<_>>(), [FRANCE]);
    assert_eq!(
        world.count("select count(*) from outbox where kind = 'total_changed' and destination = 'mail'").await,
        1
    );
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_costs_the_same_or_less_is_charged_what_it_costs() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = open_at_shop_rates(&world).await;
    for (who, country) in [(1, "DE"), (2, "US"), (3, "FR")] {
        lives_in(&world, who, country).await;
    }
    taken(answer(&world, &live, &told(&live, 1, "DE", GERMANY)).await);
    taken(answer(&world, &live, &told(&live, 2, "DE", GERMANY)).await);
    // Nobody told them anything, as before there was anything to tell.
    taken(answer(&world, &live, &claim(&live, &buyer(3), "k", 0, 1)).await);
    // Another country to which nothing is sent: another address may come in its place.
    lives_in(&world, 4, "CH").await;
    taken(answer(&world, &live, &told(&live, 4, "FR", FRANCE)).await);
    assert_eq!(world.settle().await, 4);
    until_nothing_is_due(&world, &client).await;
    let mut captured = fake.captures().iter().map(|capture| capture.amount_minor).collect::<Vec<_>>();
    captured.sort_unstable();
    assert_eq!(captured, [AMERICA, GERMANY, FRANCE]);
    let waiting = order(&world, order_id(&live, 4)).await;
    assert_eq!((waiting.payment, &waiting.ship_to, waiting.waits_beyond), (PaymentState::Required, &None, None));
    assert_eq!(use_profile(&world, waiting.id, 4, "1").await, MethodGiven::NotServed);
    lives_in(&world, 4, "DE").await;
    assert_eq!(use_profile(&world, waiting.id, 4, "2").await, MethodGiven::Now);
    until_nothing_is_due(&world, &client).await;
    assert_eq!(order(&world, waiting.id).await.totals.total, euros(GERMANY));
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_without_a_profile_is_priced_when_there_is_one_and_waits_if_that_makes_it_dearer() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = open_at_shop_rates(&world).await;
    taken(answer(&world, &live, &told(&live, 1, "DE", GERMANY)).await);
    assert_eq!(world.settle().await, 1);
    let id = order_id(&live, 1);
    assert_eq!(order(&world, id).await.totals.total, euros(GERMANY));
    assert_eq!(accept(&world, id, 1, "a", GERMANY).await, TotalAccepted::NotRequired, "it waits for an address");
    lives_in(&world, 1, "FR").await;
    let total = euros(FRANCE);
    for key in ["1", "1", "2"] {
        assert_eq!(use_profile(&world, id, 1, key).await, MethodGiven::TotalNotAccepted { total });
    }
    assert_eq!(order(&world, id).await.waits_beyond, Some(euros(GERMANY)));
    assert_eq!(world.engine.charge_due(&client, 10, 4).await.unwrap().leased, 0);
    // The address that was priced is the order's, whatever the profile says since.
    lives_in(&world, 1, "US").await;
    assert_eq!(accept(&world, id, 1, "a", FRANCE).await, TotalAccepted::Now);
    until_nothing_is_due(&world, &client).await;
    assert_eq!(fake.captures()[0].amount_minor, FRANCE);
    assert_eq!(order(&world, id).await.ship_to.unwrap()["country"], "FR");
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_total_nobody_agrees_to_ends_as_one_that_is_not_paid() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = open_at_shop_rates(&world).await;
    for who in [1, 2] {
        lives_in(&world, who, "FR").await;
        taken(answer(&world, &live, &told(&live, who, "DE", GERMANY)).await);
    }
    taken(answer(&world, &live, &claim(&live, &buyer(3), "k", 0, 1)).await);
    assert_eq!(world.settle().await, 3);
    let now = world.engine.clock.now();
    let why = ("buyer", "too dear");
    let cancelled = world.engine.ledger.cancel_order(order_id(&live, 2), Some(&buyer(2)), why, now).await.unwrap();
    assert_eq!(cancelled, OrderCancelled::Now);
    assert_eq!(accept(&world, order_id(&live, 2), 2, "a", FRANCE).await, TotalAccepted::NotRequired);
    world.sql.batch_execute("update drops set pay_by = now() - interval '1 second'").await.unwrap();
    assert_eq!(world.engine.expire_unpaid(10).await.unwrap(), 2);
    assert_eq!(accept(&world, order_id(&live, 1), 1, "a", FRANCE).await, TotalAccepted::NotRequired);
    let rows = world.sql.query("select failure from payments where state = 'FAILED' order by 1", &[]).await.unwrap();
    let failures = rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>();
    assert_eq!(failures, ["no_payment_method", "total_not_accepted"]);
    world.apply_all_grants().await;
    assert_eq!(world.free_in_redis(&live).await, 5);
    assert!(fake.captures().is_empty());
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_keeps_the_rates_with_which_it_opened_and_every_gateway_knows_them() {
    let world = World::new().await;
    set_rates(&world).await;
    world.engine.create_drop(&at_shop_rates(&world), 42).await.unwrap().unwrap();
    // A gateway that has read the draft, and hears of nothing since.
    let gateway = world.another_engine().await;
    let old = gateway.live_drop(&world.drop).await.unwrap().unwrap();
    let germany: Country = "DE".parse().unwrap();
    let total = |live: &LiveDrop| {
        let price = live.drop.variants[0].price;
        live.drop.terms.totals(price, 1, germany).map(|totals| totals.unwrap().total)
    };
    assert_eq!(total(&old), Some(euros(GERMANY)), "as it would be now");
    world.engine.ledger.replace_rates(&[rate("DE", 700, 0), rate("*", 0, 0)]).await.unwrap();
    world.engine.open_drop(&world.drop).await.unwrap().unwrap();
    set_rates(&world).await;
    assert_eq!(total(&*world.live().await), Some(euros(10_700)), "as it opened, whatever the shop's rates are now");
    let claimed = async |who, minor| gateway.claim(&old, &told(&old, who, "DE", minor)).await.unwrap().outcome;
    assert_eq!(claimed(1, GERMANY).await, ClaimOutcome::PriceChanged { total: euros(10_700) });
    taken(claimed(1, 10_700).await);
    lives_in(&world, 1, "DE").await;
    assert_eq!(world.settle().await, 1);
    assert_eq!(order(&world, order_id(&old, 1)).await.totals.total, euros(10_700));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_that_nobody_in_some_country_could_pay_for_does_not_open() {
    let world = World::new().await;
    let mut new = at_shop_rates(&world);
    new.variants[0].price_minor = 60_000_000;
    new.buyer_limit = 1;
    world.engine.create_drop(&new, 42).await.unwrap().unwrap();
    world.engine.ledger.replace_rates(&[rate("DE", 1_900, 0), rate("SE", 10_000, 0)]).await.unwrap();
    let refused = world.engine.open_drop(&world.drop).await.unwrap().unwrap_err();
    let DropRefused::Invalid(InvalidDrop::NotChargeableThere { country, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(country.as_str(), "SE");
    assert_eq!(world.count("select count(*) from drops where state = 'draft'").await, 1);
    assert_eq!(world.count("select count(*) from drop_rates").await, 0);
    // Without any rates of the shop in its currency it has its own, which are none.
    world.engine.ledger.replace_rates(&[]).await.unwrap();
    world.engine.open_drop(&world.drop).await.unwrap().unwrap();
    taken(answer(&world, &*world.live().await, &told(&*world.live().await, 1, "SE", 60_000_000)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_that_includes_tax_has_right_documents_and_books() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    set_rates(&world).await;
    let live = open(&world, &NewDrop { price_includes_tax: true, ..at_shop_rates(&world) }).await;
    lives_in(&world, 1, "DE").await;
    let two = claim(&live, &buyer(1), "k", 0, 2).told("DE".parse().unwrap(), euros(20_000 + 500 + 95));
    taken(answer(&world, &live, &two).await);
    assert_eq!(world.settle().await, 1);
    until_nothing_is_due(&world, &client).await;
    assert_eq!(fake.captures()[0].amount_minor, 20_595);
    let id = order_id(&live, 1);
    let paid = order(&world, id).await;
    // 19 % in 200.00 are 31.93.
    assert!(paid.price_includes_tax);
    assert_eq!((paid.totals.subtotal, paid.totals.tax), (euros(16_807), euros(3_193 + 95)));
    world.engine.issue_documents().await.unwrap();
    let documents = world.engine.order_documents(id, None).await.unwrap().unwrap();
    let lines = documents.invoice.unwrap().lines;
    let lines = lines.iter().map(|line| (line.line, line.net.amount_minor, line.tax.amount_minor)).collect::<Vec<_>>();
    assert_eq!(lines, [(1, 16_807, 3_193), (0, 500, 95)]);
    let why = ("grace", "one came back");
    let refund = doorbuster_engine::domain::ids::RefundId(uuid::Uuid::from_u128(7));
    let ledger = &world.engine.ledger;
    ledger.ask_refund(refund, id, Some(euros(10_000)), why, world.engine.clock.now()).await.unwrap();
    until_nothing_is_due(&world, &client).await;
    let rows = world.sql.query("select net_minor, tax_minor from refund_lines", &[]).await.unwrap();
    let credited = rows.iter().map(|row| (row.get::<_, i64>(0), row.get::<_, i64>(1))).collect::<Vec<_>>();
    assert_eq!(credited, [(8_403, 1_597)], "one pair of two, with the VAT in its price");
    assert_eq!(owed_by_provider(&world).await, 20_595 - 10_000);
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_costs_nothing_is_confirmed_without_a_call_to_the_provider() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let mut new = world.new_drop(&[4], 1, 1);
    (new.tax_basis_points, new.shipping_minor, new.variants[0].price_minor) = (1_900, 0, 0);
    let live = open(&world, &new).await;
    lives_in(&world, 1, "DE").await;
    taken(answer(&world, &live, &told(&live, 1, "DE", 0)).await);
    taken(answer(&world, &live, &claim(&live, &buyer(2), "k", 0, 1)).await);
    assert_eq!(world.settle().await, 2);
    let states = async |who| {
        let order = order(&world, order_id(&live, who)).await;
        (order.status, order.payment)
    };
    let confirmed = (OrderState::Confirmed, PaymentState::Succeeded);
    assert_eq!(states(1).await, confirmed);
    assert_eq!(states(2).await, (OrderState::PendingPayment, PaymentState::Required), "nobody knows where it goes");
    lives_in(&world, 2, "DE").await;
    assert_eq!(use_profile(&world, order_id(&live, 2), 2, "k").await, MethodGiven::Now);
    assert_eq!(states(2).await, confirmed);
    assert_eq!(use_profile(&world, order_id(&live, 2), 2, "k").await, MethodGiven::Before);
    assert_eq!(world.count("select sum(quantity_available) from inventory").await, 2);
    assert_eq!(world.count("select sum(quantity_reserved) from inventory").await, 0);
    assert_eq!(world.count("select count(*) from outbox where kind = 'order_confirmed'").await, 2);
    let now = world.engine.clock.now();
    let why = ("buyer", "changed my mind");
    let cancelled = world.engine.ledger.cancel_order(order_id(&live, 1), Some(&buyer(1)), why, now).await.unwrap();
    assert_eq!(cancelled, OrderCancelled::Now);
    assert_eq!(states(1).await, (OrderState::Cancelled, PaymentState::Canceled), "nothing was taken");
    world.apply_all_grants().await;
    assert_eq!(world.free_in_redis(&live).await, 3);
    until_nothing_is_due(&world, &client).await;
    for nothing in ["payment_attempts", "journal", "refunds", "invoices"] {
        assert_eq!(world.count(&format!("select count(*) from {nothing}")).await, 0, "{nothing}");
    }
    assert!(fake.captures().is_empty() && fake.refunds().is_empty());
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cart_of_free_goods_is_an_order_too() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    world.engine.ledger.replace_rates(&[rate("DE", 1_900, 0)]).await.unwrap();
    let flyer = put_on_shelves(&world, "flyer", doorbuster_engine::domain::stock::StockWay::RowLock, &[9]).await;
    world.sql.batch_execute("update variants set price_minor = 0 where sku = 'flyer'").await.unwrap();
    let buyer = shopper(&world, 1);
    save_profile(&world, &buyer).await;
    add(&world, &buyer, flyer, 3, euros(0)).await;
    let id = made(&world, &buyer, "k").await.order.unwrap();
    let free = order(&world, id).await;
    assert_eq!((free.status, free.payment), (OrderState::Confirmed, PaymentState::Succeeded));
    until_nothing_is_due(&world, &client).await;
    assert!(fake.captures().is_empty());
    assert_eq!(world.count("select sum(quantity_available) from inventory").await, 6);
    assert_audit_is_clean(&world, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_set_aside_keeps_what_its_buyer_was_told() {
    let world = World::new().await;
    let live = open_at_shop_rates(&world).await;
    lives_in(&world, 1, "FR").await;
    taken(answer(&world, &live, &told(&live, 1, "DE", GERMANY)).await);
    let refuse = "alter table orders add constraint nobody check (buyer is null) not valid";
    world.sql.batch_execute(refuse).await.unwrap();
    assert_eq!(world.settle().await, 0);
    world.sql.batch_execute("alter table orders drop constraint nobody").await.unwrap();
    assert_eq!(world.engine.retry_poisoned(None).await.unwrap().settled, 1);
    assert_eq!(order(&world, order_id(&live, 1)).await.waits_beyond, Some(euros(GERMANY)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drops_line_of_a_cart_is_agreed_to_at_checkout() {
    let world = World::new().await;
    let live = open_at_shop_rates(&world).await;
    let shopper = shopper(&world, 1);
    save_profile(&world, &shopper).await;
    let shoe = VariantId(live.drop.variants[0].variant_id);
    add(&world, &shopper, shoe, 1, euros(10_000)).await;
    let checkout = made(&world, &shopper, "k").await;
    assert_eq!(checkout.total, euros(GERMANY));
    // They move house before the claim is settled.
    let abroad = serde_json::json!({ "name": "B", "country": "FR" });
    let sql = "update checkout_profiles set ship_to = $1 where buyer = $2";
    world.sql.execute(sql, &[&abroad, &shopper.as_str()]).await.unwrap();
    assert_eq!(world.settle().await, 1);
    let made = order(&world, checkout.claim.unwrap().claim.id.order_id()).await;
    assert_eq!((made.totals.total, made.waits_beyond), (euros(FRANCE), Some(euros(GERMANY))));
}
