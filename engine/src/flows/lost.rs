//! Claims that were answered and that nobody has any more: Redis was lost, or went back in time, before settlement saw them.
//!
//! Nothing but the process that answered them knows of these. So it remembers what it answered until Postgres has it
//! ([`Engine::remember`], one push on the way of a claim) and looks after that once a second
//! ([`Engine::look_after_answers`]): when a warehouse has begun a new epoch and its rebuild has ended, what was answered under an
//! older one and is neither in Postgres nor in its buyer's record is lost. Its buyer goes first in line and is told.
//!
//! A buyer who asks again under the same key may be given units by the same claim, before this, during it or after it. Then the
//! claim becomes an order and the place in line ends, or the place has brought an order and the claim is rejected:
//! `domain/lost.rs` says which, settlement keeps to it. A process that dies forgets too: what it alone knew is told to nobody.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Mutex;

use futures_util::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};

use crate::domain::claims::{Acknowledgement, Claim, ClaimOutcome};
use crate::domain::ids::{ClaimId, Epoch, WarehouseId};
use crate::domain::lost::{AnsweredFacts, Fate, fate};
use crate::ledger::lost::WarehouseEpoch;

use super::acknowledge::Acknowledged;
use super::claim::AnsweredClaim;
use super::engine::{Engine, EngineError, LiveDrop};

/// Claims that a process remembers, of some 150 bytes each. They are what it has answered and Postgres has not been found to have.
const REMEMBERED_MAX: usize = 500_000;
/// Two intervals of settlement: nearly all of them are orders by then.
const ASK_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// Claims that Postgres is asked for in one statement, and in one round of those that should be there: some 20 ms of its time.
const ASKED_AT_ONCE: usize = 5_000;
/// Past this something else is wrong: what is not settled for a quarter of an hour closes the sale.
const REMEMBERED_FOR: SignedDuration = SignedDuration::from_hours(1);
/// Claims found lost in one transaction: it holds up the settlement of their warehouse for some 100 ms.
const LOST_PER_TRANSACTION: usize = 256;
/// Records asked for at the same time.
const RECORDS_AT_ONCE: usize = 64;

/// A claim that this process has answered.
#[derive(Debug, Clone)]
struct Remembered {
    claim: Claim,
    warehouse: WarehouseId,
    epoch: Epoch,
    at: Timestamp,
}

/// What this process has answered since it last looked after it.
#[derive(Default)]
pub(super) struct Answers(Mutex<Vec<Remembered>>);

/// What one process remembers of its answers. Lost with the process.
pub struct AnswerWatch {
    groups: HashMap<(WarehouseId, Epoch), Group>,
    remembered: usize,
    most: usize,
}

impl Default for AnswerWatch {
    fn default() -> Self {
        Self { groups: HashMap::new(), remembered: 0, most: REMEMBERED_MAX }
    }
}

/// The claims that one warehouse answered in one epoch.
#[derive(Default)]
struct Group {
    claims: HashMap<ClaimId, (Claim, Timestamp)>,
    /// When Postgres is next asked for each. One that is not in `claims` any more is passed over.
    due: VecDeque<(Timestamp, ClaimId)>,
}

/// What became of remembered claims in one round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnswersReport {
    /// Found lost now; their buyers have been put first in line, as far as the drop still sells, and told.
    pub lost: Vec<ClaimId>,
    /// Lost, and given units again.
    pub taken_again: usize,
    pub remembered: usize,
}

impl Answers {
    fn push(&self, answer: Remembered) {
        let mut answers = self.0.lock().expect("nobody panics holding this lock");
        if answers.len() < REMEMBERED_MAX {
            answers.push(answer);
        } else {
            drop(answers);
            count_forgotten(1);
        }
    }

    fn take(&self) -> Vec<Remembered> {
        std::mem::take(&mut *self.0.lock().expect("nobody panics holding this lock"))
    }
}

impl AnswerWatch {
    fn add(&mut self, Remembered { claim, warehouse, epoch, at }: Remembered) {
        let (of, id) = ((warehouse, epoch), claim.id);
        if self.groups.get(&of).is_some_and(|group| group.claims.contains_key(&id)) {
            // A repeat of the same answer.
            return;
        }
        if self.remembered >= self.most {
            // The newest, since those before it were promised to be remembered.
            return count_forgotten(1);
        }
        let group = self.groups.entry(of).or_default();
        group.claims.insert(id, (claim, at));
        group.due.push_back((due_after(at), id));
        self.remembered += 1;
    }

    /// Claims of one group that are not seen to any more.
    fn remove(&mut self, of: (WarehouseId, Epoch), ids: impl Iterator<Item = ClaimId>) {
        let Some(group) = self.groups.get_mut(&of) else { return };
        self.remembered -= ids.filter(|id| group.claims.remove(id).is_some()).count();
        if group.claims.is_empty() {
            self.groups.remove(&of);
        }
    }

