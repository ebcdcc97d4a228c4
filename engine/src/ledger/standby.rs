//! Standby as its buyers see it: who joins a line, where he stands, who leaves. Who gets units decides `awards.rs`.
//!
//! Joining takes no lock that a return of units waits for: somebody who joins while units come back may find that they have
//! gone on sale, which the flow looks at behind it.

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::drops::inconsistent;
use super::error::LedgerError;
use super::outbox;
use super::pool::Ledger;
use super::tx::run_tx;
use crate::domain::claims::{Claim, Quantity};
use crate::domain::drops::{DropState, SaleDrop};
use crate::domain::ids::{BuyerId, ClaimId, DropId, DropName, IdempotencyKey, VariantNumber};
use crate::domain::notices::Notice;
use crate::domain::standby::{MAX_LINE_PLACES, Place, PlaceState};

/// Places of one buyer that he is shown, newest first: those that live, and how the last ones ended.
const PLACES_SHOWN: i64 = 32;

/// What a buyer asks for who joins a line.
#[derive(Debug, Clone)]
pub struct NewPlace {
    pub buyer: BuyerId,
    pub variant: VariantNumber,
    pub quantity: Quantity,
    pub key: IdempotencyKey,
    /// He was answered a claim that was lost afterwards: he goes first, once for each such claim.
    pub lost: Option<ClaimId>,
}

/// How joining ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    Now(Place),
    /// The same request, or the same lost claim, has a place: as it is now.
    Before(Place),
    /// The key was used for another variant or quantity.
    KeyReused,
    /// He waits for this variant already, under another key.
    InLine,
    /// The drop is not selling.
    NotSelling(DropState),
    /// As many wait as may.
    Full,
}

/// How leaving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftLine {
    /// He waits no longer; or he did not.
    Left,
    /// Units are on their way to him.
    Awarded,
}

const COLUMNS: &str = "p.place_id, p.variant_number, p.quantity, p.state, p.precedence, p.claim_id, p.joined_at,
    case when p.state = 'WAITING' then (
        select count(*) from standby_places q
        where q.drop_id = p.drop_id and q.variant_number = p.variant_number and q.state = 'WAITING'
              and (q.precedence, q.place_id) < (p.precedence, p.place_id)) end";

impl Ledger {
    /// Gives a buyer a place at the end of the line, or in front of everybody who lost no claim.
    pub async fn join_standby(&self, drop: &SaleDrop, new: &NewPlace, now: Timestamp) -> Result<Joined, LedgerError> {
        run_tx!(self, "standby.join", tx, {
            let (number, quantity) = (i16::from(new.variant.0), new.quantity.units() as i16);
            let (buyer, key) = (new.buyer.as_str(), new.key.as_str());
            let lost = new.lost.map(|lost| lost.0);
            let known = format!(
                "-- standby.known
                select {COLUMNS} from standby_places p
                where p.drop_id = $1 and p.buyer = $2 and (p.request_key = $3 or p.lost_claim = $4)
                order by p.place_id desc limit 1"
            );
            let known = tx.prepare_cached(&known).await?;
            if let Some(row) = tx.query_opt(&known, &[&drop.id.0, &buyer, &key, &lost]).await? {
                let is_same = (row.get::<_, i16>(1), row.get::<_, i16>(2)) == (number, quantity);
                return Ok(if is_same || lost.is_some() { Joined::Before(place(&row)?) } else { Joined::KeyReused });
            }
            // A close waits, or is waited for: else a place could be made behind it that nobody ends.
            const STATE: &str = "-- standby.drop_state\nselect state from drops where drop_id = $1 for share";
            let state: String = tx.query_one(&tx.prepare_cached(STATE).await?, &[&drop.id.0]).await?.get(0);
            let state = DropState::ALL.into_iter().find(|known| known.as_str() == state).unwrap_or(drop.state);
            // Who lost a claim may come while the sale is paused.
            let is_selling = state == DropState::Open || (lost.is_some() && state == DropState::Paused);
            if !is_selling {
                return Ok(Joined::NotSelling(state));
            }
            const WAITING: &str = "-- standby.count_waiting
                select count(*) from (select 1 from standby_places
                                      where drop_id = $1 and variant_number = $2 and state = 'WAITING' limit $3) w";
            let bound = i64::from(MAX_LINE_PLACES);
            let waiting = tx.prepare_cached(WAITING).await?;
            let waiting: i64 = tx.query_one(&waiting, &[&drop.id.0, &number, &bound]).await?.get(0);
            if lost.is_none() && waiting >= bound {
                return Ok(Joined::Full);
            }
            let place_id = match lost {
                Some(lost) => {
                    let who = (&new.buyer, new.variant, new.quantity);
                    put_first(tx, drop, who, lost, now).await?
                }
                None => {
                    // Who joins and leaves, again and again, has one row: the place that they gave up goes.
                    const INSERT: &str = "-- standby.insert
                        with given_up as (
                            delete from standby_places
                            where drop_id = $1 and variant_number = $2 and buyer = $3 and state = 'LEFT' and lost_claim is null
                        )
                        insert into standby_places (drop_id, variant_number, buyer, quantity, warehouse_id, request_key,
                                                    state, joined_at)
                        values ($1, $2, $3, $4, $5, $6, 'WAITING', $7)
                        on conflict do nothing returning place_id";
                    let insert = tx.prepare_cached(INSERT).await?;
                    let home = drop.home_of(&new.buyer).id.0;
                    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
                        &[&drop.id.0, &number, &buyer, &quantity, /* home */ &home, &key, /* now */ &now];
                    tx.query_opt(&insert, arguments).await?.map(|row| row.get::<_, i64>(0))
                }
            };
            // He is in line under another key; or the same request is there twice at once, and the other one has won.
            let Some(place_id) = place_id else {
                let same = tx.query_opt(&known, &[&drop.id.0, &buyer, &key, &lost]).await?;
                return same.map_or(Ok(Joined::InLine), |row| Ok(Joined::Before(place(&row)?)));
            };
            let by_id = format!("-- standby.by_id\nselect {COLUMNS} from standby_places p where p.place_id = $1");
            let row = tx.query_one(&tx.prepare_cached(&by_id).await?, &[&place_id]).await?;
            Ok(Joined::Now(place(&row)?))
        })
    }

