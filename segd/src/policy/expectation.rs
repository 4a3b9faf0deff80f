//! The policy's own tests, judged by the decision that the kernel runs.
//!
//! A test asks about everybody it names and about all of its ports: it passes if every answer is the expected one. Only
//! places where the answer can change are asked about, so `any` is as cheap as one port.
//!
//! INVARIANT: what the tests of a policy take is bounded ([`MOST_STEPS`]): the daemon asks them on its only thread.

mod alike;

use std::net::IpAddr;

use segd_common::{
    decide::decide,
    segment::{self, SegmentIndex},
    service::Service,
    verdict::Verdict,
    workload::Identity,
};

pub use alike::{Asker, TooMany};

use super::{
    compiled::CompiledTables,
    diagnostic::{Code, Diagnostic, Span},
    explain::{self, RuleRef},
    model::{Action, Parties, Peer, Policy, TestCase},
    port, prefixes,
};

/// The most steps that all tests of a policy take together where it is put in force: a party that is named, a question
/// between two that rules tell apart, a service and a range of ports looked at for it. A second or two.
pub const MOST_STEPS: u64 = 16 << 20;

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
    const MANY: usize = 16;
    if ends.peers.len() < MANY {
        return parties_by(tables, ends, &|name| tables.index(name));
    }
    let indexes = tables.indexes();
    parties_by(tables, ends, &|name| indexes.get(name).copied())
}

