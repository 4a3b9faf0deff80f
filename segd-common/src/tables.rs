//! The compiled policy: exactly what the kernel reads, whatever the number of rules.
//!
//! `class(from, to)` names an interned set of port ranges; class 0, the zeroed value, is deny.

use crate::{segment::MAX_SEGMENTS, service::Service, verdict::RuleIndex};

/// How many port sets there may be, the empty class 0 included.
pub const MAX_CLASSES: usize = 16 * 1024;
/// How many port ranges all sets may have together.
pub const MAX_RANGES: usize = 64 * 1024;
/// How many rules can be told apart in `segd_rule_hits_total`.
pub const MAX_RULES: usize = 64 * 1024;
/// The longest search in one set: a set has at most `2^MAX_STEPS` ranges.
pub const MAX_STEPS: u32 = 16;

/// Set in [`PortRange::rule`]: a guardrail, not an allow.
pub const RULE_DENY: RuleIndex = 1 << 31;
/// [`PortRange::rule`] of traffic inside a segment whose `intra` is `allow`.
pub const RULE_INTRA: RuleIndex = (1 << 30) | 1;
/// [`PortRange::rule`] of `host` traffic the policy does not enforce.
pub const RULE_HOST: RuleIndex = (1 << 30) | 2;

/// Set in [`PortRange::rule`]: the rule ends by itself, at what [`PolicyTables::ends`] says.
pub const RULE_UNTIL: RuleIndex = 1 << 29;

/// The whole policy only observes (`segd run --mode audit`, `spec.mode: audit`).
pub const TABLES_AUDIT: u32 = 1 << 0;
/// The tables are complete. The zeroed value is not a policy.
pub const TABLES_VALID: u32 = 1 << 1;

/// One interned port set: `len` ranges from `first`, sorted, disjoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct PortSet {
    /// Index of the first range.
    pub first: u32,
    /// How many.
    pub len: u32,
}

/// Services `low..=high` and the rule that decides them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct PortRange {
    /// The first service.
    pub low: Service,
    /// The last service.
    pub high: Service,
    /// The rule, with [`RULE_DENY`] for a guardrail or [`RULE_UNTIL`] if it ends, or one of the `RULE_` constants.
    pub rule: RuleIndex,
}

/// One revision of the policy, as it lies in the kernel: the value of one map slot.
#[repr(C)]
pub struct PolicyTables {
    /// The revision, never 0 in a valid table.
    pub revision: u32,
    /// `TABLES_` flags.
    pub flags: u32,
    /// When each rule ends, in nanoseconds of the clock that counts from boot, suspended time included; 0 = never.
    pub ends: [u64; MAX_RULES],
    /// `SEGMENT_` flags by index.
    pub segments: [u32; MAX_SEGMENTS],
    /// Port sets by class.
    pub sets: [PortSet; MAX_CLASSES],
    /// All ranges.
    pub ranges: [PortRange; MAX_RANGES],
    /// The class of `from * MAX_SEGMENTS + to`.
    pub classes: [u16; MAX_SEGMENTS * MAX_SEGMENTS],
}

const _: () = assert!(size_of::<PortSet>() == 8);
const _: () = assert!(size_of::<PortRange>() == 12);
const _: () = assert!(
    size_of::<PolicyTables>()
        == 8 + 8 * MAX_RULES
            + 4 * MAX_SEGMENTS
            + 8 * MAX_CLASSES
            + 12 * MAX_RANGES
            + 2 * MAX_SEGMENTS * MAX_SEGMENTS
);

/// Read access to one revision of the policy.
pub trait Tables {
    /// `TABLES_` flags.
    fn flags(&self) -> u32;
    /// `SEGMENT_` flags of a segment; 0 for an index out of range.
    fn segment(&self, index: u16) -> u32;
    /// The class of a pair; 0 for an index out of range.
    fn class(&self, from: u16, to: u16) -> u16;
    /// The port set of a class; empty for class 0 and out of range.
    fn set(&self, class: u16) -> PortSet;
    /// The range at an index; `None` out of range.
    fn range(&self, index: u32) -> Option<PortRange>;
    /// Whether the time of a rule with [`RULE_UNTIL`] is over. Asked of no other; what is not known is over.
    fn is_over(&self, rule: RuleIndex) -> bool;
}
