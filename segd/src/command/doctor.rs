//! `segd doctor`: what this kernel and host support. Exit code 1 if something is degraded, 3 if segd cannot run.

use std::{path::PathBuf, process::ExitCode};

use super::{CANNOT, NO, OutputArgs, YES, answer};
use crate::{
    cli,
    doctor::{Host, State, examine, worst},
    output::doctor::Diagnosis,
};

/// Flags of `segd doctor`: those of `segd run` that decide what the host must have.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// The root of the cgroup v2 tree [default: where cgroup2 is mounted]
    #[arg(long, env = "SEGD_CGROUP_ROOT", value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// Where programs, links and maps would be pinned
    #[arg(long, env = "SEGD_PIN_DIR", default_value = cli::PIN_DIR, value_name = "DIR")]
    pin_dir: PathBuf,
    /// A network interface that would get the XDP program; may be repeated
    #[arg(long, env = "SEGD_INTERFACE", value_delimiter = ',', value_name = "NAME")]
    interface: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

impl DoctorArgs {
    /// Runs it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let findings = examine(&Host {
            cgroup_root: self.cgroup_root,
            pin_dir: self.pin_dir,
            interfaces: self.interface,
        });
        let code = match worst(&findings) {
            State::Ok => YES,
            State::Unknown | State::Degraded => NO,
            State::Missing => CANNOT,
        };
        answer(self.output.output, &Diagnosis::from(findings.as_slice()), code)
    }
}
