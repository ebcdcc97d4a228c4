//! Rounds: units for the next in line. A chunk is one transaction: it decides, moves the units to their buyers' homes and
//! settles them there as claims, so that an award and its order are one thing.
//!
//! Who holds the line's row decides alone. Units that come back meanwhile belong to the next round: nobody but a round takes
//! units of a drop whose buyers stand in line. Two workers hurt nobody: the second finds the row moved on and reads anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::rows::read_line;
use crate::domain::claims::{Claim, Quantity, ToldTotal};
use crate::domain::clock::Clock;
use crate::domain::countries::Country;
use crate::domain::drops::{SaleDrop, Warehouse};
use crate::domain::ids::{BuyerId, ClaimId, DropId, Serial, VariantNumber};
use crate::domain::line::facts::{Decided, facts};
use crate::domain::line::rounds::{Allocation, Facts, Free, Outcome, Phase, Position, Rank};
use crate::domain::line::state::{EntryState, Line, LineState};
use crate::domain::money::Money;
use crate::domain::notices::Notice;
use crate::ledger::drops::{inconsistent, serial, serial_values};
use crate::ledger::error::{LedgerError, expect_rows};
use crate::ledger::grants::lock_inventory;
use crate::ledger::outbox;
use crate::ledger::pool::Ledger;
use crate::ledger::settlements::{ClaimToSettle, Settling, WarehouseLock, settle_locked};
use crate::ledger::tx::planned;
use crate::steps;

/// A round that is to be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    pub round: u32,
    /// Ranks that it decides. None: what came back goes to those who stand by, and the line is over.
    pub per_round: u32,
    pub is_last: bool,
}

/// The order of a line, in the memory of a worker. It is thrown away when a chunk was not committed, and read anew.
pub struct OrderOfLine {
    pub allocation: Allocation,
    /// By rank.
    pub numbers: Vec<u32>,
    /// Of the last who is known to have joined.
    pub last_number: u32,
    /// The line's row as of which this is true.
    pub chunk: u32,
    pub round: Option<u32>,
}

impl Default for OrderOfLine {
    fn default() -> Self {
        Self { allocation: Allocation::new(Vec::new()), numbers: Vec::new(), last_number: 0, chunk: 0, round: None }
    }
}

/// How a chunk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    Given {
        decided: usize,
        awarded: usize,
        is_round_over: bool,
    },
    /// The line has moved on without us: its order is to be read anew.
    Stale,
}

/// What a chunk decided, as it was written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkRow {
    pub round: u32,
    pub at: Timestamp,
    pub per_round: u32,
    /// How many were in line.
    pub ranks: u32,
    pub decided: u32,
    pub served_to: u32,
    /// Before it.
    pub free: Free,
    pub bars: Vec<(Rank, String)>,
    pub dearer: Vec<(Rank, u8)>,
    /// Rank, and the number of the choice from 0.
    pub awards: Vec<(Rank, u8)>,
}

/// Units that were added to the stock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restocked {
    pub at: Timestamp,
    pub variant: VariantNumber,
    pub units: u32,
}

/// An entry under its lock.
struct EntryRow {
    buyer: BuyerId,
    state: EntryState,
    quantity: Quantity,
    choices: Vec<(VariantNumber, Option<ToldTotal>)>,
}

struct Award {
    number: u32,
    claim: Claim,
}

