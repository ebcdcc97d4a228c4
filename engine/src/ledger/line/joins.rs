//! Who joins a line, changes a wish, leaves: each is committed before it is answered.
//!
//! Many joins are one transaction (ledger/group.rs). It takes the counter of the line, and nothing else that anybody waits
//! for: it reads the line's state behind that lock, so nobody joins a list that has been sealed, or a line that is closed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use deadpool_postgres::Transaction;
use futures_util::join;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::domain::claims::Quantity;
use crate::domain::countries::Country;
use crate::domain::drops::Admission;
use crate::domain::ids::{BuyerId, ClaimId, DropId, VariantNumber};
use crate::domain::line::entries::EntryId;
use crate::domain::line::hex::Hex;
use crate::domain::line::joining::{self, JoinRefused, Joining, KnownPlace, LineFacts, PlaceKept};
use crate::domain::line::rounds::MAX_CHOICES;
use crate::domain::line::state::{EntryState, LineState};
use crate::domain::orders::OrderState;
use crate::ledger::drops::{inconsistent, order_state};
use crate::ledger::error::{LedgerError, expect_rows};
use crate::ledger::pool::Ledger;
use crate::ledger::tx::{planned, run_tx};

/// A variant that somebody wants, and the most that they would pay for all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    pub variant: VariantNumber,
    /// `None`: they were shown no total.
    pub accepted_minor: Option<i64>,
}

/// What somebody asks for who joins.
#[derive(Debug, Clone)]
pub struct NewEntry {
    pub drop: DropId,
    pub buyer: BuyerId,
    /// Of the Idempotency-Key, and of what is asked for under it.
    pub key_hash: [u8; 16],
    pub body_hash: [u8; 16],
    pub quantity: Quantity,
    /// One to three.
    pub choices: Vec<Choice>,
    /// For which country the totals are.
    pub country: Option<Country>,
    pub at: Timestamp,
}

#[derive(Clone)]
pub(in crate::ledger) struct JoinCall {
    new: NewEntry,
    entry_key: [u8; 32],
}

/// A place in line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineEntry {
    pub number: u32,
    pub id: EntryId,
    pub quantity: Quantity,
    pub choices: Vec<Choice>,
    pub country: Option<Country>,
    pub revision: u32,
    pub joined_at: Timestamp,
    pub state: EntryState,
    /// The place that stands for this one.
    pub merged_into: Option<u32>,
    /// What an award makes of it.
    pub claim: Option<ClaimId>,
    /// The order of its award, if it holds its units.
    pub is_order_live: bool,
}

/// How joining ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    Now(LineEntry),
    /// This very request made it.
    Before(LineEntry),
    /// The buyer is in line; their place stays as it is.
    InLine(LineEntry),
    Refused(JoinRefused),
    /// The drop has no line.
    NoLine,
}

/// How a change ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    Now(LineEntry),
    Kept(PlaceKept),
    /// The buyer has no place.
    NoPlace,
}

/// How leaving ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftPlace {
    Left,
    Kept(PlaceKept),
    NoPlace,
}

/// What is known of a line behind the lock of its counter.
struct Counted {
    facts: LineFacts,
    next: u32,
    new: u32,
}

const COLUMNS: &str =
    "e.number, e.entry_id, e.quantity, e.choice1, e.choice2, e.choice3, e.accepted1, e.accepted2, e.accepted3,
    e.country, e.revision, e.joined_at, e.state, e.merged_into, e.claim_id, o.status";
const BEHIND: usize = 16;

impl Ledger {
    /// Joins a line, together with those who join meanwhile.
    pub async fn join_line(&self, new: NewEntry, entry_key: [u8; 32]) -> Result<Joined, LedgerError> {
        self.joins.make(JoinCall { new, entry_key }, |calls| self.join_all(calls)).await
    }

    async fn join_all(&self, calls: Vec<JoinCall>) -> Result<Vec<Result<Joined, LedgerError>>, LedgerError> {
        run_tx!(self, "joins.join", tx, {
            let drops =
                calls.iter().map(|call| call.new.drop.0).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
            let mut lines = lock_counters(tx, &drops).await?;
            let (facts, places) = join!(line_facts(tx, &drops), places(tx, &calls));
            let (facts, mut places) = (facts?, places?);
            for (drop, (admission, state, capacity)) in facts {
                if let Some(line) = lines.get_mut(&drop) {
                    (line.facts.admission, line.facts.state, line.facts.capacity) = (admission, state, capacity);
                }
            }
            let (mut answers, mut made) = (Vec::new(), Vec::new());
            for call in &calls {
                let of_buyer = places.entry((call.new.drop, call.new.buyer.clone())).or_default();
                answers.push(Ok(match lines.get_mut(&call.new.drop) {
                    None => Joined::NoLine,
                    Some(line) => join_one(call, line, of_buyer, &mut made),
                }));
            }
            write_entries(tx, &made, &lines).await?;
            Ok(answers)
        })
    }

