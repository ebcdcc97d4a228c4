//! The provider's limit, and what happens when it refuses our credential.
//!
//! Every call takes a turn first: create, confirm, cancel, refund and read each from a token bucket of their own, in the
//! order of arrival. A 429 slows its bucket for everybody in this process: it rests as long as the provider says (bounded)
//! and goes on at half the rate, which comes back within a minute. A 401 or 403 opens the circuit: no turns, for any kind,
//! until a probe passes. Several processes share one account's limit: the halving is what makes them find their shares.
//!
//! What is asked about customers and cards in the background comes behind charges: it waits while any of them does.
//!
//! Time comes in as an argument wherever something is decided, so that the tests below need no clock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// A rest longer than this is the provider's mistake, or somebody's in between; half the rate follows anyway.
const REST_MAX: Duration = Duration::from_secs(60);
/// When a 429 does not say how long.
const REST_UNSAID: Duration = Duration::from_secs(1);
/// Below this a limit of one call a second would never be probed again.
const RATE_MIN: f64 = 1.0;
/// The full rate is back after so many seconds without a 429.
const RECOVERY_SECONDS: f64 = 60.0;
/// One probe a minute while the circuit is open: soon enough after somebody corrected the key, and no noise before.
const PROBE_EVERY: Duration = Duration::from_secs(60);

/// How often a call about a card looks whether charges still wait.
const BEHIND_CHARGES: Duration = Duration::from_millis(20);

/// Calls that the provider limits together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Create,
    Confirm,
    Cancel,
    Refund,
    Read,
    /// Buyers at the provider.
    Customer,
    /// Their cards, and the pages on which these are saved.
    Card,
}

/// What the provider allows, for each [`Endpoint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    pub per_second: u32,
    /// Calls that may leave at once after a quiet time. Any one second sees at most `per_second + burst`.
    pub burst: u32,
}

impl Default for RateLimit {
    /// The provider's published limit for an endpoint; the burst keeps the worst second within a fifth of it.
    fn default() -> Self {
        Self { per_second: 25, burst: 5 }
    }
}

impl RateLimit {
    /// For a provider on this machine, which has no limit.
    pub const NONE: Self = Self { per_second: 1_000_000, burst: 1_000_000 };
}

/// The right to make one call. Taken before the call is committed as dispatched, so that nothing waits in that state.
#[must_use = "a turn that is dropped is a call the limit has lost"]
#[derive(Debug)]
pub struct Turn {
    pub(super) endpoint: Endpoint,
}

/// Why there is no turn. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoTurn {
    #[error("the circuit is open: the provider refuses our credential")]
    CircuitOpen,
    #[error("this worker is stopping")]
    Stopping,
    #[error("charges go first")]
    Behind,
}

/// How many payments may be leased just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admits {
    All,
    /// The probe has passed; one payment must, before the rest follows.
    One,
    /// The circuit is open.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Bucket {
    limit: RateLimit,
    /// Calls a second just now: the limit, or less after a 429.
    rate: f64,
    tokens: f64,
    at: Instant,
    rests_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Circuit {
    Closed,
    Open { probe_at: Instant },
    HalfOpen,
}

/// The buckets and the circuit of one client.
#[derive(Debug)]
pub(super) struct Throttle {
    limit: RateLimit,
    // Plain mutexes: they guard memory only and are never held across an await.
    buckets: [Mutex<Bucket>; 7],
    /// Whoever is first in line sleeps; the others wait behind, in the order they came.
    lines: [Semaphore; 7],
    /// Charges that wait for a turn.
    charges_waiting: AtomicUsize,
    circuit: Mutex<Circuit>,
    probe_every: Duration,
}

// === impl Bucket ===

impl Bucket {
    fn new(limit: RateLimit, now: Instant) -> Self {
        let rate = f64::from(limit.per_second);
        Self { limit, rate, tokens: f64::from(limit.burst), at: now, rests_until: None }
    }

    /// One token, or how long until there may be one.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        if let Some(until) = self.rests_until {
            if now < until {
                return Err(until - now);
            }
            // What would have flowed in while the bucket rested does not count.
            (self.rests_until, self.at) = (None, until);
        }
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + elapsed * self.rate).min(f64::from(self.limit.burst.max(1)));
        let full = f64::from(self.limit.per_second);
        self.rate = (self.rate + elapsed * full / RECOVERY_SECONDS).min(full);
        // The sum of many small additions may miss one by less than this.
        if self.tokens >= 1.0 - 1e-9 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / self.rate).max(Duration::from_micros(100)))
    }

    /// After a 429. Calls that were under way together are refused together: that is one reason to slow down, not many.
    fn slow(&mut self, now: Instant, retry_after: Option<Duration>) -> Duration {
        let rest = retry_after.unwrap_or(REST_UNSAID).min(REST_MAX);
        if self.rests_until.is_none_or(|until| now >= until) {
            self.rate = (self.rate / 2.0).max(RATE_MIN);
        }
        self.tokens = 0.0;
        self.rests_until = self.rests_until.max(Some(now + rest));
        rest
    }
}

