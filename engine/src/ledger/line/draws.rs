//! From the seal to the draw: what is written down about the list, once each, and in time.

use std::collections::HashMap;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::mails::place_of;
use super::rows::{lock_drop, read_line, write_change};
use crate::domain::claims::Quantity;
use crate::domain::drops::SaleDrop;
use crate::domain::ids::{BuyerId, DropId, VariantNumber};
use crate::domain::line::draw::Step;
use crate::domain::line::entries::{Entry, EntryId};
use crate::domain::line::hex::{Digest, Hex};
use crate::domain::line::merge::merge;
use crate::domain::line::rounds::{Choices, Wish};
use crate::domain::line::schedule::undecided;
use crate::domain::line::state::{EntryState, LineState};
use crate::domain::notices::Notice;
use crate::ledger::drops::inconsistent;
use crate::ledger::error::{LedgerError, expect_rows};
use crate::ledger::outbox;
use crate::ledger::pool::Ledger;
use crate::ledger::tx::{planned, run_tx};

/// What a seal came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealing {
    pub count: u32,
    pub merged: u32,
}

/// An entry as the list has it, or behind the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedEntry {
    pub number: u32,
    pub entry: Entry,
    pub state: EntryState,
}

/// The root of a sealed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewRoot {
    pub root: Digest,
    pub count: u32,
    /// The round of the beacon that was to decide, as it was read.
    pub planned: Option<u64>,
    /// The round that decides.
    pub round: Option<u64>,
    /// The latest time for it, by the caller's clock and by that of Postgres: a process that was stopped in between does
    /// not come with a root that it could have chosen.
    pub until: Option<Timestamp>,
}

impl Ledger {
    /// Completes the list: merges the entries of one card, and counts. Joins and leaves take the counter, so each is either
    /// in the list that is counted here or behind it. `None`: the line is not open.
    pub async fn seal_line(
        &self,
        drop: DropId,
        beacon_round: Option<u64>,
        now: Timestamp,
    ) -> Result<Option<Sealing>, LedgerError> {
        run_tx!(self, "draws.seal", tx, {
            let Some(line) = read_line(tx, drop, "for no key update of l").await? else { return Ok(None) };
            if line.state != LineState::Open {
                return Ok(None);
            }
            const COUNTER: &str = "-- draws.lock_counter_to_seal
                select next from line_counters where drop_id = $1 for no key update";
            const COUNT: &str = "-- draws.count_sealed
                select count(*) from line_entries where drop_id = $1 and state is null";
            const SEAL: &str = "-- draws.seal
                update lines set state = 'SEALED', sealed_number = $2, sealed_count = $3, sealed_at = $4, beacon_round = $5,
                       version = version + 1
                where drop_id = $1";
            let next: i32 = tx.query_one(COUNTER, &[&drop.0]).await?.get(0);
            let merged = if line.terms.requires_card { merge_cards(tx, drop, now).await? } else { 0 };
            let count: i64 = tx.query_one(COUNT, &[&drop.0]).await?.get(0);
            let count = u32::try_from(count).map_err(|_| inconsistent("line_entries", "count", drop.0, "too many"))?;
            let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
                &[&drop.0, &(next - 1), &count.cast_signed(), /* now */ &now, &beacon_round.map(u64::cast_signed)];
            tx.execute(SEAL, arguments).await?;
            Ok(Some(Sealing { count, merged }))
        })
    }

    /// The sealed list, unsorted, and behind it who came later, by number. Whoever has left since is there all the same.
    pub async fn line_list(&self, drop: DropId, above: u32) -> Result<Vec<SealedEntry>, LedgerError> {
        const SQL: &str = "-- draws.list
            select number, entry_id, quantity, choice1, choice2, choice3, state from line_entries
            where drop_id = $1 and number > $2 and coalesce(state, '') not in ('LEFT', 'MERGED')
            order by number limit $3";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let (mut list, mut above) = (Vec::new(), above.cast_signed());
        loop {
            let rows = connection.query(&statement, &[&drop.0, /* above */ &above, &LIST_PAGE]).await?;
            for row in &rows {
                above = row.get(0);
                let wrong = |column: &'static str| inconsistent("line_entries", column, above, "out of bounds");
                let choices = (3..6).map_while(|column| row.get::<_, Option<i16>>(column));
                let choices = choices.map(|variant| VariantNumber(variant as u8)).collect::<Vec<_>>();
                list.push(SealedEntry {
                    number: above.cast_unsigned(),
                    entry: Entry {
                        id: EntryId(Hex(row.get::<_, &[u8]>(1).try_into().map_err(|_| wrong("entry_id"))?)),
                        wish: Wish {
                            quantity: Quantity::new(row.get::<_, i16>(2).into()).map_err(|_| wrong("quantity"))?,
                            choices: Choices::new(&choices).map_err(|_| wrong("choice1"))?,
                        },
                    },
                    state: EntryState::of_column(row.get(6)).ok_or_else(|| wrong("state"))?,
                });
            }
            if (rows.len() as i64) < LIST_PAGE {
                return Ok(list);
            }
        }
    }

