//! `doorbuster drop create | update | delete | open | pause | resume | restock | rebuild | close | drain | archive |
//! list | show | watch`.

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use doorbuster_engine::domain::claims::Acknowledgement;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::countries::Country;
use doorbuster_engine::domain::drops::{DropState, NewDrop, NewVariant, PayTerms, SaleDrop, WAREHOUSES_PER_PRIMARY};
use doorbuster_engine::domain::ids::{DropName, RestockId};
use doorbuster_engine::domain::line::changes::LineChange;
use doorbuster_engine::domain::money::Currency;
use doorbuster_engine::domain::pricing::Totals;
use doorbuster_engine::flows::open_drop::{DropRefused, LeftToDo, Moved, known_within};
use doorbuster_engine::flows::{Engine, EngineError};
use doorbuster_engine::ledger::reconcile::ChargeBacklog;
use doorbuster_engine::provider::RateLimit;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Failure;
use super::drop_draft::UpdateArguments;
use super::drop_figures::{self, ListArguments, WatchArguments};
use super::drop_line::LineArguments;
use super::output::Format;
use super::progress::Bar;
use super::text::{Table, count, instant, one_of, time, time_or_by_hand};
use crate::config::{BadUsage, StoresConfig};

/// How long an order waits for a payment method when nothing else is said.
const KEPT_FOR: SignedDuration = SignedDuration::from_hours(24);

