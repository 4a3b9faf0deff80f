//! `cargo xtask`: what a person or CI does with this repository beside building it.
//!
//! Depends on none of segd's crates, so that it builds on a bare machine before anything else does.

mod bench;
mod both;
mod built;
mod command;
mod demo;
mod differential;
mod fixture;
mod fuzz;
mod kernels;
mod lock;
mod setup;
mod soak;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// segd's setup, test, demo and upkeep commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what is missing on this machine (Debian 12, as root); elsewhere, say what to do by hand.
    Setup(setup::Options),
    /// Set up, build, and run every test, the ones against the real kernel too.
    Test(test::Options),
    /// Show segd's main job on nginx, redis, curl and ping.
    Demo(demo::Options),
    /// Measure what segd costs, beside what people would use instead: one report.
    Bench(bench::Options),
    /// Watch one verdict; what `bench reload` starts.
    #[command(hide = true)]
    Probe(bench::probe::Options),
    /// Let random policies and packets be judged by oracle, tables and kernel, for a while.
    Differential(differential::Options),
    /// Let random faults happen under traffic, for a while: nothing breaks, nothing grows.
    Soak(soak::Options),
    /// Boot real kernels under emulation and run the enforcement suites there.
    Kernels(kernels::Options),
    /// Let the fuzzers look for inputs that the parsers get wrong.
    Fuzz(fuzz::Options),
    /// Check the invariants of DESIGN.md section 4 that can be read off the source.
    Tidy,
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Setup(options) => setup::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Demo(options) => demo::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Probe(options) => bench::probe::run(&options),
        Task::Differential(options) => differential::run(&options),
        Task::Soak(options) => soak::run(&options),
        Task::Kernels(options) => kernels::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Tidy => tidy::run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