    /// The places of a buyer in the lines of a drop, newest first.
    pub async fn standby_of(&self, drop: DropId, buyer: &BuyerId) -> Result<Vec<Place>, LedgerError> {
        let sql = format!(
            "-- standby.of_buyer
            select {COLUMNS} from standby_places p where p.drop_id = $1 and p.buyer = $2
            order by p.state in ('WAITING', 'AWARDED') desc, p.place_id desc limit $3"
        );
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(&sql).await?;
        let rows = connection.query(&statement, &[&drop.0, &buyer.as_str(), &PLACES_SHOWN]).await?;
        rows.iter().map(place).collect()
    }

    /// Whether a drop sells, and this request has had no place yet.
    pub async fn may_be_new_in_line(
        &self,
        drop: DropId,
        buyer: &BuyerId,
        key: &IdempotencyKey,
    ) -> Result<bool, LedgerError> {
        const SQL: &str = "-- standby.may_be_new
            select state = 'open' and not exists (
                select 1 from standby_places p where p.drop_id = d.drop_id and p.buyer = $2 and p.request_key = $3)
            from drops d where drop_id = $1";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        Ok(connection.query_one(&statement, &[&drop.0, &buyer.as_str(), &key.as_str()]).await?.get(0))
    }

    /// Takes back a place that was just given, as if it had never been asked for. `false`: it waits no more, for it was
    /// awarded units.
    pub async fn withdraw_place(
        &self,
        drop: DropId,
        buyer: &BuyerId,
        key: &IdempotencyKey,
    ) -> Result<bool, LedgerError> {
        const SQL: &str = "-- standby.withdraw
            delete from standby_places
            where drop_id = $1 and buyer = $2 and request_key = $3 and state = 'WAITING' and lost_claim is null";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        Ok(connection.execute(&statement, &[&drop.0, &buyer.as_str(), &key.as_str()]).await? == 1)
    }

    /// Takes a buyer out of the line of one variant, or of all of a drop; out of none, while units are on their way to him.
    pub async fn leave_standby(
        &self,
        drop: DropId,
        buyer: &BuyerId,
        variant: Option<VariantNumber>,
        now: Timestamp,
    ) -> Result<LeftLine, LedgerError> {
        run_tx!(self, "standby.leave", tx, keep if LeftLine::Left, {
            const LEAVE: &str = "-- standby.leave
                update standby_places set state = 'LEFT', ended_at = $4
                where drop_id = $1 and buyer = $2 and ($3::smallint is null or variant_number = $3) and state = 'WAITING'";
            const AWARDED: &str = "-- standby.is_awarded
                select exists (select 1 from standby_places
                               where drop_id = $1 and buyer = $2 and ($3::smallint is null or variant_number = $3)
                                     and state = 'AWARDED')";
            let number = variant.map(|variant| i16::from(variant.0));
            let buyer = buyer.as_str();
            tx.execute(LEAVE, &[&drop.0, &buyer, &number, /* now */ &now]).await?;
            // After it: an award that came first was waited for.
            let is_awarded = tx.query_one(AWARDED, &[&drop.0, &buyer, &number]).await?.get(0);
            Ok(if is_awarded { LeftLine::Awarded } else { LeftLine::Left })
        })
    }

    /// Ends the places that wait for drops that sell no more. Their buyers find out when they look.
    pub async fn expire_standby(&self, now: Timestamp) -> Result<u64, LedgerError> {
        const SQL: &str = "-- standby.expire
            update standby_places p set state = 'EXPIRED', ended_at = $1 from drops d
            where d.drop_id = p.drop_id and d.state in ('closed', 'archived') and p.state = 'WAITING'";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        Ok(connection.execute(&statement, &[/* now */ &now]).await?)
    }

