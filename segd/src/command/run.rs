//! `segd run`: the daemon.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, str::FromStr};

use super::INVALID;
use crate::{
    cli,
    daemon::{Options, gate::Gate},
    policy::model::Mode,
    source::Trust,
    workload::users::{self, Asker, PATIENCE},
};

/// `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ModeArg {
    /// Judge and drop
    Enforce,
    /// Judge and count, but let pass
    Audit,
}

/// `--metrics`: an address and port, or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsArg(pub Option<SocketAddr>);

impl FromStr for MetricsArg {
    type Err = String;

    fn from_str(text: &str) -> Result<MetricsArg, String> {
        if text == "none" {
            return Ok(MetricsArg(None));
        }
        text.parse()
            .map(|address| MetricsArg(Some(address)))
            .map_err(|_| {
                "expected an address and port like 127.0.0.1:9464 or [::1]:9464, or `none`".to_string()
            })
    }
}

/// Flags of `segd run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Files and directories of the policy; a directory is read recursively (*.yaml, *.yml)
    #[arg(long, env = "SEGD_POLICY", required = true, num_args = 1.., value_name = "PATH")]
    policy: Vec<PathBuf>,
    /// A user, by name or number, whose policy files are believed beside root's; may be repeated
    #[arg(long, env = "SEGD_POLICY_OWNER", value_delimiter = ',', value_name = "USER", value_parser = user)]
    policy_owner: Vec<u32>,
    /// Believe only a policy that is signed by one of these signers (a file as of ssh-keygen(1), ALLOWED SIGNERS) and not
    /// older than the last one; takes one policy path. See `segd policy sign`
    #[arg(long, env = "SEGD_REQUIRE_SIGNATURE", value_name = "FILE", value_parser = signers)]
    require_signature: Option<PathBuf>,
    /// Where the serial of the last signed policy is kept
    #[arg(long, env = "SEGD_STATE_DIR", default_value = cli::STATE_DIR, value_name = "DIR")]
    state_dir: PathBuf,
    /// Keep the last policy that was in force for good in this file, and enforce it at a start where the policy has a mistake
    /// and nothing is in force yet, as after a boot [default: such a start fails]
    #[arg(long, env = "SEGD_LAST_GOOD", value_name = "FILE")]
    last_good: Option<PathBuf>,
    /// Override the policy's mode
    #[arg(long, env = "SEGD_MODE", value_enum, value_name = "MODE")]
    mode: Option<ModeArg>,
    /// Accept a policy without a document, every segment, rule and guardrail is gone then; and empty files
    #[arg(long, env = "SEGD_ALLOW_EMPTY", value_parser = clap::builder::BoolishValueParser::new(),
          num_args = 0..=1, default_missing_value = "true", default_value = "false",
          require_equals = true, hide_possible_values = true, value_name = "BOOL")]
    allow_empty: bool,
    /// The root of the cgroup v2 tree [default: where cgroup2 is mounted]
    #[arg(long, env = "SEGD_CGROUP_ROOT", value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// Where programs, links and maps are pinned, on a bpf filesystem
    #[arg(long, env = "SEGD_PIN_DIR", default_value = cli::PIN_DIR, value_name = "DIR")]
    pin_dir: PathBuf,
    /// The control socket to serve
    #[arg(long, env = "SEGD_CONTROL", default_value = cli::CONTROL, value_name = "PATH")]
    control: PathBuf,
    /// A group, by name or number, that may ask on the control socket beside root
    #[arg(long, env = "SEGD_CONTROL_GROUP", value_name = "GROUP")]
    control_group: Option<String>,
    /// Where to serve /metrics, /healthz and /readyz; `none` serves nothing
    #[arg(long, env = "SEGD_METRICS", default_value = cli::METRICS, value_name = "ADDRESS")]
    metrics: MetricsArg,
    /// A network interface that gets the XDP program; may be repeated
    #[arg(long, env = "SEGD_INTERFACE", value_delimiter = ',', value_name = "NAME")]
    interface: Vec<String>,
    /// Guard the pins: nobody but this daemon removes them, unmounts their file system, detaches segd's links or writes
    /// to its maps. Needs BPF LSM (`segd doctor`); ends with the daemon, so that `segd unload` works as ever
    #[arg(long, env = "SEGD_PROTECT", value_parser = clap::builder::BoolishValueParser::new(),
          num_args = 0..=1, default_missing_value = "true", default_value = "false",
          require_equals = true, hide_possible_values = true, value_name = "BOOL")]
    protect: bool,
    /// End TCP connections that a process of another segment holds, within a second: it moved to another cgroup, or was
    /// handed them [default: they keep the right of the segment that made them]
    #[arg(long, env = "SEGD_STRICT_SOCKETS", value_parser = clap::builder::BoolishValueParser::new(),
          num_args = 0..=1, default_missing_value = "true", default_value = "false",
          require_equals = true, hide_possible_values = true, value_name = "BOOL")]
    strict_sockets: bool,
    /// This host's name in status [default: the host name]
    #[arg(long, env = "SEGD_NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
}

impl RunArgs {
    /// What the daemon is asked to do.
    #[must_use]
    pub fn options(self) -> Options {
        Options {
            policy: self.policy,
            trust: Trust::of_daemon(&self.policy_owner),
            gate: self.require_signature.map(|signers| Gate {
                signers,
                state_dir: self.state_dir,
            }),
            last_good: self.last_good,
            mode: self.mode.map(|mode| match mode {
                ModeArg::Enforce => Mode::Enforce,
                ModeArg::Audit => Mode::Audit,
            }),
            allow_empty: self.allow_empty,
            cgroup_root: self.cgroup_root,
            pin_dir: self.pin_dir,
            control: self.control,
            control_group: self.control_group,
            metrics: self.metrics.0,
            strict_sockets: self.strict_sockets,
            protect: self.protect,
            interfaces: self
                .interface
                .into_iter()
                .filter(|name| !name.is_empty())
                .collect(),
            node_name: self.node_name.unwrap_or_else(host_name),
        }
    }

    /// Runs it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        if self.require_signature.is_some() && self.policy.len() != 1 {
            let help = "put the files into one directory: it is signed as a whole";
            return crate::output::fail(INVALID, "--require-signature takes one policy path", Some(help));
        }
        crate::daemon::run(self.options())
    }
}

/// A start waits for no directory service: who has to be asked about there is given as a number.
fn user(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let answers = Asker::new(users::ask).ask(&[text.to_owned()].into(), PATIENCE);
    match answers.get(text) {
        Some(Some(number)) => Ok(*number),
        Some(None) => Err("no user has this name".to_owned()),
        None => Err("the host's name service does not answer: give the user's number".to_owned()),
    }
}

/// An empty name is no reason to believe everybody.
fn signers(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err(
            "SEGD_REQUIRE_SIGNATURE, or the flag, is empty: name the file of allowed signers, or unset it"
                .to_owned(),
        );
    }
    Ok(PathBuf::from(text))
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_string())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_string())
}
