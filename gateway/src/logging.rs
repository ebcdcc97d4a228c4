//! Logging: one line an event, on stderr, as text or JSON. Panics are logged like everything else.
//!
//! A store that is away would be thousands of lines a second: of warnings and errors each place says each cause once a
//! second, the first time at once, and then with a count (`logging/floods.rs`). A log that cannot be written loses
//! lines and counts them (`logging/stderr.rs`); it never ends or holds up the process. That is why this is a layer of
//! our own: the library's prints its own write errors to stderr, which panics when stderr is gone, and a panic that is
//! logged panics again and aborts.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{BadConfig, LogConfig, LogFormat};

mod floods;
mod line;
mod stderr;

use floods::{Floods, Key};
use line::{Fields, Line};

/// How often lines that were held back are looked for: well below the second in which they come.
const SWEEP_EVERY: Duration = Duration::from_millis(200);

static LOG: OnceLock<Arc<Log>> = OnceLock::new();

pub fn start(config: &LogConfig) -> Result<(), BadConfig> {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|error| BadConfig(format!("--log (DOORBUSTER_LOG) is not a log filter: {error}")))?;
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = Arc::new(Log { format: config.format, has_colours: is_terminal, floods: Floods::default() });
    let started = tracing_subscriber::registry().with(filter).with(LogLayer(Arc::clone(&log))).try_init();
    // Only a second start in one process can fail here; the first one's choice stays.
    if started.is_ok() {
        std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
        let sweeping = Arc::clone(LOG.get_or_init(|| log));
        let sweeper = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            loop {
                std::thread::sleep(SWEEP_EVERY);
                sweeping.write_held_back(Some(Instant::now()));
            }
        });
        if let Err(error) = sweeper {
            tracing::warn!(%error, "lines that are held back come late: there is no thread for them: {error}");
        }
    }
    Ok(())
}

/// Writes what is still held back, before the process ends.
pub fn finish() {
    if let Some(log) = LOG.get() {
        log.write_held_back(None);
    }
}

struct Log {
    format: LogFormat,
    has_colours: bool,
    floods: Floods,
}

impl Log {
    fn write(&self, line: &Line) {
        let text = match self.format {
            LogFormat::Text => line.text(self.has_colours),
            LogFormat::Json => line.json(),
        };
        stderr::write(&text);
    }

    /// Those whose second is over at `now`; all of them without one.
    fn write_held_back(&self, now: Option<Instant>) {
        for line in self.floods.due(now) {
            self.write(&line);
        }
    }
}

struct LogLayer(Arc<Log>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let span = context.event_span(event).map(|span| {
            let fields = span.extensions().get::<Fields>().cloned();
            (span.name(), fields.unwrap_or_default())
        });
        let line = Line::new(*metadata.level(), metadata.target(), span, fields);
        if *metadata.level() <= Level::WARN {
            let key = Key::new(metadata.callsite(), line.cause());
            if !self.0.floods.may_pass(key, &line, Instant::now()) {
                metrics::counter!("doorbuster_log_lines_held_back_total").increment(1);
                return;
            }
        }
        self.0.write(&line);
    }
}
