//! The policy's own tests, judged by the decision that the kernel runs.
//!
//! A test asks about everybody it names and about all of its ports: it passes if every answer is the expected one. Only
//! places where the answer can change are asked about, so `any` is as cheap as one port.

use std::net::IpAddr;

use segd_common::{
    decide::decide, segment::SegmentIndex, service::Service, verdict::Verdict, workload::Identity,
};

use super::{
    compiled::CompiledTables,
    diagnostic::{Code, Diagnostic, Span},
    explain::{self, RuleRef},
    model::{Action, Parties, Peer, Policy, TestCase},
    port, prefixes,
};

/// Somebody a test asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// As the test names it, or what a label stands for.
    pub name: String,
    /// The segment it belongs to.
    pub segment: SegmentIndex,
    /// If it is an address.
    pub address: Option<IpAddr>,
}

/// One answer; it holds from a service up to the last one that the same verdict is certain for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'p> {
    /// Who starts.
    pub from: &'p Party,
    /// Towards whom.
    pub to: &'p Party,
    /// On what.
    pub service: Service,
    /// The last service with this answer.
    pub last: Service,
    /// What is decided.
    pub verdict: Verdict,
}

/// Everybody that one end of a test names.
#[must_use]
pub fn parties(tables: &CompiledTables, ends: &Parties) -> Vec<Party> {
    let mut parties = Vec::new();
    for peer in ends.peers.iter() {
        let name = match peer {
            Peer::Host => "host",
            Peer::World => "world",
            Peer::Segment(name) => name,
        };
        parties.extend(tables.index(name).map(|segment| Party {
            name: name.to_owned(),
            segment,
            address: None,
        }));
    }
    parties.extend(ends.addresses.iter().map(|address| Party {
        name: address.to_string(),
        segment: tables.claimed_by(&prefixes::bits(*address)),
        address: Some(*address),
    }));
    parties
}

