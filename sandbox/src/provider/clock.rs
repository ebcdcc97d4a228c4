//! The provider's clock: `created` of every object, the time that signatures carry.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine's clock, or a test's own: then the provider lives in the test's time.
#[derive(Clone)]
pub struct FakeClock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl FakeClock {
    #[expect(clippy::disallowed_methods, reason = "the default of a provider that runs on its own")]
    pub fn system() -> Self {
        Self::unix_seconds(|| {
            let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX)
        })
    }

    /// Asked for every object, in seconds since 1970.
    pub fn unix_seconds(now: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub(crate) fn now(&self) -> i64 {
        (self.0)()
    }
}

impl fmt::Debug for FakeClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeClock")
    }
}
