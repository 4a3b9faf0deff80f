//! The log: on stderr, in colour only on a terminal, as much as `SEGD_LOG` says.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// The target of what is logged whatever `SEGD_LOG` says: that a revision is enforced, for which people and programs wait.
pub const ALWAYS: &str = "segd::enforcing";

/// Starts logging; `level` is the default. A `SEGD_LOG` that is not understood is said and ignored.
pub fn start(level: &str) {
    let wanted = std::env::var("SEGD_LOG").ok().filter(|text| !text.is_empty());
    let always = |text: &str| format!("{text},{ALWAYS}=info");
    let usual = || EnvFilter::new(always(level));
    let (filter, complaint) = match wanted.as_deref().map(|text| EnvFilter::try_new(always(text))) {
        None => (usual(), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (usual(), Some(error)),
    };
    let colour =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A second start, as in tests, changes nothing.
    let _ = tracing_subscriber::fmt()
        // That a line cannot be written would be told on stderr, which is what failed, by a macro that panics.
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(false)
        .try_init();
    if let Some(error) = complaint {
        tracing::warn!("SEGD_LOG is not understood: {error}");
    }
}
