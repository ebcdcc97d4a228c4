//! Claims that were answered and that nobody has any more: Redis was lost, or went back in time, before settlement saw them.
//!
//! Nothing but the process that answered them knows of these. So it remembers what it answered until Postgres has it
//! ([`Engine::remember`], one push on the way of a claim) and looks after that once a second
//! ([`Engine::look_after_answers`]): when a warehouse has begun a new epoch and its rebuild has ended, what was answered under an
//! older one and is neither in Postgres nor in its buyer's record is lost. Its buyer goes first in line and is told.
//!
//! The same round notes in Postgres what was answered since the last one, a row for each warehouse (`ledger/answered.rs`). A
//! process that dies leaves its notes behind, and the others look after what stands in them as after their own.
//!
//! A buyer who asks again under the same key may be given units by the same claim, before this, during it or after it. Then the
//! claim becomes an order and the place in line ends, or the place has brought an order and the claim is rejected:
//! `domain/lost.rs` says which, settlement keeps to it.
//!
//! A process that dies takes with it what it has not noted yet: the answers of its last second, or of longer while Postgres was
//! away. These are told to nobody.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Mutex;

use futures_util::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::domain::claims::{Acknowledgement, Claim, ClaimOutcome};
use crate::domain::ids::{ClaimId, Epoch, WarehouseId};
use crate::domain::lost::{AnsweredFacts, Fate, fate};
use crate::ledger::answered::NoteId;
use crate::ledger::lost::WarehouseEpoch;

use super::acknowledge::Acknowledged;
use super::claim::AnsweredClaim;
use super::engine::{Engine, EngineError, LiveDrop};

/// Claims that a process remembers, of some 200 bytes each. They are what it has answered and Postgres has not been found to have.
const REMEMBERED_MAX: usize = 500_000;
/// Two intervals of settlement: nearly all of them are orders by then.
const ASK_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// Claims that Postgres is asked for in one statement, and in one round of those that should be there: some 20 ms of its time.
const ASKED_AT_ONCE: usize = 5_000;
/// Past this something else is wrong: what is not settled for a quarter of an hour closes the sale.
const REMEMBERED_FOR: SignedDuration = SignedDuration::from_hours(1);
/// Claims found lost in one transaction: it holds up the settlement of their warehouse for some 100 ms.
const LOST_PER_TRANSACTION: usize = 256;
/// Claims of one note: some 200 kB.
const CLAIMS_PER_NOTE: usize = 5_000;
/// Notes of others that are read at once: 16 MB at most, and next to nothing where notes are of a second.
const NOTES_AT_ONCE: i64 = 64;
/// A process that lives has looked after its own notes by then. Earlier all of them would look after all notes.
const OTHERS_AFTER: SignedDuration = SignedDuration::from_secs(5);
/// How often notes are looked for that nobody has deleted.
const SWEEP_EVERY: SignedDuration = SignedDuration::from_mins(1);
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

/// What one process remembers of its answers. Lost with the process, but for its notes.
pub struct AnswerWatch {
    /// Whose notes are its own.
    process: Uuid,
    groups: HashMap<(WarehouseId, Epoch), Group>,
    remembered: usize,
    most: usize,
    /// How many claims of each of its notes are still remembered.
    notes: HashMap<NoteId, usize>,
    /// Its notes of which none is.
    done: Vec<NoteId>,
    /// Since when there is something to look after in notes of others: of which warehouse, and in which epoch.
    others: HashMap<(WarehouseId, Epoch), Timestamp>,
    swept: Option<Timestamp>,
}

impl Default for AnswerWatch {
    fn default() -> Self {
        Self {
            process: Uuid::new_v4(),
            groups: HashMap::new(),
            remembered: 0,
            most: REMEMBERED_MAX,
            notes: HashMap::new(),
            done: Vec::new(),
            others: HashMap::new(),
            swept: None,
        }
    }
}

/// The claims that one warehouse answered in one epoch.
#[derive(Default)]
struct Group {
    claims: HashMap<ClaimId, Held>,
    /// When Postgres is next asked for each. One that is not in `claims` any more is passed over.
    due: VecDeque<(Timestamp, ClaimId)>,
    /// Those that stand in no note yet; passed over likewise.
    unnoted: Vec<ClaimId>,
}

