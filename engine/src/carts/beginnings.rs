//! How many guests begin a cart, so that nobody can fill Redis with carts of guests who do not exist.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For each process: 3,600 seconds of it are 1.8 million carts, or 360 MB, since a guest's cart lives an hour at first.
pub(super) const GUEST_CARTS_PER_SECOND: u32 = 500;
const SECOND: Duration = Duration::from_secs(1);

/// The ceiling of one process. Clones share it.
#[derive(Clone)]
pub(super) struct Beginnings {
    per_second: u32,
    this_second: Arc<Mutex<Option<(Instant, u32)>>>,
}

impl Beginnings {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, this_second: Arc::default() }
    }

    /// Takes one of this second's beginnings, if one is left.
    pub(super) fn take(&self, now: Instant) -> bool {
        let mut this_second = self.this_second.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, taken) = match &mut *this_second {
            Some(current) if now.saturating_duration_since(current.0) < SECOND => current,
            over => over.insert((now, 0)),
        };
        let is_left = *taken < self.per_second;
        *taken += u32::from(is_left);
        is_left
    }

    /// No cart has begun with it.
    pub(super) fn give_back(&self) {
        let mut this_second = self.this_second.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, taken)) = &mut *this_second {
            *taken = taken.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_begin_a_second_and_what_was_not_used_is_for_others() {
        let (beginnings, begin) = (Beginnings::new(2), Instant::now());
        let take = |ms| beginnings.take(begin + Duration::from_millis(ms));
        assert_eq!([take(0), take(1), take(2), take(999)], [true, true, false, false]);
        beginnings.give_back();
        assert_eq!([take(999), take(999)], [true, false]);
        assert_eq!([take(1_000), take(1_001), take(1_999), take(2_000)], [true, true, false, true]);
        assert!(!Beginnings::new(0).take(begin));
    }
}
