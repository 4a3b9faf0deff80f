//! `cargo xtask differential`: the differential proof for as long as one likes.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::{
    command,
    setup::{self, Scope},
    workspace,
};

const TEST: &str = "a_million_random_packets_are_judged_alike_by_author_oracle_tables_and_kernel";

/// `cargo xtask differential`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How long: `90s`, `10m`, `1h`.
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = seconds)]
    time: u64,
    /// Repeat the rounds of this seed; it is printed by each run.
    #[arg(long)]
    seed: Option<u64>,
}

/// A time as people write it, in seconds.
pub fn seconds(text: &str) -> Result<u64> {
    let unit = text.chars().last().context("no time")?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => bail!("write it like `90s`, `10m` or `1h`"),
    };
    let number: u64 = text[..text.len() - 1].parse().context("no number")?;
    number.checked_mul(factor).context("too long")
}

/// Runs `cargo xtask differential`.
pub fn run(options: &Options) -> Result<ExitCode> {
    setup::ensure(Scope::Test)?;
    if !workspace::is_root() {
        bail!("the kernel programs are judges here: run this as root");
    }
    let mut cargo = command::cargo(&["test", "--locked", "--test", "differential"]);
    cargo.args(["--", "--exact", TEST, "--nocapture"]);
    cargo
        .env("SEGD_REQUIRE_KERNEL", "1")
        .env("SEGD_SECONDS", options.time.to_string());
    if let Some(seed) = options.seed {
        cargo.env("SEGD_SEED", seed.to_string());
    }
    command::run(&mut cargo)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(seconds("90s").ok(), Some(90));
        assert_eq!(seconds("2h").ok(), Some(7200));
        for wrong in [
            "",
            "5",
            "h",
            "1d",
            "-1m",
            "99999999999999999999h",
            "999999999999999999h",
        ] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
