//! A cgroup is governed from its first packet, whether the daemon runs or not, and after its end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    process::{Command, Stdio},
};

use segd_tests::{Cgroup, Kind, Lab, Tally, Worker, wait, worker};

const PROCESSES: usize = 8;

/// How many births each process makes: `SEGD_BIRTHS` in all, 1,000 unless told.
fn each() -> usize {
    let all = std::env::var("SEGD_BIRTHS").ok().and_then(|all| all.parse().ok());
    all.unwrap_or(1000_usize).div_ceil(PROCESSES)
}

/// Births below `base`, spread over processes: mkdir, enter, connect at once.
#[track_caller]
fn thousand_births(base: &Cgroup, targets: &[SocketAddr]) -> Tally {
    let to = targets
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",");
    let children: Vec<_> = (0..PROCESSES)
        .map(|number| {
            Command::new(worker::binary())
                .args([
                    "births",
                    "--count",
                    &each().to_string(),
                    "--timeout-ms",
                    "60",
                    "--to",
                    &to,
                ])
                .args(["--prefix", &format!("p{number}")])
                .arg("--base")
                .arg(base.directory())
                .stdout(Stdio::piped())
                .spawn()
                .expect("the worker starts")
        })
        .collect();
    let mut sum = Tally::default();
    for child in children {
        let output = child.wait_with_output().expect("the worker ends");
        assert!(output.status.success(), "a birth process failed");
        let tally: Tally = serde_json::from_slice(&output.stdout).expect("a tally");
        sum.attempts += tally.attempts;
        sum.successes += tally.successes;
        for (story, count) in tally.failures {
            *sum.failures.entry(story).or_default() += count;
        }
    }
    assert_eq!(sum.attempts, (PROCESSES * each()) as u64);
    println!("{sum:?}");
    sum
}

fn policy(web: &Cgroup, rogue: &Cgroup, db: &Cgroup) -> String {
    let one = |cgroup: &Cgroup| format!("[{{cgroup: {}}}]", cgroup.path());
    policy_of(&one(web), &one(rogue), db)
}

fn policy_of(web: &str, rogue: &str, db: &Cgroup) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: births}}
spec:
  segments:
    web: {{match: {web}}}
    rogue: {{match: {rogue}}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: web, to: db, ports: [any]}}
    - {{from: host, to: db, ports: [any]}}
",
        db.path()
    )
}

fn listeners(server: &Worker) -> Vec<worker::Handle> {
    vec![
        server.listen_tcp((Ipv4Addr::LOCALHOST, 0)),
        server.listen_tcp((Ipv6Addr::LOCALHOST, 0)),
    ]
}

#[track_caller]
fn births_with(daemon_lives: bool) {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    // `web` itself, whose newborns are `rogue` by their own names: who is taken for what his parent is gets through.
    let nest = lab.cgroup("nest");
    let server = lab.worker(&db);
    let listeners = listeners(&server);
    let targets: Vec<_> = listeners.iter().map(|listener| listener.local).collect();
    let matches = |first: &Cgroup, more: &str| {
        format!(
            "[{{cgroup: {}}}, {{cgroup: \"{}{more}\"}}]",
            first.path(),
            nest.path()
        )
    };
    let mut segd = lab.enforce(&policy_of(&matches(&web, ""), &matches(&rogue, "/p*"), &db));
    if !daemon_lives {
        segd.kill();
    }

    for base in [&rogue, &nest] {
        let denied = thousand_births(base, &targets);
        wait::quiet(wait::SILENCE);
        let delivered: u64 = listeners
            .iter()
            .map(|&listener| server.inbox(listener).accepts)
            .sum();
        assert_eq!(
            delivered,
            0,
            "SYNs of newborns below {} were delivered",
            base.path()
        );
        assert_eq!(denied.successes, 0, "{denied:?}");
    }

    let allowed = thousand_births(&web, &targets);
    assert_eq!(
        allowed.successes, allowed.attempts,
        "newborns of an allowed segment were refused: {allowed:?}"
    );
    let delivered: u64 = listeners
        .iter()
        .map(|&listener| server.inbox(listener).accepts)
        .sum();
    assert_eq!(
        delivered, allowed.attempts,
        "every allowed newborn reached the listener"
    );
}

#[test]
fn a_thousand_births_with_the_daemon_dead_leak_nothing_and_lose_nothing() {
    births_with(false);
}

#[test]
fn a_thousand_births_with_the_daemon_alive_leak_nothing_and_lose_nothing() {
    births_with(true);
}

#[test]
fn a_cgroup_named_by_its_exact_path_is_in_its_segment_at_birth() {
    let Some(lab) = Lab::open() else { return };
    let (nest, db) = (lab.cgroup("nest"), lab.cgroup("db"));
    let late = lab.unique("late");
    let server = lab.worker(&db);
    let listener = server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
    let mut segd = lab.enforce(&format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: exact}}
spec:
  segments:
    nest: {{match: [{{cgroup: {nest}}}]}}
    cage: {{match: [{{cgroup: {nest}/cage}}]}}
    late: {{match: [{{cgroup: /{late}}}]}}
    db: {{match: [{{cgroup: {db}}}]}}
  allow:
    - {{from: [nest, late], to: db, ports: [any]}}
