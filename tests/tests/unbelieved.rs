//! What a workload gets whose address segd does not believe, or whose link it does not see: what the policy allows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use segd_tests::{
    Bridge, Cgroup, Lab, Netns, Remote, Segd, Worker, foreign,
    netns::{Sysctl, cable, ip, v4},
    wait::{self, PATIENCE},
    worker,
};

const PORT: u16 = 5432;
/// How long segd may take to cover what is new.
const COVERED: Duration = Duration::from_secs(2);

fn policy(web: &Cgroup, db: &Cgroup, segments: &str, rules: &str) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: unbelieved}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
{segments}  allow:
{rules}",
        web.path(),
        db.path()
    )
}

const INNER_HOST: Ipv4Addr = Ipv4Addr::new(10, 214, 0, 1);
const INNER_FAR: Ipv4Addr = Ipv4Addr::new(10, 214, 0, 2);
const OUTER_HOST: Ipv4Addr = Ipv4Addr::new(10, 213, 40, 1);
const OUTER_FAR: Ipv4Addr = Ipv4Addr::new(10, 213, 40, 2);
const VXLAN: u16 = 4789;

/// A tunnel between the host, with `web`, and a container, with `db`. The host's routes lead the inner address into the tunnel, so
/// nobody believes that it is the container's.
struct Tunnel {
    web: Worker,
    db: Worker,
    segd: Segd,
    _netns: Netns,
    _cgroups: [Cgroup; 2],
    _loose: Sysctl,
    _lab: Lab,
}

impl Tunnel {
    fn open(mode: &[&str]) -> Option<Tunnel> {
        let lab = Lab::open()?;
        let netns = lab.netns("far");
        cable(&netns, 40);
        let device = format!("sgt{}v", std::process::id() % 100_000);
        ip(&format!(
            "link add {device} type vxlan id 77 local {OUTER_HOST} remote {OUTER_FAR} dstport {VXLAN}"
        ));
        netns.ip(&format!(
            "link add tunnel type vxlan id 77 local {OUTER_FAR} remote {OUTER_HOST} dstport {VXLAN}"
        ));
        ip(&format!("addr add {INNER_HOST}/24 dev {device}"));
        ip(&format!("link set {device} up"));
        netns.ip(&format!("addr add {INNER_FAR}/24 dev tunnel"));
        netns.ip("link set tunnel up");
        let loose = Sysctl::set("net/ipv4/conf/all/rp_filter", "0");
        let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
        let text = policy(
            &web,
            &db,
            &format!("    behind: {{match: [{{cidr: {INNER_FAR}/32}}]}}\n"),
            &format!(
                "    - {{from: web, to: [behind, db], ports: [udp/{PORT}, tcp/{PORT}]}}
    - {{from: db, to: web, ports: [udp/{PORT}, tcp/{PORT}]}}
    - {{from: db, to: host, ports: [udp/{VXLAN}]}}
"
            ),
        );
        let segd = lab.segd(&text).args(mode).start();
        wait::quiet(COVERED);
        Some(Tunnel {
            web: lab.worker(&web),
            db: lab.worker_in(&db, &netns),
            segd,
            _netns: netns,
            _cgroups: [web, db],
            _loose: loose,
            _lab: lab,
        })
    }
}

#[test]
fn a_container_answers_the_host_through_a_tunnel_between_them() {
    let Some(tunnel) = Tunnel::open(&[]) else { return };
    let ear = tunnel.db.listen_udp_echo((INNER_FAR, PORT));
    let asks = tunnel.web.open_udp((INNER_HOST, 0), Some(ear.local)).unwrap();
    tunnel.web.send(asks, "asked;").unwrap();
    tunnel.db.wait_for_message(ear, "asked;");
    let answer = tunnel.web.receive(asks, 2000);
    assert_eq!(answer, Ok(Some("asked;".to_owned())), "{}", tunnel.segd.log());
    let inbox = tunnel.web.listen_udp((INNER_HOST, PORT));
    let begins = tunnel.db.open_udp((INNER_FAR, 0), Some(inbox.local)).unwrap();
    tunnel.db.send(begins, "begun;").unwrap();
    tunnel.web.wait_for_message(inbox, "begun;");
}

#[test]
fn a_container_and_the_host_dial_each_other_through_a_tunnel_between_them() {
    let Some(tunnel) = Tunnel::open(&[]) else { return };
    for (from, to, at) in [
        (&tunnel.db, &tunnel.web, INNER_HOST),
        (&tunnel.web, &tunnel.db, INNER_FAR),
    ] {
        let ear = to.listen_tcp_echo((at, PORT));
        exchanges(from, ear.local, &tunnel.segd);
    }
}

/// Dials, and has two words come back.
#[track_caller]
fn exchanges(client: &Worker, to: SocketAddr, segd: &Segd) {
    let session = client
        .open_tcp(to)
        .unwrap_or_else(|error| panic!("{to}: {error:?}: {:?} {}", segd.denied(), segd.log()));
    for word in ["one;", "two;"] {
        client.send(session, word).unwrap();
        let answer = client.receive(session, 2000);
        assert_eq!(
            answer,
            Ok(Some(word.to_owned())),
            "{:?} {}",
            segd.denied(),
            segd.log()
        );
    }
}

