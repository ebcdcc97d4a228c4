//! Standard error, to which writing may fail: a disk is full, the program that reads us has ended, or it has stopped
//! reading. Then lines are lost and counted, and whoever logs goes on.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::sync::{Mutex, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What a pipe that is ready takes without blocking (PIPE_BUF of Linux).
const PIECE: usize = 4096;
/// How long a reader that is behind is waited for.
const PATIENCE_MS: u16 = 100;

/// Whether the last line was lost: then the next one waits for nobody.
static IS_STUCK: Mutex<bool> = Mutex::new(false);

pub(super) fn write(text: &str) {
    let mut is_stuck = IS_STUCK.lock().unwrap_or_else(PoisonError::into_inner);
    let patience = if *is_stuck { 0 } else { PATIENCE_MS };
    let is_written = text.as_bytes().chunks(PIECE).all(|piece| write_piece(piece, patience));
    *is_stuck = !is_written;
    if !is_written {
        metrics::counter!("doorbuster_log_lines_lost_total").increment(1);
    }
}

fn write_piece(piece: &[u8], patience_ms: u16) -> bool {
    let mut stderr = std::io::stderr();
    let ready = poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(patience_ms));
    // A file is always ready. Where we may not ask, we have to try.
    !matches!(ready, Ok(0)) && stderr.write_all(piece).is_ok()
}
