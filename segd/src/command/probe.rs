//! The hidden child of the health probe.

use std::process::ExitCode;

/// Makes the socket that must not be able to send, and hands it over.
#[must_use]
pub fn run() -> ExitCode {
    match crate::daemon::probe::child() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::output::complain(&format!("probe: {error}"), None);
            ExitCode::from(super::INTERNAL)
        }
    }
}
