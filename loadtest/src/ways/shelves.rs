//! The product's own ways to sell ordinary stock, behind the endpoint of claims: an order as checkout places it, of one line that
//! has been priced. Reading the profile, reading and emptying the cart are left out, which favours them.

use anyhow::Context as _;
use doorbuster_engine::domain::carts::CartVersion;
use doorbuster_engine::domain::checkout::{ForSale, Goods, Line, Quote, Source};
use doorbuster_engine::domain::claims::Claim;
use doorbuster_engine::domain::drops::SaleDrop;
use doorbuster_engine::domain::ids::{BuyerId, CheckoutId, OrderId, VariantId};
use doorbuster_engine::domain::pricing::Totals;
use doorbuster_engine::domain::stock::StockWay;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::checkouts::{NewCheckout, Placed, Taken};
use doorbuster_engine::ledger::profiles::CheckoutProfile;
use jiff::SignedDuration;

use super::Ordered;

/// Longer than any run: nothing of it expires under the measurement.
const UNPAID: SignedDuration = SignedDuration::from_hours(24);

pub(crate) async fn order(engine: &Engine, way: StockWay, drop: &SaleDrop, claim: &Claim) -> anyhow::Result<Ordered> {
    let Some(variant) = drop.variant(claim.variant) else { return Ok(Ordered::SoldOut) };
    let units = claim.quantity.units();
    let rate = drop.rate();
    let totals = Totals::of_units(variant.price, units, &rate)?;
    let sale = ForSale {
        product: drop.product_id,
        variant_id: VariantId(variant.variant_id),
        sku: variant.sku.clone(),
        title: variant.sku.clone(),
        price: variant.price,
        from: Source::Shelves(way),
    };
    let line = Line { price_at_add: sale.price, sale, quantity: units };
    let (tax_basis_points, shipping_tax_basis_points) = (rate.tax_basis_points, rate.shipping_tax());
    let goods = Goods { lines: vec![line], totals, tax_basis_points, shipping_tax_basis_points };
    let quote = Quote { goods: Some(goods), drop_line: None, total: totals.total };
    let profile = profile_of(&claim.buyer)?;
    let key = claim.id.to_string().parse()?;
    let new = NewCheckout {
        id: CheckoutId(claim.id.0),
        order: OrderId(claim.id.0),
        buyer: &claim.buyer,
        key: &key,
        digest: claim.id.0.as_bytes(),
        cart_version: CartVersion(1),
        // The buyer's first.
        taken: Taken::default(),
        quote: &quote,
        profile: &profile,
        pay_by: engine.clock.now().checked_add(UNPAID)?,
        unpaid_max: u32::MAX,
        unpaid_units_max: u32::MAX,
    };
    Ok(match engine.place(&new).await? {
        Placed::Now(_) => Ordered::Made,
        Placed::KeyKnown(_) | Placed::CartKnown(_) => Ordered::Before,
        Placed::Short(_) => Ordered::SoldOut,
        Placed::Changed => anyhow::bail!("others were faster each time"),
        Placed::TooManyOpen | Placed::TooManyUnitsOpen => anyhow::bail!("there is no such limit here"),
        Placed::Outdated => anyhow::bail!("this buyer has no such profile, or has ordered before"),
    })
}

/// As the stage has saved it.
fn profile_of(buyer: &BuyerId) -> anyhow::Result<CheckoutProfile> {
    let number = buyer.as_str().trim_start_matches("buyer-").parse::<u64>().context("a buyer of the crowd")?;
    Ok(CheckoutProfile {
        payment_method: Some("pm_card_visa".parse()?),
        email: format!("b{number}@example.test"),
        ship_to: serde_json::json!({ "name": "B", "line1": "Long Street 12", "city": "Berlin", "postal_code": "10115", "country": "DE" }),
    })
}
