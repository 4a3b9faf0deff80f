//! Ways around the policy by who a socket is: made before a move, passed on, made without a system call that has a
//! name for it, on a port that somebody else has too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::net::{Ipv4Addr, SocketAddr};

use segd_tests::{Cgroup, Kind, Lab, Netns, Worker, netns::v4, wait, worker::Handle};

const PORT: u16 = 5432;

fn policy(web: &Cgroup, rogue: &Cgroup, db: &Cgroup) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: identity}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: web, to: db, ports: [tcp/5432, udp/5432]}}
",
        web.path(),
        rogue.path(),
        db.path()
    )
}

/// In the order in which it must go: who lives in a cgroup before it.
struct Cast {
    client: Worker,
    enemy: Worker,
    server: Worker,
    _segd: segd_tests::Segd,
    web: Cgroup,
    rogue: Cgroup,
    _db: Cgroup,
    _netns: Option<Netns>,
    _lab: Lab,
}

/// `web`, `rogue` and `db`, all in one namespace: the host's, or the given one.
fn cast(place: Option<fn(&Lab) -> Netns>) -> Option<Cast> {
    let lab = Lab::open()?;
    let netns = place.map(|make| make(&lab));
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let start = |cgroup: &Cgroup| match &netns {
        Some(netns) => lab.worker_in(cgroup, netns),
        None => lab.worker(cgroup),
    };
    let (client, enemy, server) = (start(&web), start(&rogue), start(&db));
    let segd = lab.enforce(&policy(&web, &rogue, &db));
    Some(Cast {
        client,
        enemy,
        server,
        _segd: segd,
        web,
        rogue,
        _db: db,
        _netns: netns,
        _lab: lab,
    })
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// What of a listener's inbox came from whom it should not.
#[track_caller]
fn nothing_of(server: &Worker, listener: Handle, token: &str) {
    wait::quiet(wait::SILENCE);
    let inbox = server.inbox(listener);
    assert!(
        !inbox.messages.iter().any(|message| message.contains(token)),
        "{token} arrived: {:?}",
        inbox.messages
    );
}

#[test]
fn a_socket_keeps_the_identity_it_was_made_with_and_a_new_one_has_the_new() {
    let Some(cast) = cast(None) else { return };
    let stream = cast.server.listen_tcp(loopback(PORT));
    let datagrams = cast.server.listen_udp(loopback(PORT));
    let connection = cast.client.open_tcp(stream.local).unwrap();
    let socket = cast.client.open_udp(loopback(0), None).unwrap();
    cast.client.enter(&cast.rogue);
    // What web made is web's, whoever holds it now (docs/identity.md).
    cast.client.send(connection, "kept-stream;").unwrap();
    cast.server.wait_for_message(stream, "kept-stream;");
    cast.client
        .send_to(socket, datagrams.local, "kept-datagram;")
        .unwrap();
    cast.server.wait_for_message(datagrams, "kept-datagram;");
    for kind in [Kind::Tcp, Kind::Udp, Kind::UdpConnected, Kind::RawUdp] {
        let outcome = cast.client.probe(kind, stream.local, "after-the-move;");
        assert_eq!(outcome.result, "EPERM", "{kind:?}");
    }
    nothing_of(&cast.server, stream, "after-the-move;");
    nothing_of(&cast.server, datagrams, "after-the-move;");
    // And the other way round: what rogue made stays rogue's.
    let early = cast.enemy.open_udp(loopback(0), None).unwrap();
    cast.enemy.enter(&cast.web);
    assert_eq!(
        cast.enemy
            .send_to(early, datagrams.local, "from-rogue;")
            .unwrap_err()
            .errno,
        "EPERM"
    );
    cast.enemy.probe(Kind::Udp, datagrams.local, "as-web;");
    cast.server.wait_for_message(datagrams, "as-web;");
    nothing_of(&cast.server, datagrams, "from-rogue;");
}

#[test]
fn a_socket_that_was_passed_on_stays_its_makers_and_gives_its_holder_nothing_else() {
    let Some(cast) = cast(None) else { return };
    let stream = cast.server.listen_tcp(loopback(PORT));
    let datagrams = cast.server.listen_udp(loopback(PORT));
    let closed = cast.server.listen_udp(loopback(PORT + 1));
    let connection = cast.client.open_tcp(stream.local).unwrap();
    let socket = cast.client.open_udp(loopback(0), None).unwrap();
    let connection = cast.enemy.take_over(&cast.client, connection, true);
    let socket = cast.enemy.take_over(&cast.client, socket, false);
    cast.enemy.send(connection, "passed-stream;").unwrap();
    cast.server.wait_for_message(stream, "passed-stream;");
    cast.enemy
        .send_to(socket, datagrams.local, "passed-datagram;")
        .unwrap();
    cast.server.wait_for_message(datagrams, "passed-datagram;");
    // It is web's socket, with web's rights and no more.
    assert_eq!(
        cast.enemy
            .send_to(socket, closed.local, "beyond;")
            .unwrap_err()
            .errno,
        "EPERM"
    );
    for kind in [Kind::Tcp, Kind::Udp, Kind::UdpConnected] {
        assert_eq!(
            cast.enemy.probe(kind, stream.local, "own;").result,
            "EPERM",
            "{kind:?}"
        );
    }
    nothing_of(&cast.server, closed, "beyond;");
    nothing_of(&cast.server, stream, "own;");
    nothing_of(&cast.server, datagrams, "own;");
}

/// TCP Fast Open without cookies, both sides, for every listener.
fn fast_open_everywhere(lab: &Lab) -> Netns {
    let netns = lab.netns("fast");
    netns.ip("link set lo up");
    netns.sysctl("net/ipv4/tcp_fastopen", "1543");
    netns
}

/// Connects in each of these ways, as who may and as who may not.
#[track_caller]
fn connects(cast: &Cast, kinds: &[Kind], open: Handle, shut: Handle) {
    for kind in kinds.iter().copied() {
        let token = format!("{kind:?}-right;");
        assert_eq!(
            cast.client.probe(kind, open.local, &token).result,
            "ok",
            "{kind:?}"
        );
        cast.server.wait_for_message(open, &token);
        for (worker, to) in [(&cast.client, shut), (&cast.enemy, open), (&cast.enemy, shut)] {
            let outcome = worker.probe(kind, to.local, "wrong;");
            assert_eq!(outcome.result, "EPERM", "{kind:?} to {}", to.local);
        }
    }
    wait::quiet(wait::SILENCE);
    let inbox = cast.server.inbox(shut);
    assert_eq!(
        (inbox.accepts, inbox.bytes),
        (0, 0),
        "the denied port was reached"
    );
    nothing_of(&cast.server, open, "wrong;");
}

#[test]
fn no_way_to_connect_is_a_way_around() {
    let Some(cast) = cast(Some(fast_open_everywhere)) else {
        return;
    };
    let open = cast.server.listen_tcp(loopback(PORT));
    let shut = cast.server.listen_tcp(loopback(PORT + 1));
    connects(&cast, &[Kind::Tcp, Kind::FastOpen], open, shut);
}

#[test]
fn neither_is_a_ring_of_calls() {
    let Some(cast) = cast(Some(fast_open_everywhere)) else {
        return;
    };
    let open = cast.server.listen_tcp(loopback(PORT));
    let shut = cast.server.listen_tcp(loopback(PORT + 1));
    connects(&cast, &[Kind::IoUring, Kind::SqPoll], open, shut);
}

#[test]
fn neither_is_a_multipath_connection() {
    let Some(cast) = cast(None) else { return };
    let open = cast.server.listen_multipath(loopback(PORT));
    let shut = cast.server.listen_multipath(loopback(PORT + 1));
    connects(&cast, &[Kind::Mptcp, Kind::Tcp], open, shut);
}

#[test]
fn data_on_a_denied_first_packet_never_reaches_the_wire() {
    let Some(lab) = Lab::open() else { return };
    let (near, far) = (lab.netns("near"), lab.netns("far"));
    let bridge = lab.bridge();
    bridge.plug(&near, 11);
    bridge.plug(&far, 12);
    for netns in [&near, &far] {
        netns.sysctl("net/ipv4/tcp_fastopen", "1543");
    }
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, enemy) = (lab.worker_in(&web, &near), lab.worker_in(&rogue, &near));
    let server = lab.worker_in(&db, &far);
    let open = server.listen_tcp((v4(12), PORT));
    // Several segments behind one address: only the receiver can tell, so the SYN does leave.
    let other = lab.worker_in(&rogue, &far);
    let shut = other.listen_tcp((v4(12), PORT + 1));
    let _segd = lab.enforce(&policy(&web, &rogue, &db));
    assert_eq!(client.probe(Kind::FastOpen, open.local, "right;").result, "ok");
    server.wait_for_message(open, "right;");
    for (worker, to) in [(&client, shut), (&enemy, open)] {
        assert_ne!(worker.probe(Kind::FastOpen, to.local, "wrong;").result, "ok");
    }
    wait::quiet(wait::SILENCE);
    nothing_of(&server, open, "wrong;");
    let inbox = other.inbox(shut);
    assert_eq!(
        (inbox.accepts, inbox.bytes),
        (0, 0),
        "the denied port was reached"
    );
}

