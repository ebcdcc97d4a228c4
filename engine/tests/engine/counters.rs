//! The engine's own counters, for tests that print them. One recorder for the process: a counter sums over all its tests.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

#[derive(Default)]
struct Counters {
    by_name: Mutex<HashMap<String, Arc<Count>>>,
}

/// What one counter has come to, all labels together.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl CounterFn for Count {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::SeqCst);
    }

    fn absolute(&self, value: u64) {
        self.0.fetch_max(value, Ordering::SeqCst);
    }
}

impl Counters {
    fn named(&self, name: &str) -> Arc<Count> {
        Arc::clone(self.by_name.lock().unwrap().entry(name.to_owned()).or_default())
    }
}

impl Recorder for Counters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.named(key.name()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// The counter of this name, from the first call of this function on.
pub(crate) fn counter(name: &str) -> Arc<Count> {
    static COUNTERS: OnceLock<Arc<Counters>> = OnceLock::new();
    let counters = COUNTERS.get_or_init(|| {
        let counters = Arc::new(Counters::default());
        metrics::set_global_recorder(Arc::clone(&counters)).expect("nobody else records in a test");
        counters
    });
    counters.named(name)
}
