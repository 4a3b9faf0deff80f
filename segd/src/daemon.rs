//! `segd run`: load, attach, tag, enforce, watch, serve (skeleton).

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

/// What `segd run` was asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Files and directories of the policy.
    pub policy: Vec<PathBuf>,
    /// `--mode`, which overrides the policy.
    pub mode: Option<crate::policy::model::Mode>,
    /// `--allow-empty`.
    pub allow_empty: bool,
    /// `--cgroup-root`; default: the cgroup2 mount.
    pub cgroup_root: Option<PathBuf>,
    /// `--pin-dir`.
    pub pin_dir: PathBuf,
    /// `--control`.
    pub control: PathBuf,
    /// `--control-group`: a group that may talk to the control socket beside root.
    pub control_group: Option<String>,
    /// `--metrics`; `None` for `--metrics none`.
    pub metrics: Option<SocketAddr>,
    /// `--interface`, for XDP.
    pub interfaces: Vec<String>,
    /// `--node-name`.
    pub node_name: String,
}

/// Runs the daemon until it is told to stop.
#[must_use]
pub fn run(_options: Options) -> ExitCode {
    ExitCode::from(4)
}
