//! Everything that is published about a drop's line, as one document, and its verification.
//!
//! [`verify`] trusts nothing in it but the rules' text: it hashes, sorts, shuffles and replays by itself, and names the
//! first thing that is wrong. What it cannot see is said in docs/DRAW.md.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::beacon::{self, BadPulse, Pattern, Pulse};
use super::draw::{self, Chance, Sealed, Step, WrongSteps};
use super::entries::{Entry, EntryId};
use super::hex::{Digest, Hex};
use super::rounds::{Allocation, Bar, Facts, Free, Outcome, PastRound, Rank, Wish};
use super::rules::{self, Beacon, Rules};
use super::tickets::{InvalidTicket, SignedTicket};
use super::{shuffle, tree};
use crate::domain::ids::VariantNumber;

pub const VERSION: u32 = 2;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    pub version: u32,
    /// As they were published when the line opened, byte by byte.
    pub rules: String,
    pub rules_hash: Digest,
    /// How many were in line at the seal.
    pub count: u32,
    /// They, sorted by entry id.
    pub leaves: Vec<Entry>,
    pub root: Digest,
    pub steps: Vec<Step>,
    pub beacon: Revealed,
    pub seed: Digest,
    /// Who joined after the seal, in the order of their numbers.
    pub joins: Vec<Join>,
    pub chunks: Vec<Chunk>,
    /// Tickets that somebody has laid open.
    #[serde(default)]
    pub tickets: Vec<String>,
}

impl Bundle {
    /// The very bytes that are published, whoever asks and however.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a bundle has texts and numbers only")
    }
}

/// What decided the draw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Revealed {
    Drand(Pulse),
    Manual { result: String, secret: String },
    None { secret: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    pub number: u32,
    pub entry: Entry,
}

/// What was decided in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    /// From 0.
    pub round: u32,
    pub at: Timestamp,
    pub per_round: u32,
    /// How many were in line.
    pub count: u32,
    /// Units that came back and units that were added since the round before; in a round's first chunk only.
    pub returned: Free,
    pub added: Free,
    /// Units before the chunk.
    pub free: Free,
    /// How many ranks it decided.
    pub decided: u32,
    /// What stood against some of them. All others have nothing against them.
    pub against: Vec<Against>,
    /// In the order in which they were made: rank, and the number of the choice, from 0.
    pub awards: Vec<(Rank, u8)>,
    /// Ranks below have been decided after it.
    pub served: Rank,
}

/// `[rank, bar or null, bits of the choices that cost more than was accepted]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Against(pub Rank, pub Option<String>, pub u8);

/// Whose place the verification is to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Own {
    Ticket(String),
    Entry(EntryId),
}

