//! Precedence, attribution, interning and capacity of the compiler.

use segd_common::{
    decide::decide, segment::SEGMENT_ADMITS, segment::SEGMENT_GUARDED, segment::SEGMENT_INITIATES,
    segment::SEGMENT_VALID, service, workload::Identity,
};

use super::*;
use crate::policy::testing::policy_of;

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
fn nothing_but_the_host_default_holds_without_rules() {
    let (_, tables) = compiled(&policy_of(THREE, "[]", "[]"));
    let pairs: Vec<_> = tables.classes.keys().copied().collect();
    assert_eq!(pairs, [(1, 1), (1, 2), (2, 1)]);
    assert_eq!(tables.sets.len(), 2, "the empty set and one that all three share");
}

#[test]
fn equal_port_sets_are_kept_once() {
    let rules = "[{from: a, to: [b, c], ports: [tcp/1]}, {from: c, to: b, ports: [tcp/2]}]";
    let (_, tables) = compiled(&policy_of(THREE, rules, "[]"));
    let class = |from: &str, to: &str| {
        let index = |name| tables.index(name).expect("known");
        segd_common::tables::Tables::class(&tables, index(from), index(to))
    };
    assert_eq!(class("a", "b"), class("a", "c"));
    assert_ne!(class("a", "b"), class("c", "b"));
    assert_eq!(class("b", "a"), 0);
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
            .map(|rule| rule.label.to_string())
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
        tables.segments.get(usize::from(index)).copied().expect("in use") & !SEGMENT_VALID
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
    assert_eq!(tables.segments.get(4), Some(&0));
    assert_eq!(
        tables.segments.get(5).map(|flags| flags & SEGMENT_VALID),
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
    // 300 pairs, each with its own set of 300 single ports.
    let mut policy = policy_of(THREE, "[{from: a, to: b, ports: [tcp/1]}]", "[]");
    let model = policy.segments.get("a").cloned().expect("defined");
    let rule = policy.rules.first().cloned().expect("defined");
    policy.rules.clear();
    for number in 0..300_u16 {
        let name = format!("s{number}");
        policy.segments.insert(name.clone(), model.clone());
        let ports = (0..300_u16).map(|port| service::port(service::TCP, 1 + number + 100 * port));
        let mut rule = rule.clone();
        rule.to = std::sync::Arc::new([crate::policy::model::Peer::Segment(name)].into());
        rule.services = ports.map(|service| (service, service)).collect();
        policy.rules.push(rule);
    }
    for (name, segment) in &mut policy.segments {
        segment.name.clone_from(name);
    }
    let mut indexes = SegmentIndexes::default();
    indexes.allocate(&policy, &Default::default()).expect("fits");
    let error = compile(&policy, &indexes, None).expect_err("too many");
    assert_eq!(
        error.to_string(),
        "the policy needs 90001 port ranges; the kernel tables hold 65536"
    );
}
