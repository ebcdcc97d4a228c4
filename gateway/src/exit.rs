//! How the program ends: five exit codes, which scripts may rely on. `docs/CLI.md` and `--help` have the same table.

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use doorbuster_engine::carts::CartError;
use doorbuster_engine::flows::EngineError;
use doorbuster_engine::ledger::LedgerError;
use doorbuster_engine::tokens::TokenError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    Refused,
    Usage,
    Configuration,
    TryAgain,
}

impl Exit {
    pub const ALL: [Self; 5] = [Self::Done, Self::Refused, Self::Usage, Self::Configuration, Self::TryAgain];

    /// 64 and 75 are `EX_USAGE` and `EX_TEMPFAIL` of sysexits.h; 2 is what most programs answer to a wrong command
    /// line.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Refused => 1,
            Self::Usage => 2,
            Self::Configuration => 64,
            Self::TryAgain => 75,
        }
    }

    pub fn about(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused or failed",
            Self::Usage => "the command line is wrong: a command, a flag or an argument",
            Self::Configuration => "a setting is missing or cannot be used: whatever has a DOORBUSTER_… variable",
            Self::TryAgain => "try again: a store is away or busy, and the same command may succeed later",
        }
    }

    /// Of a command that could not be carried out.
    pub fn of(error: &anyhow::Error) -> Self {
        if error.chain().any(is_retryable) { Self::TryAgain } else { Self::Refused }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Each error knows by itself whether the same call may succeed later.
fn is_retryable(cause: &(dyn Error + 'static)) -> bool {
    cause.downcast_ref().is_some_and(EngineError::is_retryable)
        || cause.downcast_ref().is_some_and(LedgerError::is_retryable)
        || cause.downcast_ref().is_some_and(TokenError::is_retryable)
        || cause.downcast_ref().is_some_and(CartError::is_retryable)
}

/// What stands below `doorbuster --help`.
pub fn help() -> String {
    let mut text = "Every flag with an [env: …] is also read from that variable; a flag wins over its variable.\n\n\
                    Exit codes:"
        .to_owned();
    for exit in Exit::ALL {
        write!(text, "\n  {:>2}  {}", exit.code(), exit.about()).expect("a text takes what is written to it");
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_store_that_is_away_is_told_from_a_refusal_however_deep_the_error_lies() {
        let busy = || anyhow::Error::new(EngineError::Moving);
        let away = EngineError::from(LedgerError::CutOff);
        let wrong = EngineError::from(LedgerError::Migration("V1".to_owned()));
        for (error, expected) in [
            (anyhow::anyhow!("there is no such order"), Exit::Refused),
            (busy(), Exit::TryAgain),
            (busy().context("it could not be done").context("really"), Exit::TryAgain),
            (anyhow::Error::new(away), Exit::TryAgain),
            (anyhow::Error::new(LedgerError::CutOff).context("Postgres gave no answer"), Exit::TryAgain),
            (anyhow::Error::new(TokenError::Overloaded).context("Redis cannot be asked"), Exit::TryAgain),
            (anyhow::Error::new(TokenError::Stale), Exit::Refused),
            (Err::<(), _>(wrong).context("the database cannot be brought up to date").unwrap_err(), Exit::Refused),
        ] {
            assert_eq!(Exit::of(&error), expected, "{error:#}");
        }
    }

    #[test]
    fn the_guide_has_every_exit_code() {
        let guide = include_str!("../../docs/CLI.md");
        for exit in Exit::ALL {
            let row = format!("| {} | {} |", exit.code(), exit.about());
            assert!(guide.contains(&row), "docs/CLI.md has no line {row}");
        }
    }
}
