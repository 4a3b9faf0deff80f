//! `segd policy …` (skeleton).

use std::process::ExitCode;

/// The subcommands of `segd policy`.
#[derive(Debug, clap::Subcommand)]
pub enum PolicyCommand {}

impl PolicyCommand {
    /// Runs it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        ExitCode::from(4)
    }
}
