//! Pages of the catalog as of a second ago, each read once however many ask for it.
//!
//! The first who asks for a page that is not known begins to read it, in a task that goes on should they hang up;
//! everybody else waits for that reading, also for its failure. What was read is kept for a second, with its tag. The
//! memory is bounded: the page that was read first goes first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use doorbuster_engine::domain::countries::Country;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::anonymous::Anonymous;
use crate::error::Problem;
use crate::etag::{IfNoneMatch, etag_of_bytes};

/// How long a page is shown as it was.
const FRESH: Duration = Duration::from_secs(1);
/// Pages that are remembered, those that are just being read among them.
const PAGES_MAX: usize = 256;
/// What they have together: fifty of the largest pages of a catalog with large products.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// What is asked for: two that are equal get the same answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageKey {
    /// Products behind this one, so many.
    Products {
        after: Option<i32>,
        count: i64,
        /// With what they cost there.
        to: Option<Country>,
    },
    Product(i32, Option<Country>),
}

/// A page with its tag. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Page {
    bytes: Bytes,
    etag: HeaderValue,
}

/// Cheap to clone; all clones share one memory.
#[derive(Clone, Default)]
pub struct Pages(Arc<Shared>);

#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
    anonymous: Arc<Anonymous>,
}

#[derive(Default)]
struct Known {
    pages: HashMap<PageKey, Entry>,
    /// Readings so far: their numbers say which one is older.
    readings: u64,
    bytes: usize,
}

struct Entry {
    reading: u64,
    /// `None` as long as it is being read.
    read: watch::Receiver<Option<Reading>>,
    bytes: usize,
}

/// How a reading ended.
#[derive(Debug, Clone)]
struct Reading {
    at: Instant,
    page: Result<Page, Problem>,
}

impl Page {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { etag: etag_of_bytes(&bytes), bytes: bytes.into() }
    }

    /// The page as an answer, or 304 for somebody who has it.
    pub fn answer(self, known: &IfNoneMatch) -> Response {
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (CACHE_CONTROL, HeaderValue::from_static("public, max-age=1")),
        ];
        known.answer(self.etag, (headers, self.bytes))
    }
}

impl Pages {
    pub fn new(anonymous: Arc<Anonymous>) -> Self {
        Self(Arc::new(Shared { known: Mutex::default(), anonymous }))
    }

    /// The page of this key. `read` is what reads it, should nobody have read it within the last second.
    pub async fn page<R>(&self, key: PageKey, read: R) -> Result<Page, Problem>
    where
        R: Future<Output = Result<Page, Problem>> + Send + 'static,
    {
        let mut reading = self.reading(key, read);
        let ended = reading.wait_for(Option::is_some).await;
        // Nobody reads any more only if reading has panicked.
        let ended = ended.map_err(|_| Problem::Unavailable)?;
        ended.as_ref().map_or(Err(Problem::Unavailable), |ended| ended.page.clone())
    }

    /// The reading of this page that is under way or a second old at most, or a new one.
    fn reading<R>(&self, key: PageKey, read: R) -> watch::Receiver<Option<Reading>>
    where
        R: Future<Output = Result<Page, Problem>> + Send + 'static,
    {
        let mut known = self.known();
        if let Some(entry) = known.pages.get(&key).filter(|entry| entry.is_good()) {
            return entry.read.clone();
        }
        let (tell, told) = watch::channel(None);
        known.readings += 1;
        let reading = known.readings;
        let entry = Entry { reading, read: told.clone(), bytes: 0 };
        if let Some(old) = known.pages.insert(key, entry) {
            known.bytes -= old.bytes;
        }
        known.keep_bounds();
        drop(known);
        let pages = self.clone();
        tokio::spawn(async move {
            let page = match pages.0.anonymous.place().await {
                Ok(_place) => read.await,
                Err(busy) => Err(busy),
            };
            pages.count(key, reading, page.as_ref().map_or(0, |page| page.bytes.len()));
            tell.send_replace(Some(Reading { at: Instant::now(), page }));
        });
        told
    }

