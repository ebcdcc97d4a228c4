//! When buyers arrive, decided before the first one does: an open model. Nobody waits for anybody else's answer.
//!
//! A schedule is a row of stages whose rate changes evenly from one value to another. The n-th arrival is where the area
//! under that line reaches n, so that a schedule holds exactly as many arrivals as it says, without drift.

use std::str::FromStr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Above this a plan of a minute would not fit into memory: 1,000,000/s is ten times what one machine's loopback serves.
const RATE_MAX: f64 = 1_000_000.0;
/// Arrivals of one schedule: 24 bytes each once they are planned, 1.2 GB.
const ARRIVALS_MAX: f64 = 50_000_000.0;

/// When buyers arrive.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    Stages(Vec<Stage>),
    /// Arrivals as they once were: offsets from the beginning, ascending.
    Trace(Vec<Duration>),
}

/// A time in which the rate changes evenly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stage {
    pub from_per_s: f64,
    pub to_per_s: f64,
    pub seconds: f64,
}

/// How arrivals lie between each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// As far apart as the rate says.
    Even,
    /// As people come who know nothing of each other (a Poisson process). The same seed gives the same times.
    Random { seed: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSchedule(String);

impl Schedule {
    pub fn constant(per_s: f64, length: Duration) -> Self {
        Self::Stages(vec![Stage { from_per_s: per_s, to_per_s: per_s, seconds: length.as_secs_f64() }])
    }

    pub fn ramp(from_per_s: f64, to_per_s: f64, length: Duration) -> Self {
        Self::Stages(vec![Stage { from_per_s, to_per_s, seconds: length.as_secs_f64() }])
    }

    /// A door that opens: a tenth of the time at the base rate, then at once the peak for a tenth, which ebbs away over three
    /// tenths, and the base rate to the end.
    pub fn spike(base_per_s: f64, peak_per_s: f64, length: Duration) -> Self {
        let tenth = length.as_secs_f64() / 10.0;
        let stage = |from_per_s, to_per_s, tenths| Stage { from_per_s, to_per_s, seconds: tenth * tenths };
        Self::Stages(vec![
            stage(base_per_s, base_per_s, 1.0),
            stage(peak_per_s, peak_per_s, 1.0),
            stage(peak_per_s, base_per_s, 3.0),
            stage(base_per_s, base_per_s, 5.0),
        ])
    }

    /// A file with an offset in seconds on each line; lines that begin with # say nothing.
    pub fn trace(text: &str) -> Result<Self, BadSchedule> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut offsets = Vec::new();
        for line in lines {
            let seconds = line.split(',').next().and_then(|first| first.trim().parse::<f64>().ok());
            let offset = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            offsets.push(offset.ok_or_else(|| BadSchedule(format!("{line:?} in the trace is no time in seconds")))?);
        }
        offsets.sort_unstable();
        if offsets.is_empty() {
            Err(BadSchedule("the trace holds no arrivals".to_owned()))
        } else {
            Ok(Self::Trace(offsets))
        }
    }

    /// From the beginning to the end of the last stage, or to the last arrival of a trace.
    pub fn length(&self) -> Duration {
        match self {
            Self::Stages(stages) => Duration::from_secs_f64(stages.iter().map(|stage| stage.seconds).sum()),
            Self::Trace(offsets) => offsets.last().copied().unwrap_or_default(),
        }
    }

    /// Every arrival, ascending, counted from the beginning.
    pub fn arrivals(&self, spacing: Spacing) -> Vec<Duration> {
        let stages = match self {
            Self::Stages(stages) => stages,
            Self::Trace(offsets) => return offsets.clone(),
        };
        let mut chance = match spacing {
            Spacing::Even => None,
            Spacing::Random { seed } => Some(StdRng::seed_from_u64(seed)),
        };
        // How far the area under the line is from one arrival to the next: one each, or one on average.
        let mut step = |is_first: bool| match &mut chance {
            None if is_first => 0.5,
            None => 1.0,
            Some(chance) => -(1.0 - chance.random::<f64>()).ln(),
        };
        let (mut arrivals, mut began, mut before) = (Vec::new(), 0.0, 0.0);
        let mut next = step(true);
        for stage in stages {
            let area = stage.arrivals();
            while next - before < area {
                arrivals.push(Duration::from_secs_f64(began + stage.reaches(next - before)));
                next += step(false);
            }
            before += area;
            began += stage.seconds;
        }
        arrivals
    }

    fn check(self) -> Result<Self, BadSchedule> {
        let Self::Stages(stages) = &self else { return Ok(self) };
        let is_rate = |rate: f64| (0.0..=RATE_MAX).contains(&rate);
        for stage in stages {
            if !is_rate(stage.from_per_s) || !is_rate(stage.to_per_s) {
                return Err(BadSchedule(format!("rates are 0 to {RATE_MAX} a second")));
            }
        }
        if stages.iter().map(|stage| stage.arrivals()).sum::<f64>() > ARRIVALS_MAX {
            return Err(BadSchedule(format!("a schedule holds at most {ARRIVALS_MAX} arrivals")));
        }
        Ok(self)
    }
}

impl Stage {
    fn arrivals(&self) -> f64 {
        (self.from_per_s + self.to_per_s) / 2.0 * self.seconds
    }

    /// When the area under the line is so large: the root of `from * t + (to - from) / seconds * t² / 2 = area`, in the
    /// form that holds for an even rate too.
    fn reaches(&self, area: f64) -> f64 {
        let slope = (self.to_per_s - self.from_per_s) / self.seconds;
        let root = (self.from_per_s * self.from_per_s + 2.0 * slope * area).max(0.0).sqrt();
        (2.0 * area / (self.from_per_s + root)).min(self.seconds)
    }
}