impl Ledger {
    /// Gives the next in line their units: at most `max` ranks of the round that is under way, or of one that begins.
    pub async fn give_chunk(
        &self,
        drop: &SaleDrop,
        order: &mut OrderOfLine,
        begin: Option<Begin>,
        max: usize,
        clock: &Clock,
    ) -> Result<Chunk, LedgerError> {
        // Not `run_tx!`: a second run would need the order as it was before the first.
        let mut connection = self.connection().await?;
        let tx = connection.transaction().await?;
        let Some(line) = read_line(&tx, drop.id, "for no key update of l").await? else { return Ok(Chunk::Stale) };
        let is_ours = line.state == LineState::Drawn
            && (line.chunk, line.round) == (order.chunk, order.round)
            && line.position == order.allocation.position()
            && begin.is_none_or(|begin| begin.is_last || line.paused_at.is_none());
        if !is_ours {
            return Ok(Chunk::Stale);
        }
        if let Some(begin) = begin {
            order.allocation.begin_round(free_units(&tx, drop).await?, begin.per_round);
            order.round = Some(begin.round);
        }
        let before = order.allocation.position();
        let ranks = order.allocation.candidates(max);
        let (facts, rows) = read_facts(&tx, drop, order, &ranks).await?;
        let outcomes = order.allocation.decide(&facts).expect("these are the facts of the candidates, in their order");
        let awards = awards(drop, &outcomes, &rows, &order.numbers);
        give(&tx, drop, &awards, clock).await?;
        order.chunk += 1;
        let now = clock.now();
        let units = awards.iter().map(|award| award.claim.quantity.units()).sum::<u32>();
        write_chunk(&tx, drop.id, order, &before, &facts, &outcomes, (begin, units, now)).await?;
        write_position(&tx, drop.id, &line, order, begin).await?;
        if order.allocation.is_round_over() {
            tell_of_round(&tx, drop.id, order.round.unwrap_or_default(), now).await?;
        }
        steps::passed("line.chunk_decided");
        tx.commit().await?;
        steps::passed("line.chunk_given");
        Ok(Chunk::Given {
            decided: outcomes.len(),
            awarded: awards.len(),
            is_round_over: order.allocation.is_round_over(),
        })
    }

    /// All that was decided, in order.
    pub async fn line_chunks(&self, drop: DropId) -> Result<Vec<ChunkRow>, LedgerError> {
        const SQL: &str = "-- rounds.chunks
            select round, at, per_round, ranks, decided, served_to, free, barred, bars, dearer, dearer_bits, awarded, choices
            from line_chunks where drop_id = $1 order by chunk";
        let connection = self.connection().await?;
        let rows = connection.query(&connection.prepare_cached(SQL).await?, &[&drop.0]).await?;
        let numbers = |row: &Row, column: usize| {
            row.get::<_, Vec<i32>>(column).into_iter().map(i32::cast_unsigned).collect::<Vec<_>>()
        };
        let count = |row: &Row, column: usize| row.get::<_, i32>(column).cast_unsigned();
        rows.iter()
            .map(|row| {
                let free = Free::try_from(numbers(row, 6));
                let bits = row.get::<_, Vec<i16>>(10).into_iter().map(|bits| bits as u8);
                let choices = row.get::<_, Vec<i16>>(12).into_iter().map(|choice| choice as u8);
                Ok(ChunkRow {
                    round: count(row, 0),
                    at: row.get(1),
                    per_round: count(row, 2),
                    ranks: count(row, 3),
                    decided: count(row, 4),
                    served_to: count(row, 5),
                    free: free.map_err(|wrong| inconsistent("line_chunks", "free", drop.0, wrong))?,
                    bars: numbers(row, 7).into_iter().zip(row.get::<_, Vec<String>>(8)).collect(),
                    dearer: numbers(row, 9).into_iter().zip(bits).collect(),
                    awards: numbers(row, 11).into_iter().zip(choices).collect(),
                })
            })
            .collect()
    }

    /// Units that were added to a drop since its line opened.
    pub async fn line_restocks(&self, drop: DropId) -> Result<Vec<Restocked>, LedgerError> {
        const SQL: &str = "-- rounds.restocks
            select at, variant, value from line_changes where drop_id = $1 and what = 'restocked' order by change_id";
        let rows = self.connection().await?.query(SQL, &[&drop.0]).await?;
        let restocked = |row: &Row| Restocked {
            at: row.get(0),
            variant: VariantNumber(row.get::<_, i16>(1) as u8),
            units: row.get::<_, i32>(2).cast_unsigned(),
        };
        Ok(rows.iter().map(restocked).collect())
    }

