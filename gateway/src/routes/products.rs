//! `/v1/products`: the catalog as everybody sees it, of what is sold outside of drops.

use std::collections::HashMap;

use axum::extract::State;
use axum::response::Response;
use doorbuster_engine::domain::catalog::Product;
use doorbuster_engine::domain::ids::ProductId;
use serde::Serialize;
use utoipa::ToSchema;

use super::Amount;
use super::admin::products::product_id;
use crate::error::{Errors, Problem, kinds};
use crate::etag::IfNoneMatch;
use crate::extract::PathText;
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
    /// Before tax and shipping
    pub price: Amount,
    /// Whether a unit is free just now, on a shelf or in an open drop: a hint, no promise
    pub in_stock: bool,
}

/// Pairs of a product and what is free of it, as `Paged` wants them.
struct Shown(Product, HashMap<String, i64>);

impl From<Shown> for ProductOnSale {
    fn from(Shown(product, free): Shown) -> Self {
        let variants = product.variants.into_iter().filter(|variant| variant.is_active);
        let variants = variants.map(|variant| VariantOnSale {
            in_stock: free.get(&variant.sku).is_some_and(|units| *units > 0),
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

/// What is sold, in the order in which it was made
///
/// A second old at most.
#[utoipa::path(
    get, path = "/v1/products", tag = "catalog",
    params(
        PageParams,
        ("If-None-Match" = Option<String>, Header, description = "An ETag that is known already"),
    ),
    responses(
        (status = 200, body = Paged<ProductOnSale>, headers(("ETag" = String))),
        (status = 304, description = "As known"),
        Errors<kinds::Overloaded>,
    ),
    security(())
)]
pub async fn list_products(State(gate): State<Gate>, known: IfNoneMatch, page: Page<i32>) -> Result<Response, Problem> {
    let key = PageKey::Products { after: page.after, count: page.fetch() };
    let of = gate.clone();
    let read = async move {
        let found = of.engine.ledger.products(page.after.map(ProductId), page.fetch(), true).await?;
        let ids = found.iter().map(|product| product.id).collect::<Vec<_>>();
        let free = free_units(&of, &ids).await?;
        let shown = found.into_iter().map(|product| {
            let of_product = product.variants.iter().filter_map(|variant| free.get_key_value(&variant.sku));
            let of_product = of_product.map(|(sku, units)| (sku.clone(), *units)).collect();
            Shown(product, of_product)
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
        ("If-None-Match" = Option<String>, Header, description = "An ETag that is known already"),
    ),
    responses(
        (status = 200, body = ProductOnSale, headers(("ETag" = String))),
        (status = 304, description = "As known"),
        Errors<(kinds::ProductNotFound, kinds::Overloaded)>,
    ),
    security(())
)]
pub async fn get_product(
    State(gate): State<Gate>,
    known: IfNoneMatch,
    PathText(id): PathText,
) -> Result<Response, Problem> {
    let id = product_id(&id)?;
    let of = gate.clone();
    let read = async move {
        let product = of.engine.ledger.product_on_sale(id).await?.ok_or(Problem::ProductNotFound)?;
        let free = free_units(&of, &[product.id]).await?;
        Ok(kept(&ProductOnSale::from(Shown(product, free))))
    };
    Ok(gate.pages.page(PageKey::Product(id.0), read).await?.answer(&known))
}

fn kept(shown: &impl Serialize) -> KeptPage {
    KeptPage::new(serde_json::to_vec(shown).expect("a catalog is made of texts and numbers"))
}
