//! What goes over the control socket: one line of JSON each way, more lines for flows.

use serde::{Deserialize, Serialize};

use super::{
    dry_run::DryRun,
    types::{
        Applied, Candidate, Explanation, FlowRecord, ForeignRow, Question, Reloaded, RuleRow, SegmentRow,
        Status, Stopping, WorkloadRow,
    },
};

/// The version of the protocol. A daemon refuses other versions in words.
pub const VERSION: u32 = 1;
/// The longest request line, its newline included.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// The longest line of [`Request::Apply`] or [`Request::DryRun`] by somebody who may: the largest policy fits, as JSON writes usual text.
pub const MAX_APPLY_BYTES: usize = 2 * crate::source::MAX_BYTES as usize;

/// A message with the protocol's version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// [`VERSION`].
    pub version: u32,
    /// The message.
    pub body: T,
}

impl<T> Envelope<T> {
    /// Wraps a message in this version.
    pub fn new(body: T) -> Envelope<T> {
        Envelope {
            version: VERSION,
            body,
        }
    }
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// What is in force.
    Status,
    /// The segments of the policy in force.
    Segments,
    /// Which cgroup is in which segment.
    Workloads,
    /// The rules in force, and how they are used.
    Rules,
    /// The flow log.
    Flows(FlowQuery),
    /// Sockets in other hands than their makers'. The daemon walks every open file of the host for it.
    Foreign,
    /// A verdict of the policy in force.
    Explain(Question),
    /// Read the policy again now.
    Reload,
    /// Put a policy in force.
    Apply(Candidate),
    /// Say what a policy would change. Changes nothing; whoever asks hears the policy in force, word for word.
    DryRun(Candidate),
    /// Keep the policy that is on trial.
    Confirm,
    /// Put back the policy before the one in force.
    Rollback,
    /// Stop the daemon; what is attached stays attached.
    Stop,
}

impl Request {
    /// Whether it changes something, or makes the daemon work hard: only root, or the user segd runs as, may ask.
    #[must_use]
    pub fn writes(&self) -> bool {
        match self {
            Request::DryRun(_)
            | Request::Foreign
            | Request::Reload
            | Request::Apply(_)
            | Request::Confirm
            | Request::Rollback
            | Request::Stop => true,
            Request::Status
            | Request::Segments
            | Request::Workloads
            | Request::Rules
            | Request::Flows(_)
            | Request::Explain(_) => false,
        }
    }
}

/// Which flows a client wants.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowQuery {
    /// At most this many that were already recorded, the newest.
    pub last: usize,
    /// Whether to stay and send new ones.
    pub follow: bool,
    /// Which of them.
    pub filter: FlowFilter,
}

/// Which flows: different fields must all match, an empty field matches everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowFilter {
    /// Any of these verdicts.
    pub verdict: Vec<String>,
    /// Any of these initiating segments.
    pub from: Vec<String>,
    /// Any of these segments on the other side.
    pub to: Vec<String>,
}

impl FlowFilter {
    /// Whether a flow is wanted.
    #[must_use]
    pub fn matches(&self, flow: &FlowRecord) -> bool {
        let any = |wanted: &[String], have: &str| wanted.is_empty() || wanted.iter().any(|one| one == have);
        any(&self.verdict, &flow.verdict) && any(&self.from, &flow.from) && any(&self.to, &flow.to)
    }
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Segments`].
    Segments(Vec<SegmentRow>),
    /// To [`Request::Workloads`].
    Workloads(Vec<WorkloadRow>),
    /// To [`Request::Rules`].
    Rules(Vec<RuleRow>),
    /// To [`Request::Foreign`].
    Foreign(Vec<ForeignRow>),
    /// To [`Request::Flows`]: one each.
    Flow(Box<FlowRecord>),
    /// The client was too slow: so many flows were left out here.
    Missed(u64),
    /// No more flows come.
    End,
    /// To [`Request::Explain`].
    Explanation(Box<Explanation>),
    /// To [`Request::Reload`].
    Reloaded(Reloaded),
    /// To [`Request::Apply`], [`Request::Confirm`] and [`Request::Rollback`].
    Applied(Applied),
    /// To [`Request::DryRun`].
    DryRun(Box<DryRun>),
    /// To [`Request::Stop`]. The connection stays open until the daemon ends.
    Stopping(Stopping),
    /// It cannot be answered.
    Refused(Refusal),
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What kind of no.
    pub kind: RefusalKind,
    /// What is wrong, one line.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Refusal {
    /// A refusal without a help line.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Refusal {
        Refusal {
            kind,
            message: message.into(),
            help: None,
        }
    }

    /// The same with a help line.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Refusal {
        self.help = Some(help.into());
        self
    }
}

/// What kind of no; the client's exit code follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// The request makes no sense (an unknown segment, a port that is none). Exit code 2.
    Invalid,
    /// Not now: nothing is on trial, or something is. Exit code 1.
    Conflict,
    /// This user may not ask. Exit code 3.
    Forbidden,
    /// Too many clients, or not ready yet. Exit code 3.
    Busy,
    /// segd failed. Exit code 4.
    Internal,
}