/// The same, where indexes are known. `index` is asked for no built-in peer.
fn parties_by(
    tables: &CompiledTables,
    ends: &Parties,
    index: &dyn Fn(&str) -> Option<SegmentIndex>,
) -> Vec<Party> {
    let mut parties = Vec::new();
    for peer in ends.peers.iter() {
        let (name, segment) = match peer {
            Peer::Host => ("host", Some(segment::HOST)),
            Peer::World => ("world", Some(segment::WORLD)),
            Peer::Segment(name) => (name.as_str(), index(name)),
        };
        parties.extend(segment.map(|segment| Party {
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
///
/// Who only wants the first wrong one takes an [`Asker`], which asks nothing twice.
pub fn each_answer(tables: &CompiledTables, test: &TestCase, visit: &mut dyn FnMut(&Answer<'_>) -> bool) {
    let (froms, tos) = (parties(tables, &test.from), parties(tables, &test.to));
    let mut goes_on = true;
    for pair in froms.iter().flat_map(|from| tos.iter().map(move |to| (from, to))) {
        answers(tables, pair, test, &mut |answer| {
            goes_on = visit(answer);
            goes_on
        });
        if !goes_on {
            return;
        }
    }
}

/// Visits the answers for a pair until the visitor has enough. How much was looked at for it: never nothing.
fn answers(
    tables: &CompiledTables,
    (from, to): (&Party, &Party),
    test: &TestCase,
    visit: &mut dyn FnMut(&Answer<'_>) -> bool,
) -> usize {
    let (pieces, looked) = pieces(tables, from.segment, to.segment, test);
    for (service, last) in pieces {
        let (one, other) = (Identity::of(from.segment), Identity::of(to.segment));
        let answer = Answer {
            from,
            to,
            service,
            last,
            verdict: decide(tables, one, other, service),
        };
        if !visit(&answer) {
            break;
        }
    }
    looked + 1
}

/// A test's services, cut wherever the answer for a pair can change, ascending; and how many ranges and services that took.
fn pieces(
    tables: &CompiledTables,
    from: SegmentIndex,
    to: SegmentIndex,
    test: &TestCase,
) -> (Vec<(Service, Service)>, usize) {
    // What is one service is not cut.
    if test.services.iter().all(|(low, high)| low == high) {
        return (test.services.clone(), test.services.len());
    }
    let cell = tables.cell(from, to);
    let ranges = tables.holds(cell, tables.base(from, to)).into_iter();
    let edges: Vec<Service> = ranges.flat_map(|range| [range.low, range.high + 1]).collect();
    let mut pieces = Vec::new();
    for (low, high) in &test.services {
        let mut start = *low;
        // They ascend, as the ranges do.
        let inside = edges.partition_point(|edge| edge <= low);
        for edge in edges.iter().skip(inside).take_while(|edge| *edge <= high) {
            if *edge > start {
                pieces.push((start, edge - 1));
                start = *edge;
            }
        }
        pieces.push((start, *high));
    }
    let looked = edges.len() + pieces.len();
    (pieces, looked)
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
    within(policy, tables, (tests, rules), MOST_STEPS)
}

fn within(
    policy: &Policy,
    tables: &CompiledTables,
    (tests, rules): (&[Span], &[Span]),
    most: u64,
) -> Vec<Diagnostic> {
    let mut out = Vec::new();
    let mut asker = Asker::new(tables, most);
    for (test, span) in policy.tests.iter().zip(tests) {
        match asker.first_wrong(test, |answer| failure(test, answer, *span, rules)) {
            Ok(wrong) => out.extend(wrong),
            Err(TooMany) => {
                let message = format!(
                    "the policy's tests need more than {most} steps up to this one; all together may take {most}"
                );
                let help = "name fewer parties that rules treat differently, or fewer ports, in one test";
                out.push(Diagnostic::error(Code::Capacity, *span, message).help(help));
                break;
            }
        }
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

    fn tables_of(policy: &Policy) -> CompiledTables {
        let mut indexes = SegmentIndexes::default();
        indexes.allocate(policy, &BTreeSet::new()).expect("fits");
        compile(policy, &indexes, None).expect("fits")
    }

    /// The first wrong answer in words, by asking everything.
    fn by_all(tables: &CompiledTables, test: &TestCase) -> Option<String> {
        let mut wrong = None;
        each_answer(tables, test, &mut |answer| {
            if !is_expected(test, answer) {
                wrong = Some(format!("{answer:?}"));
            }
            wrong.is_none()
        });
        wrong
    }

    #[test]
    fn the_first_wrong_answer_is_that_of_asking_everything() {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let mut state = seed.unwrap_or(20_261_130_u64);
        let mut draw = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let (mut wrong, mut right) = (0, 0);
        for round in 0..300 {
            let mut segments = String::new();
            for number in 0..7 {
                let intra = ["allow", "deny"][draw(2)];
                // Both labels are somebody's.
                let label = if number < 2 { number } else { draw(2) };
                segments += &format!(
                    "    s{number}: {{intra: {intra}, labels: {{l: l{label}}}, match: [{{cgroup: /s{number}}}, \
                     {{cidr: 10.0.{number}.0/24}}]}}\n"
                );
            }
            let names = [
                "s0", "s1", "s2", "s3", "s4", "s5", "s6", "host", "world", "any", "{l: l0}", "{l: l1}",
            ];
            let addresses = ["10.0.0.1", "10.0.1.1", "10.0.1.2", "10.0.6.1", "192.0.2.1"];
            let rules = |of: &str, count: usize, draw: &mut dyn FnMut(usize) -> usize| {
                let mut text = format!("  {of}: [");
                for _ in 0..count {
                    let (from, to) = (names[draw(12)], names[draw(12)]);
                    let port = ["tcp/1", "tcp/2-4", "tcp/1-9", "any"][draw(4)];
                    text += &format!("{{from: {from}, to: {to}, ports: [{port}]}}, ");
                }
                text + "]\n"
            };
            let allow = draw(6);
            let allow = rules("allow", allow, &mut draw);
            let deny = draw(3);
            let deny = rules("deny", deny, &mut draw);
            let mut tests = String::from("  tests:\n");
            for _ in 0..12 {
                let mut ends = [String::new(), String::new()];
                for end in &mut ends {
                    *end = match draw(3) {
                        0 => names[draw(12)].to_owned(),
                        _ => {
                            let mut list: Vec<&str> = (0..=draw(4)).map(|_| names[draw(9)]).collect();
                            list.extend((0..draw(4)).map(|_| addresses[draw(5)]));
                            list.sort_unstable();
                            list.dedup();
                            format!("[{}]", list.join(", "))
                        }
                    };
                }
                let [from, to] = ends;
                let port = ["tcp/1", "tcp/3", "tcp/2-8", "[tcp/1, udp/1-9]", "any"][draw(5)];
                let expect = ["allow", "deny"][draw(2)];
                tests += &format!("    - {{from: {from}, to: {to}, port: {port}, expect: {expect}}}\n");
            }
            let text = format!(
                "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {{name: t}}\nspec:\n  segments:\n\
                 {segments}{allow}{deny}{tests}"
            );
            let policy = policy_from(Source {
                name: "t.yaml".to_owned(),
                text: text.clone().into(),
            });
            let tables = tables_of(&policy);
            let mut asker = Asker::new(&tables, u64::MAX);
            for test in &policy.tests {
                let expected = by_all(&tables, test);
                let found = asker
                    .first_wrong(test, |answer| format!("{answer:?}"))
                    .expect("unbounded");
                assert_eq!(found, expected, "round {round}: {} of\n{text}", test.label);
                match expected {
                    Some(_) => wrong += 1,
                    None => right += 1,
                }
            }
        }
        assert!(wrong > 500 && right > 300, "{wrong} fail, {right} pass");
    }

    /// A policy with a test of everybody, and its tables.
    fn everybody(segments: usize) -> (Policy, CompiledTables) {
        let mut text = String::from(
            "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: t}\nspec:\n  segments:\n",
        );
        for number in 0..segments {
            text += &format!("    s{number}: {{match: [{{cgroup: /s{number}}}]}}\n");
        }
        text += "  allow:\n    - {from: s0, to: s1, ports: [tcp/443]}\n    \
                 - {from: any, to: s2, ports: [tcp/80]}\n  deny:\n    - {from: any, to: any, ports: [tcp/23]}\n  tests:\n    \
                 - {from: any, to: any, port: tcp/23, expect: deny}\n    \
                 - {from: any, to: any, port: [tcp/1-22, tcp/24-79], expect: deny}\n";
        let policy = policy_from(Source {
            name: "t.yaml".to_owned(),
            text: text.into(),
        });
        let tables = tables_of(&policy);
        (policy, tables)
    }

    #[test]
    fn everybody_to_everybody_is_asked_in_as_many_steps_as_there_are_segments() {
        let (policy, tables) = everybody(2_000);
        let [passes, fails] = policy.tests.as_slice() else {
            panic!("two tests");
        };
        // A pair of each would be four millions.
        let mut asker = Asker::new(&tables, 10_000);
        let wrong = |answer: &Answer<'_>| (answer.from.name.clone(), answer.to.name.clone());
        // `world` may still ask `host`: the policy does not enforce it.
        let open = Some(("host".to_owned(), "host".to_owned()));
        assert_eq!(asker.first_wrong(passes, wrong), Ok(open.clone()));
        assert_eq!(asker.first_wrong(fails, wrong), Ok(open));
        let mut asker = Asker::new(&tables, 100);
        assert_eq!(asker.first_wrong(passes, wrong), Err(TooMany));
    }

    #[test]
    fn more_steps_than_all_tests_may_take_are_an_error_at_the_test() {
        let (policy, tables) = everybody(200);
        let spans: Vec<Span> = (1..3)
            .map(|start| Span {
                start,
                ..Span::default()
            })
            .collect();
        let told = |most: u64| -> Vec<(Code, Span)> {
            let found = within(&policy, &tables, (&spans, &[]), most);
            found
                .iter()
                .map(|found| (found.code, found.span.unwrap_or_default()))
                .collect()
        };
        let fails = [(Code::TestFailed, spans[0]), (Code::TestFailed, spans[1])];
        assert_eq!(told(MOST_STEPS), fails);
        assert_eq!(told(10), [(Code::Capacity, spans[0])]);
        let found = within(&policy, &tables, (&spans, &[]), 10);
        let expected = "the policy's tests need more than 10 steps up to this one; all together may take 10";
        assert_eq!(found[0].message, expected);
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
