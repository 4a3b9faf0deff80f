//! What the kernel tables hold, told before anything is compiled.

use segd_common::{
    segment::{FIRST_SEGMENT, MAX_SEGMENTS},
    tables::MAX_RULES,
    workload::{MAX_EDGES, MAX_UNIT_PATTERNS},
};

use super::{Resolver, defined::Claim};
use crate::policy::{
    diagnostic::{Code, Diagnostic, Span},
    model::SelectorKind,
    numbers::Numbers,
};

/// What the matchers of a policy need.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Path components, units and users.
    edges: usize,
    /// Unit names with a `*`, and the first that is too many.
    patterns: (usize, Option<Span>),
}

impl Needs {
    /// Of all matchers.
    pub(super) fn of(claims: &[Claim]) -> Needs {
        let (mut steps, mut known): (Vec<&[String]>, Numbers) = Default::default();
        let mut units = 0;
        let mut patterns: Vec<Span> = Vec::new();
        for (_, kind, span) in claims {
            match kind {
                SelectorKind::Cgroup(components) => {
                    for path in (1..=components.len()).filter_map(|len| components.get(..len)) {
                        let next = steps.len() as u32;
                        let is = |number: u32| steps.get(number as usize) == Some(&path);
                        if known.number(path, next, is) == next {
                            steps.push(path);
                        }
                    }
                }
                SelectorKind::Systemd(unit) => {
                    // The socket unit of a service takes a place of its own.
                    let names = if unit.ends_with(".service") { 2 } else { 1 };
                    if unit.contains('*') {
                        patterns.extend(std::iter::repeat_n(*span, names));
                    } else {
                        units += names;
                    }
                }
                SelectorKind::UserName(_) | SelectorKind::UserId(_) => units += 1,
                SelectorKind::Cidr { .. } => {}
            }
        }
        Needs {
            edges: steps.len() + units,
            patterns: (patterns.len(), patterns.get(MAX_UNIT_PATTERNS).copied()),
        }
    }
}

impl Resolver<'_> {
    pub(super) fn capacity(&mut self) {
        let Needs {
            edges,
            patterns: (patterns, slow),
        } = self.defined.needs;
        let segments = self.policy.segments.len();
        let rules = self.policy.rules.len();
        self.at_most("segments", segments, MAX_SEGMENTS - usize::from(FIRST_SEGMENT));
        self.at_most("rules", rules, MAX_RULES);
        self.at_most(
            "cgroup path components, units and users",
            edges,
            MAX_EDGES as usize,
        );
        if let Some(span) = slow {
            let message = format!(
                "{patterns} unit names with a `*` are matched (a service counts twice, for its socket); \
                 the kernel matches {MAX_UNIT_PATTERNS}"
            );
            let diagnostic = Diagnostic::warning(Code::SlowSelector, span, message);
            self.report(
                diagnostic.help(
                    "new units that the rest could match are denied until the daemon has looked at them",
                ),
            );
        }
    }

    fn at_most(&mut self, what: &str, needed: usize, available: usize) {
        if needed > available {
            let message = format!("the policy needs {needed} {what}; the kernel tables hold {available}");
            self.report(Diagnostic::general(Code::Capacity, message));
        }
    }
}
