//! The real limit: so many requests a second, whoever sends them.

use std::num::NonZeroU32;
use std::time::Instant;

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
    fn a_second_admits_what_the_limit_says_and_the_next_one_again() {
        let (mut limit, start) = (Limit::new(NonZeroU32::new(25).unwrap()), Instant::now());
        let admitted = |limit: &mut Limit, at: Duration| (0..100).filter(|_| limit.admits(start + at)).count();
        assert_eq!(admitted(&mut limit, Duration::ZERO), 25);
        assert_eq!(admitted(&mut limit, Duration::from_millis(200)), 5);
        assert_eq!(admitted(&mut limit, Duration::from_secs(60)), 25);
    }
}
