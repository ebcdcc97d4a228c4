//! What commands answer: text on stdout, for people and pipes. The one place where commands print.
//!
//! Whoever reads may stop reading (`| head -1`). That is their choice, and no failure: from then on nothing is
//! printed, and the command goes on and ends as it would have. An answer that cannot be written for another reason,
//! such as a full disk, is a failure, which [`check`] tells at the end.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};
use std::sync::OnceLock;

use clap::Args;
use serde_json::Value;

/// In which form a command answers. Every command that prints data takes it, and says both forms at once.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Format {
    /// Prints JSON
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
}

impl Format {
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    pub(crate) fn answer<T: Display>(self, json: impl FnOnce() -> Value, text: impl FnOnce() -> T) {
        match self.json {
            true => print(format_args!("{:#}", json())),
            false => print(text()),
        }
    }
}

/// The first write that failed.
static FAILED: OnceLock<io::Error> = OnceLock::new();

pub(crate) fn print(text: impl Display) {
    write(format_args!("{text}\n"));
}

/// As it is, without an end of line.
pub(crate) fn write(text: std::fmt::Arguments<'_>) {
    if FAILED.get().is_some() {
        return;
    }
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_fmt(text).and_then(|()| out.flush()) {
        // Only the first one matters, and nobody can have set it since.
        let _ = FAILED.set(error);
    }
}

/// Whether somebody may still read what is printed.
pub(crate) fn is_read() -> bool {
    FAILED.get().is_none()
}

/// Whether everything was written that anybody wanted to read.
pub fn check() -> Result<(), anyhow::Error> {
    match FAILED.get() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(anyhow::anyhow!("it was done, but the answer could not be written: {error}"))
        }
        _ => Ok(()),
    }
}
