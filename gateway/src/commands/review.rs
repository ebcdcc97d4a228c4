//! `doorbuster order review list | resolve | close`: payments that wait for a person, and his ways out. Each leaves his name
//! and his reason.

use anyhow::{Context as _, anyhow};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use doorbuster_engine::domain::ids::{DropName, OrderId};
use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::reconcile::Finding;
use doorbuster_engine::ledger::reviews::{Resolution, Review, ReviewResolved, ReviewsOf};
use serde_json::json;
use uuid::Uuid;

use super::Failure;
use super::output::Format;
use super::text::{Table, count, time};

/// A list is for eyes: what is older comes first, and the rest when that is done.
const LISTED: i64 = 200;
/// Reviews that one command ends; the next one goes on.
const RESOLVED: i64 = 5_000;

#[derive(Debug, Args)]
pub struct ReviewArguments {
    #[command(subcommand)]
    command: ReviewCommand,
}

#[derive(Debug, Subcommand)]
enum ReviewCommand {
    /// Payments that wait for a person, and disagreements with the provider that nobody has settled
    List,
    /// Ends the review of an order's payment, or of all of a drop or of one reason
    Resolve(ResolveArguments),
    /// Marks a disagreement with the provider as dealt with
    Close(CloseArguments),
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["order", "drop", "because"])))]
struct ResolveArguments {
    /// The order's id
    order: Option<Uuid>,
    /// All payments in review of this drop
    #[arg(long, value_name = "NAME")]
    drop: Option<DropName>,
    /// All payments in review whose reason, as `list` prints it, has this text in it
    #[arg(long, value_name = "TEXT")]
    because: Option<String>,
    /// How
    #[arg(long = "as", value_name = "WAY")]
    way: Way,
    /// Why, for its history
    #[arg(long)]
    reason: String,
    /// Ends them; without it those of --drop or --because are only listed
    #[arg(long, conflicts_with = "order")]
    yes: bool,
}

#[derive(Debug, Args)]
struct CloseArguments {
    /// The finding's number
    finding: i64,
    /// How it was dealt with
    #[arg(long)]
    reason: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Way {
    /// Workers read the intent back and settle what the provider says now
    AskAgain,
    /// Workers have the provider cancel the intent; with its word the order ends and its units are on sale again
    Cancel,
    /// You have seen the money: the order is paid
    Paid,
    /// You have seen that there is none and will be none: the order ends now
    Failed,
}

impl Way {
    fn name(self) -> Option<String> {
        self.to_possible_value().map(|way| way.get_name().to_owned())
    }
}

impl From<Way> for Resolution {
    fn from(way: Way) -> Self {
        match way {
            Way::AskAgain => Self::AskAgain,
            Way::Cancel => Self::Cancel,
            Way::Paid => Self::Paid,
            Way::Failed => Self::Failed,
        }
    }
}

pub(super) async fn run(engine: &Engine, arguments: &ReviewArguments, by: &str, format: Format) -> Result<(), Failure> {
    match &arguments.command {
        ReviewCommand::List => list(engine, format).await,
        ReviewCommand::Resolve(resolve) => match (resolve.order, &resolve.drop, &resolve.because) {
            (Some(order), ..) => resolve_one(engine, OrderId(order), resolve, by, format).await,
            (None, Some(drop), _) => resolve_all(engine, &ReviewsOf::Drop(drop.clone()), resolve, by, format).await,
            (None, None, because) => {
                let text = because.clone().unwrap_or_default();
                if text.trim().is_empty() {
                    return Err(anyhow!("--because needs a text that the reasons have in them").into());
                }
                resolve_all(engine, &ReviewsOf::Reason(text), resolve, by, format).await
            }
        },
        ReviewCommand::Close(close) => {
            let why = (by, close.reason.as_str());
            let is_closed = engine.ledger.settle_finding(close.finding, why, engine.clock.now()).await;
            match is_closed.context("Postgres gave no answer: do it again")? {
                true => {
                    let json = || json!({ "finding": close.finding, "closed": true });
                    format.answer(json, || format!("finding {} is dealt with", close.finding));
                    Ok(())
                }
                false => Err(anyhow!("there is no open finding {}", close.finding).into()),
            }
        }
    }
}

async fn resolve_one(
    engine: &Engine,
    order: OrderId,
    resolve: &ResolveArguments,
    by: &str,
    format: Format,
) -> Result<(), Failure> {
    let done = resolved(engine, order, resolve, by).await?;
    if done != ReviewResolved::Now {
        return Err(anyhow!("{order}: {}", said(done)).into());
    }
    format.answer(
        || json!({ "order_id": order.0, "resolved_as": resolve.way.name() }),
        || format!("{order}: the review has ended"),
    );
    Ok(())
}

/// Ends one review after the other, each in a transaction of its own: told to again after a stop, it goes on with the rest.
async fn resolve_all(
    engine: &Engine,
    of: &ReviewsOf,
    resolve: &ResolveArguments,
    by: &str,
    format: Format,
) -> Result<(), Failure> {
    let reviews = engine.ledger.reviews(of, RESOLVED).await.context("Postgres gave no answer")?;
    let mut ended = Vec::new();
    for review in &reviews {
        let done = if resolve.yes { Some(resolved(engine, review.order, resolve, by).await?) } else { None };
        ended.push((review, done));
    }
    let outcome = |done: &Option<ReviewResolved>| done.map_or("waits for --yes", said);
    let as_json = || {
        json!({ "resolved_as": resolve.way.name(), "reviews": ended.iter().map(|(review, done)| json!({
            "order_id": review.order.0, "amount": review.amount, "reason": review.reason,
            "is_resolved": *done == Some(ReviewResolved::Now), "outcome": outcome(done),
        })).collect::<Vec<_>>() })
    };
    let count_of = |is: fn(&Option<ReviewResolved>) -> bool| ended.iter().filter(|(_, done)| is(done)).count() as u64;
    let (done, kept) = (
        count_of(|done| *done == Some(ReviewResolved::Now)),
        count_of(|done| !matches!(done, None | Some(ReviewResolved::Now | ReviewResolved::NotInReview))),
    );
    let as_text = || {
        let cells = |(review, done): &(&Review, Option<ReviewResolved>)| {
            let (order, amount) = (review.order.to_string(), review.amount.to_string());
            [order, amount, review.reason.clone(), outcome(done).to_owned()]
        };
        let table = Table::new(["ORDER", ">AMOUNT", "REASON", "OUTCOME"]).with(&ended, cells);
        let sum = format!("reviews ended: {done} of {}", count(ended.len() as u64, "payment"));
        if ended.is_empty() { sum } else { format!("{table}\n{sum}") }
    };
    format.answer(as_json, as_text);
    match (resolve.yes, kept) {
        _ if ended.is_empty() => Ok(()),
        (false, _) => {
            let payments = count(ended.len() as u64, "payment");
            Err(anyhow!("nothing was done: say --yes to end the review of {payments}").into())
        }
        (true, 0) => Ok(()),
        (true, kept) => Err(anyhow!("{} cannot be ended like this", count(kept, "review")).into()),
    }
}

async fn resolved(
    engine: &Engine,
    order: OrderId,
    resolve: &ResolveArguments,
    by: &str,
) -> Result<ReviewResolved, Failure> {
    let why = (by, resolve.reason.as_str());
    let done = engine.ledger.resolve_review(order, resolve.way.into(), why, engine.clock.now()).await;
    Ok(done.context("Postgres gave no answer: look before you do it again")?)
}

fn said(done: ReviewResolved) -> &'static str {
    match done {
        ReviewResolved::Now => "the review has ended",
        ReviewResolved::NoSuchOrder => "there is no such order",
        ReviewResolved::NotInReview => "its payment waits for nobody",
        ReviewResolved::NoIntent => "it has no intent that could be canceled: --as failed ends it",
        ReviewResolved::OrderOver(_) => "it is over: its money can only go back by hand",
    }
}