#[test]
fn a_second_path_of_a_multipath_connection_is_judged_as_the_first() {
    let Some(lab) = Lab::open() else { return };
    let (near, far) = (lab.netns("near"), lab.netns("far"));
    let bridge = lab.bridge();
    bridge.plug(&near, 21);
    bridge.plug(&far, 22);
    for netns in [&near, &far] {
        netns.ip("mptcp limits set subflow 4 add_addr_accepted 4");
    }
    near.ip("addr add 10.213.99.21/32 dev lo");
    far.ip(&format!("route add 10.213.99.21/32 via {}", v4(21)));
    near.ip("mptcp endpoint add 10.213.99.21 subflow");
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, enemy) = (lab.worker_in(&web, &near), lab.worker_in(&rogue, &near));
    let server = lab.worker_in(&db, &far);
    let open = server.listen_multipath((v4(22), PORT));
    let segd = lab.enforce(&policy(&web, &rogue, &db));
    let connection = client.open_multipath(open.local).unwrap();
    client.send(connection, "first;").unwrap();
    server.wait_for_message(open, "first;");
    // The second path comes up behind the first one's back.
    let subflows = || {
        let table = client.read_file("/proc/thread-self/net/tcp");
        table
            .lines()
            .filter(|line| line.contains(" 01 ") && line.contains(":1538 "))
            .count()
    };
    wait::wait_until("two established paths", wait::PATIENCE, || subflows() == 2);
    client.send(connection, "second;").unwrap();
    server.wait_for_message(open, "second;");
    assert_ne!(enemy.probe(Kind::Mptcp, open.local, "wrong;").result, "ok");
    // Without the right, no path carries another byte.
    segd.set_policy(
        &policy(&web, &rogue, &db)
            .replace("udp/5432", "udp/5433")
            .replace("tcp/5432, ", ""),
    );
    client.send(connection, "late;").ok();
    nothing_of(&server, open, "late;");
    nothing_of(&server, open, "wrong;");
}

#[test]
fn who_shares_a_port_gets_nothing_that_is_not_allowed_to_him() {
    let Some(cast) = cast(None) else { return };
    let right = cast.server.listen_beside(loopback(PORT));
    let thief = cast.enemy.listen_beside(loopback(PORT));
    let mut arrived = 0;
    // The kernel deals connections out by their source ports: about every other one is the thief's.
    for round in 0..20 {
        let token = format!("round-{round};");
        if cast.client.probe(Kind::Tcp, right.local, &token).result == "ok" {
            cast.server.wait_for_message(right, &token);
            arrived += 1;
        }
    }
    assert!(
        arrived > 2,
        "a workload on the same port took {} of 20 connections away",
        20 - arrived
    );
    wait::quiet(wait::SILENCE);
    let inbox = cast.enemy.inbox(thief);
    assert_eq!((inbox.accepts, inbox.bytes), (0, 0), "the thief was reached");
}