    /// Up to so many claims that Postgres should have by now, with the groups they are in.
    fn take_due(&mut self, now: Timestamp, most: usize) -> Vec<((WarehouseId, Epoch), ClaimId)> {
        let mut due = Vec::new();
        for (of, group) in &mut self.groups {
            while due.len() < most
                && group.due.front().is_some_and(|(at, _)| *at <= now)
                && let Some((_, id)) = group.due.pop_front()
            {
                if group.claims.contains_key(&id) {
                    due.push((*of, id));
                }
            }
        }
        due
    }

    fn ask_again(&mut self, claims: &[((WarehouseId, Epoch), ClaimId)], now: Timestamp) {
        for (group, id) in claims {
            if let Some(group) = self.groups.get_mut(group) {
                group.due.push_back((due_after(now), *id));
            }
        }
    }
}

impl Engine {
    /// Remembers a claim that is its buyer's, until Postgres has it.
    pub(super) fn remember(&self, live: &LiveDrop, claim: &Claim, answered: &AnsweredClaim) {
        let is_held = matches!(answered.outcome, ClaimOutcome::Taken { .. } | ClaimOutcome::Replayed { .. });
        let is_settled =
            matches!(answered.acknowledged, Acknowledged::Reached(Acknowledgement::Settled) | Acknowledged::Rejected);
        if is_held && !is_settled {
            let warehouse = live.home_of(&claim.buyer).id;
            let at = self.clock.now();
            self.answers.push(Remembered { claim: claim.clone(), warehouse, epoch: answered.epoch, at });
        }
    }

    /// Looks after what this process has answered: forgets what Postgres has, and finds what is lost.
    pub async fn look_after_answers(&self, watch: &mut AnswerWatch) -> Result<AnswersReport, EngineError> {
        self.answers.take().into_iter().for_each(|answer| watch.add(answer));
        let mut report = AnswersReport::default();
        if watch.remembered > 0 {
            let ids = watch.groups.keys().map(|(warehouse, _)| *warehouse).collect::<HashSet<_>>();
            let present = self.ledger.warehouse_epochs(&ids.into_iter().collect::<Vec<_>>()).await?;
            let mut failed = None;
            for warehouse in &present {
                // One that cannot be reached keeps its claims for the next round, and does not keep the others from theirs.
                if let Err(error) = self.look_after_epochs_before(watch, warehouse, &mut report).await {
                    failed = Some(error);
                }
            }
            self.forget_settled(watch).await?;
            if let Some(error) = failed {
                return Err(error);
            }
        }
        report.remembered = watch.remembered;
        metrics::gauge!("doorbuster_remembered_claims").set(watch.remembered as f64);
        Ok(report)
    }

    /// What one warehouse answered before its present epoch began.
    async fn look_after_epochs_before(
        &self,
        watch: &mut AnswerWatch,
        present: &WarehouseEpoch,
        report: &mut AnswersReport,
    ) -> Result<(), EngineError> {
        let of_warehouse = watch.groups.keys().filter(|(id, _)| *id == present.id);
        for group in of_warehouse.copied().collect::<Vec<_>>() {
            if fate(facts(present, group.1, false, false)) == Fate::Open {
                continue;
            }
            while let Some(claims) = watch.groups.get(&group) {
                let claims = claims.claims.values().take(ASKED_AT_ONCE).map(|(claim, _)| claim.clone());
                let claims = claims.collect::<Vec<_>>();
                let (lost, again) = self.find_lost(present, group.1, &claims).await?;
                watch.remove(group, claims.iter().map(|claim| claim.id));
                report.lost.extend(lost);
                report.taken_again += again.len();
                let at = self.clock.now();
                for claim in again {
                    // It may be lost once more.
                    watch.add(Remembered { claim, warehouse: present.id, epoch: present.epoch, at });
                }
            }
        }
        Ok(())
    }

