//! Who may start what towards whom, as a picture has it: peers in groups, and one list of ports for each pair that has any.
//!
//! INVARIANT: drawn from the compiled tables, so a picture shows what is enforced: guardrails and `intra` are in it.

use std::collections::BTreeMap;

use segd_common::{
    segment::SegmentIndex,
    tables::{RULE_DENY, RULE_HOST, Tables as _},
};

use super::{
    compiled::CompiledTables,
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
    let places: BTreeMap<SegmentIndex, usize> = peers
        .iter()
        .enumerate()
        .filter_map(|(place, peer)| Some((tables.index(&peer.name)?, place)))
        .collect();
    let (mut arrows, mut left_alone) = (BTreeMap::new(), Vec::new());
    for ((from, to), class) in &tables.classes {
        let (Some(from_place), Some(to_place)) = (places.get(from), places.get(to)) else {
            continue;
        };
        let set = tables.set(*class);
        if tables
            .range(set.first)
            .is_some_and(|range| set.len > 0 && range.rule == RULE_HOST)
        {
            left_alone.push((*from_place, *to_place));
            continue;
        }
        let ports = display_list(&open(tables, *class));
        if !ports.is_empty() {
            arrows.insert((*from_place, *to_place), ports);
        }
    }
    Picture {
        peers,
        arrows,
        left_alone,
    }
}

/// What a class lets pass.
fn open(tables: &CompiledTables, class: u16) -> Vec<Interval> {
    let set = tables.set(class);
    let mut open: Vec<Interval> = Vec::new();
    for range in (set.first..set.first + set.len).filter_map(|at| tables.range(at)) {
        if range.rule & RULE_DENY != 0 {
            continue;
        }
        match open.last_mut() {
            Some(last) if last.1 + 1 == range.low => last.1 = range.high,
            _ => open.push((range.low, range.high)),
        }
    }
    open
}
