//! `/v1/products`: what is sold, as operators make and change it.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use doorbuster_engine::domain::catalog::{
    CatalogRefused, NewProduct as NewCatalogProduct, NewVariant as NewCatalogVariant, Product, ProductEdit, VariantEdit,
};
use doorbuster_engine::domain::ids::ProductId;
use doorbuster_engine::domain::requests::{Done, OperatorRequest, RequestId};
use doorbuster_engine::domain::stock::{Place, Stock, StockWay};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Errors, IDEMPOTENT_REPLAYED, Problem, kinds};
use crate::etag::{IfMatch, IfMatchHeader, etag};
use crate::extract::{JsonBody, Key, KeyHeader, PathText};
use crate::operators::Operator;
use crate::page::{Page, PageParams, Paged};
use crate::routes::Amount;
use crate::routes::ops::Ops;
use crate::words;

/// A hundred variants, each with a SKU and a title.
const BODY_BYTES: usize = 128 * 1024;

/// A product to be made
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProduct {
    #[schema(example = "Doorbuster One", max_length = 200)]
    pub name: String,
    /// 1 to 100; what is bought is a variant
    pub variants: Vec<NewVariant>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewVariant {
    /// Names this variant for ever: 1 to 64 visible ASCII characters
    #[schema(example = "one-42")]
    pub sku: String,
    #[schema(example = "Size 42", max_length = 200)]
    pub title: String,
    /// In the currency's smallest unit
    #[schema(example = 14900, minimum = 0)]
    pub price_minor: i64,
    #[schema(example = "EUR")]
    pub currency: String,
}

/// What is to be different; what is left out stays
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProductChange {
    pub name: Option<String>,
    pub active: Option<bool>,
    /// How its units are taken at checkout: `row_lock`, `warehouses`, `optimistic`, or `tokens` for what only drops sell
    #[schema(value_type = Option<words::StockWay>)]
    pub reservation: Option<StockWay>,
    #[serde(default)]
    pub variants: Vec<VariantChange>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VariantChange {
    /// Which one
    pub sku: String,
    pub title: Option<String>,
    #[schema(minimum = 0)]
    pub price_minor: Option<i64>,
    pub active: Option<bool>,
}

/// A product
#[derive(Debug, Serialize, ToSchema)]
pub struct ProductFound {
    pub id: i32,
    pub name: String,
    /// Shown and sold to buyers
    pub active: bool,
    /// How its units are taken at checkout
    #[schema(value_type = words::StockWay)]
    pub reservation: StockWay,
    /// Counts its edits; the ETag is made of it
    pub version: i64,
    pub variants: Vec<VariantFound>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct VariantFound {
    pub sku: String,
    pub title: String,
    /// Outside of drops, which have prices of their own
    pub price: Amount,
    pub active: bool,
}

/// What there is of a product
#[derive(Debug, Serialize, ToSchema)]
pub struct ProductStock {
    pub stock: Vec<StockFound>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct StockFound {
    pub sku: String,
    /// The code of the place; null for the stock of a drop
    pub warehouse: Option<String>,
    /// The drop whose stock this is
    pub drop: Option<String>,
    /// Units not sold, those that are reserved among them
    pub available: i64,
    /// Units that unpaid orders hold
    pub reserved: i64,
}

impl From<Product> for ProductFound {
    fn from(product: Product) -> Self {
        let variant = |variant: doorbuster_engine::domain::catalog::Variant| VariantFound {
            sku: variant.sku,
            title: variant.title,
            price: variant.price.into(),
            active: variant.is_active,
        };
        Self {
            id: product.id.0,
            name: product.name,
            active: product.is_active,
            reservation: product.reservation,
            version: product.version.0,
            variants: product.variants.into_iter().map(variant).collect(),
        }
    }
}

impl From<Stock> for StockFound {
    fn from(stock: Stock) -> Self {
        let (warehouse, drop) = match stock.place {
            Place::Warehouse(code) => (Some(code.to_string()), None),
            Place::Drop(name) => (None, Some(name.to_string())),
        };
        Self { sku: stock.sku, warehouse, drop, available: stock.available, reserved: stock.reserved }
    }
}

impl NewVariant {
    fn parse(self) -> Result<NewCatalogVariant, Problem> {
        let currency = self.currency.parse();
        let currency =
            currency.map_err(|_| Problem::field("currency", "must be three capital letters, such as EUR"))?;
        Ok(NewCatalogVariant { sku: self.sku, title: self.title, price_minor: self.price_minor, currency })
    }
}

/// Make a product
///
/// Drops may sell it later under the same SKUs, from stock and at prices of their own.
#[utoipa::path(
    post, path = "/v1/products", tag = "catalog",
    params(KeyHeader),
    request_body = NewProduct,
    responses(
        (status = 201, body = ProductFound, headers(("ETag" = String), ("Idempotent-Replayed" = Option<bool>))),
        Errors<(kinds::SkuTaken, kinds::KeyReused)>,
    ),
    security(("operator" = []))
)]
pub async fn make_product(
    State(ops): State<Ops>,
    operator: Operator,
    Key(key): Key,
    JsonBody(new): JsonBody<NewProduct, BODY_BYTES>,
) -> Result<Response, Problem> {
    let variants = new.variants.into_iter().map(NewVariant::parse).collect::<Result<_, _>>()?;
    let new = NewCatalogProduct { name: new.name, variants };
    let request = request_of(&operator, &key);
    let made = ops.engine.ledger.make_product(&request, &new, ops.engine.clock.now()).await??;
    Ok(created(made))
}

/// Give a product one more variant
#[utoipa::path(
    post, path = "/v1/products/{id}/variants", tag = "catalog",
    params(("id" = i32, Path, description = "The product's id", example = 1), KeyHeader),
    request_body = NewVariant,
    responses(
        (status = 201, body = ProductFound, headers(("ETag" = String), ("Idempotent-Replayed" = Option<bool>))),
        Errors<(kinds::ProductNotFound, kinds::SkuTaken, kinds::KeyReused)>,
    ),
    security(("operator" = []))
)]
pub async fn add_variant(
    State(ops): State<Ops>,
    operator: Operator,
    Key(key): Key,
    PathText(id): PathText,
    JsonBody(new): JsonBody<NewVariant, BODY_BYTES>,
) -> Result<Response, Problem> {
    let (id, new, request) = (product_id(&id)?, new.parse()?, request_of(&operator, &key));
    let made = ops.engine.ledger.add_variant(&request, id, &new, ops.engine.clock.now()).await??;
    Ok(created(made))
}

