//! What the buyers saw: every request with its times and its answer.

use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Everything the buyers did, in the order of `started_us`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuyersLog {
    pub calls: Vec<Call>,
}

/// One request. Times are microseconds since 1970, all on one clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub buyer: String,
    /// The idempotency key: calls of one buyer with one key are one intent.
    pub key: String,
    pub sku: String,
    pub quantity: u32,
    pub visit: Visit,
    /// When it would have been sent, had a connection been free.
    pub due_us: i64,
    /// Rounded down, as `ended_us` is rounded up: the interval is never too short.
    pub started_us: i64,
    pub ended_us: i64,
    pub outcome: CallOutcome,
}

/// Why a request was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Visit {
    FirstClick,
    DoubleClick,
    /// The request before got no answer, or was told to try again.
    Retry,
    /// A patient buyer who was refused.
    Return,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallOutcome {
    Accepted {
        claim_id: String,
        serials: Vec<u32>,
        replayed: bool,
    },
    SoldOut,
    NotEnough {
        available: u32,
    },
    LimitExceeded,
    NotOpen,
    Closed,
    Released,
    KeyReused,
    /// 429 or 503: try again later.
    Overloaded,
    /// The claim may have been taken or not; the text says what happened instead of an answer.
    Unknown(String),
    /// An answer outside the contract.
    Error {
        status: u16,
        code: String,
    },
}

/// In milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latencies {
    pub calls: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// What the clicks of one second saw. A click belongs to the second in which it was due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Second {
    /// Since the first click.
    pub second: u64,
    pub clicks: u64,
    pub taken: u64,
    /// Told that nothing, or not enough, is left.
    pub refused: u64,
    /// Asked to come back, or not answered.
    pub undecided: u64,
    pub slowest_ms: f64,
}

/// Durations above an hour are counted as an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// Wall time that never jumps: one look at the machine's clock, and monotonic time from there.
pub(super) struct WallClock {
    anchor: Instant,
    anchor_us: i64,
}

impl BuyersLog {
    /// From the moment a click was due to its answer, for every click: the second ones too, those sent again, and those
    /// that were answered 503 or not at all. So a buyer who waits for a free connection waits for the shop.
    pub fn latencies(&self) -> Latencies {
        Latencies::of(self.calls.iter().map(Call::took_us))
    }

    /// Of all clicks, the share that waited longer than this for their answer; 0 if there are none.
    pub fn share_over(&self, patience: Duration) -> f64 {
        let over = self.calls.iter().filter(|call| call.took_us() > microseconds(patience)).count();
        over as f64 / self.calls.len().max(1) as f64
    }

    /// Clicks that were answered 503 or 429: nothing was decided, come back later.
    pub fn unavailable(&self) -> u64 {
        self.calls.iter().filter(|call| call.outcome == CallOutcome::Overloaded).count() as u64
    }

    /// How long after they were due first clicks were sent. More than a few milliseconds say that the crowd was held up
    /// by its own bound on connections, or by its machine.
    pub fn lateness(&self) -> Latencies {
        Latencies::of(self.first_clicks().map(|call| call.started_us - call.due_us))
    }

    /// Accepted first clicks over the time from the first click to the answer of the last accepted one: how fast the
    /// stock went. What comes back later and is sold again does not stretch it.
    pub fn claims_per_s(&self) -> f64 {
        let accepted = self.first_clicks().filter(|call| matches!(call.outcome, CallOutcome::Accepted { .. }));
        let answered_us = accepted.map(|call| call.ended_us).collect::<Vec<_>>();
        let first_us = self.first_clicks().map(|call| call.started_us).min();
        match (first_us, answered_us.iter().max()) {
            (Some(first_us), Some(last_us)) => answered_us.len() as f64 * 1e6 / (last_us - first_us).max(1) as f64,
            _ => 0.0,
        }
    }

    /// Every second from the first click to the last, also those in which nobody clicked.
    pub fn by_second(&self) -> Vec<Second> {
        let Some(first) = self.calls.iter().map(|call| call.due_us).min() else { return Vec::new() };
        let mut seconds: Vec<Second> = Vec::new();
        for call in &self.calls {
            let at = ((call.due_us - first) / 1_000_000) as usize;
            while seconds.len() <= at {
                seconds.push(Second { second: seconds.len() as u64, ..Second::default() });
            }
            let second = &mut seconds[at];
            second.clicks += 1;
            match &call.outcome {
                CallOutcome::Accepted { replayed: false, .. } => second.taken += 1,
                CallOutcome::SoldOut | CallOutcome::NotEnough { .. } => second.refused += 1,
                outcome if !outcome.is_decided() => second.undecided += 1,
                _ => {}
            }
            second.slowest_ms = second.slowest_ms.max(call.took_us() as f64 / 1e3);
        }
        seconds
    }

    /// Answers that asked the buyer to come back, and calls that got none.
    pub fn undecided(&self) -> u64 {
        self.calls.iter().filter(|call| !call.outcome.is_decided()).count() as u64
    }

    fn first_clicks(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| call.visit == Visit::FirstClick)
    }
}

