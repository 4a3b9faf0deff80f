//! `segd man`: the man pages, written into a directory.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::CommandFactory as _;

/// Flags of `segd man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Where to write segd.1 and a page for every command; it is created
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl ManArgs {
    /// Runs it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let write = || {
            fs::create_dir_all(&self.directory)
                .with_context(|| format!("cannot create {}", self.directory.display()))?;
            clap_mangen::generate_to(crate::cli::Cli::command(), &self.directory)
                .with_context(|| format!("cannot write to {}", self.directory.display()))
        };
        match write() {
            Ok(()) => ExitCode::from(super::YES),
            Err(error) => crate::output::fail(super::CANNOT, &format!("{error:#}"), None),
        }
    }
}
