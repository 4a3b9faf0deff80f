//! Precedence, attribution, interning and capacity of the compiler.

use std::collections::BTreeSet;
use std::sync::Arc;

use segd_common::{
    decide::decide,
    segment::{self, SEGMENT_ADMITS, SEGMENT_GUARDED, SEGMENT_INITIATES, SEGMENT_VALID},
    service,
    tables::{Cell, RULE_DENY},
    workload::Identity,
};

use super::*;
use crate::policy::{
    compiled::Base,
    model::{Peer, Rule, Segment},
    testing::policy_of,
};

const THREE: &str = "{a: {match: [{cgroup: /a}], intra: deny}, b: {match: [{cgroup: /b}], intra: deny}, \
                     c: {match: [{cgroup: /c}, {user: alice}], intra: deny}}";

#[track_caller]
fn compiled(policy: &Policy) -> (SegmentIndexes, CompiledTables) {
    let mut indexes = SegmentIndexes::default();
    indexes.allocate(policy, &Default::default()).expect("fits");
    let tables = compile(policy, &indexes, None).expect("fits");
    (indexes, tables)
}

#[test]
fn without_rules_there_are_no_cells() {
    let (_, tables) = compiled(&policy_of(THREE, "[]", "[]"));
    assert_eq!((tables.cells, tables.ranges, tables.any), (0, 0, Cell::default()));
    assert_eq!(tables.base(segment::HOST, segment::WORLD), Base::Host);
}

fn cell(tables: &CompiledTables, from: &str, to: &str) -> Cell {
    let index = |name| tables.index(name).expect("known");
    Cell {
        key: 0,
        ..tables.cell(index(from), index(to))
    }
}

#[test]
fn equal_lists_are_kept_once() {
    let rules = "[{from: a, to: [b, c], ports: [tcp/1, tcp/3]}, {from: c, to: b, ports: [tcp/2]}]";
    let (_, tables) = compiled(&policy_of(
        THREE,
        rules,
        "[{from: b, to: a, ports: [tcp/9]}, {from: b, to: c}]",
    ));
    assert_eq!(cell(&tables, "a", "b"), cell(&tables, "a", "c"));
    assert_ne!(cell(&tables, "a", "b"), cell(&tables, "c", "b"));
    assert_eq!(tables.ranges, 2);
    assert_eq!(cell(&tables, "a", "a"), Cell::default());
}

#[test]
fn rules_of_any_take_no_cell_for_each_segment() {
    let many = |allow: &str, deny: &str| {
        let mut policy = policy_of(THREE, allow, deny);
        let model = policy.segments.get("c").cloned().expect("defined");
        for number in 0..500 {
            let name = format!("s{number}");
            let mut rule = policy.rules.first().cloned().expect("defined");
            rule.to = std::sync::Arc::new([Peer::Segment(name.clone())].into());
            policy.rules.push(rule);
            Arc::make_mut(&mut policy.segments).insert(
                name.clone(),
                Segment {
                    name,
                    ..model.clone()
                },
            );
        }
        let everybody: std::sync::Arc<BTreeSet<Peer>> = std::sync::Arc::new(
            policy
                .segments
                .keys()
                .cloned()
                .map(Peer::Segment)
                .chain([Peer::Host, Peer::World])
                .collect(),
        );
        for rule in policy.rules.iter_mut() {
            for side in [&mut rule.from, &mut rule.to] {
                if side.len() == 5 {
                    *side = everybody.clone();
                }
            }
        }
        compiled(&policy).1
    };
    let a = "{from: a, to: b, ports: [tcp/1]}";
    let plain = many(&format!("[{a}]"), "[]");
    // From `a` to each of the others, `b` among them.
    assert_eq!(plain.cells, 501);
    let tables = many(
        &format!("[{a}, {{from: any, to: b, ports: [tcp/2]}}]"),
        "[{from: any, to: any, ports: [tcp/3]}]",
    );
    assert_eq!(tables.cells, 502, "and one for `b`");
    let tables = many(&format!("[{a}, {{from: c, to: any, ports: [tcp/2]}}]"), "[]");
    assert_eq!(tables.cells, 502, "and one for `c`");
    for (from, to, expected) in [
        ("c", "s17", true),
        ("c", "c", true),
        ("s17", "c", false),
        ("c", "host", true),
    ] {
        assert_eq!(
            cell(&tables, from, to) != Cell::default(),
            expected,
            "{from} to {to}"
        );
    }
    let both = "{from: any, to: b, ports: [tcp/2]}, {from: c, to: any, ports: [tcp/4]}";
    let tables = many(&format!("[{a}, {both}]"), "[]");
    assert_eq!(tables.cells, 504, "and one each, and one for both");
    assert_eq!(tables.ranges(cell(&tables, "c", "b")).count(), 2);
}