impl Call {
    fn took_us(&self) -> i64 {
        self.ended_us - self.due_us
    }
}

impl CallOutcome {
    /// An answer that asking again at once would not change.
    pub fn is_decided(&self) -> bool {
        match self {
            Self::Overloaded | Self::Unknown(_) => false,
            Self::Error { status, .. } => *status < 500,
            _ => true,
        }
    }

    /// A refusal that time may undo.
    pub(super) fn may_change(&self) -> bool {
        matches!(self, Self::SoldOut | Self::NotEnough { .. } | Self::NotOpen)
    }
}

impl Latencies {
    fn of(durations_us: impl Iterator<Item = i64>) -> Self {
        // Bounds from the start: a histogram that grows by itself does not grow while it saturates.
        let mut histogram =
            Histogram::<u64>::new_with_bounds(1, LONGEST_US, 3).expect("the bounds and three digits are allowed");
        for duration_us in durations_us {
            histogram.saturating_record(u64::try_from(duration_us).unwrap_or(0));
        }
        let ms = |us: u64| us as f64 / 1e3;
        Self {
            calls: histogram.len(),
            p50_ms: ms(histogram.value_at_quantile(0.5)),
            p99_ms: ms(histogram.value_at_quantile(0.99)),
            max_ms: ms(histogram.max()),
        }
    }
}

impl WallClock {
    #[expect(clippy::disallowed_methods, reason = "the log is compared with the stores' times, which are real")]
    pub(super) fn start() -> Self {
        let anchor = Instant::now();
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { anchor, anchor_us: microseconds(since_1970) }
    }

    pub(super) fn rounded_down_us(&self) -> i64 {
        self.at_us(Instant::now())
    }

    pub(super) fn rounded_up_us(&self) -> i64 {
        self.rounded_down_us() + 1
    }

    pub(super) fn at_us(&self, instant: Instant) -> i64 {
        self.anchor_us + microseconds(instant.duration_since(self.anchor))
    }
}

fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).expect("292,000 years from 1970 have not passed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_click_is_in_the_latencies_also_one_that_was_asked_to_come_back() {
        let call = |visit, took_ms: i64, outcome| Call {
            buyer: "ada".to_owned(),
            key: "key".to_owned(),
            sku: "shoe".to_owned(),
            quantity: 1,
            visit,
            due_us: 0,
            // What it waits before it is sent counts.
            started_us: took_ms * 900,
            ended_us: took_ms * 1_000,
            outcome,
        };
        let log = BuyersLog {
            calls: vec![
                call(Visit::FirstClick, 2_500, CallOutcome::Overloaded),
                call(Visit::Retry, 251, CallOutcome::SoldOut),
                call(Visit::DoubleClick, 250, CallOutcome::SoldOut),
                call(Visit::Return, 10, CallOutcome::Unknown("cut off".to_owned())),
            ],
        };
        let latencies = log.latencies();
        assert_eq!(latencies.calls, 4);
        assert!((2_500.0..2_510.0).contains(&latencies.max_ms), "{latencies:?}");
        assert!((log.share_over(Duration::from_millis(250)) - 0.5).abs() < f64::EPSILON);
        assert_eq!((log.unavailable(), log.undecided()), (1, 2));
        assert!(BuyersLog::default().share_over(Duration::ZERO).abs() < f64::EPSILON);
    }

    #[test]
    fn a_click_counts_in_the_second_in_which_it_was_due() {
        let call = |due_ms: i64, took_ms: i64, outcome| Call {
            buyer: "ada".to_owned(),
            key: "key".to_owned(),
            sku: "shoe".to_owned(),
            quantity: 1,
            visit: Visit::FirstClick,
            due_us: due_ms * 1_000,
            started_us: due_ms * 1_000,
            ended_us: (due_ms + took_ms) * 1_000,
            outcome,
        };
        let taken = CallOutcome::Accepted { claim_id: "1".to_owned(), serials: vec![1], replayed: false };
        let log = BuyersLog {
            calls: vec![
                call(5_000, 2_500, CallOutcome::Overloaded),
                call(5_999, 1, taken),
                call(7_000, 10, CallOutcome::SoldOut),
            ],
        };
        let none = Second::default();
        let expected = [
            Second { second: 0, clicks: 2, taken: 1, undecided: 1, slowest_ms: 2_500.0, ..none },
            Second { second: 1, ..none },
            Second { second: 2, clicks: 1, refused: 1, slowest_ms: 10.0, ..none },
        ];
        assert_eq!(log.by_second(), expected);
    }

    #[test]
    fn latencies_are_what_was_measured() {
        let latencies = Latencies::of((1..=1_000).map(|ms| ms * 1_000));
        let close = |measured: f64, expected: f64| (measured - expected).abs() <= expected / 500.0;
        assert_eq!(latencies.calls, 1_000);
        assert!(close(latencies.p50_ms, 500.0), "{latencies:?}");
        assert!(close(latencies.p99_ms, 990.0), "{latencies:?}");
        assert!(close(latencies.max_ms, 1_000.0), "{latencies:?}");
    }
}
