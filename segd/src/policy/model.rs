//! The resolved policy: every name found, every port parsed, every conflict excluded. Holds no serde type.

mod pieces;
mod rule;
mod written;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use jiff::Timestamp;
use segd_common::service::Service;

pub use pieces::Pieces;
pub use rule::{Home, Resting, Rule, Spot};
pub use written::{RuleLabel, Written};

use super::term::{State, Term};

/// One file of a policy, as it was read. Reading is the caller's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// How the user knows it: the path given or found.
    pub name: String,
    /// Its text, which everything that quotes it shares.
    pub text: Arc<str>,
}

/// Where something stands. Ordered by file, then line.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The source's name.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Whether denials drop or only count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Judge and drop.
    #[default]
    Enforce,
    /// Judge and count, but let pass.
    Audit,
}

/// All documents of a policy path, resolved into one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// The names of the documents, in source order.
    pub names: Vec<String>,
    /// By name; the built-in peers are not in it. Shared by policies that differ in their rules.
    pub segments: Arc<BTreeMap<String, Segment>>,
    /// `allow` and `deny`, in source order; each file's are a piece, which policies share in which it says the same.
    pub rules: Pieces<Rule>,
    /// `spec.defaults.host: enforce`.
    pub enforce_host: bool,
    /// `spec.release`.
    pub release: BTreeSet<String>,
    /// `spec.tests`, document by document.
    pub tests: Vec<TestCase>,
}

/// A named set of workloads and addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Its name.
    pub name: String,
    /// Where it is defined.
    pub location: Location,
    /// For peers by label.
    pub labels: BTreeMap<String, String>,
    /// The segment's own `mode`, else its document's `spec.mode`.
    pub mode: Mode,
    /// `intra: allow`, the default.
    pub intra: bool,
    /// Who belongs to it; any of them.
    pub selectors: Vec<Selector>,
}

/// A predicate that puts a workload or an address into a segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Selector {
    /// Where it stands.
    pub location: Location,
    /// What it matches.
    pub kind: SelectorKind,
}

/// What a selector matches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SelectorKind {
    /// A cgroup path from the cgroup root, as components; a component may hold `*`, and `**` stands for any number.
    Cgroup(Vec<String>),
    /// A unit name with its suffix, `*` allowed. A `.service` stands for the `.socket` of the same name too.
    Systemd(String),
    /// A user by name; the number is looked up where the policy is applied.
    UserName(String),
    /// A user by number.
    UserId(u32),
    /// Addresses, without those excepted.
    Cidr {
        /// The prefix, host bits clear.
        prefix: ipnet::IpNet,
        /// Prefixes inside it.
        except: Vec<ipnet::IpNet>,
    },
}

impl std::fmt::Display for SelectorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SelectorKind::Cgroup(components) => write!(f, "cgroup: /{}", components.join("/")),
            SelectorKind::Systemd(unit) => write!(f, "systemd: {unit}"),
            SelectorKind::UserName(name) => write!(f, "user: {name}"),
            SelectorKind::UserId(id) => write!(f, "user: {id}"),
            SelectorKind::Cidr { prefix, .. } => write!(f, "cidr: {prefix}"),
        }
    }
}

/// `allow` or `deny`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Opens.
    Allow,
    /// A guardrail: beats every `allow`.
    Deny,
}

impl Action {
    /// The word used in policies.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Action::Allow => "allow",
            Action::Deny => "deny",
        }
    }
}

/// One end of a rule after resolution: a segment or a built-in peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// `host`.
    Host,
    /// `world`.
    World,
    /// A segment by name.
    Segment(String),
}

impl Policy {
    /// The policy at a time: rules that open nothing then keep their numbers, and match nothing; those in a window end with it.
    #[must_use]
    pub fn at(&self, time: Timestamp) -> Cow<'_, Policy> {
        self.with_terms(|rule| match rule.term.at(time) {
            // No end in sight is still no rule for good.
            State::Open(end) => rule.term = Arc::new(Term::until(Some(end.unwrap_or(Timestamp::MAX)))),
            State::Shut(opens) => {
                let services = std::mem::take(&mut rule.services);
                rule.rest(Resting { services, opens });
            }
        })
    }

    /// The policy as if every rule held for good.
    #[must_use]
    pub fn always(&self) -> Cow<'_, Policy> {
        self.with_terms(|rule| rule.term = Arc::default())
    }

    /// Changes every rule that does not hold for good; most policies have none.
    fn with_terms(&self, change: impl Fn(&mut Rule)) -> Cow<'_, Policy> {
        let lasts = |rule: &Rule| rule.term.is_lasting();
        if self.rules.iter().all(lasts) {
            return Cow::Borrowed(self);
        }
        let mut policy = self.clone();
        policy.rules.change(|rule| !lasts(rule), change);
        Cow::Owned(policy)
    }
}

/// What the policy's author expects of it.
#[derive(Clone, Debug, PartialEq)]
pub struct TestCase {
    /// Where it stands.
    pub location: Location,
    /// `<document name>/tests[3]`, counted from 0.
    pub label: String,
    /// What the user wrote.
    pub text: Written,
    /// Who starts: each of them.
    pub from: Parties,
    /// Towards whom: each of them.
    pub to: Parties,
    /// On what: all of it. Sorted, disjoint and not adjacent.
    pub services: Vec<(Service, Service)>,
    /// What every answer has to be.
    pub expect: Action,
}

/// One end of a test; never empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Parties {
    /// As in a rule.
    pub peers: Arc<BTreeSet<Peer>>,
    /// Single addresses: whoever claims them.
    pub addresses: Vec<IpAddr>,
}
