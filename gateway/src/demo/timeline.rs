//! The timeline of a sale with faults: what happened when, and what it hit.
//!
//! A fault that hit nothing says so. What it did to the buyers' calls is read from their own log, after the sale.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use doorbuster_sandbox::crowd::{BuyersLog, Call, CallOutcome};
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    Redis,
    Worker,
    Gateway,
    Provider,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// With SIGKILL.
    Killed,
    /// A killed process runs again and has said that it listens.
    StartedAgain,
    CutOff,
    Reconnected {
        /// Calls that got no answer meanwhile.
        calls_failed: u64,
    },
    /// Every warehouse issues again.
    OpenAgain {
        /// Since the first look that found one closed.
        closed_s: f64,
    },
}

/// What was under way when a fault struck.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Hit {
    /// Places in the line, if the drop has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_line: Option<u64>,
    /// Buyers who had clicked and knew nothing.
    pub clicks_unanswered: u64,
    /// Claims taken in Redis that were no orders yet. `None`: a warehouse was closed, and could not be asked.
    pub claims_unsettled: Option<u64>,
    /// Orders that waited for their payment.
    pub orders_unpaid: u64,
    /// Intents the provider had begun and not ended.
    pub payments_in_flight: u64,
    /// Known when the sale is over, for faults that buyers feel.
    pub calls: Option<CallsHit>,
}

/// What a fault did to the buyers' calls, until it was mended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CallsHit {
    /// Under way when it struck, and not decided.
    pub cut_off: u64,
    /// Of these, claims that had been taken all the same: their retry got the stored answer.
    pub cut_off_but_taken: u64,
    /// Sent later and not decided.
    pub in_vain: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// Seconds since the buyers were let in.
    pub at_s: f64,
    pub target: Target,
    pub what: What,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hit: Option<Hit>,
    /// On the clock of the buyers' log.
    #[serde(skip)]
    pub at_us: i64,
}

/// What `--report` says of the faults.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Timeline {
    #[serde(rename = "timeline")]
    pub events: Vec<Event>,
    /// How often each process was killed.
    pub kills: BTreeMap<Target, u32>,
    /// How often the provider was cut off.
    pub provider_cuts: u32,
}

impl Timeline {
    pub(super) fn new(mut events: Vec<Event>, log: &BuyersLog) -> Self {
        events.sort_by_key(|event| event.at_us);
        let mut timeline = Self::default();
        for position in 0..events.len() {
            let target = events[position].target;
            match events[position].what {
                What::Killed => *timeline.kills.entry(target).or_default() += 1,
                What::CutOff => timeline.provider_cuts += 1,
                _ => continue,
            }
            if matches!(target, Target::Redis | Target::Gateway) {
                let struck_us = events[position].at_us;
                let mended = events[position..].iter().find(|event| event.target == target && event.is_mended());
                let calls = CallsHit::of(log, struck_us, mended.map_or(i64::MAX, |event| event.at_us));
                if let Some(hit) = &mut events[position].hit {
                    hit.calls = Some(calls);
                }
            }
        }
        timeline.events = events;
        timeline
    }
}

impl CallsHit {
    fn of(log: &BuyersLog, struck_us: i64, mended_us: i64) -> Self {
        // The first answer of each key that says "accepted": is it a stored one?
        let mut stored: HashMap<(&str, &str), bool> = HashMap::new();
        for call in &log.calls {
            if let CallOutcome::Accepted { replayed, .. } = call.outcome {
                stored.entry(key(call)).or_insert(replayed);
            }
        }
        let mut hit = Self::default();
        for call in log.calls.iter().filter(|call| !call.outcome.is_decided()) {
            if call.started_us <= struck_us && struck_us < call.ended_us {
                hit.cut_off += 1;
                hit.cut_off_but_taken += u64::from(stored.get(&key(call)).copied().unwrap_or_default());
            } else if struck_us < call.started_us && call.started_us <= mended_us {
                hit.in_vain += 1;
            }
        }
        hit
    }
}

fn key(call: &Call) -> (&str, &str) {
    (&call.buyer, &call.key)
}

