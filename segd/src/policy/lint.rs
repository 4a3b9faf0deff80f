//! What a policy that is right probably does not mean: rules that match nothing, rules that cannot win.
//!
//! Deliberately absent: anything that would refuse a policy.

mod bits;
mod broad;
mod grid;
mod implied;
mod overlap;
mod unreachable;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use self::{
    bits::{Bits, End, Ends, FIRST, HOST},
    grid::{Grid, Related},
    implied::Implied,
};
use super::{
    diagnostic::{Code, Diagnostic, Span},
    model::{Action, Policy, Rule, SelectorKind},
    port::Interval,
};

/// Where what a resolved policy consists of stands.
pub struct Standing<'p> {
    /// The names of segments.
    pub segments: &'p BTreeMap<String, Span>,
    /// Rules, by their index.
    pub rules: &'p [Span],
}

/// Adds warnings about a resolved policy.
pub fn lint(policy: &Policy, standing: &Standing<'_>, out: &mut Vec<Diagnostic>) {
    let ends = Ends::of(policy);
    let rules = policy.rules.iter().zip(standing.rules).zip(ends.of_rules());
    let looked_at: Vec<Looked> = rules
        .map(|((rule, span), [from, to])| Looked {
            rule,
            span: *span,
            from,
            to,
        })
        .collect();
    let of_kind = |action: Action| Grid::new(&looked_at, action, &ends);
    let (allow, deny) = (of_kind(Action::Allow), of_kind(Action::Deny));
    let implied = Implied::new(&looked_at, &ends, &allow, &deny);
    let across = deny.across(&ends);
    let everybody = ends.everybody();
    let mut shadowed = Vec::with_capacity(looked_at.len());
    for (number, looked) in looked_at.iter().enumerate() {
        let weak = looked.nothing().or_else(|| looked.not_enforced(policy));
        if weak.is_none() {
            out.extend(looked.broad(&everybody));
        }
        let found = weak.or_else(|| looked.forbidden(&looked_at, &deny, &across));
        shadowed.push(found.as_ref().is_some_and(|found| found.code == Code::Shadowed));
        out.extend(found.or_else(|| implied.of(number, policy)));
    }
    unused(policy, standing.segments, &ends, out);
    labels(standing.segments, out);
    let alive = looked_at
        .iter()
        .zip(&shadowed)
        .filter(|(_, shadowed)| !**shadowed);
    let alive = alive.map(|(looked, _)| looked);
    unreachable::segments(policy, standing.segments, alive, (&deny, &across), out);
}

/// What metrics and flows call something that is no segment of the policy, and what that is.
const LABELS: [(&str, &str); 3] = [
    ("other", "what does not fit, or has no name any more"),
    ("probe", "segd's own health probe"),
    ("unknown", "whose identity nobody can tell"),
];

/// Segments whose numbers come under one label with those of something else.
fn labels(segments: &BTreeMap<String, Span>, out: &mut Vec<Diagnostic>) {
    for (label, what) in LABELS {
        if let Some(span) = segments.get(label) {
            let message = format!("metrics and flows say `{label}` for {what}, too");
            let help = "call the segment something else: the two are counted as one";
            out.push(Diagnostic::warning(Code::SharedLabel, *span, message).help(help));
        }
    }
}

/// Adds warnings about what segments match.
pub fn matchers(matchers: &[(String, SelectorKind, Span)], out: &mut Vec<Diagnostic>) {
    let matchers = matchers
        .iter()
        .map(|(segment, kind, span)| (segment.as_str(), kind, *span));
    let matchers: Vec<(&str, &SelectorKind, Span)> = matchers.collect();
    broad::matchers(&matchers, out);
    overlap::addresses(&matchers, out);
    overlap::workloads(&matchers, out);
}

/// Warnings about rules that are over at a time. `spans`: where rules stand, by their index.
#[must_use]
pub fn expired(policy: &Policy, spans: &[Span], time: Timestamp) -> Vec<Diagnostic> {
    let over = policy.rules.iter().zip(spans).filter_map(|(rule, span)| {
        let end = rule.term.until.filter(|end| *end <= time)?;
        let message = format!("the rule opens nothing any more: it was over at {end}");
        Some(
            Diagnostic::warning(Code::Expired, *span, message)
                .help("take it out, or give it another `until`"),
        )
    });
    over.collect()
}

