//! The answers' shapes: what `-o json` prints. Documented in docs/cli.md; fields are added, never changed.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::policy::model::Source;

mod foreign;
mod kept;
mod proof;

pub use foreign::ForeignRow;
pub use kept::{Kept, KeptOf, TextOf};
pub use proof::{Commit, SealText, Signature};

/// A word from a closed list, or text.
pub type Word = Cow<'static, str>;

/// `segd status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// segd's version.
    pub version: String,
    /// `--node-name`.
    pub node: String,
    /// The daemon's process id.
    pub pid: u32,
    /// `--pin-dir`.
    pub pin_dir: String,
    /// When the daemon started, RFC 3339.
    pub started: String,
    /// `enforce` or `audit`: `audit` if nothing is dropped by policy.
    pub mode: Word,
    /// Every program is attached and a probe was refused.
    pub enforcing: bool,
    /// Why not.
    pub not_enforcing_because: Option<String>,
    /// The revision in force; 0 = none.
    pub revision: u32,
    /// `--policy`.
    pub policy_paths: Vec<String>,
    /// A hash of the policy's texts.
    pub policy_hash: String,
    /// Where the policy in force came from: `files` (`policy_paths`) or `applied` (`segd apply`).
    pub policy_source: Word,
    /// The git commit that the policy in force comes from, if that is known.
    pub policy_commit: Option<String>,
    /// What is in force is not what that commit has.
    pub policy_dirty: Option<bool>,
    /// `git`: segd asked it; `client`: whoever applied the policy says so.
    pub policy_commit_by: Option<Word>,
    /// The serial of the policy in force, if it had to be signed.
    pub policy_serial: Option<u64>,
    /// Who signed it.
    pub policy_signer: Option<String>,
    /// The revision in force is on trial.
    pub trial: Option<Trial>,
    /// The last time the policy was read.
    pub last_reload: Option<Reload>,
    /// The kernel programs.
    pub programs: Vec<Program>,
    /// The kernel tables.
    pub maps: Vec<MapUse>,
    /// How many workloads are in a segment.
    pub workloads: u64,
    /// How many segments the policy has.
    pub segments: u64,
    /// How many network namespaces are kept for segments whose workloads have left.
    pub left_namespaces: u64,
    /// Events that did not fit into the ring buffer.
    pub events_lost: u64,
    /// Rules that end by themselves, the next one first.
    pub expiries: Vec<Expiry>,
    /// What is degraded, one sentence each.
    pub warnings: Vec<String>,
}

/// A rule that ends, or opens and shuts, by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Expiry {
    /// Its label.
    pub rule: String,
    /// Where it stands, `file:line`.
    pub location: String,
    /// What it does next: `ends`, for good; `shuts`, until its next window; `opens`; `over`: nothing any more.
    pub next: String,
    /// When, RFC 3339; if it is over, since when.
    pub until: String,
    /// How long that is from now; negative once it is over.
    pub seconds_left: i64,
}

/// A policy that has to be confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trial {
    /// The revision on trial.
    pub revision: u32,
    /// The revision that comes back if nobody confirms.
    pub before: u32,
    /// When it does, RFC 3339; a step of the calendar clock moves this, and not the deadline.
    pub until: String,
    /// How long that is from now.
    pub seconds_left: u64,
    /// The files that segd follows changed meanwhile, and wait for the end of the trial.
    pub files_wait: bool,
}

/// One reading of the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reload {
    /// `success` or `failure`.
    pub result: Word,
    /// When, RFC 3339.
    pub time: String,
    /// What was wrong.
    pub error: Option<String>,
}

/// A kernel program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Program {
    /// Where it sits: `cgroup_skb/egress`, `xdp/eth0`.
    pub hook: String,
    /// Whether it is attached now.
    pub attached: bool,
    /// The kernel's id of the link.
    pub link_id: Option<u32>,
    /// Anything worth knowing: `generic mode: the driver has no native XDP`.
    pub note: Option<String>,
}

/// How full a kernel table is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MapUse {
    /// The table.
    pub name: String,
    /// Entries in use.
    pub entries: u64,
    /// Entries it can hold.
    pub capacity: u64,
}

/// A line of `segd segments`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SegmentRow {
    /// Its name.
    pub name: String,
    /// Its identifier, the same on every host: 8 hexadecimal digits.
    pub id: String,
    /// Its index on this host.
    pub index: u16,
    /// `enforce` or `audit`.
    pub mode: Word,
    /// `allow` or `deny`: whether its members may talk to each other.
    pub intra: Word,
    /// How many cgroups are in it.
    pub workloads: u64,
    /// Its address prefixes.
    pub addresses: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Where it is defined, `file:line`.
    pub location: String,
}

/// A line of `segd workloads`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkloadRow {
    /// The path from the cgroup root.
    pub cgroup: String,
    /// The kernel's id of the cgroup.
    pub id: u64,
    /// The segment it is in; `host` if none claims it.
    pub segment: String,
    /// What put it there, as in the policy: `systemd: nginx.service`.
    pub selector: Option<String>,
    /// Where that stands, `file:line`.
    pub location: Option<String>,
    /// `tagged`, `pending`, `orphaned`, `ambiguous` or `host`.
    pub state: Word,
    /// The ancestor it has its segment from, if it was not matched itself.
    pub inherited_from: Option<String>,
}

