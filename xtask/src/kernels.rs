//! `cargo xtask kernels`: boots real Debian kernels under emulation and runs the enforcement suites there.
//!
//! INVARIANT: a test that was asked for and did not say that it passed has failed, unless `tests/kernels.txt` says why
//! that kernel cannot run it; the report prints each of those. Deliberately absent: `/dev/kvm`, which CI has not.

mod archive;
mod catalogue;
mod uncovered;
mod modules;
mod programs;
mod root;
mod machine;
mod transcript;
mod report;

use std::{
    num::NonZero,
    path::PathBuf,
    process::ExitCode,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Result, bail};
use archive::Package;
use uncovered::Uncovered;

use crate::{
    built::{self, Test},
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
    /// Tests to run: a file of `tests/tests`, or tests of it by a part of their names; default: the enforcement suite on kernels that
    /// are named (or `--all`), a minute of it on the oldest and the newest.
    #[arg(long = "suite", value_name = "FILE[:FILTER]")]
    suites: Vec<String>,
    /// Look for newer packages of these kernels than those that are here.
    #[arg(long)]
    refresh: bool,
    /// Only build and fetch what it runs.
    #[arg(long)]
    no_run: bool,
}

/// In each CI run: every program loads; what is denied does not arrive in one namespace, between namespaces, or by a raw socket; what has
/// lost its right ends; and what kernels differ in most: LSM hooks and restarts.
const BRIEF: &[&str] = &[
    "segd:verifier_accepts",
    "same_address",
    "idle",
    "lsm",
    "restart:whatever_ended",
];

/// The enforcement suite: who is who, what passes and what does not, whatever an attacker tries, and how a right ends. Emulated, ten
/// minutes for each kernel.
const ENFORCEMENT: &[&str] = &[
    "segd:verifier_accepts",
    "same_address",
    "replies",
    // Before what translates addresses: a namespace of 5.10 that once did puts fragments together for good, before anybody sees them.
    "attack_packets",
    "tuples",
    "idle",
    "attack_identity",
    "errors",
    "lsm",
    "attack",
    "reload",
    "restart:whatever_ended",
];

/// Runs `cargo xtask kernels`.
pub fn run(options: &Options) -> Result<ExitCode> {
    setup::ensure(Scope::Kernels)?;
    if !workspace::is_root() {
        bail!("the kernels' modules are read and devices are made as root: run this as root");
    }
    let kernels = catalogue::choose(&options.kernels, options.all)?;
    let suites: Vec<&str> = match options.suites.as_slice() {
        [] if options.all || !options.kernels.is_empty() => ENFORCEMENT.to_vec(),
        [] => BRIEF.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    workspace::build_segd()?;
    let built = built::build()?;
    let tests = built.select(&suites)?;
    if root::uses_other_layout(&tests) {
        workspace::build_other_layout()?;
    }
    let uncovered = uncovered::List::read(&built)?;
    let mut packages = Vec::new();
    for kernel in kernels {
        packages.push((kernel, archive::fetch(kernel, options.refresh)?));
    }
    if options.no_run {
        return Ok(ExitCode::SUCCESS);
    }
    let mut machines = Vec::new();
    for (kernel, package) in packages {
        let (uncovered, tests) = uncovered.split(kernel, &tests);
        eprintln!(
            "{}: {} tests, {} not covered",
            package.release,
            tests.len(),
            uncovered.len()
        );
        let image = root::build(&package, &built, &tests)?;
        machines.push(Prepared {
            package,
            image,
            tests,
            uncovered,
        });
    }
    let mut rows = run_all(machines)?;
    report::print(&mut rows)
}

/// A machine that can be started.
struct Prepared {
    package: Package,
    image: PathBuf,
    tests: Vec<Test>,
    uncovered: Vec<Uncovered>,
}

/// Runs them, as many at once as this host has processors: each keeps one busy.
fn run_all(machines: Vec<Prepared>) -> Result<Vec<report::Row>> {
    let at_once = thread::available_parallelism().map_or(1, NonZero::get);
    let waiting = Mutex::new(machines.into_iter().enumerate());
    let work = || {
        let mut rows = Vec::new();
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((place, machine)) = next else {
                return anyhow::Ok(rows);
            };
            let run = machine::run(&machine.package, &machine.image, &machine.tests)?;
            let row = report::Row {
                package: machine.package,
                run,
                uncovered: machine.uncovered,
            };
            rows.push((place, row));
        }
    };
    let mut rows = Vec::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            match worker.join() {
                Ok(found) => rows.extend(found?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        anyhow::Ok(())
    })?;
    rows.sort_by_key(|(place, _)| *place);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}
