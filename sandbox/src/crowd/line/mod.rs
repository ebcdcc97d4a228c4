//! A crowd that stands in line: most join and close their tab, some leave or want something else, and some watch the
//! board.
//!
//! It speaks HTTP and knows nothing else of the engine. Each watcher notes what their page would say of their wait, so
//! that a wait that rose is found in what buyers saw.

mod judge;
mod shop;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::plan::{Buyer, DoubleClick};
use super::shop::wait_before_retry;
use super::{Crowd, CrowdError, Inner, finished};
use shop::{Board, LineShop};

pub use judge::{LineFacts, LineVerdict, PlaceFact, judge_line};

/// Of all who join, so many close their tab and never ask again …
const CLOSE_TAB: f64 = 0.7;
/// … so many watch the board …
const WATCH: f64 = 0.1;
/// … so many leave, half of them once the draw is known …
const LEAVE: f64 = 0.05;
/// … and so many want something else before the seal. The others look at their place when all is over.
const CHANGE: f64 = 0.05;
/// Whoever changes or leaves early does so within this after they joined.
const SECOND_THOUGHTS: Duration = Duration::from_millis(500);
/// A page looks again with the next change, give or take so much of the wait.
const JITTER: f64 = 0.3;
/// A board that was not had is asked for again after this, give or take a half.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What one buyer of a line did and was told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LineVisit {
    pub buyer: String,
    pub joins: Vec<JoinCall>,
    /// What they want, the one they like best first, as far as the shop has said that it knows.
    pub wish: Vec<String>,
    pub changed: Option<Told>,
    pub left: Option<Told>,
    /// What their page said of their wait, look by look.
    pub waits: Vec<Wait>,
    pub looks: u64,
    /// Looks that were answered "as you know it".
    pub looks_unchanged: u64,
    pub looks_failed: u64,
    /// Boards that were older than one seen before. A page does not show them.
    pub boards_older: u64,
    /// Their own place, as they were told it last.
    pub place: Option<Place>,
}

/// One request to join. Times are microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinCall {
    pub started_us: i64,
    pub ended_us: i64,
    pub outcome: JoinOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinOutcome {
    Joined {
        entry_id: String,
        replayed: bool,
    },
    /// In line before, under another key.
    InLine {
        entry_id: String,
    },
    Refused(String),
    /// 429 or 503: come back later.
    Overloaded,
    /// They may be in line or not.
    Unknown(String),
}

/// How a change or leaving ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Done,
    Refused(String),
    Unknown(String),
}

/// What a page says of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Rounds until the rank is decided, at the latest.
    pub rounds: u32,
    /// When that is, in milliseconds since 1970. `None`: nobody can say, because the shop holds no rounds for now.
    pub decided_by_ms: Option<i64>,
    /// From one round to the next.
    pub every_ms: i64,
}

impl Wait {
    /// A look into the middle of a round finds that the next one is counted already, and a rank of this round not
    /// decided: until it has ended, the page may be wrong by one round's time.
    pub fn rose_since(&self, before: &Self) -> bool {
        let is_later = before.decided_by_ms.zip(self.decided_by_ms).is_some_and(|(was, is)| is > was + self.every_ms);
        self.rounds > before.rounds || is_later
    }
}

/// A place as its buyer was told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub entry_id: String,
    pub status: String,
    pub wish: Vec<String>,
    pub rank: Option<u32>,
    pub order_id: Option<String>,
}

/// What everybody did, in the order of the buyers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LineLog {
    pub visits: Vec<LineVisit>,
}

/// How far the line is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LineProgress {
    /// Buyers who have been answered that they are in line.
    pub joined: u64,
    /// Buyers who know nothing, or were refused.
    pub not_joined: u64,
    pub left: u64,
    pub looks: u64,
}

/// The same crowd, before a drop with a line. Clones are handles of the same.
#[derive(Clone)]
pub struct LineCrowd {
    inner: Arc<Inner>,
    shop: Arc<LineShop>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    joined: AtomicU64,
    not_joined: AtomicU64,
    left: AtomicU64,
    looks: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    ClosesTab,
    Watches,
    LeavesEarly,
    LeavesLate,
    Changes,
    LooksAtTheEnd,
}

