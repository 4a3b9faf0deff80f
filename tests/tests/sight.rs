//! What segd shows: metrics that are exact and clean, answers in JSON, to those who may ask.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    fs,
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use segd_tests::{
    Cgroup, Kind, Lab, Segd,
    wait::{self, PATIENCE},
};

fn policy(web: &Cgroup, rogue: &Cgroup, db: &Cgroup) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: sight}}
spec:
  segments:
    web: {{labels: {{tier: front}}, match: [{{cgroup: {}}}]}}
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}, {{cidr: 198.51.100.0/24}}]}}
  allow:
    - {{from: web, to: db, ports: [any]}}
",
        web.path(),
        rogue.path(),
        db.path()
    )
}

#[track_caller]
fn count(segd: &Segd, from: &str, to: &str, verdict: &str, reason: &str) -> u64 {
    let labels = [
        ("from", from),
        ("to", to),
        ("verdict", verdict),
        ("reason", reason),
    ];
    segd.metric("segd_packets_total", &labels).unwrap_or(0.0) as u64
}

#[test]
fn denied_datagrams_are_counted_exactly_once_each() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (attacker, friend, server) = (lab.worker(&rogue), lab.worker(&web), lab.worker(&db));
    let segd = lab.enforce(&policy(&web, &rogue, &db));
    let mut expected = 0;
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let udp = server.listen_udp((ip, 0));
        let any: SocketAddr = (ip, 0).into();
        let socket = attacker.open_udp(any, None).unwrap();
        // Refused at the system call …
        for _ in 0..137 {
            let refused = attacker
                .send_to(socket, udp.local, "denied;")
                .expect_err("it is denied");
            assert_eq!(refused.errno, "EPERM");
        }
        expected += 137;
        // … and dropped later, where no system call hook looks.
        for _ in 0..41 {
            attacker.probe(Kind::RawUdp, udp.local, "denied;");
        }
        expected += 41;
        wait::wait_until(format!("{expected} denials are counted"), PATIENCE, || {
            count(&segd, "rogue", "db", "denied", "no-rule") >= expected
        });
        wait::quiet(Duration::from_millis(300));
        assert_eq!(
            count(&segd, "rogue", "db", "denied", "no-rule"),
            expected,
            "after {ip}"
        );
        assert_eq!(server.inbox(udp).bytes, 0);

        let before = count(&segd, "web", "db", "allowed", "rule");
        let socket = friend.open_udp(any, None).unwrap();
        for number in 0..97 {
            friend.send_to(socket, udp.local, &format!("{number};")).unwrap();
        }
        wait::wait_until("all arrived", PATIENCE, || server.inbox(udp).messages.len() == 97);
        wait::wait_until("the allowed are counted", PATIENCE, || {
            count(&segd, "web", "db", "allowed", "rule") >= before + 97
        });
        wait::quiet(Duration::from_millis(300));
        assert_eq!(
            count(&segd, "web", "db", "allowed", "rule"),
            before + 97,
            "one count a datagram over {ip}"
        );
    }
    let hits: f64 = segd.metric("segd_rule_hits_total", &[]).unwrap_or(0.0);
    assert!(hits >= 2.0, "segd_rule_hits_total: {hits}");
}

#[test]
fn counters_survive_a_restart() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (attacker, server) = (lab.worker(&rogue), lab.worker(&db));
    let udp = server.listen_udp((Ipv4Addr::LOCALHOST, 0));
    let mut segd = lab.enforce(&policy(&web, &rogue, &db));
    let socket = attacker.open_udp((Ipv4Addr::LOCALHOST, 0), None).unwrap();
    let burst = || {
        for _ in 0..50 {
            attacker
                .send_to(socket, udp.local, "denied;")
                .expect_err("it is denied");
        }
    };
    burst();
    segd.kill();
    burst();
    segd.restart();
    burst();
    wait::wait_until("150 denials", PATIENCE, || {
        count(&segd, "rogue", "db", "denied", "no-rule") >= 150
    });
    assert_eq!(count(&segd, "rogue", "db", "denied", "no-rule"), 150);
}

