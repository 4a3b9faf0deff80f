//! Replies pass because somebody asked; nothing else rides on a flow.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use segd_tests::{
    Cgroup, Kind, Lab, Probe, Remote, Worker,
    netns::{v4, v6},
    wait,
    worker::probe,
};

fn policy(web: &Cgroup, rogue: &Cgroup, db: &Cgroup, rules: &str) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: replies}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
    net: {{match: [{{cidr: {}/32}}, {{cidr: {}/128}}]}}
  allow:
    - {{from: web, to: db, ports: [tcp/5400-5499, udp/5400-5499]}}
{rules}",
        web.path(),
        rogue.path(),
        db.path(),
        v4(200),
        v6(200)
    )
}

/// `db` may answer `web`, and may do nothing else.
#[track_caller]
fn answers_and_nothing_else(client: &Worker, server: &Worker, client_ip: IpAddr, server_ip: IpAddr) {
    let service = server.listen_udp((server_ip, 5450));
    let asker = client.open_udp((client_ip, 0), None).unwrap();
    let victim = client.listen_udp((client_ip, 5451));

    // Nobody asked.
    server.send_to(service, asker.local, "unasked;").ok();
    assert_eq!(
        client.receive(asker, 200).unwrap(),
        None,
        "an unasked datagram reached {client_ip}"
    );
    // Asked: the answer comes.
    client.send_to(asker, service.local, "question;").unwrap();
    server.wait_for_message(service, "question;");
    server
        .send_to(service, asker.local, "answer;")
        .expect("a reply passes");
    assert_eq!(client.receive(asker, 2000).unwrap().as_deref(), Some("answer;"));
    // From another port of the same workload, and to another socket of the client: not what was asked.
    let other = server.open_udp((server_ip, 5452), None).unwrap();
    server.send_to(other, asker.local, "other-port;").ok();
    server.send_to(service, victim.local, "other-socket;").ok();
    assert_eq!(
        client.receive(asker, 200).unwrap(),
        None,
        "another port rode on the flow"
    );
    wait::quiet(wait::SILENCE);
    assert_eq!(client.inbox(victim).bytes, 0, "another socket was reached");

    // TCP the other way round: the connection is allowed in one direction only.
    let listener = client.listen_tcp((client_ip, 5453));
    let outcome = server.probe(Kind::Tcp, listener.local, "back;");
    assert_ne!(outcome.result, "ok");
    wait::quiet(wait::SILENCE);
    assert_eq!(client.inbox(listener).accepts, 0);
    for handle in [victim, listener, asker] {
        client.close(handle);
    }
    server.close(service);
    server.close(other);
}

#[test]
fn answers_pass_and_nothing_else_over_loopback() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let _segd = lab.enforce(&policy(&web, &rogue, &db, ""));
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        answers_and_nothing_else(&client, &server, ip, ip);
    }
}

#[test]
fn answers_pass_and_nothing_else_between_namespaces() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let (near, far) = (lab.netns("near"), lab.netns("far"));
    bridge.plug(&near, 10);
    bridge.plug(&far, 11);
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, server) = (lab.worker_in(&web, &near), lab.worker_in(&db, &far));
    let _segd = lab.enforce(&policy(&web, &rogue, &db, ""));
    answers_and_nothing_else(&client, &server, v4(10).into(), v4(11).into());
    answers_and_nothing_else(&client, &server, v6(10).into(), v6(11).into());
}

#[test]
fn a_frame_forged_on_the_tuple_of_a_live_flow_does_not_pass() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, enemy, server) = (lab.worker(&web), lab.worker(&rogue), lab.worker(&db));
    let _segd = lab.enforce(&policy(&web, &rogue, &db, ""));
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let service = server.listen_udp((ip, 5450));
        let flow = client.open_udp((ip, 0), Some(service.local)).unwrap();
        for round in 0..20 {
            let right = format!("right-{round};");
            client.send(flow, &right).unwrap();
            // The same addresses and ports, from a raw socket of another cgroup.
            let forged = Probe {
                from: Some(flow.local),
                ..probe(Kind::RawUdp, service.local, "forged;")
            };
            enemy.probe_all(vec![forged]);
            server.wait_for_message(service, &right);
        }
        wait::quiet(wait::SILENCE);
        assert_eq!(server.inbox(service).count("forged;"), 0, "over {ip}");
        assert_eq!(server.inbox(service).count("right-"), 20, "over {ip}");
        server.close(service);
    }
}

#[test]
fn another_machine_may_answer_and_nothing_else() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let near = lab.netns("near");
    bridge.plug(&near, 10);
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let client = lab.worker_in(&web, &near);
    let remote = Remote::plug(&bridge, 200);
    remote.listen(5400);
    remote.listen(5401);
    for there in [IpAddr::from(v4(200)), v6(200).into()] {
        client.probe(Kind::Udp, (there, 7), "hello;");
    }
    wait::wait_until("neighbours", wait::PATIENCE, || {
        remote
            .frames()
            .iter()
            .filter(|frame| frame.payload == b"hello;")
            .count()
            == 2
    });
    let rules = "    - {from: web, to: net, ports: [tcp/5400, udp/5400]}\n";
    let _segd = lab.enforce(&policy(&web, &rogue, &db, rules));
    for (here, there) in [
        (IpAddr::from(v4(10)), IpAddr::from(v4(200))),
        (v6(10).into(), v6(200).into()),
    ] {
        let asker = client.open_udp((here, 0), None).unwrap();
        remote.udp(asker.local, 5400, "unasked;");
        assert_eq!(
            client.receive(asker, 300).unwrap(),
            None,
            "an unasked datagram came from {there}"
        );
        client.send_to(asker, (there, 5400), "question;").unwrap();
        wait::wait_until("the question arrives", wait::PATIENCE, || {
            remote.inbox().sources.contains(&asker.local)
        });
        remote.udp(asker.local, 5400, "answer;");
        assert_eq!(
            client.receive(asker, 2000).unwrap().as_deref(),
            Some("answer;"),
            "from {there}"
        );
        remote.udp(asker.local, 5401, "other-port;");
        assert_eq!(
            client.receive(asker, 300).unwrap(),
            None,
            "another port of {there} rode on the flow"
        );

        let listener = client.listen_tcp((here, 5402));
        let back = remote.tcp(listener.local, "back;", std::time::Duration::from_millis(400));
        assert_ne!(back, "ok", "{there} may not connect");
        assert_eq!(client.inbox(listener).accepts, 0);
        client.close(listener);
    }
}
