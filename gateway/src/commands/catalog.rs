//! `doorbuster product | stock | warehouse`: the catalog and what lies on shelves, without the operators' API.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use doorbuster_engine::domain::catalog::Product;
use doorbuster_engine::domain::ids::ProductId;
use doorbuster_engine::domain::imports::{ImportEnd, Imported, LineFault, SameFile, StockImport};
use doorbuster_engine::domain::requests::{Done, OperatorRequest, RequestId};
use doorbuster_engine::domain::stock::{Adjustment, Place, Stock, WarehouseCode};
use doorbuster_engine::ledger::Ledger;
use serde_json::json;
use uuid::Uuid;

use super::Failure;
use super::output::Format;
use super::progress::Bar;
use super::text::{Table, time, with_next};
use crate::config::StoresConfig;
use crate::import;
use crate::routes::admin::products::{ProductFound, StockFound};
use crate::routes::admin::stock::StockAdjustment;

/// Rows of a page at most.
const ROWS_MAX: i64 = 1000;

#[derive(Debug, Args)]
pub struct ProductArguments {
    #[command(subcommand)]
    command: ProductCommand,
    #[command(flatten)]
    stores: StoresConfig,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum ProductCommand {
    /// Lists products with their variants, in the order in which they were made
    List {
        #[command(flatten)]
        page: Page,
        /// Begins behind this product: the last one of the page before
        #[arg(long, value_name = "PRODUCT")]
        after: Option<i32>,
    },
    /// Makes and changes products from a file of CSV, all of it or nothing
    Import {
        /// product,sku,title,price_minor,currency and, if wanted, active,reservation; with a header
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        how: HowImported,
    },
}

#[derive(Debug, Args)]
pub struct StockArguments {
    #[command(subcommand)]
    command: StockCommand,
    #[command(flatten)]
    stores: StoresConfig,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum StockCommand {
    /// Shows what there is of a SKU's product, by place
    Show {
        /// One of the product's SKUs
        sku: String,
    },
    /// Lists changes of stock, of one SKU or of all, the newest first
    History {
        /// The SKU; without it, of all
        sku: Option<String>,
        #[command(flatten)]
        page: Page,
        /// Begins behind this change: the last one of the page before
        #[arg(long, value_name = "CHANGE")]
        after: Option<i64>,
    },
    /// Changes stock from a file of CSV, all of it or nothing
    Import {
        /// sku,warehouse,quantity,reason; with a header
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Whether quantities are units that came or are gone, or what was counted
        #[arg(long, value_enum, default_value_t = Mode::Add)]
        mode: Mode,
        /// Adds the quantities of a file that were added before once more
        #[arg(long)]
        again: bool,
        #[command(flatten)]
        how: HowImported,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    Add,
    Count,
}

#[derive(Debug, Args)]
struct Page {
    /// How many
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(i64).range(1..ROWS_MAX))]
    limit: i64,
}

impl Page {
    /// One more than is shown says whether there are more.
    fn asked(&self) -> i64 {
        self.limit + 1
    }