/// Visits every answer that a test depends on, for all it names and all its ports, until the visitor has enough (`false`).
pub fn each_answer(tables: &CompiledTables, test: &TestCase, visit: &mut dyn FnMut(&Answer<'_>) -> bool) {
    let (froms, tos) = (parties(tables, &test.from), parties(tables, &test.to));
    for (from, to) in froms.iter().flat_map(|from| tos.iter().map(move |to| (from, to))) {
        for (service, last) in pieces(tables, from.segment, to.segment, test) {
            let verdict = decide(
                tables,
                Identity::of(from.segment),
                Identity::of(to.segment),
                service,
            );
            let answer = Answer {
                from,
                to,
                service,
                last,
                verdict,
            };
            if !visit(&answer) {
                return;
            }
        }
    }
}

/// A test's services, cut wherever the answer for a pair can change, ascending.
fn pieces(
    tables: &CompiledTables,
    from: SegmentIndex,
    to: SegmentIndex,
    test: &TestCase,
) -> Vec<(Service, Service)> {
    let cell = tables.cell(from, to);
    let ranges = tables.holds(cell, tables.base(from, to)).into_iter();
    let edges: Vec<Service> = ranges.flat_map(|range| [range.low, range.high + 1]).collect();
    let mut pieces = Vec::new();
    for (low, high) in &test.services {
        let mut start = *low;
        for edge in edges.iter().filter(|edge| (*low + 1..=*high).contains(edge)) {
            if *edge > start {
                pieces.push((start, edge - 1));
                start = *edge;
            }
        }
        pieces.push((start, *high));
    }
    pieces
}

/// Whether an answer is the one that is expected. What only audit mode lets pass is denied.
#[must_use]
pub fn is_expected(test: &TestCase, answer: &Answer<'_>) -> bool {
    answer.verdict.allows() == (test.expect == Action::Allow)
}

/// What was decided, in a sentence.
#[must_use]
pub fn sentence(answer: &Answer<'_>) -> String {
    explain::sentence(
        answer.verdict.reason,
        &answer.from.name,
        &answer.to.name,
        answer.service,
        None,
    )
}

/// The rule that decided.
#[must_use]
pub fn decider(policy: &Policy, answer: &Answer<'_>) -> Option<RuleRef> {
    let rule = (answer.verdict.rule != Verdict::NO_RULE).then_some(answer.verdict.rule as usize)?;
    policy.rules.get(rule).map(RuleRef::of)
}

/// Failures as errors of the policy. `tests` and `rules` say where they stand.
#[must_use]
pub fn diagnostics(
    policy: &Policy,
    tables: &CompiledTables,
    tests: &[Span],
    rules: &[Span],
) -> Vec<Diagnostic> {
    let mut out = Vec::new();
    for (test, span) in policy.tests.iter().zip(tests) {
        each_answer(tables, test, &mut |answer| {
            let fails = !is_expected(test, answer);
            if fails {
                out.push(failure(test, answer, *span, rules));
            }
            !fails
        });
    }
    out
}

/// The first wrong answer of a test.
fn failure(test: &TestCase, answer: &Answer<'_>, span: Span, rules: &[Span]) -> Diagnostic {
    let (word, asked) = match test.expect {
        Action::Allow => ("allow", "denied"),
        Action::Deny => ("deny", "allowed"),
    };
    let message = format!(
        "the policy fails its own test: `{}` to `{}` on {} is {asked}, the test expects `{word}`",
        answer.from.name,
        answer.to.name,
        port::display(answer.service)
    );
    let diagnostic = Diagnostic::error(Code::TestFailed, span, message).help(sentence(answer));
    let number = answer.verdict.rule;
    let rule = (number != Verdict::NO_RULE)
        .then(|| rules.get(number as usize))
        .flatten();
    match rule {
        Some(rule) => diagnostic.related(*rule, "this rule decides"),
        None => diagnostic,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::policy::{compile::compile, compiled::SegmentIndexes, model::Source, testing::policy_from};

    /// The labels of the tests that fail, with the answer.
    #[track_caller]
    fn failing(tests: &str) -> Vec<String> {
        let text = format!(
            "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {{name: t}}\nspec:\n  segments:\n    \
             web: {{labels: {{env: prod}}, match: [{{cgroup: /web}}]}}\n    \
             db: {{labels: {{env: prod}}, mode: audit, match: [{{cgroup: /db}}, {{cidr: 192.0.2.0/24}}]}}\n  \
             allow:\n    - {{from: web, to: db, ports: [tcp/5432, tcp/6000-6010]}}\n  \
             deny:\n    - {{from: world, to: db, ports: [tcp/22]}}\n  tests:\n{tests}"
        );
        let policy = policy_from(Source {
            name: "t.yaml".to_owned(),
            text: text.into(),
        });
        let mut indexes = SegmentIndexes::default();
        indexes.allocate(&policy, &BTreeSet::new()).expect("fits");
        let tables = compile(&policy, &indexes, None).expect("fits");
        let mut told = Vec::new();
        for (at, test) in policy.tests.iter().enumerate() {
            each_answer(&tables, test, &mut |answer| {
                let expected = is_expected(test, answer);
                if !expected {
                    let (from, to) = (&answer.from.name, &answer.to.name);
                    let reason = answer.verdict.reason.label();
                    told.push(format!(
                        "{at}: {from} {to} {} {reason}",
                        port::display(answer.service)
                    ));
                }
                expected
            });
        }
        told
    }

    #[test]
    fn passes_what_is_as_expected() {
        let tests = "    - {from: web, to: db, port: tcp/5432, expect: allow}\n    \
                     - {from: web, to: 192.0.2.7, port: [tcp/5432, tcp/6001], expect: allow}\n    \
                     - {from: web, to: db, port: tcp/6000-6010, expect: allow}\n    \
                     - {from: world, to: {env: prod}, port: any, expect: deny}\n    \
                     - {from: 203.0.113.9, to: db, port: tcp/22, expect: deny, reason: audit mode allows nothing}\n";
        assert_eq!(failing(tests), Vec::<String>::new());
    }

    #[test]
    fn finds_the_one_port_and_the_one_party_that_are_not() {
        let tests = "    - {from: web, to: db, port: tcp/1-5999, expect: deny}\n    \
                     - {from: web, to: db, port: tcp/6000-6011, expect: allow}\n    \
                     - {from: [world, web], to: db, port: tcp/5432, expect: deny}\n    \
                     - {from: any, to: db, port: tcp/5432, expect: allow}\n";
        assert_eq!(
            failing(tests),
            [
                "0: web db tcp/5432 rule",
                "1: web db tcp/6011 no-rule",
                "2: web db tcp/5432 rule",
                "3: host db tcp/5432 no-rule",
            ]
        );
    }
}