/// Change a product and its variants
///
/// Send the ETag that you have seen in If-Match: of two changes made at once, one wins and the other is told.
#[utoipa::path(
    patch, path = "/v1/products/{id}", tag = "catalog",
    params(("id" = i32, Path, description = "The product's id", example = 1), IfMatchHeader),
    request_body = ProductChange,
    responses(
        (status = 200, body = ProductFound, headers(("ETag" = String))),
        Errors<(kinds::ProductNotFound, kinds::SkuNotFound)>,
    ),
    security(("operator" = []))
)]
pub async fn change_product(
    State(ops): State<Ops>,
    operator: Operator,
    IfMatch(expected): IfMatch,
    PathText(id): PathText,
    JsonBody(change): JsonBody<ProductChange, BODY_BYTES>,
) -> Result<Response, Problem> {
    let id = product_id(&id)?;
    let variant = |change: VariantChange| VariantEdit {
        sku: change.sku,
        title: change.title,
        price_minor: change.price_minor,
        is_active: change.active,
    };
    let variants = change.variants.into_iter().map(variant).collect();
    let edit = ProductEdit { name: change.name, is_active: change.active, reservation: change.reservation, variants };
    let changed = ops.engine.ledger.edit_product(id, &expected, &edit, ops.engine.clock.now()).await??;
    tracing::info!(operator = operator.name(), product = id.0, version = changed.version.0, "a product was changed");
    Ok(found(StatusCode::OK, changed))
}

/// A product
#[utoipa::path(
    get, path = "/v1/products/{id}", tag = "catalog",
    params(("id" = i32, Path, description = "The product's id", example = 1)),
    responses(
        (status = 200, body = ProductFound, headers(("ETag" = String))),
        Errors<kinds::ProductNotFound>,
    ),
    security(("operator" = []))
)]
pub async fn get_product(State(ops): State<Ops>, PathText(id): PathText) -> Result<Response, Problem> {
    let product = ops.engine.ledger.product(product_id(&id)?).await?.ok_or(Problem::ProductNotFound)?;
    Ok(found(StatusCode::OK, product))
}

/// All products, in the order in which they were made
#[utoipa::path(
    get, path = "/v1/products", tag = "catalog",
    params(PageParams),
    responses((status = 200, body = Paged<ProductFound>)),
    security(("operator" = []))
)]
pub async fn list_products(State(ops): State<Ops>, page: Page<i32>) -> Result<Json<Paged<ProductFound>>, Problem> {
    let found = ops.engine.ledger.products(page.after.map(ProductId), page.fetch(), false).await?;
    Ok(Json(page.of(found, |product: &Product| product.id.0)))
}

/// What there is of a product, by SKU and place
#[utoipa::path(
    get, path = "/v1/products/{id}/stock", tag = "stock",
    params(("id" = i32, Path, description = "The product's id", example = 1)),
    responses(
        (status = 200, body = ProductStock),
        Errors<kinds::ProductNotFound>,
    ),
    security(("operator" = []))
)]
pub async fn get_stock(State(ops): State<Ops>, PathText(id): PathText) -> Result<Json<ProductStock>, Problem> {
    let id = product_id(&id)?;
    ops.engine.ledger.product(id).await?.ok_or(Problem::ProductNotFound)?;
    let stock = ops.engine.ledger.stock_of(id.0).await?;
    Ok(Json(ProductStock { stock: stock.into_iter().map(StockFound::from).collect() }))
}

/// A product's id in a path. What cannot be one is no product's.
pub(in crate::routes) fn product_id(text: &str) -> Result<ProductId, Problem> {
    text.parse().map(ProductId).map_err(|_| Problem::ProductNotFound)
}

fn request_of(operator: &Operator, key: &doorbuster_engine::domain::ids::IdempotencyKey) -> OperatorRequest {
    OperatorRequest { id: RequestId::new(operator.name(), key), actor: operator.name().to_owned() }
}

fn created(made: Done<Product>) -> Response {
    let is_replay = made.is_replay();
    let answer = found(StatusCode::CREATED, made.into_inner());
    if is_replay { ([(IDEMPOTENT_REPLAYED, "true")], answer).into_response() } else { answer }
}

fn found(status: StatusCode, product: Product) -> Response {
    let etag = etag(product.version);
    (status, [etag], Json(ProductFound::from(product))).into_response()
}

impl From<CatalogRefused> for Problem {
    fn from(refused: CatalogRefused) -> Self {
        match refused {
            CatalogRefused::IdReused => Self::KeyReused,
            CatalogRefused::SkuTaken(sku) => Self::SkuTaken { sku },
            CatalogRefused::UnknownSku(_) => Self::SkuNotFound,
            CatalogRefused::Unknown => Self::ProductNotFound,
            CatalogRefused::Changed(_) => Self::PreconditionFailed,
            CatalogRefused::Field(field, detail) => Self::field(field, detail),
        }
    }
}
