//! What this kernel and host support, and what would be degraded: asked by `segd doctor` and by every start.
//!
//! A check is a file with one function `check(&Host) -> Finding` and a line in [`CHECKS`]. It finds out by trying,
//! changes nothing, and works without a daemon; what it cannot tell without root it calls [`State::Unknown`].
//! INVARIANT: what a start refuses is a check that finds [`State::Missing`], by the very same function.

mod privilege;
mod kernel;
mod btf;
mod cgroup;
mod cgroup_write;
mod cgroup_v1;
mod bpffs;
mod programs;
mod helpers;
mod maps;
mod foreign;
mod namespaces;
mod interface;
mod jit;
mod unprivileged;
pub mod lsm;
mod tcx;
mod socket_destroy;
mod grace_period;

use std::path::PathBuf;

use crate::{datapath, report::chain, workload::error::WorkloadError};

/// Every check of the host, in the order of the answer: what segd cannot run without comes first.
const CHECKS: &[fn(&Host) -> Finding] = &[
    privilege::check,
    kernel::check,
    cgroup::check,
    bpffs::check,
    btf::check,
    programs::check,
    helpers::check,
    maps::check,
    cgroup_v1::check,
    foreign::check,
    namespaces::check,
    cgroup_write::check,
    jit::check,
    unprivileged::check,
    lsm::check,
    tcx::check,
    socket_destroy::check,
    grace_period::check,
];

/// What segd is, or would be, started with.
#[derive(Clone, Debug)]
pub struct Host {
    /// `--cgroup-root`; default: the cgroup2 mount.
    pub cgroup_root: Option<PathBuf>,
    /// `--pin-dir`.
    pub pin_dir: PathBuf,
    /// `--interface`.
    pub interfaces: Vec<String>,
}

/// What became of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Supported.
    Ok,
    /// Not to be told without more privilege.
    Unknown,
    /// segd runs without it, at a price.
    Degraded,
    /// segd cannot run without it.
    Missing,
}

impl State {
    /// The word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Unknown => "unknown",
            State::Degraded => "degraded",
            State::Missing => "missing",
        }
    }
}

/// The answer to one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The check.
    pub name: String,
    /// What became of it.
    pub state: State,
    /// What was found, a sentence.
    pub found: String,
    /// What that costs.
    pub cost: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Finding {
    fn new(name: &str, state: State, found: impl Into<String>) -> Finding {
        Finding {
            name: name.to_owned(),
            state,
            found: found.into(),
            cost: None,
            help: None,
        }
    }

    /// Supported.
    pub fn ok(name: &str, found: impl Into<String>) -> Finding {
        Finding::new(name, State::Ok, found)
    }

    /// Not to be told without more privilege.
    pub fn unknown(name: &str, found: impl Into<String>) -> Finding {
        Finding::new(name, State::Unknown, found)
    }

    /// segd runs without it, at a price.
    pub fn degraded(name: &str, found: impl Into<String>, cost: impl Into<String>) -> Finding {
        Finding {
            cost: Some(cost.into()),
            ..Finding::new(name, State::Degraded, found)
        }
    }

    /// segd cannot run without it.
    pub fn missing(name: &str, found: impl Into<String>) -> Finding {
        Finding {
            cost: Some("segd does not start".to_owned()),
            ..Finding::new(name, State::Missing, found)
        }
    }

    /// With what to do about it.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Finding {
        Finding {
            help: Some(help.into()),
            ..self
        }
    }

    /// What a start could not do, as a finding: unknown where the asker alone is to blame.
    fn refused(name: &str, error: &datapath::Error) -> Finding {
        match error {
            datapath::Error::Host { what, help } => Finding::missing(name, what).help(help),
            other if !privilege::is_complete() => Finding::unknown(name, chain(other)),
            other => Finding::missing(name, chain(other)),
        }
    }

    /// The finding and its price in one line, for the log and for status.
    #[must_use]
    pub fn line(&self) -> String {
        match &self.cost {
            Some(cost) => format!("{}: {}: {cost}", self.name, self.found),
            None => format!("{}: {}", self.name, self.found),
        }
    }
}

/// What to do where the cgroup hierarchy is not as it must be.
#[must_use]
pub fn cgroup_help(error: &WorkloadError) -> Option<&'static str> {
    match error {
        WorkloadError::NoCgroup2 => Some("mount it: mount -t cgroup2 none /sys/fs/cgroup"),
        WorkloadError::NotCgroup2(_) => Some("--cgroup-root takes the cgroup2 mount"),
        _ => None,
    }
}

/// Runs every check.
#[must_use]
pub fn examine(host: &Host) -> Vec<Finding> {
    let interfaces = host
        .interfaces
        .iter()
        .map(|interface| interface::check(host, interface));
    CHECKS.iter().map(|check| check(host)).chain(interfaces).collect()
}

/// The worst of all findings.
#[must_use]
pub fn worst(findings: &[Finding]) -> State {
    findings
        .iter()
        .map(|finding| finding.state)
        .max()
        .unwrap_or(State::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            cgroup_root: None,
            pin_dir: crate::cli::PIN_DIR.into(),
            interfaces: vec!["lo".to_owned()],
        }
    }

    #[test]
    fn names_each_check_once_and_every_price() {
        let findings = examine(&host());
        assert_eq!(findings.len(), CHECKS.len() + 1);
        let names: std::collections::BTreeSet<_> = findings.iter().map(|finding| &finding.name).collect();
        assert_eq!(names.len(), findings.len(), "{names:?}");
        for finding in findings {
            assert!(!finding.found.is_empty(), "{finding:?}");
            let priced = matches!(finding.state, State::Degraded | State::Missing);
            assert_eq!(finding.cost.is_some(), priced, "{finding:?}");
        }
    }

    #[test]
    fn the_worst_state_is_the_answer() {
        let ok = Finding::ok("a", "b");
        let degraded = Finding::degraded("a", "b", "c");
        assert_eq!(worst(&[]), State::Ok);
        assert_eq!(worst(&[ok.clone(), degraded.clone()]), State::Degraded);
        assert_eq!(worst(&[Finding::missing("a", "b"), degraded, ok]), State::Missing);
    }

    #[test]
    fn misses_what_a_start_would_refuse() {
        let host = Host {
            cgroup_root: Some("/proc".into()),
            pin_dir: "/tmp/segd".into(),
            interfaces: vec!["no-such-one".to_owned()],
        };
        let findings = examine(&host);
        for name in ["cgroup2", "bpffs", "xdp:no-such-one"] {
            let finding = findings.iter().find(|finding| finding.name == name);
            assert_eq!(
                finding.map(|finding| finding.state),
                Some(State::Missing),
                "{name}: {finding:?}"
            );
        }
    }
}
