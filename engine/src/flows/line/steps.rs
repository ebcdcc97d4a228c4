//! The worker's part: moves each line on by the clock, one step at a time. Two workers at once hurt nobody; each step is one
//! transaction that finds out whether it was taken before.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::beacon::BeaconClient;
use crate::domain::drops::{DropState, SaleDrop};
use crate::domain::ids::{DropId, DropName};
use crate::domain::line::beacon::Pulse;
use crate::domain::line::draw::{self, Chance, POSTPONED_BY, Sealed};
use crate::domain::line::entries::Entry;
use crate::domain::line::hex::{Digest, Hex};
use crate::domain::line::rounds::Allocation;
use crate::domain::line::rules::{Beacon, hash_of};
use crate::domain::line::schedule::{Around, Step, next_step, undecided};
use crate::domain::line::shuffle;
use crate::domain::line::state::{EntryState, Line, LineState};
use crate::domain::line::tree;
use crate::domain::standby::MAX_LINE_PLACES;
use crate::flows::engine::{Engine, EngineError};
use crate::ledger::LedgerError;
use crate::ledger::drops::OpeningBegun;
use crate::ledger::line::{Begin, Chunk, NewRoot, OrderOfLine, SealedEntry};

/// Of the shop's own part of a draw.
pub(super) const SECRET_BYTES: usize = 32;
/// Ranks decided in one transaction. More would keep others waiting for the warehouses' locks.
const RANKS_PER_CHUNK: usize = 2_000;
/// Steps of one line before others have their turn.
const STEPS_AT_ONCE: usize = 100;

/// What a worker remembers of lines, so that it does not read a million entries for each round.
#[derive(Default)]
pub struct LineMemory {
    orders: HashMap<DropId, OrderOfLine>,
}

/// What was done for all lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LineReport {
    pub steps: usize,
    pub decided: usize,
    pub awarded: usize,
    /// When the next step is due.
    pub next: Option<Timestamp>,
}

impl Engine {
    /// Takes every step that is due, of every line. What hinders one line keeps no other from its own.
    pub async fn run_lines(&self, beacon: &BeaconClient, memory: &mut LineMemory) -> Result<LineReport, EngineError> {
        let (mut report, mut failed) = (LineReport::default(), None);
        let names = self.ledger.drops_in_line().await?;
        let mut drops = Vec::new();
        for name in names {
            let Some(drop) = self.ledger.drop_by_name(&name).await? else { continue };
            drops.push(drop.id);
            if let Err(error) = self.run_line(drop, beacon, memory, &mut report).await {
                memory.orders.clear();
                failed = Some(error);
            }
        }
        memory.orders.retain(|drop, _| drops.contains(drop));
        failed.map_or(Ok(report), Err)
    }

    /// Takes every step of one line that is due and asks no beacon. `None`: the drop has none.
    pub async fn advance_line(&self, name: &DropName) -> Result<Option<Line>, EngineError> {
        let Some(drop) = self.ledger.drop_by_name(name).await? else { return Ok(None) };
        let (id, mut memory, mut report) = (drop.id, LineMemory::default(), LineReport::default());
        Box::pin(self.run_line(drop, &BeaconClient::default(), &mut memory, &mut report)).await?;
        Ok(self.ledger.line(id).await?)
    }

    /// Ends a line: holds its last round, and closes it with its drop. A worker may be at it at the same time.
    pub(in crate::flows) async fn end_line(&self, drop: SaleDrop) -> Result<(), EngineError> {
        self.ledger.end_line(drop.id, self.clock.now()).await?;
        let (mut memory, mut report) = (LineMemory::default(), LineReport::default());
        // What is left to do asks no beacon.
        let beacon = BeaconClient::default();
        let mut fresh = Some(drop);
        while let Some(drop) = fresh.filter(|drop| drop.state == DropState::Lining) {
            let id = drop.id;
            self.run_line(drop, &beacon, &mut memory, &mut report).await?;
            fresh = self.ledger.drop_by_id(id).await?;
        }
        Ok(())
    }

