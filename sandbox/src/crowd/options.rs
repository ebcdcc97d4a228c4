//! Who comes to a rush, when, and how they behave.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::CrowdError;

/// Makes a bearer token for a buyer id. Called once a request, so that no token grows too old.
pub type Mint = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Who comes, when, and how they behave.
#[derive(Clone)]
pub struct CrowdOptions {
    /// Where the gateway listens, as `http://127.0.0.1:8080`.
    pub base_url: String,
    pub drop: String,
    /// Each buyer wants one of these, chosen by the seed.
    pub skus: Vec<String>,
    pub mint: Mint,
    pub buyers: usize,
    /// The same seed makes the same buyers with the same requests, keys included: in one drop they are replays.
    pub seed: u64,
    /// Each buyer asks for 1 to this many units.
    pub quantity_max: u32,
    /// The share of buyers who send their request a second time, under the same key, at once or right afterwards.
    pub double_click_rate: f64,
    /// Exactly this share of the buyers, rounded, pays with a card that will be declined.
    pub decline_rate: f64,
    /// First clicks are spread over this time.
    pub arrive_within: Duration,
    /// The bound on requests under way, and so on connections.
    pub connections: usize,
    /// The share of buyers who come back, with the same key, when they were refused for want of stock or came too early.
    pub patient_rate: f64,
    /// How long the patient ones keep coming back, counted from their arrival.
    pub patience: Duration,
    /// How long they stay away in between, give or take a half.
    pub return_after: Duration,
    /// How often one click is sent while the answer is "try again" or does not come; see `shop.rs` for the waits.
    pub tries_max: u32,
    /// After this long without an answer the outcome is unknown, and the same key is sent again.
    pub answer_timeout: Duration,
    /// Ends a rush early: nobody starts anything new, and what is under way is answered.
    pub stop: CancellationToken,
}

impl CrowdOptions {
    /// A thousand impatient buyers of one unit each, all within a second, none of whom clicks twice or cannot pay.
    pub fn new(base_url: impl Into<String>, drop: impl Into<String>, skus: Vec<String>, mint: Mint) -> Self {
        Self {
            base_url: base_url.into(),
            drop: drop.into(),
            skus,
            mint,
            buyers: 1_000,
            seed: 1,
            quantity_max: 1,
            double_click_rate: 0.0,
            decline_rate: 0.0,
            arrive_within: Duration::from_secs(1),
            connections: 64,
            patient_rate: 0.0,
            patience: Duration::from_secs(30),
            return_after: Duration::from_secs(1),
            tries_max: 10,
            answer_timeout: Duration::from_secs(10),
            stop: CancellationToken::new(),
        }
    }

    pub(super) fn check(&self) -> Result<(), CrowdError> {
        let rates = [self.double_click_rate, self.decline_rate, self.patient_rate];
        let demands = [
            (!self.skus.is_empty(), "a crowd needs at least one SKU to want"),
            (self.quantity_max > 0, "buyers ask for at least one unit"),
            (self.connections > 0, "a crowd needs at least one connection"),
            (self.tries_max > 0, "a click is sent at least once"),
            (rates.iter().all(|rate| (0.0..=1.0).contains(rate)), "rates are between 0 and 1"),
        ];
        match demands.into_iter().find(|(is_met, _)| !is_met) {
            Some((_, demand)) => Err(CrowdError::Options(demand)),
            None => Ok(()),
        }
    }
}