#[test]
fn nothing_allows_what_is_no_service() {
    let policy = policy_of(
        "{a: {match: [{cgroup: /a}]}}",
        "[{from: any, to: any, ports: [any]}]",
        "[]",
    );
    let (_, tables) = compiled(&policy);
    for (from, to) in [(segment::WORLD, segment::HOST), (4, 4), (4, segment::WORLD)] {
        let (from, to) = (Identity::of(from), Identity::of(to));
        assert!(decide(&tables, from, to, service::MAX).allows());
        assert!(
            !decide(&tables, from, to, service::NONE).allows(),
            "{from:?} to {to:?}"
        );
    }
}

#[test]
fn names_the_rule_that_stands_first() {
    let allow = "[{from: a, to: b, ports: [tcp/10-30]}, {from: any, to: b, ports: [tcp/20-40]}]";
    let (_, tables) = compiled(&policy_of(THREE, allow, "[{from: a, to: any, ports: [tcp/25]}]"));
    let (a, b) = (Identity::of(4), Identity::of(5));
    let rule = |port| {
        let verdict = decide(&tables, a, b, service::port(service::TCP, port));
        tables
            .rules
            .get(verdict.rule as usize)
            .map(|rule| rule.label().to_string())
    };
    assert_eq!(rule(9), None);
    assert_eq!(rule(10).as_deref(), Some("test/allow[0]"));
    assert_eq!(rule(24).as_deref(), Some("test/allow[0]"));
    assert_eq!(rule(25).as_deref(), Some("test/deny[0]"));
    assert_eq!(rule(30).as_deref(), Some("test/allow[0]"));
    assert_eq!(rule(31).as_deref(), Some("test/allow[1]"));
    assert_eq!(rule(41), None);
}

#[test]
fn only_those_who_can_initiate_or_be_reached_are_marked() {
    let rules = "[{from: a, to: b, ports: [tcp/1]}, {from: c, to: b, ports: [tcp/2]}]";
    let (_, tables) = compiled(&policy_of(THREE, rules, "[{from: c, to: b}]"));
    let flags = |name: &str| {
        let index = tables.index(name).expect("known");
        tables.segments.get(usize::from(index)).expect("in use").flags & !SEGMENT_VALID
    };
    assert_eq!(flags("a"), SEGMENT_INITIATES);
    assert_eq!(flags("b"), SEGMENT_ADMITS);
    assert_eq!(flags("c"), SEGMENT_GUARDED, "a guardrail took its only right");
}

#[test]
fn a_name_that_is_kept_has_no_valid_index() {
    let mut indexes = SegmentIndexes::default();
    indexes
        .allocate(&policy_of(THREE, "[]", "[]"), &Default::default())
        .expect("fits");
    let next = policy_of("{b: {match: [{cgroup: /b}]}}", "[]", "[]");
    indexes.allocate(&next, &["a".to_owned()].into()).expect("fits");
    let tables = compile(&next, &indexes, None).expect("fits");
    assert_eq!(tables.names.get(4).map(String::as_str), Some("a"));
    assert_eq!(tables.segments.get(4), Some(&Default::default()));
    assert_eq!(
        tables
            .segments
            .get(5)
            .map(|segment| segment.flags & SEGMENT_VALID),
        Some(SEGMENT_VALID)
    );
}

#[test]
fn a_segment_without_an_index_is_refused() {
    let error =
        compile(&policy_of(THREE, "[]", "[]"), &SegmentIndexes::default(), None).expect_err("no index");
    assert_eq!(error, CompileError::NoIndex { name: "a".to_owned() });
}

#[test]
fn selectors_are_numbered_by_segment_and_position() {
    let (indexes, tables) = compiled(&policy_of(THREE, "[]", "[]"));
    let found: Vec<String> = tables
        .selectors
        .iter()
        .map(|selector| selector.kind.to_string())
        .collect();
    assert_eq!(found, ["cgroup: /a", "cgroup: /b", "cgroup: /c", "user: alice"]);
    assert_eq!(
        tables.selectors.last().map(|selector| selector.segment),
        indexes.by_name.get("c").copied()
    );
}

