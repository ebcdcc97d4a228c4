//! The faults of `--chaos`. The seed decides which comes when and for how long; the sale decides the moment: a fault waits a
//! little for something to hit, and then strikes.
//!
//! It must leave everything running: a fault that was begun is mended, or the demo fails.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::sale::{Demo, Standing};
use super::screen::Screen;
use super::shop::Processes;
use super::timeline::{Event, Hit, Target, What};

/// The buyers' seed, but not their numbers.
const SALT: u64 = 0x6368_616f_7321;
/// Between two looks at figures in memory.
const GLANCE: Duration = Duration::from_millis(5);
/// Between two looks at the warehouses, which cost a round trip for each.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A look that takes longer found nothing open.
const LOOK_DEADLINE: Duration = Duration::from_secs(1);
/// A claim takes a millisecond, so a fault would find few of them under way. Redis stands still for so long before what the
/// buyers feel strikes: what is sent meanwhile is executed for nobody if the gateway dies, and by nobody if Redis does.
const STALL: Duration = Duration::from_millis(100);
/// So long a fault waits for something to hit. Settlement comes every five seconds, and payments right after it.
const MOMENT_PATIENCE: Duration = Duration::from_secs(7);
/// Warehouses behind a lease open 1.5 s after they were fenced; with restarts and waits, many times that.
const REOPEN_LIMIT: Duration = Duration::from_secs(45);

/// Some targets struck at the same time.
#[derive(Debug, Clone, PartialEq)]
struct Fault {
    targets: Vec<Target>,
    /// Not before this share of the stock is claimed …
    claimed: f64,
    /// … nor before so long after the fault before it was mended.
    pause: Duration,
    /// How long each target stays down, one after the other.
    outage: Duration,
}

/// Two rounds. In the first, each target by itself, and the sale recovers in between: gateway and Redis while there is stock,
/// worker and provider while orders are charged. In the second, Redis and worker together, so that nobody rebuilds what is
/// fenced until the worker is back, and nobody waits for that before the next fault.
fn plan(seed: u64) -> [Vec<Fault>; 2] {
    let mut chance = StdRng::seed_from_u64(seed ^ SALT);
    let mut early = [Target::Gateway, Target::Redis];
    let mut late = [Target::Worker, Target::Provider];
    let mut again = [vec![Target::Gateway], vec![Target::Redis, Target::Worker], vec![Target::Provider]];
    early.shuffle(&mut chance);
    late.shuffle(&mut chance);
    again.shuffle(&mut chance);
    let mut fault = |targets: Vec<Target>, claimed: f64, pause_ms| Fault {
        outage: Duration::from_millis(match targets[0] {
            Target::Gateway => chance.random_range(200..800),
            Target::Redis => chance.random_range(300..1_000),
            Target::Worker => chance.random_range(300..1_500),
            Target::Provider => chance.random_range(2_000..4_000),
        }),
        claimed: claimed + chance.random_range(0.0..0.2),
        pause: Duration::from_millis(chance.random_range(pause_ms)),
        targets,
    };
    let first = vec![
        fault(vec![early[0]], 0.1, 0..50),
        fault(vec![early[1]], 0.4, 0..50),
        fault(vec![late[0]], 0.4, 0..400),
        fault(vec![late[1]], 0.4, 0..400),
    ];
    [first, again.map(|targets| fault(targets, 0.0, 500..2_000)).to_vec()]
}

struct Chaos<'a> {
    demo: &'a Demo,
    processes: &'a Processes,
    screen: &'a Screen,
    opened: Instant,
    events: Mutex<Vec<Event>>,
}