/// A rule with its ends as sets of numbers.
struct Looked<'p> {
    rule: &'p Rule,
    span: Span,
    from: End<'p>,
    to: End<'p>,
}

impl Looked<'_> {
    fn nothing(&self) -> Option<Diagnostic> {
        let side = match (self.from.is_empty(), self.to.is_empty()) {
            (false, false) => return None,
            (true, _) => "from",
            (false, true) => "to",
        };
        let message = format!("the rule matches nothing: `{side}` names nobody");
        let help = "an empty list and labels that no segment has match nothing, not everything";
        Some(Diagnostic::warning(Code::MatchesNothing, self.span, message).help(help))
    }

    /// `host` and `world` among themselves are left alone unless the policy says otherwise.
    fn not_enforced(&self, policy: &Policy) -> Option<Diagnostic> {
        if policy.enforce_host {
            return None;
        }
        let only_built_in = |end: &Bits| end.len() <= FIRST && end.numbers().all(|peer| peer < FIRST);
        let only_built_in = only_built_in(&self.from) && only_built_in(&self.to);
        let one_is_host = self.from.has(HOST) || self.to.has(HOST);
        if !only_built_in || !one_is_host {
            return None;
        }
        let what = if self.rule.action == Action::Deny {
            "forbids nothing"
        } else {
            "changes nothing"
        };
        let message = format!("the rule {what}: traffic between `host` and `world` is not enforced");
        let help =
            "`spec.defaults.host: enforce` enforces it; then the host, too, needs a rule for everything";
        Some(Diagnostic::warning(Code::NotEnforced, self.span, message).help(help))
    }

    /// What guardrails leave of an `allow` rule.
    fn forbidden(&self, rules: &[Looked<'_>], guardrails: &Grid<'_>, across: &Related) -> Option<Diagnostic> {
        if self.rule.action == Action::Deny || guardrails.is_empty() {
            return None;
        }
        let mut meets: BTreeSet<usize> = BTreeSet::new();
        let _: Option<()> = guardrails.find(across, self, |bundle| {
            let services = self.rule.services.iter();
            meets.extend(services.flat_map(|interval| bundle.across(*interval)));
            None
        });
        let mut denies = meets.iter().filter_map(|number| rules.get(*number));
        let first = denies.clone().next()?;
        let whole = denies.find(|deny| {
            self.from.within(&deny.from)
                && self.to.within(&deny.to)
                && within(&self.rule.services, &deny.rule.services)
        });
        let (code, deny, message, help) = match whole {
            Some(deny) => (
                Code::Shadowed,
                deny,
                "the rule allows nothing: a guardrail forbids all of it",
                "take the rule out, or narrow the guardrail",
            ),
            None => (
                Code::Contradicted,
                first,
                "a guardrail forbids part of what the rule allows",
                "a `deny` beats every `allow`; say in the rule only what it can open",
            ),
        };
        let diagnostic = Diagnostic::warning(code, self.span, message);
        Some(
            diagnostic
                .related(deny.span, format!("guardrail `{}`", deny.rule.label()))
                .help(help),
        )
    }
}

/// Segments nobody can enter, and segments nobody speaks of.
fn unused(policy: &Policy, spans: &BTreeMap<String, Span>, ends: &Ends, out: &mut Vec<Diagnostic>) {
    let mut named = vec![false; ends.peers];
    for peer in ends.all().flat_map(|end| end.bits().numbers()) {
        if let Some(named) = named.get_mut(peer) {
            *named = true;
        }
    }
    for ((name, segment), named) in policy.segments.iter().zip(named.into_iter().skip(FIRST)) {
        if named && !segment.selectors.is_empty() {
            continue;
        }
        let Some(span) = spans.get(name) else { continue };
        if segment.selectors.is_empty() {
            let message = format!("segment `{name}` has no members: nothing matches");
            let diagnostic = Diagnostic::warning(Code::EmptySegment, *span, message);
            out.push(diagnostic.help("add a matcher under `match`"));
        }
        if !named {
            let message = format!("no rule speaks of segment `{name}`");
            let help = "its members reach nobody and nobody reaches them; if that is meant, say so with a `deny` rule";
            out.push(Diagnostic::warning(Code::UnusedSegment, *span, message).help(help));
        }
    }
}

