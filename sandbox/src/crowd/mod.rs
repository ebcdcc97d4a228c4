//! Simulated buyers for demo, tests and load tests, and the judge who reads their log.
//!
//! The crowd speaks HTTP and knows nothing else of the engine: what it was told is its only evidence. What it asks for
//! is decided by the seed; when, by the machine it runs on. A rush costs one request per buyer, one more for each double
//! click, retry and return.

mod judge;
mod line;
mod log;
mod options;
mod plan;
mod shop;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

pub use judge::{CaptureFact, FreedFact, OrderFact, StoreFacts, Verdict, judge};
pub use line::{
    JoinCall, JoinOutcome, LineCrowd, LineFacts, LineLog, LineProgress, LineVerdict, LineVisit, Place, PlaceFact, Told,
    Wait, judge_line,
};
pub use log::{BuyersLog, Call, CallOutcome, Latencies, Second, Visit};
pub use options::{CrowdOptions, Mint};
pub use shop::read_outcome;

use log::WallClock;
use plan::{Buyer, DoubleClick};
use shop::Shop;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CrowdError {
    #[error("{0}")]
    Options(&'static str),
    #[error("the HTTP client could not be made")]
    Client(#[source] reqwest::Error),
    #[error("{missing} of {buyers} checkout profiles were not saved, the first because of: {reason}")]
    Profiles { missing: usize, buyers: usize, reason: String },
}

/// How far the crowd is. `accepted + sold_out + other_refusals + failed` is the number of buyers who clicked and have
/// been answered; a patient buyer who comes back moves from one to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    pub profiles_saved: u64,
    /// Buyers who have clicked.
    pub clicked: u64,
    /// Buyers who hold a claim.
    pub accepted: u64,
    /// Answers, not buyers: stored ones given again.
    pub replayed: u64,
    pub sold_out: u64,
    pub other_refusals: u64,
    /// Buyers who know nothing, or got an answer that is none.
    pub failed: u64,
}

/// A crowd of buyers before one drop. Clones are handles of the same crowd.
#[derive(Clone)]
pub struct Crowd {
    inner: Arc<Inner>,
}

struct Inner {
    options: CrowdOptions,
    /// In the order of arrival.
    buyers: Vec<Buyer>,
    shop: Shop,
    clock: WallClock,
    connections: Arc<Semaphore>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    profiles_saved: AtomicU64,
    clicked: AtomicU64,
    replayed: AtomicU64,
    /// Indexed by [`Standing`].
    standing: [AtomicU64; 4],
}

/// What a buyer has after his latest click.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Accepted,
    SoldOut,
    OtherRefusal,
    Failed,
}

