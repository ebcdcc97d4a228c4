//! The rules of a line: published as one text when it opens, and hashed into the seed of its draw. Afterwards only
//! stock and pace may change, and both may only rise.
//!
//! The hash is that of the text as it is stored and published, so a verifier hashes what it got before it reads it.

use std::str::FromStr;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest as _, Sha256};

use super::beacon::{Chain, Pattern};
use super::draw::{self, Timing};
use super::hex::{Digest, Hex};
use super::rounds::Bar;
use super::tickets::TicketKey;
use crate::domain::catalog::is_sku;
use crate::domain::drops::{MAX_BUYER_LIMIT, MAX_STOCK_UNITS, MAX_VARIANTS};
use crate::domain::ids::DropName;
use crate::domain::money::Currency;

pub const VERSION: u32 = 2;
pub const MAX_CAPACITY: u32 = 5_000_000;
pub const MAX_PER_ROUND: u32 = 1_000_000;
const MAX_EVERY_SECONDS: u32 = 3_600;
const MAX_PAY_WITHIN_SECONDS: u32 = 7 * 24 * 3_600;
/// The least time that an operator may give buyers to pay. Tests and demos have their own.
pub const PAY_WITHIN_MIN: SignedDuration = SignedDuration::from_mins(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Who is there at the seal is shuffled; who comes later stands behind, in the order of coming.
    Queue,
    /// All entries until the seal are alike; later ones stand behind.
    Draw,
}

impl Mode {
    pub const ALL: [Self; 2] = [Self::Queue, Self::Draw];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Draw => "draw",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a line's mode is queue or draw")]
pub struct UnknownMode;

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == text).ok_or(UnknownMode)
    }
}

/// What entries are merged by, before the seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MergeBy {
    Card,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleVariant {
    /// From 0, without gaps.
    pub number: u8,
    pub sku: String,
    pub stock: u32,
    pub price_minor: i64,
}

/// Where the draw's chance comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Beacon {
    Drand(Chain),
    /// A result that the shop types, of a lottery perhaps, and a secret of the shop.
    Manual {
        source: String,
        /// The result is of this day, which begins (UTC) after the root is published.
        date: Date,
        /// A regular expression for the whole of the result.
        pattern: String,
        commitment: Digest,
    },
    /// Only a secret of the shop.
    None {
        commitment: Digest,
    },
}

/// Fields stand in the order in which they are published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    pub version: u32,
    #[serde(deserialize_with = "parsed")]
    pub drop: DropName,
    pub mode: Mode,
    pub line_opens_at: Timestamp,
    pub seal_at: Timestamp,
    /// From the seal to the round of the beacon that decides.
    pub reveal_after_seconds: u32,
    pub opens_at: Timestamp,
    pub closes_at: Timestamp,
    pub every_seconds: u32,
    pub per_round: u32,
    pub pay_within_seconds: u32,
    pub capacity: u32,
    pub currency: Currency,
    pub variants: Vec<RuleVariant>,
    pub buyer_limit: u32,
    pub requires_card: bool,
    pub merges: Vec<MergeBy>,
    /// Nothing else stands against a rank.
    pub may_pass_over: Vec<Bar>,
    pub beacon: Beacon,
    pub ticket_key: TicketKey,
    /// What is left when every rank has been decided is sold as in any other drop.
    pub then_open: bool,
}

fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err: std::fmt::Display>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// The SHA-256 of rules as they were published.
pub fn hash_of(text: &str) -> Digest {
    Hex(Sha256::digest(text).into())
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("these are not rules of a line: {0}")]
pub struct UnreadableRules(String);

impl Rules {
    /// The text that is hashed, stored and published.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("rules have texts and numbers only")
    }

    pub fn parse(text: &str) -> Result<Self, UnreadableRules> {
        let rules: Self = serde_json::from_str(text).map_err(|error| UnreadableRules(error.to_string()))?;
        if rules.version != VERSION {
            return Err(UnreadableRules(format!("their version is {}, not {VERSION}", rules.version)));
        }
        // So that a text means the same to every reader: no second field of a name, no number in another form.
        if rules.to_text() != text {
            return Err(UnreadableRules("they are not written in the one form that rules have".to_owned()));
        }
        Ok(rules)
    }
}

