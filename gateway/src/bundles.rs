//! The bundles of lines as they are sent: each made once for a state of its line, however many ask for it.
//!
//! A bundle is as long as its line: 55 bytes an entry, 55 MB for a million. While it is made it takes four times that,
//! and reads every entry from Postgres; sending what was made costs nothing. So one is made at a time in the whole
//! process, in a task that goes on should the asker hang up, and then rests for twenty times as long as it took: making
//! bundles takes a twentieth of a core, whoever asks how often. A longer line than [`ENTRIES_MAX`] has no bundle here:
//! the command `doorbuster draw bundle` writes it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::http::HeaderValue;
use bytes::Bytes;
use doorbuster_engine::domain::drops::SaleDrop;
use doorbuster_engine::domain::ids::DropId;
use doorbuster_engine::domain::line::state::LineState;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::flows::line::Board;
use tokio::runtime::Handle;

use crate::anonymous::Anonymous;
use crate::error::Problem;
use crate::etag::etag_of_bytes;

/// A line of so many entries has 55 MB, and takes a gateway some 250 MB while it is made.
const ENTRIES_MAX: u32 = 1_000_000;
/// Bundles that are kept have so many bytes together, or are one: what was made first goes first.
const BYTES_MAX: usize = 128 * 1024 * 1024;
/// After it was made a bundle is sent as it is for so many times the time that it took.
const REST: u32 = 20;
/// And at least for so long.
const REST_MIN: Duration = Duration::from_secs(1);

/// A bundle as it is sent. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownBundle {
    pub body: Bytes,
    pub etag: HeaderValue,
    /// Its line is closed: nothing comes to it any more.
    pub is_final: bool,
}

/// What a bundle depends on: it is another one if this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Of {
    version: u64,
    /// Who joins behind the list does not change the line's version.
    last_number: u32,
}

#[derive(Debug, Clone)]
struct Kept {
    shown: ShownBundle,
    of: Of,
    made_at: Instant,
    took: Duration,
}

/// What is to be done for somebody who asks.
#[derive(Debug, PartialEq, Eq)]
enum Decided {
    Refuse(Problem),
    Show(ShownBundle),
    /// `instead`: what is shown while somebody else makes it.
    Make {
        instead: Option<ShownBundle>,
    },
}

/// Cheap to clone; all clones share one memory.
#[derive(Clone)]
pub struct Bundles(Arc<Shared>);

struct Shared {
    kept: Mutex<HashMap<DropId, Kept>>,
    making: Arc<tokio::sync::Mutex<()>>,
    anonymous: Arc<Anonymous>,
}

impl Bundles {
    pub fn new(anonymous: Arc<Anonymous>) -> Self {
        Self(Arc::new(Shared { kept: Mutex::default(), making: Arc::default(), anonymous }))
    }

    /// The bundle of a drop whose line has this board.
    pub async fn of(&self, engine: &Engine, drop: &SaleDrop, board: &Board) -> Result<ShownBundle, Problem> {
        let instead = match self.decide(drop.id, board) {
            Decided::Refuse(problem) => return Err(problem),
            Decided::Show(shown) => return Ok(shown),
            Decided::Make { instead } => instead,
        };
        let making = match (instead, Arc::clone(&self.0.making).try_lock_owned()) {
            (_, Ok(making)) => making,
            (Some(instead), Err(_)) => return Ok(instead),
            (None, Err(_)) => Arc::clone(&self.0.making).lock_owned().await,
        };
        // Somebody may have made it meanwhile.
        if let Decided::Show(shown) = self.decide(drop.id, board) {
            return Ok(shown);
        }
        let of = Of::line(board);
        let is_final = board.row.line.state == LineState::Closed;
        let (this, engine, id, name) = (self.clone(), engine.clone(), drop.id, drop.name.clone());
        let counted = name.to_string();
        let made = tokio::spawn(async move {
            let began = Instant::now();
            let bundle = {
                let _place = this.0.anonymous.place().await?;
                // Sorting and shuffling a million takes a second, in which this thread could serve nobody else.
                let handle = Handle::current();
                let made = tokio::task::spawn_blocking(move || handle.block_on(engine.line_bundle(&name)));
                made.await.map_err(|_| Problem::Internal)??.map_err(|_| Problem::NotDrawn)?
            };
            let written = tokio::task::spawn_blocking(move || {
                let body = Bytes::from(bundle.to_text());
                ShownBundle { etag: etag_of_bytes(&body), body, is_final }
            });
            let shown = written.await.map_err(|_| Problem::Internal)?;
            metrics::counter!("doorbuster_line_bundles_made_total", "drop" => counted).increment(1);
            let made_at = Instant::now();
            this.keep(id, Kept { shown: shown.clone(), of, made_at, took: made_at - began });
            std::mem::drop(making);
            Ok::<_, Problem>(shown)
        });
        made.await.map_err(|_| Problem::Internal)?
    }

