//! `doorbuster finance close | days | vat | invoice | seller | drop`: the books of a day against the provider's,
//! documents, what is owed to which country, and what one drop brought in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use doorbuster_engine::domain::countries::check_country;
use doorbuster_engine::domain::documents::{Document, DocumentLine, Month, Seller, VatRow, percent};
use doorbuster_engine::domain::fulfilment::is_plain;
use doorbuster_engine::domain::ids::{DropName, OrderId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::flows::finance::{DayReport, day_in};
use doorbuster_engine::ledger::finance::{AccountSum, BookDay};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::json;
use uuid::Uuid;

use super::Failure;
use super::order::unknown;
use super::output::Format;
use super::text::{Table, count, time};
use crate::config::{self, Secret, StoresConfig};
use crate::documents;

/// Names and lines of an address stand on a document, and are no letter.
const SELLER_CHARACTERS_MAX: usize = 200;

#[derive(Debug, Args)]
pub struct FinanceArguments {
    #[command(subcommand)]
    command: FinanceCommand,
    #[command(flatten)]
    stores: StoresConfig,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum FinanceCommand {
    /// Compares orders, journal and payment provider of a day that is over, charge by charge; books fees and payouts;
    /// numbers invoices and credit notes. May be repeated. Exit code 1 when something differs
    Close(CloseArguments),
    /// Every day since the first charge: closed, or forgotten
    Days(DaysArguments),
    /// What was sold into each country in each month and what of it was credited, by rate of VAT
    Vat(VatArguments),
    /// The invoice of an order, and its credit notes
    Invoice(InvoiceArguments),
    /// Who sells, as documents name it; without any flag it is shown
    Seller(SellerArguments),
    /// What a drop's orders brought in and gave back, by account
    Drop(DropArgument),
}

#[derive(Debug, Args)]
struct CloseArguments {
    /// The day: 2026-11-23
    #[arg(long, value_name = "DATE")]
    day: Date,
    #[command(flatten)]
    zone: ZoneArgument,
    /// The payment provider's address
    #[arg(long, env = "DOORBUSTER_PROVIDER_URL", value_name = "URL")]
    provider_url: String,
    /// The payment provider's secret key
    #[arg(long, env = "DOORBUSTER_PROVIDER_KEY", hide_env_values = true, value_name = "KEY")]
    provider_key: Secret,
    /// Also writes journal, orders, invoices and credit notes of the day to this folder
    #[arg(long, value_name = "FOLDER")]
    csv: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ZoneArgument {
    /// In which time zone days begin and end: Europe/Berlin. The first closed day decides for all of them; UTC when
    /// nobody says
    #[arg(long, env = "DOORBUSTER_TIME_ZONE", value_name = "ZONE")]
    time_zone: Option<String>,
}

#[derive(Debug, Args)]
struct DaysArguments {
    /// Only those that nobody has closed
    #[arg(long)]
    forgotten: bool,
    #[command(flatten)]
    zone: ZoneArgument,
}

#[derive(Debug, Args)]
struct VatArguments {
    /// The first month: 2026-11
    #[arg(long, value_name = "MONTH")]
    from: Month,
    /// The last month; the first one alone when not given
    #[arg(long, value_name = "MONTH")]
    to: Option<Month>,
    #[command(flatten)]
    zone: ZoneArgument,
    /// Also writes it to this file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct InvoiceArguments {
    /// The order's id
    order: Uuid,
    /// Also writes each document as a page to this folder
    #[arg(long, value_name = "FOLDER")]
    html: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct SellerArguments {
    /// The seller's name; documents that have a number keep the one of their day
    #[arg(long, requires = "country")]
    name: Option<String>,
    /// A line of their address; once for each line
    #[arg(long, value_name = "LINE", requires = "name")]
    address: Vec<String>,
    /// ISO 3166-1: DE
    #[arg(long, requires = "name")]
    country: Option<String>,
    /// Their number for VAT
    #[arg(long, value_name = "NUMBER", requires = "name")]
    tax_id: Option<String>,
    /// Who says so
    #[arg(long, env = "DOORBUSTER_OPERATOR", default_value = "operator", value_name = "NAME")]
    by: String,
}

#[derive(Debug, Args)]
struct DropArgument {
    /// The drop's name
    name: DropName,
}

pub async fn run(arguments: FinanceArguments) -> Result<(), Failure> {
    let engine = super::engine(&arguments.stores)?;
    match &arguments.command {
        FinanceCommand::Close(close) => close_day(&engine, close, arguments.format).await,
        FinanceCommand::Days(days) => show_days(&engine, days, arguments.format).await,
        FinanceCommand::Vat(vat) => report_vat(&engine, vat, arguments.format).await,
        FinanceCommand::Invoice(invoice) => show_invoice(&engine, invoice, arguments.format).await,
        FinanceCommand::Seller(seller) => say_seller(&engine, seller, arguments.format).await,
        FinanceCommand::Drop(DropArgument { name }) => show_drop(&engine, name, arguments.format).await,
    }
}

async fn zone(engine: &Engine, argument: &ZoneArgument) -> Result<TimeZone, Failure> {
    // A variable that is set to nothing says nothing.
    let asked = argument.time_zone.as_deref().filter(|zone| !zone.is_empty());
    let zone = engine.books_zone(asked).await.context("Postgres gave no answer")?;
    Ok(zone.map_err(|error| anyhow!("--time-zone (DOORBUSTER_TIME_ZONE): {error}"))?)
}

async fn close_day(engine: &Engine, arguments: &CloseArguments, format: Format) -> Result<(), Failure> {
    let provider = config::provider(&arguments.provider_url, &arguments.provider_key)?;
    let (day, zone) = (arguments.day, zone(engine, &arguments.zone).await?);
    let closed = engine.close_day(&provider, day, &zone).await.context("the day could not be compared: do it again")?;
    let name = zone.iana_name().unwrap_or("UTC");
    let report = closed.map_err(|_| anyhow!("{day} is not over yet (in {name}): close it tomorrow"))?;
    if let Some(folder) = &arguments.csv {
        export(engine, day, &zone, folder).await?;
    }
    format.answer(|| json!(report), || as_text(&report));
    match report.differences.len() as u64 {
        0 => Ok(()),
        found => Err(anyhow!("{} on {day}", count(found, "difference")).into()),
    }
}

async fn export(engine: &Engine, day: Date, zone: &TimeZone, folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).with_context(|| format!("the folder {} cannot be made", folder.display()))?;
    let tables = engine.ledger.day_tables(&day_in(day, zone)).await.context("the day cannot be read")?;
    for (table, rows) in tables {
        write_csv(&folder.join(format!("{table}-{day}.csv")), rows)?;
    }
    Ok(())
}

fn write_csv(path: &Path, rows: impl IntoIterator<Item = Vec<String>>) -> Result<(), Failure> {
    let written = (|| {
        let mut file = csv::Writer::from_path(path)?;
        for row in rows {
            file.write_record(&row)?;
        }
        file.flush().map_err(csv::Error::from)
    })();
    Ok(written.with_context(|| format!("{} cannot be written", path.display()))?)
}

async fn show_days(engine: &Engine, arguments: &DaysArguments, format: Format) -> Result<(), Failure> {
    let zone = zone(engine, &arguments.zone).await?;
    let days = engine.book_days(&zone).await.context("Postgres gave no answer")?;
    let is_shown = |day: &BookDay| !arguments.forgotten || day.closed_at.is_none();
    let forgotten = days.iter().filter(|day| day.closed_at.is_none()).count() as u64;
    let shown = days.into_iter().filter(is_shown).collect::<Vec<_>>();
    let cells = |day: &BookDay| {
        let state = if day.closed_at.is_some() { "closed" } else { "forgotten" };
        let differences = day.differences.map(|differences| differences.to_string()).unwrap_or_default();
        [day.day.to_string(), state.to_owned(), differences, day.closed_at.map(time).unwrap_or_default()]
    };
    format.answer(
        || json!({ "time_zone": zone.iana_name().unwrap_or("UTC"), "forgotten": forgotten, "days": shown }),
        || {
            let table = Table::new(["DAY", "STATE", ">DIFFERENCES", "CLOSED"]).with(&shown, cells);
            format!("{table}\n{} forgotten", count(forgotten, "day"))
        },
    );
    Ok(())
}

async fn report_vat(engine: &Engine, arguments: &VatArguments, format: Format) -> Result<(), Failure> {
    let (from, to) = (arguments.from, arguments.to.unwrap_or(arguments.from));
    if to < from {
        return Err(anyhow!("--to {to} is before --from {from}").into());
    }
    let zone = zone(engine, &arguments.zone).await?;
    let rows = engine.vat_report(from, to, &zone).await.context("the months cannot be read")?;
    if let Some(path) = &arguments.csv {
        let header = ["month", "country", "vat_rate", "invoiced_net", "invoiced_vat", "credited_net", "credited_vat"];
        let header = header.into_iter().chain(["net", "vat", "currency"]).map(str::to_owned).collect();
        write_csv(path, std::iter::once(header).chain(rows.iter().map(|row| vat_cells(row).to_vec())))?;
    }
    format.answer(
        || json!({ "time_zone": zone.iana_name().unwrap_or("UTC"), "from": from, "to": to, "rows": rows }),
        || {
            let header =
                ["MONTH", "COUNTRY", ">RATE", ">INVOICED", ">VAT", ">CREDITED", ">VAT", ">NET", ">VAT", "CURRENCY"];
            Table::new(header).with(&rows, vat_cells)
        },
    );
    Ok(())
}

fn vat_cells(row: &VatRow) -> [String; 10] {
    let country = row.country.clone().unwrap_or_else(|| "unknown".to_owned());
    let rate = percent(row.tax_basis_points);
    let [invoiced, invoiced_tax] = [row.invoiced_net, row.invoiced_tax].map(Money::decimal);
    let [credited, credited_tax] = [row.credited_net, row.credited_tax].map(Money::decimal);
    let [net, tax] = [row.net, row.tax].map(Money::decimal);
    let currency = row.net.currency.to_string();
    [row.month.to_string(), country, rate, invoiced, invoiced_tax, credited, credited_tax, net, tax, currency]
}

async fn show_invoice(engine: &Engine, arguments: &InvoiceArguments, format: Format) -> Result<(), Failure> {
    let order = OrderId(arguments.order);
    let found = engine.order_documents(order, None).await.context("Postgres gave no answer")?;
    let found = found.ok_or_else(|| unknown(order))?;
    let invoice = found.invoice.ok_or_else(|| anyhow!("{order} has not been paid: there is no invoice"))?;
    if let Some(folder) = &arguments.html {
        std::fs::create_dir_all(folder).with_context(|| format!("the folder {} cannot be made", folder.display()))?;
        for document in std::iter::once(&invoice).chain(&found.credit_notes) {
            let path = folder.join(documents::file_name(document));
            let written = std::fs::write(&path, documents::html(document));
            written.with_context(|| format!("{} cannot be written", path.display()))?;
        }
    }
    format.answer(
        || json!({ "invoice": invoice, "credit_notes": found.credit_notes }),
        || {
            let all = std::iter::once(&invoice).chain(&found.credit_notes);
            all.map(document_text).collect::<Vec<_>>().join("\n\n")
        },
    );
    Ok(())
}

fn document_text(document: &Document) -> String {
    let head = &document.head;
    let mut lines = vec![document.name()];
    if let Some(invoice) = head.invoice_number {
        lines[0] += &format!(" to invoice {invoice}");
    }
    if let Some(at) = head.reversed_at {
        lines.push(format!("  reversed {}: the refund came back", time(at)));
    }
    let seller =
        head.seller.as_ref().map_or("nobody has said (finance seller)".to_owned(), |seller| seller.name.clone());
    let buyer = head.buyer.as_ref().map_or("no name is kept".to_owned(), |buyer| buyer.name.clone());
    lines.push(format!("  seller {seller}, buyer {buyer}, goods to {}", head.country.as_deref().unwrap_or("unknown")));
    let cells = |line: &DocumentLine| {
        let quantity = if line.quantity > 0 { line.quantity.to_string() } else { "lower price".to_owned() };
        let [net, tax, total] = [line.net, line.tax, line.total].map(Money::decimal);
        [line.title.clone(), quantity, percent(line.tax_basis_points), net, tax, total, line.net.currency.to_string()]
    };
    let mut table =
        Table::new(["GOODS", ">QUANTITY", ">RATE", ">NET", ">VAT", ">TOTAL", "CURRENCY"]).with(&document.lines, cells);
    let [net, tax, total] = [document.net, document.tax, document.total].map(Money::decimal);
    table.row(["total".to_owned(), String::new(), String::new(), net, tax, total, head.currency.to_string()]);
    lines.push(table.to_string());
    lines.join("\n")
}

async fn say_seller(engine: &Engine, arguments: &SellerArguments, format: Format) -> Result<(), Failure> {
    if let (Some(name), Some(country)) = (&arguments.name, &arguments.country) {
        check_country(country).map_err(|what| anyhow!("--country {what}"))?;
        let texts = std::iter::once(name).chain(&arguments.address).chain(&arguments.tax_id);
        if let Some(wrong) = texts.into_iter().find(|text| !is_plain(text, SELLER_CHARACTERS_MAX)) {
            let rule = "control characters and spaces around it are not printed on documents";
            return Err(anyhow!("{wrong:?} is empty, longer than {SELLER_CHARACTERS_MAX} characters, or {rule}").into());
        }
        let seller = Seller {
            name: name.clone(),
            address: arguments.address.clone(),
            country: country.clone(),
            tax_id: arguments.tax_id.clone(),
        };
        let said = engine.ledger.set_seller(&seller, &arguments.by, engine.clock.now()).await;
        said.context("Postgres gave no answer: look before you do it again")?;
    }
    let seller = engine.ledger.seller().await.context("Postgres gave no answer")?;
    format.answer(
        || json!({ "seller": seller }),
        || match &seller {
            None => "nobody has said who sells: --name and --country do".to_owned(),
            Some(seller) => {
                let lines = std::iter::once(&seller.name).chain(&seller.address).chain([&seller.country]);
                let number = seller.tax_id.iter().map(|id| format!("VAT number: {id}"));
                lines.cloned().chain(number).collect::<Vec<_>>().join("\n")
            }
        },
    );
    Ok(())
}

async fn show_drop(engine: &Engine, name: &DropName, format: Format) -> Result<(), Failure> {
    let drop = engine.ledger.drop_by_name(name).await.context("Postgres gave no answer")?;
    let drop = drop.ok_or_else(|| anyhow!("there is no drop named {name}"))?;
    let counts = engine.ledger.order_counts(drop.id).await.context("Postgres gave no answer")?;
    let accounts = engine.ledger.account_sums_of_drop(drop.id).await.context("Postgres gave no answer")?;
    let orders = counts.iter().map(|(state, number)| (state.as_str(), *number)).collect::<BTreeMap<_, _>>();
    let text = || {
        let lines = orders.iter().map(|(state, number)| format!("  {} {state}\n", count(*number, "order")));
        let (units, lines) = (count(drop.stock_units(), "unit"), lines.collect::<String>());
        format!("{}: {units}\n{lines}{}", drop.name, account_table(&accounts))
    };
    format.answer(
        || json!({ "drop": drop.name, "units": drop.stock_units(), "orders": orders, "accounts": accounts }),
        text,
    );
    Ok(())
}

pub(super) fn account_table(accounts: &[AccountSum]) -> Table {
    Table::new(["ACCOUNT", ">DEBIT", ">CREDIT", ">BALANCE", "CURRENCY"]).with(accounts, |sum| {
        let minor = [sum.debit_minor, sum.credit_minor, sum.debit_minor - sum.credit_minor];
        let [debit, credit, balance] = minor.map(|minor| decimal(minor, &sum.currency));
        [sum.account.clone(), debit, credit, balance, sum.currency.clone()]
    })
}

/// An amount of the journal as a number for people.
fn decimal(minor: i64, currency: &str) -> String {
    currency.parse().map_or_else(|_| minor.to_string(), |currency| Money::new(minor, currency).decimal())
}

fn as_text(report: &DayReport) -> String {
    let documents =
        |documents: &doorbuster_engine::ledger::documents::Documents| match (documents.first, documents.last) {
            (Some(first), Some(last)) => format!("{first} to {last}"),
            _ => "none".to_owned(),
        };
    let back = match report.refunds_returned {
        0 => String::new(),
        refunds => format!(", {} that came back", count(refunds as u64, "refund")),
    };
    let mut lines = vec![
        format!(
            "{} ({}): {}, {}{back}",
            report.day,
            report.time_zone,
            count(report.charges as u64, "charge"),
            count(report.refunds as u64, "refund")
        ),
        format!("  invoices {}, credit notes {}", documents(&report.invoices), documents(&report.credit_notes)),
        account_table(&report.accounts).to_string(),
    ];
    for (currency, minor) in &report.provider_net_minor {
        let across = report.across_midnight_minor.get(currency).copied().unwrap_or_default();
        let (net, across) = (decimal(*minor, currency), decimal(across, currency));
        lines.push(format!(
            "  the provider's books: {net} {currency}, and {across} {currency} dated on another day there"
        ));
    }
    if report.strangers.count > 0 {
        let net = report
            .strangers
            .net_minor
            .iter()
            .map(|(currency, minor)| format!("{} {currency}", decimal(*minor, currency)));
        let (moved, net) = (count(report.strangers.count as u64, "movement"), net.collect::<Vec<_>>().join(", "));
        lines.push(format!("  others on the same account: {moved} over {net}, in no other figure"));
    }
    lines.extend(report.differences.iter().map(|difference| format!("  ✗ {}: {}", difference.rule, difference.detail)));
    lines.push(count(report.differences.len() as u64, "difference"));
    lines.join("\n")
}