/// `constant:1000:10s`, `ramp:100-5000:30s`, `spike:100-20000:20s`, or stages in a row:
/// `stages:100:5s,100-5000:10s,5000:30s`.
impl FromStr for Schedule {
    type Err = BadSchedule;

    fn from_str(text: &str) -> Result<Self, BadSchedule> {
        let bad = || {
            let known = "constant:RATE:TIME, ramp:FROM-TO:TIME, spike:BASE-PEAK:TIME or stages:RATE:TIME,FROM-TO:TIME";
            BadSchedule(format!("{text:?} is no schedule: say {known}"))
        };
        let (kind, rest) = text.split_once(':').ok_or_else(bad)?;
        let mut stages = Vec::new();
        for part in rest.split(',') {
            let (rates, time) = part.split_once(':').ok_or_else(bad)?;
            let (from, to) = rates.split_once('-').unwrap_or((rates, rates));
            let rate = |text: &str| text.parse::<f64>().map_err(|_| bad());
            let length = time.parse::<jiff::SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
            let seconds = length.filter(|length| !length.is_zero()).ok_or_else(bad)?.as_secs_f64();
            stages.push(Stage { from_per_s: rate(from)?, to_per_s: rate(to)?, seconds });
        }
        let schedule = match (kind, &*stages) {
            ("constant", [only]) if only.from_per_s.to_bits() == only.to_per_s.to_bits() => Self::Stages(stages),
            ("ramp", [_]) | ("stages", [_, ..]) => Self::Stages(stages),
            ("spike", [only]) => Self::spike(only.from_per_s, only.to_per_s, Duration::from_secs_f64(only.seconds)),
            _ => return Err(bad()),
        };
        schedule.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn even(text: &str) -> Vec<f64> {
        let schedule = text.parse::<Schedule>().unwrap();
        schedule.arrivals(Spacing::Even).iter().map(Duration::as_secs_f64).collect()
    }

    #[test]
    fn an_even_rate_is_evenly_spaced_and_holds_as_many_as_it_says() {
        let arrivals = even("constant:4:2s");
        assert_eq!(arrivals, [0.125, 0.375, 0.625, 0.875, 1.125, 1.375, 1.625, 1.875]);
        assert_eq!(even("constant:9999:3s").len(), 29_997);
    }

    #[test]
    fn a_ramp_holds_the_area_under_its_line() {
        let arrivals = even("ramp:0-1000:10s");
        assert_eq!(arrivals.len(), 5_000);
        // Half of the time is a quarter of the area.
        assert_eq!(arrivals.iter().filter(|at| **at < 5.0).count(), 1_250);
        assert!(arrivals.is_sorted() && *arrivals.last().unwrap() <= 10.0);
        let down = even("ramp:1000-0:10s");
        assert_eq!(down.len(), 5_000);
        assert_eq!(down.iter().filter(|at| **at < 5.0).count(), 3_750);
    }

    #[test]
    fn stages_follow_each_other_without_a_gap_or_a_jump() {
        let arrivals = even("stages:100:1s,0:1s,100-300:1s");
        assert_eq!(arrivals.len(), 300);
        assert!(!arrivals.iter().any(|at| (1.0..2.0).contains(at)), "nobody comes while the rate is 0");
        let spike = "spike:10-1000:10s".parse::<Schedule>().unwrap();
        assert_eq!(spike.length(), Duration::from_secs(10));
        let per_second = |second: u64| {
            let arrivals = spike.arrivals(Spacing::Even);
            arrivals.iter().filter(|at| at.as_secs() == second).count()
        };
        assert_eq!([0, 1, 9].map(per_second), [10, 1000, 10]);
    }

    #[test]
    fn random_arrivals_keep_the_rate_and_repeat_with_their_seed() {
        let schedule = Schedule::constant(10_000.0, Duration::from_secs(10));
        let arrivals = schedule.arrivals(Spacing::Random { seed: 7 });
        // Three standard deviations of a Poisson count are three roots of it.
        assert!(arrivals.len().abs_diff(100_000) < 950, "{}", arrivals.len());
        assert!(arrivals.is_sorted());
        assert_eq!(arrivals, schedule.arrivals(Spacing::Random { seed: 7 }));
        assert_ne!(arrivals, schedule.arrivals(Spacing::Random { seed: 8 }));
        // Gaps of a Poisson process vary as much as they are long.
        let gaps = arrivals.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 10_000.0).collect::<Vec<_>>();
        let variance = gaps.iter().map(|gap| (gap - 1.0).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn a_trace_is_replayed_as_it_was() {
        let schedule = Schedule::trace("# seconds\n0.5\n0.25, the second column says nothing\n\n2\n").unwrap();
        let expected = [0.25, 0.5, 2.0].map(Duration::from_secs_f64);
        assert_eq!(schedule.arrivals(Spacing::Even), expected);
        assert_eq!(schedule.length(), Duration::from_secs(2));
        for bad in ["", "# nothing", "soon", "-1"] {
            assert!(Schedule::trace(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for bad in [
            "",
            "constant",
            "constant:5",
            "constant:5:0s",
            "constant:5-6:1s",
            "constant:-5:1s",
            "ramp:1-2:-1s",
            "spike:1-2:1s,2:1s",
            "stages:",
            "sometimes:5:1s",
            "constant:2000000:1s",
            "constant:1000000:100s",
        ] {
            assert!(bad.parse::<Schedule>().is_err(), "{bad:?} was taken");
        }
    }
}
