//! The real limits: so many requests a second of the whole account, and so many of one endpoint.

use std::num::NonZeroU32;
use std::time::Instant;

/// What holds requests back, in the provider's words.
const GLOBAL: &str = "global-rate";
const ENDPOINT: &str = "endpoint-rate";

/// The account's limit, and one of each endpoint.
#[derive(Debug)]
pub(crate) struct Limits {
    account: Option<Limit>,
    /// By the endpoint's row.
    endpoints: Vec<Limit>,
}

impl Limits {
    pub(crate) fn new(account: Option<NonZeroU32>, endpoint: Option<NonZeroU32>, rows: usize) -> Self {
        let endpoints = endpoint.map_or_else(Vec::new, |each| (0..rows).map(|_| Limit::new(each)).collect());
        Self { account: account.map(Limit::new), endpoints }
    }

    /// Which limit one more request to this endpoint is over, if any.
    pub(crate) fn met(&mut self, row: Option<usize>, now: Instant) -> Option<&'static str> {
        if self.account.as_mut().is_some_and(|limit| !limit.admits(now)) {
            return Some(GLOBAL);
        }
        let endpoint = row.and_then(|row| self.endpoints.get_mut(row));
        endpoint.is_some_and(|limit| !limit.admits(now)).then_some(ENDPOINT)
    }

    pub(crate) fn is_by_endpoint(&self) -> bool {
        !self.endpoints.is_empty()
    }
}

/// A bucket that holds one second's worth of requests.
#[derive(Debug)]
pub(crate) struct Limit {
    per_second: f64,
    left: f64,
    filled_at: Option<Instant>,
}

impl Limit {
    pub(crate) fn new(per_second: NonZeroU32) -> Self {
        let per_second = f64::from(per_second.get());
        Self { per_second, left: per_second, filled_at: None }
    }

    /// Whether one more request is within the limit now.
    pub(crate) fn admits(&mut self, now: Instant) -> bool {
        let since = self.filled_at.map_or(0.0, |filled_at| now.saturating_duration_since(filled_at).as_secs_f64());
        self.filled_at = Some(now);
        self.left = (self.left + since * self.per_second).min(self.per_second);
        let admits = self.left >= 1.0;
        if admits {
            self.left -= 1.0;
        }
        admits
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_endpoint_has_its_own_limit_below_the_one_of_the_account() {
        let now = Instant::now();
        let mut limits = Limits::new(NonZeroU32::new(3), NonZeroU32::new(2), 2);
        let met: Vec<_> = [0, 0, 0, 1].map(|row| limits.met(Some(row), now)).into();
        assert_eq!(met, [None, None, Some(ENDPOINT), Some(GLOBAL)]);
        assert_eq!(Limits::new(None, None, 2).met(Some(0), now), None);
    }

    #[test]
    fn a_second_admits_what_the_limit_says_and_the_next_one_again() {
        let (mut limit, start) = (Limit::new(NonZeroU32::new(25).unwrap()), Instant::now());
        let admitted = |limit: &mut Limit, at: Duration| (0..100).filter(|_| limit.admits(start + at)).count();
        assert_eq!(admitted(&mut limit, Duration::ZERO), 25);
        assert_eq!(admitted(&mut limit, Duration::from_millis(200)), 5);
        assert_eq!(admitted(&mut limit, Duration::from_secs(60)), 25);
    }
}
