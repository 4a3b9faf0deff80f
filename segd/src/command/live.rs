//! Questions answered by the running daemon (skeleton).

use std::{path::Path, process::ExitCode};

/// `segd policy explain` without a path: asks the daemon behind `control`. `format` is `table`, `json` or `yaml`.
#[must_use]
pub fn explain(_control: &Path, _from: &str, _to: &str, _port: &str, _format: crate::output::Format) -> ExitCode {
    ExitCode::from(3)
}
