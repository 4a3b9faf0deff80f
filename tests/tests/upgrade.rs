//! From one layout of the maps to another and back, under live flows: none interrupted, nothing leaked, nobody freed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    fs,
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use segd_tests::{
    Cgroup, Kind, Lab, Segd, Worker, foreign,
    netns::v4,
    segd::{binary, other_layout},
    wait,
    worker::{Handle, probe},
};

const FLOWS: usize = 1000;
const EXCHANGES: usize = 20;

fn policy(web: &Cgroup, rogue: &Cgroup, db: &Cgroup) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: upgrade}}
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

/// The names of the sets of maps that are pinned.
fn sets(segd: &Segd) -> Vec<String> {
    let entries = fs::read_dir(segd.pin_dir()).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut maps: Vec<String> = names.filter(|name| name.starts_with("maps_")).collect();
    maps.sort();
    maps
}

/// Asks and waits for the answer, again and again; what is lost counts.
fn exchange(client: &Worker, sockets: &[Handle], stop: &AtomicBool, rounds: &AtomicU64, lost: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        for &socket in sockets {
            let sent = client.send(socket, "ask;");
            let answer = sent.and_then(|()| client.receive(socket, 1000));
            match answer {
                Ok(Some(text)) if text == "ask;" => {}
                other => {
                    eprintln!("an exchange failed: {other:?}");
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        rounds.fetch_add(1, Ordering::Relaxed);
        wait::quiet(Duration::from_millis(100));
    }
}

/// Stops the exchanges whatever happens: a scope waits for its threads, after a panic too.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_thousand_flows_live_through_an_upgrade_to_another_layout_and_the_way_back() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let (near, far) = (lab.netns("near"), lab.netns("far"));
    bridge.plug(&near, 10);
    bridge.plug(&far, 11);
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, server, asker) = (lab.worker(&web), lab.worker(&db), lab.worker(&web));
    let (remote, store) = (lab.worker_in(&web, &near), lab.worker_in(&db, &far));
    let attacker = lab.worker(&rogue);
    let mut segd = lab.enforce(&policy(&web, &rogue, &db));

    let beside = server.listen_tcp_echo((Ipv4Addr::LOCALHOST, 0));
    let across = store.listen_tcp_echo((v4(11), 5400));
    let secret = server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
    let datagrams = server.listen_udp_echo((Ipv4Addr::LOCALHOST, 0));
    let secret_udp = server.listen_udp((Ipv4Addr::LOCALHOST, 0));
    let open = |client: &Worker, to| -> Vec<Handle> {
        (0..FLOWS / 2)
            .map(|_| client.open_tcp(to).expect("web may reach db"))
            .collect()
    };
    let tasks = [
        (&client, client.traffic_every(&open(&client, beside.local), 400)),
        (&remote, remote.traffic_every(&open(&remote, across.local), 400)),
    ];
    let sockets: Vec<Handle> = (0..EXCHANGES)
        .map(|_| {
            asker
                .open_udp((Ipv4Addr::LOCALHOST, 0), Some(datagrams.local))
                .unwrap()
        })
        .collect();
    let mut attempts: Vec<_> = [
        (Kind::Tcp, secret),
        (Kind::Udp, secret_udp),
        (Kind::RawUdp, secret_udp),
    ]
    .map(|(kind, to)| probe(kind, to.local, "leak;"))
    .into();
    attempts.iter_mut().for_each(|probe| probe.timeout_ms = 20);
    let hammer = attacker.hammer(attempts, 1);

    let (stop, rounds, lost) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| exchange(&asker, &sockets, &stop, &rounds, &lost));
        let _stop = Stop(&stop);
        let more = |count: u64| {
            for (client, task) in &tasks {
                let goal = client.task(*task).least + count;
                wait::wait_until("every connection goes on", Duration::from_secs(20), || {
                    let tally = client.task(*task);
                    assert!(tally.failures.is_empty(), "connections broke: {tally:?}");
                    tally.least >= goal
                });
            }
        };
        more(1);
        let before = sets(&segd);
        let revision = segd.revision();
        assert!(segd.terminate().success());
        more(1);
        segd.restart_as(&other_layout(), &[]);
        let between = sets(&segd);
        assert!(
            between.len() == 1 && between != before,
            "another layout, and nothing of the old one: {before:?}, {between:?}"
        );
        assert!(segd.revision() > revision, "revisions go on");
        assert_eq!(segd.metric("segd_enforcing", &[]), Some(1.0), "{}", segd.log());
        more(2);
        segd.kill();
        more(1);
        segd.restart_as(&binary(), &[]);
        assert_eq!(sets(&segd), before, "back, and nothing left of the other");
        assert_eq!(segd.metric("segd_enforcing", &[]), Some(1.0), "{}", segd.log());
        more(2);
    });
    for (client, task) in tasks {
        let tally = client.stop(task);
        assert!(tally.failures.is_empty(), "broken connections: {tally:?}");
    }
    assert_eq!(
        server.inbox(beside).accepts,
        FLOWS as u64 / 2,
        "no connection was made anew"
    );
    assert_eq!(
        store.inbox(across).accepts,
        FLOWS as u64 / 2,
        "no connection was made anew"
    );
    let (rounds, lost) = (rounds.into_inner(), lost.into_inner());
    assert!(rounds > 20, "{rounds} rounds of {EXCHANGES} exchanges");
    assert_eq!(lost, 0, "datagrams lost in {rounds} rounds of {EXCHANGES}");
    let tally = attacker.stop(hammer);
    println!("{rounds} rounds of {EXCHANGES} exchanges, {tally:?}");
    assert!(tally.attempts > 1000, "{tally:?}");
    assert_eq!(
        server.inbox(secret).accepts + server.inbox(secret_udp).bytes,
        0,
        "leaked"
    );
}

