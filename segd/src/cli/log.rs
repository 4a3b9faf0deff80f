//! The log: on stderr, in colour only on a terminal, as much as `SEGD_LOG` says.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Starts logging; `level` is the default. A `SEGD_LOG` that is not understood is said and ignored.
pub fn start(level: &str) {
    let wanted = std::env::var("SEGD_LOG").ok().filter(|text| !text.is_empty());
    let (filter, complaint) = match wanted.as_deref().map(EnvFilter::try_new) {
        None => (EnvFilter::new(level), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(level), Some(error)),
    };
    let colour =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A second start, as in tests, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(false)
        .try_init();
    if let Some(error) = complaint {
        tracing::warn!("SEGD_LOG is not understood: {error}");
    }
}
