//! A restart on the same pins: the programs that enforce stay the very same, and what a dead daemon left is judged by them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use segd_tests::{Cgroup, Lab, Worker, bpf::Objects, segd::Segd, wait};

fn policy(web: &Cgroup, db: &Cgroup, port: u16) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: restart}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: web, to: db, ports: [tcp/{port}]}}
",
        web.path(),
        db.path()
    )
}

/// The programs and links that came with segd, iterators' links aside: those are made anew.
fn enforcing(before: &Objects) -> BTreeSet<String> {
    let here = Objects::now().since(before).all;
    let kinds = ["prog ", "link "];
    here.into_iter()
        .filter(|object| kinds.iter().any(|kind| object.starts_with(kind)))
        .filter(|object| {
            !["tracing", "iter"]
                .iter()
                .any(|kind| object.starts_with("link ") && object.ends_with(kind))
        })
        .collect()
}

#[track_caller]
fn holds(client: &Worker, open: SocketAddr, shut: SocketAddr) {
    assert!(client.open_tcp(open).is_ok(), "{open} is allowed");
    assert!(client.open_tcp(shut).is_err(), "{shut} is denied");
}

/// A port where somebody listens.
fn listen(server: &Worker, port: u16) -> SocketAddr {
    server.listen_tcp((IpAddr::V4(Ipv4Addr::LOCALHOST), port)).local
}

fn restarted(segd: &mut Segd, by_kill: bool) {
    if by_kill {
        segd.kill();
    } else {
        segd.terminate();
    }
    segd.restart();
}

#[test]
fn whatever_ended_a_daemon_the_next_one_enforces_and_lacks_nothing_that_the_first_had() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let mut segd = lab.enforce(&policy(&web, &db, 5721));
    let attached = |segd: &Segd| -> BTreeSet<String> {
        let status = segd.json(&["status"]);
        let hooks = status["programs"].as_array().unwrap().iter();
        hooks
            .map(|hook| format!("{}: {}", hook["hook"], hook["attached"]))
            .collect()
    };
    let first = attached(&segd);
    let (open, shut) = (listen(&server, 5721), listen(&server, 5722));
    for by_kill in [true, false, true] {
        restarted(&mut segd, by_kill);
        assert_eq!(attached(&segd), first, "killed: {by_kill}");
        holds(&client, open, shut);
        // Born under this daemon.
        let born = web.child(if by_kill { "killed" } else { "ended" });
        holds(&lab.worker(&born), open, shut);
    }
}

#[test]
fn the_programs_stay_the_same_and_go_on_judging() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let before = Objects::now();
    let mut segd = lab.enforce(&policy(&web, &db, 5711));
    let first = enforcing(&before);
    assert!(
        first.iter().any(|object| object.contains("segd_egress")),
        "{first:?}"
    );
    let (open, shut) = (listen(&server, 5711), listen(&server, 5712));
    for by_kill in [false, true, true] {
        restarted(&mut segd, by_kill);
        assert_eq!(enforcing(&before), first, "killed: {by_kill}");
        holds(&client, open, shut);
    }
    // They read what the new daemon writes.
    segd.terminate();
    let file = fs::read_dir(segd.policy_path())
        .unwrap()
        .flatten()
        .next()
        .unwrap();
    fs::write(file.path(), policy(&web, &db, 5712)).unwrap();
    segd.restart();
    assert_eq!(enforcing(&before), first);
    holds(&client, shut, open);
}

#[test]
fn what_was_loaded_for_another_setting_is_not_kept() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let before = Objects::now();
    let mut segd = lab.enforce(&policy(&web, &db, 5741));
    let first = enforcing(&before);
    let egress = fs::read_dir(segd.pin_dir())
        .unwrap()
        .flatten()
        .map(|entry| entry.path().join("program_segd_egress"))
        .find(|pin| pin.exists())
        .expect("the program is pinned");
    segd.kill();
    // Somebody's program in its place must not be put on the hook.
    let ingress = egress.with_file_name("program_segd_ingress");
    fs::remove_file(&egress).unwrap();
    fs::rename(&ingress, &egress).unwrap();
    segd.restart();
    // A tracepoint's link holds its program for good: another program is another link, made before the old one goes.
    let of = |set: &BTreeSet<String>, kind: &str| -> BTreeSet<String> {
        set.iter()
            .filter(|object| object.starts_with(kind) && !object.ends_with("raw_tracepoint"))
            .cloned()
            .collect()
    };
    // The kernel lets go of a program a grace period after its last link.
    let all_others = || of(&enforcing(&before), "prog ").is_disjoint(&of(&first, "prog "));
    assert!(
        wait::within(wait::PATIENCE, all_others),
        "{first:?} and {:?}",
        enforcing(&before)
    );
    let second = enforcing(&before);
    assert_eq!(
        of(&second, "link "),
        of(&first, "link "),
        "the hooks stay where they were"
    );
    holds(&client, listen(&server, 5741), listen(&server, 5742));
}