impl Crowd {
    pub fn new(options: CrowdOptions) -> Result<Self, CrowdError> {
        options.check()?;
        let buyers = plan::buyers(&options);
        let shop = Shop::new(&options).map_err(CrowdError::Client)?;
        let connections = Arc::new(Semaphore::new(options.connections));
        let clock = WallClock::start();
        let inner = Inner { options, buyers, shop, clock, connections, counters: Counters::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Saves everybody's checkout profile, so that settled claims can be charged. Stopped, it leaves the rest unsaved.
    pub async fn save_profiles(&self) -> Result<(), CrowdError> {
        let mut saving = JoinSet::new();
        let mut failures = Vec::new();
        for index in 0..self.inner.buyers.len() {
            let Some(permit) = self.inner.unless_stopped(self.inner.connection()).await else { break };
            let inner = Arc::clone(&self.inner);
            saving.spawn(async move { inner.save_profile(index, permit).await.err() });
            while let Some(saved) = saving.try_join_next() {
                failures.extend(finished(saved));
            }
        }
        while let Some(saved) = saving.join_next().await {
            failures.extend(finished(saved));
        }
        match failures.first() {
            None => Ok(()),
            Some(reason) => Err(CrowdError::Profiles {
                missing: failures.len(),
                buyers: self.inner.buyers.len(),
                reason: reason.clone(),
            }),
        }
    }

    /// Everybody clicks once, and the patient ones come back. Returns when all have what they wanted or gave up.
    pub async fn rush(&self) -> BuyersLog {
        let began = Instant::now();
        let mut visits = JoinSet::new();
        let mut calls = Vec::with_capacity(self.inner.buyers.len());
        for (index, buyer) in self.inner.buyers.iter().enumerate() {
            let due = began + buyer.arrives_after;
            // The connection is awaited here, not in the task: the tasks are bounded, and served as they arrive.
            let arrival = async {
                tokio::time::sleep_until(due).await;
                self.inner.connection().await
            };
            let Some(permit) = self.inner.unless_stopped(arrival).await else { break };
            visits.spawn(Arc::clone(&self.inner).visit(index, due, permit));
            while let Some(visit) = visits.try_join_next() {
                calls.extend(finished(visit));
            }
        }
        while let Some(visit) = visits.join_next().await {
            calls.extend(finished(visit));
        }
        calls.sort_by_key(|call: &Call| call.started_us);
        BuyersLog { calls }
    }

    pub fn progress(&self) -> Progress {
        let counters = &self.inner.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let standing = |standing: Standing| read(&counters.standing[standing as usize]);
        Progress {
            profiles_saved: read(&counters.profiles_saved),
            clicked: read(&counters.clicked),
            accepted: standing(Standing::Accepted),
            replayed: read(&counters.replayed),
            sold_out: standing(Standing::SoldOut),
            other_refusals: standing(Standing::OtherRefusal),
            failed: standing(Standing::Failed),
        }
    }

    /// Now, on the clock of the log, rounded up: for [`FreedFact::at_us`].
    pub fn now_us(&self) -> i64 {
        self.inner.clock.rounded_up_us()
    }
}

impl Inner {
    async fn connection(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.connections).acquire_owned().await;
        permit.expect("nobody closes the semaphore")
    }

    /// `None` if the crowd was stopped first.
    async fn unless_stopped<T>(&self, wanted: impl Future<Output = T>) -> Option<T> {
        self.options.stop.run_until_cancelled(wanted).await
    }

    async fn save_profile(&self, index: usize, permit: OwnedSemaphorePermit) -> Result<(), String> {
        let buyer = &self.buyers[index];
        let mut chance = StdRng::seed_from_u64(buyer.seed);
        let mut permit = Some(permit);
        let mut tries = 0;
        loop {
            let answer = {
                let _connection = match permit.take() {
                    Some(permit) => permit,
                    None => self.connection().await,
                };
                self.shop.save_profile(buyer).await
            };
            tries += 1;
            match answer {
                Ok(()) => {
                    self.counters.profiles_saved.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(failure) if failure.is_final || tries == self.options.tries_max => return Err(failure.reason),
                Err(failure) => {
                    let wait = shop::wait_before_retry(failure.retry_after, tries, &mut chance);
                    if self.unless_stopped(tokio::time::sleep(wait)).await.is_none() {
                        return Err(failure.reason);
                    }
                }
            }
        }
    }

    /// All that one buyer does.
    async fn visit(self: Arc<Self>, index: usize, due: Instant, permit: OwnedSemaphorePermit) -> Vec<Call> {
        let buyer = &self.buyers[index];
        let mut chance = StdRng::seed_from_u64(buyer.seed);
        self.counters.clicked.fetch_add(1, Ordering::Relaxed);
        // The requests are boxed because a visit mostly waits: a patient crowd is as many small futures, not large ones.
        let first = Box::pin(self.click(buyer, Visit::FirstClick, due, Some(permit)));
        let again = || Box::pin(self.click(buyer, Visit::DoubleClick, Instant::now(), None));
        let mut calls = match buyer.double_click {
            None => first.await,
            Some(DoubleClick::AtOnce) => {
                let (first, second) = tokio::join!(first, again());
                [first, second].concat()
            }
            Some(DoubleClick::Afterwards) => [first.await, again().await].concat(),
        };
        let mut standing = self.stands(None, &calls);
        while buyer.is_patient
            && standing != Standing::Accepted
            && calls.last().is_some_and(|call| call.outcome.may_change())
        {
            let again = Instant::now() + self.options.return_after.mul_f64(chance.random_range(0.5..1.5));
            if again > due + self.options.patience
                || self.unless_stopped(tokio::time::sleep_until(again)).await.is_none()
            {
                break;
            }
            let answers = Box::pin(self.click(buyer, Visit::Return, again, None)).await;
            standing = self.stands(Some(standing), &answers);
            calls.extend(answers);
        }
        calls
    }

    /// One click, sent until it is answered: what could not be answered is sent again under its key.
    async fn click(
        &self,
        buyer: &Buyer,
        visit: Visit,
        due: Instant,
        mut permit: Option<OwnedSemaphorePermit>,
    ) -> Vec<Call> {
        // A double click waits differently from the click it repeats.
        let mut chance = StdRng::seed_from_u64(buyer.seed ^ visit as u64);
        let mut calls = Vec::with_capacity(1);
        let mut due_us = self.clock.at_us(due);
        loop {
            let connection = match permit.take() {
                Some(permit) => permit,
                None => self.connection().await,
            };
            let request = self.shop.claim(buyer);
            let started_us = self.clock.rounded_down_us();
            let answer = request.send().await;
            let ended_us = self.clock.rounded_up_us();
            drop(connection);

            if matches!(answer.outcome, CallOutcome::Accepted { replayed: true, .. }) {
                self.counters.replayed.fetch_add(1, Ordering::Relaxed);
            }
            let is_decided = answer.outcome.is_decided();
            calls.push(Call {
                buyer: buyer.id.clone(),
                key: buyer.key.clone(),
                sku: buyer.sku.clone(),
                quantity: buyer.quantity,
                visit: if calls.is_empty() { visit } else { Visit::Retry },
                due_us,
                started_us,
                ended_us,
                outcome: answer.outcome,
            });
            let tries = u32::try_from(calls.len()).expect("tries_max is a u32");
            if is_decided || tries == self.options.tries_max {
                return calls;
            }
            let again = Instant::now() + shop::wait_before_retry(answer.retry_after, tries, &mut chance);
            if self.unless_stopped(tokio::time::sleep_until(again)).await.is_none() {
                return calls;
            }
            due_us = self.clock.at_us(again);
        }
    }

    fn stands(&self, before: Option<Standing>, calls: &[Call]) -> Standing {
        let of = |outcome: &CallOutcome| match outcome {
            CallOutcome::Accepted { .. } => Standing::Accepted,
            CallOutcome::SoldOut => Standing::SoldOut,
            CallOutcome::NotEnough { .. }
            | CallOutcome::LimitExceeded
            | CallOutcome::NotOpen
            | CallOutcome::Closed
            | CallOutcome::Released
            | CallOutcome::KeyReused => Standing::OtherRefusal,
            CallOutcome::Overloaded | CallOutcome::Unknown(_) | CallOutcome::Error { .. } => Standing::Failed,
        };
        let accepted = calls.iter().any(|call| of(&call.outcome) == Standing::Accepted);
        let now = match calls.last() {
            _ if accepted => Standing::Accepted,
            Some(last) => of(&last.outcome),
            None => Standing::Failed,
        };
        self.counters.standing[now as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(before) = before {
            self.counters.standing[before as usize].fetch_sub(1, Ordering::Relaxed);
        }
        now
    }
}

/// Buyers do not panic, but the caller's `mint` may: that is his to see.
fn finished<T>(joined: Result<T, JoinError>) -> T {
    joined.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => std::panic::resume_unwind(Box::new("nobody aborts a buyer") as Box<dyn Any + Send>),
    })
}
