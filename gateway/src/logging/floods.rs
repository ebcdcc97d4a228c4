//! Of each place in the code and each cause, one line a second. The first comes at once; those behind it within the
//! second are counted, and the last of them comes with the count when the second is over.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;

use super::line::Line;

const ONE_LINE_EVERY: Duration = Duration::from_secs(1);
/// Causes kept apart. Whatever comes on top shares a line with the other causes of its place, of which there are only
/// as many as there are in the code.
const CAUSES_MAX: usize = 1_000;

/// A place in the code, and what it says is the cause.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    place: Identifier,
    cause: Option<u64>,
}

impl Key {
    pub(super) fn new(place: Identifier, cause: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        cause.hash(&mut hasher);
        Self { place, cause: Some(hasher.finish()) }
    }
}

#[derive(Default)]
pub(super) struct Floods(Mutex<HashMap<Key, Flood>>);

struct Flood {
    /// When the second ends that the last line has begun.
    until: Instant,
    held_back: u64,
    last: Option<Line>,
}

impl Floods {
    /// Whether `line` is written now. Otherwise it is counted, and kept as the last of its kind.
    pub(super) fn may_pass(&self, key: Key, line: &Line, now: Instant) -> bool {
        let mut floods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = floods.contains_key(&key);
        let key = if is_known || floods.len() < CAUSES_MAX { key } else { Key { cause: None, ..key } };
        match floods.get_mut(&key) {
            Some(flood) if now < flood.until || flood.held_back > 0 => {
                flood.held_back += 1;
                flood.last = Some(line.clone());
                false
            }
            _ => {
                floods.insert(key, Flood { until: now + ONE_LINE_EVERY, held_back: 0, last: None });
                true
            }
        }
    }

    /// The lines whose second is over at `now`, with their counts; all that are held back without one.
    pub(super) fn due(&self, now: Option<Instant>) -> Vec<Line> {
        let mut due = Vec::new();
        let mut floods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        floods.retain(|_, flood| {
            if now.is_some_and(|now| now < flood.until) {
                return true;
            }
            let Some(last) = flood.last.take() else { return false };
            due.push(last.counted(flood.held_back));
            flood.held_back = 0;
            flood.until += ONE_LINE_EVERY;
            if let Some(now) = now {
                flood.until = flood.until.max(now);
            }
            true
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use tracing::{Callsite as _, Level};

    use super::super::line::Fields;
    use super::*;

    fn place() -> Identifier {
        tracing::callsite! { name: "here", kind: tracing::metadata::Kind::EVENT, fields: message }.metadata().callsite()
    }

    fn line(message: &str) -> Line {
        Line::new(Level::WARN, "here", None, Fields::of_message(message))
    }

    #[test]
    fn a_flood_is_one_line_a_second_and_every_line_of_it_is_counted() {
        let (floods, begin) = (Floods::default(), Instant::now());
        let place = place();
        let say = |cause: &str, ms: u64| {
            floods.may_pass(Key::new(place.clone(), cause), &line(cause), begin + Duration::from_millis(ms))
        };
        let due = |ms: u64| {
            let lines = floods.due(Some(begin + Duration::from_millis(ms)));
            let text = |line: &Line| line.text(false).split_once("here: ").unwrap().1.trim_end().to_owned();
            lines.iter().map(text).collect::<Vec<_>>()
        };
        assert!(say("away", 0), "the first one at once");
        assert!(say("full", 1), "another cause has a line of its own");
        assert_eq!((1..1_000).filter(|ms| say("away", *ms)).count(), 0);
        assert_eq!(due(999), Vec::<String>::new());
        assert_eq!(due(1_001), ["away held_back=999"]);
        assert!(!say("away", 1_500), "its next second has begun");
        assert_eq!(due(1_999), Vec::<String>::new());
        assert_eq!(due(2_100), ["away held_back=1"]);
        assert_eq!(due(3_200), Vec::<String>::new());
        assert!(say("away", 5_000), "it is over, so the next one is the first");
        assert!(!say("away", 5_001));
        assert_eq!(floods.due(None).len(), 1, "what is held back is written before the end");
    }

    #[test]
    fn causes_without_number_share_a_line() {
        let (floods, now, place) = (Floods::default(), Instant::now(), place());
        let passed = (0..10_000).filter(|number| {
            let cause = number.to_string();
            floods.may_pass(Key::new(place.clone(), &cause), &line(&cause), now)
        });
        assert_eq!(passed.count(), CAUSES_MAX + 1);
    }
}
