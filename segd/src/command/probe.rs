//! The hidden child of the health probe (skeleton).

use std::process::ExitCode;

/// Runs the probe that must be refused.
#[must_use]
pub fn run() -> ExitCode {
    ExitCode::from(super::INTERNAL)
}