fn promtool() -> Option<PathBuf> {
    let tools = std::env::var_os("SEGD_TOOLS").map(PathBuf::from);
    let target = std::env::current_exe().ok()?.ancestors().nth(3)?.join("tools");
    tools
        .into_iter()
        .chain([target])
        .map(|directory| directory.join("promtool"))
        .chain([
            PathBuf::from("/usr/bin/promtool"),
            PathBuf::from("/usr/local/bin/promtool"),
        ])
        .find(|path| path.exists())
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (attacker, friend, server) = (lab.worker(&rogue), lab.worker(&web), lab.worker(&db));
    let tcp = server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
    let segd = lab.enforce(&policy(&web, &rogue, &db));
    attacker.probe(Kind::Tcp, tcp.local, "denied;");
    assert_eq!(friend.probe(Kind::Tcp, tcp.local, "allowed;").result, "ok");
    wait::wait_until("flows are counted", PATIENCE, || {
        segd.metric(
            "segd_flows_total",
            &[("from", "web"), ("to", "db"), ("verdict", "allowed")],
        )
        .unwrap_or(0.0)
            >= 1.0
    });
    let page = segd.scrape();
    for name in [
        "segd_packets_total",
        "segd_bytes_total",
        "segd_flows_total",
        "segd_rule_hits_total",
        "segd_policy_revision",
        "segd_policy_reload_total",
        "segd_workloads",
        "segd_events_lost_total",
        "segd_map_entries",
        "segd_map_capacity",
        "segd_enforcing",
        "segd_build_info",
    ] {
        assert!(
            page.lines().any(|line| line.starts_with(name)),
            "{name} is missing in:\n{page}"
        );
    }
    assert_eq!(segd.metric("segd_enforcing", &[]), Some(1.0));
    for private in ["127.0.0.1", "::1", &tcp.local.port().to_string(), "segd-t-"] {
        let labelled = page.lines().find(|line| {
            line.split_once('{').is_some_and(|(_, rest)| {
                rest.split_once('}')
                    .is_some_and(|(labels, _)| labels.contains(private))
            })
        });
        assert!(
            labelled.is_none(),
            "an address, port or cgroup in a label: {labelled:?}"
        );
    }

    let Some(promtool) = promtool() else {
        let required = std::env::var("SEGD_REQUIRE_KERNEL").is_ok_and(|value| value == "1");
        assert!(!required, "promtool is missing; `cargo xtask setup` installs it");
        eprintln!("SKIPPED in part: no promtool");
        return;
    };
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && said.trim().is_empty(),
        "promtool: {said}"
    );
}

#[test]
fn the_alerts_are_raised_by_what_they_are_for_and_by_nothing_else() {
    let Some(promtool) = promtool() else {
        let required = std::env::var("SEGD_REQUIRE_KERNEL").is_ok_and(|value| value == "1");
        assert!(!required, "promtool is missing; `cargo xtask setup` installs it");
        eprintln!("SKIPPED: no promtool");
        return;
    };
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus");
    for words in [
        ["check", "rules", "segd.rules.yml"],
        ["test", "rules", "segd.rules.test.yml"],
    ] {
        let output = Command::new(&promtool)
            .args(words)
            .current_dir(&directory)
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    }
}

#[test]
fn status_segments_workloads_and_flows_answer_in_json() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (attacker, friend, server) = (lab.worker(&rogue), lab.worker(&web), lab.worker(&db));
    let tcp = server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
    let segd = lab
        .segd(&policy(&web, &rogue, &db))
        .args(&["--node-name", "node-7"])
        .start();
    let status = segd.json(&["status"]);
    assert_eq!(status["enforcing"], true, "{status:#}");
    assert_eq!(status["mode"], "enforce", "{status:#}");
    assert_eq!(status["node"], "node-7", "{status:#}");
    assert_eq!(status["pid"], segd.pid(), "{status:#}");
    assert_eq!(status["revision"], segd.revision(), "{status:#}");
    let programs = status["programs"].as_array().expect("programs");
    assert!(programs.len() >= 6, "{status:#}");
    assert!(
        programs.iter().all(|program| program["attached"] == true),
        "{status:#}"
    );

    let segments = segd.json(&["segments"]);
    let names: Vec<_> = rows(&segments)
        .iter()
        .filter_map(|row| row["name"].as_str())
        .collect();
    for name in ["web", "rogue", "db"] {
        assert!(names.contains(&name), "{segments:#}");
    }

    let inner = web.child("inner");
    wait::wait_until("the newborn is listed", PATIENCE, || {
        let workloads = segd.json(&["workloads"]);
        rows(&workloads).iter().any(|row| {
            row["cgroup"] == inner.path() && row["segment"] == "web" && row["inherited_from"] == web.path()
        })
    });
    let workloads = segd.json(&["workloads"]);
    let row = rows(&workloads)
        .into_iter()
        .find(|row| row["cgroup"] == web.path())
        .expect("web's cgroup");
    assert_eq!(row["segment"], "web", "{row:#}");
    assert_eq!(row["state"], "tagged", "{row:#}");
    assert!(
        row["selector"]
            .as_str()
            .is_some_and(|text| text.contains(&web.path())),
        "{row:#}"
    );
    assert!(
        row["location"]
            .as_str()
            .is_some_and(|text| text.contains("policy.yaml:6")),
        "{row:#}"
    );

    attacker.probe(Kind::Tcp, tcp.local, "denied;");
    friend.probe(Kind::Tcp, tcp.local, "allowed;");
    let flow = |words: &[&str]| {
        wait::wait_for(format!("a flow by {words:?}"), PATIENCE, || {
            let mut all = vec!["flows"];
            all.extend(words);
            all.extend(["-o", "json"]);
            let output = segd.client(&all);
            assert!(output.status.success(), "{output:?}");
            json_values(&output.stdout).into_iter().next_back()
        })
    };
    let denied = flow(&["--verdict", "denied", "--from", "rogue", "--to", "db"]);
    assert_eq!(
        (&denied["verdict"], &denied["reason"]),
        (&"denied".into(), &"no-rule".into()),
        "{denied:#}"
    );
    assert_eq!(denied["destination_port"], tcp.local.port(), "{denied:#}");
    let allowed = flow(&["--verdict", "allowed", "--from", "web", "--to", "db"]);
    assert_eq!(allowed["reason"], "rule", "{allowed:#}");
    assert!(
        allowed["location"]
            .as_str()
            .is_some_and(|text| text.contains("policy.yaml:10")),
        "{allowed:#}"
    );

    let explained = segd.client(&[
        "policy", "explain", "--from", "web", "--to", "db", "--port", "tcp/1",
    ]);
    assert_eq!(explained.status.code(), Some(0), "{explained:?}");
    let explained = segd.client(&[
        "policy", "explain", "--from", "rogue", "--to", "db", "--port", "tcp/1",
    ]);
    assert_eq!(explained.status.code(), Some(1), "{explained:?}");
}