/// A worker in a namespace of a user namespace of its own, as rootless containers and those with mapped users have it, on the bridge.
#[track_caller]
fn of_other_users(lab: &Lab, bridge: &Bridge, cgroup: &Cgroup, number: u8) -> Worker {
    let script = format!(
        "echo 0 > {}/cgroup.procs && exec unshare --user --map-root-user --net \"$0\" \"$@\"",
        cgroup.directory().display(),
    );
    let program = worker::binary().display().to_string();
    let worker = Worker::start_by(&["sh".to_owned(), "-c".to_owned(), script, program]);
    let made = lab.netns("made");
    bridge.plug(&made, number);
    made.ip(&format!("link set eth0 netns {}", worker.pid()));
    let there = format!("--net=/proc/{}/ns/net", worker.pid());
    for words in [
        "ip link set lo up",
        "ip link set eth0 up",
        &format!("ip addr add {}/24 dev eth0", v4(number)),
    ] {
        let mut program = Command::new("nsenter");
        let output = program.arg(&there).args(words.split(' ')).output().unwrap();
        assert!(output.status.success(), "{words}: {output:?}");
    }
    worker
}

#[test]
fn a_container_of_other_users_accepts_whom_the_policy_allows() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let (partner, stranger) = (Remote::plug(&bridge, 50), Remote::plug(&bridge, 51));
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let server = of_other_users(&lab, &bridge, &db, 12);
    let segments = format!("    partner: {{match: [{{cidr: {}/32}}]}}\n", partner.v4);
    let rules = format!(
        "    - {{from: [host, partner], to: db, ports: [tcp/{PORT}]}}
    - {{from: web, to: world, ports: [tcp/{PORT}]}}
    - {{from: web, to: db, ports: [tcp/{PORT}]}}
"
    );
    let segd = lab.enforce(&policy(&web, &db, &segments, &rules));
    let ear = server.listen_tcp_echo((v4(12), PORT));
    wait::quiet(COVERED);
    let outside = lab.cgroup("outside");
    for host in [lab.worker(&outside), lab.worker(&web)] {
        exchanges(&host, ear.local, &segd);
    }
    let asks = |machine: &Remote| machine.tcp(ear.local, "asks;", Duration::from_secs(2));
    assert_eq!(asks(&partner), "ok", "{:?} {}", segd.denied(), segd.log());
    let before = server.inbox(ear).accepts;
    assert_ne!(asks(&stranger), "ok", "whom no rule lets in");
    assert_eq!(server.inbox(ear).accepts, before);
}

/// A link that found no room in its table is a link all the same.
#[test]
fn behind_a_link_that_found_no_room_a_workload_gets_what_the_policy_allows() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let partner = Remote::plug(&bridge, 50);
    partner.listen(PORT);
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let beside = lab.netns("beside");
    bridge.plug(&beside, 11);
    let server = lab.worker_in(&db, &beside);
    let segments = format!("    partner: {{match: [{{cidr: {}/32}}]}}\n", partner.v4);
    let rules = format!(
        "    - {{from: web, to: [partner, db, host], ports: [tcp/{PORT}]}}\n    - {{from: partner, to: web, ports: [tcp/{PORT}]}}\n"
    );
    let segd = lab.enforce(&policy(&web, &db, &segments, &rules));
    let pins = std::fs::read_dir(segd.pin_dir()).unwrap().flatten();
    let map = pins
        .map(|entry| entry.path().join("LINKS"))
        .find(|path| path.exists())
        .expect("the map is pinned");
    assert!(foreign::fill(&map).unwrap() > 1000, "LINKS took more");
    let late = lab.netns("late");
    bridge.plug(&late, 12);
    let client = lab.worker_in(&web, &late);
    wait::wait_until("status tells that LINKS is full", PATIENCE, || {
        let warnings = segd.json(&["status"])["warnings"].to_string();
        warnings.contains("could be written") || warnings.contains("did not fit")
    });
    wait::quiet(COVERED);
    let session = client
        .open_tcp((partner.v4, PORT))
        .unwrap_or_else(|error| panic!("{error:?}: {:?} {}", segd.denied(), segd.log()));
    for word in ["one;", "two;"] {
        client.send(session, word).unwrap();
        wait::wait_until(format!("{word} is heard"), PATIENCE, || partner.inbox().has(word));
    }
    let ear = server.listen_tcp_echo((v4(11), PORT));
    exchanges(&client, ear.local, &segd);
    let outside = lab.cgroup("outside");
    let host = lab.worker(&outside);
    let ear = host.listen_tcp_echo((v4(1), PORT));
    exchanges(&client, ear.local, &segd);
    let ear = client.listen_tcp((v4(12), PORT));
    let accepted = partner.tcp(ear.local, "asks;", Duration::from_secs(2));
    assert_eq!(accepted, "ok", "{:?} {}", segd.denied(), segd.log());
}
