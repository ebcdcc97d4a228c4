//! Which request goes wrong, and how: drawn from seed, name and attempt, never from the order of arrival.

use std::collections::HashMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::options::FakeProviderOptions;
use super::store::Twist;

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) delay: Duration,
    pub(crate) lost_request: bool,
    pub(crate) error_500: bool,
    pub(crate) lost_answer: bool,
    pub(crate) error_500_executed: bool,
    pub(crate) rate_limited: bool,
    pub(crate) unavailable: bool,
    pub(crate) twist: Twist,
    pub(crate) locked: bool,
    pub(crate) key_held: bool,
}

/// What went wrong so far: a test whose faults never happened has shown nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts {
    pub lost_requests: u64,
    pub lost_answers: u64,
    pub stored_500s: u64,
    /// Of those, carried out all the same.
    pub stored_500s_executed: u64,
    pub unavailable: u64,
    /// Answered by 429, whether by chance or by a limit.
    pub rate_limited: u64,
    /// Answered by 409: the same key was running, or held.
    pub keys_in_use: u64,
    /// Answered by 429: another request had the object.
    pub lock_timeouts: u64,
    /// Carried out, then cut off, with the key held.
    pub keys_held: u64,
    /// A stored 500 whose money lands later; counted among `stored_500s` too.
    pub captures_after_500: u64,
    /// Declined without a word about the intent.
    pub bare_declines: u64,
    /// Lists and searches that were behind.
    pub lagging_lists: u64,
}

/// Counts attempts by name, so that a repeat of a lost request is drawn anew.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    attempts: HashMap<String, u64>,
}

impl Faults {
    /// `name` is the idempotency key, or method and path where there is none.
    pub(crate) fn draw(&mut self, options: &FakeProviderOptions, name: &str) -> Fault {
        let attempt = self.attempts.entry(name.to_owned()).or_default();
        *attempt += 1;
        let mut chance = StdRng::seed_from_u64(mix(options.seed, *attempt, name));
        let delay = match options.delay.is_empty() {
            true => options.delay.start,
            false => chance.random_range(options.delay.clone()),
        };
        let mut happens = |rate: f64| chance.random::<f64>() < rate;
        Fault {
            delay,
            lost_request: happens(options.lost_request_rate),
            error_500: happens(options.error_500_rate),
            lost_answer: happens(options.lost_answer_rate),
            // Below what was there first, so that an older seed goes on drawing what it drew.
            error_500_executed: happens(options.error_500_executed_rate),
            rate_limited: happens(options.rate_limited_rate),
            unavailable: happens(options.unavailable_rate),
            twist: Twist {
                decline: happens(options.decline_rate),
                late_success: happens(options.late_success_rate),
                requires_action: happens(options.requires_action_rate),
                processing: happens(options.processing_rate),
                success_before_cancel: happens(options.success_before_cancel_rate),
                refund_pending: happens(options.refund_pending_rate),
                refund_fails: happens(options.refund_fails_rate),
                capture_after_500: happens(options.capture_after_500_rate),
                bare_decline: happens(options.bare_decline_rate),
                lagging_list: happens(options.lagging_list_rate),
            },
            locked: happens(options.lock_timeout_rate),
            key_held: happens(options.key_held_rate),
        }
    }
}

/// FNV-1a, 64 bits: the standard library's hasher may change with the compiler.
pub(crate) fn mix(seed: u64, attempt: u64, name: &str) -> u64 {
    let bytes = seed.to_be_bytes().into_iter().chain(attempt.to_be_bytes()).chain(name.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_loses_the_same_requests_and_none_for_ever() {
        let options = FakeProviderOptions { lost_answer_rate: 0.5, ..FakeProviderOptions::default() };
        let draws = |options: &FakeProviderOptions, name: &str| {
            let mut faults = Faults::default();
            (0..64).map(|_| faults.draw(options, name).lost_answer).collect::<Vec<_>>()
        };
        let first = draws(&options, "order-1");
        assert_eq!(first, draws(&options, "order-1"));
        assert_ne!(first, draws(&options, "order-2"));
        assert_ne!(first, draws(&FakeProviderOptions { seed: 2, ..options.clone() }, "order-1"));
        assert!(first.contains(&true) && first.contains(&false));
    }
}
