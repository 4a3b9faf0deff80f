//! `cargo xtask bench`: figures that belong to a run of the real daemon, each with the command that prints it.

pub mod probe;
mod reload;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{command, fixture::interrupt, lock::HostLock, setup, workspace};

/// `cargo xtask bench`.
#[derive(Debug, clap::Subcommand)]
pub enum Bench {
    /// From the end of the write of a policy file to the first changed verdict; and the memory of the idle daemon.
    Reload(reload::Options),
}

/// Runs `cargo xtask bench`.
pub fn run(bench: &Bench) -> Result<ExitCode> {
    if !workspace::is_root() {
        bail!("the benchmarks load programs into the kernel: run them as root");
    }
    setup::ensure(setup::Scope::Demo)?;
    command::run(&mut command::cargo(&[
        "build",
        "--release",
        "--locked",
        "--package",
        "segd",
    ]))?;
    let lock = HostLock::take()?;
    interrupt::watch();
    match bench {
        Bench::Reload(options) => reload::run(options, &lock)?,
    }
    Ok(ExitCode::SUCCESS)
}