impl Event {
    /// The buyers are no longer held up by what had struck this target.
    fn is_mended(&self) -> bool {
        match self.target {
            Target::Redis => matches!(self.what, What::OpenAgain { .. }),
            _ => self.what == What::StartedAgain,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Redis => "Redis",
            Self::Worker => "worker",
            Self::Gateway => "gateway",
            Self::Provider => "provider",
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7.3} s  {:<9}", self.at_s, self.target)?;
        let is_in_line = self.hit.as_ref().is_some_and(|hit| hit.in_line.is_some());
        match (self.what, self.target) {
            (What::Killed, _) if is_in_line => write!(f, "killed with -9")?,
            (What::Killed, Target::Redis) => write!(f, "stands still, then is killed with -9")?,
            (What::Killed, Target::Gateway) => write!(f, "killed with -9 while Redis stands still")?,
            (What::Killed, _) => write!(f, "killed with -9")?,
            (What::StartedAgain, Target::Redis) => write!(f, "runs again on its own data, fenced")?,
            (What::StartedAgain, _) => write!(f, "runs again on the same port")?,
            (What::CutOff, _) => write!(f, "cut off")?,
            (What::Reconnected { calls_failed }, _) => {
                write!(f, "reachable again; {calls_failed} calls had no answer")?;
            }
            (What::OpenAgain { closed_s }, _) => {
                write!(f, "every warehouse is rebuilt and open again, after {closed_s:.1} s")?;
            }
        }
        match &self.hit {
            Some(hit) => write!(f, ": {}", hit.sentence(self.target)),
            None => Ok(()),
        }
    }
}

impl Hit {
    fn sentence(&self, target: Target) -> String {
        let calls = self.calls.unwrap_or_default();
        let unsettled = self.claims_unsettled.unwrap_or_default();
        let of_buyers = [
            (self.clicks_unanswered, "clicks without an answer"),
            (unsettled, "claims unsettled"),
            (calls.cut_off, "calls cut off"),
            (calls.cut_off_but_taken, "of these taken"),
            (calls.in_vain, "calls in vain meanwhile"),
        ];
        let of_money = [
            (unsettled, "claims unsettled"),
            (self.orders_unpaid, "orders unpaid"),
            (self.payments_in_flight, "payments in flight"),
        ];
        let counts: &[(u64, &str)] = match target {
            Target::Redis => &of_buyers,
            // What waits for settlement waits in Redis.
            Target::Gateway => &[of_buyers[0], of_buyers[2], of_buyers[3], of_buyers[4]],
            Target::Worker => &of_money,
            Target::Provider => &of_money[1..],
        };
        let of_line = [(self.in_line.unwrap_or_default(), "in line"), of_money[1], of_money[2]];
        let counts = if self.in_line.is_some() { &of_line } else { counts };
        let found = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        let found = found.collect::<Vec<_>>();
        if found.is_empty() { "it hit nothing".to_owned() } else { found.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use doorbuster_sandbox::crowd::Visit;

    use super::*;

    fn call(key: &str, started_us: i64, ended_us: i64, outcome: CallOutcome) -> Call {
        let (buyer, key, sku) = ("buyer".to_owned(), key.to_owned(), "shoe".to_owned());
        let (quantity, visit, due_us) = (1, Visit::FirstClick, started_us);
        Call { buyer, key, sku, quantity, visit, due_us, started_us, ended_us, outcome }
    }

    fn accepted(replayed: bool) -> CallOutcome {
        CallOutcome::Accepted { claim_id: "claim".to_owned(), serials: vec![1], replayed }
    }

    fn event(target: Target, what: What, at_us: i64, hit: Option<Hit>) -> Event {
        Event { at_s: 0.0, target, what, hit, at_us }
    }

    #[test]
    fn a_fault_is_told_what_it_did_to_the_calls_until_it_was_mended() {
        let lost = || CallOutcome::Unknown("cut".to_owned());
        let log = BuyersLog {
            calls: vec![
                call("taken", 1, 6, lost()),
                call("not taken", 2, 6, lost()),
                call("answered", 3, 6, accepted(false)),
                call("before", 1, 4, lost()),
                call("meanwhile", 7, 8, CallOutcome::Overloaded),
                call("taken", 9, 12, accepted(true)),
                call("not taken", 10, 12, accepted(false)),
                call("later", 11, 12, lost()),
            ],
        };
        let struck = event(Target::Gateway, What::Killed, 5, Some(Hit::default()));
        let events = vec![event(Target::Gateway, What::StartedAgain, 10, None), struck];
        let timeline = Timeline::new(events, &log);
        let calls = timeline.events[0].hit.as_ref().unwrap().calls;
        assert_eq!(calls, Some(CallsHit { cut_off: 2, cut_off_but_taken: 1, in_vain: 1 }));
        assert_eq!(timeline.kills, BTreeMap::from([(Target::Gateway, 1)]));
    }

    #[test]
    fn a_fault_that_hit_nothing_says_so() {
        let nothing = event(Target::Provider, What::CutOff, 0, Some(Hit { clicks_unanswered: 3, ..Hit::default() }));
        assert!(nothing.to_string().ends_with("cut off: it hit nothing"), "{nothing}");
        let hit = Hit { payments_in_flight: 2, orders_unpaid: 5, ..Hit::default() };
        let something = event(Target::Provider, What::CutOff, 0, Some(hit));
        assert!(something.to_string().ends_with("cut off: 5 orders unpaid, 2 payments in flight"), "{something}");
    }
}
