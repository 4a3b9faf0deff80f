//! The report on everything: what is measured, and how, is in `tests/benches/datapath`; this builds and starts it.

use anyhow::Result;

use crate::{command, setup, workspace};

/// `cargo xtask bench` without a subcommand.
#[derive(Debug, clap::Args)]
pub struct Report {
    /// Within five minutes; fails if a kernel program has more instructions than the repository keeps.
    #[arg(long)]
    quick: bool,
    /// Keep the instruction counts of this kernel (tests/benches/datapath/baseline.json).
    #[arg(long)]
    keep: bool,
    /// Repeat the orders and draws of this seed; it is printed by each run.
    #[arg(long)]
    seed: Option<u64>,
    /// How long the arms take turns for each figure; 20, with `--quick` 3.
    #[arg(long)]
    seconds: Option<u64>,
    /// Only these layers: `instructions`, `program`, `early`, `sockets`, `control`.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Runs it; the report goes to target/bench.
pub fn run(options: &Report) -> Result<()> {
    setup::ensure(setup::Scope::Test)?;
    // Nothing is timed then, and the tests have built nearly all of it.
    let counts_alone = options.only == ["instructions"];
    let selection = [
        if counts_alone { "test" } else { "bench" },
        "--locked",
        "--bench",
        "datapath",
        "--",
    ];
    let mut cargo = command::cargo(&selection);
    cargo
        .env("SEGD_BIN", workspace::segd())
        .env("SEGD_REQUIRE_KERNEL", "1");
    cargo.arg("--out").arg(workspace::target().join("bench"));
    for (flag, set) in [("--quick", options.quick), ("--keep", options.keep)] {
        if set {
            cargo.arg(flag);
        }
    }
    for (flag, value) in [("--seed", options.seed), ("--seconds", options.seconds)] {
        if let Some(value) = value {
            cargo.args([flag, &value.to_string()]);
        }
    }
    if !options.only.is_empty() {
        cargo.args(["--only", &options.only.join(",")]);
    }
    command::run(&mut cargo)
}