    /// Notes that rounds were due in which nothing was to be decided.
    pub async fn skip_rounds(&self, drop: DropId, from: Option<u32>, to: u32) -> Result<bool, LedgerError> {
        const SQL: &str = "-- rounds.skip
            update lines set round = $3, version = version + 1
            where drop_id = $1 and round is not distinct from $2 and state = 'DRAWN'";
        let from = from.map(u32::cast_signed);
        let connection = self.connection().await?;
        Ok(connection.execute(SQL, &[&drop.0, /* from */ &from, /* to */ &to.cast_signed()]).await? == 1)
    }

    /// Whether nobody holds some unit of a drop of which Redis knows nothing.
    pub async fn has_free_units(&self, drop: &SaleDrop) -> Result<bool, LedgerError> {
        const SQL: &str = "-- rounds.has_free
            select exists (select 1 from tokens
                           where warehouse_id = any($1) and order_id is null and poisoned_claim is null
                                 and awarded_claim is null and rested_at is null)";
        let warehouses = drop.warehouses.iter().map(|warehouse| warehouse.id.0).collect::<Vec<_>>();
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        Ok(connection.query_one(&statement, &[&warehouses]).await?.get(0))
    }
}

async fn free_units(tx: &Transaction<'_>, drop: &SaleDrop) -> Result<Free, LedgerError> {
    const SQL: &str = "-- rounds.free_units
        select variant_number, count(*) from tokens
        where warehouse_id = any($1) and order_id is null and poisoned_claim is null and awarded_claim is null
              and rested_at is null
        group by variant_number";
    let warehouses = drop.warehouses.iter().map(|warehouse| warehouse.id.0).collect::<Vec<_>>();
    let rows = planned(tx, SQL, &[&warehouses]).await?;
    let units = |row: &Row| {
        let units = u32::try_from(row.get::<_, i64>(1)).unwrap_or(u32::MAX);
        (VariantNumber(row.get::<_, i16>(0) as u8), units)
    };
    Ok(rows.iter().map(units).collect())
}

