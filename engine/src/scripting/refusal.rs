//! What an error proves: did Redis do nothing of what it was sent, or does nobody know?
//!
//! Redis looks at its memory, disk, role and replicas before it runs a script, and a script that has written is not
//! stopped by any of them. So an error of these kinds proves that this very send did nothing. It proves nothing about
//! an earlier send of the same command: who sends again has to know that every one was refused.

use redis::{ErrorKind, RedisError};

/// Why Redis did nothing of what it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There was no connection to send it on.
    NotConnected,
    OutOfMemory,
    DiskFailed,
    Replica,
    TooFewReplicas,
    Loading,
    Busy,
    /// A part of a cluster without a primary, or whose slots are being moved.
    NoPrimary,
}

impl Refusal {
    /// The first word of an error that the server answers.
    pub(crate) fn of_code(code: &str) -> Option<Self> {
        Some(match code {
            "OOM" => Self::OutOfMemory,
            "MISCONF" => Self::DiskFailed,
            "READONLY" | "MASTERDOWN" => Self::Replica,
            "NOREPLICAS" => Self::TooFewReplicas,
            "LOADING" => Self::Loading,
            "BUSY" => Self::Busy,
            "CLUSTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK" => Self::NoPrimary,
            _ => return None,
        })
    }

    /// `None`: what was sent may have been executed.
    pub(crate) fn of(error: &RedisError) -> Option<Self> {
        match error.kind() {
            ErrorKind::ClusterConnectionNotFound => Some(Self::NotConnected),
            // Only whoever connects can be refused in this way; see `server.rs` for those who fail otherwise.
            _ if error.is_connection_refusal() => Some(Self::NotConnected),
            _ => error.code().and_then(Self::of_code),
        }
    }

    /// What is wrong with Redis, and what to do, for an operator.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NotConnected => "it cannot be reached",
            Self::OutOfMemory => "its memory is full (maxmemory): give it more, or take out what is not ours",
            Self::DiskFailed => "it cannot write to its disk: its own log says why",
            Self::Replica => "it is a replica: point us at the primary",
            Self::TooFewReplicas => "fewer replicas are linked than its min-replicas-to-write asks for",
            Self::Loading => "it is still reading its data from disk",
            Self::Busy => "a script keeps it busy",
            Self::NoPrimary => "a part of the cluster has no primary, or its slots are being moved",
        }
    }
}

/// As an operator reads it, of the Redis that is called `who`.
pub(crate) fn describe(who: &str, why: Refusal, error: &RedisError) -> String {
    match (why, error.code()) {
        (Refusal::NotConnected, _) => format!("{who} cannot be reached: {error}"),
        (_, code) => format!("{who} refuses what is written: {} ({})", why.sentence(), code.unwrap_or("no code")),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn only_an_answer_given_before_the_script_ran_proves_that_nothing_was_done() {
        let answered = |line: &str| {
            let (code, detail) = line.split_once(' ').unwrap();
            redis::make_extension_error(code.to_owned(), Some(detail.to_owned()))
        };
        let io = |kind: io::ErrorKind| RedisError::from(io::Error::from(kind));
        for (error, proves) in [
            (answered("OOM allow-oom flag is not set on the script"), Some(Refusal::OutOfMemory)),
            (answered("MISCONF Redis is configured to save RDB snapshots"), Some(Refusal::DiskFailed)),
            (answered("READONLY You can't write against a read only replica."), Some(Refusal::Replica)),
            (answered("MASTERDOWN Link with MASTER is down"), Some(Refusal::Replica)),
            (answered("NOREPLICAS Not enough good replicas to write."), Some(Refusal::TooFewReplicas)),
            (answered("LOADING Redis is loading the dataset in memory"), Some(Refusal::Loading)),
            (answered("BUSY Redis is busy running a script."), Some(Refusal::Busy)),
            (answered("CLUSTERDOWN Hash slot not served"), Some(Refusal::NoPrimary)),
            (answered("TRYAGAIN Multiple keys request during rehashing of slot"), Some(Refusal::NoPrimary)),
            ((ErrorKind::ClusterConnectionNotFound, "no connection").into(), Some(Refusal::NotConnected)),
            (io(io::ErrorKind::ConnectionRefused), Some(Refusal::NotConnected)),
            // A script that failed half-way, or that may not do one of the things it does.
            (answered("ERR user_script:12: attempt to index a nil value"), None),
            (answered("NOPERM User has no permissions to run the 'xadd' command"), None),
            (answered("WRONGTYPE Operation against a key holding the wrong kind of value"), None),
            (answered("UNKNOWN a code that nobody has heard of"), None),
            // No answer at all.
            (io(io::ErrorKind::TimedOut), None),
            (io(io::ErrorKind::BrokenPipe), None),
            (io(io::ErrorKind::ConnectionReset), None),
            (io(io::ErrorKind::UnexpectedEof), None),
            ((ErrorKind::Parse, "no RESP").into(), None),
        ] {
            assert_eq!(Refusal::of(&error), proves, "{error}");
        }
    }
}
