//! `doorbuster order review list | resolve | close`: payments that wait for a person, and his ways out. Each leaves his name
//! and his reason.

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use doorbuster_engine::domain::ids::OrderId;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::reconcile::Finding;
use doorbuster_engine::ledger::reviews::{Resolution, Review, ReviewResolved};
use serde_json::json;
use uuid::Uuid;

use super::Failure;
use super::output::Format;
use super::text::{Table, count, time};

/// A list is for eyes: what is older comes first, and the rest when that is done.
const LISTED: i64 = 200;

#[derive(Debug, Args)]
pub struct ReviewArguments {
    #[command(subcommand)]
    command: ReviewCommand,
}

#[derive(Debug, Subcommand)]
enum ReviewCommand {
    /// Payments that wait for a person, and disagreements with the provider that nobody has settled
    List,
    /// Ends the review of an order's payment
    Resolve(ResolveArguments),
    /// Marks a disagreement with the provider as dealt with
    Close(CloseArguments),
}

#[derive(Debug, Args)]
struct ResolveArguments {
    /// The order's id
    order: Uuid,
    /// How
    #[arg(long = "as", value_name = "WAY")]
    way: Way,
    /// Why, for its history
    #[arg(long)]
    reason: String,
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
        ReviewCommand::Resolve(resolve) => {
            let (order, why) = (OrderId(resolve.order), (by, resolve.reason.as_str()));
            let done = engine.ledger.resolve_review(order, resolve.way.into(), why, engine.clock.now()).await;
            match done.context("Postgres gave no answer: look before you do it again")? {
                ReviewResolved::Now => {
                    let way = resolve.way.to_possible_value().map(|way| way.get_name().to_owned());
                    format.answer(
                        || json!({ "order_id": order.0, "resolved_as": way }),
                        || format!("{order}: the review has ended"),
                    );
                    Ok(())
                }
                ReviewResolved::NoSuchOrder => Err(anyhow!("there is no order {order}").into()),
                ReviewResolved::NotInReview => Err(anyhow!("the payment of {order} waits for nobody").into()),
                ReviewResolved::NoIntent => {
                    Err(anyhow!("{order} has no intent that could be canceled: --as failed ends it").into())
                }
                ReviewResolved::OrderOver(status) => {
                    Err(anyhow!("{order} is {}: its money can only go back by hand", status.as_str()).into())
                }
            }
        }
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

async fn list(engine: &Engine, format: Format) -> Result<(), Failure> {
    let reviews = engine.ledger.reviews(LISTED).await.context("Postgres gave no answer")?;
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
