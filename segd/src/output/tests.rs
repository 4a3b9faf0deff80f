//! What answers look like.

use super::*;
use crate::control::types::{FlowRecord, SegmentRow, Status, WorkloadRow};

#[test]
fn prints_columns_without_lines_and_trailing_spaces() {
    let text = columns(
        &["NAME", "STATE"],
        &[
            vec!["a-long-name".into(), String::new()],
            vec!["b".into(), "x".into()],
        ],
    );
    assert_eq!(text, "NAME         STATE\na-long-name  -\nb            x\n");
}

#[test]
fn keeps_control_characters_of_a_cgroup_name_off_the_terminal() {
    let row = WorkloadRow {
        cgroup: "/evil\u{1b}[2Jx\ny".into(),
        ..Default::default()
    };
    let text = vec![row].table();
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert_eq!(text.lines().count(), 2, "one line for the row: {text:?}");
    assert!(text.contains("/evil\\u{1b}[2Jx\\ny"), "{text}");
}

#[test]
fn says_the_same_in_json_and_yaml() {
    let rows = vec![SegmentRow {
        name: "web".into(),
        addresses: vec!["::1/128".into()],
        ..Default::default()
    }];
    let from_json: Vec<SegmentRow> =
        serde_json::from_str(&json(&rows, true).expect("json")).expect("reads back");
    let from_yaml: Vec<SegmentRow> = serde_yaml::from_str(&yaml(&rows).expect("yaml")).expect("reads back");
    assert_eq!(from_json, rows);
    assert_eq!(from_yaml, rows);
}

#[test]
fn prints_a_flow_as_one_line_with_bracketed_ipv6() {
    let flow = FlowRecord {
        time: "2026-11-22T09:00:00.000000Z".into(),
        from: "web".into(),
        to: "db".into(),
        verdict: "denied".into(),
        reason: "no-rule".into(),
        protocol: "tcp".into(),
        source: "fd00::1".into(),
        source_port: Some(4000),
        destination: "fd00::2".into(),
        destination_port: Some(22),
        ..Default::default()
    };
    assert_eq!(
        flow.table(),
        "2026-11-22T09:00:00.000000Z  denied   web -> db  tcp/22  [fd00::1]:4000 -> [fd00::2]:22  no-rule\n"
    );
}

#[test]
fn names_the_reason_why_it_does_not_enforce() {
    let status = Status {
        not_enforcing_because: Some("cgroup_skb/egress is not attached".into()),
        ..Default::default()
    };
    assert!(
        status
            .table()
            .starts_with("Enforcing:   no: cgroup_skb/egress is not attached\n")
    );
}

#[test]
fn docs_name_every_field() {
    use crate::control::types::{Explanation, MapUse, Program, Readiness, Reload};
    let docs = concat!(
        include_str!("../../../docs/cli.md"),
        include_str!("../../../docs/metrics.md")
    );
    let status = Status {
        last_reload: Some(Reload::default()),
        programs: vec![Program::default()],
        maps: vec![MapUse::default()],
        ..Default::default()
    };
    let everything = serde_json::json!([
        status,
        SegmentRow::default(),
        WorkloadRow::default(),
        FlowRecord::default(),
        Explanation::default(),
    ]);
    let mut waiting = vec![&everything];
    while let Some(value) = waiting.pop() {
        match value {
            serde_json::Value::Array(values) => waiting.extend(values),
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    assert!(docs.contains(&format!("`{name}`")), "docs/cli.md lacks `{name}`");
                    waiting.push(value);
                }
            }
            _ => {}
        }
    }
    assert!(
        docs.contains(
            json(
                &Readiness {
                    reasons: vec!["…".into()],
                    ..Default::default()
                },
                false
            )
            .expect("json")
            .trim()
        )
    );
}
