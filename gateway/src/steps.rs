//! Hidden options with which this process counts its steps and dies at one of them, by SIGKILL, as if somebody had pulled the
//! plug there. For the crash tests; see docs/CRASHES.md and engine/src/steps.rs.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use clap::Args;
use doorbuster_engine::steps::{self, STEPS};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::config::BadConfig;

#[derive(Debug, Clone, Args)]
pub struct StepsConfig {
    /// Dies at a step, the n-th time it comes there: STEP=N
    #[arg(long, hide = true, global = true, value_name = "STEP=N")]
    pub die_at: Option<Pass>,
    /// Writes every step into this file, one a line
    #[arg(long, hide = true, global = true, value_name = "PATH")]
    pub steps_file: Option<PathBuf>,
}

/// The n-th passing of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    pub step: &'static str,
    pub number: u32,
}

impl FromStr for Pass {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (step, number) = text.rsplit_once('=').ok_or("it must be STEP=N")?;
        let known = STEPS.iter().find(|known| **known == step);
        let step = known.ok_or_else(|| format!("there is no step {step:?}"))?;
        match number.parse() {
            Ok(number @ 1..) => Ok(Self { step, number }),
            _ => Err("it dies the first time, or a later one".to_owned()),
        }
    }
}

impl StepsConfig {
    /// Listens from now on, if anything was asked for.
    pub fn start(&self) -> Result<(), BadConfig> {
        if self.die_at.is_none() && self.steps_file.is_none() {
            return Ok(());
        }
        let open = |path: &PathBuf| OpenOptions::new().create(true).append(true).open(path);
        let file = self.steps_file.as_ref().map(open).transpose();
        let file = file.map_err(|error| BadConfig(format!("--steps-file: {error}")))?;
        let (die_at, passed) = (self.die_at, AtomicU32::new(0));
        steps::listen(move |step| {
            if let Some(file) = &file {
                note(file, step);
            }
            if let Some(die_at) = die_at
                && die_at.step == step
                && passed.fetch_add(1, Ordering::Relaxed) + 1 == die_at.number
            {
                die();
            }
        });
        Ok(())
    }
}

/// One write of one line, so that what was written before a death is whole.
fn note(mut file: &File, step: &str) {
    // A step that could not be counted is missed by whoever counts.
    let _ = file.write_all(format!("{step}\n").as_bytes());
}

/// Nothing more is done after this step, not even while the signal is on its way.
fn die() -> ! {
    let _ = kill(Pid::this(), Signal::SIGKILL);
    loop {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_a_known_step_and_a_number() {
        assert_eq!("settle.read=2".parse(), Ok(Pass { step: "settle.read", number: 2 }));
        for wrong in ["settle.read", "settle.read=0", "settle.read=", "settle.raed=1", "=1"] {
            assert!(wrong.parse::<Pass>().is_err(), "{wrong}");
        }
    }
}