    /// What is shown, and whether there is more behind it.
    fn cut<T>(&self, rows: &mut Vec<T>) -> bool {
        let has_more = rows.len() as i64 > self.limit;
        rows.truncate(self.limit as usize);
        has_more
    }
}

#[derive(Debug, Args)]
struct HowImported {
    /// Checks the whole file, says what it would do, and changes nothing
    #[arg(long)]
    dry_run: bool,
    /// The import's id: the same one again is the same import. Made up when not given
    #[arg(long, value_name = "UUID")]
    id: Option<Uuid>,
    /// Who does it, for the history
    #[arg(long, env = "DOORBUSTER_OPERATOR", default_value = "operator", value_name = "NAME")]
    by: String,
}

#[derive(Debug, Args)]
pub struct WarehouseArguments {
    #[command(subcommand)]
    command: WarehouseCommand,
    #[command(flatten)]
    stores: StoresConfig,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum WarehouseCommand {
    /// Lists the places of ordinary stock
    List {
        #[command(flatten)]
        page: Page,
        /// Begins behind this place: the last one of the page before
        #[arg(long, value_name = "CODE")]
        after: Option<WarehouseCode>,
    },
    /// Makes a place
    Make {
        /// Its code: 1 to 32 of a-z, 0-9 and -, such as berlin
        code: WarehouseCode,
    },
}

impl HowImported {
    fn request(&self) -> OperatorRequest {
        OperatorRequest { id: RequestId(self.id.unwrap_or_else(Uuid::now_v7)), actor: self.by.clone() }
    }
}

pub async fn product(arguments: ProductArguments) -> Result<(), Failure> {
    let (mut ledger, format) = (super::ledger(&arguments.stores)?, arguments.format);
    let bar = Bar::start(format);
    ledger.progress = bar.progress();
    match arguments.command {
        ProductCommand::List { page, after } => {
            let found = ledger.products(after.map(ProductId), page.asked(), false).await;
            let mut products = found.context("the catalog cannot be read")?;
            let has_more = page.cut(&mut products);
            let next = products.last().filter(|_| has_more).map(|last| last.id.0);
            let text = || {
                let mut table = Table::new([">PRODUCT", "NAME", "RESERVED BY", "SKU", "VARIANT", ">PRICE", "STATE"]);
                for product in &products {
                    let state = |is_sold| if is_sold { "sold" } else { "not sold" };
                    let start =
                        || [product.id.0.to_string(), product.name.clone(), product.reservation.as_str().to_owned()];
                    if product.variants.is_empty() {
                        let [id, name, way] = start();
                        let none = String::new;
                        table.row([id, name, way, none(), none(), none(), state(product.is_active).to_owned()]);
                    }
                    for variant in &product.variants {
                        let ([id, name, way], is_sold) = (start(), product.is_active && variant.is_active);
                        let (sku, title) = (variant.sku.clone(), variant.title.clone());
                        table.row([id, name, way, sku, title, variant.price.to_string(), state(is_sold).to_owned()]);
                    }
                }
                with_next(&table, next.as_ref().map(|next| next as &dyn fmt::Display))
            };
            let found = |product: &Product| json!(ProductFound::from(product.clone()));
            let json = || json!({ "products": products.iter().map(found).collect::<Vec<_>>(), "next_after": next });
            format.answer(json, text);
        }
        ProductCommand::Import { file, how } => {
            let rows = import::products(&read(&file)?).map_err(|faults| told(&file, &faults))?;
            let request = how.request();
            let end = ledger.import_products(&request, &rows, how.dry_run, now()).await;
            drop(bar);
            ended(&file, &request, end.with_context(|| once_more(&request))?, format)?;
        }
    }
    Ok(())
}

pub async fn stock(arguments: StockArguments) -> Result<(), Failure> {
    let (mut ledger, format) = (super::ledger(&arguments.stores)?, arguments.format);
    let bar = Bar::start(format);
    ledger.progress = bar.progress();
    match arguments.command {
        StockCommand::Show { sku } => show(&ledger, &sku, format).await?,
        StockCommand::History { sku, page, after } => {
            let history = ledger.stock_history(sku.as_deref(), after, page.asked()).await;
            let mut history = history.context("the history cannot be read")?;
            let has_more = page.cut(&mut history);
            let next = history.last().filter(|_| has_more).map(|last| last.id);
            let cells = |entry: &Adjustment| {
                let (available, reserved) = (entry.available.to_string(), entry.reserved.to_string());
                let (change, warehouse) = (format!("{:+}", entry.delta), entry.warehouse.to_string());
                let (sku, actor, reason) = (entry.sku.clone(), entry.actor.clone(), entry.reason.clone());
                [entry.id.to_string(), time(entry.at), sku, warehouse, change, available, reserved, actor, reason]
            };
            let header = [">CHANGE", "AT", "SKU", "WAREHOUSE", ">UNITS", ">AVAILABLE", ">RESERVED", "BY", "REASON"];
            let made = |entry: &Adjustment| json!(StockAdjustment::from(entry.clone()));
            format.answer(
                || json!({ "adjustments": history.iter().map(made).collect::<Vec<_>>(), "next_after": next }),
                || {
                    let table = Table::new(header).with(&history, cells);
                    with_next(&table, next.as_ref().map(|next| next as &dyn fmt::Display))
                },
            );
        }
        StockCommand::Import { file, mode, again, how } => {
            let same_file = if again { SameFile::Again } else { SameFile::Refused };
            let mode = match mode {
                Mode::Add => StockImport::Add,
                Mode::Count => StockImport::Count,
            };
            let rows = import::stock(&read(&file)?, mode).map_err(|faults| told(&file, &faults))?;
            let request = how.request();
            let end = ledger.import_stock(&request, &rows, mode, same_file, how.dry_run, now()).await;
            drop(bar);
            ended(&file, &request, end.with_context(|| once_more(&request))?, format)?;
        }
    }
    Ok(())
}

pub async fn warehouse(arguments: WarehouseArguments) -> Result<(), Failure> {
    let (ledger, format) = (super::ledger(&arguments.stores)?, arguments.format);
    match arguments.command {
        WarehouseCommand::List { page, after } => {
            let places = ledger.warehouses(after.as_ref(), page.asked()).await;
            let mut places = places.context("the places cannot be read")?;
            let has_more = page.cut(&mut places);
            let next = places.last().filter(|_| has_more);
            let codes = places.iter().map(|code| json!({ "code": code.as_str() })).collect::<Vec<_>>();
            format.answer(
                || json!({ "warehouses": codes, "next_after": next.map(WarehouseCode::as_str) }),
                || {
                    let table = Table::new(["WAREHOUSE"]).with(&places, |code| [code.to_string()]);
                    with_next(&table, next.map(|next| next as &dyn fmt::Display))
                },
            );
        }
        WarehouseCommand::Make { code } => {
            let is_new =
                ledger.make_warehouse(&code).await.context("it is not known whether it was made: do it again")?;
            format.answer(
                || json!({ "code": code.as_str(), "is_new": is_new }),
                || format!("{code} {}", if is_new { "is made" } else { "was there already" }),
            );
        }
    }
    Ok(())
}

async fn show(ledger: &Ledger, sku: &str, format: Format) -> Result<(), Failure> {
    let variant = ledger.variant_of_sku(sku).await.context("the catalog cannot be read")?;
    let variant = variant.ok_or_else(|| anyhow!("there is no SKU {sku}"))?;
    let sale = ledger.for_sale(&[variant]).await.context("the catalog cannot be read")?;
    let product = sale.get(&variant).map(|sale| sale.product).ok_or_else(|| anyhow!("there is no SKU {sku}"))?;
    let stock = ledger.stock_of(product).await.context("the stock cannot be read")?;
    let cells = |stock: &Stock| {
        let place = match &stock.place {
            Place::Warehouse(code) => code.to_string(),
            Place::Drop(name) => format!("the drop {name}"),
        };
        [stock.sku.clone(), place, stock.available.to_string(), stock.reserved.to_string()]
    };
    let found = |stock: &Stock| json!(StockFound::from(stock.clone()));
    format.answer(
        || json!({ "stock": stock.iter().map(found).collect::<Vec<_>>() }),
        || Table::new(["SKU", "PLACE", ">AVAILABLE", ">RESERVED"]).with(&stock, cells),
    );
    Ok(())
}

/// Whatever hindered it, it may have been done: only under the same id is a second try none too many.
fn once_more(request: &OperatorRequest) -> String {
    format!("it is not known whether it was done: do it again with --id {}", request.id.0)
}

fn read(file: &Path) -> anyhow::Result<String> {
    let name = file.display();
    let bytes = std::fs::read(file).with_context(|| format!("{name} cannot be read"))?;
    String::from_utf8(bytes).map_err(|_| anyhow!("{name} is not UTF-8: spreadsheets save it so as \"CSV UTF-8\""))
}

fn now() -> jiff::Timestamp {
    doorbuster_engine::domain::clock::Clock::System.now()
}

fn ended(file: &Path, request: &OperatorRequest, end: ImportEnd, format: Format) -> anyhow::Result<()> {
    let (imported, outcome, how) = match end {
        ImportEnd::Done(Done::Now(imported)) => (imported, "done", "done"),
        ImportEnd::Done(Done::Before(imported)) => (imported, "done_before", "it was done before under this id"),
        ImportEnd::Tried(imported) => (imported, "tried", "only tried, nothing was changed"),
        ImportEnd::Refused(faults) => return Err(told(file, &faults)),
        ImportEnd::IdReused => return Err(anyhow!("this id was used for another file: take a new one")),
    };
    let Imported { created, changed, unchanged } = imported;
    format.answer(
        || {
            let id = request.id.0;
            json!({ "id": id, "outcome": outcome, "created": created, "changed": changed, "unchanged": unchanged })
        },
        || format!("{how}: {created} made, {changed} changed, {unchanged} as they were"),
    );
    Ok(())
}

fn told(file: &Path, faults: &[LineFault]) -> anyhow::Error {
    let lines = faults.iter().map(|fault| format!("\n  line {}, {}: {}", fault.line, fault.column, fault.what));
    anyhow!("nothing was changed: {} does not fit{}", file.display(), lines.collect::<String>())
}