    /// Which of these claims are lost, and which have been taken again. The present epoch is loaded.
    async fn find_lost(
        &self,
        present: &WarehouseEpoch,
        answered_under: Epoch,
        claims: &[Claim],
    ) -> Result<(Vec<ClaimId>, Vec<Claim>), EngineError> {
        let seen = self.ledger.seen_claims(&claims.iter().map(|claim| claim.id).collect::<Vec<_>>()).await?;
        let fate_of =
            |claim: &Claim, is_in_record| fate(facts(present, answered_under, seen.contains(&claim.id), is_in_record));
        let missing = claims.iter().filter(|claim| fate_of(claim, false) == Fate::Lost).collect::<Vec<_>>();
        let Some(drop) = missing.first().map(|claim| claim.id.drop_id()) else { return Ok((Vec::new(), Vec::new())) };
        let Some(drop) = self.ledger.drop_by_id(drop).await? else { return Ok((Vec::new(), Vec::new())) };
        let live = self.adopt(drop);
        let in_record = match live.drop.state.in_warehouses() {
            Some(_) => self.in_records(&live, present, &missing).await?,
            // Archived: Redis has nothing of it.
            None => HashSet::new(),
        };
        let (again, gone): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|claim| fate_of(claim, in_record.contains(&claim.id)) == Fate::TakenAgain);
        let mut lost = Vec::new();
        for gone in gone.chunks(LOST_PER_TRANSACTION) {
            let now = self.clock.now();
            let new = self.ledger.lose_claims(&live.drop, present.id, answered_under, gone, now).await?;
            metrics::counter!("doorbuster_lost_claims_total").increment(new.len() as u64);
            lost.extend(new);
        }
        if !lost.is_empty() {
            let (name, count) = (&live.drop.name, lost.len());
            let warehouse = live.drop.warehouse_by_id(present.id).map_or(0, |warehouse| warehouse.number.0);
            tracing::warn!(
                drop = %name, warehouse, count,
                "{count} claims of {name} were answered and then lost with Redis; their buyers are told, and go first in line"
            );
        }
        Ok((lost, again.into_iter().cloned().collect()))
    }

    /// Which of these claims Redis holds under the present epoch.
    async fn in_records(
        &self,
        live: &LiveDrop,
        present: &WarehouseEpoch,
        claims: &[&Claim],
    ) -> Result<HashSet<ClaimId>, EngineError> {
        let Some(store) = live.store_by_id(present.id) else { return Ok(HashSet::new()) };
        let looks = claims.iter().map(|claim| async { (claim.id, store.record_of(&claim.buyer).await) });
        let mut looks = stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(RECORDS_AT_ONCE);
        let mut in_record = HashSet::new();
        while let Some((id, record)) = looks.next().await {
            if record?.iter().any(|held| held.id == id) {
                in_record.insert(id);
            }
        }
        Ok(in_record)
    }

    /// Postgres is asked for what should be there by now; what it has is safe from Redis.
    async fn forget_settled(&self, watch: &mut AnswerWatch) -> Result<(), EngineError> {
        let now = self.clock.now();
        let due = watch.take_due(now, ASKED_AT_ONCE);
        if due.is_empty() {
            return Ok(());
        }
        let ids = due.iter().map(|(_, id)| *id).collect::<Vec<_>>();
        let seen = match self.ledger.seen_claims(&ids).await {
            Ok(seen) => seen,
            Err(error) => {
                watch.ask_again(&due, now);
                return Err(error.into());
            }
        };
        let (settled, unsettled): (Vec<_>, Vec<_>) = due.into_iter().partition(|(_, id)| seen.contains(id));
        settled.into_iter().for_each(|(group, id)| watch.remove(group, std::iter::once(id)));
        let (old, young): (Vec<_>, Vec<_>) = unsettled.into_iter().partition(|(group, id)| {
            let since = watch.groups.get(group).and_then(|group| group.claims.get(id)).map(|(_, at)| *at);
            since.is_some_and(|since| now.duration_since(since) > REMEMBERED_FOR)
        });
        count_forgotten(old.len());
        old.into_iter().for_each(|(group, id)| watch.remove(group, std::iter::once(id)));
        watch.ask_again(&young, now);
        Ok(())
    }
}

fn facts(present: &WarehouseEpoch, epoch: Epoch, is_seen: bool, is_in_record: bool) -> AnsweredFacts {
    AnsweredFacts { epoch, present: present.epoch, is_rebuilding: present.is_rebuilding, is_seen, is_in_record }
}

fn due_after(at: Timestamp) -> Timestamp {
    at.checked_add(ASK_AFTER).unwrap_or(Timestamp::MAX)
}

fn count_forgotten(claims: usize) {
    if claims > 0 {
        metrics::counter!("doorbuster_unwatched_claims_total").increment(claims as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::claims::Quantity;
    use crate::domain::ids::{DropId, VariantNumber};

    #[test]
    fn where_there_is_no_room_the_newest_claim_is_not_remembered() {
        let mut watch = AnswerWatch { most: 2, ..AnswerWatch::default() };
        let answer = |who: u32, epoch| {
            let (buyer, key) = (format!("b{who}").parse().unwrap(), "k".parse().unwrap());
            let claim = Claim::new(DropId(1), buyer, &key, VariantNumber(0), Quantity::new(1).unwrap());
            Remembered { claim, warehouse: WarehouseId(1), epoch: Epoch(epoch), at: Timestamp::UNIX_EPOCH }
        };
        let first = answer(1, 1).claim.id;
        for (who, expected) in [(1, 1), (1, 1), (2, 2), (3, 2), (2, 2)] {
            watch.add(answer(who, 1));
            assert_eq!(watch.remembered, expected, "after buyer {who}");
        }
        watch.remove((WarehouseId(1), Epoch(1)), [first, first].into_iter());
        watch.add(answer(4, 2));
        assert_eq!((watch.remembered, watch.groups.len()), (2, 2));
    }
}
