//! What the daemon answers to `segd apply --dry-run`.

use serde::{Deserialize, Serialize};

use super::types::{Text, Word};

/// The policy in force, and what a candidate would end of the sessions that live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DryRun {
    /// The revision in force.
    pub revision: u32,
    /// `--mode`, which overrides what policies say.
    pub mode: Option<Word>,
    /// The policy in force.
    pub texts: Vec<Text>,
    /// TCP sessions of the host's network namespace that were judged under both policies; `None`: this kernel does not
    /// list them.
    pub sessions: Option<u64>,
    /// Such sessions of which only the next packet can show who they belong to.
    pub unclear: u64,
    /// Sessions that would be cut.
    pub cut: Vec<Ending>,
    /// The flow log's newest allowed flows that were judged, those of listed sessions excluded.
    pub flows: u64,
    /// How many seconds back they were started.
    pub flow_seconds: u64,
    /// Those of them that would be denied. They may have ended.
    pub flows_denied: Vec<Ending>,
}

/// A session or flow that has a right now and would have none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Ending {
    /// Who started it, under the policy in force.
    pub from: String,
    /// Towards whom.
    pub to: String,
    /// On what, as a policy writes it.
    pub port: String,
    /// The reason that it would be denied for.
    pub reason: Word,
    /// The guardrail, if one would.
    pub rule: Option<String>,
    /// Where that stands, `file:line`.
    pub location: Option<String>,
    /// The initiator's address.
    pub source: String,
    /// Its port, if the protocol has any.
    pub source_port: Option<u16>,
    /// The other side's address.
    pub destination: String,
    /// Its port.
    pub destination_port: Option<u16>,
    /// The initiator's cgroup path, if it lives on this host and is known.
    pub source_cgroup: Option<String>,
    /// The other side's.
    pub destination_cgroup: Option<String>,
}