impl Habit {
    fn of(chance: &mut StdRng) -> Self {
        let drawn: f64 = chance.random();
        match drawn {
            _ if drawn < CLOSE_TAB => Self::ClosesTab,
            _ if drawn < CLOSE_TAB + WATCH => Self::Watches,
            _ if drawn < CLOSE_TAB + WATCH + LEAVE / 2.0 => Self::LeavesEarly,
            _ if drawn < CLOSE_TAB + WATCH + LEAVE => Self::LeavesLate,
            _ if drawn < CLOSE_TAB + WATCH + LEAVE + CHANGE => Self::Changes,
            _ => Self::LooksAtTheEnd,
        }
    }
}

impl LineLog {
    /// Buyers who were told that they are in line.
    pub fn joined(&self) -> u64 {
        self.visits.iter().filter(|visit| visit.entry_id().is_some()).count() as u64
    }

    /// From the first request to the answer of the last who got in.
    pub fn joins_per_s(&self) -> f64 {
        let calls = || self.visits.iter().flat_map(|visit| &visit.joins);
        let is_in = |call: &&JoinCall| matches!(call.outcome, JoinOutcome::Joined { replayed: false, .. });
        let first = calls().map(|call| call.started_us).min();
        let last = calls().filter(is_in).map(|call| call.ended_us).max();
        match (first, last) {
            (Some(first), Some(last)) => calls().filter(is_in).count() as f64 * 1e6 / (last - first).max(1) as f64,
            _ => 0.0,
        }
    }

    /// Why buyers did not get in, and how many each.
    pub fn refusals(&self) -> BTreeMap<String, u64> {
        let mut refusals = BTreeMap::new();
        for visit in self.visits.iter().filter(|visit| visit.entry_id().is_none()) {
            let why = match visit.joins.last().map(|call| &call.outcome) {
                Some(JoinOutcome::Refused(code)) => code.clone(),
                Some(JoinOutcome::Overloaded) => "overloaded".to_owned(),
                Some(JoinOutcome::Unknown(why)) => why.clone(),
                _ => "never sent".to_owned(),
            };
            *refusals.entry(why).or_default() += 1;
        }
        refusals
    }
}

impl LineVisit {
    /// As the first answer said it.
    pub fn entry_id(&self) -> Option<&str> {
        self.joins.iter().find_map(|call| call.outcome.entry_id())
    }
}

impl JoinOutcome {
    fn entry_id(&self) -> Option<&str> {
        match self {
            Self::Joined { entry_id, .. } | Self::InLine { entry_id } => Some(entry_id),
            Self::Refused(_) | Self::Overloaded | Self::Unknown(_) => None,
        }
    }

    fn is_decided(&self) -> bool {
        !matches!(self, Self::Overloaded | Self::Unknown(_))
    }
}

impl Crowd {
    /// The same buyers, for a drop with a line.
    pub fn before_a_line(&self) -> Result<LineCrowd, CrowdError> {
        let shop = Arc::new(LineShop::new(&self.inner.options).map_err(CrowdError::Client)?);
        Ok(LineCrowd { inner: Arc::clone(&self.inner), shop, counters: Arc::default() })
    }
}

impl LineCrowd {
    /// Everybody joins in the order of their arrival and does what they are used to. `over` says that all is over:
    /// whoever is still there looks once more.
    pub async fn stand_in_line(&self, over: CancellationToken) -> LineLog {
        let began = Instant::now();
        let mut visits = JoinSet::new();
        for (index, buyer) in self.inner.buyers.iter().enumerate() {
            let due = began + buyer.arrives_after;
            if self.inner.unless_stopped(tokio::time::sleep_until(due)).await.is_none() {
                break;
            }
            let (line, over) = (self.clone(), over.clone());
            visits.spawn(async move { (index, line.visit(index, over).await) });
        }
        let mut done = Vec::with_capacity(self.inner.buyers.len());
        while let Some(visit) = visits.join_next().await {
            done.push(finished(visit));
        }
        done.sort_unstable_by_key(|(index, _)| *index);
        LineLog { visits: done.into_iter().map(|(_, visit)| visit).collect() }
    }