/// Locks the entries of these ranks, then their buyers' profiles, and says what stands against each.
async fn read_facts(
    tx: &Transaction<'_>,
    drop: &SaleDrop,
    order: &OrderOfLine,
    ranks: &[Rank],
) -> Result<(Vec<Facts>, HashMap<Rank, EntryRow>), LedgerError> {
    const ENTRIES: &str = "-- rounds.lock_entries
        select number, buyer, state, quantity, choice1, choice2, choice3, accepted1, accepted2, accepted3, country
        from (select $1::int as drop_id, number from unnest($2::int[]) as number offset 0) asked
             join line_entries e using (drop_id, number)
        order by number for no key update of e";
    // A settlement reads them again in this transaction: until then they must stay as they are.
    const PROFILES: &str = "-- rounds.lock_profiles
        select buyer, ship_to->>'country' from checkout_profiles where buyer = any($1) order by buyer for share";
    const HELD: &str = "-- rounds.holdings
        select buyer, count(*) from (select distinct $1::int as drop_id, buyer from unnest($2::text[]) as buyer) asked
             join holdings using (drop_id, buyer)
        group by buyer";
    let rank_of = ranks.iter().map(|rank| (order.numbers[*rank as usize], *rank)).collect::<HashMap<_, _>>();
    let numbers = ranks.iter().map(|rank| order.numbers[*rank as usize].cast_signed()).collect::<Vec<_>>();
    let mut rows = HashMap::new();
    for row in &planned(tx, ENTRIES, &[&drop.id.0, &numbers]).await? {
        let number: i32 = row.get(0);
        let wrong = |column| inconsistent("line_entries", column, format!("{}/{number}", drop.id.0), "what cannot be");
        let rank = rank_of.get(&number.cast_unsigned()).ok_or_else(|| wrong("number"))?;
        let country = row.get::<_, Option<&str>>(10).and_then(|country| country.parse::<Country>().ok());
        let choices = (4..7).map_while(|column| row.get::<_, Option<i16>>(column).map(|variant| (column, variant)));
        let choices = choices.map(|(column, variant)| {
            let told = row.get::<_, Option<i64>>(column + 3).zip(country);
            let told = told.map(|(total_minor, country)| ToldTotal { country, total_minor });
            (VariantNumber(variant as u8), told)
        });
        let entry = EntryRow {
            buyer: row.get::<_, &str>(1).parse().map_err(|_| wrong("buyer"))?,
            state: EntryState::of_column(row.get(2)).ok_or_else(|| wrong("state"))?,
            quantity: Quantity::new(row.get::<_, i16>(3).into()).map_err(|_| wrong("quantity"))?,
            choices: choices.collect(),
        };
        rows.insert(*rank, entry);
    }
    expect_rows("rounds.lock_entries", ranks.len() as u64, rows.len() as u64)?;
    let buyers = rows.values().map(|row| row.buyer.as_str()).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
    let profiles = planned(tx, PROFILES, &[&buyers]).await?;
    let addresses =
        profiles.iter().map(|row| (row.get::<_, &str>(0), row.get::<_, Option<&str>>(1))).collect::<HashMap<_, _>>();
    let held = planned(tx, HELD, &[&drop.id.0, &buyers]).await?;
    let held = held.iter().map(|row| (row.get::<_, &str>(0), row.get::<_, i64>(1) as u32)).collect::<HashMap<_, _>>();
    let facts_of = |rank: &Rank| {
        let row = &rows[rank];
        let price =
            |variant: VariantNumber| drop.variant(variant).map_or(Money::zero(drop.currency), |known| known.price);
        let choices = row.choices.iter().map(|(variant, told)| (price(*variant), *told)).collect::<Vec<_>>();
        let decided = Decided {
            rank: *rank,
            state: row.state,
            quantity: row.quantity,
            choices: &choices,
            address: addresses.get(row.buyer.as_str()).copied().flatten(),
            held: held.get(row.buyer.as_str()).copied().unwrap_or_default(),
            limit: drop.buyer_limit,
        };
        facts(&decided, &drop.terms)
    };
    Ok((ranks.iter().map(facts_of).collect(), rows))
}

/// The claims that these decisions make.
fn awards(
    drop: &SaleDrop,
    outcomes: &[(Rank, Outcome)],
    rows: &HashMap<Rank, EntryRow>,
    numbers: &[u32],
) -> Vec<Award> {
    let award = |(rank, outcome): &(Rank, Outcome)| {
        let Outcome::Awarded { choice, variant } = *outcome else { return None };
        let (row, number) = (&rows[rank], numbers[*rank as usize]);
        let claim = Claim {
            id: ClaimId::of_entry(drop.id, &row.buyer, number),
            buyer: row.buyer.clone(),
            variant,
            quantity: row.quantity,
            told: row.choices.get(usize::from(choice)).and_then(|(_, told)| *told),
        };
        Some(Award { number, claim })
    };
    outcomes.iter().filter_map(award).collect()
}