/// A rule in force and how it is used, for `segd policy check --live --unused-for`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleRow {
    /// Its label.
    pub rule: String,
    /// Where it stands, `file:line`.
    pub location: String,
    /// What stands there.
    pub text: String,
    /// How often it decided, as in `segd_rule_hits_total{rule}`.
    pub hits: u64,
    /// Since when this daemon watches it, RFC 3339.
    pub watched_since: String,
    /// When it was last seen to have decided since then.
    pub last_hit: Option<String>,
    /// How many ends of live TCP sessions in the host's network namespace it lets be.
    pub sessions: u64,
}

/// A line of `segd flows`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowRecord {
    /// RFC 3339, microseconds, UTC.
    pub time: String,
    /// The initiating segment.
    pub from: Arc<str>,
    /// The other side's segment.
    pub to: Arc<str>,
    /// `allowed`, `denied` or `audited`.
    pub verdict: Word,
    /// Why: a word from the list in docs/cli.md.
    pub reason: Word,
    /// The rule that decided, as in `segd_rule_hits_total{rule}`.
    pub rule: Option<Arc<str>>,
    /// Where the rule stands, `file:line`.
    pub location: Option<Arc<str>>,
    /// `tcp`, `udp`, `sctp`, `udplite`, `icmp`, `icmpv6` or `ip/N`.
    pub protocol: Word,
    /// The initiator's address.
    pub source: Arc<str>,
    /// The initiator's port.
    pub source_port: Option<u16>,
    /// The other side's address.
    pub destination: Arc<str>,
    /// The destination port.
    pub destination_port: Option<u16>,
    /// For ICMP and ICMPv6.
    pub icmp_type: Option<u8>,
    /// For ICMP and ICMPv6.
    pub icmp_code: Option<u8>,
    /// Where it was judged: `egress`, `ingress`, `connect`, `sendmsg` or `xdp`.
    pub hook: Word,
    /// The revision it was judged under.
    pub revision: u32,
    /// The git commit which that revision comes from, if that was known then.
    pub commit: Option<Arc<str>>,
    /// The local workload's cgroup path, if it is known.
    pub cgroup: Option<Arc<str>>,
    /// Its id; 0 = unknown.
    pub cgroup_id: u64,
    /// The peer's cgroup path, if it lives on this host.
    pub peer_cgroup: Option<Arc<str>>,
    /// Its id; 0 = unknown.
    pub peer_cgroup_id: u64,
    /// Bytes of the packet; 0 at a system call.
    pub bytes: u32,
    /// An established session lost its right here.
    pub revoked: bool,
}

/// What `segd policy explain` asks the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// A segment or built-in peer.
    pub from: String,
    /// A segment or built-in peer.
    pub to: String,
    /// As in a policy: `tcp/5432`.
    pub port: String,
}

/// A verdict, explained to its source line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Explanation {
    /// As asked.
    pub from: String,
    /// As asked.
    pub to: String,
    /// As asked.
    pub port: String,
    /// `allowed`, `denied` or `audited`.
    pub verdict: Word,
    /// Why.
    pub reason: Word,
    /// The rule that decided.
    pub rule: Option<String>,
    /// Where it stands, `file:line`.
    pub location: Option<String>,
    /// The revision that was asked.
    pub revision: Option<u32>,
}

/// The outcome of a reload that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reloaded {
    /// The revision in force now.
    pub revision: u32,
    /// Whether that is a new one.
    pub changed: bool,
}

/// A text of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// The file it comes from; locations in the answers name it.
    pub name: String,
    /// What the file says.
    pub text: String,
}

impl From<Text> for Source {
    fn from(Text { name, text }: Text) -> Source {
        let text = text.into();
        Source { name, text }
    }
}

impl From<&Source> for Text {
    fn from(source: &Source) -> Text {
        Text {
            name: source.name.clone(),
            text: source.text.to_string(),
        }
    }
}

/// What `segd apply` sends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The policy, as the client read it.
    pub texts: Vec<Text>,
    /// Accept a policy without a document, and empty files.
    #[serde(default)]
    pub allow_empty: bool,
    /// For how long it is on trial; without, it is in force for good.
    #[serde(default)]
    pub confirm_seconds: Option<u64>,
    /// Where the client says it comes from.
    #[serde(default)]
    pub commit: Option<Commit>,
    /// The signature beside the policy, if there is one.
    #[serde(default)]
    pub seal: Option<SealText>,
}

/// The outcome of `segd apply`, `confirm` and `rollback`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Applied {
    /// The revision in force now.
    pub revision: u32,
    /// The revision that was in force before.
    pub before: u32,
    /// If the new one has to be confirmed.
    pub trial: Option<Trial>,
    /// The files that segd follows do not say what is in force; they win when they change.
    pub differs_from_files: bool,
}

/// The daemon ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stopping {
    /// Its process id.
    pub pid: u32,
}

/// `/readyz`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Readiness {
    /// Whether segd enforces.
    pub ready: bool,
    /// The revision in force; 0 = none.
    pub revision: u32,
    /// Why it is not ready.
    pub reasons: Vec<String>,
}