    async fn run_line(
        &self,
        mut drop: SaleDrop,
        beacon: &BeaconClient,
        memory: &mut LineMemory,
        report: &mut LineReport,
    ) -> Result<(), EngineError> {
        for _ in 0..STEPS_AT_ONCE {
            let Some(board) = self.ledger.line_board(drop.id).await? else { return Ok(()) };
            let line = &board.line;
            let around = Around {
                drop: board.drop,
                opens_at: board.opens_at,
                closes_at: board.closes_at,
                undecided: undecided(line, board.last_number),
                has_free_units: self.ledger.has_free_units(&drop).await?,
            };
            let now = self.clock.now();
            let step = next_step(line, around, now);
            let has_moved = match step {
                Step::Wait(until) => {
                    report.next = [report.next, until].into_iter().flatten().min();
                    // A million entries take seconds to read: not when a round is due.
                    if line.state == LineState::Drawn && until.is_some() && !memory.orders.contains_key(&drop.id) {
                        memory.orders.insert(drop.id, self.read_order(drop.id, line).await?);
                    }
                    return Ok(());
                }
                Step::Open => self.open_line(&drop, line).await?,
                Step::Seal => {
                    let sealed = self.ledger.seal_line(drop.id, line.terms.first_round(), now).await?;
                    if let Some(sealed) = sealed {
                        let (drop, count, merged) = (&drop.name, sealed.count, sealed.merged);
                        tracing::info!(%drop, count, merged, "the line of {drop} is sealed: {count} entries");
                    }
                    sealed.is_some()
                }
                Step::Root => self.write_root(&drop, line).await?,
                Step::Confirm => {
                    let before = line.beacon_round.map(|round| line.terms.time_of(Some(round)));
                    self.ledger.confirm_root(drop.id, line.beacon_round, before).await?
                }
                Step::Postpone { round } => {
                    tracing::warn!(drop = %drop.name, round, "the root came too late: a later round of the beacon decides");
                    let until = line.terms.time_of(Some(round));
                    self.ledger.postpone_line(drop.id, round, round + POSTPONED_BY, until, now).await?
                }
                Step::Void { round } => {
                    tracing::warn!(drop = %drop.name, round, "the beacon has spoken before the root: this round is void");
                    self.ledger.void_round(drop.id, round, now).await?
                }
                Step::Reveal => match self.reveal(&drop, line, beacon).await? {
                    Some(has_moved) => has_moved,
                    // Everybody sees that it is waited for.
                    None => return Ok(()),
                },
                Step::BeginRound { round } => {
                    let begin = Begin { round, per_round: line.terms.per_round, is_last: false };
                    self.give(&drop, line, Some(begin), memory, report).await?
                }
                Step::BeginLastRound => {
                    let round = line.round.map_or(0, |round| round + 1);
                    let begin = Begin { round, per_round: 0, is_last: true };
                    self.give(&drop, line, Some(begin), memory, report).await?
                }
                Step::GoOn => self.give(&drop, line, None, memory, report).await?,
                Step::Skip { to } => self.ledger.skip_rounds(drop.id, line.round, to).await?,
                Step::ThenOpen => self.open_behind_line(&drop, line).await?,
                Step::Close => self.ledger.close_line(drop.id, self.clock.now()).await?,
            };
            report.steps += 1;
            if !has_moved {
                // Another worker was faster, or it is to be looked at anew.
                memory.orders.remove(&drop.id);
            }
            match self.ledger.drop_by_id(drop.id).await? {
                Some(fresh) => drop = fresh,
                None => return Ok(()),
            }
        }
        // Others first; then at once again.
        report.next = Some(self.clock.now());
        Ok(())
    }

    async fn open_line(&self, drop: &SaleDrop, line: &Line) -> Result<bool, EngineError> {
        let Some(known) = self.known_line(drop.id).await? else { return Ok(false) };
        let rules = line.terms.rules(drop, known.ticket_key());
        match self.ledger.open_line(drop, &rules.to_text()).await? {
            OpeningBegun::Begun => {
                tracing::info!(drop = %drop.name, "the line of {} is open", drop.name);
                Ok(true)
            }
            OpeningBegun::OtherState => Ok(false),
            OpeningBegun::Invalid(invalid) => {
                tracing::warn!(drop = %drop.name, %invalid, "the line of {} cannot open: {invalid}", drop.name);
                Ok(false)
            }
        }
    }