/// Moves units to the homes of those who get them, and makes orders of them.
async fn give(tx: &Transaction<'_>, drop: &SaleDrop, awards: &[Award], clock: &Clock) -> Result<(), LedgerError> {
    if awards.is_empty() {
        return Ok(());
    }
    const WAREHOUSES: &str = "-- rounds.lock_warehouses
        select state from warehouses where drop_id = $1 order by warehouse_id for update";
    const AWARDED: &str = "-- rounds.award
        update line_entries e set state = 'AWARDED', claim_id = a.claim_id, ended_at = $1
        from (select $2::int as drop_id, number, claim_id
              from unnest($3::int[], $4::uuid[]) as u (number, claim_id) offset 0) a
        where e.drop_id = a.drop_id and e.number = a.number and e.state is null
        returning 1";
    let warehouses = tx.query(&tx.prepare_cached(WAREHOUSES).await?, &[&drop.id.0]).await?;
    if let Some(row) = warehouses.iter().find(|row| row.get::<_, &str>(0) != "unloaded") {
        return Err(inconsistent("warehouses", "state", &drop.name, row.get(0)));
    }
    // Every wait for a lock but those of inventory is over: from now on buyers have their time to pay.
    let now = clock.now();
    let given = move_units(tx, drop, awards).await?;
    let claims = given
        .into_iter()
        .map(|(award, serials, home)| ClaimToSettle::without_log(award.claim.clone(), serials, home, now));
    let claims = claims.collect::<Vec<_>>();
    let settled = settle_locked(tx, drop, &claims, Settling::Live, WarehouseLock::Shared, now).await?;
    let is_whole = settled.as_ref().is_some_and(|settled| {
        let orders = settled.settled.iter().collect::<BTreeSet<_>>();
        orders.len() == claims.len() && claims.iter().all(|claim| orders.contains(&claim.claim.id))
    });
    if !is_whole {
        return Err(inconsistent("orders", "order_id", &drop.name, "an award that is no order"));
    }
    let numbers = awards.iter().map(|award| award.number.cast_signed()).collect::<Vec<_>>();
    let ids = awards.iter().map(|award| award.claim.id.0).collect::<Vec<_>>();
    let rows = planned(tx, AWARDED, &[/* now */ &now, &drop.id.0, &numbers, &ids]).await?;
    expect_rows("rounds.award", awards.len() as u64, rows.len() as u64)?;
    let told = outbox::enqueue_for(tx, &ids, &Notice::LineAwarded, now).await?;
    expect_rows("rounds.tell", awards.len() as u64, told)
}

