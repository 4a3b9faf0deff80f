//! `segd confirm` and `segd rollback`: the two ends of a trial. Exit code 1 if there is nothing to decide.

use std::process::ExitCode;

use super::{ClientArgs, OutputArgs, YES, answer, no_answer};
use crate::control::{
    client::{Client, ClientError},
    protocol::{Request, Response},
    types::Applied,
};

/// Flags of both.
#[derive(Debug, clap::Args)]
pub struct DecideArgs {
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl DecideArgs {
    /// Keeps what is on trial.
    #[must_use]
    pub fn confirm(self) -> ExitCode {
        self.ask(&Request::Confirm)
    }

    /// Puts back what was before.
    #[must_use]
    pub fn rollback(self) -> ExitCode {
        self.ask(&Request::Rollback)
    }

    fn ask(self, request: &Request) -> ExitCode {
        match ask(&self.client, request) {
            Ok(applied) => answer(self.output.output, &applied, YES),
            Err(error) => no_answer(&error),
        }
    }
}

/// Asks for a change of what is in force.
pub(super) fn ask(client: &ClientArgs, request: &Request) -> Result<Applied, ClientError> {
    let mut client = Client::ask(&client.control, request)?;
    match client.answer()? {
        Response::Applied(applied) => Ok(applied),
        _ => Err(client.surprise()),
    }
}
