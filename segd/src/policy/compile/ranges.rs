//! Rules laid over each other: a sorted list of disjoint ranges, each with the rule that decides it.

use std::collections::BTreeSet;

use segd_common::{
    service::Service,
    tables::{PortRange, RULE_DENY, RULE_UNTIL},
    verdict::RuleIndex,
};

use super::{
    CompileError,
    turns::{Ending, Turns},
};
use crate::policy::model::{Action, Rule};

/// The ranges that rules make together, sorted and disjoint; neighbours that one rule decides are one range.
///
/// # Errors
///
/// Too many rules take turns.
pub fn of(turns: &mut Turns<'_>, covering: &[usize]) -> Result<Vec<PortRange>, CompileError> {
    if let [only] = covering {
        return Ok(alone(turns, *only));
    }
    // Where something begins or ends, and what: guardrails sort before what opens, the first of each kind first.
    let mut edges: Vec<(Service, bool, (Layer, RuleIndex))> = Vec::new();
    for index in covering {
        let Some((rule, key)) = layer(turns, *index) else {
            continue;
        };
        for (low, high) in rule.services.iter() {
            edges.push((*low, true, key));
            edges.push((high + 1, false, key));
        }
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
            Layer::Ends(_) => turns.number(&of_each_term(&active))? | RULE_UNTIL,
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
    Ok(ranges)
}

/// A rule, and where it stands in the order of precedence.
fn layer<'p>(turns: &Turns<'p>, index: usize) -> Option<(&'p Rule, (Layer, RuleIndex))> {
    let rule = turns.rules.get(index)?;
    let number = RuleIndex::try_from(index).unwrap_or(RuleIndex::MAX);
    Some((rule, (layer_of(rule, turns.ending(index)), number)))
}

/// Where a rule that ends so stands in the order of precedence.
pub const fn layer_of(rule: &Rule, ending: Option<Ending>) -> Layer {
    match (rule.action, ending) {
        (Action::Deny, _) => Layer::Deny,
        (Action::Allow, None) => Layer::Allow,
        (Action::Allow, Some(ending)) => Layer::Ends(ending),
    }
}

/// The range of a rule that has one.
pub fn single(turns: &Turns<'_>, index: usize) -> Option<PortRange> {
    let (rule, (layer, number)) = layer(turns, index)?;
    match *rule.services {
        [(low, high)] => Some(PortRange {
            low,
            high,
            rule: number | layer.flag(),
        }),
        _ => None,
    }
}

/// The ranges of one rule.
fn alone(turns: &Turns<'_>, index: usize) -> Vec<PortRange> {
    let Some((rule, (layer, number))) = layer(turns, index) else {
        return Vec::new();
    };
    let ranges = rule.services.iter().map(|(low, high)| PortRange {
        low: *low,
        high: *high,
        rule: number | layer.flag(),
    });
    ranges.collect()
}

/// Of rules that end, where nothing else allows: the last one to end, and one of each term with windows.
fn of_each_term(active: &BTreeSet<(Layer, RuleIndex)>) -> Vec<RuleIndex> {
    let mut found = Vec::new();
    let mut from = active.first();
    while let Some((Layer::Ends(ending), number)) = from {
        found.push(*number);
        let next = match ending {
            Ending::Once(_) => 0,
            Ending::Weekly(term) => term + 1,
        };
        from = active.range((Layer::Ends(Ending::Weekly(next)), 0)..).next();
    }
    found
}

/// What decides a range, in the order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// A guardrail.
    Deny,
    /// What opens for good.
    Allow,
    /// What does not last decides only where nothing else allows: the one that ends last, first.
    Ends(Ending),
}

impl Layer {
    /// How a rule alone says that it decides so.
    pub const fn flag(self) -> u32 {
        match self {
            Layer::Deny => RULE_DENY,
            Layer::Allow => 0,
            Layer::Ends(_) => RULE_UNTIL,
        }
    }
}
