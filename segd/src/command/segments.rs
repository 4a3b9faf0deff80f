//! `segd segments`: the segments of the policy in force.

use std::process::ExitCode;

use super::{ClientArgs, OutputArgs, YES, answer, no_answer};
use crate::control::{
    client::Client,
    protocol::{Request, Response},
};

/// Flags of `segd segments`.
#[derive(Debug, clap::Args)]
pub struct SegmentsArgs {
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl SegmentsArgs {
    /// Runs it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let asked = Client::ask(&self.client.control, &Request::Segments).and_then(|mut client| match client
            .answer(
        )? {
            Response::Segments(rows) => Ok(rows),
            _ => Err(client.surprise()),
        });
        match asked {
            Ok(rows) => answer(self.output.output, &rows, YES),
            Err(error) => no_answer(&error),
        }
    }
}
