//! `/v1/warehouses`, `/v1/stock/…`: places of ordinary stock, and every change of what lies there.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use doorbuster_engine::domain::catalog::is_sku;
use doorbuster_engine::domain::requests::{OperatorRequest, RequestId};
use doorbuster_engine::domain::stock::{self, NewAdjustment, StockRefused, WarehouseCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::error::{Errors, IDEMPOTENT_REPLAYED, Problem, kinds};
use crate::extract::{JsonBody, Key, KeyHeader, Params};
use crate::operators::Operator;
use crate::page::{Page, PageParams, Paged};
use crate::routes::ops::Ops;

/// A code, or a SKU, a number and a sentence.
const BODY_BYTES: usize = 4 * 1024;

/// A place where ordinary stock lies
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Warehouse {
    /// 1 to 32 of a-z, 0-9 and -
    #[schema(example = "berlin", pattern = "^[a-z0-9-]{1,32}$")]
    pub code: String,
}

/// A change of stock
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewStockAdjustment {
    #[schema(example = "shoe-42")]
    pub sku: String,
    /// The code of the place
    #[schema(example = "berlin")]
    pub warehouse: String,
    /// Units that came, or below zero those that are gone; not 0
    #[schema(example = -3)]
    pub delta: i64,
    /// Why, for the history
    #[schema(example = "broken", max_length = 200)]
    pub reason: String,
}

/// A change of stock that was made
#[derive(Debug, Serialize, ToSchema)]
pub struct StockAdjustment {
    pub id: i64,
    pub sku: String,
    pub warehouse: String,
    pub delta: i64,
    pub reason: String,
    /// The operator who made it
    pub actor: String,
    /// Units not sold, once it was made; those that are reserved among them
    pub available: i64,
    /// Units that unpaid orders held
    pub reserved: i64,
    pub at: Timestamp,
}

impl From<stock::Adjustment> for StockAdjustment {
    fn from(made: stock::Adjustment) -> Self {
        let stock::Adjustment { id, sku, warehouse, delta, reason, actor, available, reserved, at } = made;
        Self { id, sku, warehouse: warehouse.to_string(), delta, reason, actor, available, reserved, at }
    }
}

impl From<WarehouseCode> for Warehouse {
    fn from(code: WarehouseCode) -> Self {
        Self { code: code.to_string() }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct HistoryParams {
    /// Of this SKU alone
    sku: Option<String>,
}

/// Make a place for ordinary stock
///
/// Its code is its name: made again, it is there.
#[utoipa::path(
    post, path = "/v1/warehouses", tag = "stock",
    request_body = Warehouse,
    responses(
        (status = 201, body = Warehouse),
        (status = 200, body = Warehouse, description = "It was there already"),
    ),
    security(("operator" = []))
)]
pub async fn make_warehouse(
    State(ops): State<Ops>,
    JsonBody(new): JsonBody<Warehouse, BODY_BYTES>,
) -> Result<(StatusCode, Json<Warehouse>), Problem> {
    let code: WarehouseCode = new.code.parse().map_err(|error| Problem::field("code", format!("{error}")))?;
    let is_new = ops.engine.ledger.make_warehouse(&code).await?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(new)))
}

/// Places of ordinary stock, by code
#[utoipa::path(
    get, path = "/v1/warehouses", tag = "stock",
    params(PageParams),
    responses((status = 200, body = Paged<Warehouse>)),
    security(("operator" = []))
)]
pub async fn list_warehouses(
    State(ops): State<Ops>,
    page: Page<WarehouseCode>,
) -> Result<Json<Paged<Warehouse>>, Problem> {
    let found = ops.engine.ledger.warehouses(page.after.as_ref(), page.fetch()).await?;
    Ok(Json(page.of(found, WarehouseCode::clone)))
}

/// Change stock
///
/// Done once for each Idempotency-Key of an operator; a repeat is answered as the first, and marked
/// `Idempotent-Replayed: true`. What unpaid orders have reserved cannot go. What was refused may be tried again under its key.
#[utoipa::path(
    post, path = "/v1/stock/adjustments", tag = "stock",
    params(KeyHeader),
    request_body = NewStockAdjustment,
    responses(
        (status = 201, body = StockAdjustment),
        Errors<(
            kinds::SkuNotFound, kinds::WarehouseNotFound, kinds::BelowReserved, kinds::StockOfDrop, kinds::KeyReused
        )>,
    ),
    security(("operator" = []))
)]
pub async fn adjust_stock(
    State(ops): State<Ops>,
    operator: Operator,
    Key(key): Key,
    JsonBody(new): JsonBody<NewStockAdjustment, BODY_BYTES>,
) -> Result<Response, Problem> {
    let warehouse = new.warehouse.parse().map_err(|error| Problem::field("warehouse", format!("{error}")))?;
    let new = NewAdjustment { sku: new.sku, warehouse, delta: new.delta, reason: new.reason };
    let request = OperatorRequest { id: RequestId::new(operator.name(), &key), actor: operator.name().to_owned() };
    let done = ops.engine.ledger.adjust_stock(&request, &new, ops.engine.clock.now()).await??;
    let is_replay = done.is_replay();
    let answer = (StatusCode::CREATED, Json(StockAdjustment::from(done.into_inner())));
    Ok(if is_replay { ([(IDEMPOTENT_REPLAYED, "true")], answer).into_response() } else { answer.into_response() })
}

/// The history of stock, newest first
#[utoipa::path(
    get, path = "/v1/stock/adjustments", tag = "stock",
    params(HistoryParams, PageParams),
    responses(
        (status = 200, body = Paged<StockAdjustment>),
        Errors<kinds::SkuNotFound>,
    ),
    security(("operator" = []))
)]
pub async fn list_adjustments(
    State(ops): State<Ops>,
    page: Page<i64>,
    Params(HistoryParams { sku }): Params<HistoryParams>,
) -> Result<Json<Paged<StockAdjustment>>, Problem> {
    if sku.as_ref().is_some_and(|sku| !is_sku(sku)) {
        return Err(Problem::SkuNotFound);
    }
    let found = ops.engine.ledger.stock_history(sku.as_deref(), page.after, page.fetch()).await?;
    Ok(Json(page.of(found, |adjustment: &stock::Adjustment| adjustment.id)))
}

impl From<StockRefused> for Problem {
    fn from(refused: StockRefused) -> Self {
        let sentence = refused.to_string();
        match refused {
            StockRefused::UnknownSku(_) => Self::SkuNotFound,
            StockRefused::UnknownWarehouse(_) => Self::WarehouseNotFound,
            StockRefused::OfDrop(drop) => Self::StockOfDrop { drop: drop.to_string() },
            StockRefused::BelowReserved { available, reserved, .. } => Self::BelowReserved { available, reserved },
            StockRefused::TooMany { .. } | StockRefused::Nothing => Self::field("delta", sentence),
            StockRefused::Reason => Self::field("reason", sentence),
            StockRefused::IdReused => Self::KeyReused,
        }
    }
}
