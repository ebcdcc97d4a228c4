//! What the demo can be told.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{ArgPredicate, PossibleValuesParser, TypedValueParser};
use doorbuster_engine::domain::drops::{Admission, WAREHOUSES_PER_PRIMARY};
use jiff::SignedDuration;

/// With a provider as slow as real ones, a sale of the other defaults would last for long.
const RATE: &str = "provider_rate";

#[derive(Debug, Clone, Args)]
pub struct DemoOptions {
    /// How buyers come to units: open (who claims first), queue or draw (they stand in line for three sizes, and rounds
    /// give the units; the demo checks the draw as anybody can)
    #[arg(long, default_value = "open", value_name = "MODE", value_parser = admission(), conflicts_with = RATE)]
    pub admission: Admission,
    /// In a line: from one round to the next. With 5s the demo of the other defaults ends within minutes
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    pub round_every: SignedDuration,
    /// In a line: from its seal to the beacon that decides the order. A real line takes 2m, so that everybody can see what
    /// was sealed
    #[arg(long, default_value = "5s", value_name = "DURATION")]
    pub reveal_after: SignedDuration,
    /// In a line: ranks that a round decides; half of the stock if left out
    #[arg(long, value_name = "RANKS")]
    pub per_round: Option<u32>,
    /// Buyers who click when the drop opens, or join its line; 2500 with --provider-rate
    #[arg(long, default_value_t = 10_000, default_value_if(RATE, ArgPredicate::IsPresent, "2500"), value_name = "N")]
    pub buyers: usize,
    /// Units for sale; 900 with --provider-rate
    #[arg(long, default_value_t = 1_000, default_value_if(RATE, ArgPredicate::IsPresent, "900"), value_name = "UNITS")]
    pub stock: u32,
    /// Virtual warehouses the stock is split over
    #[arg(long, default_value_t = WAREHOUSES_PER_PRIMARY, value_name = "N")]
    pub warehouses: u32,
    /// Units one buyer may hold; buyers ask for 1 to this many
    #[arg(long, default_value_t = 1, value_name = "UNITS")]
    pub limit: u32,
    /// Share of buyers whose card is declined, 0 to 1
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    pub decline_rate: f64,
    /// Share of the refused buyers who are patient and come back each second, 0 to 1; 0.05 with --provider-rate
    #[arg(long, default_value_t = 0.02, default_value_if(RATE, ArgPredicate::IsPresent, "0.05"), value_name = "SHARE")]
    pub patient: f64,
    /// First clicks are spread over this time; 24s with --provider-rate, otherwise 2s for each 10,000 buyers, 5s in a line
    #[arg(long, default_value_if(RATE, ArgPredicate::IsPresent, "24s"), value_name = "DURATION")]
    pub arrive_within: Option<SignedDuration>,
    /// Calls of one kind (create, confirm, cancel, read) a second that the payment provider allows: 25 is what a real one
    /// does. It makes the sale smaller, so that it ends within minutes. As fast as it can be if not given
    #[arg(long, conflicts_with = "chaos", value_name = "CALLS")]
    pub provider_rate: Option<NonZeroU32>,
    /// How long a claim waits for its order at most
    #[arg(long, default_value = "5s", value_name = "DURATION")]
    pub settle_every: SignedDuration,
    /// Decides who the buyers are and what they do
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub seed: u64,
    /// Kills Redis, worker and gateway in the middle of the sale, and cuts off the payment provider; the seed decides when
    #[arg(long)]
    pub chaos: bool,
    /// Ends after the report instead of serving on
    #[arg(long)]
    pub exit: bool,
    /// Also writes the report as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

fn admission() -> impl TypedValueParser<Value = Admission> {
    let meant = |given: String| Admission::ALL.into_iter().find(|admission| admission.as_str() == given);
    PossibleValuesParser::new(Admission::ALL.map(Admission::as_str))
        .map(move |given| meant(given).expect("one of these"))
}