    /// How many wait for each variant of a drop, those with nobody in line left out.
    pub async fn standby_lines(&self, drop: DropId) -> Result<Vec<(VariantNumber, u64)>, LedgerError> {
        const SQL: &str = "-- standby.lines
            select variant_number, count(*) from standby_places
            where drop_id = $1 and state = 'WAITING' group by 1 order by 1";
        let rows = self.connection().await?.query(SQL, &[&drop.0]).await?;
        Ok(rows.iter().map(|row| (VariantNumber(row.get::<_, i16>(0) as u8), row.get::<_, i64>(1) as u64)).collect())
    }

    /// How many wait for each drop that is loaded, those for which nobody does too.
    pub async fn standby_counts(&self) -> Result<Vec<(DropName, u64)>, LedgerError> {
        const SQL: &str = "-- standby.counts
            select d.name, (select count(*) from standby_places p where p.drop_id = d.drop_id and p.state = 'WAITING')
            from drops d where d.state not in ('draft', 'archived') order by d.drop_id";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let rows = connection.query(&statement, &[]).await?;
        rows.iter()
            .map(|row| {
                let name: &str = row.get(0);
                let name = name.parse().map_err(|_| inconsistent("drops", "name", name, name))?;
                Ok((name, row.get::<_, i64>(1) as u64))
            })
            .collect()
    }
}

/// Redis had forgotten a claim: its buyer goes first in line and is told. Without a place of his own
/// where he waits already, nor where the drop sells no more.
pub(super) async fn stand_in_for(
    tx: &Transaction<'_>,
    drop: &SaleDrop,
    claim: &Claim,
    now: Timestamp,
) -> Result<(), LedgerError> {
    const IS_SELLING: &str = "-- standby.is_selling
        select exists (select 1 from drops where drop_id = $1 and state in ('open', 'paused'))
               and not exists (select 1 from standby_places where lost_claim = $2)";
    let row = tx.query_one(&tx.prepare_cached(IS_SELLING).await?, &[&drop.id.0, &claim.id.0]).await?;
    if row.get(0) {
        let who = (&claim.buyer, claim.variant, claim.quantity);
        put_first(tx, drop, who, claim.id.0, now).await?;
    }
    outbox::enqueue(tx, claim.id.order_id(), &Notice::ClaimLost, now).await?;
    Ok(())
}

/// Puts a buyer whose claim was lost before those who merely wait, for what was lost and not for more; who stands in line
/// already moves up with the place he has.
/// `None`: units are on their way to that place.
async fn put_first(
    tx: &Transaction<'_>,
    drop: &SaleDrop,
    (buyer, variant, quantity): (&BuyerId, VariantNumber, Quantity),
    lost: Uuid,
    now: Timestamp,
) -> Result<Option<i64>, LedgerError> {
    const SQL: &str = "-- standby.put_first
        insert into standby_places (drop_id, variant_number, buyer, quantity, warehouse_id, precedence, lost_claim, state,
                                    joined_at)
        values ($1, $2, $3, $4, $5, 0, $6, 'WAITING', $7)
        on conflict (drop_id, variant_number, buyer) where state in ('WAITING', 'AWARDED') do update
            set precedence = 0, lost_claim = coalesce(standby_places.lost_claim, excluded.lost_claim),
                quantity = case when standby_places.precedence = 0 then standby_places.quantity
                                else least(standby_places.quantity, excluded.quantity) end
            where standby_places.state = 'WAITING'
        returning place_id";
    let (number, quantity, home) = (i16::from(variant.0), quantity.units() as i16, drop.home_of(buyer).id.0);
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&drop.id.0, &number, &buyer.as_str(), &quantity, /* home */ &home, &lost, /* now */ &now];
    Ok(tx.query_opt(&tx.prepare_cached(SQL).await?, arguments).await?.map(|row| row.get(0)))
}

pub(super) fn place_state(row: &Row, column: usize) -> Option<PlaceState> {
    let state: &str = row.get(column);
    PlaceState::ALL.into_iter().find(|known| known.as_str() == state)
}

fn place(row: &Row) -> Result<Place, LedgerError> {
    let (id, quantity, state): (i64, i16, &str) = (row.get(0), row.get(2), row.get(3));
    let wrong = |column, value: &str| inconsistent("standby_places", column, id, value);
    Ok(Place {
        variant: VariantNumber(row.get::<_, i16>(1) as u8),
        quantity: Quantity::new(quantity.into()).map_err(|_| wrong("quantity", &quantity.to_string()))?,
        state: PlaceState::ALL
            .into_iter()
            .find(|known| known.as_str() == state)
            .ok_or_else(|| wrong("state", state))?,
        ahead: row.get::<_, Option<i64>>(7).map(|ahead| ahead as u32),
        is_first: row.get::<_, i16>(4) == 0,
        claim: row.get::<_, Option<Uuid>>(5).map(ClaimId),
        joined_at: row.get(6),
    })
}