/// The first thing that is wrong with a bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("the bundle's version is {0}, not {VERSION}")]
    Version(u32),
    #[error("the rules cannot be read: {0}")]
    Rules(String),
    #[error("the hash of the rules is another one: they were changed after they were published")]
    RulesHash,
    #[error("{leaves} entries are listed, but {count} were sealed")]
    Count { count: u32, leaves: usize },
    #[error("the list is not sorted by entry id, or an entry occurs twice (index {0})")]
    Order(u32),
    #[error("the entry {0} wants what the rules do not offer")]
    Wish(EntryId),
    #[error("the list has another root: entries were added, removed or changed after the root was published")]
    Root,
    #[error("the way from the seal to the draw: {0}")]
    Steps(#[from] WrongSteps),
    #[error("the rules fix another kind of beacon")]
    BeaconKind,
    #[error("the draw must be decided by round {expected} of the beacon, not by {given}")]
    BeaconRound { expected: u64, given: u64 },
    #[error("the beacon's round: {0}")]
    Beacon(#[from] BadPulse),
    #[error("the shop's secret is not the one it was bound to")]
    Secret,
    #[error("the result does not have the form that the rules fix")]
    Result,
    #[error("the seed does not follow from rules, list and beacon")]
    Seed,
    #[error("an entry that joined after the seal is out of order, or was in line already (number {0})")]
    Join(u32),
    #[error("round {0} does not follow the one before")]
    RoundNumber(u32),
    #[error("round {0} was earlier than it may be")]
    RoundEarly(u32),
    #[error("round {0} decides fewer ranks than were promised")]
    PaceLowered(u32),
    #[error("round {0} has other units than those that were left, came back and were added")]
    Stock(u32),
    #[error("in round {0} more units came back than had been given")]
    Returned(u32),
    #[error("the line got shorter, or has more entries than are listed (round {0})")]
    LineCount(u32),
    #[error("rank {rank} was passed over for a reason that the rules do not have: {reason}")]
    Reason { rank: Rank, reason: String },
    #[error("rank {0} was passed over as awarded, and had been given nothing")]
    NotAwarded(Rank),
    #[error("something is said against rank {rank}, which was not decided then (round {round})")]
    NotDecided { round: u32, rank: Rank },
    #[error("round {0} ended before everybody was decided whom it had to decide, or went on after that")]
    RoundCut(u32),
    #[error("rank {0} was given something for more than they had accepted")]
    AboveAccepted(Rank),
    #[error("in round {round}, rank {rank} was given something that the rule gives to somebody else, or to nobody")]
    WrongAward { round: u32, rank: Rank },
    #[error("in round {round}, rank {rank} was not given what the rule gives them")]
    MissingAward { round: u32, rank: Rank },
    #[error("round {0} says of other ranks that they have been decided")]
    Served(u32),
    #[error("the ticket: {0}")]
    Ticket(#[from] InvalidTicket),
    #[error(
        "the entry {0} is not in the list: whoever has its ticket, and did not leave before the seal, was left out"
    )]
    NotInList(EntryId),
}