#[test]
fn who_was_orphaned_or_outlived_its_cgroup_stays_denied_in_another_layout() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let server = lab.worker(&db);
    let udp = server.listen_udp((Ipv4Addr::LOCALHOST, 0));
    let mut segd = lab.enforce(&policy(&web, &rogue, &db));
    // The process leaves for a cgroup that may reach db; its old socket stays behind.
    let grave = rogue.child("grave");
    let ghost = lab.worker(&grave);
    let socket = ghost.open_udp((Ipv4Addr::LOCALHOST, 0), None).unwrap();
    ghost.enter_directory(lab.cgroup_root());
    grave.remove();
    let orphan = lab.worker(&rogue);
    let without: String = policy(&web, &rogue, &db)
        .lines()
        .filter(|line| !line.trim_start().starts_with("rogue:"))
        .map(|line| format!("{line}\n"))
        .collect();
    // Were either of them `host`, it would reach db now.
    segd.set_policy(&without);
    for (round, build) in [other_layout(), binary()].iter().enumerate() {
        segd.kill();
        segd.restart_as(build, &[]);
        ghost.send_to(socket, udp.local, &format!("ghost-{round};")).ok();
        orphan.probe(Kind::Udp, udp.local, &format!("orphan-{round};"));
    }
    let fresh = ghost.open_udp((Ipv4Addr::LOCALHOST, 0), None).unwrap();
    ghost.send_to(fresh, udp.local, "host;").unwrap();
    server.wait_for_message(udp, "host;");
    wait::quiet(wait::SILENCE);
    assert_eq!(
        server.inbox(udp).messages,
        ["host;"],
        "segd said:\n{}",
        segd.log()
    );
}

#[test]
fn who_was_orphaned_stays_so_where_putting_maps_aside_ended_in_the_middle() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let server = lab.worker(&db);
    let udp = server.listen_udp((Ipv4Addr::LOCALHOST, 0));
    let mut segd = lab.enforce(&policy(&web, &rogue, &db));
    let orphan = lab.worker(&rogue);
    let text = policy(&web, &rogue, &db);
    let without: Vec<&str> = text.lines().filter(|line| !line.contains("rogue:")).collect();
    segd.set_policy(&(without.join("\n") + "\n"));
    segd.kill();
    let set = sets(&segd).remove(0);
    let flows = segd.pin_dir().join(&set).join("FLOWS");
    fs::remove_file(&flows).unwrap();
    foreign::pin_array(&flows, 8).unwrap();
    // The first of its three renames.
    let links = segd.pin_dir().join(set.replace("maps", "links"));
    fs::rename(&links, format!("{}_aside0", links.display())).unwrap();
    segd.restart();
    assert!(segd.log().contains("taking over from"), "{}", segd.log());
    assert_eq!(sets(&segd), [set.as_str()]);
    orphan.probe(Kind::Udp, udp.local, "orphan;");
    let host = lab.worker(&web);
    host.enter_directory(lab.cgroup_root());
    let socket = host.open_udp((Ipv4Addr::LOCALHOST, 0), None).unwrap();
    host.send_to(socket, udp.local, "host;").unwrap();
    server.wait_for_message(udp, "host;");
    wait::quiet(wait::SILENCE);
    assert_eq!(server.inbox(udp).messages, ["host;"], "{}", segd.log());
}