    /// Writes the root down. It counts once it has been seen before the beacon's round ([`Ledger::confirm_root`]).
    pub async fn root_line(&self, drop: DropId, root: &NewRoot, now: Timestamp) -> Result<bool, LedgerError> {
        run_tx!(self, "draws.root", tx, {
            const SQL: &str = "-- draws.root
                update lines set state = 'ROOTED', root = $4, rooted_at = $6, root_seen_at = null, beacon_round = $7,
                       version = version + 1
                where drop_id = $1 and state = 'SEALED' and beacon_round is not distinct from $2 and sealed_count = $3
                      and coalesce($6::timestamptz <= $5::timestamptz and clock_timestamp() <= $5, true)";
            // It is written and committed at once, or not at all.
            const AT_ONCE: &str = "-- draws.at_once
                set local statement_timeout = '5s'; set local idle_in_transaction_session_timeout = '5s'";
            read_line(tx, drop, "for no key update of l").await?;
            tx.batch_execute(AT_ONCE).await?;
            let (planned, round) = (root.planned.map(u64::cast_signed), root.round.map(u64::cast_signed));
            let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
                &drop.0,
                &planned,
                /* count */ &root.count.cast_signed(),
                /* root */ &root.root.0.as_slice(),
                /* until */ &root.until,
                /* now */ &now,
                &round,
            ];
            Ok(tx.execute(SQL, arguments).await? == 1)
        })
    }

    /// Notes that the root is written down: in a transaction behind the one that wrote it, so whoever saw it then saw what
    /// cannot be changed any more. `before`: when the beacon speaks.
    pub async fn confirm_root(
        &self,
        drop: DropId,
        round: Option<u64>,
        before: Option<Timestamp>,
    ) -> Result<bool, LedgerError> {
        run_tx!(self, "draws.confirm_root", tx, {
            const SQL: &str = "-- draws.confirm_root
                update lines set root_seen_at = clock_timestamp(), version = version + 1
                where drop_id = $1 and state = 'ROOTED' and beacon_round is not distinct from $2 and root_seen_at is null
                      and coalesce(clock_timestamp() < $3::timestamptz, true)
                returning root, rooted_at, sealed_count";
            let beacon_round = round;
            let round = round.map(u64::cast_signed);
            let Some(row) = tx.query_opt(SQL, &[&drop.0, &round, /* before */ &before]).await? else {
                return Ok(false);
            };
            let root: Vec<u8> = row.get(0);
            let digest =
                root.as_slice().try_into().map_err(|_| inconsistent("lines", "root", drop.0, "not 32 bytes"))?;
            let count = row.get::<_, i32>(2).cast_unsigned();
            let notice = Notice::DropSealed { count, root: Hex(digest), beacon_round };
            outbox::enqueue_of_drop(tx, drop, &notice, row.get(1)).await?;
            write_draw(tx, drop, "rooted", (round.unwrap_or_default(), None), Some(&root), row.get(1)).await?;
            Ok(true)
        })
    }

    /// Writes down that a later round of the beacon decides. `false`: somebody was faster.
    pub async fn postpone_line(
        &self,
        drop: DropId,
        round: u64,
        to: u64,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool, LedgerError> {
        run_tx!(self, "draws.postpone", tx, {
            const SQL: &str = "-- draws.postpone
                update lines set beacon_round = $3, version = version + 1
                where drop_id = $1 and state = 'SEALED' and beacon_round = $2 and $5::timestamptz < $4::timestamptz and clock_timestamp() < $4";
            let (round, to) = (round.cast_signed(), to.cast_signed());
            let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
                &[&drop.0, &round, &to, &until, /* now */ &now];
            let is_postponed = tx.execute(SQL, arguments).await? == 1;
            if is_postponed {
                write_draw(tx, drop, "postponed", (round, Some(to)), None, now).await?;
            }
            Ok(is_postponed)
        })
    }

    /// Writes down that a round of the beacon came before the root was seen, and counts for nothing: the root comes first now.
    pub async fn void_round(&self, drop: DropId, round: u64, now: Timestamp) -> Result<bool, LedgerError> {
        run_tx!(self, "draws.void", tx, {
            const SQL: &str = "-- draws.void
                update lines l set state = 'SEALED', beacon_round = null, root = null, rooted_at = null,
                       version = l.version + 1
                from lines before
                where l.drop_id = $1 and before.drop_id = l.drop_id and l.beacon_round = $2
                      and (l.state = 'SEALED' or (l.state = 'ROOTED' and l.root_seen_at is null))
                returning before.root";
            read_line(tx, drop, "for no key update of l").await?;
            let round = round.cast_signed();
            let Some(row) = tx.query_opt(SQL, &[&drop.0, &round]).await? else { return Ok(false) };
            let root: Option<Vec<u8>> = row.get(0);
            write_draw(tx, drop, "void", (round, None), root.as_deref(), now).await?;
            Ok(true)
        })
    }

    /// Writes down what the beacon said and the seed that it makes. From then on everybody's rank is known. A draw that comes
    /// behind the opening has kept rounds from being held. `false`: somebody was faster.
    pub async fn draw_line(
        &self,
        drop: DropId,
        beacon_round: Option<u64>,
        seed: Digest,
        answer: &[u8],
        now: Timestamp,
    ) -> Result<bool, LedgerError> {
        run_tx!(self, "draws.draw", tx, {
            const SQL: &str = "-- draws.draw
                update lines l set state = 'DRAWN', seed = $3, beacon_answer = $4, drawn_at = $5, version = version + 1,
                       paused_ms = paused_ms
                           + greatest(0, (extract(epoch from $5::timestamptz - d.opens_at) * 1000)::bigint),
                       paused_at = case when paused_at is not null then $5::timestamptz end
                from drops d
                where l.drop_id = $1 and d.drop_id = l.drop_id and l.state = 'ROOTED'
                      and l.beacon_round is not distinct from $2 and l.root_seen_at is not null";
            let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
                &drop.0,
                &beacon_round.map(u64::cast_signed),
                /* seed */ &seed.0.as_slice(),
                /* answer */ &answer,
                /* now */ &now,
            ];
            let line = read_line(tx, drop, "for no key update of l").await?;
            let is_drawn = tx.execute(SQL, arguments).await? == 1;
            if let Some(sealed) = line.and_then(|line| line.sealed).filter(|_| is_drawn) {
                let notice = Notice::DropDrawn { count: sealed.count, seed, beacon_round };
                outbox::enqueue_of_drop(tx, drop, &notice, now).await?;
            }
            Ok(is_drawn)
        })
    }

    /// Everything that was decided about the root, in order: it is published.
    pub async fn line_steps(&self, drop: DropId) -> Result<Vec<(Step, Option<Digest>)>, LedgerError> {
        const SQL: &str = "-- draws.steps
            select kind, beacon_round, to_round, root, decided_at from line_draws where drop_id = $1 order by try";
        let rows = self.connection().await?.query(SQL, &[&drop.0]).await?;
        let step = |row: &Row| {
            let root = row.get::<_, Option<Vec<u8>>>(3);
            let wrong = |_| inconsistent("line_draws", "root", drop.0, "not 32 bytes");
            let root = root.map(|root| root.try_into().map(Hex).map_err(wrong)).transpose()?;
            let (round, at) = (row.get::<_, i64>(1).cast_unsigned(), row.get(4));
            let step = match row.get(0) {
                "postponed" => Step::Postponed { round, to: row.get::<_, i64>(2).cast_unsigned(), at },
                "void" => Step::Void { round, at, late_root: root },
                _ => Step::Rooted { round, at },
            };
            Ok((step, root))
        };
        rows.iter().map(step).collect()
    }

    /// The result that two people have typed alike, with the shop's secret.
    pub async fn agreed_result(&self, drop: DropId) -> Result<Option<(String, Vec<u8>)>, LedgerError> {
        const SQL: &str = "-- draws.agreed_result
            select r.result, s.secret from line_results r join line_secrets s using (drop_id)
            where drop_id = $1 group by r.result, s.secret having count(*) >= 2 order by min(r.typed_at) limit 1";
        let row = self.connection().await?.query_opt(SQL, &[&drop.0]).await?;
        Ok(row.map(|row| (row.get(0), row.get(1))))
    }

    /// Notes what somebody has typed as the result that a draw waits for.
    pub async fn type_result(&self, drop: DropId, by: &str, result: &str, now: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- draws.type_result
            insert into line_results (drop_id, typed_by, result, typed_at) values ($1, $2, $3, $4)
            on conflict (drop_id, typed_by) do update set result = excluded.result, typed_at = excluded.typed_at";
        self.connection().await?.execute(SQL, &[&drop.0, &by, &result, /* now */ &now]).await?;
        Ok(())
    }

    /// The shop's own part of a draw.
    pub async fn line_secret(&self, drop: DropId) -> Result<Option<Vec<u8>>, LedgerError> {
        const SQL: &str = "-- draws.secret\nselect secret from line_secrets where drop_id = $1";
        let row = self.connection().await?.query_opt(SQL, &[&drop.0]).await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Sells what a line has left to who claims first: its drop begins to open. `standing_by` become places in standby, in
    /// this order, unless they have left meanwhile. `false`: the line is over, or somebody has joined who was not decided.
    pub async fn open_behind_line(
        &self,
        drop: &SaleDrop,
        standing_by: &[(u32, VariantNumber)],
        now: Timestamp,
    ) -> Result<bool, LedgerError> {
        let (sale, drop) = (drop, drop.id);
        run_tx!(self, "draws.then_open", tx, {
            const DROP: &str = "-- draws.open_drop
                update drops set state = 'opening' where drop_id = $1 and state = 'lining'";
            const LINE: &str = "-- draws.end
                update lines set state = 'CLOSED', version = version + 1 where drop_id = $1 and state = 'DRAWN'";
            const COUNTER: &str = "-- draws.lock_counter_to_open
                select next - 1 from line_counters where drop_id = $1 for no key update";
            lock_drop(tx, drop).await?;
            let Some(line) = read_line(tx, drop, "for no key update of l").await? else { return Ok(false) };
            let last_number = tx.query_one(COUNTER, &[&drop.0]).await?.get::<_, i32>(0).cast_unsigned();
            let is_decided = !line.is_in_round() && undecided(&line, last_number) == 0;
            if line.state != LineState::Drawn || !is_decided || tx.execute(DROP, &[&drop.0]).await? == 0 {
                return Ok(false);
            }
            stand_by(tx, sale, standing_by, now).await?;
            expect_rows("draws.end", 1, tx.execute(LINE, &[&drop.0]).await?)?;
            write_change(tx, drop, "opened", None, now).await?;
            let notice = Notice::LineClosed { served: line.position.served, goes_on_sale: true };
            outbox::enqueue_of_drop(tx, drop, &notice, now).await?;
            Ok(true)
        })
    }
}

