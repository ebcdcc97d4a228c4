//! The faults of `--chaos` in a line: gateway and Redis while buyers join, the worker between seal and draw and again in the
//! rounds, the provider and the gateway while orders are charged. The seed decides when and for how long.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use doorbuster_engine::domain::line::state::LineState;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::sleep;

use super::line::{LineDemo, LineStanding};
use super::screen::Screen;
use super::shop::Processes;
use super::timeline::{Event, Hit, Target, What};

/// The buyers' seed, but not their numbers.
const SALT: u64 = 0x6c69_6e65_6368;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// So long a fault waits for its moment. A moment that does not come, because all is over, is no fault.
const MOMENT_PATIENCE: Duration = Duration::from_secs(180);

/// When a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    /// So many of the buyers have been told that they are in line.
    Joined(f64),
    /// The list is complete, and nobody knows the order yet.
    Sealed,
    /// The first round has been held.
    InRounds,
    /// The provider has begun an intent and not ended it.
    Charging,
}

#[derive(Debug, Clone, PartialEq)]
struct Fault {
    target: Target,
    moment: Moment,
    /// So long after its moment.
    pause: Duration,
    outage: Duration,
}

fn plan(seed: u64) -> Vec<Fault> {
    let mut chance = StdRng::seed_from_u64(seed ^ SALT);
    let mut fault = |target: Target, moment: Moment, pause_ms: u64| Fault {
        target,
        moment,
        pause: Duration::from_millis(chance.random_range(0..=pause_ms)),
        outage: Duration::from_millis(match target {
            Target::Gateway => chance.random_range(200..800),
            Target::Redis => chance.random_range(300..1_000),
            Target::Worker => chance.random_range(300..1_500),
            Target::Provider => chance.random_range(1_000..3_000),
        }),
    };
    vec![
        fault(Target::Gateway, Moment::Joined(0.2), 100),
        fault(Target::Redis, Moment::Joined(0.4), 100),
        fault(Target::Worker, Moment::Sealed, 0),
        fault(Target::Worker, Moment::InRounds, 500),
        fault(Target::Provider, Moment::Charging, 50),
        fault(Target::Gateway, Moment::InRounds, 500),
    ]
}

impl LineDemo {
    /// Strikes by the plan of the seed; returns when all is mended.
    pub(super) async fn strike(&self, processes: &Processes, screen: &Screen) -> anyhow::Result<Vec<Event>> {
        let (began, mut events) = (Instant::now(), Vec::new());
        for fault in plan(self.options.seed) {
            let Some(standing) = self.wait_for(fault.moment).await? else { continue };
            sleep(fault.pause).await;
            let calls_failed = processes.provider_calls_failed().await;
            let hit = Hit {
                in_line: Some(standing.board.in_line.into()),
                orders_unpaid: standing.pending,
                payments_in_flight: self.payments_in_flight(),
                ..Hit::default()
            };
            let mut tell = |what: What, hit: Option<Hit>| {
                let at = began.elapsed();
                let at_us = i64::try_from(at.as_micros()).unwrap_or(i64::MAX);
                let event = Event { at_s: at.as_secs_f64(), target: fault.target, what, hit, at_us };
                screen.tell(&event);
                events.push(event);
            };
            let struck = match fault.target {
                Target::Redis => {
                    self.redis.kill();
                    What::Killed
                }
                Target::Gateway => {
                    processes.kill_gateway(&self.drop).await;
                    What::Killed
                }
                Target::Worker => {
                    processes.kill_worker().await;
                    What::Killed
                }
                Target::Provider => {
                    self.provider.cut_off();
                    What::CutOff
                }
            };
            tell(struck, Some(hit));
            sleep(fault.outage).await;
            let mended = match fault.target {
                Target::Redis => {
                    self.redis.restart().await.context("Redis does not start again").map(|()| What::StartedAgain)
                }
                Target::Gateway => {
                    let started = processes.gateway.restart().await;
                    started.context("the gateway does not start again").map(|()| What::StartedAgain)
                }
                Target::Worker => {
                    let started = processes.restart_worker().await;
                    started.context("the worker does not start again").map(|()| What::StartedAgain)
                }
                Target::Provider => {
                    self.provider.reconnect();
                    let failed = processes.provider_calls_failed().await;
                    Ok(What::Reconnected { calls_failed: failed.saturating_sub(calls_failed) })
                }
            };
            tell(mended?, None);
        }
        Ok(events)
    }

    /// Waits for a moment. `None`: it has passed, or all is over.
    async fn wait_for(&self, moment: Moment) -> anyhow::Result<Option<LineStanding>> {
        let deadline = Instant::now() + MOMENT_PATIENCE;
        loop {
            let standing = self.standing().await?;
            let (line, joined) = (&standing.board.line, self.joined() as f64);
            let (has_come, is_past) = match moment {
                // Whoever comes behind the seal joins all the same.
                Moment::Joined(share) => {
                    (joined >= share * self.options.buyers as f64 || line.state.is_sealed(), false)
                }
                Moment::Sealed => (line.state.is_sealed(), line.state == LineState::Drawn),
                Moment::InRounds => (line.round.is_some(), false),
                Moment::Charging => (self.payments_in_flight() > 0, self.is_over(&standing)),
            };
            if is_past {
                return Ok(None);
            }
            if has_come {
                return Ok(Some(standing));
            }
            if Instant::now() >= deadline {
                bail!("waited {MOMENT_PATIENCE:?} for a fault's moment: {moment:?}");
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn payments_in_flight(&self) -> u64 {
        let is_open = |status: &str| !matches!(status, "succeeded" | "canceled");
        self.provider.intents().iter().filter(|intent| is_open(intent.status)).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides_and_everything_is_struck() {
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
        let struck = plan(7).into_iter().map(|fault| fault.target).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(struck.len(), 4);
    }
}
