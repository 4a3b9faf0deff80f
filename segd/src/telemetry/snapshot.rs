//! Everything the metrics need, read at one moment.

use segd_common::counter::{Counter, CounterKey};

/// What the daemon fills in at a scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The kernel's counters, summed over the CPUs.
    pub counters: Vec<(CounterKey, Counter)>,
    /// What did not fit into the kernel's table, summed over the CPUs.
    pub other: Counter,
    /// Segment names by index, see [`super::names::Names::to_vec`].
    pub names: Vec<String>,
    /// Hits by rule label, see [`super::hits::RuleHits::totals`].
    pub rule_hits: Vec<(String, u64)>,
    /// Rules that end by themselves, by label, each with the second of the calendar (Unix time).
    pub rule_ends: Vec<(String, u64)>,
    /// The revision in force; 0 = none.
    pub revision: u32,
    /// The git commit that it comes from, if that is known, and whether it is something else than that commit has.
    pub commit: Option<(String, bool)>,
    /// `files` or `applied`.
    pub policy_source: &'static str,
    /// Readings of the policy that succeeded.
    pub reload_success: u64,
    /// Readings of the policy that failed.
    pub reload_failure: u64,
    /// What stands in the followed files is refused, or cannot be read.
    pub files_refused: bool,
    /// Workloads by segment name.
    pub workloads: Vec<(String, u64)>,
    /// Events that did not fit into the ring buffer, summed over the CPUs.
    pub events_lost: u64,
    /// Kernel tables: name, entries, capacity.
    pub maps: Vec<(String, u64, u64)>,
    /// What was taken away from the kernel's side and put back, by kind.
    pub repairs: Vec<(&'static str, u64)>,
    /// Sessions that were ended because they had lost their right.
    pub sessions_cut: u64,
    /// Every program is attached and a probe was refused.
    pub enforcing: bool,
}
