//! Rules that another rule of the same kind makes superfluous: take them out and nothing changes.

use std::collections::BTreeMap;

use super::{Bits, End, Looked, within};
use crate::policy::{
    diagnostic::{Code, Diagnostic},
    model::{Action, Peer, Policy, Rule},
    port::Interval,
};

/// Rules by what they are about, so that those which could imply one are found without asking all.
pub struct Implied<'l, 'p> {
    rules: &'l [Looked<'p>],
    bundles: Vec<Bundle<'l>>,
    /// The bundles that a peer is a `to` of.
    by_to: BTreeMap<usize, Vec<usize>>,
    /// The bundles that a peer is a `from` of.
    by_from: BTreeMap<usize, Vec<usize>>,
}

/// An interval of a rule, and the rule.
type Stretch = (Interval, usize);

/// Rules of one kind with the same two ends.
struct Bundle<'l> {
    action: Action,
    from: &'l End,
    to: &'l End,
    /// Each interval with its rule, sorted.
    intervals: Vec<Stretch>,
    /// Up to here, the place of the interval that reaches farthest.
    farthest: Vec<usize>,
}

impl<'l, 'p> Implied<'l, 'p> {
    /// Bundles the rules.
    pub fn new(rules: &'l [Looked<'p>]) -> Implied<'l, 'p> {
        let mut by_ends: BTreeMap<_, (&Looked<'_>, Vec<Stretch>)> = BTreeMap::new();
        for (number, looked) in rules.iter().enumerate() {
            let key = (looked.rule.action, looked.from.number, looked.to.number);
            let intervals = looked.rule.services.iter().map(|interval| (*interval, number));
            let (_, bundled) = by_ends.entry(key).or_insert_with(|| (looked, Vec::new()));
            bundled.extend(intervals);
        }
        let (mut by_from, mut by_to) = (BTreeMap::new(), BTreeMap::new());
        let mut bundles = Vec::with_capacity(by_ends.len());
        for ((action, ..), (looked, mut intervals)) in by_ends {
            let (from, to) = (&looked.from, &looked.to);
            for (side, index) in [(from, &mut by_from), (to, &mut by_to)] {
                for peer in side.numbers() {
                    let known: &mut Vec<usize> = index.entry(peer).or_default();
                    known.push(bundles.len());
                }
            }
            intervals.sort_unstable();
            let mut farthest: Vec<usize> = Vec::with_capacity(intervals.len());
            for (at, ((_, high), _)) in intervals.iter().enumerate() {
                let before = farthest.last().copied().unwrap_or(at);
                let reach = intervals.get(before).map_or(0, |((_, high), _)| *high);
                farthest.push(if *high > reach { at } else { before });
            }
            bundles.push(Bundle {
                action,
                from,
                to,
                intervals,
                farthest,
            });
        }
        Implied {
            rules,
            bundles,
            by_to,
            by_from,
        }
    }

    /// The warning about a rule, if another one says all that it says.
    pub fn of(&self, number: usize, policy: &Policy) -> Option<Diagnostic> {
        let looked = self.rules.get(number)?;
        if let Some(diagnostic) = intra(looked, policy) {
            return Some(diagnostic);
        }
        let other = self.by(number, looked)?;
        let (kind, verb) = match looked.rule.action {
            Action::Allow => ("rule", "allows"),
            Action::Deny => ("guardrail", "forbids"),
        };
        let message = format!("the {kind} changes nothing: another one {verb} all of it");
        let diagnostic = Diagnostic::warning(Code::Implied, looked.span, message);
        Some(
            diagnostic
                .related(other.span, format!("{kind} `{}`", other.rule.label))
                .help("take one of the two out"),
        )
    }

    /// A rule that says all that this one says; of two that say the same, the first.
    fn by(&self, number: usize, looked: &Looked<'_>) -> Option<&Looked<'p>> {
        let from = fewest(&looked.from, &self.by_from);
        let to = fewest(&looked.to, &self.by_to);
        let candidates = if from.len() < to.len() { from } else { to };
        candidates.iter().find_map(|bundle| {
            let bundle = self.bundles.get(*bundle)?;
            let wider = bundle.action == looked.rule.action
                && looked.from.within(bundle.from)
                && looked.to.within(bundle.to);
            let same = *bundle.from == looked.from && *bundle.to == looked.to;
            wider
                .then(|| bundle.covers(number, looked.rule, same, self.rules))
                .flatten()
                .and_then(|other| self.rules.get(other))
        })
    }
}

/// The bundles of the peer that stands in the fewest: whatever covers a side has all of its peers.
fn fewest<'i>(side: &Bits, index: &'i BTreeMap<usize, Vec<usize>>) -> &'i [usize] {
    let lists = side.numbers().filter_map(|peer| index.get(&peer));
    lists.min_by_key(|list| list.len()).map_or(&[], Vec::as_slice)
}

impl Bundle<'_> {
    /// A rule of the bundle that has all services of another; `same`: whose ends are the same.
    fn covers(&self, number: usize, rule: &Rule, same: bool, rules: &[Looked<'_>]) -> Option<usize> {
        let (low, high) = *rule.services.first()?;
        let starts = self.intervals.partition_point(|((start, _), _)| *start <= low);
        let reach = |place: usize| self.intervals.get(place).map(|((_, high), _)| *high);
        let farthest = *self.farthest.get(starts.checked_sub(1)?)?;
        if reach(farthest)? < high {
            return None;
        }
        let covers = |other: usize| {
            let by = &rules.get(other)?.rule;
            let services = &by.services;
            let first = !same || other < number || *services != rule.services || by.term != rule.term;
            (other != number && first && within(&rule.services, services) && by.term.covers(&rule.term))
                .then_some(other)
        };
        // Nearly always the one that reaches farthest does; else each that begins early enough is asked.
        let (_, best) = self.intervals.get(farthest)?;
        let earlier = self.intervals.get(..starts)?;
        covers(*best).or_else(|| {
            earlier
                .iter()
                .filter(|((_, end), _)| *end >= high)
                .find_map(|(_, other)| covers(*other))
        })
    }
}

/// Members of one segment may talk to each other without a rule, unless it says otherwise.
fn intra(looked: &Looked<'_>, policy: &Policy) -> Option<Diagnostic> {
    if looked.rule.action != Action::Allow || looked.from != looked.to || looked.rule.from.len() != 1 {
        return None;
    }
    let Some(Peer::Segment(name)) = looked.rule.from.first() else {
        return None;
    };
    policy.segments.get(name).filter(|segment| segment.intra)?;
    let message = format!("the rule changes nothing: members of `{name}` may talk to each other anyway");
    Some(
        Diagnostic::warning(Code::Implied, looked.span, message)
            .help("take it out, or give the segment `intra: deny`"),
    )
}
