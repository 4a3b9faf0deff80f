//! `segd completions SHELL`: what the shell needs to complete segd's commands.

use std::process::ExitCode;

use clap::CommandFactory as _;

/// Flags of `segd completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: clap_complete::Shell,
}

impl CompletionsArgs {
    /// Runs it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut crate::cli::Cli::command(), "segd", &mut text);
        super::text(&String::from_utf8_lossy(&text))
    }
}