const DRAIN_LOOKS_EVERY: std::time::Duration = std::time::Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct DropArguments {
    #[command(subcommand)]
    command: DropCommand,
    #[command(flatten)]
    stores: StoresConfig,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum DropCommand {
    /// Makes a drop; nothing is sold before it is opened
    Create(Box<CreateArguments>),
    /// Changes a drop that is still a draft; its stock and warehouses stay
    Update(Box<UpdateArguments>),
    /// Deletes a drop that is still a draft, with all that was made for it
    Delete(NameArgument),
    /// Loads the stock into Redis and opens the sale; may be repeated
    Open(NameArgument),
    /// Takes no new claims for now, or holds no rounds of its line; everything else goes on
    Pause(PauseArguments),
    /// Takes claims again, or holds rounds again
    Resume(NameArgument),
    /// Tells those who wait in its line something, or lets its rounds decide more ranks
    Line(LineChangeArguments),
    /// Adds units to an open or paused drop, once for each --id
    Restock(RestockArguments),
    /// Fills Redis anew from Postgres; workers do it by themselves when Redis may have forgotten something
    Rebuild(NameArgument),
    /// Ends the sale; what was claimed stays claimed
    Close(NameArgument),
    /// Closes, then waits until every claim is settled and every order paid or released; needs running workers
    Drain(NameArgument),
    /// Takes a closed and drained drop out of Redis; what was sold stays in Postgres
    Archive(NameArgument),
    /// Lists drops, newest first
    List(ListArguments),
    /// Shows a drop: its terms, the units left of each variant, its orders and its money
    Show(NameArgument),
    /// Shows the units of a drop every second, until Ctrl-C
    Watch(WatchArguments),
}

#[derive(Debug, Args)]
struct NameArgument {
    /// The drop's name
    name: DropName,
}

#[derive(Debug, Args)]
struct PauseArguments {
    /// The drop's name
    name: DropName,
    /// What the board of its line says meanwhile: one line of at most 280 characters
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,
}

#[derive(Debug, Args)]
#[group(id = "change", required = true, multiple = true, args = ["message", "no_message", "per_round"])]
struct LineChangeArguments {
    /// The drop's name
    name: DropName,
    /// What its board says to everybody: one line of at most 280 characters
    #[arg(long, value_name = "TEXT", conflicts_with = "no_message")]
    message: Option<String>,
    /// Takes that back
    #[arg(long)]
    no_message: bool,
    /// Ranks that a round decides from the next one on. It may only rise: buyers were promised no fewer
    #[arg(long, value_name = "RANKS")]
    per_round: Option<u32>,
}

#[derive(Debug, Args)]
struct RestockArguments {
    /// The drop's name
    name: DropName,
    /// The variant, by its SKU
    #[arg(long, value_name = "SKU")]
    sku: String,
    /// Units to add
    #[arg(long, value_name = "UNITS", value_parser = clap::value_parser!(u32).range(1..))]
    units: u32,
    /// Names this restock: repeated with the same one, it adds nothing; a new one is made and printed if left out
    #[arg(long, value_name = "UUID")]
    id: Option<Uuid>,
}

#[derive(Debug, Args)]
struct CreateArguments {
    /// The drop's name, as in /v1/drops/{name}: 1 to 32 of a-z, 0-9 and -
    #[arg(long)]
    name: DropName,
    /// The product's name, for people
    #[arg(long)]
    product: String,
    /// ISO 4217
    #[arg(long, default_value = "EUR")]
    currency: Currency,
    /// Price of a unit in the currency's smallest unit, for variants without a price of their own
    #[arg(long, value_name = "AMOUNT")]
    price_minor: Option<i64>,
    /// Units, for a drop with one variant, whose SKU is the drop's name
    #[arg(long, value_name = "UNITS", conflicts_with = "variant", required_unless_present = "variant")]
    stock: Option<u32>,
    /// A variant as SKU=STOCK or SKU=STOCK@PRICE_MINOR; once for each
    #[arg(long, value_name = "VARIANT")]
    variant: Vec<String>,
    /// Units a buyer may hold
    #[arg(long, default_value_t = 1, value_name = "UNITS")]
    limit: u32,
    /// Virtual warehouses the stock is split over; 2 for each primary of Redis if left out
    #[arg(long, value_name = "N")]
    warehouses: Option<u32>,
    /// Tax on the goods in every country: 1900 is 19 %. Without this and --shipping-minor the drop takes the shop's
    /// rates by country when it opens
    #[arg(long, value_name = "BASIS_POINTS")]
    tax_basis_points: Option<u32>,
    /// Shipping of one order to every country, before tax, in the currency's smallest unit
    #[arg(long, value_name = "AMOUNT")]
    shipping_minor: Option<i64>,
    /// The prices include the tax on the goods
    #[arg(long)]
    price_includes_tax: bool,
    /// When workers open it (RFC 3339); by hand if left out
    #[arg(long, value_name = "TIME", value_parser = instant)]
    opens_at: Option<Timestamp>,
    /// When workers close it (RFC 3339); by hand if left out
    #[arg(long, value_name = "TIME", value_parser = instant)]
    closes_at: Option<Timestamp>,
    /// Until when an order waits for a payment method (RFC 3339); if left out, 24 hours after the drop closes, or opens, or is
    /// made
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pay_by: Option<Timestamp>,
    /// How long an order waits for its payment, but never past --pay-by
    #[arg(long, value_name = "DURATION", default_value = "30m")]
    pay_within: SignedDuration,
    /// How long an order whose card was declined waits for another one; 0s ends it at once
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    decline_grace: SignedDuration,
    /// When a buyer is told that units are theirs: accepted (on Redis' disk), replicated (on all its replicas too) or settled
    /// (committed in Postgres)
    #[arg(long, default_value = "accepted", value_name = "LEVEL", value_parser = one_of(Acknowledgement::ALL, Acknowledgement::as_str))]
    acknowledgement: Acknowledgement,
    /// For --acknowledgement replicated: how many replicas each Redis primary has; all are waited for
    #[arg(long, default_value_t = 0, value_name = "N")]
    replicas: u8,
    #[command(flatten)]
    line: LineArguments,
}

pub async fn run(arguments: DropArguments) -> Result<(), Failure> {
    let new = match &arguments.command {
        DropCommand::Create(create) => Some(create.new_drop()?),
        _ => None,
    };
    let mut engine = super::engine(&arguments.stores)?;
    let bar = Bar::start(arguments.format);
    engine.ledger.progress = bar.progress();
    let mut restocked = None;
    let (name, done) = match arguments.command {
        DropCommand::Create(create) => {
            let mut new = new.expect("made above for this command");
            if create.warehouses.is_none() {
                let usual = engine.usual_warehouses().await;
                new.warehouses = usual.context("nobody knows how many primaries Redis has: name --warehouses")?;
            }
            (new.name.clone(), engine.create_drop(&new, rand::random()).await)
        }
        DropCommand::Open(NameArgument { name }) => (name.clone(), known(engine.open_drop(&name).await).await),
        DropCommand::Pause(PauseArguments { name, message: None }) => {
            (name.clone(), known(engine.pause_drop(&name).await).await)
        }
        DropCommand::Pause(PauseArguments { name, message }) => {
            let said = LineChange { message: Some(message), per_round: None };
            let done = match engine.change_line(&name, &said).await {
                Ok(Ok(_)) => engine.pause_drop(&name).await,
                refused => refused,
            };
            (name, done)
        }
        DropCommand::Line(LineChangeArguments { name, message, no_message, per_round }) => {
            let message = if no_message { Some(None) } else { message.map(Some) };
            (name.clone(), engine.change_line(&name, &LineChange { message, per_round }).await)
        }
        DropCommand::Resume(NameArgument { name }) => (name.clone(), engine.resume_drop(&name).await),
        DropCommand::Restock(restock) => {
            let (done, line) = restock.run(&engine).await?;
            restocked = Some(line);
            (restock.name, Ok(done))
        }
        DropCommand::Rebuild(NameArgument { name }) => (name.clone(), engine.rebuild_drop(&name).await),
        DropCommand::Close(NameArgument { name }) => (name.clone(), known(engine.close_drop(&name).await).await),
        DropCommand::Drain(NameArgument { name }) => (name.clone(), drain(&engine, &name).await),
        DropCommand::Archive(NameArgument { name }) => (name.clone(), engine.archive_drop(&name).await),
        DropCommand::Update(update) => {
            (update.name.clone(), engine.update_draft(&update.name, &update.change()?).await)
        }
        DropCommand::Delete(NameArgument { name }) => return delete(&engine, &name, arguments.format).await,
        DropCommand::List(list) => return drop_figures::list(&engine, &list, arguments.format).await,
        DropCommand::Show(NameArgument { name }) => return show(&engine, &name, arguments.format).await,
        DropCommand::Watch(watch) => return drop_figures::watch(&engine, &watch, arguments.format.is_json()).await,
    };
    drop(bar);
    let drop = done.context("it could not be done")?.map_err(|refused| anyhow!(what_to_do(&name, &refused)))?;
    let waiting = Waiting::read(&engine, &drop).await?;
    arguments.format.answer(
        || {
            let mut shown = as_json(&drop);
            shown["waiting"] = waiting.as_json();
            if let Some(restocked) = &restocked {
                shown["restock"] = json!({ "id": restocked.id.0, "is_new": restocked.is_new });
            }
            shown
        },
        || {
            let parts = [Some(as_text(&drop)), restocked.as_ref().map(RestockDone::as_text)];
            text_of(parts.into_iter().flatten().chain(waiting.lines()).chain(what_is_next(&drop)))
        },
    );
    Ok(())
}

fn text_of(lines: impl Iterator<Item = String>) -> String {
    lines.collect::<Vec<_>>().join("\n")
}

async fn show(engine: &Engine, name: &DropName, format: Format) -> Result<(), Failure> {
    let found = engine.drop_figures(name).await.context("nobody knows how it stands")?;
    let figures = found.ok_or_else(|| anyhow!(what_to_do(name, &DropRefused::Unknown)))?;
    let drop = &figures.drop;
    let account = engine.drop_account(drop).await.context("Postgres gave no answer")?;
    let waiting = Waiting::read(engine, drop).await?;
    format.answer(
        || {
            let mut shown = as_json(drop);
            let units = drop_figures::figures_as_json(&figures);
            (shown["units"], shown["unread"], shown["at"]) =
                (units["variants"].clone(), units["unread"].clone(), units["at"].clone());
            shown["account"] = drop_figures::account_as_json(&account);
            shown["waiting"] = waiting.as_json();
            shown
        },
        || {
            let account = (drop.state != DropState::Draft).then(|| drop_figures::account_as_text(&account));
            let prices = Some(prices_as_text(drop));
            let parts = [Some(terms_as_text(drop)), prices, Some(drop_figures::units_as_text(&figures)), account];
            text_of(parts.into_iter().flatten().chain(waiting.lines()).chain(what_is_next(drop)))
        },
    );
    Ok(())
}

async fn delete(engine: &Engine, name: &DropName, format: Format) -> Result<(), Failure> {
    let deleted = engine.delete_draft(name).await.context("it may have been deleted or not: do it again")?;
    deleted.map_err(|refused| anyhow!(what_to_do(name, &refused)))?;
    format.answer(|| json!({ "deleted": name }), || format!("{name} is deleted"));
    Ok(())
}

/// Who waits: buyers for units of a drop, and the orders of all drops for their charges.
struct Waiting {
    standby: Vec<(String, u64)>,
    to_charge: ChargeBacklog,
}

impl Waiting {
    async fn read(engine: &Engine, drop: &SaleDrop) -> Result<Self, Failure> {
        let standby = engine.ledger.standby_lines(drop.id).await.context("Postgres gave no answer")?;
        let sku = |variant| drop.variant(variant).map_or_else(String::new, |variant| variant.sku.clone());
        let standby = standby.into_iter().map(|(variant, buyers)| (sku(variant), buyers)).collect();
        let to_charge = engine.ledger.charge_backlog().await.context("Postgres gave no answer")?;
        Ok(Self { standby, to_charge })
    }

    fn as_json(&self) -> Value {
        let standby = self.standby.iter().map(|(sku, buyers)| json!({ "sku": sku, "buyers": buyers }));
        json!({ "standby": standby.collect::<Vec<_>>(), "orders_to_charge_of_all_drops": self.to_charge.orders() })
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        let standby = self.standby.iter();
        let standby = standby.map(|(sku, buyers)| format!("  in standby for {sku}: {}", count(*buyers, "buyer")));
        let to_charge = (self.to_charge.orders() > 0).then(|| {
            let RateLimit { per_second, .. } = RateLimit::default();
            let orders = count(self.to_charge.orders().unsigned_abs(), "order");
            let seconds = self.to_charge.seconds_at(per_second).ceil();
            format!("  to be charged, of all drops: {orders}, {seconds} s at {per_second} calls a second")
        });
        standby.chain(to_charge)
    }
}

fn what_is_next(drop: &SaleDrop) -> Option<String> {
    let is_next = drop.state == DropState::Draft && !drop.admission.has_line();
    is_next.then(|| format!("next: doorbuster drop open {}", drop.name))
}

/// What is said of a restock beside the drop as it is now.
struct RestockDone {
    id: RestockId,
    is_new: bool,
}

impl RestockArguments {
    async fn run(&self, engine: &Engine) -> Result<(Moved, RestockDone), Failure> {
        let id = RestockId(self.id.unwrap_or_else(Uuid::now_v7));
        // Whatever hindered it, it may have been done: only under the same id is a second try none too many.
        let again = || format!("the restock may have been done or not: repeat it with --id {}", id.0);
        let done = engine.restock_drop(&self.name, id, &self.sku, self.units).await.with_context(again)?;
        let is_new = done.as_ref().is_ok_and(|restocked| restocked.is_new);
        Ok((done.map(|restocked| restocked.drop), RestockDone { id, is_new }))
    }
}

impl RestockDone {
    fn as_text(&self) -> String {
        match self.is_new {
            true => format!("restock {} is done", self.id.0),
            false => format!("restock {} was already done: nothing was added", self.id.0),
        }
    }
}

/// Waits until every gateway answers clicks as the drop is now, if it was moved.
async fn known(moved: Result<Moved, EngineError>) -> Result<Moved, EngineError> {
    if let Ok(Ok(drop)) = &moved {
        tokio::time::sleep(known_within(drop.state)).await;
    }
    moved
}

/// Closes the drop and waits until nothing of it is on its way. Ctrl-C ends the waiting, not the drain.
async fn drain(engine: &Engine, name: &DropName) -> Result<Moved, EngineError> {
    let drop = match engine.close_drop(name).await? {
        Ok(drop) => drop,
        refused => return Ok(refused),
    };
    let mut last = None;
    loop {
        let left = engine.left_to_do(&drop).await?;
        if left == LeftToDo::default() {
            return Ok(Ok(drop));
        }
        if last != Some(left) {
            tracing::info!("{}", what_is_left(&left));
            last = Some(left);
        }
        tokio::time::sleep(DRAIN_LOOKS_EVERY).await;
    }
}

fn what_is_left(left: &LeftToDo) -> String {
    format!(
        "{} to settle, {} that cannot be read, {} set aside (doorbuster settlement show), {} to pay or release, {} on \
         their way, {} at rest",
        count(left.unsettled_claims, "claim"),
        count(left.unread_warehouses, "warehouse"),
        count(left.poisoned_claims, "claim"),
        count(left.unpaid_orders, "order"),
        count(left.pending_grants, "grant"),
        count(left.resting_units, "unit"),
    )
}

impl CreateArguments {
    fn new_drop(&self) -> Result<NewDrop, BadUsage> {
        let price = self.price_minor;
        let variants = match self.stock {
            Some(stock_units) => vec![variant(self.name.as_str(), stock_units, price)?],
            None => self.variant.iter().map(|text| parse_variant(text, price)).collect::<Result<_, _>>()?,
        };
        let kept_from = self.closes_at.or(self.opens_at).unwrap_or(Clock::System.now());
        Ok(NewDrop {
            name: self.name.clone(),
            product_name: self.product.clone(),
            currency: self.currency,
            variants,
            buyer_limit: self.limit,
            warehouses: self.warehouses.unwrap_or(WAREHOUSES_PER_PRIMARY),
            tax_basis_points: self.tax_basis_points.unwrap_or(0),
            shipping_minor: self.shipping_minor.unwrap_or(0),
            rates_of_shop: self.tax_basis_points.is_none() && self.shipping_minor.is_none(),
            price_includes_tax: self.price_includes_tax,
            opens_at: self.opens_at,
            closes_at: self.closes_at,
            pay_by: self.pay_by.unwrap_or(kept_from.checked_add(KEPT_FOR).unwrap_or(kept_from)),
            pay_terms: PayTerms { within: Some(self.pay_within), decline_grace: self.decline_grace },
            acknowledgement: self.acknowledgement,
            replicas: self.replicas,
            line: self.line.new_line(self.opens_at, self.stock_units())?,
        })
    }
}

impl CreateArguments {
    /// Of all variants, as far as they can be read.
    fn stock_units(&self) -> u32 {
        let of_variant = |text: &String| parse_variant(text, Some(0)).map_or(0, |variant| variant.stock_units);
        self.stock.unwrap_or_else(|| self.variant.iter().map(of_variant).sum())
    }
}

/// `SKU=STOCK` or `SKU=STOCK@PRICE_MINOR`. A SKU may hold `=` itself, a number may not.
fn parse_variant(text: &str, default_price: Option<i64>) -> Result<NewVariant, BadUsage> {
    let bad =
        || BadUsage(format!("--variant {text:?} is not SKU=STOCK or SKU=STOCK@PRICE_MINOR, such as shoe-42=100@14900"));
    let (sku, rest) = text.rsplit_once('=').ok_or_else(bad)?;
    let (stock, price) = match rest.split_once('@') {
        Some((stock, price)) => (stock, Some(price.parse().map_err(|_| bad())?)),
        None => (rest, default_price),
    };
    variant(sku, stock.parse().map_err(|_| bad())?, price)
}

fn variant(sku: &str, stock_units: u32, price_minor: Option<i64>) -> Result<NewVariant, BadUsage> {
    let price_minor = price_minor
        .ok_or_else(|| BadUsage(format!("{sku} has no price: give --price-minor, or SKU=STOCK@PRICE_MINOR")))?;
    Ok(NewVariant { sku: sku.to_owned(), title: sku.to_owned(), price_minor, stock_units })
}

fn what_to_do(name: &DropName, refused: &DropRefused) -> String {
    match refused {
        DropRefused::Invalid(invalid) => format!("the drop cannot be made: {invalid}"),
        DropRefused::Uneven(why) => format!("{name} cannot be opened: {why}"),
        DropRefused::NameTaken => format!("there is a drop named {name} already: choose another --name"),
        DropRefused::SkuTaken(sku) => {
            format!(
                "the SKU {sku} belongs to another product or currency: choose another, or the same --product and --currency"
            )
        }
        DropRefused::Unknown => {
            format!("there is no drop named {name}: make it with `doorbuster drop create --name {name}`")
        }
        DropRefused::UnknownSku(sku) => {
            format!("{name} has no variant {sku}: `doorbuster drop show {name}` lists them")
        }
        DropRefused::RestockDiffers(id) => {
            format!(
                "{} is the id of another restock, of other units or of another drop: nothing was added; for a new restock \
                 leave out --id",
                id.0
            )
        }
        DropRefused::Configuration(problems) => {
            format!("{name} is not opened, for claims or orders could be lost: {}", problems.join("; "))
        }
        DropRefused::NotDrained(left) => {
            format!("{name} is not over: {}; `doorbuster drop drain {name}` waits for it", what_is_left(left))
        }
        DropRefused::NoDraft(state) => {
            format!("{name} is {}: only a draft can be changed or deleted, and nothing was", state.as_str())
        }
        DropRefused::HasLine => {
            format!("{name} has a line: workers open it by the clock, and rounds begin at its opening")
        }
        DropRefused::NoLine => format!("{name} has no line: its buyers claim"),
        DropRefused::Line(refused) => format!("{name} stays as it is: {refused}"),
        DropRefused::InUse => {
            format!("{name} is a draft that orders or checkouts name: it stays, so that these can be read")
        }
        DropRefused::State(DropState::Archived) => format!("{name} is archived: make a new drop"),
        DropRefused::State(DropState::Closed) => {
            format!("{name} is closed, and a closed drop stays closed: make a new one")
        }
        DropRefused::State(DropState::Lining) => {
            format!("the buyers of {name} stand in line: workers move it on by the clock")
        }
        DropRefused::State(DropState::Draft) => format!("{name} is not open: `doorbuster drop open {name}` opens it"),
        DropRefused::State(state) => format!("{name} is {}: wait until that is over", state.as_str()),
    }
}

fn as_json(drop: &SaleDrop) -> Value {
    json!({
        "name": drop.name,
        "product": drop.product_name,
        "state": drop.state,
        "currency": drop.currency,
        "admission": drop.admission,
        "limit": drop.buyer_limit,
        "warehouses": drop.warehouses.len(),
        "tax_basis_points": drop.tax_basis_points,
        "shipping": drop.shipping,
        "rates_of_shop": drop.rates_of_shop,
        "price_includes_tax": drop.terms.price_includes_tax,
        "prices": prices(drop).into_iter().map(|price| json!({
            "country": price.country.map_or("*".to_owned(), |country| country.to_string()),
            "sku": price.sku,
            "subtotal": price.totals.subtotal,
            "tax": price.totals.tax,
            "shipping": price.totals.shipping,
            "total": price.totals.total,
        })).collect::<Vec<_>>(),
        "opens_at": drop.opens_at,
        "closes_at": drop.closes_at,
        "pay_by": drop.pay_by,
        "pay_within_seconds": drop.pay_terms.within.map(|within| within.as_secs()),
        "decline_grace_seconds": drop.pay_terms.decline_grace.as_secs(),
        "acknowledgement": drop.acknowledgement,
        "replicas": drop.replicas,
        "variants": drop.variants.iter().map(|variant| json!({
            "sku": variant.sku,
            "title": variant.title,
            "price": variant.price,
            "stock_units": variant.stock_units,
        })).collect::<Vec<_>>(),
    })
}

fn as_text(drop: &SaleDrop) -> String {
    let mut table = Table::new(["SKU", ">PRICE", ">UNITS"]);
    for variant in &drop.variants {
        table.row([variant.sku.clone(), variant.price.to_string(), variant.stock_units.to_string()]);
    }
    format!("{}\n{table}", terms_as_text(drop))
}

/// What one unit of a variant costs in a country. `None`: in every one that has no line of its own.
struct PriceLine<'a> {
    country: Option<Country>,
    sku: &'a str,
    totals: Totals,
}