/// Gives those who stand by a place in standby, for what they like best.
async fn stand_by(
    tx: &Transaction<'_>,
    drop: &SaleDrop,
    standing_by: &[(u32, VariantNumber)],
    now: Timestamp,
) -> Result<(), LedgerError> {
    const BUYERS: &str = "-- draws.standing_by
        select number, buyer from line_entries where drop_id = $1 and number = any($2) and state is null";
    const INSERT: &str = "-- draws.stand_by
        insert into standby_places (drop_id, variant_number, buyer, quantity, warehouse_id, state, joined_at)
        select e.drop_id, s.variant, e.buyer, e.quantity, s.home, 'WAITING', $5
        from unnest($2::int[], $3::smallint[], $4::int[]) with ordinality as s (number, variant, home, nth)
             join line_entries e on e.drop_id = $1 and e.number = s.number
        order by s.nth
        on conflict do nothing";
    let numbers = standing_by.iter().map(|(number, _)| number.cast_signed()).collect::<Vec<_>>();
    let rows = planned(tx, BUYERS, &[&drop.id.0, &numbers]).await?;
    let home = |row: &Row| {
        let buyer: BuyerId =
            row.get::<_, &str>(1).parse().map_err(|_| inconsistent("line_entries", "buyer", drop.id.0, row.get(1)))?;
        Ok((row.get::<_, i32>(0), drop.home_of(&buyer).id.0))
    };
    let homes = rows.iter().map(home).collect::<Result<HashMap<_, _>, LedgerError>>()?;
    let (mut numbers, mut variants, mut warehouses) = (Vec::new(), Vec::new(), Vec::new());
    for (number, variant) in standing_by {
        let number = number.cast_signed();
        let Some(home) = homes.get(&number) else { continue };
        numbers.push(number);
        variants.push(i16::from(variant.0));
        warehouses.push(*home);
    }
    planned(tx, INSERT, &[&drop.id.0, &numbers, &variants, &warehouses, /* now */ &now]).await?;
    Ok(())
}

