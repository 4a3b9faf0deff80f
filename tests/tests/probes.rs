//! `segd policy test --live`: what real traffic between real cgroups says of a policy's own tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{collections::BTreeSet, net::Ipv4Addr, process::Output};

use segd_tests::{
    Cgroup, Lab, Segd,
    foreign::{At, Program},
    segd::write_atomically,
    wait,
};
use serde_json::Value;

fn policy(web: &Cgroup, db: &Cgroup, seen: &Cgroup, tests: &str) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: probed}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    db: {{intra: deny, match: [{{cgroup: {}}}]}}
    seen: {{mode: audit, match: [{{cgroup: {}}}]}}
    empty: {{match: [{{cgroup: /segd-t-nobody-lives-here}}]}}
  allow:
    - {{from: web, to: db, ports: [tcp/5432, udp/53]}}
    - {{from: web, to: db, ports: [tcp/1000-1999]}}
    - {{from: web, to: world, ports: [tcp/443]}}
  deny:
    - {{from: web, to: db, ports: [tcp/1500]}}
  tests:
{tests}",
        web.path(),
        db.path(),
        seen.path()
    )
}

const TESTS: &str = "    - {from: web, to: db, port: tcp/5432, expect: allow}
    - {from: web, to: db, port: udp/53, expect: allow}
    - {from: web, to: db, port: tcp/1500, expect: deny}
    - {from: web, to: db, port: [tcp/22, udp/54], expect: deny}
    - {from: web, to: web, port: any, expect: allow}
    - {from: db, to: db, port: tcp/5432, expect: deny}
    - {from: [db, host], to: web, port: any, expect: deny}
    - {from: web, to: host, port: tcp/22, expect: deny}
    - {from: seen, to: db, port: tcp/5432, expect: deny}
";

fn ask(segd: &Segd, path: &str) -> (Output, Value) {
    let output = segd.client(&["policy", "test", path, "--live", "-o", "json"]);
    let answer = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, answer)
}

/// The directories that probes made and left below a cgroup.
fn left_below(cgroup: &Cgroup) -> Vec<String> {
    std::fs::read_dir(cgroup.directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("segd-test-"))
        .collect()
}

#[test]
fn real_traffic_says_what_the_decision_says_and_nobody_notices() {
    let Some(lab) = Lab::open() else { return };
    let (web, db, seen) = (lab.cgroup("web"), lab.cgroup("db"), lab.cgroup("seen"));
    let _workers = [lab.worker(&web), lab.worker(&seen)];
    let server = lab.worker(&db);
    // The port is taken on this host, by the service itself.
    let service = server.listen_tcp_echo((Ipv4Addr::UNSPECIFIED, 5432));
    let segd = lab.enforce(&policy(&web, &db, &seen, TESTS));
    let path = segd.policy_path().to_str().unwrap().to_owned();
    let (output, answer) = ask(&segd, &path);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let live = &answer["live"];
    assert_eq!(
        live["disagreements"],
        Value::from(Vec::<Value>::new()),
        "{live:#}"
    );
    assert_eq!(live["not_probed"], Value::from(Vec::<Value>::new()), "{live:#}");
    // Two of `any`, of each pair; `[tcp/22, udp/54]` are two.
    assert!(live["probed"].as_u64().unwrap() >= 13, "{live:#}");
    assert_eq!(live["revision"], segd.revision());
    let inbox = server.inbox(service);
    assert_eq!(
        (inbox.open, inbox.messages.len()),
        (0, 0),
        "the service was not spoken to"
    );
    for cgroup in [&web, &db, &seen] {
        assert_eq!(left_below(cgroup), Vec::<String>::new());
    }
}

