//! How the buyers of a drop stand in line: what its operator says when they make it.

use super::draw::{self, Timing};
use super::rounds::Bar;
use super::rules::{Beacon, MergeBy, Mode, RuleVariant, Rules, VERSION};
use super::tickets::TicketKey;
use crate::domain::drops::{Admission, SaleDrop};
use jiff::{SignedDuration, Timestamp};

/// From the seal of a line to the round of the beacon that decides.
pub const REVEAL_AFTER: SignedDuration = SignedDuration::from_secs(120);
/// What the brief asks for: units in batches every 30 seconds.
pub const ROUND_EVERY: SignedDuration = SignedDuration::from_secs(30);
/// Places in a line, unless its operator says otherwise.
pub const CAPACITY: u32 = 1_000_000;
const CAPACITY_MAX: u32 = 5_000_000;
pub(super) const PER_ROUND_MAX: u32 = 1_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineTerms {
    pub admission: Admission,
    pub line_opens_at: Timestamp,
    pub seal_at: Timestamp,
    /// From the seal to the round of the beacon that decides.
    pub reveal_after: SignedDuration,
    pub round_every: SignedDuration,
    /// Ranks that a round decides.
    pub per_round: u32,
    pub capacity: u32,
    /// A means of payment is asked for when somebody joins.
    pub requires_card: bool,
    /// What the line leaves is sold to who claims first.
    pub then_open: bool,
    pub beacon: Beacon,
}

/// A line that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLine {
    pub terms: LineTerms,
    /// The shop's own part of a draw without a public beacon: the terms have its commitment.
    pub secret: Option<[u8; 32]>,
}

/// Why a line cannot be made, in a sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLine {
    #[error("a drop with a line needs a time at which it opens: rounds begin then")]
    NoOpening,
    #[error("the line must open before it is sealed")]
    OpensLate,
    #[error("the line must be sealed at least {0:#} before the drop opens, so that its draw can be held")]
    SealsLate(SignedDuration),
    #[error("the beacon decides 1 second to 1 day after the seal, in whole seconds; {0:#} were given")]
    RevealAfter(SignedDuration),
    #[error("a round comes every 1 second to 1 hour, in whole seconds; {0:#} were given")]
    Every(SignedDuration),
    #[error("a round decides 1 to {PER_ROUND_MAX} ranks; {0} were given")]
    PerRound(u32),
    #[error("a line has 1 to {CAPACITY_MAX} places; {0} were given")]
    Capacity(u32),
    #[error("a drop with a line is admitted as queue or draw")]
    Admission,
}

impl LineTerms {
    pub fn check(&self, opens_at: Option<Timestamp>) -> Result<(), InvalidLine> {
        let opens_at = opens_at.ok_or(InvalidLine::NoOpening)?;
        if !self.admission.has_line() {
            return Err(InvalidLine::Admission);
        }
        if self.line_opens_at >= self.seal_at {
            return Err(InvalidLine::OpensLate);
        }
        let reveal_after = self.reveal_after;
        let is_whole = reveal_after.subsec_nanos() == 0;
        if !is_whole || !(SignedDuration::from_secs(1)..=SignedDuration::from_hours(24)).contains(&reveal_after) {
            return Err(InvalidLine::RevealAfter(reveal_after));
        }
        let takes = self.timing().seal_before_opening();
        if self.seal_at > opens_at - takes {
            return Err(InvalidLine::SealsLate(takes));
        }
        let every = self.round_every;
        let is_whole = every.subsec_nanos() == 0;
        if !is_whole || !(SignedDuration::from_secs(1)..=SignedDuration::from_hours(1)).contains(&every) {
            return Err(InvalidLine::Every(every));
        }
        if !(1..=PER_ROUND_MAX).contains(&self.per_round) {
            return Err(InvalidLine::PerRound(self.per_round));
        }
        if !(1..=CAPACITY_MAX).contains(&self.capacity) {
            return Err(InvalidLine::Capacity(self.capacity));
        }
        Ok(())
    }

    pub fn timing(&self) -> Timing {
        Timing::new(self.reveal_after)
    }

    /// The round of the beacon that decides, as it is when the line is sealed in time. `None`: it has no rounds.
    pub fn first_round(&self) -> Option<u64> {
        match &self.beacon {
            Beacon::Drand(chain) => Some(draw::plan_beacon(self.seal_at, chain, self.timing())),
            Beacon::Manual { .. } | Beacon::None { .. } => None,
        }
    }

    /// When a round of the beacon is due. What has no rounds is due when the first would be.
    pub fn time_of(&self, round: Option<u64>) -> Timestamp {
        match (&self.beacon, round) {
            (Beacon::Drand(chain), Some(round)) => chain.time_of(round).unwrap_or(Timestamp::MAX),
            _ => self.seal_at + self.reveal_after,
        }
    }

    /// Until when the root may be written down for a round of the beacon.
    pub fn root_until(&self, round: u64) -> Timestamp {
        self.time_of(Some(round)) - self.timing().root_before_beacon
    }

    /// Until when a later round of the beacon may be named instead.
    pub fn postpone_until(&self, round: u64) -> Timestamp {
        self.time_of(Some(round)) - self.reveal_after / 12
    }

    /// The round that decides after one that came before the root.
    pub fn round_after_void(&self, now: Timestamp) -> Option<u64> {
        match &self.beacon {
            Beacon::Drand(chain) => Some(draw::retry_round(now, chain, self.timing())),
            Beacon::Manual { .. } | Beacon::None { .. } => None,
        }
    }

    /// What is published when the line opens.
    pub fn rules(&self, drop: &SaleDrop, ticket_key: TicketKey) -> Rules {
        let variant = |variant: &crate::domain::drops::DropVariant| RuleVariant {
            number: variant.number.0,
            sku: variant.sku.clone(),
            stock: variant.stock_units,
            price_minor: variant.price.amount_minor,
        };
        let whole_seconds = |duration: SignedDuration| u32::try_from(duration.as_secs()).unwrap_or_default();
        let opens_at = drop.opens_at.unwrap_or(self.seal_at);
        Rules {
            version: VERSION,
            drop: drop.name.clone(),
            mode: if self.admission == Admission::Draw { Mode::Draw } else { Mode::Queue },
            line_opens_at: self.line_opens_at,
            seal_at: self.seal_at,
            reveal_after_seconds: whole_seconds(self.reveal_after),
            opens_at,
            closes_at: drop.closes_at.unwrap_or(drop.pay_by),
            every_seconds: whole_seconds(self.round_every),
            per_round: self.per_round,
            pay_within_seconds: drop.pay_terms.within.map_or(0, whole_seconds),
            capacity: self.capacity,
            currency: drop.currency,
            variants: drop.variants.iter().map(variant).collect(),
            buyer_limit: drop.buyer_limit,
            requires_card: self.requires_card,
            merges: if self.requires_card { vec![MergeBy::Card] } else { Vec::new() },
            may_pass_over: Bar::ALL.to_vec(),
            beacon: self.beacon.clone(),
            ticket_key,
            then_open: self.then_open,
        }
    }
}
