//! `cargo xtask test`: sets up, builds, runs everything, counts.

use std::{
    io::{BufRead as _, BufReader},
    process::{ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result};

use crate::{command, lock::HostLock, setup, tidy, workspace};

/// `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A suite (`unit`, `kernel`, `attack`), or part of the names of the tests to run; default: everything.
    filter: Option<String>,
}

/// Packages tested in one `cargo test`.
struct Suite {
    name: &'static str,
    packages: &'static [&'static str],
    /// Only the test files that the threat model names: a part of another suite, which runs when it is named.
    catalogue: bool,
    /// Its tests attach to the real cgroup root: one after another, as root, and a skip is a failure.
    kernel: bool,
}

const SUITES: &[Suite] = &[
    Suite {
        name: "unit",
        packages: &["segd-common", "segd", "xtask"],
        catalogue: false,
        kernel: false,
    },
    Suite {
        name: "kernel",
        packages: &["segd-tests"],
        catalogue: false,
        kernel: true,
    },
    Suite {
        name: "attack",
        packages: &["segd-tests"],
        catalogue: true,
        kernel: true,
    },
];

#[derive(Default)]
struct Counts {
    passed: u32,
    failed: u32,
    ignored: u32,
}

/// Runs `cargo xtask test`.
pub fn run(options: &Options) -> Result<ExitCode> {
    let start = Instant::now();
    setup::ensure(setup::Scope::Test)?;
    let word = options.filter.as_deref();
    let named = word.filter(|word| SUITES.iter().any(|suite| suite.name == *word));
    let filter = if named.is_some() { None } else { word };
    let suites = SUITES
        .iter()
        .filter(|suite| named.map_or(!suite.catalogue, |name| name == suite.name));

    if !workspace::is_root() {
        eprintln!(
            "NOT ROOT: the tests against the real kernel will say that they are skipped; run this as root."
        );
    }
    workspace::build_segd()?;

    let mut counts = Counts::default();
    let mut broken = Vec::new();
    for suite in suites {
        if suite.kernel {
            workspace::build_other_layout()?;
        }
        let _lock = if suite.kernel && workspace::is_root() {
            Some(HostLock::take()?)
        } else {
            None
        };
        if !suite.run(filter, &mut counts)? {
            broken.push(suite.name);
        }
    }
    let took = start.elapsed().as_secs();
    println!(
        "\n{} passed, {} failed, {} ignored in {took} s",
        counts.passed, counts.failed, counts.ignored
    );
    if counts.passed == 0 {
        broken.push("nothing ran");
    }
    if broken.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("FAILED: {}", broken.join(", "));
    Ok(ExitCode::FAILURE)
}

impl Suite {
    /// Whether everything in it passed.
    fn run(&self, filter: Option<&str>, counts: &mut Counts) -> Result<bool> {
        let mut cargo = command::cargo(&["test", "--locked", "--no-fail-fast"]);
        for package in self.packages {
            cargo.args(["--package", package]);
        }
        if self.catalogue {
            for file in tidy::threats()? {
                cargo.args(["--test", &file]);
            }
        }
        cargo
            .env("SEGD_BIN", workspace::segd())
            .env("SEGD_TOOLS", workspace::tools())
            .env("SEGD_OTHER_LAYOUT", workspace::other_layout())
            .stdout(Stdio::piped());
        cargo.arg("--");
        cargo.args(filter);
        if self.kernel {
            cargo.arg("--test-threads=1");
            if workspace::is_root() {
                cargo.env("SEGD_REQUIRE_KERNEL", "1");
            }
        }
        let line = command::line(&cargo);
        println!("\n== {}: {line}", self.name);
        let mut child = cargo.spawn().with_context(|| format!("cannot start `{line}`"))?;
        for output in BufReader::new(child.stdout.take().context("no stdout")?).lines() {
            let output = output.context("cannot read what cargo says")?;
            println!("{output}");
            counts.add(&output);
        }
        Ok(child.wait().context("cannot wait for cargo")?.success())
    }
}

impl Counts {
    /// Takes a line like `test result: ok. 3 passed; 0 failed; 1 ignored; …` into account.
    fn add(&mut self, line: &str) {
        let Some((_, result)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in result.split("; ") {
            let Some((number, word)) = part.split_once(' ') else {
                continue;
            };
            let number = number.parse().unwrap_or(0);
            match word {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_what_the_test_binaries_say() {
        let mut counts = Counts::default();
        counts.add("running 3 tests");
        counts.add(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s",
        );
        counts.add("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!((counts.passed, counts.failed, counts.ignored), (4, 2, 1));
    }
}
