//! Enforcement outlives the daemon: no gap for the denied, no break for the allowed, nothing left after unload.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt,
    time::Duration,
};

use segd_tests::{
    Cgroup, Kind, Lab, Segd,
    bpf::Objects,
    netns::v4,
    wait::{self, PATIENCE},
    worker::probe,
};

fn policy(web: &Cgroup, rogue: &Cgroup, db: &Cgroup) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: outliving}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: web, to: db, ports: [any]}}
    - {{from: host, to: db, ports: [any]}}
",
        web.path(),
        rogue.path(),
        db.path()
    )
}

fn another_build(segd: &Segd) -> std::path::PathBuf {
    let copy = segd.directory().join("segd-next");
    fs::copy(segd_tests::segd::binary(), &copy).expect("a copy of the binary");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("it can be run");
    copy
}

#[test]
fn ten_thousand_attempts_across_kill_and_restart_leak_nothing() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (attacker, server) = (lab.worker(&rogue), lab.worker(&db));
    let listeners = [
        server.listen_tcp((Ipv4Addr::LOCALHOST, 0)),
        server.listen_tcp((Ipv6Addr::LOCALHOST, 0)),
        server.listen_udp((Ipv4Addr::LOCALHOST, 0)),
        server.listen_udp((Ipv6Addr::LOCALHOST, 0)),
    ];
    let mut segd = lab.enforce(&policy(&web, &rogue, &db));
    let mut probes = Vec::new();
    for (listener, kinds) in listeners.iter().zip([
        &[Kind::Tcp][..],
        &[Kind::Tcp][..],
        // By raw socket too: no sock_addr hook helps there.
        &[Kind::Udp, Kind::RawUdp][..],
        &[Kind::Udp, Kind::RawUdp][..],
    ]) {
        for &kind in kinds {
            let mut probe = probe(kind, listener.local, "leak;");
            probe.timeout_ms = 20;
            probes.push(probe);
        }
    }
    let task = attacker.hammer(probes, 3);
    let more = |count: u64| {
        let goal = attacker.task(task).attempts + count;
        wait::wait_until("more attempts", Duration::from_secs(60), || {
            attacker.task(task).attempts >= goal
        });
    };
    more(500);
    let next = another_build(&segd);
    for round in 0..4 {
        segd.kill();
        more(1000);
        if round % 2 == 0 {
            segd.restart()
        } else {
            segd.restart_as(&next, &["--node-name", "another"])
        }
        more(1000);
    }
    let goal = 10_000;
    wait::wait_until("10,000 attempts", Duration::from_secs(60), || {
        attacker.task(task).attempts >= goal
    });
    let tally = attacker.stop(task);
    println!("{tally:?}");
    assert!(tally.attempts >= goal);
    wait::quiet(wait::SILENCE);
    for listener in listeners {
        let inbox = server.inbox(listener);
        assert_eq!(
            (inbox.accepts, inbox.bytes),
            (0, 0),
            "leaked to {}",
            listener.local
        );
    }
}

#[test]
fn a_hundred_allowed_connections_live_through_kill_restart_and_another_build() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let (near, far) = (lab.netns("near"), lab.netns("far"));
    bridge.plug(&near, 10);
    bridge.plug(&far, 11);
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (local_client, local_server) = (lab.worker(&web), lab.worker(&db));
    let (client, server) = (lab.worker_in(&web, &near), lab.worker_in(&db, &far));
    let mut segd = lab.enforce(&policy(&web, &rogue, &db));

    let loopback = local_server.listen_tcp_echo((Ipv4Addr::LOCALHOST, 0));
    let across = server.listen_tcp_echo((v4(11), 5400));
    let open = |client: &segd_tests::Worker, to| {
        (0..50)
            .map(|_| client.open_tcp(to).expect("web may reach db"))
            .collect::<Vec<_>>()
    };
    let tasks = [
        (
            &local_client,
            local_client.traffic(&open(&local_client, loopback.local)),
        ),
        (&client, client.traffic(&open(&client, across.local))),
    ];
    let more = |rounds: u64| {
        for (client, task) in &tasks {
            let goal = client.task(*task).least + rounds;
            wait::wait_until("every connection goes on", Duration::from_secs(20), || {
                let tally = client.task(*task);
                assert!(tally.failures.is_empty(), "connections broke: {tally:?}");
                tally.least >= goal
            });
        }
    };
    more(10);
    segd.kill();
    more(20);
    segd.restart();
    more(20);
    segd.terminate();
    more(20);
    let next = another_build(&segd);
    segd.restart_as(&next, &["--node-name", "another"]);
    more(20);
    for (client, task) in tasks {
        let tally = client.stop(task);
        assert!(tally.failures.is_empty(), "broken connections: {tally:?}");
    }
    assert_eq!(
        local_server.inbox(loopback).accepts,
        50,
        "no connection was made anew"
    );
    assert_eq!(server.inbox(across).accepts, 50, "no connection was made anew");
}

