//! What `segd learn` proposes, as data.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::policy::learn::{Rule, Segment};

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Learned {
    /// The policy, or the patch, as `-o yaml` prints it.
    pub text: String,
    /// Whether `text` is a patch.
    pub patch: bool,
    /// How many flows it was learned from.
    pub flows: u64,
    /// Segments to add.
    pub segments: Vec<LearnedSegment>,
    /// Rules to add.
    pub rules: Vec<LearnedRule>,
    /// Flows that it does not open: why, and how many.
    pub left_out: BTreeMap<String, u64>,
    /// Flows that a guardrail of the policy forbids, one line each.
    pub guarded: Vec<String>,
    /// What may make the proposal incomplete.
    pub warnings: Vec<String>,
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LearnedSegment {
    /// Its name.
    pub name: String,
    /// Its matchers, as text: `systemd: nginx.service`.
    #[serde(rename = "match")]
    pub members: Vec<String>,
    /// What to know about it.
    pub remarks: Vec<String>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LearnedRule {
    /// Who starts.
    pub from: String,
    /// Towards whom.
    pub to: String,
    /// On what.
    pub ports: Vec<String>,
    /// How many flows it is for.
    pub flows: u64,
    /// The first of them.
    pub example: String,
    /// What to know about it.
    pub remarks: Vec<String>,
}

impl From<&Segment> for LearnedSegment {
    fn from(segment: &Segment) -> LearnedSegment {
        LearnedSegment {
            name: segment.name.clone(),
            members: segment.members.iter().map(ToString::to_string).collect(),
            remarks: segment.remarks.clone(),
        }
    }
}

impl From<&Rule> for LearnedRule {
    fn from(rule: &Rule) -> LearnedRule {
        LearnedRule {
            from: rule.from.clone(),
            to: rule.to.clone(),
            ports: rule.ports.clone(),
            flows: rule.flows,
            example: rule.example.clone(),
            remarks: rule.remarks.clone(),
        }
    }
}