fn prices(drop: &SaleDrop) -> Vec<PriceLine<'_>> {
    let rows = drop.terms.rates.rows();
    let lines = rows.flat_map(|(country, rate)| {
        drop.variants.iter().filter_map(move |variant| {
            let totals = drop.terms.totals_at(rate, variant.price, 1).ok()?;
            Some(PriceLine { country, sku: &variant.sku, totals })
        })
    });
    lines.collect()
}

fn prices_as_text(drop: &SaleDrop) -> String {
    let mut table = Table::new(["COUNTRY", "SKU", ">GOODS", ">TAX", ">SHIPPING", ">ONE UNIT"]);
    for PriceLine { country, sku, totals } in prices(drop) {
        let country = match (country, drop.terms.rates.countries().next()) {
            (Some(country), _) => country.to_string(),
            (None, None) => "every one".to_owned(),
            (None, Some(_)) => "all others".to_owned(),
        };
        let Totals { subtotal, tax, shipping, total } = totals;
        let amounts = [subtotal, tax, shipping, total].map(|amount| amount.to_string());
        let [subtotal, tax, shipping, total] = amounts;
        table.row([country, sku.to_owned(), subtotal, tax, shipping, total]);
    }
    table.to_string()
}

fn rates_as_text(drop: &SaleDrop) -> String {
    let tax = if drop.terms.price_includes_tax { "include tax" } else { "are before tax" };
    let rates = match (drop.rates_of_shop, drop.state) {
        (false, _) => "its own rates, the same in every country",
        (true, DropState::Draft) => "the shop's rates, as they will be when it opens; below as they are now",
        (true, _) => "the shop's rates, as they were when it opened",
    };
    format!("  prices {tax}; {rates}")
}