impl Demo {
    /// Strikes by the plan of the seed; returns when all is mended, and the warehouses are open.
    pub(super) async fn strike(
        &self,
        processes: &Processes,
        screen: &Screen,
        opened: Instant,
    ) -> anyhow::Result<Vec<Event>> {
        let chaos = Chaos { demo: self, processes, screen, opened, events: Mutex::default() };
        let over = CancellationToken::new();
        let faults = async {
            let struck = chaos.strike_all().await;
            over.cancel();
            struck
        };
        let (struck, ()) = tokio::join!(faults, chaos.watch_warehouses(&over));
        struck?;
        Ok(chaos.events.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Buyers who have clicked and know nothing.
    pub(super) fn clicks_unanswered(&self) -> u64 {
        let progress = self.crowd.progress();
        let answered = progress.accepted + progress.sold_out + progress.other_refusals + progress.failed;
        progress.clicked.saturating_sub(answered)
    }
}

impl Chaos<'_> {
    async fn strike_all(&self) -> anyhow::Result<()> {
        let [first, second] = plan(self.demo.options.seed);
        for fault in &first {
            self.wait_for_moment(fault).await;
            self.strike(fault).await?;
            self.wait_until_open().await?;
        }
        for fault in &second {
            // What is over cannot be hit.
            if self.is_over().await {
                break;
            }
            self.wait_for_moment(fault).await;
            self.strike(fault).await?;
        }
        self.wait_until_open().await
    }

    async fn wait_for_moment(&self, fault: &Fault) {
        let options = &self.demo.options;
        let wanted = fault.claimed * f64::from(options.stock);
        // Buyers ask for one unit to the limit, all numbers alike.
        let units_each = f64::from(options.limit + 1) / 2.0;
        let is_claimed = || {
            let progress = self.demo.crowd.progress();
            progress.accepted as f64 * units_each >= wanted || progress.clicked as usize >= options.buyers
        };
        while !is_claimed() {
            sleep(GLANCE).await;
        }
        sleep(fault.pause).await;
    }

    fn has_something_to_hit(&self, fault: &Fault) -> bool {
        match fault.targets[0] {
            Target::Redis | Target::Gateway => {
                let is_anybody_to_come = (self.demo.crowd.progress().clicked as usize) < self.demo.options.buyers;
                is_anybody_to_come || self.demo.clicks_unanswered() > 0
            }
            Target::Worker | Target::Provider => self.payments_in_flight() > 0,
        }
    }

    /// Waits a little for something to hit, which must still be there when what waits has been counted: a payment is over in
    /// milliseconds.
    async fn aim(&self, fault: &Fault) -> Hit {
        let deadline = Instant::now() + MOMENT_PATIENCE;
        loop {
            while !self.has_something_to_hit(fault) && Instant::now() < deadline {
                sleep(GLANCE).await;
            }
            let hit = self.measure().await;
            if self.has_something_to_hit(fault) || Instant::now() >= deadline {
                return hit;
            }
        }
    }

    /// Strikes, waits, mends.
    async fn strike(&self, fault: &Fault) -> anyhow::Result<()> {
        let calls_failed = self.processes.provider_calls_failed().await;
        let hit = self.aim(fault).await;
        if matches!(fault.targets[0], Target::Redis | Target::Gateway) {
            self.demo.redis.pause();
            sleep(STALL).await;
        }
        for target in &fault.targets {
            let clicks_unanswered = self.demo.clicks_unanswered();
            let hit = Hit { clicks_unanswered, payments_in_flight: self.payments_in_flight(), ..hit.clone() };
            let at_us = self.demo.crowd.now_us();
            let what = match target {
                Target::Redis => {
                    self.demo.redis.kill();
                    What::Killed
                }
                Target::Gateway => {
                    self.processes.gateway.kill();
                    self.demo.redis.resume();
                    What::Killed
                }
                Target::Worker => {
                    self.processes.kill_worker().await;
                    What::Killed
                }
                Target::Provider => {
                    self.demo.provider.cut_off();
                    What::CutOff
                }
            };
            self.record(*target, what, at_us, Some(hit));
        }
        for target in &fault.targets {
            sleep(fault.outage).await;
            let what = match target {
                Target::Redis => {
                    self.demo.redis.restart().await.context("Redis does not start again")?;
                    What::StartedAgain
                }
                Target::Gateway => {
                    self.processes.gateway.restart().await.context("the gateway does not start again")?;
                    What::StartedAgain
                }
                Target::Worker => {
                    self.processes.restart_worker().await.context("the worker does not start again")?;
                    What::StartedAgain
                }
                Target::Provider => {
                    self.demo.provider.reconnect();
                    let failed = self.processes.provider_calls_failed().await;
                    What::Reconnected { calls_failed: failed.saturating_sub(calls_failed) }
                }
            };
            self.record(*target, what, self.demo.crowd.now_us(), None);
        }
        Ok(())
    }

    /// What waits now. Clicks and payments under way are counted by the caller, who knows the moment.
    async fn measure(&self) -> Hit {
        let engine = &self.demo.engine;
        // Unknown is not none, and no reason to let the fault wait.
        let backlog = tokio::time::timeout(LOOK_DEADLINE, engine.backlog(&self.demo.drop)).await;
        let pending = tokio::time::timeout(LOOK_DEADLINE, self.demo.pending()).await;
        Hit {
            claims_unsettled: backlog.ok().and_then(Result::ok).flatten().map(|backlog| backlog.claims() as u64),
            orders_unpaid: pending.ok().and_then(Result::ok).unwrap_or_default(),
            ..Hit::default()
        }
    }

    fn payments_in_flight(&self) -> u64 {
        let is_open = |status: &str| !matches!(status, "succeeded" | "canceled");
        self.demo.provider.intents().iter().filter(|intent| is_open(intent.status)).count() as u64
    }

    /// Every buyer is answered and every order has come to its end.
    async fn is_over(&self) -> bool {
        let everybody_clicked = self.demo.crowd.progress().clicked as usize >= self.demo.options.buyers;
        let standing = tokio::time::timeout(LOOK_DEADLINE, self.demo.standing()).await;
        let at_rest = |standing: Standing| standing.unsettled == 0 && standing.pending == 0;
        everybody_clicked && self.demo.clicks_unanswered() == 0 && standing.is_ok_and(|found| found.is_ok_and(at_rest))
    }

    async fn is_open(&self) -> bool {
        let looked = async {
            let live = self.demo.engine.refresh(&self.demo.drop).await.ok().flatten()?;
            live.free_units().await.ok()
        };
        matches!(tokio::time::timeout(LOOK_DEADLINE, looked).await, Ok(Some(_)))
    }

    async fn wait_until_open(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + REOPEN_LIMIT;
        while !self.is_open().await {
            if Instant::now() >= deadline {
                bail!("the warehouses are still closed after {REOPEN_LIMIT:?}");
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Tells how long the warehouses were closed, whatever closed them.
    async fn watch_warehouses(&self, over: &CancellationToken) {
        let mut closed_since = None;
        loop {
            // Asked before the look: the last one must not miss the opening that ended the wait.
            let is_last = over.is_cancelled();
            match (self.is_open().await, closed_since) {
                (false, None) => closed_since = Some(Instant::now()),
                (true, Some(since)) => {
                    closed_since = None;
                    let closed_s = since.elapsed().as_secs_f64();
                    self.record(Target::Redis, What::OpenAgain { closed_s }, self.demo.crowd.now_us(), None);
                }
                _ => {}
            }
            if is_last {
                return;
            }
            over.run_until_cancelled(sleep(LOOK_EVERY)).await;
        }
    }

    fn record(&self, target: Target, what: What, at_us: i64, hit: Option<Hit>) {
        let ago = Duration::from_micros((self.demo.crowd.now_us() - at_us).max(0).cast_unsigned());
        let at_s = self.opened.elapsed().saturating_sub(ago).as_secs_f64();
        let event = Event { at_s, target, what, hit, at_us };
        self.screen.tell(&event);
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_seed_decides_and_every_target_is_struck_in_both_rounds() {
        assert_eq!(plan(7), plan(7));
        let orders = (0..50).map(|seed| {
            for round in plan(seed) {
                let struck = round.iter().flat_map(|fault| &fault.targets).collect::<BTreeSet<_>>();
                assert_eq!(struck.len(), 4, "{round:?}");
            }
            plan(seed).concat().into_iter().map(|fault| fault.targets).collect::<Vec<_>>()
        });
        assert!(orders.collect::<BTreeSet<_>>().len() > 10);
    }
}
