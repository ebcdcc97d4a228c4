//! How far a long piece of work is, for somebody who waits for it. Whoever works tells; nobody has to listen.

use std::fmt;
use std::sync::Arc;

/// One reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What is counted, for people: "units made".
    pub what: &'static str,
    pub done: u64,
    /// `None`: nobody knows how much there is.
    pub of: Option<u64>,
}

/// Where it is told to. Cheap to clone; the default is nobody.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<dyn Fn(Step) + Send + Sync>>);

impl Progress {
    pub fn to(listener: impl Fn(Step) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    pub fn tell(&self, what: &'static str, done: u64, of: Option<u64>) {
        if let Some(listener) = &self.0 {
            listener(Step { what, done, of });
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Progress(told)" } else { "Progress(to nobody)" })
    }
}
