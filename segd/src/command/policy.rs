//! `segd policy …`: questions about a policy that need no daemon.

mod check;
mod explain;

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use crate::policy::diagnostic::Style;

/// The subcommands of `segd policy`.
#[derive(Debug, clap::Subcommand)]
pub enum PolicyCommand {
    /// Validate a policy: every error at once, with its place and a remedy; warnings for what cannot be meant
    Check(check::Check),
    /// Say whether one segment may reach another, why, and by which line
    Explain(explain::Explain),
}

impl PolicyCommand {
    /// Runs it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self {
            PolicyCommand::Check(check) => check.run(),
            PolicyCommand::Explain(explain) => explain.run(),
        }
    }
}

/// Done, or yes.
const YES: u8 = 0;
/// A negative answer.
const NO: u8 = 1;
/// An invalid policy or question.
const INVALID: u8 = 2;
/// segd's own fault.
const INTERNAL: u8 = 4;

/// Colours on a terminal, unless the user objects (no-color.org).
fn style() -> Style {
    let objects = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if std::io::stderr().is_terminal() && !objects {
        Style::Ansi
    } else {
        Style::Plain
    }
}

/// Prints an answer. A reader that has gone away is no failure of ours.
fn answer(text: anyhow::Result<String>, code: u8) -> ExitCode {
    match text {
        Ok(text) => {
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            ExitCode::from(code)
        }
        Err(error) => {
            complain(&format!("error: {error:#}\n"));
            ExitCode::from(INTERNAL)
        }
    }
}

fn complain(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