    pub fn progress(&self) -> LineProgress {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { joined, not_joined, left, looks } = &*self.counters;
        LineProgress { joined: read(joined), not_joined: read(not_joined), left: read(left), looks: read(looks) }
    }

    /// All that one buyer does. Boxed because a visit mostly waits: most tasks are small then.
    async fn visit(self, index: usize, over: CancellationToken) -> LineVisit {
        let buyer = &self.inner.buyers[index];
        let mut chance = StdRng::seed_from_u64(buyer.seed);
        let habit = Habit::of(&mut chance);
        let wish = wish(&self.inner.options.skus, &mut chance);
        let mut visit = LineVisit { buyer: buyer.id.clone(), wish, ..LineVisit::default() };
        visit.joins = Box::pin(self.join_as_often_as_it_takes(buyer, &visit.wish, &mut chance)).await;
        let counter = match visit.entry_id() {
            Some(_) => &self.counters.joined,
            None => &self.counters.not_joined,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if visit.entry_id().is_none() || habit == Habit::ClosesTab {
            return visit;
        }
        match habit {
            Habit::ClosesTab => {}
            Habit::Watches => Box::pin(self.watch(buyer, &mut visit, &mut chance, &over)).await,
            Habit::LeavesEarly => {
                tokio::time::sleep(SECOND_THOUGHTS.mul_f64(chance.random())).await;
                Box::pin(self.leave(buyer, &mut visit)).await;
            }
            Habit::LeavesLate => {
                Box::pin(self.watch_until_drawn(&mut visit, &mut chance, &over)).await;
                Box::pin(self.leave(buyer, &mut visit)).await;
            }
            Habit::Changes => {
                tokio::time::sleep(SECOND_THOUGHTS.mul_f64(chance.random())).await;
                Box::pin(self.change(buyer, &mut visit)).await;
            }
            Habit::LooksAtTheEnd => {}
        }
        over.cancelled().await;
        visit.place = Box::pin(self.place_at_last(buyer, &mut chance)).await.or(visit.place);
        visit
    }

    /// Who clicks twice here is somebody whose first answer was lost: the request is sent again under its key.
    async fn join_as_often_as_it_takes(&self, buyer: &Buyer, wish: &[String], chance: &mut StdRng) -> Vec<JoinCall> {
        let mut other = StdRng::seed_from_u64(buyer.seed ^ 1);
        match buyer.double_click {
            None => self.join(buyer, wish, chance).await,
            Some(DoubleClick::AtOnce) => {
                let (one, two) = tokio::join!(self.join(buyer, wish, chance), self.join(buyer, wish, &mut other));
                [one, two].concat()
            }
            Some(DoubleClick::Afterwards) => {
                let first = self.join(buyer, wish, chance).await;
                [first, self.join(buyer, wish, &mut other).await].concat()
            }
        }
    }

    async fn join(&self, buyer: &Buyer, wish: &[String], chance: &mut StdRng) -> Vec<JoinCall> {
        let mut calls = Vec::with_capacity(1);
        loop {
            let connection = self.inner.connection().await;
            let started_us = self.inner.clock.rounded_down_us();
            let (outcome, retry_after) = self.shop.join(buyer, wish).await;
            let ended_us = self.inner.clock.rounded_up_us();
            drop(connection);
            let is_decided = outcome.is_decided();
            calls.push(JoinCall { started_us, ended_us, outcome });
            let tries = u32::try_from(calls.len()).expect("tries_max is a u32");
            if is_decided || tries == self.inner.options.tries_max {
                return calls;
            }
            tokio::time::sleep(wait_before_retry(retry_after, tries, chance)).await;
        }
    }

    async fn leave(&self, buyer: &Buyer, visit: &mut LineVisit) {
        let _connection = self.inner.connection().await;
        let told = self.shop.leave(buyer).await;
        self.counters.left.fetch_add(u64::from(told == Told::Done), Ordering::Relaxed);
        visit.left = Some(told);
    }

    /// What was liked least is liked best now.
    async fn change(&self, buyer: &Buyer, visit: &mut LineVisit) {
        let _connection = self.inner.connection().await;
        let other = self.inner.options.skus.iter().find(|sku| !visit.wish.contains(sku));
        let mut wish = visit.wish.clone();
        wish.reverse();
        wish.splice(0..0, other.cloned());
        wish.truncate(3);
        let told = self.shop.change(buyer, &wish).await;
        if told == Told::Done {
            visit.wish = wish;
        }
        visit.changed = Some(told);
    }

    async fn watch_until_drawn(&self, visit: &mut LineVisit, chance: &mut StdRng, over: &CancellationToken) {
        let mut seen = None;
        while !over.is_cancelled() && !seen.as_ref().is_some_and(Board::is_drawn) {
            let wait = self.look(&mut seen, visit, chance).await;
            over.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
    }

    /// Looks at the board until all is over; at their own place once its rank is known, and once their round has been.
    async fn watch(&self, buyer: &Buyer, visit: &mut LineVisit, chance: &mut StdRng, over: &CancellationToken) {
        let (mut seen, mut has_asked) = (None, false);
        while !over.is_cancelled() {
            let wait = self.look(&mut seen, visit, chance).await;
            if let Some(board) = seen.as_ref().filter(|board| board.is_drawn()) {
                let rank = visit.place.as_ref().and_then(|place| place.rank);
                let is_decided = rank.is_some_and(|rank| board.is_decided(rank));
                if rank.is_none() || (is_decided && !has_asked) {
                    has_asked = is_decided;
                    let _connection = self.inner.connection().await;
                    visit.place = self.shop.place(buyer).await.ok().or(visit.place.take());
                }
                let rank = visit.place.as_ref().and_then(|place| place.rank);
                visit.waits.extend(rank.and_then(|rank| board.wait(rank)));
            }
            over.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
    }

    /// One look; answers how long to wait before the next. Never less than the board asks for.
    async fn look(&self, seen: &mut Option<Board>, visit: &mut LineVisit, chance: &mut StdRng) -> Duration {
        let connection = self.inner.connection().await;
        let looked = self.shop.look(seen.as_ref()).await;
        drop(connection);
        visit.looks += 1;
        self.counters.looks.fetch_add(1, Ordering::Relaxed);
        match looked {
            Ok(None) => visit.looks_unchanged += 1,
            Ok(Some(board)) if seen.as_ref().is_none_or(|seen| seen.version <= board.version) => *seen = Some(board),
            Ok(Some(_)) => visit.boards_older += 1,
            Err(_) => {
                visit.looks_failed += 1;
                return LOOK_AGAIN.mul_f64(chance.random_range(1.0..1.5));
            }
        }
        let wait = seen.as_ref().map_or(LOOK_AGAIN, Board::look_again_in);
        wait.mul_f64(1.0 + JITTER * chance.random::<f64>())
    }

    /// When all is over. A gateway that was just started again is asked again.
    async fn place_at_last(&self, buyer: &Buyer, chance: &mut StdRng) -> Option<Place> {
        for tries in 1..=self.inner.options.tries_max {
            let connection = self.inner.connection().await;
            let answer = self.shop.place(buyer).await;
            drop(connection);
            match answer {
                Ok(place) => return Some(place),
                Err(Told::Unknown(_)) => tokio::time::sleep(wait_before_retry(None, tries, chance)).await,
                Err(_) => return None,
            }
        }
        None
    }
}

/// One to three of the drop's variants, in an order of their own.
fn wish(skus: &[String], chance: &mut StdRng) -> Vec<String> {
    let mut skus = skus.to_vec();
    skus.shuffle(chance);
    skus.truncate(chance.random_range(1..=3));
    skus
}