struct Held {
    claim: Claim,
    at: Timestamp,
    note: Option<NoteId>,
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
        group.claims.insert(id, Held { claim, at, note: None });
        group.due.push_back((due_after(at), id));
        group.unnoted.push(id);
        self.remembered += 1;
    }

    /// Claims of one group that are not seen to any more.
    fn remove(&mut self, of: (WarehouseId, Epoch), ids: impl Iterator<Item = ClaimId>) {
        let Some(group) = self.groups.get_mut(&of) else { return };
        for held in ids.filter_map(|id| group.claims.remove(&id)) {
            self.remembered -= 1;
            if let Some(note) = held.note
                && let Entry::Occupied(mut left) = self.notes.entry(note)
            {
                *left.get_mut() -= 1;
                if *left.get() == 0 {
                    left.remove();
                    self.done.push(note);
                }
            }
        }
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

    /// Up to so many claims of one group that stand in no note yet.
    fn unnoted(&self, most: usize) -> Option<((WarehouseId, Epoch), Vec<&Claim>)> {
        self.groups.iter().find_map(|(of, group)| {
            let held = group.unnoted.iter().filter_map(|id| group.claims.get(id)).take(most);
            let claims = held.map(|held| &held.claim).collect::<Vec<_>>();
            (!claims.is_empty()).then_some((*of, claims))
        })
    }

    /// The claims that [`Self::unnoted`] has answered stand in this note.
    fn noted(&mut self, of: (WarehouseId, Epoch), ids: &[ClaimId], note: NoteId) {
        let Some(group) = self.groups.get_mut(&of) else { return };
        let ids = ids.iter().copied().collect::<HashSet<_>>();
        for id in &ids {
            if let Some(held) = group.claims.get_mut(id) {
                held.note = Some(note);
            }
        }
        group.unnoted.retain(|id| !ids.contains(id) && group.claims.contains_key(id));
        self.notes.insert(note, ids.len());
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
        // First of all, since what follows may wait for a Redis that does not answer. Its failure keeps nothing else from its turn.
        let noted = self.note(watch).await;
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
        noted?;
        self.look_after_others(watch, &mut report).await?;
        self.forget_notes(watch).await?;
        Ok(report)
    }

    /// Notes what stands in no note yet.
    async fn note(&self, watch: &mut AnswerWatch) -> Result<(), EngineError> {
        while let Some((of, claims)) = watch.unnoted(CLAIMS_PER_NOTE) {
            let note = self.ledger.note_answers(watch.process, of, &claims, self.clock.now()).await?;
            let ids = claims.iter().map(|claim| claim.id).collect::<Vec<_>>();
            watch.noted(of, &ids, note);
        }
        Ok(())
    }

    /// What other processes have noted and not looked after themselves: they have died.
    async fn look_after_others(&self, watch: &mut AnswerWatch, report: &mut AnswersReport) -> Result<(), EngineError> {
        let now = self.clock.now();
        let noted = self.ledger.noted_warehouses(watch.process).await?;
        let known = noted.iter().map(|present| (present.id, present.epoch)).collect::<HashSet<_>>();
        watch.others.retain(|of, _| known.contains(of));
        let mut failed = Ok(());
        for present in &noted {
            let since = *watch.others.entry((present.id, present.epoch)).or_insert(now);
            if now.duration_since(since) >= OTHERS_AFTER
                && let Err(error) = self.look_after_notes(watch, present, report).await
            {
                failed = Err(error);
            }
        }
        failed
    }

    /// What others have noted of one warehouse and its past epochs.
    async fn look_after_notes(
        &self,
        watch: &mut AnswerWatch,
        present: &WarehouseEpoch,
        report: &mut AnswersReport,
    ) -> Result<(), EngineError> {
        loop {
            let notes = self.ledger.notes_before(watch.process, present, NOTES_AT_ONCE).await?;
            if notes.is_empty() {
                return Ok(());
            }
            for note in &notes {
                let (lost, again) = self.find_lost(present, note.epoch, &note.claims).await?;
                report.lost.extend(lost);
                report.taken_again += again.len();
                self.watch_again(watch, present, again);
            }
            self.ledger.forget_notes(&notes.iter().map(|note| note.id).collect::<Vec<_>>()).await?;
        }
    }

    /// Claims that were lost and taken again may be lost once more.
    fn watch_again(&self, watch: &mut AnswerWatch, present: &WarehouseEpoch, claims: Vec<Claim>) {
        let at = self.clock.now();
        for claim in claims {
            watch.add(Remembered { claim, warehouse: present.id, epoch: present.epoch, at });
        }
    }

    /// Deletes its own notes of which nothing can be lost any more, and those that nobody has deleted.
    async fn forget_notes(&self, watch: &mut AnswerWatch) -> Result<(), EngineError> {
        if !watch.done.is_empty() {
            self.ledger.forget_notes(&watch.done).await?;
            watch.done.clear();
        }
        let now = self.clock.now();
        if watch.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP_EVERY) {
            let before = now.checked_sub(REMEMBERED_FOR).unwrap_or(Timestamp::MIN);
            self.ledger.forget_notes_before(before).await?;
            watch.swept = Some(now);
        }
        Ok(())
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
                let claims = claims.claims.values().take(ASKED_AT_ONCE).map(|held| held.claim.clone());
                let claims = claims.collect::<Vec<_>>();
                let (lost, again) = self.find_lost(present, group.1, &claims).await?;
                watch.remove(group, claims.iter().map(|claim| claim.id));
                report.lost.extend(lost);
                report.taken_again += again.len();
                self.watch_again(watch, present, again);
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
        let in_record = match live.drop.in_warehouses() {
            Some(_) => self.in_records(&live, present, &missing).await?,
            // Redis has nothing of it.
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
            let since = watch.groups.get(group).and_then(|group| group.claims.get(id)).map(|held| held.at);
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
