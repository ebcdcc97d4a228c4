//! The search for units when homes have too few: pulls from other warehouses, or a reading that says that there are none.
//!
//! One search a drop and process serves all claims that wait, of all variants and homes, round by round. A round looks at every
//! warehouse once. What it can serve it pulls together, and puts the claims again itself, so that no later round takes away what an
//! earlier one has fetched. What it cannot serve is refused if a reading allows it (see [`super::readings`]), or
//! waits for the next round. A claim that arrives during a round waits for the next one.
//!
//! A pull, each step of which anyone may repeat or finish:
//!
//! 1. `pull.lua` sets units aside in the source's `out`;
//! 2. one Postgres transaction grants them to the destination (the transfer id is unique, the source's epoch must hold);
//! 3. the grant is applied to the destination;
//! 4. the source forgets what it had set aside.
//!
//! A crash after 1 leaves units in `out`: whoever looks next finishes at 2. After 2 the grant is pending: the worker or the
//! next search applies it. Several processes disturb but never hurt each other.
//!
//! A warehouse that is fenced or away hides no other: what the others have is found. But while it is, nobody is refused.
//!
//! A claim waits until its own deadline. The search is not cancelled with it: it is a task that goes on until nobody waits, so
//! that no transfer is left half-way only because its buyer could not wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::domain::claims::{Claim, ClaimOutcome};
use crate::domain::ids::{TransferId, VariantNumber, WarehouseId};
use crate::domain::rest::{Evidence, Verdict};
use crate::domain::transfers::{Pull, TransferDecided, Want, plan};
use crate::ledger::grants::Transfer;
use crate::steps;
use crate::tokens::contract::MAX_SERIALS;
use crate::tokens::store::LeavingTokens;

use super::claim::at_home;
use super::engine::{Engine, EngineError, LiveDrop};
use super::readings::{Look, leased, refusal};

/// Between two rounds of which the first has served nobody.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// What a search is asked for.
pub(super) enum Asked {
    /// Units for a claim that its home could not serve. The drop is as whoever asks knows it.
    Units(Box<Waiter>),
    /// A reading that can be kept.
    Reading { variant: VariantNumber },
}

/// A claim that waits.
pub(super) struct Waiter {
    live: LiveDrop,
    claim: Claim,
    deadline: Instant,
    turn: Arc<Turn>,
    answer: oneshot::Sender<Result<ClaimOutcome, EngineError>>,
}

/// Who is told that nothing was taken must have nothing: so a claim is put while it is waited for, or not at all.
#[derive(Default)]
struct Turn(Mutex<TurnState>);

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum TurnState {
    #[default]
    Waiting,
    /// Its claim is on its way to Redis.
    Put,
    /// Nobody waits for it any more.
    Left,
}

impl Turn {
    /// Moves on, unless it is anywhere else.
    fn go(&self, from: TurnState, to: TurnState) -> bool {
        let mut state = self.0.lock().expect("nobody panics holding this lock");
        let goes = *state == from;
        if goes {
            *state = to;
        }
        goes
    }
}

impl Asked {
    fn variant(&self) -> VariantNumber {
        match self {
            Self::Units(waiter) => waiter.claim.variant,
            Self::Reading { variant } => *variant,
        }
    }

    fn units(&self) -> u32 {
        match self {
            Self::Units(waiter) => waiter.claim.quantity.units(),
            Self::Reading { .. } => 1,
        }
    }

    fn is_late(&self) -> bool {
        match self {
            Self::Units(waiter) => Instant::now() >= waiter.deadline,
            Self::Reading { .. } => false,
        }
    }

    fn is_waiting(&self) -> bool {
        match self {
            Self::Units(waiter) => !waiter.answer.is_closed(),
            Self::Reading { .. } => true,
        }
    }
}

/// Where claims wait for the search of their drop.
#[derive(Default)]
pub(super) struct SearchDesk {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    asked: Vec<Asked>,
    is_served: bool,
}

impl SearchDesk {
    /// `true`: nobody serves this desk yet, and the caller has to see to it.
    fn put(&self, asked: Asked) -> bool {
        let mut waiting = self.waiting.lock().expect("nobody panics holding this lock");
        waiting.asked.push(asked);
        !std::mem::replace(&mut waiting.is_served, true)
    }

    /// Everything that is asked for now. With nothing, and nobody left who waits, this desk is not served any more.
    fn take(&self, has_waiters: bool) -> Vec<Asked> {
        let mut waiting = self.waiting.lock().expect("nobody panics holding this lock");
        let asked = std::mem::take(&mut waiting.asked);
        waiting.is_served = has_waiters || !asked.is_empty();
        asked
    }
}

