//! `cargo xtask bench`: figures that belong to a run of the real daemon, all in one report, or one with a command of its own.

pub mod probe;
mod reload;
mod datapath;
mod policy;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{fixture::interrupt, lock::HostLock, setup, workspace};

/// `cargo xtask bench`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    one: Option<Bench>,
    #[command(flatten)]
    datapath: datapath::Report,
}

/// What can be measured alone.
#[derive(Debug, clap::Subcommand)]
enum Bench {
    /// From the end of the write of a policy file to the first changed verdict; and the memory of the idle daemon.
    Reload(reload::Options),
    /// How long `segd policy check`, `diff` and `explain` take on a large policy.
    Policy(policy::Options),
}

/// Runs `cargo xtask bench`.
pub fn run(options: &Options) -> Result<ExitCode> {
    if !workspace::is_root() {
        bail!("the benchmarks load programs into the kernel: run them as root");
    }
    setup::ensure(setup::Scope::Demo)?;
    workspace::build_segd()?;
    let lock = HostLock::take()?;
    match &options.one {
        Some(Bench::Reload(options)) => {
            interrupt::watch();
            reload::run(options, &lock)?;
        }
        Some(Bench::Policy(options)) => {
            interrupt::watch();
            policy::run(options, &lock)?;
        }
        None => datapath::run(&options.datapath)?,
    }
    Ok(ExitCode::SUCCESS)
}