    /// The place of a buyer: the one in line, or else the last that they had.
    pub async fn line_entry(&self, drop: DropId, buyer: &BuyerId) -> Result<Option<LineEntry>, LedgerError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(&of_buyer_sql("")).await?;
        let row = connection.query_opt(&statement, &[&drop.0, &buyer.as_str()]).await?;
        row.map(|row| entry_of(&row, drop)).transpose()
    }

    /// Changes the wish of somebody who has seen this revision of it.
    pub async fn change_entry(&self, new: &NewEntry, seen: u32) -> Result<Changed, LedgerError> {
        let drop = new.drop;
        run_tx!(self, "joins.change", tx, {
            let Some(state) = state_behind_counter(tx, drop).await? else { return Ok(Changed::NoPlace) };
            let Some(before) = lock_entry(tx, drop, &new.buyer).await? else { return Ok(Changed::NoPlace) };
            if let Err(kept) = joining::may_change(state, before.state, before.revision, seen) {
                return Ok(Changed::Kept(kept));
            }
            const SQL: &str = "-- joins.change
                update line_entries set quantity = $3, choice1 = $4, choice2 = $5, choice3 = $6, accepted1 = $7,
                       accepted2 = $8, accepted3 = $9, country = $10, revision = revision + 1
                where drop_id = $1 and number = $2";
            let choice = |position: usize| new.choices.get(position).map(|choice| i16::from(choice.variant.0));
            let accepted = |position: usize| new.choices.get(position).and_then(|choice| choice.accepted_minor);
            let country = new.country.map(|country| country.to_string());
            let changed = tx
                .execute(
                    &tx.prepare_cached(SQL).await?,
                    &[
                        /* drop_id */ &drop.0,
                        /* number */ &before.number.cast_signed(),
                        /* quantity */ &(new.quantity.units() as i16),
                        &choice(0),
                        &choice(1),
                        &choice(2),
                        &accepted(0),
                        &accepted(1),
                        &accepted(2),
                        &country,
                    ],
                )
                .await?;
            expect_rows("joins.change", 1, changed)?;
            Ok(Changed::Now(LineEntry {
                quantity: new.quantity,
                choices: new.choices.clone(),
                country: new.country,
                revision: before.revision + 1,
                ..before
            }))
        })
    }

    /// Takes a buyer out of a line: of this revision of their place, or whatever it is. Whoever is told so is given nothing
    /// any more.
    pub async fn leave_line(
        &self,
        drop: DropId,
        buyer: &BuyerId,
        seen: Option<u32>,
        now: Timestamp,
    ) -> Result<LeftPlace, LedgerError> {
        run_tx!(self, "joins.leave", tx, {
            const STATE: &str = "-- joins.state\nselect state from lines where drop_id = $1";
            const LEAVE: &str = "-- joins.leave
                update line_entries set state = $3, ended_at = $4 where drop_id = $1 and number = $2 and state is null";
            const GONE: &str = "-- joins.count_gone
                update line_counters set gone = gone + 1 where drop_id = $1";
            let Some(row) = tx.query_opt(&tx.prepare_cached(STATE).await?, &[&drop.0]).await? else {
                return Ok(LeftPlace::NoPlace);
            };
            let mut state = line_state(row.get(0), drop)?;
            // The seal takes the counter. Behind it no list changes, and a round, which takes entries, keeps no join waiting.
            if !state.is_sealed() {
                let Some(counted) = state_behind_counter(tx, drop).await? else { return Ok(LeftPlace::NoPlace) };
                state = counted;
            }
            let Some(entry) = lock_entry(tx, drop, buyer).await? else { return Ok(LeftPlace::NoPlace) };
            let after = match joining::leave(state, entry.state, entry.revision, seen) {
                Ok(after) if after == entry.state => return Ok(LeftPlace::Left),
                Ok(after) => after,
                Err(kept) => return Ok(LeftPlace::Kept(kept)),
            };
            let arguments: &[&(dyn ToSql + Sync)] =
                &[&drop.0, &entry.number.cast_signed(), &after.as_column(), /* now */ &now];
            let changed = tx.execute(&tx.prepare_cached(LEAVE).await?, arguments).await?;
            expect_rows("joins.leave", 1, changed)?;
            // Who leaves later keeps a rank, and so a place.
            if after == EntryState::Left {
                tx.execute(&tx.prepare_cached(GONE).await?, &[&drop.0]).await?;
            }
            Ok(LeftPlace::Left)
        })
    }
}

