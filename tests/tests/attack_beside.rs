//! What a datagram into another namespace was judged is kept on its socket: it holds for the next one that is like it and
//! arrives as it left, and for no other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use segd_tests::{
    Cgroup, Lab, Netns, Worker,
    netns::{NftTable, Sysctl, cable, ip},
    wait,
    worker::Handle,
};

/// Enough that the last of them are judged by what is kept, at both ends.
const WARM: usize = 6;
const OPEN: u16 = 5432;
const ALSO_OPEN: u16 = 5433;
const PATIENCE: Duration = Duration::from_secs(5);

/// `near`, where the web lives, and `far`, where the database does; the host forwards between them.
struct Two {
    near: Netns,
    near_ip: IpAddr,
    far: Netns,
    far_ip: IpAddr,
    _forward: Sysctl,
}

impl Two {
    #[track_caller]
    fn build(lab: &Lab) -> Two {
        let forward = Sysctl::set("net/ipv4/ip_forward", "1");
        let (near, far) = (lab.netns("near"), lab.netns("far"));
        let (near_ip, _) = cable(&near, 51);
        let (far_ip, _) = cable(&far, 52);
        Two {
            near,
            near_ip,
            far,
            far_ip,
            _forward: forward,
        }
    }
}

fn policy(web: &Cgroup, rogue: &Cgroup, db: &Cgroup, ports: &str) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: beside}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: web, to: db, ports: [{ports}]}}
",
        web.path(),
        rogue.path(),
        db.path()
    )
}

/// Sends until all of it is kept; each arrives.
#[track_caller]
fn warm(client: &Worker, socket: Handle, server: &Worker, service: Handle) {
    for round in 0..WARM {
        let token = format!("warm-{round};");
        client.send_to(socket, service.local, &token).unwrap();
        assert_eq!(server.receive(service, 2000).unwrap(), Some(token));
    }
}

#[test]
fn between_namespaces_the_next_datagram_is_refused_when_its_rule_is_gone_and_passes_when_it_is_back() {
    let Some(lab) = Lab::open() else { return };
    let place = Two::build(&lab);
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let client = lab.worker_in(&web, &place.near);
    let server = lab.worker_in(&db, &place.far);
    let (open, shut) = (
        policy(&web, &rogue, &db, "udp/5432"),
        policy(&web, &rogue, &db, "udp/1"),
    );
    let segd = lab.enforce(&open);
    let service = server.open_udp((place.far_ip, OPEN), None).unwrap();
    let socket = client.open_udp((place.near_ip, 0), None).unwrap();
    let rounds = 3;
    for _ in 0..rounds {
        warm(&client, socket, &server, service);
        // And the answers.
        for _ in 0..WARM {
            server.send_to(service, socket.local, "answer;").unwrap();
            assert_eq!(client.receive(socket, 2000).unwrap().as_deref(), Some("answer;"));
        }
        segd.set_policy(&shut);
        for _ in 0..WARM {
            let error = client.send_to(socket, service.local, "stolen;").unwrap_err();
            assert_eq!(error.errno, "EPERM", "the rule is gone");
            let error = server.send_to(service, socket.local, "stolen;").unwrap_err();
            assert_eq!(error.errno, "EPERM", "what was asked is not allowed any more");
        }
        assert_eq!(server.receive(service, 200).unwrap(), None);
        assert_eq!(client.receive(socket, 200).unwrap(), None);
        segd.set_policy(&open);
    }
    let passed = 2 * (rounds * WARM) as u64;
    assert_eq!(
        segd.counted("allowed", "web", "db"),
        passed,
        "each is counted once"
    );
}

#[test]
fn between_namespaces_who_gets_the_port_of_a_sender_gets_none_of_its_right() {
    let Some(lab) = Lab::open() else { return };
    let place = Two::build(&lab);
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, enemy) = (
        lab.worker_in(&web, &place.near),
        lab.worker_in(&rogue, &place.near),
    );
    let server = lab.worker_in(&db, &place.far);
    let segd = lab.enforce(&policy(&web, &rogue, &db, "udp/5432"));
    let service = server.open_udp((place.far_ip, OPEN), None).unwrap();
    for port in 41_050..41_053 {
        let socket = client.open_udp((place.near_ip, port), None).unwrap();
        warm(&client, socket, &server, service);
        client.close(socket);
        // The same tuple within the moment.
        let stolen = enemy.open_udp((place.near_ip, port), None).unwrap();
        for _ in 0..WARM {
            let error = enemy.send_to(stolen, service.local, "stolen;").unwrap_err();
            assert_eq!(error.errno, "EPERM");
        }
        assert_eq!(server.receive(service, 200).unwrap(), None);
        enemy.close(stolen);
    }
    assert_eq!(segd.counted("denied", "rogue", "db"), 3 * WARM as u64);
}