/// Whether two sorted lists of intervals have something in common.
#[cfg(test)]
fn meet(a: &[Interval], b: &[Interval]) -> bool {
    a.iter().any(|(low, high)| {
        let at = b.partition_point(|(_, other_high)| other_high < low);
        b.get(at).is_some_and(|(other_low, _)| other_low <= high)
    })
}

/// Whether every interval of the first lies inside one of the second, both merged.
fn within(a: &[Interval], b: &[Interval]) -> bool {
    a.iter().all(|(low, high)| {
        let at = b.partition_point(|(_, other_high)| other_high < high);
        b.get(at).is_some_and(|(other_low, _)| other_low <= low)
    })
}

#[cfg(test)]
mod tests {
    use crate::policy::{model::Source, resolve::resolve, testing::source_of};

    #[track_caller]
    fn warnings(source: Source) -> Vec<&'static str> {
        let (_, warnings) = resolve(&[source], false).expect("the policy is right");
        warnings.into_iter().map(|warning| warning.code.label()).collect()
    }

    const TWO: &str = "{a: {match: [{cgroup: /a}], labels: {l: x}}, b: {match: [{cgroup: /b}]}}";

    #[test]
    fn is_silent_about_a_good_policy() {
        assert!(warnings(source_of(TWO, "[{from: a, to: b, ports: [any]}]", "[]")).is_empty());
    }

    #[test]
    fn sees_rules_that_match_nothing() {
        let rules = "[{from: [], to: b, ports: [any]}, {from: {}, to: b, ports: [any]}, \
                     {from: {l: other}, to: a, ports: [any]}]";
        assert_eq!(
            warnings(source_of(TWO, rules, "[]")),
            ["matches-nothing", "matches-nothing", "matches-nothing"]
        );
    }

    #[test]
    fn sees_what_a_guardrail_takes_away() {
        let allow = "[{from: a, to: b, ports: [tcp/22, tcp/80]}]";
        assert_eq!(
            warnings(source_of(TWO, allow, "[{from: any, to: b}]")),
            ["shadowed"]
        );
        assert_eq!(
            warnings(source_of(TWO, allow, "[{from: a, to: b, ports: [tcp/22]}]")),
            ["contradicted"]
        );
        assert!(warnings(source_of(TWO, allow, "[{from: b, to: a}]")).is_empty());
    }

    #[test]
    fn a_rule_in_a_narrower_window_implies_nothing() {
        let rule = |port: &str, when: &str| format!("{{from: a, to: b, ports: [tcp/{port}]{when}}}");
        let week = |days: &str| format!(", when: {{days: [{days}], hours: 08:00-18:00, zone: UTC}}");
        let warns =
            |first: String, second: String| warnings(source_of(TWO, &format!("[{first}, {second}]"), "[]"));
        let (narrow, wide) = (week("tue"), week("mon-fri"));
        assert_eq!(warns(rule("1-9", &wide), rule("5", &narrow)), ["implied"]);
        assert_eq!(warns(rule("1-9", ""), rule("5", &narrow)), ["implied"]);
        assert!(warns(rule("1-9", &narrow), rule("5", &wide)).is_empty());
        assert!(warns(rule("1-9", &narrow), rule("5", "")).is_empty());
        let elsewhere = wide.replace("UTC", "Europe/Berlin");
        assert!(warns(rule("1-9", &elsewhere), rule("5", &narrow)).is_empty());
    }

    #[test]
    fn sees_segments_nobody_is_in_or_speaks_of() {
        let segments = "{a: {match: []}, b: {match: [{cgroup: /b}]}}";
        let found = warnings(source_of(
            segments,
            "[{from: a, to: world, ports: [tcp/443]}]",
            "[]",
        ));
        assert_eq!(found, ["empty-segment", "unused-segment"]);
    }

    #[test]
    fn sees_a_host_rule_that_is_not_enforced() {
        let rule = "[{from: world, to: host, ports: [tcp/22]}]";
        assert!(warnings(source_of(TWO, rule, "[{from: a, to: b}]")).contains(&"not-enforced"));
    }
}