/// Serves a desk; should it panic, who waits is told to ask again and the next claim has the desk served anew.
struct Serving(LiveDrop);

impl Drop for Serving {
    fn drop(&mut self) {
        let mut waiting = match self.0.shared.search.waiting.lock() {
            Ok(waiting) => waiting,
            Err(poisoned) => poisoned.into_inner(),
        };
        if std::thread::panicking() {
            *waiting = Waiting::default();
        }
    }
}

impl Engine {
    /// Finds units for a claim that its home cannot serve, and claims them; or says that there are none.
    pub(super) async fn search(
        &self,
        live: &LiveDrop,
        claim: &Claim,
        deadline: Instant,
    ) -> Result<ClaimOutcome, EngineError> {
        let (answer, mut answered) = oneshot::channel();
        let turn = Arc::new(Turn::default());
        let waiter = Waiter { live: live.clone(), claim: claim.clone(), deadline, turn: Arc::clone(&turn), answer };
        self.have_searched(live, Asked::Units(Box::new(waiter)));
        let outcome = match tokio::time::timeout_at(deadline.into(), &mut answered).await {
            Ok(outcome) => outcome,
            Err(_) if turn.go(TurnState::Waiting, TurnState::Left) => {
                metrics::counter!("doorbuster_searches_outwaited_total").increment(1);
                return Err(EngineError::Moving);
            }
            // It is on its way to Redis, which answers within a bound of its own.
            Err(_) => answered.await,
        };
        // No answer: the search has panicked, or the process is stopping.
        outcome.unwrap_or(Err(EngineError::Moving))
    }

    pub(super) fn have_searched(&self, live: &LiveDrop, asked: Asked) {
        if live.shared.search.put(asked) {
            tokio::spawn(self.clone().serve(live.clone()));
        }
    }

