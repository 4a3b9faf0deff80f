//! `cargo xtask fuzz`: builds the fuzz targets and lets them run; what they find is kept where the unit tests replay it.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    command::{self, cargo},
    differential::seconds,
    setup, workspace,
};

/// `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A fuzz target; default: each in turn.
    target: Option<String>,
    /// How long each target runs: `60s`, `10m`, `24h`.
    #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = seconds)]
    duration: u64,
    /// Add what covers anything new to the kept corpus.
    #[arg(long)]
    keep: bool,
}

/// A fuzz target, in a fuzz crate below a folder.
struct Target {
    name: &'static str,
    package: &'static str,
    /// The longest input worth trying, in bytes.
    longest: u32,
}

const TARGETS: &[Target] = &[
    Target {
        name: "walk",
        package: "segd-common",
        longest: 256,
    },
    Target {
        name: "policy",
        package: "segd",
        longest: 4096,
    },
];

/// Runs `cargo xtask fuzz`.
pub fn run(options: &Options) -> Result<ExitCode> {
    let wanted = |target: &&Target| options.target.as_deref().is_none_or(|name| name == target.name);
    let targets: Vec<&Target> = TARGETS.iter().filter(wanted).collect();
    if targets.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        bail!("there is no such target; there are: {}", names.join(", "));
    }
    setup::ensure(setup::Scope::Build)?;
    setup::ensure_cargo_fuzz()?;
    for target in targets {
        target.run(options)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Target {
    /// What is replayed by the unit tests.
    fn kept(&self) -> PathBuf {
        workspace::root()
            .join(self.package)
            .join("fuzz/corpus")
            .join(self.name)
    }

    fn run(&self, options: &Options) -> Result<()> {
        let build = workspace::target().join("fuzz");
        let working = build.join("corpus").join(self.name);
        for directory in [&working, &self.kept()] {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let libfuzzer = [
            format!("-max_total_time={}", options.duration),
            format!("-max_len={}", self.longest),
            String::from("-print_final_stats=1"),
        ];
        self.fuzz(&[&working, &self.kept()], &libfuzzer)?;
        if options.keep {
            self.fuzz(&[&self.kept(), &working], &[String::from("-merge=1")])?;
        }
        Ok(())
    }

    fn fuzz(&self, corpora: &[&PathBuf], libfuzzer: &[String]) -> Result<()> {
        let fuzz_dir = format!("{}/fuzz", self.package);
        let target_dir = workspace::target().join("fuzz");
        let mut command = cargo(&["fuzz", "run", "--fuzz-dir", &fuzz_dir, "--target-dir"]);
        command.arg(target_dir).arg(self.name).args(corpora);
        command.arg("--").args(libfuzzer);
        // Sanitizer and coverage flags are unstable; the pinned stable compiler has them.
        command::run(command.env("RUSTC_BOOTSTRAP", "1"))
    }
}
