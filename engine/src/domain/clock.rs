//! Time comes from here and from nowhere else.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};

/// What another machine's clock said, between two readings of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    pub before: Timestamp,
    pub theirs: Timestamp,
    pub after: Timestamp,
}

impl ClockReading {
    /// How far their clock is ahead of ours at least, below zero if it is behind. The way there and back takes a time
    /// that nobody knows, so a reading between our two is no difference.
    pub fn ahead(&self) -> SignedDuration {
        if self.theirs < self.before {
            self.theirs.duration_since(self.before)
        } else if self.theirs > self.after {
            self.theirs.duration_since(self.after)
        } else {
            SignedDuration::ZERO
        }
    }
}

/// The machine's clock, or one that a test moves by hand.
#[derive(Debug, Clone)]
pub enum Clock {
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    pub fn manual(start: Timestamp) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(start.as_microsecond())))
    }

    /// Microseconds are all that Postgres keeps, so they are all that is handed out.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine for the time")]
    pub fn now(&self) -> Timestamp {
        let micros = match self {
            Self::System => Timestamp::now().as_microsecond(),
            Self::Manual(micros) => micros.load(Ordering::SeqCst),
        };
        Timestamp::from_microsecond(micros).expect("a reading of a clock lies between the years -9999 and 9999")
    }

    /// Moves a manual clock; the machine's clock cannot be moved and stays.
    pub fn advance(&self, by: SignedDuration) {
        if let Self::Manual(micros) = self {
            micros.fetch_add(by.as_micros() as i64, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_two_readings_of_our_clock_is_no_difference() {
        let at = |second: i64| Timestamp::from_second(1_795_773_600 + second).unwrap();
        for (theirs, ahead) in [(-60, -60), (0, 0), (1, 0), (2, 0), (5, 3)] {
            let reading = ClockReading { before: at(0), theirs: at(theirs), after: at(2) };
            assert_eq!(reading.ahead(), SignedDuration::from_secs(ahead), "{theirs}");
        }
    }
}