/// Why a line cannot have these rules, in a sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRules {
    #[error("the line must open before it is sealed, and its drop must open before it closes")]
    Times,
    #[error("the seal must be {0:#} before the drop opens: the beacon's round comes behind it, and has to arrive")]
    SealTooLate(SignedDuration),
    #[error("the beacon decides 1 second to 1 day after the seal; {0} seconds were given")]
    RevealAfter(u32),
    #[error("rounds come every 1 to {MAX_EVERY_SECONDS} seconds; {0} were given")]
    Every(u32),
    #[error("a round decides 1 to {MAX_PER_ROUND} ranks; {0} were given")]
    PerRound(u32),
    #[error("a line has room for 1 to {MAX_CAPACITY} entries; {0} were given")]
    Capacity(u32),
    #[error("buyers need at least {at_least:#} and at most 7 days to pay; {given:#} were given")]
    PayWithin { at_least: SignedDuration, given: SignedDuration },
    #[error("a drop has 1 to {MAX_VARIANTS} variants, numbered from 0 without gaps")]
    Variants,
    #[error("the SKU {0:?} must be 1 to 64 visible ASCII characters and occur once")]
    Sku(String),
    #[error("{0} has no units: nobody could be given one")]
    NoUnits(String),
    #[error("the stock of all variants is {0} units; at most {MAX_STOCK_UNITS} fit into one drop")]
    Stock(u64),
    #[error("the price of {0} cannot be negative")]
    Price(String),
    #[error("the limit per buyer must be 1 to {MAX_BUYER_LIMIT} units; it is {0}")]
    BuyerLimit(u32),
    #[error("entries of one card can only be merged where everybody in line has a card")]
    MergeWithoutCard,
    #[error("what may pass a rank over is named once, in the order left, merged, awarded, over_limit")]
    MayPassOver,
    #[error("the beacon's rounds come every 1 to 60 seconds; {0} were given")]
    BeaconPeriod(u32),
    #[error("the source of the result needs a name of 1 to 200 characters")]
    Source,
    #[error("the result must be of a day after the seal, so that nobody knows it before")]
    ResultTooEarly,
    #[error("{0}")]
    Pattern(String),
}

impl Rules {
    pub fn timing(&self) -> Timing {
        Timing::new(SignedDuration::from_secs(self.reveal_after_seconds.into()))
    }

    /// What an operator may ask for.
    pub fn check(&self, pay_within_min: SignedDuration) -> Result<(), InvalidRules> {
        if self.line_opens_at >= self.seal_at || self.seal_at > self.opens_at || self.opens_at >= self.closes_at {
            return Err(InvalidRules::Times);
        }
        if !(1..=24 * 3_600).contains(&self.reveal_after_seconds) {
            return Err(InvalidRules::RevealAfter(self.reveal_after_seconds));
        }
        let takes = self.timing().seal_before_opening();
        if self.seal_at.duration_until(self.opens_at) < takes {
            return Err(InvalidRules::SealTooLate(takes));
        }
        if !(1..=MAX_EVERY_SECONDS).contains(&self.every_seconds) {
            return Err(InvalidRules::Every(self.every_seconds));
        }
        if !(1..=MAX_PER_ROUND).contains(&self.per_round) {
            return Err(InvalidRules::PerRound(self.per_round));
        }
        if !(1..=MAX_CAPACITY).contains(&self.capacity) {
            return Err(InvalidRules::Capacity(self.capacity));
        }
        let pay_within = SignedDuration::from_secs(i64::from(self.pay_within_seconds));
        if pay_within < pay_within_min || self.pay_within_seconds > MAX_PAY_WITHIN_SECONDS {
            return Err(InvalidRules::PayWithin { at_least: pay_within_min, given: pay_within });
        }
        if !(1..=MAX_BUYER_LIMIT).contains(&self.buyer_limit) {
            return Err(InvalidRules::BuyerLimit(self.buyer_limit));
        }
        self.check_variants()?;
        if !self.merges.is_empty() && !self.requires_card {
            return Err(InvalidRules::MergeWithoutCard);
        }
        if !self.may_pass_over.is_sorted_by(|one, next| one < next) {
            return Err(InvalidRules::MayPassOver);
        }
        self.check_beacon()
    }

    fn check_variants(&self) -> Result<(), InvalidRules> {
        let numbers = self.variants.iter().map(|variant| usize::from(variant.number));
        if self.variants.is_empty() || self.variants.len() > MAX_VARIANTS || !numbers.eq(0..self.variants.len()) {
            return Err(InvalidRules::Variants);
        }
        for (at, variant) in self.variants.iter().enumerate() {
            let is_twice = self.variants[..at].iter().any(|other| other.sku == variant.sku);
            if is_twice || !is_sku(&variant.sku) {
                return Err(InvalidRules::Sku(variant.sku.clone()));
            }
            if variant.stock == 0 {
                return Err(InvalidRules::NoUnits(variant.sku.clone()));
            }
            if variant.price_minor < 0 {
                return Err(InvalidRules::Price(variant.sku.clone()));
            }
        }
        let stock = self.variants.iter().map(|variant| u64::from(variant.stock)).sum();
        if stock > u64::from(MAX_STOCK_UNITS) { Err(InvalidRules::Stock(stock)) } else { Ok(()) }
    }

