//! Who may start what towards whom, as a picture has it: peers in groups, and one list of ports for each pair that has any.
//!
//! INVARIANT: drawn from the compiled tables, so a picture shows what is enforced: guardrails and `intra` are in it.

use std::collections::{BTreeMap, BTreeSet};

use segd_common::{
    segment::SegmentIndex,
    tables::{Cell, PortRange, RULE_DENY, Tables as _},
};

use super::{
    compiled::{Base, CompiledTables},
    model::{Mode, Policy},
    port::{Interval, list::display_list},
};

/// Everything a picture shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// In the order they are drawn: groups by name, `host` and `world` last.
    pub peers: Vec<Peer>,
    /// By the places of both peers.
    pub arrows: BTreeMap<(usize, usize), Vec<String>>,
    /// Pairs of `host` and `world` that the policy leaves alone.
    pub left_alone: Vec<(usize, usize)>,
}

/// A segment, `host` or `world`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// What it is drawn with: the labels of its segment; `None`: built in.
    pub group: Option<String>,
    /// Its name.
    pub name: String,
    /// It only observes.
    pub audit: bool,
}

/// What is allowed between all peers. `by`: the label that makes the groups; without it, all labels of a segment do.
#[must_use]
pub fn picture(policy: &Policy, tables: &CompiledTables, by: Option<&str>) -> Picture {
    let mut peers: Vec<Peer> = policy
        .segments
        .values()
        .map(|segment| {
            let labels = segment
                .labels
                .iter()
                .filter(|(key, _)| by.is_none_or(|by| by == *key));
            let words: Vec<String> = labels.map(|(key, value)| format!("{key}={value}")).collect();
            Peer {
                group: Some(words.join(" ")),
                name: segment.name.clone(),
                audit: segment.mode == Mode::Audit,
            }
        })
        .collect();
    peers.sort();
    peers.extend(["host", "world"].map(|name| Peer {
        group: None,
        name: name.to_owned(),
        audit: false,
    }));
    let indexes = tables.indexes();
    let places = peers.iter().map(|peer| indexes.get(peer.name.as_str()).copied());
    let places: Vec<SegmentIndex> = places.map(Option::unwrap_or_default).collect();
    let (mut arrows, mut left_alone) = (BTreeMap::new(), Vec::new());
    for (from, to) in pairs(tables, &places) {
        let (Some(one), Some(other)) = (places.get(from), places.get(to)) else {
            continue;
        };
        let base = tables.base(*one, *other);
        if base == Base::Host {
            left_alone.push((from, to));
            continue;
        }
        let ports = display_list(&open(&tables.holds(tables.cell(*one, *other), base)));
        if !ports.is_empty() {
            arrows.insert((from, to), ports);
        }
    }
    Picture {
        peers,
        arrows,
        left_alone,
    }
}

/// The pairs between which something may hold, as places.
fn pairs(tables: &CompiledTables, places: &[SegmentIndex]) -> BTreeSet<(usize, usize)> {
    let mut groups: [BTreeMap<u16, Vec<usize>>; 2] = Default::default();
    let all: Vec<usize> = (0..places.len()).collect();
    for (place, index) in places.iter().enumerate() {
        let segment = tables.segment(*index);
        for (group, number) in groups.iter_mut().zip([segment.row, segment.column]) {
            group.entry(number).or_default().push(place);
        }
    }
    let mut pairs: BTreeSet<(usize, usize)> = all.iter().map(|place| (*place, *place)).collect();
    // `host` and `world` are the last.
    let last = places.len().saturating_sub(2)..places.len();
    pairs.extend(
        last.clone()
            .flat_map(|from| last.clone().map(move |to| (from, to))),
    );
    let [rows, columns] = &groups;
    for (row, column, _) in tables.cells().filter(|(.., cell)| *cell != Cell::default()) {
        let members = |number: u16, of: &BTreeMap<u16, Vec<usize>>| match number {
            0 => all.clone(),
            _ => of.get(&number).cloned().unwrap_or_default(),
        };
        let to = members(column, columns);
        for from in members(row, rows) {
            pairs.extend(to.iter().map(|to| (from, *to)));
        }
    }
    pairs
}

/// What ranges let pass.
fn open(ranges: &[PortRange]) -> Vec<Interval> {
    let mut open: Vec<Interval> = Vec::new();
    for range in ranges.iter().filter(|range| range.rule & RULE_DENY == 0) {
        match open.last_mut() {
            Some(last) if last.1 + 1 == range.low => last.1 = range.high,
            _ => open.push((range.low, range.high)),
        }
    }
    open
}
