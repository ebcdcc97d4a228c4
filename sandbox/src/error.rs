//! What can go wrong while starting, stopping and asking private servers.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why a sandbox or a server in it is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// One sentence that says what to install, or which variable to set.
    #[error(
        "{program} was not found{place}: install it (Debian: apt install {package}; macOS: brew install {formula}) \
         or set {variable} to its path"
    )]
    ProgramMissing {
        program: &'static str,
        /// Empty, or where the variable said it would be.
        place: String,
        package: &'static str,
        formula: &'static str,
        variable: &'static str,
    },
    #[error("the folder {} is in use by another sandbox", folder.display())]
    FolderInUse { folder: PathBuf },
    #[error("Postgres refuses to run as root, and there is neither a user postgres nor a user nobody to run it as")]
    NoUserForPostgres,
    #[error("{program} ended while starting ({status}); its last lines:\n{log}")]
    Ended { program: &'static str, status: ExitStatus, log: String },
    #[error("{program} was not ready after {waited:?} ({reason}); its last lines:\n{log}")]
    NotReady { program: &'static str, waited: Duration, reason: String, log: String },
    #[error("{what} did not get that far in {waited:?}: {reason}")]
    NotTogether { what: &'static str, waited: Duration, reason: String },
    #[error("{program} found its port taken {attempts} times in a row, the last one was {port}")]
    PortTaken { program: &'static str, attempts: u32, port: u16 },
    #[error("{program} did not end {waited:?} after it was asked to, and was killed; its last lines:\n{log}")]
    KilledWhileStopping { program: &'static str, waited: Duration, log: String },
    #[error("a database name has 1 to 63 characters of a-z, 0-9 and _, which {name:?} has not")]
    DatabaseName { name: String },
    #[error("creating the database {name}")]
    CreateDatabase { name: String, source: tokio_postgres::Error },
    #[error("filling the database {name}")]
    FillDatabase { name: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{doing}")]
    Io { doing: String, source: io::Error },
}

/// Adds to an [`io::Error`] what we were doing.
pub(crate) trait While<T> {
    fn during(self, doing: &str) -> Result<T, SandboxError>;
}

impl<T> While<T> for io::Result<T> {
    fn during(self, doing: &str) -> Result<T, SandboxError> {
        self.map_err(|source| SandboxError::Io { doing: doing.to_owned(), source })
    }
}
