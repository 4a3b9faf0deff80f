//! `segd apply --dry-run` tells beforehand what `segd apply` then does, and does none of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use segd_tests::{Cgroup, Lab, Segd, netns::cable, segd::write_atomically, wait};
use serde_json::Value;

const LOST: u16 = 5432;
const KEPT: u16 = 5433;

/// A policy of `web` and `db`, with these segments and rules beside.
fn policy(web: &Cgroup, db: &Cgroup, ports: &str, more: &str) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: foreseen}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: web, to: db, ports: [{ports}]}}
{more}",
        web.path(),
        db.path()
    )
}

/// A place for candidates.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap())
    }

    fn write(&self, text: &str) -> PathBuf {
        let path = self.0.path().join("candidate.yaml");
        write_atomically(&path, text);
        path
    }
}

/// Asks what a text would change: the exit code and the JSON, after seeing that the revision stayed.
#[track_caller]
fn dry_run(segd: &Segd, files: &Files, text: &str, flags: &[&str]) -> (Option<i32>, Value) {
    let before = segd.revision();
    let path = files.write(text);
    let mut words = vec!["apply", path.to_str().unwrap(), "--dry-run", "-o", "json"];
    words.extend(flags);
    let output = segd.client(&words);
    assert_eq!(segd.revision(), before, "a dry run changed the policy in force");
    let answer = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    if answer.is_null() {
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    (output.status.code(), answer)
}

/// Who would be cut: the initiator's port, the other side's, and why.
#[track_caller]
fn cut(answer: &Value) -> BTreeSet<(u64, u64, String)> {
    let cut = answer["sessions"]["cut"].as_array().expect("a list");
    let of = |row: &Value| {
        (
            row["source_port"].as_u64().unwrap(),
            row["destination_port"].as_u64().unwrap(),
            row["reason"].as_str().unwrap().to_owned(),
        )
    };
    let told: BTreeSet<_> = cut.iter().map(of).collect();
    assert_eq!(told.len(), cut.len(), "each session once: {cut:?}");
    told
}

fn on(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[test]
fn what_a_dry_run_says_would_be_cut_is_what_the_apply_then_cuts() {
    let Some(lab) = Lab::open() else { return };
    let files = Files::new();
    let far = lab.netns("far");
    let (far_v4, _) = cable(&far, 35);
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let far_server = lab.worker_in(&db, &far);
    let both = policy(&web, &db, "tcp/5432, tcp/5433, udp/53", "");
    let segd = lab.enforce(&both);
    let lost = server.listen_tcp_echo(on(LOST));
    let lost_v6 = server.listen_tcp_echo((Ipv6Addr::LOCALHOST, LOST));
    let lost_far = far_server.listen_tcp_echo((far_v4, LOST));
    let kept = server.listen_tcp_echo(on(KEPT));
    let open = |listener: segd_tests::worker::Handle| {
        let session = client.open_tcp(listener.local).unwrap();
        client.send(session, "hello;").unwrap();
        assert_eq!(client.receive(session, 1000), Ok(Some("hello;".into())));
        session
    };
    let doomed = [open(lost), open(lost), open(lost_v6), open(lost_far)];
    let spared = open(kept);
    let asked = server.listen_udp_echo(on(53));
    let asks = client.open_udp(on(0), Some(asked.local)).unwrap();
    client.send(asks, "who?").unwrap();
    assert_eq!(client.receive(asks, 1000), Ok(Some("who?".into())));

    let narrow = policy(&web, &db, "tcp/5433", "");
    let (code, answer) = dry_run(&segd, &files, &narrow, &[]);
    assert_eq!(code, Some(1), "{answer:#}");
    let expected: BTreeSet<_> = doomed
        .iter()
        .map(|session| {
            (
                u64::from(session.local.port()),
                u64::from(LOST),
                "no-rule".to_owned(),
            )
        })
        .collect();
    assert_eq!(cut(&answer), expected, "{answer:#}");
    for row in answer["sessions"]["cut"].as_array().unwrap() {
        assert_eq!(
            (&row["from"], &row["to"], &row["port"]),
            (&"web".into(), &"db".into(), &"tcp/5432".into())
        );
        assert_eq!(row["source_cgroup"], web.path(), "{row}");
        assert_eq!(row["destination_cgroup"], db.path(), "{row}");
    }
    assert!(answer["sessions"]["judged"].as_u64().unwrap() >= 5, "{answer:#}");
    let flows = answer["flows"]["denied"].as_array().unwrap();
    assert_eq!(flows.len(), 1, "the datagram, and no session again: {flows:?}");
    assert_eq!(
        (&flows[0]["port"], &flows[0]["from"]),
        (&"udp/53".into(), &"web".into())
    );
    assert_eq!(answer["diff"]["widens"], false);
    assert_eq!(answer["diff"]["changes"][0]["change"], "denied", "{answer:#}");
    assert!(
        answer["not_covered"][0]
            .as_str()
            .unwrap()
            .contains("network namespaces"),
        "{answer:#}"
    );

    // For people, what is cut comes first.
    let path = files.write(&narrow);
    let told = segd.client(&["apply", path.to_str().unwrap(), "--dry-run"]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.starts_with("4 live sessions would be cut"), "{told}");
    assert!(told.contains("  4 web -> db tcp/5432: no-rule\n"), "{told}");
    assert!(told.contains("newly denied\n"), "{told}");

    // Nothing has happened to anybody.
    assert_eq!(segd.metric("segd_sessions_cut_total", &[]).unwrap_or(0.0), 0.0);
    for session in doomed.iter().chain([&spared]) {
        client.send(*session, "still;").unwrap();
        assert_eq!(client.receive(*session, 1000), Ok(Some("still;".into())));
    }
    let applied = segd.client(&["apply", path.to_str().unwrap()]);
    assert!(applied.status.success(), "{applied:?}");
    wait::wait_until("the foretold sessions are cut", wait::PATIENCE, || {
        segd.metric("segd_sessions_cut_total", &[]) == Some(doomed.len() as f64)
    });
    client.send(spared, "still;").unwrap();
    assert_eq!(client.receive(spared, 1000), Ok(Some("still;".into())));
}

#[test]
fn exit_codes_say_whether_anything_would_change_and_whether_it_widens() {
    let Some(lab) = Lab::open() else { return };
    let files = Files::new();
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let now = policy(&web, &db, "tcp/5432", "");
    let segd = lab.enforce(&now);
    let wide = policy(&web, &db, "tcp/5432, tcp/22", "");
    let narrow = policy(&web, &db, "tcp/5432", "  deny:\n    - {from: web, to: db}\n");
    let same = policy(&web, &db, "tcp/5432", "").replace("from: web", "from: [web]");
    let untested = policy(
        &web,
        &db,
        "tcp/5432",
        "  tests:\n    - {from: web, to: db, port: tcp/22, expect: allow}\n",
    );
    let wrong = policy(&web, &db, "tcp/5432", "").replace("to: db", "to: bd");
    let insist = ["--deny-widening"].as_slice();
    for (story, text, flags, code) in [
        ("the same meaning", &same, [].as_slice(), 0),
        ("wider", &wide, &[], 1),
        ("wider, which is denied", &wide, insist, 1),
        ("narrower", &narrow, &[], 1),
        ("narrower, which is welcome", &narrow, insist, 0),
        ("a test of its own fails", &untested, &[], 2),
        ("an undeclared peer", &wrong, &[], 2),
    ] {
        let (got, answer) = dry_run(&segd, &files, text, flags);
        assert_eq!(got, Some(code), "{story}: {answer:#}");
    }
}

#[test]
fn a_segment_that_is_taken_out_cuts_what_its_orphans_hold_and_a_moved_workload_is_judged_anew() {
    let Some(lab) = Lab::open() else { return };
    let files = Files::new();
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let segd = lab.enforce(&policy(&web, &db, "tcp/5432", ""));
    let listener = server.listen_tcp_echo(on(LOST));
    let session = client.open_tcp(listener.local).unwrap();
    client.send(session, "hello;").unwrap();
    assert_eq!(client.receive(session, 1000), Ok(Some("hello;".into())));
    let port = u64::from(session.local.port());
    let foretold = |reason: &str| BTreeSet::from([(port, u64::from(LOST), reason.to_owned())]);

    let text = policy(&web, &db, "tcp/5432", "");
    let without = text
        .lines()
        .filter(|line| {
            !line.contains("web: {match") && !line.contains("from: web") && !line.contains("allow:")
        })
        .collect::<Vec<_>>()
        .join("\n");
    let (code, answer) = dry_run(&segd, &files, &without, &[]);
    assert_eq!(
        (code, cut(&answer)),
        (Some(1), foretold("orphaned")),
        "{answer:#}"
    );

    let renamed = text
        .replace("    web:", "    front:")
        .replace("from: web", "from: front");
    let (_, answer) = dry_run(&segd, &files, &renamed, &[]);
    assert_eq!(
        cut(&answer),
        BTreeSet::new(),
        "another name, the same right: {answer:#}"
    );

    let swapped = text.replace("    web:", "    front:").replace(
        "  allow:",
        "    web: {match: [{cgroup: /segd-t-nobody}]}\n  allow:",
    );
    let (_, answer) = dry_run(&segd, &files, &swapped, &[]);
    assert_eq!(cut(&answer), foretold("no-rule"), "{answer:#}");

    // During a trial there is no one policy to compare with.
    let path = files.write(&renamed);
    let tried = segd.client(&["apply", path.to_str().unwrap(), "--confirm", "60s"]);
    assert!(tried.status.success(), "{tried:?}");
    let refused = segd.client(&["apply", path.to_str().unwrap(), "--dry-run"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("on trial"),
        "{refused:?}"
    );
}