/// Takes the counters of these lines, in the order of their drops.
async fn lock_counters(tx: &Transaction<'_>, drops: &[i32]) -> Result<HashMap<DropId, Counted>, LedgerError> {
    const SQL: &str = "-- joins.lock_counters
        select drop_id, next, joined, gone from line_counters where drop_id = any($1) order by drop_id for no key update";
    let rows = tx.query(&tx.prepare_cached(SQL).await?, &[&drops]).await?;
    let count = |row: &Row, column: usize| row.get::<_, i32>(column).cast_unsigned();
    let line = |row: &Row| {
        let in_line = count(row, 2).saturating_sub(count(row, 3));
        let facts = LineFacts { admission: Admission::Queue, state: LineState::Closed, in_line, capacity: 0 };
        (DropId(row.get(0)), Counted { facts, next: count(row, 1), new: 0 })
    };
    Ok(rows.iter().map(line).collect())
}

async fn line_facts(
    tx: &Transaction<'_>,
    drops: &[i32],
) -> Result<Vec<(DropId, (Admission, LineState, u32))>, LedgerError> {
    const SQL: &str = "-- joins.facts
        select drop_id, d.admission, l.state, l.capacity from lines l join drops d using (drop_id) where drop_id = any($1)";
    let rows = tx.query(&tx.prepare_cached(SQL).await?, &[&drops]).await?;
    rows.iter()
        .map(|row| {
            let drop = DropId(row.get(0));
            let admission: &str = row.get(1);
            let known = Admission::ALL.into_iter().find(|known| known.as_str() == admission);
            let known = known.ok_or_else(|| inconsistent("drops", "admission", drop.0, admission))?;
            Ok((drop, (known, line_state(row.get(2), drop)?, row.get::<_, i32>(3).cast_unsigned())))
        })
        .collect()
}

/// The places that these buyers have, or have had, with what tells a request apart.
type Places = BTreeMap<(DropId, BuyerId), Vec<(KnownPlace, LineEntry)>>;

async fn places(tx: &Transaction<'_>, calls: &[JoinCall]) -> Result<Places, LedgerError> {
    let sql = format!(
        "-- joins.places
        select {COLUMNS}, e.drop_id, e.buyer, e.key_hash, e.body_hash
        from (select drop_id, buyer from unnest($1::int[], $2::text[]) as u (drop_id, buyer) offset 0) u
             join line_entries e using (drop_id, buyer) left join orders o on o.order_id = e.claim_id
        order by e.drop_id, e.number"
    );
    let buyers = calls.iter().map(|call| (call.new.drop.0, call.new.buyer.as_str())).collect::<BTreeSet<_>>();
    let (drops, buyers): (Vec<_>, Vec<_>) = buyers.into_iter().unzip();
    let mut places = Places::new();
    for row in &planned(tx, &sql, &[&drops, &buyers]).await? {
        let (drop, buyer): (i32, &str) = (row.get(BEHIND), row.get(BEHIND + 1));
        let drop = DropId(drop);
        let entry = entry_of(row, drop)?;
        let hash = |column: usize| {
            <[u8; 16]>::try_from(row.get::<_, &[u8]>(column))
                .map_err(|_| inconsistent("line_entries", "key_hash", entry.number, "not 16 bytes"))
        };
        let known = KnownPlace {
            number: entry.number,
            key_hash: hash(BEHIND + 2)?,
            body_hash: hash(BEHIND + 3)?,
            state: entry.state,
            is_order_live: entry.is_order_live,
        };
        let buyer = buyer.parse().map_err(|_| inconsistent("line_entries", "buyer", entry.number, buyer))?;
        places.entry((drop, buyer)).or_default().push((known, entry));
    }
    Ok(places)
}

/// A row to be written.
struct Made<'a> {
    call: &'a JoinCall,
    entry: LineEntry,
    nth: i16,
}