async fn list(engine: &Engine, format: Format) -> Result<(), Failure> {
    let reviews = engine.ledger.reviews(&ReviewsOf::All, LISTED).await.context("Postgres gave no answer")?;
    let findings = engine.ledger.open_findings(LISTED).await.context("Postgres gave no answer")?;
    let as_json = || {
        json!({
            "reviews": reviews.iter().map(|review| json!({
                "order_id": review.order.0, "intent": review.intent, "amount": review.amount, "reason": review.reason,
                "since": review.since,
            })).collect::<Vec<_>>(),
            "findings": findings.iter().map(|finding| json!({
                "finding": finding.number, "kind": finding.kind, "intent": finding.intent,
                "order_id": finding.order.map(|order| order.0), "detail": finding.detail, "found_at": finding.found_at,
            })).collect::<Vec<_>>(),
        })
    };
    let as_text = || {
        let mut text = String::new();
        if !reviews.is_empty() {
            let cells = |review: &Review| {
                let intent = review.intent.clone().unwrap_or_else(|| "no intent".to_owned());
                let (order, amount) = (review.order.to_string(), review.amount.to_string());
                [order, amount, intent, time(review.since), review.reason.clone()]
            };
            let table = Table::new(["ORDER", ">AMOUNT", "INTENT", "SINCE", "REASON"]).with(&reviews, cells);
            text += &format!("{table}\n");
        }
        if !findings.is_empty() {
            let cells = |finding: &Finding| {
                let (kind, about, what) = (finding.kind.clone(), finding.intent.clone(), finding.detail.clone());
                let order = finding.order.map_or_else(|| "none".to_owned(), |order| order.to_string());
                [finding.number.to_string(), kind, about, order, time(finding.found_at), what]
            };
            let table = Table::new([">FINDING", "KIND", "ABOUT", "ORDER", "FOUND", "WHAT"]).with(&findings, cells);
            text += &format!("{table}\n");
        }
        let (payments, open) = (count(reviews.len() as u64, "payment"), count(findings.len() as u64, "finding"));
        text + &format!("to be looked at by a person: {payments}, {open}")
    };
    format.answer(as_json, as_text);
    Ok(())
}