    async fn write_root(&self, drop: &SaleDrop, line: &Line) -> Result<bool, EngineError> {
        let Some(sealed) = line.sealed else { return Ok(false) };
        let list = self.ledger.line_list(drop.id, 0).await?;
        let list = sorted(list, sealed.number).into_iter().map(|entry| entry.entry).collect::<Vec<_>>();
        let root = root_of(list).await;
        let now = self.clock.now();
        // Behind a round that was void the root comes first, and its round after it.
        let round = line.beacon_round.or_else(|| line.terms.round_after_void(now));
        let new = NewRoot {
            root,
            count: sealed.count,
            planned: line.beacon_round,
            round,
            until: round.map(|round| line.terms.root_until(round)),
        };
        let is_written = self.ledger.root_line(drop.id, &new, now).await?;
        if is_written {
            tracing::info!(drop = %drop.name, %root, round = new.round, "the root of {} is written down", drop.name);
        }
        Ok(is_written)
    }

    /// Asks for what decides. `None`: nobody has it yet.
    async fn reveal(&self, drop: &SaleDrop, line: &Line, beacon: &BeaconClient) -> Result<Option<bool>, EngineError> {
        let answer = match (&line.terms.beacon, line.beacon_round) {
            (Beacon::Drand(chain), Some(round)) => match beacon.pulse(chain, round).await {
                Ok(pulse) => Answer::Pulse(pulse),
                Err(none) => {
                    tracing::warn!(drop = %drop.name, error = %none, "the draw of {} waits: {none}", drop.name);
                    return Ok(None);
                }
            },
            (Beacon::Drand(_), None) => return Ok(None),
            (Beacon::Manual { .. }, _) => match self.ledger.agreed_result(drop.id).await? {
                Some((result, secret)) => Answer::Result { result, secret },
                // Two people have to type it.
                None => return Ok(None),
            },
            (Beacon::None { .. }, _) => match self.ledger.line_secret(drop.id).await? {
                Some(secret) => Answer::Secret(secret),
                None => return Ok(None),
            },
        };
        Ok(Some(self.draw(drop, line, &answer).await?))
    }

    /// Draws with an answer that has been checked.
    pub(super) async fn draw(&self, drop: &SaleDrop, line: &Line, answer: &Answer) -> Result<bool, EngineError> {
        let Some(seed) = seed_of(drop, line, answer) else { return Ok(false) };
        let now = self.clock.now();
        let is_drawn = self.ledger.draw_line(drop.id, line.beacon_round, seed, &answer.to_bytes(), now).await?;
        if is_drawn {
            tracing::info!(drop = %drop.name, %seed, "{} is drawn: everybody's rank is known", drop.name);
        }
        Ok(is_drawn)
    }

    /// One chunk of a round.
    async fn give(
        &self,
        drop: &SaleDrop,
        line: &Line,
        begin: Option<Begin>,
        memory: &mut LineMemory,
        report: &mut LineReport,
    ) -> Result<bool, EngineError> {
        let mut order = match memory.orders.remove(&drop.id) {
            Some(order) if (order.chunk, order.round) == (line.chunk, line.round) => order,
            _ => self.read_order(drop.id, line).await?,
        };
        if begin.is_some() {
            // Who has joined since stands behind.
            let last = order.last_number;
            for later in self.ledger.line_list(drop.id, last).await? {
                order.push(&later);
            }
        }
        // Dropped should it fail: then the next look reads it anew.
        let chunk = self.ledger.give_chunk(drop, &mut order, begin, RANKS_PER_CHUNK, &self.clock).await?;
        let Chunk::Given { decided, awarded, .. } = chunk else { return Ok(false) };
        report.decided += decided;
        report.awarded += awarded;
        metrics::counter!("doorbuster_line_decided_total").increment(decided as u64);
        metrics::counter!("doorbuster_line_awarded_total").increment(awarded as u64);
        if awarded > 0 {
            self.payments_written.notify_one();
        }
        memory.orders.insert(drop.id, order);
        Ok(true)
    }

