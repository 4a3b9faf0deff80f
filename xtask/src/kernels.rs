//! `cargo xtask kernels`: boots real Debian kernels under emulation and runs the enforcement suites there.
//!
//! INVARIANT: a test that was asked for and did not say that it passed has failed, unless `tests/kernels.txt` says why
//! that kernel cannot run it; the report prints each of those. Deliberately absent: `/dev/kvm`, which CI has not.

mod archive;
mod catalogue;
mod uncovered;
mod built;
mod modules;
mod programs;
mod root;
mod machine;
mod transcript;
mod report;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{
    setup::{self, Scope},
    workspace,
};

/// `cargo xtask kernels`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A kernel by the beginning of its version, as in `--kernel 6.1 --kernel 7.3`; default: the oldest and the newest.
    #[arg(long = "kernel", value_name = "VERSION")]
    kernels: Vec<String>,
    /// Every kernel.
    #[arg(long, conflicts_with = "kernels")]
    all: bool,
    /// Tests to run: a file of `tests/tests`, or tests of it by a part of their names; default: a selection of both.
    #[arg(long = "suite", value_name = "FILE[:FILTER]")]
    suites: Vec<String>,
    /// Look for newer packages of these kernels than those that are here.
    #[arg(long)]
    refresh: bool,
}

/// What is run unless something else is asked for: every program loads, and what is denied does not arrive in one namespace,
/// between namespaces, or by a raw socket. On the oldest kernel each start of segd takes the emulated verifier most of a minute.
const ENFORCEMENT: &[&str] = &["segd:verifier_accepts", "same_address"];

/// Runs `cargo xtask kernels`.
pub fn run(options: &Options) -> Result<ExitCode> {
    setup::ensure(Scope::Kernels)?;
    if !workspace::is_root() {
        bail!("the kernels' modules are read and devices are made as root: run this as root");
    }
    let kernels = catalogue::choose(&options.kernels, options.all)?;
    let suites: Vec<&str> = if options.suites.is_empty() {
        ENFORCEMENT.to_vec()
    } else {
        options.suites.iter().map(String::as_str).collect()
    };
    workspace::build_segd()?;
    let built = built::build()?;
    let tests = built.select(&suites)?;
    if root::uses_other_layout(&tests) {
        workspace::build_other_layout()?;
    }
    let uncovered = uncovered::List::read(&built)?;
    let mut rows = Vec::new();
    for kernel in kernels {
        let package = archive::fetch(kernel, options.refresh)?;
        let (uncovered, tests) = uncovered.split(kernel, &tests);
        eprintln!(
            "\n== {}: {} tests, {} not covered",
            package.release,
            tests.len(),
            uncovered.len()
        );
        let image = root::build(&package, &built, &tests)?;
        let run = machine::run(&package, &image, &tests)?;
        rows.push(report::Row {
            package,
            run,
            uncovered,
        });
    }
    report::print(&mut rows)
}
