//! The command line: every subcommand and its flags, the log, the exit codes.

pub mod log;

use std::{ffi::OsStr, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::command::{
    apply::ApplyArgs, completions::CompletionsArgs, decide::DecideArgs, doctor::DoctorArgs, flows::FlowsArgs,
    learn::LearnArgs, man::ManArgs, policy::PolicyCommand, reload::ReloadArgs, run::RunArgs,
    segments::SegmentsArgs, status::StatusArgs, unload::UnloadArgs, workloads::WorkloadsArgs,
};

/// The default of `--control`.
pub const CONTROL: &str = "/run/segd/control.sock";
/// The default of `--pin-dir`.
pub const PIN_DIR: &str = "/sys/fs/bpf/segd";
/// The default of `--state-dir`.
pub const STATE_DIR: &str = "/var/lib/segd";
/// The default of `--metrics`.
pub const METRICS: &str = "127.0.0.1:9464";

const EXIT_CODES: &str = "\
Exit codes:
  0  yes, or done
  1  the answer is no: denied, a test failed, policies differ, segd does not enforce
  2  the policy or the usage is wrong
  3  the host cannot do it: privilege, kernel, segd is not running
  4  segd failed

Environment:
  Every flag of `run` and every --control, --pin-dir has a SEGD_ variable: SEGD_CONTROL, SEGD_PIN_DIR, …
  An empty one is as good as none, but for SEGD_REQUIRE_SIGNATURE, which must not be empty.
  SEGD_LOG sets what is logged on stderr: error, warn, info (default), debug, segd::telemetry=debug, …";

/// Zero-trust segmentation of a Linux host: who may talk to whom is decided by cgroup, not by address
#[derive(Debug, Parser)]
#[command(name = "segd", version, after_long_help = EXIT_CODES, max_term_width = 110)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Load a policy, enforce it, follow its edits, serve metrics
    #[command(after_help = "Example:\n  segd run --policy /etc/segd/policy --interface eth0")]
    Run(Box<RunArgs>),
    /// Check and question policies
    #[command(after_help = "Example:\n  segd policy check /etc/segd/policy", subcommand)]
    Policy(PolicyCommand),
    /// Put a policy in force, for good or, with --confirm, until it is confirmed
    #[command(after_help = "Example:\n  segd apply new.yaml --confirm 120s")]
    Apply(ApplyArgs),
    /// Keep the policy that is on trial
    #[command(after_help = "Example:\n  segd confirm")]
    Confirm(DecideArgs),
    /// Put the policy before back: at once if one is on trial, else as a new revision
    #[command(after_help = "Example:\n  segd rollback")]
    Rollback(DecideArgs),
    /// Show what is in force; exit code 1 if segd does not enforce
    #[command(after_help = "Example:\n  segd status -o json")]
    Status(StatusArgs),
    /// List the segments of the policy in force
    #[command(after_help = "Example:\n  segd segments")]
    Segments(SegmentsArgs),
    /// List which cgroup is in which segment, and by which line of the policy
    #[command(after_help = "Example:\n  segd workloads -o yaml")]
    Workloads(WorkloadsArgs),
    /// Print the flow log
    #[command(after_help = "Example:\n  segd flows --follow --verdict denied --to db")]
    Flows(FlowsArgs),
    /// Propose a minimal policy for the traffic that is seen, or additions to a policy
    #[command(
        after_help = "Example:\n  segd learn --for 10m > learned.yaml\n  segd learn --for 10m --merge policy | git apply"
    )]
    Learn(LearnArgs),
    /// Read the policy again now, and wait until it is in force
    #[command(after_help = "Example:\n  segd reload")]
    Reload(ReloadArgs),
    /// Show what this kernel and host support; exit code 1 if something is degraded, 3 if segd cannot run
    #[command(after_help = "Example:\n  segd doctor --interface eth0")]
    Doctor(DoctorArgs),
    /// Detach everything and remove every pin, with the daemon running or dead
    #[command(after_help = "Example:\n  segd unload")]
    Unload(UnloadArgs),
    /// Print a shell's completions
    #[command(after_help = "Example:\n  segd completions bash > /usr/share/bash-completion/completions/segd")]
    Completions(CompletionsArgs),
    /// Write the man pages
    #[command(after_help = "Example:\n  segd man /usr/share/man/man1")]
    Man(ManArgs),
    /// The child of the health probe
    #[command(hide = true)]
    Probe,
}

/// The entry point. A wrong usage ends here with exit code 2, help and version with 0.
#[must_use]
pub fn main() -> ExitCode {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let matches = without_empty(Cli::command(), &is_empty).try_get_matches();
    let command = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli.command,
        Err(error) => {
            // A reader that went away is no reason to fail.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(crate::command::INVALID));
        }
    };
    match command {
        Command::Run(args) => {
            log::start("info");
            args.run()
        }
        other => {
            log::start("warn");
            other.run()
        }
    }
}

/// The one variable whose empty value is not as if it were unset: what it asks for must not go missing silently.
const NEVER_EMPTY: &str = "SEGD_REQUIRE_SIGNATURE";

/// The usage, where an empty variable is as good as none: `EnvironmentFile=` and Kubernetes set such.
fn without_empty(command: clap::Command, is_empty: &impl Fn(&OsStr) -> bool) -> clap::Command {
    let command = command.mut_args(|flag| match flag.get_env() {
        Some(name) if name != NEVER_EMPTY && is_empty(name) => flag.env(clap::builder::Resettable::Reset),
        _ => flag,
    });
    command.mut_subcommands(|command| without_empty(command, is_empty))
}

impl Command {
    fn run(self) -> ExitCode {
        match self {
            Command::Run(args) => args.run(),
            Command::Policy(command) => command.run(),
            Command::Apply(args) => args.run(),
            Command::Confirm(args) => args.confirm(),
            Command::Rollback(args) => args.rollback(),
            Command::Status(args) => args.run(),
            Command::Segments(args) => args.run(),
            Command::Workloads(args) => args.run(),
            Command::Flows(args) => args.run(),
            Command::Learn(args) => args.run(),
            Command::Reload(args) => args.run(),
            Command::Doctor(args) => args.run(),
            Command::Unload(args) => args.run(),
            Command::Completions(args) => args.run(),
            Command::Man(args) => args.run(),
            Command::Probe => crate::command::probe::run(),
        }
    }
}

#[cfg(test)]
mod tests;