    fn decide(&self, drop: DropId, board: &Board) -> Decided {
        let kept = self.kept();
        decide(Of::line(board), size_of(board), kept.get(&drop), Instant::now())
    }

    fn keep(&self, drop: DropId, new: Kept) {
        let mut kept = self.kept();
        kept.insert(drop, new);
        while kept.len() > 1 && kept.values().map(|kept| kept.shown.body.len()).sum::<usize>() > BYTES_MAX {
            let first = kept.iter().min_by_key(|(_, kept)| kept.made_at).map(|(drop, _)| *drop);
            first.and_then(|first| kept.remove(&first));
        }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<DropId, Kept>> {
        self.0.kept.lock().expect("nobody panics holding this lock")
    }
}

impl Of {
    fn line(board: &Board) -> Self {
        Self { version: board.row.line.version, last_number: board.row.last_number }
    }
}

/// How many entries a bundle has, at most. `None`: nobody's rank is known yet.
fn size_of(board: &Board) -> Option<u32> {
    let sealed = board.row.line.sealed.filter(|_| board.row.line.drawn.is_some())?;
    Some(sealed.count.saturating_add(board.row.last_number.saturating_sub(sealed.number)))
}

fn decide(of: Of, entries: Option<u32>, kept: Option<&Kept>, now: Instant) -> Decided {
    match entries {
        None => return Decided::Refuse(Problem::NotDrawn),
        Some(entries) if entries > ENTRIES_MAX => return Decided::Refuse(Problem::BundleTooLong),
        Some(_) => {}
    }
    match kept {
        Some(kept) if kept.of == of || now < kept.made_at + (kept.took * REST).max(REST_MIN) => {
            Decided::Show(kept.shown.clone())
        }
        kept => Decided::Make { instead: kept.map(|kept| kept.shown.clone()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_made_once_for_each_state_and_rests_in_between() {
        let (began, of) = (Instant::now(), Of { version: 7, last_number: 3 });
        let shown = ShownBundle { body: Bytes::from("{}"), etag: HeaderValue::from_static("\"1\""), is_final: false };
        let kept = |took| Kept { shown: shown.clone(), of, made_at: began, took };
        let (quick, slow) = (kept(Duration::from_millis(1)), kept(Duration::from_secs(4)));
        let (another, joined) = (Of { version: 8, ..of }, Of { last_number: 4, ..of });
        let show = || Decided::Show(shown.clone());
        let make = || Decided::Make { instead: Some(shown.clone()) };
        let cases = [
            ("not drawn", of, None, Some(&quick), 0, Decided::Refuse(Problem::NotDrawn)),
            ("too long", of, Some(ENTRIES_MAX + 1), Some(&quick), 0, Decided::Refuse(Problem::BundleTooLong)),
            ("as long as can be", of, Some(ENTRIES_MAX), None, 0, Decided::Make { instead: None }),
            ("nobody has asked", of, Some(3), None, 0, Decided::Make { instead: None }),
            ("the same, a day later", of, Some(3), Some(&quick), 86_400_000, show()),
            ("another, at once", another, Some(3), Some(&quick), 999, show()),
            ("another", another, Some(3), Some(&quick), 1_000, make()),
            ("somebody has joined", joined, Some(4), Some(&quick), 1_000, make()),
            ("another, which took long", another, Some(3), Some(&slow), 79_999, show()),
            ("another, and it has rested", another, Some(3), Some(&slow), 80_000, make()),
        ];
        for (what, of, entries, kept, passed, expected) in cases {
            let now = began + Duration::from_millis(passed);
            assert_eq!(decide(of, entries, kept, now), expected, "{what}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let bundles = Bundles::new(Arc::default());
        let began = Instant::now();
        let keep = |drop: i32, bytes: usize| {
            let body = Bytes::from(vec![0; bytes]);
            let shown = ShownBundle { body, etag: HeaderValue::from_static("\"1\""), is_final: true };
            let made_at = began + Duration::from_secs(drop.unsigned_abs().into());
            let of = Of { version: 1, last_number: 1 };
            bundles.keep(DropId(drop), Kept { shown, of, made_at, took: Duration::ZERO });
            let mut there = bundles.kept().keys().map(|drop| drop.0).collect::<Vec<_>>();
            there.sort_unstable();
            there
        };
        let half = BYTES_MAX / 2;
        assert_eq!(keep(1, half), [1]);
        assert_eq!(keep(2, half), [1, 2]);
        assert_eq!(keep(3, 1), [2, 3], "the first one goes first");
        assert_eq!(keep(4, BYTES_MAX + 1), [4], "one is always kept");
    }
}
