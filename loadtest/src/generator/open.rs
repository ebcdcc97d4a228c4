//! The open model: requests leave when they are due, whether or not the ones before them have been answered.
//!
//! Each thread has its share of plan and connections on a runtime of its own. What is due takes an idle connection; when there
//! is none it waits, and its wait counts as latency. At the end of the grace whatever waits or is under way is recorded too.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use doorbuster_sandbox::crowd::{BuyersLog, Call, Visit, read_outcome};
use tokio::sync::Notify;
use tokio::task::LocalSet;

use super::buyers::{Buyers, DropPaths, KEY};
use super::scenario::{Action, Planned};
use super::tally::{Outcome, Tally};
use super::ticker::Ticker;
use super::wire::Connection;

/// What an open run sends, and where.
pub struct OpenRun {
    pub address: SocketAddr,
    pub drops: Vec<DropPaths>,
    pub buyers: Arc<Buyers>,
    /// In the order of its times.
    pub plan: Vec<Planned>,
    /// Kept connections, of all threads together.
    pub connections: usize,
    pub threads: usize,
    pub answer_timeout: Duration,
    /// How long after the last arrival answers are waited for.
    pub grace: Duration,
    /// Keeps every claim and its answer, for `verify`.
    pub keeps_log: bool,
    /// How many requests have ended, for a progress bar.
    pub ended: Arc<AtomicU64>,
}

/// What an open run has seen.
pub struct OpenResult {
    pub tally: Tally,
    /// Of each drop, in their order; empty unless it was asked for.
    pub logs: Vec<BuyersLog>,
    /// From the first arrival to the last answer.
    pub elapsed: Duration,
}

/// One claim as it was answered, taken apart only after the run.
struct Kept {
    planned: Planned,
    sent: Duration,
    ended: Duration,
    status: u16,
    is_replay: bool,
    /// The answer, or what happened instead.
    body: Vec<u8>,
}

/// What the tasks of one thread share.
struct Shared {
    run: Arc<OpenRun>,
    began: Instant,
    state: RefCell<State>,
    /// One for each connection.
    wake: Vec<Notify>,
}

struct State {
    waiting: VecDeque<Planned>,
    idle: VecDeque<usize>,
    /// The whole plan has come due.
    is_complete: bool,
    tally: Tally,
    kept: Vec<Kept>,
    /// By connection: what it is doing, since when.
    under_way: Vec<Option<(Planned, Duration)>>,
    last_answer: Duration,
}

impl OpenRun {
    /// Runs on threads of its own; blocks until everything is over.
    pub fn run(self) -> anyhow::Result<OpenResult> {
        let run = Arc::new(self);
        let threads = run.threads.clamp(1, run.connections.max(1));
        // A moment for the connections of all threads to be made before the first arrival is due.
        let began = Instant::now() + Duration::from_millis(50 + run.connections as u64 / 4);
        #[expect(clippy::disallowed_methods, reason = "the log is compared with the stores' times, which are real")]
        let began_us = {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            (now + began.saturating_duration_since(Instant::now())).as_micros() as i64
        };
        let mut running = Vec::new();
        for thread in 0..threads {
            let run = Arc::clone(&run);
            let name = format!("generator-{thread}");
            let body = move || of_thread(run, thread, threads, began);
            running.push(std::thread::Builder::new().name(name).spawn(body).context("a thread cannot be started")?);
        }
        let mut tally = Tally::default();
        let mut logs = vec![BuyersLog::default(); if run.keeps_log { run.drops.len() } else { 0 }];
        let mut elapsed = Duration::ZERO;
        for thread in running {
            let state = thread.join().map_err(|_| anyhow::anyhow!("a generator thread panicked"))??;
            tally.add(&state.tally);
            elapsed = elapsed.max(state.last_answer);
            for kept in state.kept {
                logs[usize::from(kept.planned.drop)].calls.push(call(&run, began_us, &kept));
            }
        }
        for log in &mut logs {
            log.calls.sort_by_key(|call| call.started_us);
        }
        Ok(OpenResult { tally, logs, elapsed })
    }
}

fn of_thread(run: Arc<OpenRun>, thread: usize, threads: usize, began: Instant) -> anyhow::Result<State> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let connections = (run.connections / threads + usize::from(thread < run.connections % threads)).max(1);
    let shared = Rc::new(Shared {
        run,
        began,
        state: RefCell::new(State {
            waiting: VecDeque::new(),
            idle: VecDeque::new(),
            is_complete: false,
            tally: Tally::default(),
            kept: Vec::new(),
            under_way: vec![None; connections],
            last_answer: Duration::ZERO,
        }),
        wake: (0..connections).map(|_| Notify::new()).collect(),
    });
    let tasks = LocalSet::new();
    let working =
        (0..connections).map(|number| tasks.spawn_local(work(Rc::clone(&shared), number))).collect::<Vec<_>>();
    tasks.block_on(&runtime, async {
        shared.schedule(thread, threads).await;
        let end = began + shared.run.plan.last().map_or(Duration::ZERO, due) + shared.run.grace;
        let all = async {
            for task in working {
                let _ = task.await;
            }
        };
        let _ = tokio::time::timeout(end.saturating_duration_since(Instant::now()), all).await;
    });
    drop(tasks);
    let shared = Rc::into_inner(shared).context("a task of the generator outlived it")?;
    let mut state = shared.state.into_inner();
    let over = shared.began.elapsed();
    for (planned, sent) in std::mem::take(&mut state.under_way).into_iter().flatten() {
        state.record(
            &shared.run,
            planned,
            Outcome::TimedOut,
            sent,
            over,
            0,
            false,
            b"no answer until the end of the run",
        );
    }
    for planned in std::mem::take(&mut state.waiting) {
        state.record(&shared.run, planned, Outcome::Unsent, over, over, 0, false, b"");
    }
    Ok(state)
}

