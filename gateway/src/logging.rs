//! Logging: one line an event, on stderr, as text or JSON. Panics are logged like everything else.

use tracing_subscriber::EnvFilter;

use crate::config::{BadConfig, LogConfig, LogFormat};

pub fn start(config: &LogConfig) -> Result<(), BadConfig> {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|error| BadConfig(format!("--log (DOORBUSTER_LOG) is not a log filter: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    // Only a second start in one process can fail here; the first one's choice stays.
    if started.is_ok() {
        std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    }
    Ok(())
}