#[test]
fn says_how_many_ranges_would_be_needed() {
    // Each with a list of its own of 30,000 single ports.
    let rules: Vec<String> = (1..=140)
        .map(|number| format!("{{from: a, to: s{number}, ports: [tcp/{number}]}}"))
        .collect();
    let segments: Vec<String> = (1..=140)
        .map(|number| format!("s{number}: {{match: [{{cgroup: /s/{number}}}]}}"))
        .collect();
    let segments = format!("{{a: {{}}, {}}}", segments.join(", "));
    let mut policy = policy_of(&segments, &format!("[{}]", rules.join(", ")), "[]");
    for (number, rule) in (1..).zip(policy.rules.iter_mut()) {
        let ports = (0..30_000_u16).map(|port| service::port(service::TCP, 2 * port + number % 2));
        rule.services = ports.map(|service| (service, service)).collect();
    }
    let mut indexes = SegmentIndexes::default();
    indexes.allocate(&policy, &Default::default()).expect("fits");
    let error = compile(&policy, &indexes, None).expect_err("too many");
    assert_eq!(
        error.to_string(),
        "the policy needs 4200000 port ranges; the kernel tables hold 4194304"
    );
}

#[test]
fn as_many_segments_as_there_are_indexes_compile() {
    const MOST: usize = 65_532;
    let mut policy = policy_of(
        "{a: {match: [{cgroup: /a}]}}",
        "[{from: a, to: a, ports: [tcp/1]}]",
        "[]",
    );
    let model = Arc::make_mut(&mut policy.segments).remove("a").expect("defined");
    let rule = std::mem::take(&mut policy.rules)
        .first()
        .cloned()
        .expect("defined");
    let name = |number: usize| format!("s{:05}", number % MOST);
    for number in 0..MOST {
        Arc::make_mut(&mut policy.segments).insert(
            name(number),
            Segment {
                name: name(number),
                ..model.clone()
            },
        );
        let end = |number| std::sync::Arc::new([Peer::Segment(name(number))].into());
        let (from, to) = (end(number), end(number + 1));
        let mut rule: Rule = rule.clone();
        (rule.from, rule.to) = (from, to);
        policy.rules.push(rule);
    }
    let (indexes, tables) = compiled(&policy);
    assert_eq!((tables.cells, tables.ranges), (MOST, 0));
    let last = indexes.by_name.get(&name(MOST - 1)).copied().expect("has one");
    assert_eq!(last, u16::MAX);
    for (from, to, expected) in [(last, 4, true), (4, last, false), (last - 1, last, true)] {
        let verdict = decide(
            &tables,
            Identity::of(from),
            Identity::of(to),
            service::port(service::TCP, 1),
        );
        assert_eq!(verdict.allows(), expected, "{from} to {to}");
    }
}

#[test]
fn what_holds_inside_a_segment_is_what_is_decided_there() {
    for (allow, deny) in [
        ("[]", "[{from: a, to: a}]"),
        ("[{from: a, to: a, ports: [any]}]", "[]"),
        (
            "[{from: a, to: a, ports: [tcp/5-7, tcp/9]}]",
            "[{from: a, to: any, ports: [tcp/7, udp/1-65535]}]",
        ),
        (
            "[{from: a, to: a, ports: [tcp/5], until: 2099-01-01T00:00:00Z}]",
            "[]",
        ),
    ] {
        let (_, tables) = compiled(&policy_of("{a: {match: [{cgroup: /a}]}}", allow, deny));
        let held = tables.holds(tables.cell(4, 4), tables.base(4, 4));
        assert!(held.windows(2).all(|pair| pair[0].high < pair[1].low), "{held:?}");
        assert!(
            held.iter()
                .all(|range| range.low <= range.high && range.high <= service::MAX),
            "{held:?}"
        );
        let asked = held.iter().flat_map(|range| [range.low, range.high]);
        for at in asked.chain([0, service::port(service::TCP, 5), service::MAX]) {
            let verdict = decide(&tables, Identity::of(4), Identity::of(4), at);
            let range = held.iter().find(|range| range.low <= at && at <= range.high);
            let allows = range.is_some_and(|range| range.rule & RULE_DENY == 0);
            assert_eq!(verdict.allows(), allows, "{allow} {deny} {at:x} {held:?}");
        }
    }
}