impl Shared {
    /// Lets this thread's share of the plan come due.
    async fn schedule(&self, thread: usize, threads: usize) {
        let ticker = Ticker::new();
        let mut share = self.run.plan.iter().filter(|planned| planned.buyer as usize % threads == thread).peekable();
        while let Some(next) = share.peek() {
            let next = self.began + due(next);
            while Instant::now() < next {
                ticker.wait_until(next).await;
            }
            let now = self.began.elapsed();
            while let Some(planned) = share.next_if(|planned| due(planned) <= now) {
                self.comes_due(*planned);
            }
            // Under a load that is always late, connections must still get their turn.
            tokio::task::yield_now().await;
        }
        self.state.borrow_mut().is_complete = true;
        self.wake.iter().for_each(Notify::notify_one);
    }

    fn comes_due(&self, planned: Planned) {
        let mut state = self.state.borrow_mut();
        state.waiting.push_back(planned);
        if let Some(idle) = state.idle.pop_front() {
            self.wake[idle].notify_one();
        }
    }

    /// What this connection does next; `None` at the end.
    async fn next(&self, number: usize) -> Option<Planned> {
        loop {
            {
                let mut state = self.state.borrow_mut();
                if let Some(planned) = state.waiting.pop_front() {
                    return Some(planned);
                }
                if state.is_complete {
                    return None;
                }
                state.idle.push_back(number);
            }
            self.wake[number].notified().await;
        }
    }
}

async fn work(shared: Rc<Shared>, number: usize) {
    let run = Arc::clone(&shared.run);
    let mut kept_connection = Connection::open(run.address).await.ok();
    let mut request = Vec::with_capacity(1024);
    while let Some(planned) = shared.next(number).await {
        run.buyers.write_planned(&run.drops, &planned, &mut request);
        let sent = shared.began.elapsed();
        shared.state.borrow_mut().under_way[number] = Some((planned, sent));
        let mut own = None;
        let exchange = async {
            let connection = if planned.is_fresh { &mut own } else { &mut kept_connection };
            let connection = match connection {
                Some(connection) => connection,
                none => none.insert(Connection::open(run.address).await?),
            };
            connection.exchange(&request).await
        };
        let exchanged = tokio::time::timeout(run.answer_timeout, exchange).await;
        let ended = shared.began.elapsed();
        let mut state = shared.state.borrow_mut();
        state.under_way[number] = None;
        let is_over = match exchanged {
            Ok(Ok(answer)) => {
                let outcome = Outcome::of(answer.status, answer.is_replay, answer.body);
                if outcome == Outcome::Refused || outcome == Outcome::ServerError {
                    state.tally.tell(format!("{} {}", answer.status, String::from_utf8_lossy(answer.body)));
                }
                state.record(&run, planned, outcome, sent, ended, answer.status, answer.is_replay, answer.body);
                answer.closes
            }
            Ok(Err(error)) => {
                let sentence = error.to_string();
                state.tally.tell(sentence.clone());
                state.record(&run, planned, Outcome::NoAnswer, sent, ended, 0, false, sentence.as_bytes());
                true
            }
            Err(_) => {
                state.record(&run, planned, Outcome::TimedOut, sent, ended, 0, false, b"no answer in time");
                true
            }
        };
        drop(state);
        if let Some(own) = own {
            own.close();
        } else if is_over && !planned.is_fresh {
            kept_connection = None;
        }
        run.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl State {
    #[expect(clippy::too_many_arguments, reason = "these are what one request came to, in one place")]
    fn record(
        &mut self,
        run: &OpenRun,
        planned: Planned,
        outcome: Outcome,
        sent: Duration,
        ended: Duration,
        status: u16,
        is_replay: bool,
        body: &[u8],
    ) {
        self.tally.record(outcome, due(&planned), sent, ended);
        if outcome.is_answer() {
            self.last_answer = self.last_answer.max(ended);
        }
        // What was never sent has asked for nothing.
        if run.keeps_log && planned.action != Action::Look && outcome != Outcome::Unsent {
            self.kept.push(Kept { planned, sent, ended, status, is_replay, body: body.to_vec() });
        }
    }
}

fn due(planned: &Planned) -> Duration {
    Duration::from_nanos(planned.due_ns)
}

/// Times are rounded so that the interval is never too short; see [`Call`].
fn call(run: &OpenRun, began_us: i64, kept: &Kept) -> Call {
    let Kept { planned, status, .. } = kept;
    let at_us = |at: Duration| began_us + at.as_micros() as i64;
    let outcome = match status {
        0 => doorbuster_sandbox::crowd::CallOutcome::Unknown(String::from_utf8_lossy(&kept.body).into_owned()),
        status => read_outcome(*status, kept.is_replay, &kept.body),
    };
    Call {
        buyer: run.buyers.id(planned.buyer),
        key: KEY.to_owned(),
        sku: run.drops[usize::from(planned.drop)].skus()[usize::from(planned.sku)].clone(),
        quantity: u32::from(planned.quantity),
        visit: if planned.action == Action::Click { Visit::FirstClick } else { Visit::DoubleClick },
        due_us: at_us(due(planned)),
        started_us: at_us(kept.sent),
        ended_us: at_us(kept.ended) + 1,
        outcome,
    }
}
