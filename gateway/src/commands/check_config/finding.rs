//! What one look came to: a verdict and a sentence. How bad all of them are together decides the exit code.

use std::fmt;

use serde_json::{Value, json};

use crate::exit::Exit;

/// In the order of how much they matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// It was seen, and is as it should be.
    Ok,
    /// A sale would not fail of it.
    Warning,
    /// It cannot be seen from here, now or later.
    Unseen,
    /// It could not be seen, because something did not answer.
    NoAnswer,
    /// A sale would fail, or what it says to buyers and to the shop would not arrive.
    Wrong,
    /// A setting that no command can use.
    Unusable,
}

impl Verdict {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "WARNING",
            Self::Unseen | Self::NoAnswer => "unknown",
            Self::Wrong | Self::Unusable => "WRONG",
        }
    }

    pub(super) fn exit(self) -> Exit {
        match self {
            Self::Ok | Self::Warning | Self::Unseen => Exit::Done,
            Self::NoAnswer => Exit::TryAgain,
            Self::Wrong => Exit::Refused,
            Self::Unusable => Exit::Configuration,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) name: String,
    pub(super) verdict: Verdict,
    pub(super) sentence: String,
}

impl Finding {
    pub(super) fn new(name: impl Into<String>, verdict: Verdict, sentence: impl Into<String>) -> Self {
        Self { name: name.into(), verdict, sentence: sentence.into() }
    }

    pub(super) fn ok(name: impl Into<String>, sentence: impl Into<String>) -> Self {
        Self::new(name, Verdict::Ok, sentence)
    }

    pub(super) fn warning(name: impl Into<String>, sentence: impl Into<String>) -> Self {
        Self::new(name, Verdict::Warning, sentence)
    }

    pub(super) fn unseen(name: impl Into<String>, sentence: impl Into<String>) -> Self {
        Self::new(name, Verdict::Unseen, sentence)
    }

    pub(super) fn no_answer(name: impl Into<String>, sentence: impl Into<String>) -> Self {
        Self::new(name, Verdict::NoAnswer, sentence)
    }

    pub(super) fn wrong(name: impl Into<String>, sentence: impl Into<String>) -> Self {
        Self::new(name, Verdict::Wrong, sentence)
    }

    pub(super) fn unusable(name: impl Into<String>, bad: &impl fmt::Display) -> Self {
        Self::new(name, Verdict::Unusable, bad.to_string())
    }

    /// Of a store: away, it may come back; anything else stays as it is until somebody mends it.
    pub(super) fn failed(name: impl Into<String>, error: &impl fmt::Display, is_retryable: bool) -> Self {
        let (name, error) = (name.into(), error.to_string());
        // Errors of stores begin with whose they are.
        let sentence = error.strip_prefix(&format!("{name}: ")).unwrap_or(&error).to_owned();
        Self::new(name, if is_retryable { Verdict::NoAnswer } else { Verdict::Wrong }, sentence)
    }

    pub(super) fn as_json(&self) -> Value {
        json!({ "check": self.name, "verdict": self.verdict.word().to_lowercase(), "sentence": self.sentence })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<7}  {}: {}", self.verdict.word(), self.name, self.sentence)
    }
}

/// The worst of them.
pub(super) fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok)
}

#[cfg(test)]
mod tests {
    use super::Verdict::{NoAnswer, Ok, Unseen, Unusable, Warning, Wrong};
    use super::*;

    #[test]
    fn the_exit_code_is_that_of_the_worst_finding() {
        for (verdicts, exit) in [
            (vec![], Exit::Done),
            (vec![Ok, Warning, Unseen], Exit::Done),
            (vec![NoAnswer, Ok, Warning], Exit::TryAgain),
            (vec![Wrong, NoAnswer, Ok], Exit::Refused),
            (vec![Ok, Wrong, Unusable, NoAnswer], Exit::Configuration),
        ] {
            let findings = verdicts.iter().map(|verdict| Finding::new("it", *verdict, "")).collect::<Vec<_>>();
            assert_eq!(worst(&findings).exit(), exit, "{verdicts:?}");
        }
    }

    #[test]
    fn a_line_begins_with_its_verdict() {
        let line = |verdict| Finding::new("Redis", verdict, "it is there").to_string();
        assert_eq!(line(Ok), "ok       Redis: it is there");
        assert_eq!(line(Warning), "WARNING  Redis: it is there");
        assert_eq!(line(NoAnswer), "unknown  Redis: it is there");
        assert_eq!(line(Unusable), "WRONG    Redis: it is there");
    }
}