    /// The order of a line as the database has it: one pass over its entries.
    async fn read_order(&self, drop: DropId, line: &Line) -> Result<OrderOfLine, EngineError> {
        let (Some(sealed), Some(drawn)) = (line.sealed, &line.drawn) else {
            return Ok(OrderOfLine::default());
        };
        let list = self.ledger.line_list(drop, 0).await?;
        let last_number = list.last().map_or(sealed.number, |last| last.number.max(sealed.number));
        let (sealed_list, later): (Vec<_>, Vec<_>) = list.into_iter().partition(|entry| entry.number <= sealed.number);
        let sealed_list = sorted(sealed_list, sealed.number);
        if sealed_list.len() != sealed.count as usize {
            let (table, column, row) = ("line_entries", "number", drop.0.to_string());
            let value = format!("a list of {} instead of {}", sealed_list.len(), sealed.count);
            return Err(LedgerError::Inconsistent { table, column, row, value }.into());
        }
        let seed = drawn.seed.0;
        let in_order = shuffle::order(sealed.count, &seed);
        let entries = in_order.into_iter().map(|index| sealed_list[index as usize]).chain(later).collect::<Vec<_>>();
        let stands_by = |rank: u32| entries[rank as usize].state == EntryState::Waiting;
        let wishes = entries.iter().map(|entry| entry.entry.wish).collect();
        Ok(OrderOfLine {
            allocation: Allocation::resume(wishes, stands_by, line.position),
            numbers: entries.iter().map(|entry| entry.number).collect(),
            last_number,
            chunk: line.chunk,
            round: line.round,
        })
    }

    /// What a line has left goes on sale.
    async fn open_behind_line(&self, drop: &SaleDrop, line: &Line) -> Result<bool, EngineError> {
        // Nothing may hinder the opening once the line is over.
        let problems = self.configuration_problems(std::slice::from_ref(drop)).await?;
        if !problems.is_empty() || self.tokens.check_spread(drop).await?.is_err() {
            tracing::warn!(drop = %drop.name, ?problems, "what the line of {} has left cannot go on sale", drop.name);
            return Ok(false);
        }
        let order = self.read_order(drop.id, line).await?;
        let standing_by = order.allocation.standing_by(MAX_LINE_PLACES as usize);
        let standing_by = standing_by.into_iter().map(|(rank, variant)| (order.numbers[rank as usize], variant));
        let is_over = self.ledger.open_behind_line(drop, &standing_by.collect::<Vec<_>>(), self.clock.now()).await?;
        if is_over {
            self.open_drop(&drop.name).await?.map_err(|_| EngineError::Moving)?;
        }
        Ok(is_over)
    }
}

impl OrderOfLine {
    /// Somebody who joined behind all that are known.
    fn push(&mut self, entry: &SealedEntry) {
        self.allocation.push(entry.entry.wish);
        self.numbers.push(entry.number);
        self.last_number = entry.number;
    }
}

/// The sealed list in the order of its leaves.
fn sorted(mut list: Vec<SealedEntry>, last_number: u32) -> Vec<SealedEntry> {
    list.retain(|entry| entry.number <= last_number);
    list.sort_unstable_by_key(|entry| entry.entry.id);
    list
}

/// Half a second of hashing for a million entries, which no other task waits for.
async fn root_of(list: Vec<Entry>) -> Digest {
    let root = tokio::task::spawn_blocking(move || tree::root(tree::leaves(&list))).await;
    root.expect("hashing does not panic, and the program runs until the worker has stopped")
}

/// What decides a draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Pulse(Pulse),
    /// Typed by two people, with the shop's secret.
    Result {
        result: String,
        secret: Vec<u8>,
    },
    Secret(Vec<u8>),
}

impl Answer {
    /// As it is stored: it is published from there.
    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Pulse(pulse) => pulse.signature.0.to_vec(),
            Self::Result { result, secret } => [secret, result.as_bytes()].concat(),
            Self::Secret(secret) => secret.clone(),
        }
    }
}

/// The seed that an answer makes. `None`: the line is not that far.
fn seed_of(drop: &SaleDrop, line: &Line, answer: &Answer) -> Option<Digest> {
    let (rules, sealed, root) = (line.rules.as_ref()?, line.sealed?, line.root?);
    let sealed = Sealed { drop: drop.name.as_str(), rules: hash_of(rules), count: sealed.count, root };
    let chance = match (answer, &line.terms.beacon) {
        (Answer::Pulse(pulse), Beacon::Drand(chain)) => {
            Chance::Drand { chain: &chain.chain_hash, round: pulse.round, randomness: &pulse.randomness }
        }
        (Answer::Result { result, secret }, _) => Chance::Manual { result, secret },
        (Answer::Secret(secret), _) => Chance::None { secret },
        (Answer::Pulse(_), _) => return None,
    };
    Some(Hex(draw::seed(&sealed, &chance)))
}
