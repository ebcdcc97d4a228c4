//! Who does what, and when: a schedule of arrivals becomes a plan of requests, all of it before the first one is sent.
//!
//! What a buyer does later (a second click, a look first and a click after thinking) has its own scheduled time, counted from
//! his arrival and not from an answer: a slow shop does not make the crowd slower.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::schedule::{Schedule, Spacing};

/// A second click follows the first one within this time.
const DOUBLE_CLICK_WITHIN: Duration = Duration::from_millis(300);
/// Between two clicks of a bot.
const BOT_PAUSE: Duration = Duration::from_millis(20);

/// How the crowd behaves. Shares are from 0 to 1.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub schedule: Schedule,
    pub spacing: Spacing,
    /// Drops that buyers choose from, each with its SKUs.
    pub drops: Vec<Vec<String>>,
    pub seed: u64,
    /// Each buyer asks for 1 to this many units.
    pub quantity_max: u8,
    /// Buyers who send the same click a second time, under the same key.
    pub double_click_share: f64,
    /// Buyers who look at the drop first; their click follows after `think`, more or less.
    pub look_share: f64,
    pub think: Duration,
    /// Buyers who are programs: they hammer one key.
    pub bot_share: f64,
    /// Clicks of one bot.
    pub bot_clicks: u32,
    /// Requests that come over a connection of their own.
    pub fresh_share: f64,
}

/// One request of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Counted from the beginning.
    pub due_ns: u64,
    /// Of the population, from 0.
    pub buyer: u32,
    pub drop: u16,
    pub sku: u8,
    pub quantity: u8,
    pub action: Action,
    /// Over a connection of its own.
    pub is_fresh: bool,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `GET /v1/drops/{drop}`
    Look,
    /// `POST /v1/drops/{drop}/claims`
    Click,
    /// The same once more.
    ClickAgain,
    /// One of a bot's many.
    BotClick,
}

impl Scenario {
    /// Everybody clicks once, at a single drop, over kept connections.
    pub fn plain(schedule: Schedule, skus: Vec<String>) -> Self {
        Self {
            schedule,
            spacing: Spacing::Random { seed: 1 },
            drops: vec![skus],
            seed: 1,
            quantity_max: 1,
            double_click_share: 0.0,
            look_share: 0.0,
            think: Duration::from_secs(1),
            bot_share: 0.0,
            bot_clicks: 50,
            fresh_share: 0.0,
        }
    }