#[test]
fn an_applied_policy_that_another_layout_does_not_go_on_with_is_told_loudly() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let mut segd = lab
        .segd(&policy(&web, &rogue, &db))
        .binary(other_layout())
        .start();
    segd.kill();
    segd.restart_as(&binary(), &[]);
    assert!(
        !segd.log().contains("is not gone on with"),
        "it is the files' policy: {}",
        segd.log()
    );
    segd.kill();
    segd.restart_as(&other_layout(), &[]);
    let file = segd.directory().join("applied.yaml");
    let applied = policy(&web, &rogue, &db).replace("from: web", "from: rogue");
    fs::write(&file, applied).unwrap();
    let applied = segd.json(&["apply", file.to_str().unwrap()]);
    assert_eq!(applied["differs_from_files"], true, "{applied}");
    segd.kill();
    segd.restart_as(&binary(), &[]);
    assert!(segd.log().contains("is not gone on with"), "{}", segd.log());
    let warnings = segd.json(&["status"])["warnings"].to_string();
    assert!(warnings.contains("is not gone on with"), "{warnings}");
    assert!(segd.explains_allowed("web", "db", "tcp/1"));
}

#[test]
fn a_take_over_that_is_killed_changes_nothing_and_can_be_begun_again() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (friend, attacker, server) = (lab.worker(&web), lab.worker(&rogue), lab.worker(&db));
    let tcp = server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
    let mut segd = lab.enforce(&policy(&web, &rogue, &db));
    let mut attempt = probe(Kind::Tcp, tcp.local, "leak;");
    attempt.timeout_ms = 20;
    let hammer = attacker.hammer(vec![attempt], 1);
    let mut friends = 0;
    let mut holds = |story: &str| {
        assert_eq!(
            friend.probe(Kind::Tcp, tcp.local, "friend;").result,
            "ok",
            "{story}"
        );
        friends += 1;
        assert_eq!(server.inbox(tcp).accepts, friends, "{story}: leaked");
    };
    for ms in [50, 300, 900, 1500, 2200, 3000] {
        segd.kill();
        segd.launch_as(&other_layout());
        wait::quiet(Duration::from_millis(ms));
        segd.kill();
        holds(&format!("killed after {ms} ms"));
        segd.restart();
        assert_eq!(sets(&segd).len(), 1, "killed after {ms} ms");
        holds(&format!("back after a kill after {ms} ms"));
    }
    assert!(attacker.stop(hammer).attempts > 100);
}

#[test]
fn pinned_maps_that_are_not_what_they_should_be_are_never_used() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (friend, attacker, server) = (lab.worker(&web), lab.worker(&rogue), lab.worker(&db));
    let tcp = server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
    let mut segd = lab.enforce(&policy(&web, &rogue, &db));
    let set = sets(&segd).remove(0);
    let maps = segd.pin_dir().join(&set);
    let mut friends = 0;
    for broken in [
        "ACTIVE gone",
        "CGROUPS foreign",
        "MANIFEST gone",
        "NAMES foreign",
        "links gone, FLOWS foreign",
    ] {
        segd.kill();
        if broken.starts_with("links") {
            fs::remove_dir_all(segd.pin_dir().join(set.replace("maps", "links"))).unwrap();
        }
        let name = broken.rsplit(", ").next().unwrap().split(' ').next().unwrap();
        fs::remove_file(maps.join(name)).unwrap();
        if broken.ends_with("foreign") {
            foreign::pin_array(&maps.join(name), 8).unwrap();
        }
        segd.restart();
        assert!(
            segd.log().contains("cannot be used"),
            "{broken}: it is told:\n{}",
            segd.log()
        );
        assert_eq!(sets(&segd), [set.as_str()], "{broken}");
        assert_eq!(segd.metric("segd_enforcing", &[]), Some(1.0), "{broken}");
        assert_eq!(
            friend.probe(Kind::Tcp, tcp.local, "friend;").result,
            "ok",
            "{broken}"
        );
        friends += 1;
        assert_ne!(
            attacker.probe(Kind::Tcp, tcp.local, "leak;").result,
            "ok",
            "{broken}"
        );
        assert_eq!(server.inbox(tcp).accepts, friends, "{broken}: leaked");
    }
}
