//! The line's own row: made with its drop, read, and moved from state to state.

use deadpool_postgres::{GenericClient, Transaction};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio_postgres::Row;

use crate::domain::drops::{Admission, DropState, SaleDrop};
use crate::domain::ids::{DropId, DropName};
use crate::domain::line::changes::{ChangeRefused, LineChange, may_change};
use crate::domain::line::hex::Hex;
use crate::domain::line::rounds::{Free, Phase, Position};
use crate::domain::line::state::{Drawn, Line, LineState, Sealed};
use crate::domain::line::terms::{LineTerms, NewLine};
use crate::domain::notices::Notice;
use crate::ledger::drops::{OpeningBegun, inconsistent, name_of, read_drops};
use crate::ledger::error::{LedgerError, expect_rows};
use crate::ledger::outbox;
use crate::ledger::pool::Ledger;
use crate::ledger::rates::copy_to_drop;
use crate::ledger::tx::run_tx;

/// What only this shop knows of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineKeys {
    /// Of the HMAC that makes the entry ids.
    pub entry: [u8; 32],
    /// The seed of the Ed25519 key that signs tickets.
    pub ticket: [u8; 32],
}

/// What the board shows, read by one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoardRow {
    pub line: Line,
    pub drop: DropState,
    pub opens_at: Timestamp,
    pub closes_at: Option<Timestamp>,
    /// The last number that was given.
    pub last_number: u32,
    /// Places that are taken.
    pub in_line: u32,
    /// Places that were left before the seal.
    pub gone: u32,
}

const COLUMNS: &str = "d.admission, l.line_opens_at, l.seal_at, l.reveal_after_seconds, l.every_seconds, l.per_round, l.capacity,
    l.requires_card, l.then_open, l.beacon, l.rules, l.state, l.sealed_number, l.sealed_count, l.sealed_at, l.root,
    l.beacon_round, l.rooted_at, l.seed, l.beacon_answer, l.drawn_at, l.round, l.served, l.round_to, l.standing,
    l.standing_after, l.free, l.chunk, l.paused_at, l.paused_ms, l.message, l.version, l.root_seen_at, l.last_round_begun,
    l.ends_at";

/// The columns behind those of the line.
const BEHIND: usize = 35;

impl Ledger {
    /// The line of a drop, if it has one.
    pub async fn line(&self, drop: DropId) -> Result<Option<Line>, LedgerError> {
        read_line(&self.connection().await?, drop, "").await
    }

    /// What the board shows of a drop's line.
    pub async fn line_board(&self, drop: DropId) -> Result<Option<BoardRow>, LedgerError> {
        let connection = self.connection().await?;
        let sql = format!(
            "-- rows.board
            select {COLUMNS}, d.state, d.opens_at, d.closes_at, c.next, c.joined, c.gone
            from drops d join lines l using (drop_id) join line_counters c using (drop_id) where d.drop_id = $1"
        );
        let statement = connection.prepare_cached(&sql).await?;
        let Some(row) = connection.query_opt(&statement, &[&drop.0]).await? else { return Ok(None) };
        let line = line_of(&row, drop)?;
        let state: &str = row.get(BEHIND);
        let state = DropState::ALL.into_iter().find(|known| known.as_str() == state);
        let opens_at: Option<Timestamp> = row.get(BEHIND + 1);
        let count = |column: usize| row.get::<_, i32>(column).cast_unsigned();
        Ok(Some(BoardRow {
            drop: state.ok_or_else(|| inconsistent("drops", "state", drop.0, row.get(BEHIND)))?,
            opens_at: opens_at.ok_or_else(|| inconsistent("drops", "opens_at", drop.0, "null"))?,
            closes_at: row.get(BEHIND + 2),
            last_number: count(BEHIND + 3) - 1,
            in_line: count(BEHIND + 4).saturating_sub(count(BEHIND + 5)),
            gone: count(BEHIND + 5),
            line,
        }))
    }

