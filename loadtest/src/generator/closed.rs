//! The closed loop: every connection asks again as soon as it has its answer. It finds the rate at which a server is
//! saturated, and nothing else: its latencies leave out whoever would have come meanwhile.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use tokio::task::LocalSet;

use super::buyers::{Ask, Buyers, DropPaths};
use super::tally::{Outcome, Tally};
use super::wire::Connection;

/// What a closed run sends, and where. Each request is another buyer's first.
pub struct ClosedRun {
    /// Gateways, which have the connections in turn.
    pub addresses: Vec<SocketAddr>,
    pub drop: DropPaths,
    pub ask: Ask,
    pub buyers: Arc<Buyers>,
    pub connections: usize,
    /// Not counted.
    pub warm_up: Duration,
    pub length: Duration,
    /// When the buyers are used up: from the first one again, or the end.
    pub goes_round: bool,
}

/// What a closed run has seen after its warm-up.
pub struct ClosedResult {
    pub tally: Tally,
    pub elapsed: Duration,
    /// Everything sent and answered, warm-up included.
    pub all: u64,
}

impl ClosedResult {
    /// Answers a second, whatever they said.
    pub fn per_s(&self) -> f64 {
        self.tally.answered() as f64 / self.elapsed.as_secs_f64()
    }

    pub fn latency_us(&self) -> &Histogram<u64> {
        &self.tally.latency_us
    }
}

struct Shared {
    run: ClosedRun,
    next: Cell<u32>,
    all: Cell<u64>,
    counts_from: Cell<Option<Instant>>,
    tally: RefCell<Tally>,
    ends_at: Cell<Option<Instant>>,
}

impl ClosedRun {
    /// Runs on this thread; `counting` is called when the warm-up is over, and again at the end.
    pub fn run(self, mut counting: impl FnMut()) -> anyhow::Result<ClosedResult> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Rc::new(Shared {
            run: self,
            next: Cell::new(0),
            all: Cell::new(0),
            counts_from: Cell::new(None),
            tally: RefCell::default(),
            ends_at: Cell::new(None),
        });
        let tasks = LocalSet::new();
        let elapsed = tasks.block_on(&runtime, async {
            let mut connections = Vec::new();
            for address in shared.run.addresses.iter().cycle().take(shared.run.connections) {
                let connection = Connection::open(*address).await.context("a connection cannot be made")?;
                connections.push((*address, connection));
            }
            let running = connections
                .into_iter()
                .map(|(address, connection)| tokio::task::spawn_local(ask(Rc::clone(&shared), address, connection)));
            let running = running.collect::<Vec<_>>();
            tokio::time::sleep(shared.run.warm_up).await;
            counting();
            let from = Instant::now();
            shared.counts_from.set(Some(from));
            // The end is known only now; whoever is asked before it goes on.
            shared.ends_at.set(Some(from + shared.run.length));
            let all = async {
                for task in running {
                    let _ = task.await;
                }
            };
            let patience = shared.run.length + Duration::from_secs(10);
            let is_over = tokio::time::timeout(patience, all).await.is_ok();
            let elapsed = from.elapsed().min(shared.run.length);
            counting();
            ensure!(is_over, "the server has not answered for ten seconds");
            anyhow::Ok(elapsed)
        })?;
        drop(tasks);
        let shared = Rc::into_inner(shared).context("a task of the generator outlived it")?;
        Ok(ClosedResult { tally: shared.tally.into_inner(), elapsed, all: shared.all.get() })
    }
}

async fn ask(shared: Rc<Shared>, address: SocketAddr, mut connection: Connection) {
    let mut request = Vec::with_capacity(1024);
    loop {
        let mut buyer = shared.next.get();
        if buyer >= shared.run.buyers.len() {
            if !shared.run.goes_round {
                return;
            }
            buyer = 0;
        }
        shared.next.set(buyer + 1);
        shared.run.buyers.write_ask(shared.run.ask, &shared.run.drop, buyer, &mut request);
        let sent = Instant::now();
        if shared.ends_at.get().is_some_and(|end| sent >= end) {
            return;
        }
        let exchanged = connection.exchange(&request).await;
        let ended = Instant::now();
        let outcome = match &exchanged {
            Ok(answer) => Outcome::of(answer.status, answer.is_replay, answer.body),
            Err(_) => Outcome::NoAnswer,
        };
        shared.all.set(shared.all.get() + 1);
        // Counted if it ended in the counted time: what is under way at both ends cancels out.
        if let (Some(from), Some(end)) = (shared.counts_from.get(), shared.ends_at.get())
            && ended < end
        {
            let mut tally = shared.tally.borrow_mut();
            let since = |at: Instant| at.saturating_duration_since(from);
            tally.record(outcome, since(sent), since(sent), since(ended));
            if let (Outcome::Refused | Outcome::ServerError, Ok(answer)) = (outcome, &exchanged) {
                tally.tell(format!("{} {}", answer.status, String::from_utf8_lossy(answer.body)));
            }
        }
        match exchanged {
            Ok(answer) if !answer.closes => {}
            other => {
                if let Err(error) = other {
                    shared.tally.borrow_mut().tell(error.to_string());
                }
                match Connection::open(address).await {
                    Ok(again) => connection = again,
                    Err(error) => return shared.tally.borrow_mut().tell(error.to_string()),
                }
            }
        }
    }
}