    /// Round after round, until nobody waits.
    async fn serve(self, first: LiveDrop) {
        let serving = Serving(first);
        let shared = &serving.0.shared;
        let (mut waiting, mut pause): (Vec<Asked>, _) = (Vec::new(), FIRST_PAUSE);
        loop {
            let (late, in_time) = waiting.into_iter().filter(Asked::is_waiting).partition(Asked::is_late);
            waiting = in_time;
            answer_all(late, &EngineError::Moving);
            let arrived = shared.search.take(!waiting.is_empty());
            let is_new = !arrived.is_empty();
            waiting.extend(arrived);
            if waiting.is_empty() {
                return;
            }
            // The newest that this process knows: epochs change under a search.
            let known = self.known_drop(&serving.0.drop.name).filter(|known| known.drop.id == serving.0.drop.id);
            let live = known.as_deref().unwrap_or(&serving.0);
            let asked = waiting.len();
            waiting = self.round(live, waiting).await;
            let has_moved = waiting.len() < asked || is_new;
            pause = if has_moved { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            if !waiting.is_empty() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Serves what can be served. Answers those who must wait for another round.
    async fn round(&self, live: &LiveDrop, asked: Vec<Asked>) -> Vec<Asked> {
        if let Err(error) = self.mark_proof(live).await {
            answer_all(asked, &error);
            return Vec::new();
        }
        let look = self.look_everywhere(live).await;
        let mut sorted = sort(live, &look, asked);
        let moved = match self.pull(live, &sorted.pulls).await {
            Ok(pulled) => {
                sorted.transfers.extend(pulled);
                self.bring(live, &sorted.transfers).await
            }
            Err(error) => Err(error),
        };
        let kept = self.judge(live, &look, &mut sorted).await;
        // Also those who are refused: the same click may have been served meanwhile.
        let put = join_all(sorted.served.into_iter().map(put_again)).await;
        let refused = sorted.refused.into_iter();
        let put_refused = refused.map(|(one, available)| async move { (put_again(one).await, available) });
        for (left, available) in join_all(put_refused).await {
            if let Some(Asked::Units(waiter)) = left {
                let _ = waiter.answer.send(Ok(refusal(available)));
            }
        }
        sorted.again.extend(put.into_iter().flatten());
        if let Err(error) = &moved {
            // What lay at home was there all the same; the others would run into the same in the next round.
            answer_all(std::mem::take(&mut sorted.again), error);
        }
        for (variant, found) in kept {
            if let Err(error) = self.keep_reading(live, variant, &look, &found).await {
                tracing::debug!(drop = %live.drop.name, %error, "a reading could not be kept: {error}");
            }
        }
        sorted.again
    }

    /// Decides about those for whom there are too few units: refused, or again. Answers what it has read of variants in
    /// which somebody may be refused.
    async fn judge(&self, live: &LiveDrop, look: &Look, sorted: &mut Sorted) -> BTreeMap<VariantNumber, Evidence> {
        let mut kept = BTreeMap::new();
        let short = std::mem::take(&mut sorted.short);
        if let Some(error) = look.error() {
            // A warehouse of which nothing is known may have units, so nobody is refused.
            answer_all(short, &error);
            return kept;
        }
        if short.is_empty() {
            return kept;
        }
        let read = match self.read_behind(live, look).await {
            Ok(read) => read,
            Err(error) => {
                answer_all(short, &error);
                return kept;
            }
        };
        for one in short {
            let found = read.evidence(live, one.variant(), look);
            match (found.verdict(), &one) {
                (Verdict::NoMoreThan(available), _) if available < one.units() => {
                    kept.insert(one.variant(), found);
                    // Who only wants a reading has it now.
                    if matches!(one, Asked::Units(_)) {
                        sorted.refused.push((one, available));
                    }
                }
                (_, Asked::Units(_)) => sorted.again.push(one),
                // Nor does one wait for another round.
                (_, Asked::Reading { .. }) => {}
            }
        }
        kept
    }

    /// Step 1 of pulls.
    async fn pull(&self, live: &LiveDrop, pulls: &[(VariantNumber, Pull)]) -> Result<Vec<Transfer>, EngineError> {
        let each = pulls.iter().map(|(variant, pull)| async move {
            let (source, destination) = (&live.drop.warehouses[pull.source], &live.drop.warehouses[pull.destination]);
            let id = TransferId(Uuid::now_v7());
            let moved = live.store(source).pull(*variant, id, destination.number, pull.units).await?;
            let transfer = Transfer { source: *source, destination: destination.id, variant: *variant, id, moved };
            Ok::<_, EngineError>(transfer)
        });
        // All to their ends: what is set aside can only be brought home by somebody who knows of it.
        let (mut set_aside, mut failed) = (Vec::new(), None);
        for one in join_all(each).await {
            match one {
                Ok(transfer) => set_aside.push(transfer),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed.filter(|_| set_aside.is_empty()) {
            return Err(error);
        }
        set_aside.retain(|transfer| !transfer.moved.is_empty());
        let units = set_aside.iter().map(|transfer| transfer.moved.len() as u64).sum();
        metrics::counter!("doorbuster_pulled_units_total").increment(units);
        if !set_aside.is_empty() {
            steps::passed("pull.set_aside");
        }
        Ok(set_aside)
    }

    /// Finishes every transfer that somebody began and did not bring home.
    pub async fn finish_transfers(&self, live: &LiveDrop) -> Result<(), EngineError> {
        let look = self.look_everywhere(live).await;
        self.bring(live, &leaving(live, &look, |_| true)).await?;
        look.error().map_or(Ok(()), Err)
    }

    /// Steps 2 to 4 of pulls.
    async fn bring(&self, live: &LiveDrop, transfers: &[Transfer]) -> Result<(), EngineError> {
        if transfers.is_empty() {
            return Ok(());
        }
        let decided = match self.ledger.grant_transfers(&live.drop, transfers).await {
            // One that is impossible must not keep the others from their homes.
            Err(error) if transfers.len() > 1 && !error.is_retryable() => {
                let mut failed = None;
                for transfer in transfers {
                    failed = Box::pin(self.bring(live, std::slice::from_ref(transfer))).await.err().or(failed);
                }
                return failed.map_or(Ok(()), Err);
            }
            decided => decided?,
        };
        let at = |(transfer, decided): (&Transfer, &TransferDecided)| match decided {
            TransferDecided::Returned => Some(transfer.source.id),
            TransferDecided::Granted | TransferDecided::Before => Some(transfer.destination),
            TransferDecided::Void => None,
        };
        let granted = transfers.iter().zip(&decided).filter_map(at).collect::<BTreeSet<WarehouseId>>();
        self.apply_grants_of(live, &granted.into_iter().collect::<Vec<_>>()).await?;
        steps::passed("pull.applied");
        let done = transfers.iter().zip(&decided).filter(|(_, decided)| **decided != TransferDecided::Void);
        let clears = done.map(|(transfer, _)| live.store(&transfer.source).clear(transfer.id));
        for cleared in join_all(clears).await {
            cleared?;
        }
        steps::passed("pull.cleared");
        Ok(())
    }
}

/// What a round does about those who asked.
#[derive(Default)]
struct Sorted {
    /// What somebody set aside and did not bring home.
    transfers: Vec<Transfer>,
    pulls: Vec<(VariantNumber, Pull)>,
    /// They are served once these pulls have come, or by what lies at home.
    served: Vec<Asked>,
    /// A lease that was begun since they arrived says that there are only so many units.
    refused: Vec<(Asked, u32)>,
    /// There are too few units for them.
    short: Vec<Asked>,
    /// They wait for another round: others get what there is, or what was set aside comes first.
    again: Vec<Asked>,
}

fn sort(live: &LiveDrop, look: &Look, asked: Vec<Asked>) -> Sorted {
    let variants = asked.iter().map(Asked::variant).collect::<BTreeSet<_>>();
    let transfers = leaving(live, look, |leaving| variants.contains(&leaving.variant));
    let mut sorted = Sorted { transfers, ..Sorted::default() };
    let mut of_variants: BTreeMap<VariantNumber, Vec<Asked>> = BTreeMap::new();
    for one in asked {
        match leased(live, one.variant(), one.units()) {
            Some(available) if matches!(one, Asked::Units(_)) => sorted.refused.push((one, available)),
            _ => of_variants.entry(one.variant()).or_default().push(one),
        }
    }
    let want = |one: &Asked| match one {
        Asked::Units(waiter) => {
            Some(Want { home: usize::from(live.home_of(&waiter.claim.buyer).number.0), units: one.units() })
        }
        Asked::Reading { .. } => None,
    };
    for (variant, asked) in of_variants {
        let position = live.variant_position(variant);
        let free = look.views.iter().map(|view| view.as_ref().ok().map(|view| view.free[position]));
        let wants = asked.iter().filter_map(want).collect::<Vec<_>>();
        let plan = plan(&free.collect::<Vec<_>>(), &wants, MAX_SERIALS as u32);
        sorted.pulls.extend(plan.pulls.iter().map(|pull| (variant, *pull)));
        let is_leaving = sorted.transfers.iter().any(|transfer| transfer.variant == variant);
        let everywhere = look.free(position);
        let mut is_served = plan.is_served.into_iter();
        for one in asked {
            let list = match &one {
                Asked::Units(_) if is_served.next() == Some(true) => &mut sorted.served,
                Asked::Units(_) if one.units() <= everywhere && look.error().is_none() => &mut sorted.again,
                _ if is_leaving => &mut sorted.again,
                _ => &mut sorted.short,
            };
            list.push(one);
        }
    }
    sorted
}

/// The transfers in a look that are wanted.
fn leaving(live: &LiveDrop, look: &Look, wanted: impl Fn(&LeavingTokens) -> bool) -> Vec<Transfer> {
    let mut found = Vec::new();
    for (source, view) in live.drop.warehouses.iter().zip(&look.views) {
        for leaving in view.iter().flat_map(|view| &view.leaving).filter(|leaving| wanted(leaving)) {
            let destination = live.drop.warehouses.get(usize::from(leaving.destination.0)).unwrap_or(source);
            found.push(Transfer {
                source: *source,
                destination: destination.id,
                variant: leaving.variant,
                id: leaving.transfer,
                moved: leaving.serials.clone(),
            });
        }
    }
    found
}

/// Puts a claim to its home once more, and tells whoever waits what it says. Who still has nothing comes back.
async fn put_again(asked: Asked) -> Option<Asked> {
    let Asked::Units(waiter) = asked else { return None };
    if !waiter.turn.go(TurnState::Waiting, TurnState::Put) {
        return None;
    }
    let home = *waiter.live.home_of(&waiter.claim.buyer);
    let answered = match waiter.live.submit(&home, waiter.claim.clone()).await {
        Ok(outcome) => at_home(outcome, &waiter.live).map(Ok),
        Err(error) => Some(Err(error.into())),
    };
    match answered {
        Some(answered) => {
            let _ = waiter.answer.send(answered);
            None
        }
        None => {
            waiter.turn.go(TurnState::Put, TurnState::Waiting);
            Some(Asked::Units(waiter))
        }
    }
}

/// Tells all of them the same.
fn answer_all(asked: impl IntoIterator<Item = Asked>, error: &EngineError) {
    for one in asked {
        if let Asked::Units(waiter) = one {
            let _ = waiter.answer.send(Err(error.clone()));
        }
    }
}
