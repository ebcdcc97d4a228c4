//! What the demo can be told.

use std::path::PathBuf;

use clap::Args;
use doorbuster_engine::domain::drops::WAREHOUSES_PER_PRIMARY;
use jiff::SignedDuration;

#[derive(Debug, Clone, Args)]
pub struct DemoOptions {
    /// Buyers who click when the drop opens
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub buyers: usize,
    /// Units for sale
    #[arg(long, default_value_t = 1_000, value_name = "UNITS")]
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