/// Chooses free units for awards and brings them to the homes of their buyers. The caller holds all warehouses.
async fn move_units<'a>(
    tx: &Transaction<'_>,
    drop: &'a SaleDrop,
    awards: &'a [Award],
) -> Result<Vec<(&'a Award, Vec<Serial>, &'a Warehouse)>, LedgerError> {
    const FREE: &str = "-- rounds.choose_units
        select serial, warehouse_id from tokens
        where warehouse_id = any($1) and variant_number = $2 and order_id is null and poisoned_claim is null
              and awarded_claim is null and rested_at is null
        limit $3 for update";
    // By the whole key of each: see `settlement_rows.take_tokens`.
    const MOVE: &str = "-- rounds.move_units
        update tokens t set warehouse_id = u.warehouse_id
        from (select $1::int as drop_id, serial, warehouse_id
              from unnest($2::int[], $3::int[]) as u (serial, warehouse_id) offset 0) u
        where t.drop_id = u.drop_id and t.serial = u.serial
        returning 1";
    const INVENTORY: &str = "-- rounds.move_inventory
        update inventory i set quantity_available = quantity_available + d.units, version = version + 1
        from unnest($2::int[], $3::int[], $4::int[]) as d (variant_id, warehouse_id, units)
        where i.product_id = $1 and i.variant_id = d.variant_id and i.warehouse_id = d.warehouse_id
        returning 1";
    let mut wanted: BTreeMap<VariantNumber, Vec<&Award>> = BTreeMap::new();
    for award in awards {
        wanted.entry(award.claim.variant).or_default().push(award);
    }
    let all = drop.warehouses.iter().map(|warehouse| warehouse.id.0).collect::<Vec<_>>();
    let (mut given, mut moved, mut to) = (Vec::new(), Vec::new(), Vec::new());
    let mut deltas: BTreeMap<(i32, i32), i32> = BTreeMap::new();
    let mut homes = Vec::new();
    for (variant, awards) in wanted {
        let known = drop.variant(variant);
        let variant_id =
            known.ok_or_else(|| inconsistent("line_entries", "choice1", &drop.name, "no variant"))?.variant_id;
        let units = awards.iter().map(|award| i64::from(award.claim.quantity.units())).sum::<i64>();
        let rows = planned(tx, FREE, &[&all, &i16::from(variant.0), &units]).await?;
        expect_rows("rounds.choose_units", units.cast_unsigned(), rows.len() as u64)?;
        let mut free = rows.iter().map(|row| (serial(row.get(0)), row.get::<_, i32>(1)));
        for award in awards {
            let home = drop.home_of(&award.claim.buyer);
            let units = free.by_ref().take(award.claim.quantity.units() as usize).collect::<Vec<_>>();
            homes.push((variant_id, home.id.0));
            for (serial, from) in units.iter().filter(|(_, from)| *from != home.id.0) {
                moved.extend(serial_values(&[*serial]));
                to.push(home.id.0);
                *deltas.entry((variant_id, *from)).or_default() -= 1;
                *deltas.entry((variant_id, home.id.0)).or_default() += 1;
            }
            given.push((award, units.into_iter().map(|(serial, _)| serial).collect(), home));
        }
    }
    // All that this transaction changes, in the one order: a capture takes the same rows without any warehouse.
    let touched = deltas.keys().copied().chain(homes).collect::<BTreeSet<_>>();
    let variants = touched.iter().map(|(variant, _)| *variant).collect::<Vec<_>>();
    let warehouses = touched.iter().map(|(_, warehouse)| *warehouse).collect::<Vec<_>>();
    lock_inventory(tx, drop.product_id, &variants, &warehouses).await?;
    let rows = planned(tx, MOVE, &[&drop.id.0, &moved, &to]).await?;
    expect_rows("rounds.move_units", moved.len() as u64, rows.len() as u64)?;
    deltas.retain(|_, units| *units != 0);
    let variants = deltas.keys().map(|(variant, _)| *variant).collect::<Vec<_>>();
    let warehouses = deltas.keys().map(|(_, warehouse)| *warehouse).collect::<Vec<_>>();
    let units = deltas.values().copied().collect::<Vec<_>>();
    let rows = planned(tx, INVENTORY, &[&drop.product_id, &variants, &warehouses, &units]).await?;
    expect_rows("rounds.move_inventory", deltas.len() as u64, rows.len() as u64)?;
    Ok(given)
}

async fn write_chunk(
    tx: &Transaction<'_>,
    drop: DropId,
    order: &OrderOfLine,
    before: &Position,
    facts: &[Facts],
    outcomes: &[(Rank, Outcome)],
    (begin, units, at): (Option<Begin>, u32, Timestamp),
) -> Result<(), LedgerError> {
    const SQL: &str = "-- rounds.write_chunk
        insert into line_chunks (drop_id, chunk, round, standing, served, served_to, free, per_round, ranks, barred, bars,
                                 dearer, dearer_bits, awarded, choices, decided, units, at)
        select $1, $2, $3, $4, $5, $6, $7, coalesce($8, (select per_round from line_chunks
                                                         where drop_id = $1 and chunk = $2 - 1)),
               $9, $10, $11, $12, $13, $14, $15, $16, $17, $18";
    let barred = facts.iter().filter_map(|facts| facts.bar.map(|bar| (facts.rank.cast_signed(), bar.as_str())));
    let (barred, bars): (Vec<_>, Vec<_>) = barred.unzip();
    let dearer = facts.iter().filter(|facts| facts.dearer > 0);
    let (dearer, bits): (Vec<_>, Vec<_>) =
        dearer.map(|facts| (facts.rank.cast_signed(), i16::from(facts.dearer))).unzip();
    let awarded = outcomes.iter().filter_map(|(rank, outcome)| match outcome {
        Outcome::Awarded { choice, .. } => Some((rank.cast_signed(), i16::from(*choice))),
        _ => None,
    });
    let (awarded, choices): (Vec<_>, Vec<_>) = awarded.unzip();
    let free = before.free.units().iter().map(|units| units.cast_signed()).collect::<Vec<_>>();
    let is_standing = facts.first().is_some_and(|first| first.rank < before.served);
    let (served, served_to) = (before.served.cast_signed(), order.allocation.position().served.cast_signed());
    let round = order.round.unwrap_or_default().cast_signed();
    let per_round = begin.map(|begin| begin.per_round.cast_signed());
    let arguments: &[&(dyn ToSql + Sync)] = &[
        &drop.0,
        /* chunk */ &order.chunk.cast_signed(),
        &round,
        &is_standing,
        &served,
        &served_to,
        &free,
        &per_round,
        /* ranks */ &order.allocation.count().cast_signed(),
        &barred,
        &bars,
        &dearer,
        &bits,
        &awarded,
        &choices,
        /* decided */ &(outcomes.len() as i32),
        /* units */ &units.cast_signed(),
        /* at */ &at,
    ];
    let written = tx.execute(&tx.prepare_cached(SQL).await?, arguments).await?;
    expect_rows("rounds.write_chunk", 1, written)
}

