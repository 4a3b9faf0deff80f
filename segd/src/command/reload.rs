//! `segd reload`: reads the policy again now, and waits until it is in force.

use std::process::ExitCode;

use super::{ClientArgs, no_answer, text};
use crate::control::{
    client::Client,
    protocol::{Request, Response},
};

/// Flags of `segd reload`.
#[derive(Debug, clap::Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    client: ClientArgs,
}

impl ReloadArgs {
    /// Runs it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let asked = Client::ask(&self.client.control, &Request::Reload).and_then(|mut client| {
            match client.answer()? {
                Response::Reloaded(reloaded) => Ok(reloaded),
                _ => Err(client.surprise()),
            }
        });
        match asked {
            Ok(reloaded) if reloaded.changed => text(&format!("enforcing revision {}\n", reloaded.revision)),
            Ok(reloaded) => text(&format!("revision {} as before\n", reloaded.revision)),
            Err(error) => no_answer(&error),
        }
    }
}
