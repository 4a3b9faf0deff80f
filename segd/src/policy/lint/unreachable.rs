//! Segments that rules lead to and guardrails close again: exactly, by the compiled tables.

use std::collections::{BTreeMap, BTreeSet};

use segd_common::{
    segment::{self, SegmentIndex},
    tables::{Cell, RULE_DENY, Tables as _},
};

use super::{Looked, meet};
use crate::policy::{
    compile::compile,
    compiled::SegmentIndexes,
    diagnostic::{Code, Diagnostic, Span},
    model::{Action, Mode, Peer, Policy},
};

/// Warns of segments that some `allow` rule leads to and that nobody but their own members can reach.
/// `rules`: without those that one guardrail forbids entirely, which are told by themselves.
pub fn segments(
    policy: &Policy,
    spans: &BTreeMap<String, Span>,
    rules: &[&Looked<'_>],
    denies: &[&Looked<'_>],
    out: &mut Vec<Diagnostic>,
) {
    // A rule that no guardrail meets opens all its ends: only where there is none is it worth compiling.
    let mut led_to: BTreeMap<&str, bool> = BTreeMap::new();
    for looked in rules.iter().filter(|looked| looked.rule.action == Action::Allow) {
        let untouched = || {
            !denies.iter().any(|deny| {
                deny.from.meets(&looked.from)
                    && deny.to.meets(&looked.to)
                    && meet(&deny.rule.services, &looked.rule.services)
            })
        };
        let mut opens = None;
        for peer in looked.rule.to.iter() {
            let Peer::Segment(name) = peer else { continue };
            let from_others = looked.rule.from.iter().any(|from| from != peer);
            if !from_others {
                continue;
            }
            let open = led_to.entry(name).or_insert(false);
            *open = *open || *opens.get_or_insert_with(untouched);
        }
    }
    led_to.retain(|_, open| !*open);
    if led_to.is_empty() {
        return;
    }
    let mut indexes = SegmentIndexes::default();
    let tables = indexes
        .allocate(policy, &BTreeSet::new())
        .and_then(|()| compile(policy, &indexes, Some(Mode::Enforce)));
    // A policy that does not fit is told so elsewhere.
    let Ok(tables) = tables else { return };
    let opens = |cell: Cell| tables.ranges(cell).any(|range| range.rule & RULE_DENY == 0);
    // By column, from which rows something opens it; and whether one of the cells that stand for every other does.
    let mut into: BTreeMap<u16, Vec<u16>> = BTreeMap::new();
    let mut wide = false;
    for (row, column, _) in tables.cells().filter(|(.., cell)| opens(*cell)) {
        into.entry(column).or_default().push(row);
        wide = wide || row == 0 || column == 0;
    }
    let peers = || {
        let all = (0..=SegmentIndex::MAX).zip(&tables.segments);
        all.filter(|(index, _)| !matches!(*index, segment::NONE | segment::PROBE))
    };
    let mut members: BTreeMap<u16, Vec<SegmentIndex>> = BTreeMap::new();
    for (index, segment) in peers() {
        members.entry(segment.row).or_default().push(index);
    }
    let reached = |to: SegmentIndex| {
        let here = tables.segment(to);
        let rows = into
            .get(&here.column)
            .into_iter()
            .flatten()
            .filter(|row| **row != 0);
        let mut others = rows.flat_map(|row| members.get(row)).flatten();
        others.any(|from| *from != to)
            || wide && peers().any(|(from, _)| from != to && opens(tables.cell(from, to)))
    };
    for name in led_to.into_keys() {
        let open = indexes.by_name.get(name).is_some_and(|index| reached(*index));
        let Some(span) = spans.get(name).filter(|_| !open) else {
            continue;
        };
        let message = format!("nobody can reach segment `{name}`: guardrails forbid all that rules allow");
        let diagnostic = Diagnostic::warning(Code::UnreachableSegment, *span, message);
        out.push(diagnostic.help("take the rules out, or narrow the guardrails"));
    }
}
