//! `doorbuster draw show | seal | bundle | verify | page | reveal`: the draw of a line, for the operator and for whoever
//! doubts it.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use doorbuster_engine::domain::ids::DropName;
use doorbuster_engine::domain::line::bundle::{Bundle, Own, Proven, verify};
use doorbuster_engine::domain::line::rounds::{Facts, Outcome, in_vain, inversions};
use doorbuster_engine::flows::Engine;
use doorbuster_engine::flows::line::{NoBundle, Revealing};
use serde_json::json;

use super::Failure;
use super::output::Format;
use super::text::{count, time};
use crate::config::{BadUsage, StoresConfig};
use crate::draw_page;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub struct DrawArguments {
    #[command(subcommand)]
    command: DrawCommand,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum DrawCommand {
    /// Shows how far the draw of a drop is
    Show(OfDrop),
    /// Takes the steps that are due, where no worker does: seals the list at its time and writes its root down
    Seal(OfDrop),
    /// Writes everything that is published about a line, as one JSON document
    Bundle(BundleArguments),
    /// Checks such a document: rules, list, root, beacon, seed, ranks and every round. Needs no server and no configuration
    Verify(VerifyArguments),
    /// Writes the page that checks such a document in a browser, as one file that needs no server. The gateway has it at /draw
    Page(PageArguments),
    /// Brings what decides a draw, where the worker cannot fetch it: a round of drand, or the result that a manual draw waits for
    Reveal(RevealArguments),
}

#[derive(Debug, Args)]
struct OfDrop {
    /// The drop's name
    name: DropName,
    #[command(flatten)]
    stores: StoresConfig,
}

#[derive(Debug, Args)]
struct BundleArguments {
    #[command(flatten)]
    of: OfDrop,
    /// Writes it to a file instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct VerifyArguments {
    /// The bundle
    file: PathBuf,
    /// Also says what became of this ticket
    #[arg(long, value_name = "TICKET")]
    ticket: Option<String>,
    /// Also says what became of this entry
    #[arg(long, value_name = "ENTRY_ID", conflicts_with = "ticket")]
    entry: Option<String>,
}

#[derive(Debug, Args)]
struct PageArguments {
    /// Writes it to a file instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RevealArguments {
    #[command(flatten)]
    of: OfDrop,
    /// The beacon's round, as drand's /public/{round} says it
    #[arg(long, value_name = "FILE", conflicts_with = "result", required_unless_present = "result")]
    beacon: Option<PathBuf>,
    /// The result of a manual draw, letter by letter; it counts once two people have typed the same
    #[arg(long, value_name = "TEXT", requires = "typed_by")]
    result: Option<String>,
    /// Who types it
    #[arg(long = "as", value_name = "NAME")]
    typed_by: Option<String>,
}

pub async fn run(arguments: DrawArguments) -> Result<(), Failure> {
    let format = arguments.format;
    match arguments.command {
        DrawCommand::Show(of) => show(&super::engine(&of.stores)?, &of.name, format).await,
        DrawCommand::Seal(of) => seal(&super::engine(&of.stores)?, &of.name, format).await,
        DrawCommand::Bundle(BundleArguments { of, out }) => {
            let text = bundle_text(&super::engine(&of.stores)?, &of.name).await?;
            write(out, text)
        }
        DrawCommand::Verify(arguments) => verify_file(&arguments, format),
        DrawCommand::Page(PageArguments { out }) => write(out, draw_page::html()),
        DrawCommand::Reveal(arguments) => reveal(&arguments, format).await,
    }
}

fn write(out: Option<PathBuf>, text: String) -> Result<(), Failure> {
    match out {
        Some(file) => std::fs::write(&file, text).with_context(|| format!("{}", file.display()))?,
        None => super::print(text),
    }
    Ok(())
}

async fn show(engine: &Engine, name: &DropName, format: Format) -> Result<(), Failure> {
    let shown = engine.line_of(name).await.context("Postgres gave no answer")?;
    let (line, in_line) = shown.ok_or_else(|| anyhow!("there is no drop named {name} with a line"))?;
    let hex = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    format.answer(
        || {
            json!({
                "drop": name, "state": line.state, "in_line": in_line,
                "sealed": line.sealed.map(|sealed| json!({ "count": sealed.count, "at": sealed.at })),
                "root": line.root.map(|root| root.to_string()), "beacon_round": line.beacon_round,
                "seed": line.drawn.as_ref().map(|drawn| drawn.seed.to_string()),
                "round": line.round, "served": line.position.served, "paused": line.paused_at.is_some(),
            })
        },
        || {
            let sealed = line.sealed.map_or_else(|| "no".to_owned(), |sealed| {
                format!("{} at {}", count(u64::from(sealed.count), "entry"), time(sealed.at))
            });
            let rounds = line.round.map_or(0, |round| round + 1);
            format!(
                "{name}: the line is {}, {} in it\n  sealed: {sealed}\n  root: {}\n  round of the beacon: {}\n  seed: {}\n  \
                 rounds: {rounds}, {} decided",
                line.state.word(),
                count(u64::from(in_line), "buyer"),
                hex(line.root.map(|root| root.to_string())),
                hex(line.beacon_round.map(|round| round.to_string())),
                hex(line.drawn.as_ref().map(|drawn| drawn.seed.to_string())),
                count(u64::from(line.position.served), "rank"),
            )
        },
    );
    Ok(())
}

/// The shop promised when its list is complete: before that there is nothing to seal.
async fn seal(engine: &Engine, name: &DropName, format: Format) -> Result<(), Failure> {
    let line = engine.advance_line(name).await.context("it may have been done or not: do it again")?;
    let line = line.ok_or_else(|| anyhow!("there is no drop named {name} with a line"))?;
    if line.sealed.is_none() {
        let at = time(line.terms.seal_at);
        return Err(anyhow!("the line of {name} is {}: its list is complete at {at}", line.state).into());
    }
    show(engine, name, format).await
}

async fn bundle_text(engine: &Engine, name: &DropName) -> Result<String, Failure> {
    let bundle = engine.line_bundle(name).await.context("Postgres gave no answer")?;
    let bundle = bundle.map_err(|none| match none {
        NoBundle::NoSuchDrop => anyhow!("there is no drop named {name}"),
        NoBundle::NoLine => anyhow!("{name} has no line: nothing of it was drawn"),
        NoBundle::NotDrawn => anyhow!("{name} is not drawn yet: `doorbuster draw show {name}` says how far it is"),
    })?;
    Ok(bundle.to_text())
}

fn verify_file(arguments: &VerifyArguments, format: Format) -> Result<(), Failure> {
    let file = arguments.file.display();
    let text = std::fs::read_to_string(&arguments.file).with_context(|| format!("{file}"))?;
    let bundle: Bundle = serde_json::from_str(&text).with_context(|| format!("{file} is no bundle of a line"))?;
    let own = match (&arguments.ticket, &arguments.entry) {
        (Some(ticket), _) => Some(Own::Ticket(ticket.trim().to_owned())),
        (None, Some(entry)) => {
            let entry = entry.parse().map_err(|error| BadUsage(format!("--entry: {error}")))?;
            Some(Own::Entry(entry))
        }
        (None, None) => None,
    };
    match verify(&bundle, own.as_ref()) {
        Ok(proven) => {
            format.answer(|| as_json(&bundle, &proven), || as_text(&bundle, &proven));
            Ok(())
        }
        Err(wrong) => {
            format.answer(|| json!({ "verified": false, "wrong": wrong.to_string() }), || format!("WRONG: {wrong}"));
            Err(Failure::Ended(Exit::Refused, "the bundle does not prove what it says".to_owned()))
        }
    }
}

/// Who would still have been served by what is free.
fn waited_in_vain(proven: &Proven) -> usize {
    let mut last = (0..proven.wishes.len() as u32).map(|rank| Some(Facts::usual(rank))).collect::<Vec<_>>();
    for (facts, outcome) in proven.rounds.iter().flat_map(|round| &round.steps) {
        last[facts.rank as usize] = matches!(outcome, Outcome::PassedOver).then_some(*facts);
    }
    let standing = last.into_iter().flatten().collect::<Vec<_>>();
    in_vain(&proven.wishes, &standing, &proven.free).count()
}

fn as_json(bundle: &Bundle, proven: &Proven) -> serde_json::Value {
    json!({
        "verified": true, "drop": proven.rules.drop, "entries": bundle.count, "later": bundle.joins.len(),
        "rounds": proven.rounds.len(), "awards": proven.awards, "undecided": proven.undecided,
        "inversions": inversions(&proven.wishes, &proven.rounds).len(),
        "in_vain": waited_in_vain(proven),
        "own": proven.own.as_ref().map(|own| json!({
            "entry_id": own.entry.to_string(), "rank": own.rank,
            "award": own.award.as_ref().map(|award| json!({
                "round": award.round + 1, "sku": proven.rules.variants.get(usize::from(award.variant.0)).map(|v| &v.sku),
            })),
        })),
    })
}

fn as_text(bundle: &Bundle, proven: &Proven) -> String {
    let mut lines = vec![format!(
        "all of it follows: {} of {} sealed, {} later, {}, {}",
        count(u64::from(bundle.count), "entry"),
        proven.rules.drop,
        bundle.joins.len(),
        count(proven.rounds.len() as u64, "round"),
        count(u64::from(proven.awards), "award"),
    )];
    if let Some(own) = &proven.own {
        let award = own.award.as_ref().and_then(|award| {
            let variant = proven.rules.variants.get(usize::from(award.variant.0))?;
            Some(format!("{} in round {}", variant.sku, award.round + 1))
        });
        let award = award.unwrap_or_else(|| "nothing so far".to_owned());
        lines.push(format!("  {} has rank {} of {}: {award}", own.entry, own.rank, proven.wishes.len()));
    }
    lines.join("\n")
}

async fn reveal(arguments: &RevealArguments, format: Format) -> Result<(), Failure> {
    let engine = super::engine(&arguments.of.stores)?;
    let name = &arguments.of.name;
    let given = match (&arguments.beacon, &arguments.result, &arguments.typed_by) {
        (Some(file), ..) => {
            Revealing::Round(std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?)
        }
        (None, Some(result), Some(by)) => Revealing::Result { result: result.clone(), by: by.clone() },
        _ => return Err(BadUsage("give --beacon, or --result and --as".to_owned()).into()),
    };
    let told = engine.reveal_draw(name, &given).await.context("it may have been taken or not: do it again")?;
    let said = told.map_err(|refused| anyhow!("{name}: {refused}"))?;
    format.answer(|| json!({ "drop": name, "said": said.to_string() }), || format!("{name}: {said}"));
    Ok(())
}