    fn check_beacon(&self) -> Result<(), InvalidRules> {
        match &self.beacon {
            Beacon::Drand(chain) if !(1..=60).contains(&chain.period_seconds) => {
                Err(InvalidRules::BeaconPeriod(chain.period_seconds))
            }
            Beacon::Manual { source, .. } if source.is_empty() || source.chars().count() > 200 => {
                Err(InvalidRules::Source)
            }
            Beacon::Manual { date, pattern, .. } => {
                let pattern = Pattern::new(pattern);
                pattern.map_err(|error| InvalidRules::Pattern(error.to_string()))?;
                let begins = draw::beginning_of(*date);
                let timing = self.timing();
                let is_after =
                    begins.is_some_and(|begins| self.seal_at.duration_until(begins) >= timing.seal_to_beacon);
                if is_after { Ok(()) } else { Err(InvalidRules::ResultTooEarly) }
            }
            Beacon::Drand(_) | Beacon::None { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn rules() -> Rules {
        let variant =
            |number: u8, sku: &str| RuleVariant { number, sku: sku.to_owned(), stock: 50, price_minor: 12_900 };
        Rules {
            version: VERSION,
            drop: "shoe".parse().unwrap(),
            mode: Mode::Queue,
            line_opens_at: "2026-12-01T11:00:00Z".parse().unwrap(),
            seal_at: "2026-12-01T11:57:30Z".parse().unwrap(),
            reveal_after_seconds: 120,
            opens_at: "2026-12-01T12:00:00Z".parse().unwrap(),
            closes_at: "2026-12-01T13:00:00Z".parse().unwrap(),
            every_seconds: 30,
            per_round: 10,
            pay_within_seconds: 1_800,
            capacity: 1_000_000,
            currency: "EUR".parse().unwrap(),
            variants: vec![variant(0, "shoe-42"), variant(1, "shoe-43")],
            buyer_limit: 2,
            requires_card: true,
            merges: vec![MergeBy::Card],
            may_pass_over: Bar::ALL.to_vec(),
            beacon: Beacon::Drand(Chain::quicknet()),
            ticket_key: Hex([7; 32]),
            then_open: false,
        }
    }

    const TAKES: SignedDuration = SignedDuration::from_secs(150);

    fn manual() -> Beacon {
        Beacon::Manual {
            source: "Lotto 6 aus 49".to_owned(),
            date: "2026-12-02".parse().unwrap(),
            pattern: r"\d{2}(-\d{2}){5}".to_owned(),
            commitment: Hex([1; 32]),
        }
    }

    #[test]
    fn rules_have_one_text_and_its_hash() {
        let text = rules().to_text();
        let quicknet = Chain::quicknet();
        let expected = format!(
            concat!(
                r#"{{"version":2,"drop":"shoe","mode":"queue","line_opens_at":"2026-12-01T11:00:00Z","#,
                r#""seal_at":"2026-12-01T11:57:30Z","reveal_after_seconds":120,"opens_at":"2026-12-01T12:00:00Z","#,
                r#""closes_at":"2026-12-01T13:00:00Z","#,
                r#""every_seconds":30,"per_round":10,"pay_within_seconds":1800,"capacity":1000000,"currency":"EUR","#,
                r#""variants":[{{"number":0,"sku":"shoe-42","stock":50,"price_minor":12900}},"#,
                r#"{{"number":1,"sku":"shoe-43","stock":50,"price_minor":12900}}],"#,
                r#""buyer_limit":2,"requires_card":true,"#,
                r#""merges":["card"],"may_pass_over":["left","merged","awarded","over_limit"],"#,
                r#""beacon":{{"kind":"drand","chain_hash":"{}","public_key":"{}","#,
                r#""period_seconds":3,"genesis":1692803367}},"#,
                r#""ticket_key":"0707070707070707070707070707070707070707070707070707070707070707","#,
                r#""then_open":false}}"#,
            ),
            quicknet.chain_hash, quicknet.public_key,
        );
        assert_eq!(text, expected);
        assert_eq!(Rules::parse(&text), Ok(rules()));
        for beacon in [manual(), Beacon::None { commitment: Hex([1; 32]) }] {
            let rules = Rules { beacon, ..rules() };
            assert_eq!(Rules::parse(&rules.to_text()), Ok(rules));
        }
        for bad in [
            format!(" {text}"),
            text.replace(r#""version":2"#, r#""version":1"#),
            text.replace(r#""per_round":10"#, r#""per_round":10,"per_round":10"#),
            text.replace(r#""per_round":10"#, r#""per_round":10,"more":1"#),
            text.replace("then_open\":false", "then_open\":false,\"more\":1"),
            text.replace("over_limit", "not_eligible"),
            text.replace("12:00:00Z", "13:00:00+01:00"),
            text.replace(r#""kind":"drand","#, r#""kind":"drand","more":1,"#),
        ] {
            assert!(Rules::parse(&bad).is_err(), "{bad}");
        }
        assert_ne!(hash_of(&text), hash_of(&format!("{text} ")));
    }

    #[test]
    fn a_line_has_no_rules_that_its_buyers_would_be_cheated_by() {
        type Change = fn(&mut Rules);
        let cases: [(Change, InvalidRules); 24] = [
            (|rules| rules.line_opens_at = rules.seal_at, InvalidRules::Times),
            (|rules| rules.closes_at = rules.opens_at, InvalidRules::Times),
            (|rules| rules.seal_at = rules.closes_at, InvalidRules::Times),
            (|rules| rules.seal_at = "2026-12-01T11:57:31Z".parse().unwrap(), InvalidRules::SealTooLate(TAKES)),
            (|rules| rules.every_seconds = 0, InvalidRules::Every(0)),
            (|rules| rules.every_seconds = 3_601, InvalidRules::Every(3_601)),
            (|rules| rules.per_round = 0, InvalidRules::PerRound(0)),
            (|rules| rules.per_round = 1_000_001, InvalidRules::PerRound(1_000_001)),
            (|rules| rules.capacity = 0, InvalidRules::Capacity(0)),
            (|rules| rules.capacity = 5_000_001, InvalidRules::Capacity(5_000_001)),
            (
                |rules| rules.pay_within_seconds = 599,
                InvalidRules::PayWithin { at_least: PAY_WITHIN_MIN, given: SignedDuration::from_secs(599) },
            ),
            (
                |rules| rules.pay_within_seconds = 604_801,
                InvalidRules::PayWithin { at_least: PAY_WITHIN_MIN, given: SignedDuration::from_secs(604_801) },
            ),
            (|rules| rules.variants.clear(), InvalidRules::Variants),
            (|rules| rules.variants[1].number = 2, InvalidRules::Variants),
            (|rules| rules.variants[1].sku = "shoe-42".to_owned(), InvalidRules::Sku("shoe-42".to_owned())),
            (|rules| rules.variants[1].stock = 0, InvalidRules::NoUnits("shoe-43".to_owned())),
            (|rules| rules.variants[1].stock = MAX_STOCK_UNITS, InvalidRules::Stock(10_000_050)),
            (|rules| rules.variants[1].price_minor = -1, InvalidRules::Price("shoe-43".to_owned())),
            (|rules| rules.buyer_limit = 101, InvalidRules::BuyerLimit(101)),
            (|rules| rules.requires_card = false, InvalidRules::MergeWithoutCard),
            (|rules| rules.may_pass_over.push(Bar::Left), InvalidRules::MayPassOver),
            (
                |rules| rules.beacon = Beacon::Drand(Chain { period_seconds: 0, ..Chain::quicknet() }),
                InvalidRules::BeaconPeriod(0),
            ),
            (
                |rules| {
                    rules.beacon = Beacon::Manual {
                        source: String::new(),
                        date: "2026-12-02".parse().unwrap(),
                        pattern: "a".to_owned(),
                        commitment: Hex([0; 32]),
                    }
                },
                InvalidRules::Source,
            ),
            (
                |rules| {
                    rules.beacon = Beacon::Manual {
                        source: "a".to_owned(),
                        date: "2026-12-01".parse().unwrap(),
                        pattern: "a".to_owned(),
                        commitment: Hex([0; 32]),
                    }
                },
                InvalidRules::ResultTooEarly,
            ),
        ];
        assert_eq!(rules().check(PAY_WITHIN_MIN), Ok(()));
        assert_eq!(Rules { beacon: manual(), ..rules() }.check(PAY_WITHIN_MIN), Ok(()));
        for (change, expected) in cases {
            let mut rules = rules();
            change(&mut rules);
            assert_eq!(rules.check(PAY_WITHIN_MIN), Err(expected), "{rules:?}");
        }
        let mut typed = rules();
        typed.beacon = manual();
        if let Beacon::Manual { pattern, .. } = &mut typed.beacon {
            "(".clone_into(pattern);
        }
        assert!(matches!(typed.check(PAY_WITHIN_MIN), Err(InvalidRules::Pattern(_))));
        let demo = Rules { pay_within_seconds: 20, ..rules() };
        assert_eq!(demo.check(SignedDuration::from_secs(20)), Ok(()));
    }

    #[test]
    fn a_queue_is_sealed_150_seconds_before_its_drop_opens() {
        assert_eq!(rules().timing().seal_before_opening(), TAKES);
    }
}
