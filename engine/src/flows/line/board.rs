//! The board: what everybody sees of a line. Each process reads it at most once a second, however many look.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::domain::drops::SaleDrop;
use crate::domain::ids::DropId;
use crate::flows::engine::{Engine, EngineError};
use crate::ledger::line::BoardRow;

/// A board is as old as this at most, while Postgres answers.
const FRESH: Duration = Duration::from_secs(1);
/// A board that is older than this is shown to nobody.
const STALE: Duration = Duration::from_secs(10);

/// What a board of some age is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// For everybody.
    Fresh,
    /// For those who come while it is read anew, or while Postgres gives no answer.
    LastResort,
    /// For nobody: who looks is told to come again.
    TooOld,
}

fn age(of: Duration) -> Age {
    match of {
        _ if of < FRESH => Age::Fresh,
        _ if of < STALE => Age::LastResort,
        _ => Age::TooOld,
    }
}

/// A line as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Board {
    pub row: BoardRow,
    pub read_at: Timestamp,
}

/// The board of one drop in this process.
#[derive(Default)]
pub struct BoardOf {
    shown: std::sync::RwLock<Option<(Arc<Board>, Instant)>>,
    /// Held by whoever reads it anew.
    reading: tokio::sync::Mutex<()>,
}

impl Engine {
    /// The board of a drop's line. `None`: it has none. Who comes while it is read anew gets the last one; an error only when that
    /// is too old.
    pub async fn board(&self, drop: &SaleDrop) -> Result<Option<Arc<Board>>, EngineError> {
        if !drop.admission.has_line() {
            return Ok(None);
        }
        let of = self.board_of(drop.id);
        let last = of.last();
        if let Some((board, at)) = &last
            && age(at.elapsed()) == Age::Fresh
        {
            return Ok(Some(Arc::clone(board)));
        }
        // One of those who come reads it; the others are not kept waiting while the last one will do.
        let reading = match (&last, of.reading.try_lock()) {
            (_, Ok(reading)) => reading,
            (Some((board, at)), Err(_)) if age(at.elapsed()) != Age::TooOld => return Ok(Some(Arc::clone(board))),
            (_, Err(_)) => of.reading.lock().await,
        };
        if let Some((board, at)) = of.last()
            && age(at.elapsed()) == Age::Fresh
        {
            return Ok(Some(board));
        }
        let began = Instant::now();
        let read = self.ledger.line_board(drop.id).await;
        metrics::counter!("doorbuster_line_board_reads_total", "drop" => drop.name.as_str().to_owned()).increment(1);
        let answer = match (read, last) {
            (Ok(None), _) => Ok(None),
            (Ok(Some(row)), _) => {
                let board = Arc::new(Board { row, read_at: self.clock.now() });
                *of.shown.write().expect("nobody panics holding this lock") = Some((Arc::clone(&board), began));
                Ok(Some(board))
            }
            (Err(_), Some((board, at))) if age(at.elapsed()) != Age::TooOld => Ok(Some(board)),
            (Err(error), _) => Err(error.into()),
        };
        // Until here nobody else reads it.
        std::mem::drop(reading);
        answer
    }

    fn board_of(&self, drop: DropId) -> Arc<BoardOf> {
        if let Some(of) = self.boards.read().expect("nobody panics holding this lock").get(&drop) {
            return Arc::clone(of);
        }
        Arc::clone(self.boards.write().expect("nobody panics holding this lock").entry(drop).or_default())
    }
}

impl BoardOf {
    fn last(&self) -> Option<(Arc<Board>, Instant)> {
        self.shown.read().expect("nobody panics holding this lock").clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_is_read_once_a_second_and_never_shown_after_ten() {
        for (ms, expected) in [
            (0, Age::Fresh),
            (999, Age::Fresh),
            (1_000, Age::LastResort),
            (9_999, Age::LastResort),
            (10_000, Age::TooOld),
        ] {
            assert_eq!(age(Duration::from_millis(ms)), expected, "{ms} ms");
        }
    }
}