fn terms_as_text(drop: &SaleDrop) -> String {
    let (opens, closes) = (time_or_by_hand(drop.opens_at), time_or_by_hand(drop.closes_at));
    [
        format!("{}  {}  {}", drop.name, drop.state.as_str(), drop.product_name),
        format!(
            "  {} in {}, at most {} a buyer",
            count(drop.stock_units(), "unit"),
            count(drop.warehouses.len() as u64, "warehouse"),
            drop.buyer_limit
        ),
        format!("  buyers are answered when their claims are {}", answered_when(drop)),
        format!("  opens {opens}, closes {closes}, pay by {}", time(drop.pay_by)),
        format!("  an order is paid {}, and {}", paid_within(drop), after_a_decline(drop)),
        rates_as_text(drop),
    ]
    .join("\n")
}

fn paid_within(drop: &SaleDrop) -> String {
    drop.pay_terms.within.map_or("by then".to_owned(), |within| format!("within {within:#} of being made"))
}

fn after_a_decline(drop: &SaleDrop) -> String {
    match drop.pay_terms.decline_grace {
        grace if grace.is_zero() => "ends when its card is declined".to_owned(),
        grace => format!("waits {grace:#} for another card when one is declined"),
    }
}

fn answered_when(drop: &SaleDrop) -> String {
    match (drop.acknowledgement, drop.replicas) {
        (Acknowledgement::Accepted, _) => "on the disk of Redis".to_owned(),
        (Acknowledgement::Replicated, 1) => "on the replica of Redis too".to_owned(),
        (Acknowledgement::Replicated, replicas) => format!("on all {replicas} replicas of Redis too"),
        (Acknowledgement::Settled, _) => "orders in Postgres".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_read_from_their_short_form() {
        let read = |text, price| parse_variant(text, price).map(|v| (v.sku, v.stock_units, v.price_minor)).ok();
        assert_eq!(read("shoe-42=100@14900", None), Some(("shoe-42".to_owned(), 100, 14_900)));
        assert_eq!(read("shoe-42=100", Some(5)), Some(("shoe-42".to_owned(), 100, 5)));
        assert_eq!(read("a=b=1", Some(5)), Some(("a=b".to_owned(), 1, 5)));
        for bad in ["shoe", "shoe=", "shoe=x", "shoe=1@", "shoe=1@x", "shoe=-1", "shoe=1"] {
            assert_eq!(read(bad, None), None, "{bad}");
        }
    }
}
