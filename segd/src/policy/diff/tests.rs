//! What `diff` tells of small policies; `segd/tests/diff.rs` compares it with the oracle.

use super::*;
use crate::policy::{
    compile::compile,
    compiled::SegmentIndexes,
    port::list::display_list,
    testing::{policy_from, policy_of, source_of},
};

const TWO: &str = "{a: {match: [{cgroup: /a}]}, b: {match: [{cgroup: /b}]}}";

fn tables(policy: &Policy) -> CompiledTables {
    let mut indexes = SegmentIndexes::default();
    indexes.allocate(policy, &BTreeSet::new()).expect("fits");
    compile(policy, &indexes, None).expect("fits")
}

fn compared(old: &Policy, new: &Policy) -> Diff {
    let (old_tables, new_tables) = (tables(old), tables(new));
    let moves = crate::workload::selector::moves::moves(&old_tables, &new_tables).expect("fits");
    let old = Side {
        policy: old,
        tables: &old_tables,
    };
    let new = Side {
        policy: new,
        tables: &new_tables,
    };
    diff(old, new, moves)
}

/// `allowed a -> b tcp/80`, one line for each entry.
fn lines(diff: &Diff) -> Vec<String> {
    let names = |names: &[Name]| {
        let one = |name: &Name| match &name.was {
            Some(was) => format!("{was}>{}", name.name),
            None => name.name.clone(),
        };
        names.iter().map(one).collect::<Vec<_>>().join(",")
    };
    let line = |entry: &Entry| {
        let ports = display_list(&entry.services).join(",");
        format!(
            "{} {} -> {} {ports}",
            entry.change.label(),
            names(&entry.from),
            names(&entry.to)
        )
    };
    diff.entries.iter().map(line).collect()
}

#[test]
fn another_way_to_say_the_same_is_no_change() {
    let old = policy_of(TWO, "[{from: a, to: b, ports: [tcp/80-81]}]", "[]");
    let new = policy_of(
        TWO,
        "[{from: a, to: b, ports: [tcp/81]}, {from: [a], to: b, ports: [tcp/80]}]",
        "[{from: b, to: a}]",
    );
    let found = compared(&old, &new);
    assert_eq!(lines(&found), Vec::<String>::new());
    assert!(!found.widens());
}

#[test]
fn a_segment_of_another_name_is_no_change() {
    let old = policy_of(TWO, "[{from: a, to: b, ports: [tcp/80]}]", "[]");
    let renamed = TWO.replace("a: {", "c: {");
    let new = policy_of(&renamed, "[{from: c, to: b, ports: [tcp/80]}]", "[]");
    let found = compared(&old, &new);
    assert_eq!(lines(&found), Vec::<String>::new());
    assert_eq!(found.moved.len(), 1, "{:?}", found.moved);
}

#[test]
fn tells_what_opens_and_what_closes_with_the_rules_that_decide() {
    let old = policy_of(
        TWO,
        "[{from: a, to: b, ports: [tcp/80]}]",
        "[{from: b, to: a, ports: [tcp/22]}]",
    );
    let new = policy_of(TWO, "[{from: b, to: a, ports: [tcp/22-23]}]", "[]");
    let found = compared(&old, &new);
    assert_eq!(
        lines(&found),
        [
            "allowed b -> a tcp/22",
            "allowed b -> a tcp/23",
            "denied a -> b tcp/80"
        ]
    );
    assert!(matches!(&found.entries[0].old, Some(Cause::Guardrail(rule)) if rule.label == "test/deny[0]"));
    assert!(matches!(&found.entries[0].new, Some(Cause::Rule(rule)) if rule.label == "test/allow[0]"));
    assert_eq!((&found.entries[1].old, &found.entries[2].new), (&None, &None));
}

#[test]
fn a_workload_that_changes_its_segment_changes_its_rights() {
    let old = policy_of(TWO, "[{from: a, to: b, ports: [tcp/80]}]", "[]");
    let wider = TWO.replace("[{cgroup: /a}]", "[{cgroup: /a}, {systemd: x.service}]");
    let new = policy_of(&wider, "[{from: a, to: b, ports: [tcp/80]}]", "[]");
    let found = compared(&old, &new);
    assert!(
        lines(&found).contains(&"allowed host>a -> b tcp/80".to_owned()),
        "{:?}",
        lines(&found)
    );
    assert!(
        found
            .moved
            .iter()
            .any(|moved| moved.what == ["systemd: x.service"]),
        "{:?}",
        found.moved
    );
}

