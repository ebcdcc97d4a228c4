//! `/v1/products`: the catalog as everybody sees it, of what is sold outside of drops.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use axum::extract::State;
use axum::response::Response;
use doorbuster_engine::domain::catalog::Product;
use doorbuster_engine::domain::countries::Country;
use doorbuster_engine::domain::ids::ProductId;
use doorbuster_engine::domain::pricing::Totals;
use serde::Serialize;
use utoipa::ToSchema;

use super::Amount;
use super::admin::products::product_id;
use super::drops::{CountryParam, WholePrice};
use crate::error::{Errors, Problem, kinds};
use crate::etag::IfNoneMatch;
use crate::extract::{Params, PathText};
use crate::page::{Page, PageParams, Paged};
use crate::pages::{Page as KeptPage, PageKey};
use crate::state::Gate;

/// A product that is sold
#[derive(Debug, Serialize, ToSchema)]
pub struct ProductOnSale {
    pub id: i32,
    pub name: String,
    pub variants: Vec<VariantOnSale>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct VariantOnSale {
    pub sku: String,
    pub title: String,
    /// Before shipping and, unless it is a drop's whose prices include it, before tax
    pub price: Amount,
    /// What one unit costs in the country that was asked for; left out if nothing of it is sent there, or none was
    /// asked for
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole_price: Option<WholePrice>,
    /// Whether a unit is free just now, on a shelf or in an open drop: a hint, no promise
    pub in_stock: bool,
}

/// A product, what is free of it, and what its variants cost there, as `Paged` wants them.
struct Shown(Product, HashMap<String, i64>, HashMap<String, WholePrice>);

impl From<Shown> for ProductOnSale {
    fn from(Shown(product, free, mut prices): Shown) -> Self {
        let variants = product.variants.into_iter().filter(|variant| variant.is_active);
        let variants = variants.map(|variant| VariantOnSale {
            in_stock: free.get(&variant.sku).is_some_and(|units| *units > 0),
            whole_price: prices.remove(&variant.sku),
            sku: variant.sku,
            title: variant.title,
            price: variant.price.into(),
        });
        Self { id: product.id.0, name: product.name, variants: variants.collect() }
    }
}

/// Units of each SKU that can be had. Of an open drop it is known that there are some, or that there are none any more.
async fn free_units(gate: &Gate, products: &[ProductId]) -> Result<HashMap<String, i64>, Problem> {
    let ledger = &gate.engine.ledger;
    let mut free = ledger.free_ordinary_units(products).await?;
    for (sku, (drop, number)) in ledger.sold_by_open_drops(products).await? {
        let is_gone = gate.engine.known_drop(&drop).is_some_and(|live| live.is_known_to_be_gone(number));
        free.insert(sku, i64::from(!is_gone));
    }
    Ok(free)
}

/// What one unit of each variant costs, sent to a country: what a drop sells by the drop's terms, the rest by the
/// shop's.
async fn whole_prices(
    gate: &Gate,
    products: &[Product],
    to: Option<Country>,
) -> Result<HashMap<String, WholePrice>, Problem> {
    let Some(to) = to else { return Ok(HashMap::new()) };
    let ledger = &gate.engine.ledger;
    let ids = products.iter().map(|product| product.id).collect::<Vec<_>>();
    let of_drops = ledger.sold_by_open_drops(&ids).await?;
    let mut found = HashMap::new();
    let mut rates = HashMap::new();
    for variant in products.iter().flat_map(|product| &product.variants) {
        let totals = match of_drops.get(&variant.sku) {
            Some((drop, number)) => {
                let live = gate.engine.live_drop(drop).await?;
                let sold = live.as_ref().and_then(|live| Some((&live.drop.terms, live.drop.variant(*number)?.price)));
                sold.and_then(|(terms, price)| terms.totals(price, 1, to))
            }
            None => {
                let currency = variant.price.currency;
                let rate = match rates.entry(currency) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(new) => *new.insert(ledger.rate_for(to.as_str(), currency).await?),
                };
                rate.map(|rate| Totals::of(variant.price, &rate))
            }
        };
        // What could not be charged is not shown as if it could.
        if let Some(Ok(totals)) = totals {
            found.insert(variant.sku.clone(), WholePrice::new(to, totals));
        }
    }
    Ok(found)
}

