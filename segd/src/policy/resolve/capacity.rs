//! What the kernel tables hold, told before anything is compiled.

use std::collections::BTreeSet;

use segd_common::{
    segment::{FIRST_SEGMENT, MAX_SEGMENTS},
    tables::MAX_RULES,
    workload::{MAX_EDGES, MAX_UNIT_PATTERNS},
};

use super::Resolver;
use crate::policy::{
    diagnostic::{Code, Diagnostic},
    model::SelectorKind,
};

impl Resolver<'_> {
    pub(super) fn capacity(&mut self) {
        let mut steps: BTreeSet<&[String]> = BTreeSet::new();
        let (mut units, mut patterns) = (0, 0);
        for claim in &self.claims {
            match &claim.selector.kind {
                SelectorKind::Cgroup(components) => {
                    steps.extend((1..=components.len()).filter_map(|len| components.get(..len)));
                }
                SelectorKind::Systemd(unit) => {
                    // The socket unit of a service takes a place of its own.
                    let names = if unit.ends_with(".service") { 2 } else { 1 };
                    match unit.matches('*').count() {
                        0 => units += names,
                        1 => patterns += names,
                        _ => {}
                    }
                }
                SelectorKind::UserName(_) | SelectorKind::UserId(_) => units += 1,
                SelectorKind::Cidr { .. } => {}
            }
        }
        let edges = steps.len() + units;
        let segments = self.policy.segments.len();
        let rules = self.policy.rules.len();
        self.at_most("segments", segments, MAX_SEGMENTS - usize::from(FIRST_SEGMENT));
        self.at_most("rules", rules, MAX_RULES);
        self.at_most(
            "cgroup path components, units and users",
            edges,
            MAX_EDGES as usize,
        );
        self.at_most(
            "unit names with a `*` (a service counts twice, for its socket)",
            patterns,
            MAX_UNIT_PATTERNS,
        );
    }

    fn at_most(&mut self, what: &str, needed: usize, available: usize) {
        if needed > available {
            let message = format!("the policy needs {needed} {what}; the kernel tables hold {available}");
            self.report(Diagnostic::general(Code::Capacity, message));
        }
    }
}
