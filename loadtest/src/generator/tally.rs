//! What a run has seen: latencies, outcomes, and how they lay in time. Nothing that was planned is missing from it.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies above a minute are counted as a minute, and are late enough by then.
const LONGEST_US: u64 = 60_000_000;
/// One point of the plots over time.
pub(crate) const SLICE: Duration = Duration::from_millis(250);
/// Sentences about requests that got no answer; the outcomes count the rest.
const SENTENCES_MAX: usize = 5;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// 200 or 201
    Ok,
    /// The stored answer again.
    Replayed,
    /// 202
    Pending,
    SoldOut,
    NotEnough,
    LimitExceeded,
    /// Another answer below 500.
    Refused,
    /// 429 or 503
    Overloaded,
    ServerError,
    /// The connection broke, or could not be made.
    NoAnswer,
    TimedOut,
    /// It was due, and the run was over before a connection was free.
    Unsent,
}

impl Outcome {
    pub const ALL: [Self; 12] = [
        Self::Ok,
        Self::Replayed,
        Self::Pending,
        Self::SoldOut,
        Self::NotEnough,
        Self::LimitExceeded,
        Self::Refused,
        Self::Overloaded,
        Self::ServerError,
        Self::NoAnswer,
        Self::TimedOut,
        Self::Unsent,
    ];

    pub fn of(status: u16, is_replay: bool, body: &[u8]) -> Self {
        match status {
            200 | 201 if is_replay => Self::Replayed,
            200 | 201 | 204 => Self::Ok,
            202 => Self::Pending,
            409 => match code(body) {
                b"sold_out" => Self::SoldOut,
                b"not_enough" => Self::NotEnough,
                b"limit_exceeded" => Self::LimitExceeded,
                _ => Self::Refused,
            },
            429 | 503 => Self::Overloaded,
            500.. => Self::ServerError,
            _ => Self::Refused,
        }
    }

    /// The shop answered, whatever it said.
    pub fn is_answer(self) -> bool {
        !matches!(self, Self::NoAnswer | Self::TimedOut | Self::Unsent)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Replayed => "replayed",
            Self::Pending => "pending",
            Self::SoldOut => "sold out",
            Self::NotEnough => "not enough",
            Self::LimitExceeded => "limit exceeded",
            Self::Refused => "refused otherwise",
            Self::Overloaded => "overloaded",
            Self::ServerError => "server error",
            Self::NoAnswer => "no answer",
            Self::TimedOut => "timed out",
            Self::Unsent => "never sent",
        }
    }
}

/// The figures of one run, or of one thread of it.
#[derive(Clone)]
pub struct Tally {
    /// From the scheduled time to the end of the answer; of what got none, to when it was given up.
    pub latency_us: Histogram<u64>,
    /// From the scheduled time to the sending: the generator's own delay, and the wait for a free connection.
    pub lateness_us: Histogram<u64>,
    outcomes: [u64; Outcome::ALL.len()],
    pub slices: Vec<Slice>,
    pub sentences: Vec<String>,
}

/// A quarter of a second of a run.
#[derive(Clone)]
pub struct Slice {
    pub due: u64,
    pub answered: u64,
    /// Of what was due in it.
    pub latency_us: Histogram<u64>,
}

/// One histogram in figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Percentiles {
    pub count: u64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            latency_us: histogram(3),
            lateness_us: histogram(3),
            outcomes: [0; Outcome::ALL.len()],
            slices: Vec::new(),
            sentences: Vec::new(),
        }
    }
}

impl Tally {
    /// Takes in one request; times are counted from the beginning of the run.
    pub fn record(&mut self, outcome: Outcome, due: Duration, sent: Duration, ended: Duration) {
        let latency = microseconds(ended.saturating_sub(due));
        self.latency_us.saturating_record(latency);
        self.lateness_us.saturating_record(microseconds(sent.saturating_sub(due)));
        self.outcomes[outcome as usize] += 1;
        let of_due = self.slice(due);
        of_due.due += 1;
        of_due.latency_us.saturating_record(latency);
        if outcome.is_answer() {
            self.slice(ended).answered += 1;
        }
    }

    pub fn tell(&mut self, sentence: String) {
        if self.sentences.len() < SENTENCES_MAX && !self.sentences.contains(&sentence) {
            self.sentences.push(sentence);
        }
    }

    pub fn add(&mut self, other: &Self) {
        const SAME: &str = "histograms of one shape can be added";
        self.latency_us.add(&other.latency_us).expect(SAME);
        self.lateness_us.add(&other.lateness_us).expect(SAME);
        for (mine, theirs) in self.outcomes.iter_mut().zip(other.outcomes) {
            *mine += theirs;
        }
        for (index, theirs) in other.slices.iter().enumerate() {
            let mine = self.slice_at(index);
            mine.due += theirs.due;
            mine.answered += theirs.answered;
            mine.latency_us.add(&theirs.latency_us).expect(SAME);
        }
        for sentence in &other.sentences {
            self.tell(sentence.clone());
        }
    }