    pub fn check(&self) -> Result<(), &'static str> {
        let shares = [self.double_click_share, self.look_share, self.bot_share, self.fresh_share];
        if !shares.iter().all(|share| (0.0..=1.0).contains(share)) {
            return Err("shares are from 0 to 1");
        }
        if self.drops.is_empty() || self.drops.iter().any(|skus| skus.is_empty() || skus.len() > 32) {
            return Err("a drop has 1 to 32 SKUs, and there is at least one drop");
        }
        if self.drops.len() > usize::from(u16::MAX) {
            return Err("at most 65,535 drops");
        }
        if self.quantity_max == 0 {
            return Err("buyers ask for at least one unit");
        }
        Ok(())
    }

    /// The plan, in the order of its times; and how many buyers there are in it.
    pub fn plan(&self) -> (Vec<Planned>, u32) {
        let arrivals = self.schedule.arrivals(self.spacing);
        let mut chance = StdRng::seed_from_u64(self.seed);
        let mut plan = Vec::with_capacity(arrivals.len());
        for (buyer, arrives) in arrivals.iter().enumerate() {
            let drop = chance.random_range(0..self.drops.len());
            let mut happens = |share: f64| share > 0.0 && chance.random_bool(share);
            let (is_bot, looks, clicks_twice) =
                (happens(self.bot_share), happens(self.look_share), happens(self.double_click_share));
            let mut planned = Planned {
                due_ns: nanoseconds(*arrives),
                buyer: buyer as u32,
                drop: drop as u16,
                sku: chance.random_range(0..self.drops[drop].len()) as u8,
                quantity: chance.random_range(1..=self.quantity_max),
                action: Action::Click,
                is_fresh: false,
            };
            let mut add = |planned: Planned, chance: &mut StdRng| {
                let is_fresh = self.fresh_share > 0.0 && chance.random_bool(self.fresh_share);
                plan.push(Planned { is_fresh, ..planned });
            };
            if is_bot {
                for click in 0..u64::from(self.bot_clicks) {
                    let due_ns = planned.due_ns + click * nanoseconds(BOT_PAUSE);
                    add(Planned { due_ns, action: Action::BotClick, ..planned }, &mut chance);
                }
                continue;
            }
            if looks {
                add(Planned { action: Action::Look, ..planned }, &mut chance);
                // People think for half to one and a half times as long.
                planned.due_ns += nanoseconds(self.think.mul_f64(chance.random_range(0.5..1.5)));
            }
            add(planned, &mut chance);
            if clicks_twice {
                let due_ns = planned.due_ns + nanoseconds(DOUBLE_CLICK_WITHIN.mul_f64(chance.random()));
                add(Planned { due_ns, action: Action::ClickAgain, ..planned }, &mut chance);
            }
        }
        plan.sort_by_key(|planned| planned.due_ns);
        (plan, arrivals.len() as u32)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("584 years are enough")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd() -> Scenario {
        let schedule = Schedule::constant(10_000.0, Duration::from_secs(2));
        Scenario {
            drops: vec![vec!["a".to_owned()], vec!["b".to_owned(), "c".to_owned()]],
            ..Scenario::plain(schedule, Vec::new())
        }
    }

    #[test]
    fn a_plain_crowd_clicks_once_each() {
        let (plan, buyers) = crowd().plan();
        assert_eq!(plan.len(), buyers as usize);
        assert!(plan.is_sorted_by_key(|planned| planned.due_ns));
        assert!(
            plan.iter().all(|planned| planned.action == Action::Click && !planned.is_fresh && planned.quantity == 1)
        );
        let second_drop = plan.iter().filter(|planned| planned.drop == 1).count() as f64 / plan.len() as f64;
        assert!((second_drop - 0.5).abs() < 0.02, "{second_drop}");
    }

    #[test]
    fn shares_are_kept_and_what_follows_has_its_own_time() {
        let scenario = Scenario {
            double_click_share: 0.2,
            look_share: 0.5,
            bot_share: 0.01,
            bot_clicks: 10,
            fresh_share: 0.1,
            quantity_max: 3,
            ..crowd()
        };
        let (plan, buyers) = scenario.plan();
        let of =
            |action: Action| plan.iter().filter(|planned| planned.action == action).count() as f64 / f64::from(buyers);
        assert!((of(Action::BotClick) - 0.1).abs() < 0.02);
        assert!((of(Action::ClickAgain) - 0.2).abs() < 0.02);
        assert!((of(Action::Look) - 0.5).abs() < 0.02);
        assert!((of(Action::Click) - 0.99).abs() < 0.005);
        let fresh = plan.iter().filter(|planned| planned.is_fresh).count() as f64 / plan.len() as f64;
        assert!((fresh - 0.1).abs() < 0.01, "{fresh}");
        let first = |buyer: u32, action: Action| plan.iter().find(|p| p.buyer == buyer && p.action == action).copied();
        for again in plan.iter().filter(|planned| planned.action == Action::ClickAgain).take(50) {
            let click = first(again.buyer, Action::Click).unwrap();
            assert!(click.due_ns <= again.due_ns && (click.sku, click.quantity) == (again.sku, again.quantity));
        }
        for look in plan.iter().filter(|planned| planned.action == Action::Look).take(50) {
            let thought = first(look.buyer, Action::Click).unwrap().due_ns - look.due_ns;
            assert!((500_000_000..1_500_000_000).contains(&thought), "{thought}");
        }
        assert_eq!(scenario.plan().0, plan, "the same seed is the same plan");
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(crowd().check().is_ok());
        assert!(Scenario { bot_share: 1.5, ..crowd() }.check().is_err());
        assert!(Scenario { drops: vec![Vec::new()], ..crowd() }.check().is_err());
        assert!(Scenario { quantity_max: 0, ..crowd() }.check().is_err());
    }
}
