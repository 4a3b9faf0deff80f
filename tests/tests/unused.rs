//! `segd policy check --live --unused-for`: a rule that nobody uses is told, one that is used is not, and neither is one
//! that was not watched for long enough.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::net::Ipv4Addr;

use segd_tests::{Lab, Segd, wait};
use serde_json::Value;

fn check(segd: &Segd, time: &str) -> Value {
    let path = segd.policy_path().to_str().unwrap();
    segd.json(&["policy", "check", path, "--live", "--unused-for", time])
}

/// The lines of the rules that are said to be unused.
fn unused(answer: &Value) -> Vec<u64> {
    let told = answer["diagnostics"].as_array().unwrap().iter();
    told.filter(|warning| warning["code"] == "unused-rule")
        .map(|warning| warning["place"]["line"].as_u64().unwrap())
        .collect()
}

#[test]
fn only_a_rule_that_nobody_uses_is_told_once_it_was_watched_for_long_enough() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let policy = format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: used}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: web, to: db, ports: [tcp/5432]}}
    - {{from: web, to: db, ports: [tcp/5433]}}
    - {{from: web, to: db, ports: [tcp/5434]}}
    - {{from: web, to: db, ports: [tcp/5435]}} # segd: allow(unused-rule) for emergencies
",
        web.path(),
        db.path()
    );
    let line = |port: &str| 1 + policy.lines().position(|line| line.contains(port)).unwrap() as u64;
    let segd = lab.enforce(&policy);
    let used = server.listen_tcp_echo((Ipv4Addr::LOCALHOST, 5432));
    let held = server.listen_tcp_echo((Ipv4Addr::LOCALHOST, 5433));
    // One session, begun before anything that counts.
    let session = client.open_tcp(held.local).unwrap();
    client.send(session, "hello;").unwrap();
    assert_eq!(client.receive(session, 1000), Ok(Some("hello;".into())));

    let young = check(&segd, "30d");
    assert_eq!(unused(&young), Vec::<u64>::new());
    let note = young["notes"][0].as_str().unwrap();
    assert!(note.contains("segd watches them for less than 30d"), "{note}");

    wait::wait_until("the rule nobody uses is told", wait::PATIENCE, || {
        let again = client.open_tcp(used.local).unwrap();
        client.send(again, "again;").unwrap();
        assert_eq!(client.receive(again, 1000), Ok(Some("again;".into())));
        client.close(again);
        let told = unused(&check(&segd, "2s"));
        assert!(told.is_empty() || told == [line("tcp/5434")], "{told:?}");
        !told.is_empty()
    });
    let path = segd.policy_path().to_str().unwrap();
    let insists = segd.client(&[
        "policy",
        "check",
        path,
        "--live",
        "--unused-for",
        "2s",
        "--deny-warnings",
    ]);
    assert_eq!(insists.status.code(), Some(1), "{insists:?}");
    let told = String::from_utf8_lossy(&insists.stderr).into_owned();
    assert!(
        told.contains("warning[unused-rule]: nothing has begun under rule `used/allow[2]`"),
        "{told}"
    );

    // Its session ends, and the rule has no user left.
    client.close(session);
    wait::wait_until("the rule whose session ended is told", wait::PATIENCE, || {
        unused(&check(&segd, "2s")).contains(&line("tcp/5433"))
    });

    // A rule that only moves keeps its past; a new one is not told.
    segd.set_policy(&policy.replace(
        "  allow:\n",
        "  allow:\n    - {from: web, to: db, ports: [tcp/9]}\n",
    ));
    let told = unused(&check(&segd, "2s"));
    assert!(told.contains(&(line("tcp/5434") + 1)), "{told:?}");
    assert!(
        !told.contains(&line("tcp/5432")),
        "the new one stands where the first stood: {told:?}"
    );
}