fn join_one<'a>(
    call: &'a JoinCall,
    line: &mut Counted,
    places: &mut Vec<(KnownPlace, LineEntry)>,
    made: &mut Vec<Made<'a>>,
) -> Joined {
    let new = &call.new;
    let known = places.iter().map(|(known, _)| known.clone()).collect::<Vec<_>>();
    let entry = |number: u32| {
        let found = places.iter().find(|(known, _)| known.number == number);
        found.map(|(_, entry)| entry.clone()).expect("the place is one of those that were asked about")
    };
    match joining::join(line.facts, &known, new.key_hash, new.body_hash) {
        Joining::Before(number) => Joined::Before(entry(number)),
        Joining::InLine(number) => Joined::InLine(entry(number)),
        Joining::Refused(why) => Joined::Refused(why),
        Joining::New => {
            let number = line.next + line.new;
            line.new += 1;
            line.facts.in_line += 1;
            // It goes on from the places before: a change of one that was left may come late, and must not meet this one.
            let revision = 1 + places.iter().map(|(_, place)| place.revision).max().unwrap_or_default();
            let entry = LineEntry {
                number,
                id: EntryId::new(&call.entry_key, number, &new.buyer),
                quantity: new.quantity,
                choices: new.choices.clone(),
                country: new.country,
                revision,
                joined_at: new.at,
                state: EntryState::Waiting,
                merged_into: None,
                claim: None,
                is_order_live: false,
            };
            made.push(Made { call, entry: entry.clone(), nth: places.len() as i16 });
            let known = KnownPlace {
                number,
                key_hash: new.key_hash,
                body_hash: new.body_hash,
                state: EntryState::Waiting,
                is_order_live: false,
            };
            places.push((known, entry.clone()));
            Joined::Now(entry)
        }
    }
}

