//! `segd workloads`: which cgroup is in which segment, and why.

use std::process::ExitCode;

use super::{ClientArgs, OutputArgs, YES, answer, no_answer};
use crate::control::{
    client::Client,
    protocol::{Request, Response},
};

/// Flags of `segd workloads`.
#[derive(Debug, clap::Args)]
pub struct WorkloadsArgs {
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl WorkloadsArgs {
    /// Runs it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let asked =
            Client::ask(&self.client.control, &Request::Workloads).and_then(|mut client| {
                match client.answer()? {
                    Response::Workloads(rows) => Ok(rows),
                    _ => Err(client.surprise()),
                }
            });
        match asked {
            Ok(rows) => answer(self.output.output, &rows, YES),
            Err(error) => no_answer(&error),
        }
    }
}
