//! Segments that rules lead to and guardrails close again: exactly, by the compiled tables.

use std::collections::{BTreeMap, BTreeSet};

use segd_common::{
    segment::{self, SegmentIndex},
    tables::{Cell, RULE_DENY, Tables as _},
};

use super::{
    Looked,
    bits::FIRST,
    grid::{Grid, Related},
};
use crate::policy::{
    compile::compile,
    compiled::SegmentIndexes,
    diagnostic::{Code, Diagnostic, Span},
    model::{Action, Mode, Policy},
};

/// Warns of segments that some `allow` rule leads to and that nobody but their own members can reach.
/// `rules`: without those that one guardrail forbids entirely, which are told by themselves.
pub fn segments<'l>(
    policy: &Policy,
    spans: &BTreeMap<String, Span>,
    rules: impl Iterator<Item = &'l Looked<'l>>,
    (guardrails, across): (&Grid<'_>, &Related),
    out: &mut Vec<Diagnostic>,
) {
    // A rule that no guardrail meets opens all its ends: only where there is none is it worth compiling.
    if guardrails.is_empty() {
        return;
    }
    let mut led_to: Vec<Option<bool>> = vec![None; FIRST + policy.segments.len()];
    for looked in rules.filter(|looked| looked.rule.action == Action::Allow) {
        let untouched = || {
            let met = guardrails.find(across, looked, |bundle| {
                let mut services = looked.rule.services.iter();
                services.find_map(|interval| bundle.across(*interval).next())
            });
            met.is_none()
        };
        let mut opens = None;
        for peer in looked.to.numbers().filter(|peer| *peer >= FIRST) {
            let from_others = match looked.from.len() {
                0 => false,
                1 => !looked.from.has(peer),
                _ => true,
            };
            if let Some(open) = led_to.get_mut(peer).filter(|_| from_others) {
                *open = Some(open.unwrap_or(false) || *opens.get_or_insert_with(untouched));
            }
        }
    }
    let led_to = policy.segments.keys().zip(led_to.into_iter().skip(FIRST));
    let led_to: Vec<&String> = led_to
        .filter(|(_, open)| *open == Some(false))
        .map(|(name, _)| name)
        .collect();
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
    for name in led_to {
        let open = indexes.by_name.get(name).is_some_and(|index| reached(*index));
        let Some(span) = spans.get(name).filter(|_| !open) else {
            continue;
        };
        let message = format!("nobody can reach segment `{name}`: guardrails forbid all that rules allow");
        let diagnostic = Diagnostic::warning(Code::UnreachableSegment, *span, message);
        out.push(diagnostic.help("take the rules out, or narrow the guardrails"));
    }
}