/// The rows of an answer, whether it is a list or an object around one.
fn rows(value: &serde_json::Value) -> Vec<&serde_json::Value> {
    if let Some(list) = value.as_array() {
        return list.iter().collect();
    }
    value
        .as_object()
        .and_then(|object| object.values().find_map(serde_json::Value::as_array))
        .map(|list| list.iter().collect())
        .unwrap_or_default()
}

/// A stream of JSON values, or one list of them.
fn json_values(bytes: &[u8]) -> Vec<serde_json::Value> {
    serde_json::Deserializer::from_slice(bytes)
        .into_iter::<serde_json::Value>()
        .map(|value| value.expect("JSON"))
        .flat_map(|value| match value {
            serde_json::Value::Array(list) => list,
            other => vec![other],
        })
        .collect()
}

#[test]
fn flows_can_be_followed() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (attacker, server) = (lab.worker(&rogue), lab.worker(&db));
    let tcp = server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
    let segd = lab.enforce(&policy(&web, &rogue, &db));
    let log = segd.directory().join("flows.json");
    let mut child = Command::new(segd_tests::segd::binary())
        .args(["flows", "--follow", "--from", "rogue", "-o", "json", "--control"])
        .arg(segd.control())
        .stdout(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let seen = wait::within(PATIENCE, || {
        attacker.probe(Kind::Tcp, tcp.local, "denied;");
        fs::read_to_string(&log).unwrap().contains("no-rule")
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        seen,
        "the follower saw no denied flow: {}",
        fs::read_to_string(&log).unwrap()
    );
}

#[test]
fn the_control_socket_refuses_who_is_not_root() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let segd = lab.enforce(&policy(&web, &rogue, &db));
    assert!(segd.client(&["status"]).status.success());
    // Even if the socket's directory and mode let everybody through.
    fs::set_permissions(segd.directory(), fs::Permissions::from_mode(0o777)).unwrap();
    for mode in [None, Some(0o777)] {
        if let Some(mode) = mode {
            fs::set_permissions(segd.control(), fs::Permissions::from_mode(mode)).unwrap();
        }
        let binary = segd.directory().join("segd");
        fs::copy(segd_tests::segd::binary(), &binary).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        let output = Command::new(&binary)
            .args(["status", "--control"])
            .arg(segd.control())
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(3),
            "uid 65534, mode {mode:?}: {output:?}"
        );
        assert!(output.stdout.is_empty(), "{output:?}");
        fs::remove_file(&binary).unwrap();
    }
    assert!(
        segd.client(&["status"]).status.success(),
        "root is still answered"
    );
}

#[test]
fn without_a_daemon_the_clients_say_so() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let mut segd = lab.enforce(&policy(&web, &rogue, &db));
    segd.kill();
    for command in ["status", "segments", "workloads", "flows"] {
        let output = segd.client(&[command]);
        assert_eq!(output.status.code(), Some(3), "{command}: {output:?}");
        assert!(!output.stderr.is_empty(), "{command} says why");
    }
}

#[test]
fn an_idle_daemon_stays_under_thirty_megabytes() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let segd = lab.enforce(&policy(&web, &rogue, &db));
    let _ = (segd.scrape(), segd.json(&["status"]));
    let kib = segd.resident_kib();
    println!("resident: {kib} KiB");
    assert!(kib < 30 * 1024, "the idle daemon takes {kib} KiB");
}
