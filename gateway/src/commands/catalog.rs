//! `doorbuster product | stock | warehouse`: the catalog and what lies on shelves, without the operators' API.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use doorbuster_engine::domain::imports::{ImportEnd, LineFault, SameFile, StockImport};
use doorbuster_engine::domain::requests::{Done, OperatorRequest, RequestId};
use doorbuster_engine::domain::stock::{Place, WarehouseCode};
use doorbuster_engine::ledger::Ledger;
use uuid::Uuid;

use super::{Failure, print};
use crate::config::StoresConfig;
use crate::import;

/// Rows printed at most.
const ROWS: i64 = 1000;

#[derive(Debug, Args)]
pub struct ProductArguments {
    #[command(subcommand)]
    command: ProductCommand,
    #[command(flatten)]
    stores: StoresConfig,
}

#[derive(Debug, Subcommand)]
enum ProductCommand {
    /// Prints the products with their variants, in the order in which they were made
    List,
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
}

#[derive(Debug, Subcommand)]
enum StockCommand {
    /// Prints what there is of a SKU's product, by place
    Show { sku: String },
    /// Prints the newest changes of stock, of one SKU or of all
    History { sku: Option<String> },
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
}

#[derive(Debug, Subcommand)]
enum WarehouseCommand {
    /// Prints the places of ordinary stock
    List,
    /// Makes one
    Make { code: WarehouseCode },
}

impl HowImported {
    fn request(&self) -> OperatorRequest {
        OperatorRequest { id: RequestId(self.id.unwrap_or_else(Uuid::now_v7)), actor: self.by.clone() }
    }
}

pub async fn product(arguments: ProductArguments) -> Result<(), Failure> {
    let ledger = super::ledger(&arguments.stores)?;
    match arguments.command {
        ProductCommand::List => {
            for product in ledger.products(None, ROWS, false).await.context("the catalog cannot be read")? {
                let state = if product.is_active { "" } else { ", not sold" };
                print(format!("{} {} ({}{state})", product.id.0, product.name, product.reservation.as_str()));
                for variant in product.variants {
                    let state = if variant.is_active { "" } else { ", not sold" };
                    print(format!("    {}  {}  {}{state}", variant.sku, variant.title, variant.price));
                }
            }
        }
        ProductCommand::Import { file, how } => {
            let rows = import::products(&read(&file)?).map_err(|faults| told(&file, &faults))?;
            let end = ledger.import_products(&how.request(), &rows, how.dry_run, now()).await;
            ended(&file, end.context("it is not known whether it was done: do it again with the same --id")?)?;
        }
    }
    Ok(())
}

pub async fn stock(arguments: StockArguments) -> Result<(), Failure> {
    let ledger = super::ledger(&arguments.stores)?;
    match arguments.command {
        StockCommand::Show { sku } => show(&ledger, &sku).await?,
        StockCommand::History { sku } => {
            let history = ledger.stock_history(sku.as_deref(), None, ROWS).await;
            for entry in history.context("the history cannot be read")? {
                print(format!(
                    "{}  {:+} {} in {} by {}: {}; {} available, {} reserved",
                    entry.at,
                    entry.delta,
                    entry.sku,
                    entry.warehouse,
                    entry.actor,
                    entry.reason,
                    entry.available,
                    entry.reserved
                ));
            }
        }
        StockCommand::Import { file, mode, again, how } => {
            let same_file = if again { SameFile::Again } else { SameFile::Refused };
            let mode = match mode {
                Mode::Add => StockImport::Add,
                Mode::Count => StockImport::Count,
            };
            let rows = import::stock(&read(&file)?, mode).map_err(|faults| told(&file, &faults))?;
            let end = ledger.import_stock(&how.request(), &rows, mode, same_file, how.dry_run, now()).await;
            ended(&file, end.context("it is not known whether it was done: do it again with the same --id")?)?;
        }
    }
    Ok(())
}

pub async fn warehouse(arguments: WarehouseArguments) -> Result<(), Failure> {
    let ledger = super::ledger(&arguments.stores)?;
    match arguments.command {
        WarehouseCommand::List => {
            let places = ledger.warehouses(None, ROWS).await.context("the places cannot be read")?;
            places.iter().for_each(print);
        }
        WarehouseCommand::Make { code } => {
            let is_new =
                ledger.make_warehouse(&code).await.context("it is not known whether it was made: do it again")?;
            print(format!("{code} {}", if is_new { "is made" } else { "was there already" }));
        }
    }
    Ok(())
}

async fn show(ledger: &Ledger, sku: &str) -> Result<(), Failure> {
    let variant = ledger.variant_of_sku(sku).await.context("the catalog cannot be read")?;
    let variant = variant.ok_or_else(|| anyhow!("there is no SKU {sku}"))?;
    let sale = ledger.for_sale(&[variant]).await.context("the catalog cannot be read")?;
    let product = sale.get(&variant).map(|sale| sale.product).ok_or_else(|| anyhow!("there is no SKU {sku}"))?;
    for stock in ledger.stock_of(product).await.context("the stock cannot be read")? {
        let place = match &stock.place {
            Place::Warehouse(code) => code.to_string(),
            Place::Drop(name) => format!("the drop {name}"),
        };
        print(format!("{}  {place}: {} available, {} of them reserved", stock.sku, stock.available, stock.reserved));
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<String> {
    let name = file.display();
    let bytes = std::fs::read(file).with_context(|| format!("{name} cannot be read"))?;
    String::from_utf8(bytes).map_err(|_| anyhow!("{name} is not UTF-8: spreadsheets save it so as \"CSV UTF-8\""))
}

fn now() -> jiff::Timestamp {
    doorbuster_engine::domain::clock::Clock::System.now()
}

fn ended(file: &Path, end: ImportEnd) -> anyhow::Result<()> {
    let (imported, how) = match end {
        ImportEnd::Done(Done::Now(imported)) => (imported, "done"),
        ImportEnd::Done(Done::Before(imported)) => (imported, "it was done before under this id"),
        ImportEnd::Tried(imported) => (imported, "only tried, nothing was changed"),
        ImportEnd::Refused(faults) => return Err(told(file, &faults)),
        ImportEnd::IdReused => return Err(anyhow!("this id was used for another file: take a new one")),
    };
    print(format!(
        "{how}: {} made, {} changed, {} as they were",
        imported.created, imported.changed, imported.unchanged
    ));
    Ok(())
}

fn told(file: &Path, faults: &[LineFault]) -> anyhow::Error {
    let lines = faults.iter().map(|fault| format!("\n  line {}, {}: {}", fault.line, fault.column, fault.what));
    anyhow!("nothing was changed: {} does not fit{}", file.display(), lines.collect::<String>())
}
