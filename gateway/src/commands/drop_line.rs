//! The flags of `doorbuster drop create` that give a drop a line.

use clap::{Args, ValueEnum};
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::drops::Admission;
use doorbuster_engine::domain::line::beacon::{Chain, commitment};
use doorbuster_engine::domain::line::draw::Timing;
use doorbuster_engine::domain::line::rules::Beacon;
use doorbuster_engine::domain::line::terms::{CAPACITY, LineTerms, NewLine};
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use super::text::{instant, one_of};
use crate::config::BadUsage;

/// Of the stock, so many parts make the ranks of a round.
const PARTS_PER_ROUND: u32 = 10;

#[derive(Debug, Args)]
#[command(next_help_heading = "The line")]
pub(super) struct LineArguments {
    /// How buyers come to units: open (who claims first), queue (they stand in line; who is there at the seal is shuffled),
    /// draw (they enter until the seal, and all have the same chance)
    #[arg(long, default_value = "open", value_name = "MODE", value_parser = one_of(Admission::ALL, Admission::as_str))]
    admission: Admission,
    /// From when buyers may join (RFC 3339); at once if left out
    #[arg(long, value_name = "TIME", value_parser = instant)]
    line_opens_at: Option<Timestamp>,
    /// When the list is sealed that is shuffled (RFC 3339); as late as can be if left out: 150 seconds before the opening
    #[arg(long, value_name = "TIME", value_parser = instant)]
    seal_at: Option<Timestamp>,
    /// From one round to the next
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    round_every: SignedDuration,
    /// Ranks that a round decides; a tenth of the stock if left out
    #[arg(long, value_name = "RANKS")]
    per_round: Option<u32>,
    /// Places in the line
    #[arg(long, value_name = "PLACES", default_value_t = CAPACITY)]
    line_capacity: u32,
    /// Whoever joins has saved a means of payment, and one card has one place. A draw always asks for it
    #[arg(long)]
    requires_card: bool,
    /// Sell what the line leaves to who claims first
    #[arg(long)]
    then_open: bool,
    /// Where the chance comes from: drand (a public beacon), manual (a result that is published later, typed by two people), none
    /// (a secret of the shop: the page says that people at the shop could know the result)
    #[arg(long, value_name = "KIND", default_value = "drand")]
    beacon: BeaconKind,
    /// A chain of drand's, as its /info says it, should it not be quicknet
    #[arg(long, value_name = "FILE")]
    beacon_chain: Option<std::path::PathBuf>,
    /// For --beacon manual: where the result will be published, in words
    #[arg(long, value_name = "TEXT")]
    result_source: Option<String>,
    /// For --beacon manual: of which day it is, behind the seal
    #[arg(long, value_name = "DATE")]
    result_date: Option<Date>,
    /// For --beacon manual: a regular expression for the whole of it, so that it has one spelling
    #[arg(long, value_name = "REGEX")]
    result_pattern: Option<String>,
    /// From the seal to the beacon's round. Everybody sees the list's root in the first three quarters of it; shorten it in demos
    /// and rehearsals only
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    reveal_after: SignedDuration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BeaconKind {
    Drand,
    Manual,
    None,
}

impl LineArguments {
    /// The line that is asked for, if one is.
    pub(super) fn new_line(&self, opens_at: Option<Timestamp>, stock: u32) -> Result<Option<NewLine>, BadUsage> {
        if self.admission == Admission::Open {
            return Ok(None);
        }
        let opens_at =
            opens_at.ok_or_else(|| BadUsage("a drop with a line needs --opens-at: rounds begin then".to_owned()))?;
        let secret = (self.beacon != BeaconKind::Drand).then(rand::random::<[u8; 32]>);
        let terms = LineTerms {
            admission: self.admission,
            line_opens_at: self.line_opens_at.unwrap_or_else(|| Clock::System.now()),
            seal_at: self.seal_at.unwrap_or(opens_at - Timing::new(self.reveal_after).seal_before_opening()),
            reveal_after: self.reveal_after,
            round_every: self.round_every,
            per_round: self.per_round.unwrap_or(stock.div_ceil(PARTS_PER_ROUND).max(1)),
            capacity: self.line_capacity,
            requires_card: self.requires_card || self.admission == Admission::Draw,
            then_open: self.then_open,
            beacon: self.beacon_of(secret.as_ref())?,
        };
        Ok(Some(NewLine { terms, secret }))
    }

    fn beacon_of(&self, secret: Option<&[u8; 32]>) -> Result<Beacon, BadUsage> {
        let commitment = commitment(secret.map_or(&[], |secret| secret.as_slice()));
        match self.beacon {
            BeaconKind::None => Ok(Beacon::None { commitment }),
            BeaconKind::Drand => match &self.beacon_chain {
                None => Ok(Beacon::Drand(Chain::quicknet())),
                Some(file) => {
                    let bad = |why: String| BadUsage(format!("--beacon-chain {}: {why}", file.display()));
                    let text = std::fs::read_to_string(file).map_err(|error| bad(error.to_string()))?;
                    Chain::from_info(&text).map(Beacon::Drand).map_err(|error| bad(error.to_string()))
                }
            },
            BeaconKind::Manual => match (&self.result_source, self.result_date, &self.result_pattern) {
                (Some(source), Some(date), Some(pattern)) => {
                    Ok(Beacon::Manual { source: source.clone(), date, pattern: pattern.clone(), commitment })
                }
                _ => Err(BadUsage(
                    "--beacon manual needs --result-source, --result-date and --result-pattern: they are fixed with the rules"
                        .to_owned(),
                )),
            },
        }
    }
}