/// A bundle in which nothing is wrong.
#[derive(Debug, Clone)]
pub struct Proven {
    pub rules: Rules,
    /// By rank, also of those who joined later.
    pub wishes: Vec<Wish>,
    /// For [`inversions`](super::rounds::inversions) and figures.
    pub rounds: Vec<PastRound>,
    pub awards: u32,
    /// Ranks that no round has decided.
    pub undecided: u32,
    pub free: Free,
    pub own: Option<OwnPlace>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnPlace {
    pub entry: EntryId,
    pub rank: Rank,
    pub award: Option<OwnAward>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnAward {
    pub round: u32,
    pub variant: VariantNumber,
}

pub type Verdict = Result<Proven, Wrong>;

pub fn verify(bundle: &Bundle, own: Option<&Own>) -> Verdict {
    if bundle.version != VERSION {
        return Err(Wrong::Version(bundle.version));
    }
    if rules::hash_of(&bundle.rules) != bundle.rules_hash {
        return Err(Wrong::RulesHash);
    }
    let rules = Rules::parse(&bundle.rules).map_err(|error| Wrong::Rules(error.to_string()))?;
    // What buyers are given to pay is no matter of the draw, and shorter in a demo.
    rules.check(SignedDuration::ZERO).map_err(|error| Wrong::Rules(error.to_string()))?;
    check_list(bundle, &rules)?;
    let drawn_at = check_draw(bundle, &rules)?;
    check_joins(bundle, &rules)?;

    let order = shuffle::order(bundle.count, &bundle.seed.0);
    let by_rank = order.iter().map(|index| &bundle.leaves[*index as usize]);
    let by_rank = by_rank.chain(bundle.joins.iter().map(|join| &join.entry));
    let mut wishes = Vec::with_capacity(bundle.leaves.len() + bundle.joins.len());
    let mut ranks = HashMap::new();
    for (rank, entry) in (0..).zip(by_rank) {
        wishes.push(entry.wish);
        ranks.insert(entry.id, rank);
    }
    let key = |text: &str| Ok::<_, Wrong>(text.parse::<SignedTicket>()?.verify(&rules.ticket_key)?.entry);
    let rank_of = |entry: EntryId| ranks.get(&entry).copied().ok_or(Wrong::NotInList(entry));
    for ticket in &bundle.tickets {
        rank_of(key(ticket)?)?;
    }
    let own = own.map(|own| match own {
        Own::Ticket(text) => key(text),
        Own::Entry(entry) => Ok(*entry),
    });
    let own = own.transpose()?.map(|entry| rank_of(entry).map(|rank| (entry, rank))).transpose()?;

    let replayed = replay(bundle, &rules, &wishes, drawn_at)?;
    let award_of = |rank: Rank| {
        replayed.numbers.iter().copied().zip(&replayed.rounds).find_map(|(round, past)| {
            past.steps.iter().find_map(|(facts, outcome)| match outcome {
                Outcome::Awarded { variant, .. } if facts.rank == rank => Some(OwnAward { round, variant: *variant }),
                _ => None,
            })
        })
    };
    let own = own.map(|(entry, rank)| OwnPlace { entry, rank, award: award_of(rank) });
    Ok(Proven {
        awards: replayed.awards,
        undecided: wishes.len() as u32 - replayed.served,
        free: replayed.free,
        rounds: replayed.rounds,
        rules,
        wishes,
        own,
    })
}

/// The list is what was sealed.
fn check_list(bundle: &Bundle, rules: &Rules) -> Result<(), Wrong> {
    if bundle.leaves.len() != bundle.count as usize {
        return Err(Wrong::Count { count: bundle.count, leaves: bundle.leaves.len() });
    }
    if let Some(at) = bundle.leaves.windows(2).position(|pair| pair[0].id >= pair[1].id) {
        return Err(Wrong::Order(at as u32 + 1));
    }
    if tree::root(tree::leaves(&bundle.leaves)) != bundle.root {
        return Err(Wrong::Root);
    }
    bundle.leaves.iter().try_for_each(|entry| check_wish(entry, rules))
}

fn check_wish(entry: &Entry, rules: &Rules) -> Result<(), Wrong> {
    let is_offered = entry.wish.choices.iter().all(|variant| usize::from(variant.0) < rules.variants.len());
    let fits = is_offered && entry.wish.quantity.units() <= rules.buyer_limit;
    if fits { Ok(()) } else { Err(Wrong::Wish(entry.id)) }
}

/// Root before chance, chance from where the rules say, and the seed made of them. Answers since when the draw stands.
fn check_draw(bundle: &Bundle, rules: &Rules) -> Result<Timestamp, Wrong> {
    let secret = |text: &str, commitment: &Digest| {
        beacon::secret_of(text).filter(|secret| beacon::commitment(secret) == *commitment).ok_or(Wrong::Secret)
    };
    let secret_bytes;
    let (chance, drawn_at) = match (&rules.beacon, &bundle.beacon) {
        (Beacon::Drand(chain), Revealed::Drand(pulse)) => {
            let (round, _) = draw::follow(rules.seal_at, chain, rules.timing(), &bundle.steps)?;
            if pulse.round != round {
                return Err(Wrong::BeaconRound { expected: round, given: pulse.round });
            }
            chain.verify(pulse)?;
            let chance = Chance::Drand { chain: &chain.chain_hash, round, randomness: &pulse.randomness };
            (chance, chain.time_of(round).unwrap_or(Timestamp::MAX))
        }
        (Beacon::Manual { date, pattern, commitment, .. }, Revealed::Manual { result, secret: text }) => {
            let from = draw::beginning_of(*date);
            draw::follow_without_rounds(rules.seal_at, from, &bundle.steps)?;
            if !Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(result)) {
                return Err(Wrong::Result);
            }
            secret_bytes = secret(text, commitment)?;
            (Chance::Manual { result, secret: &secret_bytes }, from.unwrap_or(Timestamp::MAX))
        }
        (Beacon::None { commitment }, Revealed::None { secret: text }) => {
            let rooted_at = draw::follow_without_rounds(rules.seal_at, None, &bundle.steps)?;
            secret_bytes = secret(text, commitment)?;
            (Chance::None { secret: &secret_bytes }, rooted_at)
        }
        _ => return Err(Wrong::BeaconKind),
    };
    let sealed = Sealed { drop: rules.drop.as_str(), rules: bundle.rules_hash, count: bundle.count, root: bundle.root };
    if Hex(draw::seed(&sealed, &chance)) != bundle.seed {
        return Err(Wrong::Seed);
    }
    Ok(drawn_at)
}

fn check_joins(bundle: &Bundle, rules: &Rules) -> Result<(), Wrong> {
    let mut joined = bundle.joins.iter().map(|join| join.entry.id).collect::<Vec<_>>();
    joined.sort_unstable();
    for (at, join) in bundle.joins.iter().enumerate() {
        check_wish(&join.entry, rules)?;
        let is_later = at == 0 || bundle.joins[at - 1].number < join.number;
        let was_sealed = bundle.leaves.binary_search_by_key(&join.entry.id, |leaf| leaf.id).is_ok();
        let from = joined.partition_point(|id| *id < join.entry.id);
        let is_twice = joined.get(from + 1) == Some(&join.entry.id);
        if !is_later || was_sealed || is_twice {
            return Err(Wrong::Join(join.number));
        }
    }
    Ok(())
}

struct Replayed {
    rounds: Vec<PastRound>,
    /// Of each round, as the chunks have it.
    numbers: Vec<u32>,
    awards: u32,
    served: Rank,
    free: Free,
}

/// Decides everything again by the same rule, chunk by chunk.
fn replay(bundle: &Bundle, rules: &Rules, wishes: &[Wish], drawn_at: Timestamp) -> Result<Replayed, Wrong> {
    let stock = rules.variants.iter().map(|variant| (VariantNumber(variant.number), variant.stock));
    let sealed = bundle.count as usize;
    let mut line = Allocation::new(wishes[..sealed].to_vec());
    let mut left: Free = stock.collect();
    // Units that buyers have, by variant: no more can come back.
    let mut given = Free::default();
    let mut pace = rules.per_round;
    let mut rounds = Vec::<PastRound>::new();
    // Rounds in which nothing was to be decided are left out.
    let mut numbers = Vec::<u32>::new();
    let mut awards = 0;
    let last_round = bundle.chunks.last().map(|chunk| chunk.round);
    for chunk in &bundle.chunks {
        let round = chunk.round;
        let before = numbers.last().copied();
        let is_first = before.is_none_or(|before| round > before);
        if is_first {
            if !line.is_round_over() {
                return Err(Wrong::RoundCut(before.unwrap_or_default()));
            }
            // Only rounds in which nothing was to be decided are left out: to leave out others is a slower pace.
            let expected = before.map_or(0, |before| before + 1);
            if round > expected && line.position().served < line.count() {
                return Err(Wrong::RoundNumber(round));
            }
            let due = i64::from(rules.every_seconds) * i64::from(round);
            let due = rules.opens_at.checked_add(SignedDuration::from_secs(due)).unwrap_or(Timestamp::MAX);
            // The last one may give what came back until the end, and decide nobody else. It comes when the line ends,
            // before its time or not.
            let is_end = chunk.per_round == 0 && last_round == Some(round);
            if chunk.at < drawn_at || (chunk.at < due && !is_end) {
                return Err(Wrong::RoundEarly(round));
            }
            if chunk.per_round < pace && !is_end {
                return Err(Wrong::PaceLowered(round));
            }
            pace = chunk.per_round;
            given = given.without(&chunk.returned).ok_or(Wrong::Returned(round))?;
            left = left.with(&chunk.returned).with(&chunk.added);
        } else if Some(round) != before {
            return Err(Wrong::RoundNumber(round));
        } else if chunk.per_round != pace {
            return Err(Wrong::PaceLowered(round));
        } else if !chunk.returned.is_nothing() || !chunk.added.is_nothing() {
            return Err(Wrong::Stock(round));
        }
        if chunk.free != left {
            return Err(Wrong::Stock(round));
        }
        if chunk.count < line.count() || chunk.count as usize > wishes.len() {
            return Err(Wrong::LineCount(round));
        }
        for wish in &wishes[line.count() as usize..chunk.count as usize] {
            line.push(*wish);
        }
        if is_first {
            line.begin_round(left, pace);
            rounds.push(PastRound { free: left, steps: Vec::new() });
            numbers.push(round);
        }
        let facts = facts_of(chunk, &line, rules)?;
        let outcomes = line.decide(&facts).map_err(|_| Wrong::RoundCut(round))?;
        compare(chunk, &facts, &outcomes)?;
        for (rank, outcome) in &outcomes {
            if let Outcome::Awarded { variant, .. } = outcome {
                awards += 1;
                given = given.with(&Free::from_iter([(*variant, wishes[*rank as usize].quantity.units())]));
            }
        }
        left = line.position().free;
        if chunk.served != line.position().served {
            return Err(Wrong::Served(round));
        }
        let steps = facts.into_iter().zip(outcomes).map(|(facts, (_, outcome))| (facts, outcome));
        rounds.last_mut().expect("a chunk that is not the first of a round follows one").steps.extend(steps);
    }
    if !line.is_round_over() {
        return Err(Wrong::RoundCut(numbers.last().copied().unwrap_or_default()));
    }
    Ok(Replayed { rounds, numbers, awards, served: line.position().served, free: left })
}

/// What the chunk says about its candidates, as far as the rules let it say that.
fn facts_of(chunk: &Chunk, line: &Allocation, rules: &Rules) -> Result<Vec<Facts>, Wrong> {
    let candidates = line.candidates(chunk.decided as usize);
    if candidates.len() != chunk.decided as usize {
        return Err(Wrong::RoundCut(chunk.round));
    }
    let mut against = HashMap::new();
    for Against(rank, reason, dearer) in &chunk.against {
        let unknown = || Wrong::Reason { rank: *rank, reason: reason.clone().unwrap_or_default() };
        let bar = reason.as_ref().map(|reason| reason.parse::<Bar>().map_err(|_| unknown())).transpose()?;
        if bar.is_some_and(|bar| !rules.may_pass_over.contains(&bar)) {
            return Err(unknown());
        }
        // Whoever was given something is no candidate any more.
        if bar == Some(Bar::Awarded) {
            return Err(Wrong::NotAwarded(*rank));
        }
        if candidates.binary_search(rank).is_err() || against.contains_key(rank) {
            return Err(Wrong::NotDecided { round: chunk.round, rank: *rank });
        }
        against.insert(*rank, Facts { rank: *rank, bar, dearer: *dearer });
    }
    let facts = candidates.into_iter().map(|rank| against.get(&rank).copied().unwrap_or(Facts::usual(rank)));
    Ok(facts.collect())
}

fn compare(chunk: &Chunk, facts: &[Facts], outcomes: &[(Rank, Outcome)]) -> Result<(), Wrong> {
    for (rank, choice) in &chunk.awards {
        // Candidates come in the order of their ranks.
        let about = facts.binary_search_by_key(rank, |facts| facts.rank).ok().map(|at| facts[at]);
        if about.is_some_and(|facts| facts.is_dearer(usize::from(*choice))) {
            return Err(Wrong::AboveAccepted(*rank));
        }
    }
    let round = chunk.round;
    let mut given = chunk.awards.iter().copied().peekable();
    for (rank, outcome) in outcomes {
        let expected = match outcome {
            Outcome::Awarded { choice, .. } => Some((*rank, *choice)),
            Outcome::PassedOver | Outcome::Barred(_) => None,
        };
        let actual = given.next_if(|(awarded, _)| awarded == rank);
        match (actual, expected) {
            (None, Some((rank, _))) => return Err(Wrong::MissingAward { round, rank }),
            (Some((rank, _)), expected) if actual != expected => return Err(Wrong::WrongAward { round, rank }),
            _ => {}
        }
    }
    given.next().map_or(Ok(()), |(rank, _)| Err(Wrong::WrongAward { round, rank }))
}