fn country(params: CountryParam) -> Result<Option<Country>, Problem> {
    let parse = |code: String| code.parse().map_err(|wrong: String| Problem::field("country", wrong));
    params.country.map(parse).transpose()
}

/// What is sold, in the order in which it was made
///
/// A second old at most. With `country` also what one unit of each variant costs there.
#[utoipa::path(
    get, path = "/v1/products", tag = "catalog",
    params(
        PageParams,
        CountryParam,
        ("If-None-Match" = Option<String>, Header, description = "An ETag that is known already"),
    ),
    responses(
        (status = 200, body = Paged<ProductOnSale>, headers(("ETag" = String))),
        (status = 304, description = "As known"),
        Errors<(kinds::Overloaded, kinds::Invalid)>,
    ),
    security(())
)]
pub async fn list_products(
    State(gate): State<Gate>,
    known: IfNoneMatch,
    page: Page<i32>,
    Params(params): Params<CountryParam>,
) -> Result<Response, Problem> {
    let to = country(params)?;
    let key = PageKey::Products { after: page.after, count: page.fetch(), to };
    let of = gate.clone();
    let read = async move {
        let found = of.engine.ledger.products(page.after.map(ProductId), page.fetch(), true).await?;
        let ids = found.iter().map(|product| product.id).collect::<Vec<_>>();
        let free = free_units(&of, &ids).await?;
        let mut prices = whole_prices(&of, &found, to).await?;
        let shown = found.into_iter().map(|product| {
            let of_product = product.variants.iter().filter_map(|variant| free.get_key_value(&variant.sku));
            let of_product = of_product.map(|(sku, units)| (sku.clone(), *units)).collect();
            let skus = product.variants.iter().map(|variant| &variant.sku);
            let its_prices = skus.filter_map(|sku| prices.remove_entry(sku)).collect();
            Shown(product, of_product, its_prices)
        });
        let paged: Paged<ProductOnSale> = page.of(shown.collect(), |shown: &Shown| shown.0.id.0);
        Ok(kept(&paged))
    };
    Ok(gate.pages.page(key, read).await?.answer(&known))
}

/// A product that is sold
///
/// A second old at most.
#[utoipa::path(
    get, path = "/v1/products/{id}", tag = "catalog",
    params(
        ("id" = i32, Path, description = "The product's id", example = 1),
        CountryParam,
        ("If-None-Match" = Option<String>, Header, description = "An ETag that is known already"),
    ),
    responses(
        (status = 200, body = ProductOnSale, headers(("ETag" = String))),
        (status = 304, description = "As known"),
        Errors<(kinds::ProductNotFound, kinds::Overloaded, kinds::Invalid)>,
    ),
    security(())
)]
pub async fn get_product(
    State(gate): State<Gate>,
    known: IfNoneMatch,
    PathText(id): PathText,
    Params(params): Params<CountryParam>,
) -> Result<Response, Problem> {
    let id = product_id(&id)?;
    let to = country(params)?;
    let of = gate.clone();
    let read = async move {
        let product = of.engine.ledger.product_on_sale(id).await?.ok_or(Problem::ProductNotFound)?;
        let free = free_units(&of, &[product.id]).await?;
        let prices = whole_prices(&of, std::slice::from_ref(&product), to).await?;
        Ok(kept(&ProductOnSale::from(Shown(product, free, prices))))
    };
    Ok(gate.pages.page(PageKey::Product(id.0, to), read).await?.answer(&known))
}

fn kept(shown: &impl Serialize) -> KeptPage {
    KeptPage::new(serde_json::to_vec(shown).expect("a catalog is made of texts and numbers"))
}
