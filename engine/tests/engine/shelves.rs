//! Ordinary products on shelves, and buyers who fill carts with them.

use doorbuster_engine::domain::carts::{Addition, CartOwner, LineQuantity};
use doorbuster_engine::domain::catalog::{NewProduct, NewVariant};
use doorbuster_engine::domain::ids::{BuyerId, OrderId, PaymentMethodId, VariantId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::requests::{OperatorRequest, RequestId};
use doorbuster_engine::domain::stock::{NewAdjustment, StockWay};
use doorbuster_engine::flows::checkout::{CheckedOut, CheckoutAsked, CheckoutRefused};
use doorbuster_engine::ledger::checkouts::Checkout;
use doorbuster_engine::ledger::profiles::CheckoutProfile;
use doorbuster_engine::ledger::rates::RateRow;
use uuid::Uuid;

use crate::harness::World;

pub(crate) fn euros(minor: i64) -> Money {
    Money::new(minor, "EUR".parse().unwrap())
}

/// A world that is served everywhere, at 19 % and 4.90 €.
pub(crate) async fn serve_everywhere(world: &World) {
    let row = RateRow {
        country: "*".to_owned(),
        currency: "EUR".parse().unwrap(),
        tax_basis_points: 1_900,
        shipping_tax_basis_points: Some(0),
        shipping_minor: 490,
        free_shipping_from_minor: None,
    };
    world.engine.ledger.replace_rates(&[row]).await.unwrap();
}

/// A product of one variant for 9.00 €, with so many units in each place.
pub(crate) async fn put_on_shelves(world: &World, sku: &str, way: StockWay, places: &[i64]) -> VariantId {
    let ledger = &world.engine.ledger;
    let now = world.engine.clock.now();
    let request = || OperatorRequest { id: RequestId(Uuid::now_v7()), actor: "ada".to_owned() };
    let currency = "EUR".parse().unwrap();
    let variant = NewVariant { sku: sku.to_owned(), title: sku.to_owned(), price_minor: 900, currency };
    let product = NewProduct { name: format!("A {sku}"), variants: vec![variant] };
    ledger.make_product(&request(), &product, now).await.unwrap().unwrap();
    for (place, units) in places.iter().enumerate() {
        let warehouse = format!("place-{place}").parse().unwrap();
        ledger.make_warehouse(&warehouse).await.unwrap();
        if *units > 0 {
            let reason = "counted".to_owned();
            let new = NewAdjustment { sku: sku.to_owned(), warehouse, delta: *units, reason };
            ledger.adjust_stock(&request(), &new, now).await.unwrap().unwrap();
        }
    }
    let product = format!("(select product_id from variants where sku = '{sku}')");
    let way = way.as_str();
    let sql = format!("update products set reservation = '{way}' where product_id = {product}");
    world.sql.batch_execute(&sql).await.unwrap();
    ledger.variant_of_sku(sku).await.unwrap().unwrap()
}

/// The tests share one Redis, in which a buyer has one cart.
pub(crate) fn shopper(world: &World, who: u32) -> BuyerId {
    format!("shopper-{}-{who}", world.number).parse().unwrap()
}

pub(crate) async fn save_profile(world: &World, buyer: &BuyerId) {
    let profile = CheckoutProfile {
        payment_method: Some("pm_card_visa".parse::<PaymentMethodId>().unwrap()),
        email: "b@example.test".to_owned(),
        ship_to: serde_json::json!({ "name": "B", "country": "DE" }),
    };
    world.engine.ledger.save_profile(buyer, &profile, world.engine.clock.now()).await.unwrap();
}

pub(crate) async fn add(world: &World, buyer: &BuyerId, variant: VariantId, units: i64, price: Money) {
    let addition = Addition {
        variant_id: variant,
        quantity: LineQuantity::new(units).unwrap(),
        price,
        key: Uuid::now_v7().to_string().parse().unwrap(),
    };
    world.engine.carts.add(&CartOwner::Buyer(buyer.clone()), &addition).await.unwrap();
}

/// A buyer with a profile and these lines, at the price of [`put_on_shelves`].
pub(crate) async fn fill(world: &World, who: u32, lines: &[(VariantId, i64)]) -> BuyerId {
    let buyer = shopper(world, who);
    save_profile(world, &buyer).await;
    for (variant, units) in lines {
        add(world, &buyer, *variant, *units, euros(900)).await;
    }
    buyer
}

pub(crate) fn asked(key: &str) -> CheckoutAsked {
    CheckoutAsked { key: key.parse().unwrap(), cart_version: None, accepted_total: None }
}

pub(crate) async fn check_out(world: &World, buyer: &BuyerId, key: &str) -> CheckedOut {
    world.engine.checkout(buyer, &asked(key)).await.unwrap()
}

pub(crate) async fn made(world: &World, buyer: &BuyerId, key: &str) -> Checkout {
    match check_out(world, buyer, key).await {
        CheckedOut::Now(checkout) => checkout,
        other => panic!("not ordered: {other:?}"),
    }
}

pub(crate) async fn ordered(world: &World, buyer: &BuyerId, key: &str) -> OrderId {
    made(world, buyer, key).await.order.unwrap()
}

pub(crate) async fn refused(world: &World, buyer: &BuyerId, key: &str) -> CheckoutRefused {
    match check_out(world, buyer, key).await {
        CheckedOut::Refused(refused) => refused,
        other => panic!("not refused: {other:?}"),
    }
}

/// Lines of a buyer's cart.
pub(crate) async fn cart(world: &World, buyer: &BuyerId) -> Vec<(VariantId, u32)> {
    let cart = world.engine.carts.read(&CartOwner::Buyer(buyer.clone())).await.unwrap();
    cart.map(|cart| cart.lines.iter().map(|line| (line.variant_id, line.quantity)).collect()).unwrap_or_default()
}

/// (available, reserved) of ordinary stock, over all places.
pub(crate) async fn stock(world: &World, sku: &str) -> (i64, i64) {
    let sql = format!(
        "select sum(quantity_available)::bigint, sum(quantity_reserved)::bigint
         from inventory join variants using (variant_id) where sku = '{sku}'"
    );
    let row = world.sql.query_one(&sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

pub(crate) async fn audited(world: &World) {
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
}
