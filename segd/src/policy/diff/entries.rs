//! Changes for people: grouped, named, with the lines that caused them.

use std::collections::{BTreeMap, BTreeSet};

use segd_common::{
    segment::{self, SegmentIndex},
    tables::{RULE_DENY, RULE_HOST, RULE_INTRA, RULE_UNTIL},
    verdict::RuleIndex,
};

use super::{Change, Changes, Move, Party, Side};
use crate::policy::{compiled::CompiledTables, explain::RuleRef, model::Policy, port::Interval};

/// Everything that changes between two policies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    /// Sorted: what widens, then what narrows.
    pub entries: Vec<Entry>,
    /// Who belongs to another segment than before.
    pub moved: Vec<Moved>,
}

impl Diff {
    /// Whether more passes, or more may, than before.
    #[must_use]
    pub fn widens(&self) -> bool {
        self.entries.iter().any(|entry| entry.change.widens())
    }
}

/// Some parties, towards some parties, on some services: one change for one cause.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What changes.
    pub change: Change,
    /// Who starts.
    pub from: Vec<Name>,
    /// Towards whom.
    pub to: Vec<Name>,
    /// Sorted, disjoint.
    pub services: Vec<Interval>,
    /// What decided before; `None`: no rule.
    pub old: Option<Cause>,
    /// What decides now.
    pub new: Option<Cause>,
}

/// A party's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Its segment now; `any` stands for everybody.
    pub name: String,
    /// Its segment before, if it was another one.
    pub was: Option<String>,
}

/// What decides.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// A rule that opens.
    Rule(RuleRef),
    /// A rule that forbids.
    Guardrail(RuleRef),
    /// Members of one segment.
    Intra,
    /// Traffic of `host` that is not enforced.
    HostDefault,
}

/// Workloads and addresses that change their segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Their segment before.
    pub old: String,
    /// Their segment now.
    pub new: String,
    /// The matchers and prefixes that tell them.
    pub what: Vec<String>,
}

/// What changes, without who: entries of one kind are put together by this.
type Kind = (Change, Option<RuleIndex>, Option<RuleIndex>, Vec<Interval>);

/// Groups what changes and names it.
pub(super) fn describe(
    old: Side<'_>,
    new: Side<'_>,
    parties: &[Party],
    moves: &[Move],
    changes: Changes,
) -> Diff {
    let mut kinds: BTreeMap<Kind, Vec<usize>> = BTreeMap::new();
    for (way, stretches) in changes.ways.iter().enumerate() {
        let mut services: BTreeMap<(Change, Option<RuleIndex>, Option<RuleIndex>), Vec<Interval>> =
            BTreeMap::new();
        for stretch in stretches {
            let cause = (stretch.change, stretch.old, stretch.new);
            services
                .entry(cause)
                .or_default()
                .push((stretch.low, stretch.high));
        }
        for ((change, old, new), services) in services {
            kinds.entry((change, old, new, services)).or_default().push(way);
        }
    }
    let names = Names::of(old.tables, new.tables, parties);
    let mut entries = Vec::new();
    for ((change, old_rule, new_rule, services), ways) in kinds {
        let mut reach: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (from, to) in ways.iter().filter_map(|way| changes.pairs.get(*way)).flatten() {
            reach.entry(*from).or_default().insert(*to);
        }
        let mut groups: BTreeMap<BTreeSet<usize>, BTreeSet<usize>> = BTreeMap::new();
        for (from, to) in reach {
            groups.entry(to).or_default().insert(from);
        }
        for (to, from) in groups {
            entries.push(Entry {
                change,
                from: names.list(&from),
                to: names.list(&to),
                services: services.clone(),
                old: cause(old.policy, old_rule),
                new: cause(new.policy, new_rule),
            });
        }
    }
    entries.sort_by(|a, b| {
        (a.change, &a.from, &a.to, &a.services).cmp(&(b.change, &b.from, &b.to, &b.services))
    });
    Diff {
        entries,
        moved: moved(old.tables, new.tables, moves),
    }
}

fn cause(policy: &Policy, rule: Option<RuleIndex>) -> Option<Cause> {
    match rule? {
        RULE_INTRA => Some(Cause::Intra),
        RULE_HOST => Some(Cause::HostDefault),
        rule => {
            let found = RuleRef::of(policy.rules.get((rule & !(RULE_DENY | RULE_UNTIL)) as usize)?);
            Some(match rule & RULE_DENY {
                0 => Cause::Rule(found),
                _ => Cause::Guardrail(found),
            })
        }
    }
}

/// Names of parties by their place.
struct Names(Vec<Name>);

impl Names {
    fn of(old: &CompiledTables, new: &CompiledTables, parties: &[Party]) -> Names {
        let named = |(before, now): &Party| {
            let (before, now) = (name(old, *before), name(new, *now));
            let was = (before != now).then_some(before);
            Name { name: now, was }
        };
        Names(parties.iter().map(named).collect())
    }

    /// Names of some, sorted; everybody is `any`.
    fn list(&self, places: &BTreeSet<usize>) -> Vec<Name> {
        if places.len() == self.0.len() {
            let name = "any".to_owned();
            return vec![Name { name, was: None }];
        }
        let mut list: Vec<Name> = places.iter().filter_map(|at| self.0.get(*at).cloned()).collect();
        list.sort();
        list
    }
}

fn name(tables: &CompiledTables, index: SegmentIndex) -> String {
    match index {
        segment::NONE => "ambiguous".to_owned(),
        _ => tables.names.get(usize::from(index)).cloned().unwrap_or_default(),
    }
}

fn moved(old: &CompiledTables, new: &CompiledTables, moves: &[Move]) -> Vec<Moved> {
    let mut by_party: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for found in moves {
        let key = (name(old, found.old), name(new, found.new));
        let what = by_party.entry(key).or_default();
        if !what.contains(&found.what) {
            what.push(found.what.clone());
        }
    }
    let moved = |((old, new), what)| Moved { old, new, what };
    by_party.into_iter().map(moved).collect()
}
