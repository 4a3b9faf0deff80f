//! `cargo xtask soak`: random faults under traffic for as long as one likes, with ten thousand flips and births around it.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{
    command,
    differential::seconds,
    lock::HostLock,
    setup::{self, Scope},
    workspace,
};

/// `cargo xtask soak`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How long the random faults: `90s`, `30m`, `1h`.
    #[arg(long = "for", value_name = "TIME", default_value = "30m", value_parser = seconds)]
    time: u64,
    /// Repeat the faults of this seed; it is printed by each run.
    #[arg(long)]
    seed: Option<u64>,
    /// How many policy flips, and how many births, before.
    #[arg(long, default_value_t = 10_000)]
    count: u64,
}

/// Runs `cargo xtask soak`.
pub fn run(options: &Options) -> Result<ExitCode> {
    setup::ensure(Scope::Test)?;
    if !workspace::is_root() {
        bail!("the faults are those that root makes: run this as root");
    }
    workspace::build_segd()?;
    let _lock = HostLock::take()?;
    for test in ["flips", "births", "soak"] {
        let mut cargo = command::cargo(&["test", "--locked", "--test", test]);
        cargo
            .args(["--", "--nocapture", "--test-threads=1"])
            .env("SEGD_BIN", workspace::segd())
            .env("SEGD_REQUIRE_KERNEL", "1")
            .env("SEGD_FLIPS", options.count.to_string())
            .env("SEGD_BIRTHS", options.count.to_string())
            .env("SEGD_SECONDS", options.time.to_string());
        if let Some(seed) = options.seed {
            cargo.env("SEGD_SEED", seed.to_string());
        }
        command::run(&mut cargo)?;
    }
    Ok(ExitCode::SUCCESS)
}