    /// Counts what has been read, unless the memory has let go of it.
    fn count(&self, key: PageKey, reading: u64, bytes: usize) {
        let mut known = self.known();
        if let Some(entry) = known.pages.get_mut(&key).filter(|entry| entry.reading == reading) {
            entry.bytes = bytes;
            known.bytes += bytes;
            known.keep_bounds();
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().expect("nobody panics holding this lock")
    }
}

impl Entry {
    /// Whether those who ask now may have what it says: it is being read, or has just been. That there is no such
    /// product is said for a second too; any other failure is for those who have waited for it, and nobody else.
    fn is_good(&self) -> bool {
        match &*self.read.borrow() {
            Some(Reading { at, page: Ok(_) | Err(Problem::ProductNotFound) }) => at.elapsed() < FRESH,
            Some(_) => false,
            // A reading that panicked never ends.
            None => self.read.has_changed().is_ok(),
        }
    }
}

impl Known {
    /// Lets go of the oldest readings until what is left has room. Whoever waits for one of them gets it all the same.
    fn keep_bounds(&mut self) {
        while self.pages.len() > PAGES_MAX || self.bytes > BYTES_MAX {
            let oldest = self.pages.iter().min_by_key(|(_, entry)| entry.reading).map(|(key, _)| *key);
            let Some(gone) = oldest.and_then(|key| self.pages.remove(&key)) else { return };
            self.bytes -= gone.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;
    use crate::anonymous::STATEMENTS_MAX;

    /// Reads pages slowly, and counts how often, and how many at a time.
    #[derive(Clone, Default)]
    struct Slow {
        reads: Arc<AtomicUsize>,
        now: Arc<AtomicUsize>,
        most: Arc<AtomicUsize>,
    }

    const SLOW: Duration = Duration::from_millis(100);

    impl Slow {
        fn read(&self, bytes: usize) -> impl Future<Output = Result<Page, Problem>> + Send + 'static {
            let slow = self.clone();
            async move {
                slow.reads.fetch_add(1, Ordering::SeqCst);
                slow.most.fetch_max(1 + slow.now.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                tokio::time::sleep(SLOW).await;
                slow.now.fetch_sub(1, Ordering::SeqCst);
                Ok(Page::new(vec![b'x'; bytes]))
            }
        }

        fn reads(&self) -> usize {
            self.reads.load(Ordering::SeqCst)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_is_read_once_a_second_however_many_ask() {
        let (pages, slow) = (Pages::default(), Slow::default());
        let key = PageKey::Product(1, None);
        for second in 1..=3 {
            let answers = join_all((0..100).map(|_| pages.page(key, slow.read(10)))).await;
            assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|page| page.bytes.len() == 10)));
            assert_eq!(slow.reads(), second);
            tokio::time::advance(FRESH - Duration::from_millis(1)).await;
            pages.page(key, slow.read(10)).await.unwrap();
            assert_eq!(slow.reads(), second, "not yet a second old");
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        pages.page(PageKey::Product(2, None), slow.read(10)).await.unwrap();
        pages.page(PageKey::Products { after: None, count: 21, to: None }, slow.read(10)).await.unwrap();
        assert_eq!(slow.reads(), 5, "each key by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn who_hangs_up_neither_stops_a_reading_nor_makes_another_one_begin() {
        let (pages, slow) = (Pages::default(), Slow::default());
        let key = PageKey::Product(1, None);
        for _ in 0..50 {
            let gone = tokio::time::timeout(Duration::from_millis(1), pages.page(key, slow.read(10))).await;
            assert!(gone.is_err());
        }
        pages.page(key, slow.read(10)).await.unwrap();
        assert_eq!((slow.reads(), slow.most.load(Ordering::SeqCst)), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn few_pages_are_read_at_a_time_and_who_waits_too_long_is_told() {
        let (pages, slow) = (Pages::default(), Slow::default());
        let answers = join_all((0..100).map(|id| pages.page(PageKey::Product(id, None), slow.read(10)))).await;
        assert_eq!(slow.most.load(Ordering::SeqCst), STATEMENTS_MAX);
        let read = answers.iter().filter(|answer| answer.is_ok()).count();
        let told = answers.iter().filter(|answer| matches!(answer, Err(Problem::Overloaded))).count();
        // Ten rounds of a tenth of a second, and perhaps those that ended as the wait did.
        assert!((40..=44).contains(&read) && read + told == 100, "{read} were read, {told} told to come back");
        pages.page(PageKey::Product(99, None), slow.read(10)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_for_those_who_waited_for_it() {
        let (pages, slow) = (Pages::default(), Slow::default());
        let key = PageKey::Product(1, None);
        let reads = Arc::new(AtomicUsize::new(0));
        let fail = |problem: Problem| {
            let reads = Arc::clone(&reads);
            async move {
                reads.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(SLOW).await;
                Err(problem)
            }
        };
        let answers = join_all((0..10).map(|_| pages.page(key, fail(Problem::Unavailable)))).await;
        assert!(answers.iter().all(|answer| matches!(answer, Err(Problem::Unavailable))));
        assert_eq!(reads.load(Ordering::SeqCst), 1);
        pages.page(key, slow.read(10)).await.unwrap();
        // That there is nothing is an answer, for as long as any other.
        let nothing = PageKey::Product(3, None);
        for _ in 0..10 {
            let answer = pages.page(nothing, fail(Problem::ProductNotFound)).await;
            assert!(matches!(answer, Err(Problem::ProductNotFound)));
        }
        assert_eq!(reads.load(Ordering::SeqCst), 2);
        tokio::time::advance(FRESH).await;
        pages.page(nothing, slow.read(10)).await.unwrap();
        // A reading that panics is neither waited for nor kept.
        let other = PageKey::Product(2, None);
        let panics = async { panic!("this test wants it") };
        assert!(matches!(pages.page(other, panics).await, Err(Problem::Unavailable)));
        pages.page(other, slow.read(10)).await.unwrap();
    }

    /// Pages and bytes that are remembered.
    fn size(pages: &Pages) -> (usize, usize) {
        let known = pages.known();
        (known.pages.len(), known.bytes)
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_has_room_for_so_many_pages_and_bytes() {
        let (pages, slow) = (Pages::default(), Slow::default());
        let large = BYTES_MAX / 4;
        for id in 0..6 {
            pages.page(PageKey::Product(id, None), slow.read(large)).await.unwrap();
        }
        assert_eq!(size(&pages), (4, 4 * large));
        assert!(!pages.known().pages.contains_key(&PageKey::Product(1, None)), "the oldest went first");
        pages.page(PageKey::Product(9, None), slow.read(BYTES_MAX + 1)).await.unwrap();
        assert_eq!(size(&pages), (0, 0), "too large for any memory");
        for id in 0..2 * PAGES_MAX as i32 {
            pages.page(PageKey::Product(id, None), slow.read(1)).await.unwrap();
        }
        assert_eq!(size(&pages), (PAGES_MAX, PAGES_MAX));
    }
}
