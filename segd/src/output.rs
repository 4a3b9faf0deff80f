//! How answers are printed: for people as tables, for machines as JSON or YAML.
//!
//! Data goes to stdout and nothing else does. A reader that went away (`| head`) ends the output in silence.

mod rows;
mod table;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use serde::Serialize;

pub use rows::Table;
pub use table::{clean, columns};

pub mod policy;
pub mod diff;
pub mod unified;
pub mod dry_run;
pub mod expectation;
pub mod schema;
pub mod picture;
pub mod doctor;
pub mod learn;

/// `-o`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For machines; stable and documented.
    Json,
    /// The same shape as JSON.
    Yaml,
}

/// One value in a format, with its last newline.
///
/// # Errors
/// If it cannot be written in that format.
pub fn render<T: Table>(format: Format, value: &T) -> anyhow::Result<String> {
    match format {
        Format::Table => Ok(value.table()),
        Format::Json => json(value, true),
        Format::Yaml => yaml(value),
    }
}

/// A value as JSON with a last newline; `pretty` over several lines.
///
/// # Errors
/// If it cannot be written as JSON.
pub fn json<T: Serialize>(value: &T, pretty: bool) -> anyhow::Result<String> {
    let mut text = if pretty {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    }?;
    text.push('\n');
    Ok(text)
}

/// A value as YAML with a last newline.
///
/// # Errors
/// If it cannot be written as YAML.
pub fn yaml<T: Serialize>(value: &T) -> anyhow::Result<String> {
    let mut text = serde_yaml::to_string(value)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Prints a value to stdout.
///
/// # Errors
/// If it cannot be written in that format, or stdout fails.
pub fn print<T: Table>(format: Format, value: &T) -> anyhow::Result<()> {
    stdout(&render(format, value)?)
        .map(|_open| ())
        .map_err(Into::into)
}

/// Writes text to stdout at once; `false` if the reader went away, which is no error.
///
/// # Errors
/// If stdout fails otherwise.
pub fn stdout(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// Says what is wrong on stderr, one line each: `error: …` and, if there is one, `help: …`.
pub fn complain(message: &str, help: Option<&str>) {
    let mut err = io::stderr().lock();
    let _ = writeln!(err, "error: {}", clean(message));
    if let Some(help) = help {
        let _ = writeln!(err, "help: {}", clean(help));
    }
}

/// Writes a drawing to stderr. A reader that is gone is nobody's mistake, and ends nobody: the daemon least of all.
pub fn draw(drawn: &str) {
    let _ = io::stderr().lock().write_all(drawn.as_bytes());
}

/// Complains and gives the exit code.
#[must_use]
pub fn fail(code: u8, message: &str, help: Option<&str>) -> ExitCode {
    complain(message, help);
    ExitCode::from(code)
}

#[cfg(test)]
mod tests;
