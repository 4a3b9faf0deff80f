//! One pair's rules laid over each other: a sorted list of disjoint ranges, each with the rule that decides it.

use std::{cmp::Reverse, collections::BTreeSet};

use jiff::Timestamp;

use segd_common::{
    service::{self, Service},
    tables::{PortRange, RULE_DENY, RULE_HOST, RULE_INTRA, RULE_UNTIL},
    verdict::RuleIndex,
};

use crate::policy::model::{Action, Rule};

/// What holds for a pair without any rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Base {
    /// Nothing is allowed.
    Nothing,
    /// Both sides are in one segment whose `intra` is `allow`; guardrails beat it.
    Intra,
    /// `host` and `world`, not enforced; nothing beats it.
    Host,
}

/// The ranges of a pair, sorted and disjoint; neighbours that one rule decides are one range.
pub fn of(rules: &[Rule], covering: &[usize], base: Base) -> Vec<PortRange> {
    if base == Base::Host {
        return vec![PortRange {
            low: 0,
            high: service::MAX,
            rule: RULE_HOST,
        }];
    }
    // Where something begins or ends, and what: guardrails sort before what opens, the first of each kind first.
    let mut edges: Vec<(Service, bool, (Layer, RuleIndex))> = Vec::new();
    for index in covering {
        let Some(rule) = rules.get(*index) else { continue };
        let number = RuleIndex::try_from(*index).unwrap_or(RuleIndex::MAX);
        let key = match (rule.action, rule.until) {
            (Action::Deny, _) => (Layer::Deny, number),
            (Action::Allow, None) => (Layer::Allow, number),
            (Action::Allow, Some(end)) => (Layer::Until(Reverse(end)), number),
        };
        for (low, high) in &rule.services {
            edges.push((*low, true, key));
            edges.push((high + 1, false, key));
        }
    }
    if base == Base::Intra {
        edges.push((0, true, (Layer::Intra, 0)));
        edges.push((service::MAX + 1, false, (Layer::Intra, 0)));
    }
    // Ends before beginnings: a rule's intervals are disjoint, so none is taken away that was just put in.
    edges.sort_unstable_by_key(|(at, begins, key)| (*at, *begins, *key));
    let mut active = BTreeSet::new();
    let mut ranges: Vec<PortRange> = Vec::new();
    let mut edges = edges.into_iter().peekable();
    while let Some((at, begins, key)) = edges.next() {
        if begins {
            active.insert(key);
        } else {
            active.remove(&key);
        }
        let Some((next, ..)) = edges.peek() else { break };
        if *next == at {
            continue;
        }
        let Some((action, number)) = active.first() else {
            continue;
        };
        let rule = match action {
            Layer::Deny => number | RULE_DENY,
            Layer::Allow => *number,
            Layer::Intra => RULE_INTRA,
            Layer::Until(_) => number | RULE_UNTIL,
        };
        match ranges.last_mut() {
            Some(last) if last.rule == rule && last.high + 1 == at => last.high = next - 1,
            _ => ranges.push(PortRange {
                low: at,
                high: next - 1,
                rule,
            }),
        }
    }
    ranges
}

/// What decides a range, in the order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Deny,
    Allow,
    Intra,
    /// What does not last decides only where nothing else allows: the one that ends last, first.
    Until(Reverse<Timestamp>),
}