#[test]
fn between_namespaces_who_gets_the_port_of_a_receiver_gets_none_of_its_datagrams() {
    let Some(lab) = Lab::open() else { return };
    let place = Two::build(&lab);
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let client = lab.worker_in(&web, &place.near);
    // Two segments behind one address: only the receiver can tell who it is.
    let (server, enemy) = (lab.worker_in(&db, &place.far), lab.worker_in(&rogue, &place.far));
    let segd = lab.enforce(&policy(&web, &rogue, &db, "udp/5432"));
    let at = SocketAddr::from((place.far_ip, OPEN));
    let socket = client.open_udp((place.near_ip, 0), None).unwrap();
    let rounds = 3;
    for _ in 0..rounds {
        let service = server.open_udp(at, None).unwrap();
        warm(&client, socket, &server, service);
        server.close(service);
        // While the sender goes on.
        let trap = enemy.open_udp(at, None).unwrap();
        for _ in 0..WARM {
            client.send_to(socket, at, "stolen;").ok();
        }
        assert_eq!(enemy.receive(trap, 300).unwrap(), None);
        enemy.close(trap);
    }
    assert_eq!(segd.counted("allowed", "web", "db"), (rounds * WARM) as u64);
    assert_eq!(segd.counted("denied", "web", "rogue"), (rounds * WARM) as u64);
}

/// A host that begins to translate in the middle of an exchange, datagram by datagram, without conntrack.
#[test]
fn a_datagram_that_is_translated_from_now_on_is_its_senders_again_within_seconds_and_nobody_elses() {
    let Some(lab) = Lab::open() else { return };
    let place = Two::build(&lab);
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, server) = (lab.worker_in(&web, &place.near), lab.worker_in(&db, &place.far));
    let segd = lab.enforce(&policy(&web, &rogue, &db, "udp/5432, udp/5433"));
    let service = server.open_udp((place.far_ip, OPEN), None).unwrap();
    let other = server.open_udp((place.far_ip, ALSO_OPEN), None).unwrap();
    let shut = server.open_udp((place.far_ip, 5434), None).unwrap();
    let socket = client.open_udp((place.near_ip, 0), None).unwrap();
    warm(&client, socket, &server, service);
    for (to, arrives) in [(other, true), (shut, false), (other, true)] {
        let table = NftTable::create(
            &format!("sgt{}", std::process::id()),
            &format!(
                "chain pre {{
type filter hook prerouting priority -300;
ip daddr {} udp dport {OPEN} notrack udp dport set {}
}}",
                place.far_ip,
                to.local.port()
            ),
        );
        let heard = wait::within(PATIENCE, || {
            client.send_to(socket, service.local, "turned;").ok();
            server.receive(to, 50).unwrap().as_deref() == Some("turned;")
        });
        assert_eq!(heard, arrives, "at {}", to.local);
        assert_eq!(
            server.receive(service, 100).unwrap(),
            None,
            "all of them are translated"
        );
        drop(table);
        // What was on its way under the old rule is let arrive.
        while server.receive(other, 200).unwrap().is_some() {}
        warm(&client, socket, &server, service);
    }
    assert!(segd.counted("denied", "web", "db") > 0, "by its own name");
    assert_eq!(segd.counted("allowed", "unknown", "db"), 0);
}

#[test]
fn an_address_that_moved_to_another_namespace_takes_no_right_along() {
    let Some(lab) = Lab::open() else { return };
    let place = Two::build(&lab);
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let third = lab.netns("third");
    cable(&third, 53);
    let (client, server, enemy) = (
        lab.worker_in(&web, &place.near),
        lab.worker_in(&db, &place.far),
        lab.worker_in(&rogue, &third),
    );
    let moving = IpAddr::from(Ipv4Addr::new(10, 213, 52, 77));
    place.far.ip(&format!("addr add {moving}/24 dev eth0"));
    let segd = lab.enforce(&policy(&web, &rogue, &db, "udp/5432"));
    let at = SocketAddr::from((moving, OPEN));
    let socket = client.open_udp((place.near_ip, 0), None).unwrap();
    let service = server.open_udp(at, None).unwrap();
    let heard = wait::within(PATIENCE, || {
        client.send_to(socket, at, "first;").ok();
        server.receive(service, 100).unwrap().is_some()
    });
    assert!(heard, "segd knows of the address");
    while server.receive(service, 200).unwrap().is_some() {}
    warm(&client, socket, &server, service);
    place.far.ip(&format!("addr del {moving}/24 dev eth0"));
    third.ip(&format!("addr add {moving}/32 dev eth0"));
    ip(&format!("route add {moving}/32 via 10.213.53.2"));
    let trap = enemy.open_udp(at, None).unwrap();
    let before = segd.counted("allowed", "web", "rogue");
    for _ in 0..20 {
        client.send_to(socket, at, "stolen;").ok();
        assert_eq!(enemy.receive(trap, 100).unwrap(), None);
    }
    assert_eq!(segd.counted("allowed", "web", "rogue"), before);
    assert!(segd.counted("denied", "web", "rogue") > 0, "by its own name");
}