",
        nest = nest.path(),
        db = db.path()
    ));
    segd.kill();
    // Both are born while nobody is there to look.
    let born = Cgroup::create(lab.cgroup_root(), &late);
    let cage = nest.child("cage");
    let cell = cage.child("cell");
    let sibling = nest.child("sibling");
    for (cgroup, allowed) in [(&born, true), (&sibling, true), (&cage, false), (&cell, false)] {
        let token = format!("{};", cgroup.path());
        let newborn = lab.worker(cgroup);
        let outcome = newborn.probe(Kind::Tcp, listener.local, &token);
        assert_eq!(
            outcome.result == "ok",
            allowed,
            "{} at its birth: {outcome:?}",
            cgroup.path()
        );
        if allowed {
            server.wait_for_message(listener, &token);
        }
    }
    wait::quiet(wait::SILENCE);
    assert_eq!(
        server.inbox(listener).accepts,
        2,
        "the two allowed newborns, nobody else"
    );
}

#[test]
fn a_unit_is_in_its_segment_at_birth_wherever_it_is_born() {
    let Some(lab) = Lab::open() else { return };
    let (slice, db) = (lab.cgroup("slice"), lab.cgroup("db"));
    let server = lab.worker(&db);
    let listener = server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
    let mark = std::process::id();
    let mut segd = lab.enforce(&format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: units}}
spec:
  segments:
    exact: {{match: [{{systemd: segdt-{mark}.service}}]}}
    pattern: {{match: [{{systemd: \"segdq-{mark}*.service\"}}]}}
    shut: {{match: [{{systemd: segdz-{mark}.service}}]}}
    db: {{match: [{{cgroup: {db}}}]}}
  allow:
    - {{from: [exact, pattern], to: db, ports: [any]}}
    - {{from: host, to: db, ports: [any]}}
",
        db = db.path()
    ));
    segd.kill();
    let units = [
        (format!("segdt-{mark}.service"), true),
        (format!("segdq-{mark}@main.service"), true),
        (format!("segdt-{mark}.socket"), true),
        (format!("segdz-{mark}.service"), false),
    ];
    for (unit, allowed) in &units {
        let cgroup = slice.child(unit);
        let deeper = cgroup.child("payload");
        for cgroup in [&cgroup, &deeper] {
            let token = format!("{};", cgroup.path());
            let outcome = lab.worker(cgroup).probe(Kind::Tcp, listener.local, &token);
            assert_eq!(outcome.result == "ok", *allowed, "{}: {outcome:?}", cgroup.path());
        }
    }
    wait::quiet(wait::SILENCE);
    let inbox = server.inbox(listener);
    assert_eq!(inbox.accepts, 6, "{:?}", inbox.messages);
}

#[test]
fn a_user_is_in_the_segment_at_the_birth_of_the_slice() {
    let Some(lab) = Lab::open() else { return };
    let db = lab.cgroup("db");
    let server = lab.worker(&db);
    let listener = server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
    let mut segd = lab.enforce(&format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: users}}
spec:
  segments:
    operators: {{match: [{{user: 64999}}]}}
    db: {{match: [{{cgroup: {db}}}]}}
  allow:
    - {{from: operators, to: db, ports: [any]}}
",
        db = db.path()
    ));
    segd.kill();
    let users = Cgroup::create(lab.cgroup_root(), "user.slice");
    for (slice, allowed) in [("user-64999.slice", true), ("user-64998.slice", false)] {
        let cgroup = users.child(slice);
        let session = cgroup.child("session-1.scope");
        let outcome = lab.worker(&session).probe(Kind::Tcp, listener.local, "user;");
        assert_eq!(outcome.result == "ok", allowed, "{slice}: {outcome:?}");
    }
    assert_eq!(server.inbox(listener).accepts, 1);
}

#[test]
fn a_socket_that_outlives_its_cgroup_stays_denied_and_never_becomes_host() {
    // Below its segment's cgroup its ancestor would speak for it; the segment's own cgroup has none but the root.
    for (daemon_lives, below) in [(true, true), (false, true), (true, false), (false, false)] {
        let Some(lab) = Lab::open() else { return };
        let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
        let server = lab.worker(&db);
        let udp = server.listen_udp((Ipv4Addr::LOCALHOST, 0));
        let mut segd = lab.enforce(&policy(&web, &rogue, &db));
        let (grave, _above) = if below {
            (rogue.child("grave"), Some(rogue))
        } else {
            (rogue, None)
        };
        let ghost = lab.worker(&grave);
        let socket = ghost.open_udp((Ipv4Addr::LOCALHOST, 0), None).unwrap();
        if !daemon_lives {
            segd.kill();
        }
        ghost.send_to(socket, udp.local, "before;").ok();
        // The process leaves for a cgroup that may reach db; its old socket stays behind.
        ghost.enter_directory(lab.cgroup_root());
        grave.remove();
        for number in 0..20 {
            ghost.send_to(socket, udp.local, &format!("after-{number};")).ok();
        }
        let fresh = ghost.open_udp((Ipv4Addr::LOCALHOST, 0), None).unwrap();
        ghost
            .send_to(fresh, udp.local, "fresh;")
            .expect("the process' new socket is host's");
        server.wait_for_message(udp, "fresh;");
        wait::quiet(wait::SILENCE);
        let inbox = server.inbox(udp);
        assert_eq!(
            inbox.messages,
            ["fresh;"],
            "with the daemon alive: {daemon_lives}, below its segment's cgroup: {below}"
        );
    }
}
