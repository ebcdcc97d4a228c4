//! `/v1/products/import`, `/v1/stock/import`: a file of CSV, all of it or nothing.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use doorbuster_engine::domain::imports::{ImportEnd, Imported, LineFault, SameFile, StockImport};
use doorbuster_engine::domain::requests::{Done, OperatorRequest, RequestId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::error::{Errors, FieldProblem, IDEMPOTENT_REPLAYED, Problem, kinds};
use crate::extract::{CsvBody, Key, KeyHeader, Params};
use crate::import::{self, FILE_BYTES};
use crate::openapi::examples::{PRODUCTS_CSV, STOCK_CSV};
use crate::operators::Operator;
use crate::routes::ops::Ops;

/// Whether it is only tried
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Trial {
    /// Checks the whole file, says what it would do, and changes nothing
    #[serde(default)]
    pub dry_run: bool,
}

/// What the quantities are, and whether it is only tried
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StockFile {
    /// Checks the whole file, says what it would do, and changes nothing
    #[serde(default)]
    pub dry_run: bool,
    /// `add`: units that came or, below zero, are gone; `count`: what is there
    #[serde(default)]
    #[param(inline)]
    pub mode: Mode,
    /// Adds the quantities of a file that were added before, under another key, once more
    #[serde(default)]
    pub again: bool,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    #[default]
    Add,
    Count,
}

/// What a file did
#[derive(Debug, Serialize, ToSchema)]
pub struct FileImported {
    /// Variants that were made
    pub created: usize,
    /// Variants, or places of stock, that were changed
    pub changed: usize,
    pub unchanged: usize,
    /// Nothing was changed: it was only tried
    pub dry_run: bool,
}

/// Import products
///
/// `product,sku,title,price_minor,currency` and, if wanted, `active,reservation`, with a header. A SKU that is known is changed, a
/// new one made; so are products, by their names. At most 10,000 rows.
#[utoipa::path(
    post, path = "/v1/products/import", tag = "catalog",
    params(Trial, KeyHeader),
    request_body(content = String, content_type = "text/csv", example = json!(PRODUCTS_CSV)),
    responses(
        (status = 200, body = FileImported, headers(("Idempotent-Replayed" = Option<bool>))),
        Errors<(kinds::ImportRefused, kinds::KeyReused)>,
    ),
    security(("operator" = []))
)]
pub async fn import_products(
    State(ops): State<Ops>,
    operator: Operator,
    Key(key): Key,
    Params(trial): Params<Trial>,
    CsvBody(text): CsvBody<FILE_BYTES>,
) -> Result<Response, Problem> {
    let rows = import::products(&text).map_err(refused)?;
    let request = OperatorRequest { id: RequestId::new(operator.name(), &key), actor: operator.name().to_owned() };
    let now = ops.engine.clock.now();
    answer(ops.engine.ledger.import_products(&request, &rows, trial.dry_run, now).await?)
}

/// Import stock
///
/// `sku,warehouse,quantity,reason`, with a header. Every change is one of the history. At most 10,000 rows. A file that was added
/// before, under another key, is refused unless `again` says that its units came once more.
#[utoipa::path(
    post, path = "/v1/stock/import", tag = "stock",
    params(StockFile, KeyHeader),
    request_body(content = String, content_type = "text/csv", example = json!(STOCK_CSV)),
    responses(
        (status = 200, body = FileImported, headers(("Idempotent-Replayed" = Option<bool>))),
        Errors<(kinds::ImportRefused, kinds::KeyReused)>,
    ),
    security(("operator" = []))
)]
pub async fn import_stock(
    State(ops): State<Ops>,
    operator: Operator,
    Key(key): Key,
    Params(file): Params<StockFile>,
    CsvBody(text): CsvBody<FILE_BYTES>,
) -> Result<Response, Problem> {
    let mode = match file.mode {
        Mode::Add => StockImport::Add,
        Mode::Count => StockImport::Count,
    };
    let same_file = if file.again { SameFile::Again } else { SameFile::Refused };
    let rows = import::stock(&text, mode).map_err(refused)?;
    let request = OperatorRequest { id: RequestId::new(operator.name(), &key), actor: operator.name().to_owned() };
    let now = ops.engine.clock.now();
    answer(ops.engine.ledger.import_stock(&request, &rows, mode, same_file, file.dry_run, now).await?)
}

fn answer(end: ImportEnd) -> Result<Response, Problem> {
    let body = |imported: Imported, dry_run| {
        let Imported { created, changed, unchanged } = imported;
        Json(FileImported { created, changed, unchanged, dry_run })
    };
    match end {
        ImportEnd::Done(Done::Now(imported)) => Ok(body(imported, false).into_response()),
        ImportEnd::Done(Done::Before(imported)) => {
            Ok(([(IDEMPOTENT_REPLAYED, "true")], body(imported, false)).into_response())
        }
        ImportEnd::Tried(imported) => Ok(body(imported, true).into_response()),
        ImportEnd::Refused(faults) => Err(refused(faults)),
        ImportEnd::IdReused => Err(Problem::KeyReused),
    }
}

fn refused(faults: Vec<LineFault>) -> Problem {
    let fault = |fault: LineFault| FieldProblem::new(format!("line {}, {}", fault.line, fault.column), fault.what);
    Problem::ImportRefused(faults.into_iter().map(fault).collect())
}