/// Entries read in one go.
const LIST_PAGE: i64 = 50_000;

async fn write_draw(
    tx: &Transaction<'_>,
    drop: DropId,
    kind: &str,
    (round, to): (i64, Option<i64>),
    root: Option<&[u8]>,
    at: Timestamp,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- draws.write_draw
        insert into line_draws (drop_id, try, kind, beacon_round, to_round, root, decided_at)
        select $1, coalesce(max(try), 0) + 1, $2, $3, $4, $5, $6 from line_draws where drop_id = $1";
    tx.execute(SQL, &[&drop.0, &kind, &round, &to, &root, /* at */ &at]).await?;
    Ok(())
}

/// Merges the entries of one card: the first one stays. Answers how many were merged.
async fn merge_cards(tx: &Transaction<'_>, drop: DropId, now: Timestamp) -> Result<u32, LedgerError> {
    // Cards of one entry merge nothing, and hardly anybody has another's: a million rows need not come here.
    const CARDS: &str = "-- draws.cards
        select number, fingerprint
        from (select e.number, c.fingerprint, min(e.number) over same as first, max(e.number) over same as last
              from line_entries e join cards c using (buyer)
              where e.drop_id = $1 and e.state is null and c.fingerprint is not null
              window same as (partition by c.fingerprint)) held
        where first <> last order by number";
    const MERGE: &str = "-- draws.merge
        update line_entries e set state = 'MERGED', merged_into = m.into_number, ended_at = $4
        from unnest($2::int[], $3::int[]) as m (number, into_number)
        where e.drop_id = $1 and e.number = m.number and e.state is null
        returning e.number, e.entry_id, e.buyer";
    let rows = planned(tx, CARDS, &[&drop.0]).await?;
    let card = |row: &Row| {
        let card = row
            .get::<_, &[u8]>(1)
            .try_into()
            .map_err(|_| inconsistent("cards", "fingerprint", "a card", "not 32 bytes"));
        card.map(|card| (row.get::<_, i32>(0).cast_unsigned(), Some(Hex(card))))
    };
    let merged = merge(&rows.iter().map(card).collect::<Result<Vec<_>, _>>()?);
    if merged.is_empty() {
        return Ok(0);
    }
    let (numbers, into): (Vec<_>, Vec<_>) =
        merged.iter().map(|merged| (merged.number.cast_signed(), merged.into.cast_signed())).unzip();
    let rows = planned(tx, MERGE, &[&drop.0, &numbers, &into, /* now */ &now]).await?;
    expect_rows("draws.merge", merged.len() as u64, rows.len() as u64)?;
    let notice = |row: &Row| place_of(drop, row).map(|(claim, place)| (claim, Notice::LineMerged { place }));
    outbox::enqueue_of_places(tx, drop, &rows.iter().map(notice).collect::<Result<Vec<_>, _>>()?, now).await?;
    const GONE: &str = "-- draws.count_merged\nupdate line_counters set gone = gone + $2 where drop_id = $1";
    tx.execute(GONE, &[&drop.0, &(merged.len() as i32)]).await?;
    Ok(merged.len() as u32)
}