async fn write_entries(
    tx: &Transaction<'_>,
    made: &[Made<'_>],
    lines: &HashMap<DropId, Counted>,
) -> Result<(), LedgerError> {
    const ENTRIES: &str = "-- joins.insert_entries
        insert into line_entries (drop_id, number, buyer, nth, entry_id, key_hash, body_hash, quantity, choice1, choice2,
                                  choice3, accepted1, accepted2, accepted3, country, joined_at, revision)
        select * from unnest($1::int[], $2::int[], $3::text[], $4::smallint[], $5::bytea[], $6::bytea[], $7::bytea[],
                             $8::smallint[], $9::smallint[], $10::smallint[], $11::smallint[], $12::bigint[],
                             $13::bigint[], $14::bigint[], $15::text[], $16::timestamptz[], $17::int[])";
    const COUNT: &str = "-- joins.count
        update line_counters c set next = next + n.new, joined = joined + n.new
        from unnest($1::int[], $2::int[]) as n (drop_id, new) where c.drop_id = n.drop_id";
    if made.is_empty() {
        return Ok(());
    }
    let drops = made.iter().map(|made| made.call.new.drop.0).collect::<Vec<_>>();
    let numbers = made.iter().map(|made| made.entry.number.cast_signed()).collect::<Vec<_>>();
    let buyers = made.iter().map(|made| made.call.new.buyer.as_str()).collect::<Vec<_>>();
    let nths = made.iter().map(|made| made.nth).collect::<Vec<_>>();
    let ids = made.iter().map(|made| made.entry.id.0.0.as_slice()).collect::<Vec<_>>();
    let keys = made.iter().map(|made| made.call.new.key_hash.as_slice()).collect::<Vec<_>>();
    let bodies = made.iter().map(|made| made.call.new.body_hash.as_slice()).collect::<Vec<_>>();
    let quantities = made.iter().map(|made| made.entry.quantity.units() as i16).collect::<Vec<_>>();
    let choices: [Vec<Option<i16>>; MAX_CHOICES] = std::array::from_fn(|position| {
        made.iter().map(|made| made.entry.choices.get(position).map(|choice| i16::from(choice.variant.0))).collect()
    });
    let accepted: [Vec<Option<i64>>; MAX_CHOICES] = std::array::from_fn(|position| {
        made.iter().map(|made| made.entry.choices.get(position).and_then(|choice| choice.accepted_minor)).collect()
    });
    let countries = made.iter().map(|made| made.entry.country.map(|country| country.to_string())).collect::<Vec<_>>();
    let times = made.iter().map(|made| made.entry.joined_at).collect::<Vec<_>>();
    let (of_lines, new): (Vec<_>, Vec<_>) =
        lines.iter().filter(|(_, line)| line.new > 0).map(|(drop, line)| (drop.0, line.new.cast_signed())).unzip();
    let (entries, count) = (tx.prepare_cached(ENTRIES).await?, tx.prepare_cached(COUNT).await?);
    let revisions = made.iter().map(|made| made.entry.revision.cast_signed()).collect::<Vec<_>>();
    let entries_arguments: [&(dyn ToSql + Sync); 17] = [
        &drops,
        &numbers,
        &buyers,
        &nths,
        &ids,
        &keys,
        &bodies,
        &quantities,
        &choices[0],
        &choices[1],
        &choices[2],
        &accepted[0],
        &accepted[1],
        &accepted[2],
        &countries,
        &times,
        &revisions,
    ];
    let count_arguments: [&(dyn ToSql + Sync); 2] = [&of_lines, &new];
    let (inserted, counted) = join!(tx.execute(&entries, &entries_arguments), tx.execute(&count, &count_arguments));
    expect_rows("joins.insert_entries", made.len() as u64, inserted?)?;
    expect_rows("joins.count", of_lines.len() as u64, counted?)
}

/// The state of a line, read behind the lock of its counter.
async fn state_behind_counter(tx: &Transaction<'_>, drop: DropId) -> Result<Option<LineState>, LedgerError> {
    if lock_counters(tx, &[drop.0]).await?.is_empty() {
        return Ok(None);
    }
    Ok(line_facts(tx, &[drop.0]).await?.pop().map(|(_, (_, state, _))| state))
}

async fn lock_entry(tx: &Transaction<'_>, drop: DropId, buyer: &BuyerId) -> Result<Option<LineEntry>, LedgerError> {
    let sql = of_buyer_sql("for update of e");
    let row = tx.query_opt(&tx.prepare_cached(&sql).await?, &[&drop.0, &buyer.as_str()]).await?;
    row.map(|row| entry_of(&row, drop)).transpose()
}

fn of_buyer_sql(lock: &str) -> String {
    format!(
        "-- joins.entry_of_buyer
        select {COLUMNS} from line_entries e left join orders o on o.order_id = e.claim_id
        where e.drop_id = $1 and e.buyer = $2
        order by e.state in ('LEFT', 'WITHDRAWN') is not true desc, e.number desc limit 1 {lock}"
    )
}

fn entry_of(row: &Row, drop: DropId) -> Result<LineEntry, LedgerError> {
    let number: i32 = row.get(0);
    let wrong =
        |column: &'static str, value: &str| inconsistent("line_entries", column, format!("{}/{number}", drop.0), value);
    let choices = (3..6).map_while(|column| row.get::<_, Option<i16>>(column).map(|variant| (column, variant)));
    let choices = choices
        .map(|(column, variant)| Choice { variant: VariantNumber(variant as u8), accepted_minor: row.get(column + 3) });
    let quantity: i16 = row.get(2);
    let country: Option<&str> = row.get(9);
    let state: Option<&str> = row.get(12);
    let claim = row.get::<_, Option<Uuid>>(14);
    let status: Option<&str> = row.get(15);
    let status = status.zip(claim).map(|(status, claim)| order_state(status, claim)).transpose()?;
    Ok(LineEntry {
        number: number.cast_unsigned(),
        id: EntryId(Hex(row.get::<_, &[u8]>(1).try_into().map_err(|_| wrong("entry_id", "not 16 bytes"))?)),
        quantity: Quantity::new(quantity.into()).map_err(|_| wrong("quantity", &quantity.to_string()))?,
        choices: choices.collect(),
        country: country.map(|country| country.parse().map_err(|_| wrong("country", country))).transpose()?,
        revision: row.get::<_, i32>(10).cast_unsigned(),
        joined_at: row.get(11),
        state: EntryState::of_column(state).ok_or_else(|| wrong("state", state.unwrap_or_default()))?,
        merged_into: row.get::<_, Option<i32>>(13).map(i32::cast_unsigned),
        claim: claim.map(ClaimId),
        is_order_live: status.is_some_and(OrderState::is_live),
    })
}

fn line_state(text: &str, drop: DropId) -> Result<LineState, LedgerError> {
    let found = LineState::ALL.into_iter().find(|known| known.as_str() == text);
    found.ok_or_else(|| inconsistent("lines", "state", drop.0, text))
}
