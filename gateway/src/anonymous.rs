//! Statements that anybody can cause without saying who they are: few at a time, so that Postgres is there for buyers.
//!
//! They have places of their own in the whole process. Whoever finds none waits a moment, then gets 503: a catalog that
//! is asked for too fast keeps nobody from buying.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::Problem;

/// A quarter of the default pool of connections.
pub const STATEMENTS_MAX: usize = 4;
/// Longer than a page takes while Postgres is well; past it more would only pile up.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The places of anonymous statements.
pub struct Anonymous(Semaphore);

impl Default for Anonymous {
    fn default() -> Self {
        Self(Semaphore::new(STATEMENTS_MAX))
    }
}

impl Anonymous {
    /// A place for one statement after the other, as long as it is held.
    pub async fn place(&self) -> Result<SemaphorePermit<'_>, Problem> {
        match tokio::time::timeout(WAIT_MAX, self.0.acquire()).await {
            Ok(place) => Ok(place.expect("this semaphore is never closed")),
            Err(_) => {
                metrics::counter!("doorbuster_anonymous_refused_total").increment(1);
                Err(Problem::Overloaded)
            }
        }
    }

    /// A place if there is one at this moment, for those who can do without.
    pub fn place_at_once(&self) -> Option<SemaphorePermit<'_>> {
        self.0.try_acquire().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_is_told_after_a_second() {
        let anonymous = Anonymous::default();
        let mut held = Vec::new();
        for _ in 0..STATEMENTS_MAX {
            held.push(anonymous.place().await.unwrap());
        }
        let began = tokio::time::Instant::now();
        assert_eq!(anonymous.place().await.err(), Some(Problem::Overloaded));
        assert_eq!(began.elapsed(), WAIT_MAX);
        assert!(anonymous.place_at_once().is_none());
        held.pop();
        assert!(anonymous.place_at_once().is_some());
    }
}