/// Counts one who waits, until it is dropped.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Throttle ===

impl Throttle {
    pub(super) fn new(limit: RateLimit) -> Self {
        let now = Instant::now();
        Self {
            limit,
            buckets: std::array::from_fn(|_| Mutex::new(Bucket::new(limit, now))),
            lines: std::array::from_fn(|_| Semaphore::new(1)),
            charges_waiting: AtomicUsize::new(0),
            circuit: Mutex::new(Circuit::Closed),
            probe_every: PROBE_EVERY,
        }
    }

    pub(super) fn probed_every(self, probe_every: Duration) -> Self {
        Self { probe_every, ..self }
    }

    pub(super) fn limit(&self) -> RateLimit {
        self.limit
    }

    pub(super) async fn turn(&self, endpoint: Endpoint) -> Result<Turn, NoTurn> {
        let _waits = matches!(endpoint, Endpoint::Create | Endpoint::Confirm | Endpoint::Cancel)
            .then(|| Waits::begin(&self.charges_waiting));
        let line = &self.lines[endpoint as usize];
        let _first = line.acquire().await.expect("this semaphore is never closed");
        loop {
            if matches!(*self.circuit(), Circuit::Open { .. }) {
                return Err(NoTurn::CircuitOpen);
            }
            let taken = self.bucket(endpoint).take(Instant::now());
            match taken {
                Ok(()) => return Ok(Turn { endpoint }),
                // Again afterwards: a 429 may have come in while we slept.
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    pub(super) fn has_charges_waiting(&self) -> bool {
        self.charges_waiting.load(Ordering::Relaxed) > 0
    }

    /// As [`Self::turn`], once no charge waits for one.
    pub(super) async fn turn_behind_charges(&self, endpoint: Endpoint) -> Result<Turn, NoTurn> {
        loop {
            if matches!(*self.circuit(), Circuit::Open { .. }) {
                return Err(NoTurn::CircuitOpen);
            }
            if !self.has_charges_waiting() {
                return self.turn(endpoint).await;
            }
            tokio::time::sleep(BEHIND_CHARGES).await;
        }
    }

    pub(super) fn admits(&self) -> Admits {
        match *self.circuit() {
            Circuit::Closed => Admits::All,
            Circuit::HalfOpen => Admits::One,
            Circuit::Open { .. } => Admits::Nothing,
        }
    }

    /// Whether a probe is due; if so, the next one is due a minute later, whatever becomes of this one.
    pub(super) fn takes_probe(&self, now: Instant) -> bool {
        match &mut *self.circuit() {
            Circuit::Open { probe_at } if now >= *probe_at => {
                *probe_at = now + self.probe_every;
                true
            }
            _ => false,
        }
    }

    pub(super) fn probe_passed(&self) {
        *self.circuit() = Circuit::HalfOpen;
    }

    /// The provider refused our credential. `true`: it has just opened.
    pub(super) fn open(&self, now: Instant) -> bool {
        let mut circuit = self.circuit();
        let is_new = !matches!(*circuit, Circuit::Open { .. });
        *circuit = Circuit::Open { probe_at: now + self.probe_every };
        is_new
    }

    /// The provider took our credential for something that moves money. `true`: the circuit has just closed.
    pub(super) fn passed(&self) -> bool {
        let mut circuit = self.circuit();
        // One that is open stays so: this call left before it opened.
        let closes = *circuit == Circuit::HalfOpen;
        if closes {
            *circuit = Circuit::Closed;
        }
        closes
    }

    pub(super) fn slow(&self, endpoint: Endpoint, retry_after: Option<Duration>) -> Duration {
        self.bucket(endpoint).slow(Instant::now(), retry_after)
    }

    fn bucket(&self, endpoint: Endpoint) -> MutexGuard<'_, Bucket> {
        self.buckets[endpoint as usize].lock().expect("nobody panics holding this lock")
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().expect("nobody panics holding this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit { per_second: 25, burst: 5 };

    /// Calls that a crowd without patience gets in each of these seconds.
    fn calls_by_second(bucket: &mut Bucket, start: Instant, seconds: usize) -> Vec<u32> {
        let mut calls = vec![0; seconds];
        for millis in 0..seconds * 1_000 {
            while bucket.take(start + Duration::from_millis(millis as u64)).is_ok() {
                calls[millis / 1_000] += 1;
                assert!(calls[millis / 1_000] < 1_000, "there is no limit at all");
            }
        }
        calls
    }

    #[test]
    fn no_second_sees_more_than_the_rate_and_the_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(LIMIT, start);
        let calls = calls_by_second(&mut bucket, start, 4);
        assert!((29..=30).contains(&calls[0]), "{calls:?}");
        assert!(calls[1..].iter().all(|calls| (24..=26).contains(calls)), "{calls:?}");
        // A quiet hour saves up the burst and no more.
        let later = start + Duration::from_secs(3_600);
        assert!((29..=30).contains(&calls_by_second(&mut bucket, later, 1)[0]));
    }

    #[test]
    fn a_429_rests_the_bucket_as_long_as_it_says_but_not_for_ever_and_halves_its_rate_once() {
        let start = Instant::now();
        let mut bucket = Bucket::new(LIMIT, start);
        assert_eq!(bucket.slow(start, Some(Duration::from_secs(2))), Duration::from_secs(2));
        // Five more that were under way are refused with it.
        for _ in 0..5 {
            bucket.slow(start, Some(Duration::from_secs(2)));
        }
        assert_eq!(bucket.take(start + Duration::from_secs(1)), Err(Duration::from_secs(1)));
        let calls = calls_by_second(&mut bucket, start + Duration::from_secs(2), 1)[0];
        assert!((12..=13).contains(&calls), "half the rate: {calls}");
        let calls = calls_by_second(&mut bucket, start + Duration::from_secs(63), 2)[1];
        assert!((24..=26).contains(&calls), "a minute later all of it: {calls}");
        assert_eq!(bucket.slow(start, Some(Duration::from_secs(86_400))), REST_MAX);
        assert_eq!(bucket.slow(start, None), REST_UNSAID);
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_served_in_the_order_it_came_and_kinds_do_not_wait_for_each_other() {
        let throttle = std::sync::Arc::new(Throttle::new(RateLimit { per_second: 10, burst: 1 }));
        let start = Instant::now();
        let waits = (0..4).map(|_| async {
            let _turn = throttle.turn(Endpoint::Confirm).await.unwrap();
            start.elapsed().as_millis()
        });
        let waits = futures_util::future::join_all(waits).await;
        for (number, wait) in waits.iter().enumerate() {
            assert!(wait.abs_diff(100 * number as u128) <= 5, "{waits:?}");
        }
        let before = Instant::now();
        let _turn = throttle.turn(Endpoint::Read).await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_about_a_card_waits_in_the_background_until_no_charge_does() {
        let throttle = std::sync::Arc::new(Throttle::new(RateLimit { per_second: 10, burst: 1 }));
        let start = Instant::now();
        let charge = async || {
            let _turn = throttle.turn(Endpoint::Create).await.unwrap();
            start.elapsed().as_millis()
        };
        let card = async || {
            // Asked after the charges have begun to wait.
            tokio::task::yield_now().await;
            let _turn = throttle.turn_behind_charges(Endpoint::Card).await.unwrap();
            start.elapsed().as_millis()
        };
        let (first, second, third, card) = tokio::join!(charge(), charge(), charge(), card());
        assert!(third <= 205, "{first} {second} {third}");
        assert!((third..third + 30).contains(&card), "once the last charge has its turn: {card} ms");
        // One that a charge needs waits for none of them.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = Instant::now();
        let needed = async {
            tokio::task::yield_now().await;
            let _turn = throttle.turn(Endpoint::Customer).await.unwrap();
            before.elapsed()
        };
        let (_, waited, needed) = tokio::join!(charge(), charge(), needed);
        assert!(needed < Duration::from_millis(5) && waited > 1_000, "{needed:?} {waited}");
    }

    #[test]
    fn the_circuit_opens_probes_once_a_minute_and_closes_behind_one_payment() {
        let throttle = Throttle::new(LIMIT);
        let start = Instant::now();
        assert_eq!(throttle.admits(), Admits::All);
        assert!(throttle.open(start) && !throttle.open(start), "said once");
        assert!(!throttle.passed(), "an answer to a call that left before");
        assert_eq!(throttle.admits(), Admits::Nothing);
        assert!(!throttle.takes_probe(start + Duration::from_secs(59)));
        assert!(throttle.takes_probe(start + Duration::from_secs(60)));
        assert!(!throttle.takes_probe(start + Duration::from_secs(61)), "one a minute");
        throttle.probe_passed();
        assert_eq!(throttle.admits(), Admits::One);
        assert!(throttle.passed());
        assert_eq!(throttle.admits(), Admits::All);
    }
}
