//! What the user wrote, field by field, before any name is looked up.
//!
//! INVARIANT: a field that is accepted here is enforced; what is not supported yet is refused by name.
//! Deliberately absent: knowledge of other documents.

pub mod allowance;
pub mod cuts;
mod decode;
pub mod edit;
pub mod fields;
pub mod rules;
pub mod spans;
pub mod tree;

pub use decode::{documents, documents_of};
pub use rules::Rules;

use super::{
    diagnostic::Span,
    model::{Action, Mode},
};

/// The only `apiVersion`.
pub const API_VERSION: &str = "segd.dev/v1";
/// The only `kind`.
pub const KIND: &str = "SegmentPolicy";

/// A text and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// As it was meant: without quotes.
    pub value: String,
    /// Where.
    pub span: Span,
}

/// One YAML document.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// `metadata.name`.
    pub name: Option<Text>,
    /// `spec.mode`.
    pub mode: Option<(Mode, Span)>,
    /// `spec.segments`, in order.
    pub segments: Vec<SegmentEntry>,
    /// `spec.allow`, then `spec.deny`.
    pub rules: Rules,
    /// `spec.defaults.host: enforce`.
    pub enforce_host: bool,
    /// `spec.release`.
    pub release: Vec<Text>,
    /// `spec.tests`.
    pub tests: Vec<TestEntry>,
}

impl Document {
    /// What its rules and tests are labelled after.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_ref().map_or("policy", |name| name.value.as_str())
    }
}

/// One entry of `spec.segments`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentEntry {
    /// Its key.
    pub name: Text,
    /// `labels`, in order, keys unique.
    pub labels: Vec<(Text, Text)>,
    /// `mode`.
    pub mode: Option<Mode>,
    /// `intra: deny` makes it false.
    pub intra: bool,
    /// `match`.
    pub matchers: Vec<Matcher>,
}

/// One entry of `match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matcher {
    /// Where its value stands.
    pub span: Span,
    /// What it matches.
    pub kind: MatcherKind,
}

/// What a matcher says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MatcherKind {
    /// `cgroup:`.
    Cgroup(Text),
    /// `systemd:`.
    Systemd(Text),
    /// `user:` with a name.
    UserName(Text),
    /// `user:` with a number.
    UserId(u32),
    /// `cidr:` and `except:`.
    Cidr {
        /// The prefix.
        prefix: Text,
        /// Prefixes taken out of it.
        except: Vec<Text>,
    },
}

/// One entry of `allow` or `deny`.
#[derive(Clone, Debug)]
pub struct RuleEntry {
    /// Where it starts.
    pub span: Span,
    /// All of it.
    pub extent: Span,
    /// In which list it stands.
    pub action: Action,
    /// Its number there, from 0.
    pub index: usize,
    /// `from`; `None` if it could not be read.
    pub from: Option<Peers>,
    /// `to`; `None` if it could not be read.
    pub to: Option<Peers>,
    /// `ports`.
    pub ports: Ports,
    /// `reason`.
    pub reason: Option<String>,
    /// `until`.
    pub until: Option<Text>,
    /// `when`: one entry or several; `None` if there is no such field, or it has been reported.
    pub when: Option<Vec<WindowEntry>>,
}

/// One entry of `when`.
#[derive(Clone, Debug)]
pub struct WindowEntry {
    /// Where it starts.
    pub span: Span,
    /// `days`; never empty.
    pub days: Vec<Text>,
    /// `hours`.
    pub hours: Text,
    /// `zone`.
    pub zone: Text,
}

/// One entry of `tests`.
#[derive(Clone, Debug)]
pub struct TestEntry {
    /// Where it starts.
    pub span: Span,
    /// All of it.
    pub extent: Span,
    /// Its number, from 0.
    pub index: usize,
    /// `from`: as in a rule, and addresses.
    pub from: Peers,
    /// `to`: as in a rule, and addresses.
    pub to: Peers,
    /// `port`: never `Every`.
    pub ports: Ports,
    /// `expect`.
    pub expect: Action,
}

/// What a rule says about ports.
#[derive(Clone, Debug)]
pub enum Ports {
    /// Nothing, which a `deny` rule may: every port.
    Every,
    /// These.
    Listed(Vec<Text>),
    /// Something that has been reported, and perhaps these; the rule cannot be used.
    Unreadable(Vec<Text>),
}

/// One end of a rule, as written.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Where it stands.
    pub span: Span,
    /// What it says.
    pub kind: PeersKind,
}

/// The two ways to write an end of a rule.
#[derive(Clone, Debug)]
pub enum PeersKind {
    /// A name or a list of names.
    Names(Vec<Text>),
    /// Labels, all of which must match.
    Labels(Vec<(Text, Text)>),
}