#[test]
fn a_denied_workload_stays_denied_while_the_daemon_is_stopped_by_its_manager() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (attacker, friend, server) = (lab.worker(&rogue), lab.worker(&web), lab.worker(&db));
    let listener = server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
    let mut segd = lab.enforce(&policy(&web, &rogue, &db));
    let status = segd.terminate();
    assert!(status.success(), "SIGTERM ends segd well: {status}");
    wait::stays("denied without a daemon", Duration::from_millis(300), || {
        attacker.probe(Kind::Tcp, listener.local, "leak;").result != "ok"
    });
    assert_eq!(server.inbox(listener).accepts, 0);
    assert_eq!(friend.probe(Kind::Tcp, listener.local, "friend;").result, "ok");
    server.wait_for_message(listener, "friend;");
}

#[test]
fn a_policy_changed_while_the_daemon_was_dead_is_in_force_after_its_restart() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (friend, server) = (lab.worker(&web), lab.worker(&db));
    let listener = server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
    let mut segd = lab.enforce(&policy(&web, &rogue, &db));
    assert_eq!(friend.probe(Kind::Tcp, listener.local, "friend;").result, "ok");
    segd.kill();
    let text = policy(&web, &rogue, &db).replace("from: web", "from: rogue");
    segd_tests::segd::write_atomically(&segd.policy_path().join("policy.yaml"), &text);
    segd.restart();
    assert_ne!(friend.probe(Kind::Tcp, listener.local, "late;").result, "ok");
    assert_eq!(server.inbox(listener).accepts, 1);
}

#[test]
fn unload_ends_a_daemon_whose_control_socket_is_elsewhere() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (attacker, server) = (lab.worker(&rogue), lab.worker(&db));
    let listener = server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
    let segd = lab.enforce(&policy(&web, &rogue, &db));
    assert_ne!(attacker.probe(Kind::Tcp, listener.local, "denied;").result, "ok");
    let output = std::process::Command::new(segd_tests::segd::binary())
        .args(["unload", "--control", "/nonexistent/segd-t.sock", "--pin-dir"])
        .arg(segd.pin_dir())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    // A daemon that lived would put everything back within a second.
    wait::stays("nothing is enforced", Duration::from_millis(1500), || {
        !segd.pin_dir().exists() && attacker.probe(Kind::Tcp, listener.local, "free;").result == "ok"
    });
}

#[test]
fn unload_leaves_nothing_behind_with_the_daemon_alive_or_dead() {
    for daemon_lives in [true, false] {
        let Some(lab) = Lab::open() else { return };
        let bridge = lab.bridge();
        let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
        let (attacker, server) = (lab.worker(&rogue), lab.worker(&db));
        let listener = server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
        let before = Objects::now();
        let mut segd = lab
            .segd(&policy(&web, &rogue, &db))
            .args(&["--interface", bridge.name()])
            .start();
        let made = Objects::now().since(&before);
        assert!(made.count("link") >= 6, "links: {made:?}");
        assert!(made.count("prog") >= 6 && made.count("map") >= 1, "{made:?}");
        assert!(segd.pin_dir().exists());
        assert_ne!(attacker.probe(Kind::Tcp, listener.local, "denied;").result, "ok");
        let probe = format!("segd-probe-{}", segd.pid());
        if !daemon_lives {
            segd.kill();
        }
        let output = segd.unload();
        assert!(output.status.success(), "unload: {output:?}");
        assert!(!segd.pin_dir().exists(), "the pin directory is gone");
        // The kernel frees programs and maps after a grace period.
        let gone = wait::within(PATIENCE, || made.left(&Objects::now()).is_empty());
        assert!(
            gone,
            "left after unload (daemon alive: {daemon_lives}): {:?}",
            made.left(&Objects::now())
        );
        assert_eq!(attacker.probe(Kind::Tcp, listener.local, "free;").result, "ok");
        server.wait_for_message(listener, "free;");
        assert!(
            !lab.cgroup_root().join(&probe).exists(),
            "left after unload: the cgroup {probe}"
        );
        let again = segd.unload();
        assert!(
            again.status.success(),
            "nothing to unload is no failure: {again:?}"
        );
    }
}