/// Tells the shop's systems what a round came to.
async fn tell_of_round(tx: &Transaction<'_>, drop: DropId, round: u32, now: Timestamp) -> Result<(), LedgerError> {
    const SQL: &str = "-- rounds.sum
        select min(served), max(served_to), coalesce(sum(cardinality(awarded)), 0), coalesce(sum(units), 0),
               coalesce(sum(decided) filter (where standing), 0)
        from line_chunks where drop_id = $1 and round = $2";
    let row = tx.query_one(&tx.prepare_cached(SQL).await?, &[&drop.0, &round.cast_signed()]).await?;
    let rank = |column| row.get::<_, Option<i32>>(column).unwrap_or_default().cast_unsigned();
    let sum = |column| u32::try_from(row.get::<_, i64>(column)).unwrap_or(u32::MAX);
    let (awarded, stood_by) = (sum(2), sum(4));
    // Once nothing is left, the later ranks of a round stand by without being looked at one by one.
    let had_their_turn = rank(1) - rank(0) + stood_by;
    let notice = Notice::LineRound {
        round,
        ranks_from: rank(0),
        ranks_to: rank(1),
        awarded,
        units: sum(3),
        passed_over: had_their_turn.saturating_sub(awarded),
    };
    outbox::enqueue_of_drop(tx, drop, &notice, now).await
}

async fn write_position(
    tx: &Transaction<'_>,
    drop: DropId,
    line: &Line,
    order: &OrderOfLine,
    begin: Option<Begin>,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- rounds.write_position
        update lines set round = $2, served = $3, round_to = $4, standing = $5, standing_after = $6, free = $7, chunk = $8,
               last_round_begun = last_round_begun or $9, version = version + 1
        where drop_id = $1 and chunk = $8 - 1";
    let position = order.allocation.position();
    let (is_standing, after) = match position.phase {
        Phase::StandingBy { after } => (true, after.map(u32::cast_signed)),
        Phase::Next => (false, None),
    };
    let free = position.free.units().iter().map(|units| units.cast_signed()).collect::<Vec<_>>();
    let round = order.round.or(line.round).map(u32::cast_signed);
    let is_last = begin.is_some_and(|begin| begin.is_last);
    let arguments: &[&(dyn ToSql + Sync)] = &[
        &drop.0,
        &round,
        /* served */ &position.served.cast_signed(),
        /* round_to */ &position.end_of_round.cast_signed(),
        &is_standing,
        &after,
        &free,
        /* chunk */ &order.chunk.cast_signed(),
        &is_last,
    ];
    let changed = tx.execute(&tx.prepare_cached(SQL).await?, arguments).await?;
    expect_rows("rounds.write_position", 1, changed)
}