    /// What of a line's rows cannot be, by one statement and so of one instant: a rule and what breaks it.
    pub async fn line_faults(&self, drop: DropId) -> Result<Vec<(String, String)>, LedgerError> {
        const SQL: &str = "-- rows.faults
            select 'two_places', 'buyer ' || buyer || ' has ' || count(*) || ' places' from line_entries
            where drop_id = $1 and state is null group by buyer having count(*) > 1
            union all
            select 'award_without_order', 'entry ' || number || ' was awarded and has no order' from line_entries e
            where drop_id = $1 and claim_id is not null
                  and not exists (select 1 from orders o where o.order_id = e.claim_id and o.drop_id = e.drop_id)
            union all
            select 'places_differ', 'the line counts ' || joined || ' places and has ' || there from (
                select c.joined, (select count(*) from line_entries e where e.drop_id = c.drop_id) as there
                from line_counters c where c.drop_id = $1) counted
            where joined <> there
            union all
            select 'list_differs', 'sealed with ' || sealed_count || ' entries, and the list has ' || there from (
                select l.sealed_count, (select count(*) from line_entries e
                                        where e.drop_id = l.drop_id and e.number <= l.sealed_number
                                              and coalesce(e.state, '') not in ('LEFT', 'MERGED')) as there
                from lines l where l.drop_id = $1) counted
            where sealed_count <> there";
        let rows = self.connection().await?.query(SQL, &[&drop.0]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    pub async fn line_keys(&self, drop: DropId) -> Result<Option<LineKeys>, LedgerError> {
        const SQL: &str = "-- rows.keys\nselect entry_key, ticket_key from lines where drop_id = $1";
        let connection = self.connection().await?;
        let row = connection.query_opt(&connection.prepare_cached(SQL).await?, &[&drop.0]).await?;
        row.map(|row| Ok(LineKeys { entry: bytes(&row, 0, drop)?, ticket: bytes(&row, 1, drop)? })).transpose()
    }

    /// Drops whose lines may need something: those that have one, and are neither archived nor over.
    pub async fn drops_in_line(&self) -> Result<Vec<DropName>, LedgerError> {
        const SQL: &str = "-- rows.drops
            select d.name from drops d join lines l using (drop_id)
            where d.state in ('draft', 'lining') and l.state <> 'CLOSED' order by d.drop_id";
        let connection = self.connection().await?;
        let rows = connection.query(&connection.prepare_cached(SQL).await?, &[]).await?;
        rows.iter().map(|row| name_of(row, 0)).collect()
    }

    /// Lets buyers join: the drop stops being a draft, at the rates of this moment, and its rules are fixed. `false`: it is
    /// no draft any more, or not what it was when the rules were written.
    pub async fn open_line(&self, drop: &SaleDrop, rules: &str) -> Result<OpeningBegun, LedgerError> {
        run_tx!(self, "rows.open", tx, keep if OpeningBegun::Begun, {
            const LOCK: &str = "-- rows.lock_draft\nselect state from drops where drop_id = $1 for no key update";
            const MOVE: &str = "-- rows.begin\nupdate drops set state = 'lining' where drop_id = $1";
            const OPEN: &str = "-- rows.open
                update lines set state = 'OPEN', rules = $2, version = version + 1
                where drop_id = $1 and state = 'PLANNED'";
            let row = tx.query_opt(LOCK, &[&drop.id.0]).await?;
            let is_draft = row.is_some_and(|row| row.get::<_, &str>(0) == DropState::Draft.as_str());
            if !is_draft || read_drops(tx, "d.drop_id = $1", &[&drop.id.0]).await?.first() != Some(drop) {
                return Ok(OpeningBegun::OtherState);
            }
            tx.execute(MOVE, &[&drop.id.0]).await?;
            copy_to_drop(tx, drop.id).await?;
            let opened = tx.execute(OPEN, &[&drop.id.0, &rules]).await?;
            expect_rows("rows.open", 1, opened)?;
            let drop = read_drops(tx, "d.drop_id = $1", &[&drop.id.0]).await?.pop();
            match drop.map_or(Ok(()), |drop| drop.check_totals()) {
                Ok(()) => Ok(OpeningBegun::Begun),
                Err(invalid) => Ok(OpeningBegun::Invalid(invalid)),
            }
        })
    }

    /// Holds no rounds for now, or holds them again and takes the board's message back. A round that has begun goes on.
    /// `false`: it was so before, or there is no line that could be.
    pub async fn pause_line(&self, drop: DropId, paused: bool, now: Timestamp) -> Result<bool, LedgerError> {
        run_tx!(self, "rows.pause", tx, {
            let Some(line) = read_line(tx, drop, "for no key update of l").await? else { return Ok(false) };
            if line.state == LineState::Closed || line.paused_at.is_some() == paused {
                return Ok(false);
            }
            // Only what falls behind the opening holds rounds up.
            const SQL: &str = "-- rows.pause
                update lines l set paused_at = case when $2 then $3::timestamptz end, message = case when $2 then message end,
                    version = version + 1,
                    paused_ms = paused_ms + case when $2 then 0 else greatest(0, (extract(epoch from $3::timestamptz
                        - greatest(l.paused_at, d.opens_at)) * 1000)::bigint) end
                from drops d where d.drop_id = l.drop_id and l.drop_id = $1";
            tx.execute(SQL, &[&drop.0, &paused, /* now */ &now]).await?;
            write_change(tx, drop, if paused { "paused" } else { "resumed" }, None, now).await?;
            Ok(true)
        })
    }

    /// Changes what may be changed about a line. `None`: there is none.
    pub async fn change_line(
        &self,
        drop: DropId,
        change: &LineChange,
        now: Timestamp,
    ) -> Result<Option<Result<(), ChangeRefused>>, LedgerError> {
        run_tx!(self, "rows.change", tx, {
            const SQL: &str = "-- rows.change
                update lines set message = case when $2 then $3 else message end, per_round = coalesce($4, per_round),
                       version = version + 1
                where drop_id = $1";
            let Some(line) = read_line(tx, drop, "for no key update of l").await? else { return Ok(None) };
            if let Err(refused) = may_change(&line, change) {
                return Ok(Some(Err(refused)));
            }
            let message = change.message.as_ref().map(Option::as_deref);
            let per_round = change.per_round.map(u32::cast_signed);
            let is_said = message.is_some();
            tx.execute(SQL, &[&drop.0, &is_said, /* message */ &message.flatten(), &per_round]).await?;
            // What the rules say counts until they are published.
            let is_faster = per_round.filter(|_| line.state != LineState::Planned);
            if let Some(per_round) = is_faster.filter(|faster| *faster != line.terms.per_round.cast_signed()) {
                write_change(tx, drop, "per_round", Some((None, per_round)), now).await?;
            }
            Ok(Some(Ok(())))
        })
    }

    /// Notes that a line is to end now: its worker holds the last round and closes it.
    pub async fn end_line(&self, drop: DropId, now: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- rows.end
            update lines set ends_at = $2, version = version + 1 where drop_id = $1 and ends_at is null";
        self.connection().await?.execute(SQL, &[&drop.0, /* now */ &now]).await?;
        Ok(())
    }

    /// Ends a line together with its drop. `false`: a round is under way, or the drop is in no line.
    pub async fn close_line(&self, drop: DropId, now: Timestamp) -> Result<bool, LedgerError> {
        run_tx!(self, "rows.close", tx, {
            const DROP: &str = "-- rows.close_drop
                update drops set state = 'closed' where drop_id = $1 and state in ('lining', 'closed')";
            const LINE: &str = "-- rows.close
                update lines set state = 'CLOSED', paused_at = null, version = version + 1
                where drop_id = $1 and state <> 'CLOSED'";
            // Joins look at the line behind the counter: none can come behind this.
            const COUNTER: &str = "-- rows.lock_counter_to_close
                select 1 from line_counters where drop_id = $1 for no key update";
            lock_drop(tx, drop).await?;
            let line = read_line(tx, drop, "for no key update of l").await?;
            // A round goes to its end first.
            if line.as_ref().is_none_or(|line| line.state == LineState::Drawn && line.is_in_round())
                || tx.execute(DROP, &[&drop.0]).await? == 0
            {
                return Ok(false);
            }
            tx.query(COUNTER, &[&drop.0]).await?;
            if tx.execute(LINE, &[&drop.0]).await? == 1 {
                write_change(tx, drop, "closed", None, now).await?;
                let served = line.map_or(0, |line| line.position.served);
                let notice = Notice::LineClosed { served, goes_on_sale: false };
                outbox::enqueue_of_drop(tx, drop, &notice, now).await?;
            }
            Ok(true)
        })
    }
}

pub(super) async fn lock_drop(tx: &Transaction<'_>, drop: DropId) -> Result<(), LedgerError> {
    const SQL: &str = "-- rows.lock_drop\nselect 1 from drops where drop_id = $1 for no key update";
    tx.query_opt(&tx.prepare_cached(SQL).await?, &[&drop.0]).await?;
    Ok(())
}

/// Notes a change of what the rules said, for whoever checks the rounds.
pub(in crate::ledger) async fn write_change(
    tx: &Transaction<'_>,
    drop: DropId,
    what: &str,
    value: Option<(Option<i16>, i32)>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- rows.write_change
        insert into line_changes (drop_id, at, what, variant, value) values ($1, $2, $3, $4, $5)";
    let (variant, value) = value.map_or((None, None), |(variant, value)| (variant, Some(value)));
    tx.execute(&tx.prepare_cached(SQL).await?, &[&drop.0, /* now */ &now, &what, &variant, &value]).await?;
    Ok(())
}

/// Makes the line of a new drop, with keys of its own.
pub(in crate::ledger) async fn insert_line(tx: &Transaction<'_>, drop: i32, new: &NewLine) -> Result<(), LedgerError> {
    const LINE: &str = "-- rows.new
        insert into lines (drop_id, line_opens_at, seal_at, reveal_after_seconds, every_seconds, per_round, capacity,
                           requires_card, then_open, beacon, entry_key, ticket_key)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    const SECRET: &str = "-- rows.new_secret\ninsert into line_secrets (drop_id, secret) values ($1, $2)";
    const COUNTER: &str = "-- rows.new_counter\ninsert into line_counters (drop_id) values ($1)";
    const MAILS: &str = "-- rows.new_mails\ninsert into line_mails (drop_id) values ($1)";
    let terms = &new.terms;
    let keys = LineKeys { entry: rand::random(), ticket: rand::random() };
    let beacon = serde_json::to_value(&terms.beacon).expect("a beacon's parameters are texts and numbers");
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &drop,
        &terms.line_opens_at,
        &terms.seal_at,
        /* reveal_after_seconds */ &(terms.reveal_after.as_secs() as i32),
        /* every_seconds */ &(terms.round_every.as_secs() as i32),
        &terms.per_round.cast_signed(),
        &terms.capacity.cast_signed(),
        &terms.requires_card,
        &terms.then_open,
        &beacon,
        /* entry_key */ &keys.entry.as_slice(),
        /* ticket_key */ &keys.ticket.as_slice(),
    ];
    tx.execute(LINE, arguments).await?;
    tx.execute(COUNTER, &[&drop]).await?;
    tx.execute(MAILS, &[&drop]).await?;
    if let Some(secret) = &new.secret {
        tx.execute(SECRET, &[&drop, &secret.as_slice()]).await?;
    }
    Ok(())
}

/// The line of a drop as it is, or as it is once its row is locked.
pub(super) async fn read_line(
    client: &impl GenericClient,
    drop: DropId,
    lock: &'static str,
) -> Result<Option<Line>, LedgerError> {
    let sql = format!(
        "-- rows.read
        select {COLUMNS} from lines l join drops d using (drop_id) where l.drop_id = $1 {lock}"
    );
    let row = client.query_opt(&client.prepare_cached(&sql).await?, &[&drop.0]).await?;
    row.map(|row| line_of(&row, drop)).transpose()
}

fn line_of(row: &Row, drop: DropId) -> Result<Line, LedgerError> {
    let wrong = |column: &'static str, value: &str| inconsistent("lines", column, drop.0, value);
    let (admission, state): (&str, &str) = (row.get(0), row.get(11));
    let admission = Admission::ALL.into_iter().find(|known| known.as_str() == admission);
    let number = |column: usize| row.get::<_, i32>(column).cast_unsigned();
    let beacon: Value = row.get(9);
    let sealed = row.get::<_, Option<i32>>(12).zip(row.get::<_, Option<i32>>(13)).zip(row.get(14));
    let seed = row.get::<_, Option<Vec<u8>>>(18);
    let seed = seed.map(|seed| seed.try_into().map(Hex).map_err(|_| wrong("seed", "not 32 bytes"))).transpose()?;
    let root = row.get::<_, Option<Vec<u8>>>(15);
    let root = root.map(|root| root.try_into().map(Hex).map_err(|_| wrong("root", "not 32 bytes"))).transpose()?;
    let drawn = seed.zip(row.get::<_, Option<Vec<u8>>>(19)).zip(row.get(20));
    let free: Vec<i32> = row.get(26);
    let free = free.into_iter().map(i32::cast_unsigned).collect::<Vec<_>>();
    Ok(Line {
        terms: LineTerms {
            admission: admission.ok_or_else(|| wrong("admission", row.get(0)))?,
            line_opens_at: row.get(1),
            seal_at: row.get(2),
            reveal_after: SignedDuration::from_secs(row.get::<_, i32>(3).into()),
            round_every: SignedDuration::from_secs(row.get::<_, i32>(4).into()),
            per_round: number(5),
            capacity: number(6),
            requires_card: row.get(7),
            then_open: row.get(8),
            beacon: serde_json::from_value(beacon.clone()).map_err(|_| wrong("beacon", &beacon.to_string()))?,
        },
        rules: row.get(10),
        state: LineState::ALL
            .into_iter()
            .find(|known| known.as_str() == state)
            .ok_or_else(|| wrong("state", row.get(11)))?,
        sealed: sealed.map(|((last, count), at)| Sealed {
            number: last.cast_unsigned(),
            count: count.cast_unsigned(),
            at,
        }),
        root,
        beacon_round: row.get::<_, Option<i64>>(16).map(i64::cast_unsigned),
        rooted_at: row.get(17),
        root_seen_at: row.get(32),
        drawn: drawn.map(|((seed, answer), at)| Drawn { seed, answer, at }),
        round: row.get::<_, Option<i32>>(21).map(i32::cast_unsigned),
        position: Position {
            served: number(22),
            end_of_round: number(23),
            phase: if row.get(24) {
                Phase::StandingBy { after: row.get::<_, Option<i32>>(25).map(i32::cast_unsigned) }
            } else {
                Phase::Next
            },
            free: Free::try_from(free).map_err(|_| wrong("free", "more variants than a drop has"))?,
        },
        chunk: number(27),
        last_round_begun: row.get(33),
        paused_at: row.get(28),
        paused: SignedDuration::from_millis(row.get(29)),
        message: row.get(30),
        ends_at: row.get(34),
        version: row.get::<_, i64>(31).cast_unsigned(),
    })
}

fn bytes(row: &Row, column: usize, drop: DropId) -> Result<[u8; 32], LedgerError> {
    let bytes: Vec<u8> = row.get(column);
    bytes.try_into().map_err(|_| inconsistent("lines", "keys", drop.0, "not 32 bytes"))
}
