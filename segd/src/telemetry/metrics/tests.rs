//! The metrics page, to the letter.

use segd_common::{counter::CounterKey, segment};

use super::*;

fn key(from: u16, to: u16, outcome: Outcome, reason: Reason) -> CounterKey {
    CounterKey {
        from,
        to,
        outcome: outcome as u8,
        reason: reason as u8,
        reserved: 0,
    }
}

fn count(packets: u64) -> Counter {
    Counter {
        packets,
        bytes: packets * 100,
        flows: packets / 2,
        revoked: 0,
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        counters: vec![
            (
                key(4, 5, Outcome::Allowed, Reason::Rule),
                Counter {
                    revoked: 1,
                    ..count(10)
                },
            ),
            (
                key(4, 5, Outcome::Denied, Reason::NoRule),
                Counter {
                    revoked: 2,
                    ..count(3)
                },
            ),
            (key(segment::WORLD, 5, Outcome::Audited, Reason::NoRule), count(7)),
            (
                key(4, segment::WORLD, Outcome::Denied, Reason::PacketSocket),
                count(6),
            ),
            (
                key(4, segment::WORLD, Outcome::Audited, Reason::XdpSocket),
                count(1),
            ),
        ],
        other: count(4),
        names: ["", "host", "world", "", "web", "db"].map(String::from).to_vec(),
        rule_hits: vec![("shop/allow[0]".into(), 10), ("shop/deny[0]".into(), 0)],
        rule_ends: vec![("shop/allow[0]".into(), 1_796_148_000)],
        revision: 7,
        commit: Some(("c0ffee".into(), true)),
        policy_source: "files",
        reload_success: 3,
        reload_failure: 1,
        files_refused: true,
        workloads: vec![("db".into(), 2), ("web".into(), 5)],
        events_lost: 9,
        maps: vec![("cgroups".into(), 7, 131_072)],
        repairs: vec![("detached", 2)],
        sessions_cut: 3,
        enforcing: true,
    }
}

#[test]
fn renders_the_page_of_the_contract() {
    let page = Metrics::default().render(&snapshot()).expect("it renders");
    let golden = include_str!("golden.txt").replace("VERSION", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        page,
        golden.replace("ABI", &segd_common::ABI_VERSION.to_string()),
        "{page}"
    );
}

#[test]
fn docs_name_exactly_the_metrics_rendered() {
    let page = Metrics::default()
        .render(&Snapshot::default())
        .expect("it renders");
    let rendered: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let docs = include_str!("../../../../docs/metrics.md");
    let documented: BTreeSet<&str> = docs
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(['{', '`']).next())
        .filter(|name| name.starts_with("segd_"))
        .collect();
    assert_eq!(documented, rendered, "the table in docs/metrics.md");
    let words: BTreeSet<&str> = docs
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("segd_"))
        .collect();
    assert_eq!(words, rendered, "every name anywhere in docs/metrics.md");
}

#[test]
fn shows_every_name_from_the_first_scrape() {
    let page = Metrics::default()
        .render(&Snapshot::default())
        .expect("it renders");
    assert!(page.contains("# TYPE segd_packets_total counter\n"), "{page}");
    assert!(
        page.contains("segd_policy_reload_total{result=\"failure\"} 0\n"),
        "{page}"
    );
    assert!(page.contains("segd_enforcing 0\n"), "{page}");
}

#[test]
fn folds_what_exceeds_the_limit_and_loses_no_packet() {
    let mut metrics = Metrics::with_limit(2);
    let mut many = Snapshot {
        names: (0..20).map(|n| format!("s{n}")).collect(),
        ..Default::default()
    };
    many.counters = (10..20)
        .map(|n| (key(n, 10, Outcome::Denied, Reason::NoRule), count(1)))
        .collect();
    many.rule_hits = (0..5).map(|n| (format!("r{n}"), 1)).collect();
    let page = metrics.render(&many).expect("it renders");
    assert!(page.contains(
        "segd_packets_total{from=\"other\",to=\"other\",verdict=\"denied\",reason=\"no-rule\"} 8\n"
    ));
    assert_eq!(
        page.lines()
            .filter(|line| line.starts_with("segd_packets_total{"))
            .count(),
        3
    );
    assert!(
        page.contains("segd_rule_hits_total{rule=\"other\"} 3\n"),
        "{page}"
    );
}

#[test]
fn keeps_showing_a_pair_it_has_shown() {
    let mut metrics = Metrics::with_limit(1);
    let names: Vec<String> = ["", "host", "world", "", "web", "db", "app"]
        .map(String::from)
        .to_vec();
    let web = (key(4, 5, Outcome::Denied, Reason::NoRule), count(1));
    let app = (key(6, 5, Outcome::Denied, Reason::NoRule), count(1));
    let first = Snapshot {
        names: names.clone(),
        counters: vec![web],
        ..Default::default()
    };
    let second = Snapshot {
        names,
        counters: vec![app, web],
        ..Default::default()
    };
    metrics.render(&first).expect("it renders");
    let page = metrics.render(&second).expect("it renders");
    assert!(
        page.contains("{from=\"web\",to=\"db\",verdict=\"denied\",reason=\"no-rule\"} 1\n"),
        "{page}"
    );
    assert!(
        page.contains("{from=\"other\",to=\"other\",verdict=\"denied\",reason=\"no-rule\"} 1\n"),
        "{page}"
    );
}

#[test]
fn adds_up_two_indexes_of_one_name() {
    let mut snapshot = snapshot();
    snapshot.names.push("web".into());
    snapshot
        .counters
        .push((key(6, 5, Outcome::Allowed, Reason::Rule), count(1)));
    let page = Metrics::default().render(&snapshot).expect("it renders");
    assert!(
        page.contains("{from=\"web\",to=\"db\",verdict=\"allowed\",reason=\"rule\"} 11\n"),
        "{page}"
    );
}

#[test]
fn escapes_a_rule_label_with_quotes() {
    let snapshot = Snapshot {
        rule_hits: vec![("a\"b\\c\nd".into(), 1)],
        ..Default::default()
    };
    let page = Metrics::default().render(&snapshot).expect("it renders");
    assert!(
        page.contains("segd_rule_hits_total{rule=\"a\\\"b\\\\c\\nd\"} 1\n"),
        "{page}"
    );
}

#[test]
fn docs_explain_every_reason() {
    let docs = include_str!("../../../../docs/metrics.md");
    for reason in Reason::ALL {
        let row = format!(
            "| `{}` | {} |",
            reason.label(),
            if reason.allows() { "yes" } else { "no" }
        );
        assert!(docs.contains(&row), "docs/metrics.md lacks {row}");
    }
}
