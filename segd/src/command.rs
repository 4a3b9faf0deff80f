//! One file per subcommand. Each returns the exit code of the contract (docs/cli.md).

pub mod apply;
pub mod completions;
pub mod decide;
pub mod doctor;
pub mod dry_run;
pub mod flows;
pub mod learn;
pub mod live;
pub mod man;
pub mod policy;
pub mod probe;
pub mod reload;
pub mod run;
pub mod segments;
pub mod status;
pub mod unload;
pub mod workloads;

use std::{path::PathBuf, process::ExitCode};

use crate::{
    control::client::ClientError,
    output::{Format, Table},
};

/// Done, or the answer is yes.
pub const YES: u8 = 0;
/// The answer is no.
pub const NO: u8 = 1;
/// The policy or the usage is wrong.
pub const INVALID: u8 = 2;
/// The host cannot do it.
pub const CANNOT: u8 = 3;
/// segd failed.
pub const INTERNAL: u8 = 4;

/// Flags of every command that asks the daemon.
#[derive(Clone, Debug, clap::Args)]
pub struct ClientArgs {
    /// The control socket of the running segd
    #[arg(long, env = "SEGD_CONTROL", default_value = crate::cli::CONTROL, value_name = "PATH")]
    pub control: PathBuf,
}

/// The flag of every command that answers.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct OutputArgs {
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

/// Complains about a failed request.
#[must_use]
pub fn no_answer(error: &ClientError) -> ExitCode {
    crate::output::fail(error.exit_code(), &error.to_string(), error.help().as_deref())
}

/// Prints an answer and gives the exit code.
#[must_use]
pub fn answer<T: Table>(format: Format, value: &T, code: u8) -> ExitCode {
    match crate::output::print(format, value) {
        Ok(()) => ExitCode::from(code),
        Err(error) => crate::output::fail(INTERNAL, &format!("cannot print: {error:#}"), None),
    }
}

/// Prints text and gives the exit code.
#[must_use]
pub fn text(text: &str) -> ExitCode {
    match crate::output::stdout(text) {
        Ok(_) => ExitCode::from(YES),
        Err(error) => crate::output::fail(INTERNAL, &format!("cannot print: {error}"), None),
    }
}