#[test]
fn what_cannot_be_probed_is_told_with_its_reason() {
    let Some(lab) = Lab::open() else { return };
    let (web, db, seen) = (lab.cgroup("web"), lab.cgroup("db"), lab.cgroup("seen"));
    let _worker = lab.worker(&web);
    let tests = "    - {from: web, to: world, port: tcp/443, expect: allow}
    - {from: 192.0.2.1, to: web, port: tcp/443, expect: deny}
    - {from: empty, to: web, port: tcp/443, expect: deny}
    - {from: web, to: db, port: icmp/echo-request, expect: deny}
    - {from: web, to: db, port: tcp/5432, expect: allow}
";
    let segd = lab.enforce(&policy(&web, &db, &seen, tests));
    let path = segd.policy_path().to_str().unwrap().to_owned();
    let (output, answer) = ask(&segd, &path);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(answer["live"]["probed"], 1, "{answer:#}");
    let why: BTreeSet<(String, String)> = answer["live"]["not_probed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|left| {
            let word = |key: &str| left[key].as_str().unwrap().to_owned();
            (word("test"), word("why"))
        })
        .collect();
    let expected = [
        (
            "probed/tests[0]",
            "`world` is other machines: no probe leaves this host",
        ),
        (
            "probed/tests[1]",
            "`192.0.2.1` is other machines: no probe leaves this host",
        ),
        ("probed/tests[2]", "no workload of `empty` lives on this host now"),
        ("probed/tests[3]", "only TCP and UDP are probed"),
    ];
    let expected: BTreeSet<_> = expected
        .map(|(test, why)| (test.to_owned(), why.to_owned()))
        .into();
    assert_eq!(why, expected);
    let told = segd.client(&["policy", "test", &path, "--live"]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(
        told.contains("not probed: empty -> web tcp/443 of probed/tests[2]: no workload"),
        "{told}"
    );
    assert!(told.contains("live: 1 questions probed"), "{told}");
}

#[test]
fn only_the_policy_in_force_is_probed_wherever_its_text_lies() {
    let Some(lab) = Lab::open() else { return };
    let (web, db, seen) = (lab.cgroup("web"), lab.cgroup("db"), lab.cgroup("seen"));
    let _worker = lab.worker(&web);
    let segd = lab.enforce(&policy(&web, &db, &seen, TESTS));
    let files = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
    let copy = files.path().join("copy.yaml");
    write_atomically(&copy, &policy(&web, &db, &seen, TESTS));
    let (output, _) = ask(&segd, copy.to_str().unwrap());
    assert_eq!(
        output.status.code(),
        Some(0),
        "the same text elsewhere: {output:?}"
    );
    write_atomically(
        &copy,
        &policy(&web, &db, &seen, TESTS).replace("udp/53]", "udp/53, udp/55]"),
    );
    let (output, answer) = ask(&segd, copy.to_str().unwrap());
    assert_eq!(
        (output.status.code(), answer),
        (Some(2), Value::Null),
        "{output:?}"
    );
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaint.contains("not the policy in force"), "{complaint}");
}

#[test]
fn a_kernel_that_lets_pass_what_the_policy_denies_is_found_out() {
    let Some(lab) = Lab::open() else { return };
    let (web, db, seen) = (lab.cgroup("web"), lab.cgroup("db"), lab.cgroup("seen"));
    let _worker = lab.worker(&web);
    let tests = "    - {from: web, to: db, port: tcp/22, expect: deny}\n";
    let segd = lab.enforce(&policy(&web, &db, &seen, tests));
    let path = segd.policy_path().to_str().unwrap().to_owned();
    let links = std::fs::read_dir(segd.pin_dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("links_v"))
        .unwrap();
    let passing = [
        (At::Egress, "egress"),
        (At::Ingress, "ingress"),
        (At::Connect4, "connect4"),
    ]
    .map(|(at, link)| (Program::passing(at, "hole"), link));
    // The daemon puts its programs back within a second.
    let mut found = None;
    wait::wait_until("a hole is found out", wait::PATIENCE, || {
        for (program, link) in &passing {
            program.put_behind(&links.join(link)).unwrap();
        }
        let (output, answer) = ask(&segd, &path);
        let is_found = output.status.code() == Some(4);
        if is_found {
            found = Some(answer);
        }
        is_found
    });
    let found = found.unwrap();
    let told = found["live"]["disagreements"][0].as_str().unwrap();
    assert!(
        told.starts_with("probed/tests[0]: web -> db tcp/22: the decision says denied, no-rule"),
        "{told}"
    );
    assert!(told.contains("it arrived"), "{told}");
    wait::wait_until("everything is enforced again", wait::PATIENCE, || {
        ask(&segd, &path).0.status.code() == Some(0)
    });
}
