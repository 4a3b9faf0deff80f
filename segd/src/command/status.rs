//! `segd status`: what is in force. Exit code 1 if segd does not enforce.

use std::process::ExitCode;

use super::{ClientArgs, NO, OutputArgs, YES, answer, no_answer};
use crate::control::{
    client::Client,
    protocol::{Request, Response},
};

/// Flags of `segd status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl StatusArgs {
    /// Runs it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let asked = Client::ask(&self.client.control, &Request::Status).and_then(|mut client| {
            match client.answer()? {
                Response::Status(status) => Ok(status),
                _ => Err(client.surprise()),
            }
        });
        match asked {
            Ok(status) => answer(
                self.output.output,
                status.as_ref(),
                if status.enforcing { YES } else { NO },
            ),
            Err(error) => no_answer(&error),
        }
    }
}
