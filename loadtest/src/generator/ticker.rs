//! Waits until a scheduled time, to a tenth of a millisecond.
//!
//! tokio's own timers go by whole milliseconds: at 20,000 requests a second they would send twenty at a time, and what is
//! measured is then the burst.

use std::time::{Duration, Instant};

/// Two looks at the schedule lie at least so far apart: 10,000 wake-ups a second at most.
const STEP: Duration = Duration::from_micros(100);

pub(super) struct Ticker {
    #[cfg(target_os = "linux")]
    timer: Option<Timer>,
}

#[cfg(target_os = "linux")]
struct Timer {
    timer: nix::sys::timerfd::TimerFd,
    /// The same timer, as tokio waits for it.
    ready: tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
}

#[cfg(target_os = "linux")]
impl Timer {
    fn new() -> std::io::Result<Self> {
        use std::os::fd::AsFd as _;

        use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        let same = timer.as_fd().try_clone_to_owned()?;
        #[expect(
            deprecated,
            reason = "unsound only for types that change their descriptor, which an OwnedFd never does"
        )]
        let ready = tokio::io::unix::AsyncFd::new(same)?;
        Ok(Self { timer, ready })
    }

    async fn wait(&self, wait: Duration) -> std::io::Result<()> {
        use nix::sys::timer::{Expiration, TimerSetTimeFlags};
        self.timer.set(Expiration::OneShot(wait.into()), TimerSetTimeFlags::empty())?;
        let mut ready = self.ready.readable().await?;
        // Its count of expirations is of no use, but must be read to hear of the next one.
        let _ = self.timer.wait();
        ready.clear_ready();
        Ok(())
    }
}

impl Ticker {
    /// Where the system has no such timer, tokio's are used.
    #[cfg(target_os = "linux")]
    pub(super) fn new() -> Self {
        Self { timer: Timer::new().ok() }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn new() -> Self {
        Self {}
    }

    pub(super) async fn wait_until(&self, at: Instant) {
        let wait = at.saturating_duration_since(Instant::now()).max(STEP);
        #[cfg(target_os = "linux")]
        if let Some(timer) = &self.timer
            && wait < Duration::from_millis(50)
            && timer.wait(wait).await.is_ok()
        {
            return;
        }
        // A little early: the rest is waited for by the timer above.
        tokio::time::sleep(wait.saturating_sub(Duration::from_millis(2)).max(STEP)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_wait_ends_soon_after_its_time_and_not_before() {
        let ticker = Ticker::new();
        let began = Instant::now();
        for wait_ms in [1, 3, 70] {
            let at = Instant::now() + Duration::from_millis(wait_ms);
            while Instant::now() < at {
                ticker.wait_until(at).await;
            }
        }
        assert!(began.elapsed() >= Duration::from_millis(74));
    }
}