    pub fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    pub fn total(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    pub fn answered(&self) -> u64 {
        Outcome::ALL.into_iter().filter(|outcome| outcome.is_answer()).map(|outcome| self.count(outcome)).sum()
    }

    /// Those that happened, in the order of [`Outcome::ALL`].
    pub fn outcomes(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::ALL.into_iter().zip(self.outcomes).filter(|(_, count)| *count > 0)
    }

    fn slice(&mut self, at: Duration) -> &mut Slice {
        self.slice_at((at.as_nanos() / SLICE.as_nanos()) as usize)
    }

    fn slice_at(&mut self, index: usize) -> &mut Slice {
        while self.slices.len() <= index {
            // Two digits are enough for a plot, and a run of an hour has 14,400 of these.
            self.slices.push(Slice { due: 0, answered: 0, latency_us: histogram(2) });
        }
        &mut self.slices[index]
    }
}

impl Percentiles {
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            count: histogram.len(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: histogram.max() as f64 / 1e3,
        }
    }
}

fn histogram(digits: u8) -> Histogram<u64> {
    // Bounds from the start: a histogram that grows by itself does not grow while it saturates.
    Histogram::new_with_bounds(1, LONGEST_US, digits).expect("the bounds and two or three digits are allowed")
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The `code` of a problem, without taking the JSON apart: it is ours, and it has no spaces.
fn code(body: &[u8]) -> &[u8] {
    const NAME: &[u8] = b"\"code\":\"";
    let Some(at) = body.windows(NAME.len()).position(|window| window == NAME) else { return b"" };
    let rest = &body[at + NAME.len()..];
    &rest[..rest.iter().position(|byte| *byte == b'"').unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn latency_counts_from_the_scheduled_time() {
        let mut tally = Tally::default();
        // Due at 0, sent when a connection was free at 90, answered at 100.
        tally.record(Outcome::Ok, ms(0), ms(90), ms(100));
        assert!((Percentiles::of(&tally.latency_us).max_ms - 100.0).abs() < 0.1);
        assert!((Percentiles::of(&tally.lateness_us).max_ms - 90.0).abs() < 0.1);
    }

    #[test]
    fn percentiles_are_what_was_recorded_to_three_digits() {
        let mut tally = Tally::default();
        for latency in 1..=10_000_u64 {
            tally.record(Outcome::Ok, ms(0), ms(0), Duration::from_micros(latency * 10));
        }
        let found = Percentiles::of(&tally.latency_us);
        for (found, expected) in [
            (found.p50_ms, 50.0),
            (found.p90_ms, 90.0),
            (found.p99_ms, 99.0),
            (found.p999_ms, 99.9),
            (found.max_ms, 100.0),
        ] {
            assert!((found - expected).abs() <= expected / 1000.0, "{found} for {expected}");
        }
        tally.record(Outcome::TimedOut, ms(0), ms(0), ms(10 * 60 * 1000));
        assert!(Percentiles::of(&tally.latency_us).max_ms >= 60_000.0, "what is too long for it is still counted");
    }

    #[test]
    fn parts_add_up_and_nothing_is_lost() {
        let (mut one, mut two) = (Tally::default(), Tally::default());
        one.record(Outcome::Ok, ms(10), ms(10), ms(300));
        two.record(Outcome::Unsent, ms(20), ms(900), ms(900));
        two.record(Outcome::SoldOut, ms(260), ms(260), ms(270));
        one.add(&two);
        assert_eq!((one.total(), one.answered(), one.count(Outcome::Unsent)), (3, 2, 1));
        assert_eq!(one.latency_us.len(), 3);
        let slices = one.slices.iter().map(|slice| (slice.due, slice.answered)).collect::<Vec<_>>();
        assert_eq!(slices, [(2, 0), (1, 2)]);
    }

    #[test]
    fn answers_are_told_apart_by_status_and_code() {
        for (status, is_replay, body, outcome) in [
            (201, false, "", Outcome::Ok),
            (201, true, "", Outcome::Replayed),
            (202, false, "", Outcome::Pending),
            (409, false, r#"{"code":"sold_out","title":"x"}"#, Outcome::SoldOut),
            (409, false, r#"{"title":"x","code":"not_enough","available":2}"#, Outcome::NotEnough),
            (409, false, r#"{"code":"limit_exceeded"}"#, Outcome::LimitExceeded),
            (409, false, r#"{"code":"other"}"#, Outcome::Refused),
            (409, false, "", Outcome::Refused),
            (401, false, "", Outcome::Refused),
            (429, false, "", Outcome::Overloaded),
            (503, false, "", Outcome::Overloaded),
            (500, false, "", Outcome::ServerError),
        ] {
            assert_eq!(Outcome::of(status, is_replay, body.as_bytes()), outcome, "{status} {body}");
        }
    }
}
