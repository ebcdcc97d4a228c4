//! Mails to everybody in a line: written by pages behind what happened, so that neither a join nor the close writes one for
//! each of a million. A cursor of each kind says how far that is; it has a row of its own, which no round takes.

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;

use crate::domain::ids::{BuyerId, ClaimId, DropId, OrderId};
use crate::domain::line::entries::EntryId;
use crate::domain::line::hex::Hex;
use crate::domain::notices::{Notice, Place};
use crate::ledger::drops::inconsistent;
use crate::ledger::error::LedgerError;
use crate::ledger::outbox;
use crate::ledger::pool::Ledger;
use crate::ledger::tx::{planned, run_tx};

/// Places looked at in one transaction.
const PAGE: i32 = 1_000;

/// What everybody in a line is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineMail {
    Joined,
    Ended,
}

impl Ledger {
    /// Lines that have somebody who has not been told yet.
    pub async fn lines_to_tell(&self) -> Result<Vec<(DropId, LineMail)>, LedgerError> {
        const SQL: &str = "-- mails.lines
            select drop_id, false from line_mails m join line_counters c using (drop_id) where m.joined_to < c.next - 1
            union all
            select drop_id, true from line_mails m join line_counters c using (drop_id) join lines l using (drop_id)
            where l.state = 'CLOSED' and m.ended_to < c.next - 1";
        let connection = self.connection().await?;
        let rows = connection.query(&connection.prepare_cached(SQL).await?, &[]).await?;
        let line = |row: &Row| (DropId(row.get(0)), if row.get(1) { LineMail::Ended } else { LineMail::Joined });
        Ok(rows.iter().map(line).collect())
    }

    /// Writes the mails of one page. Whoever has no address gets none, and who has left or got something is not told that
    /// they wait. Answers how many mails that are.
    pub async fn write_line_mails(&self, drop: DropId, mail: LineMail, now: Timestamp) -> Result<usize, LedgerError> {
        run_tx!(self, "mails.write", tx, {
            const LOCK: &str = "-- mails.lock
                select m.joined_to, m.ended_to, c.next - 1 from line_mails m join line_counters c using (drop_id)
                where m.drop_id = $1 for update of m";
            const MOVE: &str = "-- mails.move
                update line_mails set joined_to = case when $2 then joined_to else $3 end,
                       ended_to = case when $2 then $3 else ended_to end
                where drop_id = $1";
            const SOLD: &str = "-- mails.goes_on_sale
                select exists (select 1 from line_changes where drop_id = $1 and what = 'opened')";
            let Some(row) = tx.query_opt(LOCK, &[&drop.0]).await? else { return Ok(0) };
            let (is_ended, last) = (mail == LineMail::Ended, row.get::<_, i32>(2));
            let above: i32 = if is_ended { row.get(1) } else { row.get(0) };
            let to = last.min(above.saturating_add(PAGE));
            let goes_on_sale = is_ended && tx.query_one(SOLD, &[&drop.0]).await?.get(0);
            let waiting = waiting(tx, drop, above, to).await?;
            let notice = |(claim, place)| match mail {
                LineMail::Joined => (claim, Notice::LineJoined { place }),
                LineMail::Ended => (claim, Notice::LineEnded { place, goes_on_sale }),
            };
            let notices = waiting.into_iter().map(notice).collect::<Vec<_>>();
            outbox::enqueue_of_places(tx, drop, &notices, now).await?;
            tx.execute(MOVE, &[&drop.0, &is_ended, /* to */ &to]).await?;
            Ok(notices.len())
        })
    }
}

/// Places behind a number whose buyers wait and can be written to.
async fn waiting(
    tx: &Transaction<'_>,
    drop: DropId,
    above: i32,
    to: i32,
) -> Result<Vec<(OrderId, Place)>, LedgerError> {
    const SQL: &str = "-- mails.waiting
        select e.number, e.entry_id, e.buyer from line_entries e join checkout_profiles c using (buyer)
        where e.drop_id = $1 and e.number > $2 and e.number <= $3 and e.state is null and c.email <> ''
        order by e.number";
    let rows = planned(tx, SQL, &[&drop.0, /* above */ &above, /* to */ &to]).await?;
    rows.iter().map(|row| place_of(drop, row)).collect()
}

/// A place, and the id that its order would have: from number, entry id and buyer.
pub(super) fn place_of(drop: DropId, row: &Row) -> Result<(OrderId, Place), LedgerError> {
    let number: i32 = row.get(0);
    let wrong = |column: &'static str| inconsistent("line_entries", column, number, "what cannot be");
    let entry_id = EntryId(Hex(row.get::<_, &[u8]>(1).try_into().map_err(|_| wrong("entry_id"))?));
    let buyer: BuyerId = row.get::<_, &str>(2).parse().map_err(|_| wrong("buyer"))?;
    let number = number.cast_unsigned();
    Ok((ClaimId::of_entry(drop, &buyer, number).order_id(), Place { number, entry_id }))
}
