//! Tables that are full: whoever fills them pays, nobody else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::net::{IpAddr, Ipv4Addr};

use segd_common::flow::{MAX_FLOWS, PEERS};
use segd_tests::{Cgroup, Kind, Lab, Worker, netns::cable, wait, worker::Handle};

fn policy(web: &Cgroup, rogue: &Cgroup, db: &Cgroup, more: &str) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: exhaustion}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: web, to: db, ports: [tcp/5432, udp/5432]}}
{more}",
        web.path(),
        rogue.path(),
        db.path()
    )
}

/// Twice the room for exchanges, in rounds over all ports.
const TWICE: u32 = 2 * MAX_FLOWS / 65_535 + 1;

#[test]
fn a_flood_of_exchanges_takes_nobody_elses_answer() {
    let Some(lab) = Lab::open() else { return };
    let far = lab.netns("far");
    let (far_ip, _) = cable(&far, 33);
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, enemy) = (lab.worker(&web), lab.worker(&rogue));
    let server = lab.worker_in(&db, &far);
    let here = IpAddr::from(Ipv4Addr::new(10, 213, 33, 1));
    let service = server.listen_udp((far_ip, 5432));
    let more = "    - {from: rogue, to: db, ports: [udp/5432]}\n";
    let segd = lab.enforce(&policy(&web, &rogue, &db, more));
    let asker = client.open_udp((here, 0), None).unwrap();
    client.send_to(asker, service.local, "question;").unwrap();
    server.wait_for_message(service, "question;");
    // Ports that nobody has: each might be translated, so an answer is expected from each. By others and by web itself.
    enemy.flood(here, TWICE);
    client.flood(here, TWICE);
    server.send_to(service, asker.local, "answer;").unwrap();
    assert_eq!(client.receive(asker, 2000).unwrap().as_deref(), Some("answer;"));
    // The flood opened nothing, and what is new is judged as before.
    let victim = client.listen_udp((here, 5500));
    server.send_to(service, victim.local, "unasked;").ok();
    enemy.probe(Kind::Udp, victim.local, "denied;");
    assert_eq!(
        client.probe(Kind::Tcp, (far_ip, 5432), "closed;").result,
        "ECONNREFUSED"
    );
    let again = client.open_udp((here, 0), Some(service.local)).unwrap();
    client.send(again, "more;").unwrap();
    server.wait_for_message(service, "more;");
    wait::quiet(wait::SILENCE);
    assert_eq!(client.inbox(victim).messages, Vec::<String>::new());
    drop(segd);
}

/// Makes a listener wait for the first data of a connection, or so long, before there is one.
fn defer(server: &Worker, listener: Handle, seconds: i32) {
    const TCP_DEFER_ACCEPT: i32 = 9;
    server.set_option(
        listener,
        libc::IPPROTO_TCP,
        TCP_DEFER_ACCEPT,
        &seconds.to_ne_bytes(),
    );
}

#[test]
fn a_flood_between_a_first_packet_and_its_acceptance_costs_no_connection() {
    let Some(lab) = Lab::open() else { return };
    let far = lab.netns("far");
    let (far_ip, _) = cable(&far, 35);
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, enemy) = (lab.worker(&web), lab.worker(&rogue));
    let (near, away) = (lab.worker(&db), lab.worker_in(&db, &far));
    // What nobody hears, and the policy lets it say: each datagram is on its way for a moment.
    let more = "    - {from: web, to: db, ports: [tcp/5433]}
    - {from: rogue, to: host, ports: [udp/1-65535]}\n";
    let _segd = lab.enforce(&policy(&web, &rogue, &db, more));
    let here = IpAddr::from(Ipv4Addr::LOCALHOST);
    let servers = [(&near, here), (&away, far_ip)];
    let speaking = servers.map(|(server, ip)| {
        let listener = server.listen_tcp((ip, 5432));
        defer(server, listener, 60);
        (server, listener, client.open_tcp(listener.local).unwrap())
    });
    let silent = servers.map(|(server, ip)| {
        let listener = server.listen_tcp((ip, 5433));
        defer(server, listener, 3);
        (server, listener, client.open_tcp(listener.local).unwrap())
    });
    for (server, listener, _) in &speaking {
        assert_eq!(server.inbox(*listener).accepts, 0, "it waits for data");
    }
    enemy.scatter(here, 5);
    for (server, listener, connection) in &speaking {
        client.send(*connection, "late;").unwrap();
        server.wait_for_message(*listener, "late;");
    }
    for (server, listener, connection) in &silent {
        wait::wait_until("the silent one is accepted", wait::PATIENCE, || {
            server.inbox(*listener).accepts == 1
        });
        server.send_accepted(*listener, "greeting;").unwrap();
        assert_eq!(client.receive(*connection, 2000), Ok(Some("greeting;".into())));
    }
    // Who does not dial got nothing by it.
    let probe = enemy.probe(Kind::Tcp, speaking[0].1.local, "denied;");
    assert_ne!(probe.result, "ok");
}

#[test]
fn a_socket_with_many_peers_answers_each_of_them() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let _segd = lab.enforce(&policy(&web, &rogue, &db, ""));
    let service = server.listen_udp((Ipv4Addr::LOCALHOST, 5432));
    let askers: Vec<_> = (0..PEERS * 4)
        .map(|_| client.open_udp((Ipv4Addr::LOCALHOST, 0), None).unwrap())
        .collect();
    for asker in &askers {
        client.send_to(*asker, service.local, "question;").unwrap();
    }
    wait::wait_until("all questions", wait::PATIENCE, || {
        server.inbox(service).count("question;") == askers.len()
    });
    for (number, asker) in askers.iter().enumerate() {
        let answer = format!("answer {number};");
        server.send_to(service, asker.local, &answer).unwrap();
        assert_eq!(client.receive(*asker, 2000).unwrap(), Some(answer));
    }
}

#[test]
fn a_revoked_exchange_without_a_connection_is_counted_once() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let segd = lab.enforce(&policy(&web, &rogue, &db, ""));
    let service = server.listen_udp((Ipv4Addr::LOCALHOST, 5432));
    let asker = client
        .open_udp((Ipv4Addr::LOCALHOST, 0), Some(service.local))
        .unwrap();
    client.send(asker, "before;").unwrap();
    server.wait_for_message(service, "before;");
    segd.set_policy(&policy(&web, &rogue, &db, "").replace("5432", "5433"));
    for _ in 0..3 {
        assert!(
            client.send(asker, "after;").is_err(),
            "a revoked exchange went on"
        );
    }
    let cut = segd.metric("segd_sessions_revoked_total", &[("from", "web"), ("to", "db")]);
    assert_eq!(cut, Some(1.0));
    assert_eq!(server.inbox(service).messages, ["before;"]);
}