#[test]
fn a_unit_is_looked_for_below_every_path() {
    let old = policy_of("{a: {match: [{cgroup: /a}]}, b: {}}", "[]", "[]");
    let new = policy_of(
        "{a: {match: [{cgroup: /a}]}, b: {match: [{systemd: x.service}]}}",
        "[]",
        "[]",
    );
    let found = compared(&old, &new);
    let what = found
        .moved
        .iter()
        .find(|moved| (moved.old.as_str(), moved.new.as_str()) == ("a", "b"));
    assert_eq!(
        what.map(|moved| moved.what.as_slice()),
        Some(&["systemd: x.service below cgroup: /a".to_owned()][..])
    );
}

#[test]
fn what_two_patterns_have_in_common_is_looked_at() {
    let segments = |a: &str, b: &str| format!("{{a: {{match: [{a}]}}, b: {{match: [{b}]}}}}");
    for (a, b) in [
        ("{systemd: 'job-*a.service'}", "{systemd: 'job-bb*.service'}"),
        ("{cgroup: '/pods/*/x'}", "{cgroup: '/pods/long/*'}"),
    ] {
        let old = policy_of(&segments(a, ""), "[]", "[]");
        let new = policy_of(&segments(a, b), "[]", "[]");
        let found = compared(&old, &new).moved;
        let moves =
            |moved: &crate::policy::diff::Moved| (moved.old.as_str(), moved.new.as_str()) == ("a", "b");
        assert!(found.iter().any(moves), "{found:?}");
    }
}

#[test]
fn an_address_that_changes_its_segment_changes_its_rights() {
    let net =
        |prefix: &str| format!("{{a: {{match: [{{cgroup: /a}}]}}, net: {{match: [{{cidr: {prefix}}}]}}}}");
    let rule = "[{from: net, to: a, ports: [tcp/22]}]";
    let old = policy_of(&net("10.0.0.0/9"), rule, "[]");
    let new = policy_of(&net("10.0.0.0/8"), rule, "[]");
    let there = lines(&compared(&old, &new));
    assert!(
        there.contains(&"allowed world>net -> a tcp/22".to_owned()),
        "{there:?}"
    );
    // Its members may talk to each other; and towards `host`, whom nothing kept from `world`, they need a rule now.
    assert!(
        there.contains(&"denied world>net -> host any".to_owned()),
        "{there:?}"
    );
    let back = lines(&compared(&new, &old));
    assert!(
        back.contains(&"denied net>world -> a tcp/22".to_owned()),
        "{back:?}"
    );
}

#[test]
fn what_is_only_observed_from_now_on_widens() {
    let old = policy_of(TWO, "[]", "[]");
    let observed = TWO.replace("[{cgroup: /b}]", "[{cgroup: /b}], mode: audit");
    let new = policy_of(&observed, "[]", "[]");
    let found = compared(&old, &new);
    assert!(found.widens() && found.entries.iter().all(|entry| entry.change == Change::Audited));
    assert!(!compared(&new, &old).widens());
}

#[test]
fn everybody_is_told_as_any() {
    let old = policy_of(TWO, "[]", "[]");
    let new = policy_of(TWO, "[{from: any, to: b, ports: [tcp/443]}]", "[]");
    // Members of `b` could talk to each other before.
    assert_eq!(
        lines(&compared(&old, &new)),
        ["allowed a,host,world -> b tcp/443"]
    );
    let apart = TWO.replace("[{cgroup: /b}]", "[{cgroup: /b}], intra: deny");
    let old = policy_of(&apart, "[]", "[]");
    let new = policy_from(source_of(&apart, "[{from: any, to: b, ports: [tcp/443]}]", "[]"));
    assert_eq!(lines(&compared(&old, &new)), ["allowed any -> b tcp/443"]);
}
