//! What a datagram was judged is kept on its socket: it holds for the next datagram that is like it, and for no other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use segd_common::flow::MAX_FLOWS;
use segd_tests::{Cgroup, Lab, Worker, netns::cable, wait, worker::Handle};

/// Enough that the last of them are judged by what is kept.
const WARM: usize = 5;
const OPEN: u16 = 5432;
const SHUT: u16 = 5533;

fn policy(web: &Cgroup, rogue: &Cgroup, db: &Cgroup, ports: &str) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: kept}}
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

fn here(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Both ways to send: each socket has datagrams behind it whose judgement is kept at both ends.
#[track_caller]
fn warm(client: &Worker, server: &Worker, local: IpAddr, to: Handle) -> [Handle; 2] {
    let connected = client.open_udp((local, 0), Some(to.local)).unwrap();
    let unconnected = client.open_udp((local, 0), None).unwrap();
    for round in 0..WARM {
        client.send(connected, &format!("warm-{round};")).unwrap();
        client
            .send_to(unconnected, to.local, &format!("warm-to-{round};"))
            .unwrap();
    }
    server.wait_for_message(to, &format!("warm-to-{};", WARM - 1));
    [connected, unconnected]
}

#[track_caller]
fn refused(client: &Worker, sockets: [Handle; 2], to: Handle, what: &str) {
    let errors = [
        client.send(sockets[0], "stolen;").expect_err(what).errno,
        client
            .send_to(sockets[1], to.local, "stolen;")
            .expect_err(what)
            .errno,
    ];
    assert_eq!(errors, ["EPERM", "EPERM"], "{what}");
}

#[test]
fn the_next_datagram_is_refused_when_its_rule_is_gone_and_passes_when_it_is_back() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    for local in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let open = policy(&web, &rogue, &db, "udp/5432");
        let segd = lab.enforce(&open);
        let service = server.listen_udp((local, OPEN));
        let sockets = warm(&client, &server, local, service);
        for round in 0..3 {
            segd.set_policy(&policy(&web, &rogue, &db, "udp/1"));
            refused(&client, sockets, service, "the rule is gone");
            segd.set_policy(&open);
            for _ in 0..WARM {
                client.send(sockets[0], &format!("again-{round};")).unwrap();
                client
                    .send_to(sockets[1], service.local, &format!("again-to-{round};"))
                    .unwrap();
            }
        }
        let sent = 2 * WARM * 4;
        wait::wait_until("all have arrived", Duration::from_secs(5), || {
            server.inbox(service).messages.len() >= sent
        });
        let messages = server.inbox(service).messages;
        assert!(
            !messages.iter().any(|message| message.contains("stolen")),
            "{messages:?}"
        );
        assert_eq!(
            messages.len(),
            sent,
            "each that was let go arrived once: {messages:?}"
        );
        assert_eq!(segd.counted("allowed", "web", "db"), messages.len() as u64);
        assert_eq!(
            segd.counted("denied", "web", "db"),
            2 * 3,
            "each refused one was counted once"
        );
        client.close(sockets[0]);
        client.close(sockets[1]);
        server.close(service);
    }
}

#[test]
fn one_socket_that_talks_to_many_is_judged_for_each_and_counted_exactly() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let segd = lab.enforce(&policy(&web, &rogue, &db, "udp/5432-5443"));
    // More than a socket keeps, so that they push each other out.
    let open: Vec<Handle> = (0..12)
        .map(|number| server.listen_udp(here(OPEN + number)))
        .collect();
    let shut: Vec<Handle> = (0..4)
        .map(|number| server.listen_udp(here(SHUT + number)))
        .collect();
    let socket = client.open_udp(here(0), None).unwrap();
    let rounds = 20;
    for round in 0..rounds {
        for (number, to) in open.iter().enumerate() {
            client
                .send_to(socket, to.local, &format!("right-{round};"))
                .unwrap();
            let wrong = &shut[(round + number) % shut.len()];
            let error = client.send_to(socket, wrong.local, "stolen;").unwrap_err();
            assert_eq!(error.errno, "EPERM", "round {round}");
        }
    }
    for to in &open {
        server.wait_for_message(*to, &format!("right-{};", rounds - 1));
        assert_eq!(server.inbox(*to).messages.len(), rounds);
    }
    wait::quiet(wait::SILENCE);
    for to in &shut {
        assert!(
            server.inbox(*to).messages.is_empty(),
            "nothing gets to a port that is shut"
        );
    }
    let sent = (rounds * open.len()) as u64;
    assert_eq!(segd.counted("allowed", "web", "db"), sent);
    assert_eq!(segd.counted("denied", "web", "db"), sent);
}

#[test]
fn who_gets_the_port_of_a_sender_gets_none_of_its_right() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, enemy, server) = (lab.worker(&web), lab.worker(&rogue), lab.worker(&db));
    let segd = lab.enforce(&policy(&web, &rogue, &db, "udp/5432"));
    let service = server.listen_udp(here(OPEN));
    // Closed, and taken by somebody else within the moment.
    let from = client.open_udp(here(41_020), None).unwrap();
    for round in 0..WARM {
        client
            .send_to(from, service.local, &format!("warm-{round};"))
            .unwrap();
    }
    server.wait_for_message(service, &format!("warm-{};", WARM - 1));
    client.close(from);
    let stolen = enemy.open_udp(here(41_020), None).unwrap();
    for _ in 0..WARM {
        let error = enemy.send_to(stolen, service.local, "stolen;").unwrap_err();
        assert_eq!(error.errno, "EPERM");
    }
    enemy.close(stolen);
    assert_eq!(segd.counted("allowed", "web", "db"), WARM as u64);
    assert_eq!(segd.counted("denied", "rogue", "db"), WARM as u64);
}

#[test]
fn who_gets_the_port_of_a_receiver_gets_none_of_its_datagrams() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, enemy, server) = (lab.worker(&web), lab.worker(&rogue), lab.worker(&db));
    let segd = lab.enforce(&policy(&web, &rogue, &db, "udp/5432"));
    let at = here(OPEN);
    let sockets = [
        client.open_udp(here(0), Some(at)).unwrap(),
        client.open_udp(here(0), None).unwrap(),
    ];
    for round in 0..3 {
        let service = server.open_udp(at, None).unwrap();
        for number in 0..WARM {
            client.send(sockets[0], &format!("first-{number};")).unwrap();
            client
                .send_to(sockets[1], at, &format!("second-{number};"))
                .unwrap();
            assert_eq!(
                server.receive(service, 2000).unwrap(),
                Some(format!("first-{number};"))
            );
            assert_eq!(
                server.receive(service, 2000).unwrap(),
                Some(format!("second-{number};"))
            );
        }
        server.close(service);
        // While the sender goes on.
        let trap = enemy.open_udp(at, None).unwrap();
        for _ in 0..WARM {
            refused(
                &client,
                sockets,
                trap,
                &format!("another listens there, round {round}"),
            );
        }
        assert_eq!(enemy.receive(trap, 200).unwrap(), None);
        enemy.close(trap);
    }
    assert_eq!(segd.counted("allowed", "web", "db"), 3 * 2 * WARM as u64);
    assert_eq!(segd.counted("denied", "web", "rogue"), 3 * 2 * WARM as u64);
}

#[test]
fn two_that_share_a_port_do_not_share_what_is_kept() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, enemy, server) = (lab.worker(&web), lab.worker(&rogue), lab.worker(&db));
    let _segd = lab.enforce(&policy(&web, &rogue, &db, "udp/5432"));
    let service = server.listen_udp(here(OPEN));
    let at = here(41_021);
    let (ours, theirs) = (client.share_udp(at), enemy.share_udp(at));
    for round in 0..4 * WARM {
        client
            .send_to(ours, service.local, &format!("right-{round};"))
            .unwrap();
        enemy.send_to(theirs, service.local, "stolen;").unwrap_err();
    }
    server.wait_for_message(service, &format!("right-{};", 4 * WARM - 1));
    wait::quiet(wait::SILENCE);
    let messages = server.inbox(service).messages;
    assert!(
        !messages.iter().any(|message| message.contains("stolen")),
        "{messages:?}"
    );
    assert_eq!(messages.len(), 4 * WARM);
}

#[test]
fn a_socket_in_other_hands_is_what_it_was_made_and_loses_its_right_with_its_maker() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, enemy, server) = (lab.worker(&web), lab.worker(&rogue), lab.worker(&db));
    let segd = lab.enforce(&policy(&web, &rogue, &db, "udp/5432"));
    let service = server.listen_udp(here(OPEN));
    let [connected, unconnected] = warm(&client, &server, here(0).ip(), service);
    // Passed by its maker, and its maker moved: a socket's cgroup is the one that it was made in (docs/threat-model.md).
    let passed = enemy.take_over(&client, connected, false);
    enemy.send(passed, "passed;").unwrap();
    client.enter(&rogue);
    client.send_to(unconnected, service.local, "moved;").unwrap();
    server.wait_for_message(service, "passed;");
    server.wait_for_message(service, "moved;");
    let own = client.open_udp(here(0), None).unwrap();
    for _ in 0..WARM {
        let error = client.send_to(own, service.local, "stolen;").unwrap_err();
        assert_eq!(error.errno, "EPERM", "what it makes now is the other segment's");
    }
    segd.set_policy(&policy(&web, &rogue, &db, "udp/1"));
    assert_eq!(enemy.send(passed, "stolen;").unwrap_err().errno, "EPERM");
    refused(
        &client,
        [connected, unconnected],
        service,
        "its maker's right is gone",
    );
    wait::quiet(wait::SILENCE);
    assert_eq!(server.inbox(service).messages.len(), 2 * WARM + 2);
}

#[test]
fn an_answer_is_kept_as_an_answer() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let open = policy(&web, &rogue, &db, "udp/5432");
    let segd = lab.enforce(&open);
    let (service, asking) = (
        server.open_udp(here(OPEN), None).unwrap(),
        client.open_udp(here(0), None).unwrap(),
    );
    let unasked = client.open_udp(here(0), None).unwrap();
    for round in 0..2 * WARM {
        client
            .send_to(asking, service.local, &format!("question-{round};"))
            .unwrap();
        assert_eq!(
            server.receive(service, 2000).unwrap(),
            Some(format!("question-{round};"))
        );
        server
            .send_to(service, asking.local, &format!("answer-{round};"))
            .unwrap();
        assert_eq!(
            client.receive(asking, 2000).unwrap(),
            Some(format!("answer-{round};"))
        );
        let error = server.send_to(service, unasked.local, "stolen;").unwrap_err();
        assert_eq!(error.errno, "EPERM", "nobody asked from there");
    }
    assert_eq!(
        segd.counted("allowed", "web", "db"),
        4 * WARM as u64,
        "both ways are the asker's"
    );
    segd.set_policy(&policy(&web, &rogue, &db, "udp/1"));
    for _ in 0..WARM {
        let error = server.send_to(service, asking.local, "stolen;").unwrap_err();
        assert_eq!(error.errno, "EPERM", "what was asked is not allowed any more");
    }
    assert_eq!(client.receive(asking, 300).unwrap(), None);
    assert_eq!(client.receive(unasked, 300).unwrap(), None);
}

/// Enough that each place for an exchange on a socket has others to give way to.
const CROWD: u16 = 200;
/// Twice the room for exchanges that found none on their socket, in rounds over all ports.
const TWICE: u32 = 2 * MAX_FLOWS / 65_535 + 1;

#[test]
fn a_question_goes_out_by_what_is_kept_only_while_its_answer_would_be_let_in() {
    let Some(lab) = Lab::open() else { return };
    let far = lab.netns("far");
    let (_, _) = cable(&far, 36);
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, enemy, server) = (lab.worker(&web), lab.worker(&rogue), lab.worker(&db));
    let last = OPEN + CROWD;
    let more = "    - {from: rogue, to: web, ports: [udp/1-65535]}\n";
    let _segd = lab.enforce(&(policy(&web, &rogue, &db, &format!("udp/{OPEN}-{last}")) + more));
    let service = server.open_udp(here(OPEN), None).unwrap();
    let asking = client.open_udp(here(0), None).unwrap();
    let ask = |question: &str| {
        client.send_to(asking, service.local, question).unwrap();
        assert_eq!(server.receive(service, 2000).unwrap().as_deref(), Some(question));
        server.send_to(service, asking.local, "answer;").unwrap();
        assert_eq!(client.receive(asking, 2000).unwrap().as_deref(), Some("answer;"));
    };
    (0..WARM).for_each(|_| ask("question;"));
    // The exchange has to leave its place on the asking socket, and is pushed out where it went to.
    let crowd: Vec<Handle> = (OPEN + 1..=last)
        .map(|port| server.listen_udp(here(port)))
        .collect();
    for peer in &crowd {
        client.send_to(asking, peer.local, "one of many;").unwrap();
    }
    let near = IpAddr::from(Ipv4Addr::new(10, 213, 36, 1));
    enemy.flood(near, TWICE);
    client.flood(near, TWICE);
    // Others ask this socket something: what is kept of what arrives there is theirs now.
    for number in 0..CROWD / 5 {
        let other = enemy.open_udp(here(0), None).unwrap();
        for _ in 0..WARM {
            enemy.send_to(other, asking.local, "other;").unwrap();
            let heard = client.receive(asking, 2000).unwrap();
            assert_eq!(heard.as_deref(), Some("other;"), "{number}");
        }
    }
    ask("after the flood;");
}

#[test]
fn an_address_that_is_gone_is_no_longer_its_senders() {
    const IP: i32 = 0;
    const IP_TRANSPARENT: i32 = 19;
    let Some(lab) = Lab::open() else { return };
    let near = lab.netns("near");
    cable(&near, 41);
    near.ip("addr add 10.213.41.3/32 dev eth0");
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, server) = (lab.worker_in(&web, &near), lab.worker_in(&db, &near));
    let segd = lab.enforce(&policy(&web, &rogue, &db, "udp/5432"));
    let service = server.listen_udp((Ipv4Addr::new(10, 213, 41, 2), OPEN));
    let socket = client.open_udp((Ipv4Addr::new(10, 213, 41, 3), 0), None).unwrap();
    client.set_option(socket, IP, IP_TRANSPARENT, &1_i32.to_ne_bytes());
    let send = |token: &str| client.send_to(socket, service.local, token);
    // From when segd knows of the address.
    assert!(wait::within(Duration::from_secs(5), || send("first;").is_ok()));
    for _ in 0..WARM {
        send("warm;").unwrap();
    }
    // The kernel lets such a socket go on as before.
    near.ip("addr del 10.213.41.3/32 dev eth0");
    let is_refused = || send("late;").is_err_and(|error| error.errno == "EPERM");
    assert!(wait::within(Duration::from_secs(5), is_refused));
    wait::quiet(wait::SILENCE);
    let arrived = server.inbox(service).messages.len();
    for _ in 0..WARM {
        assert_eq!(send("stolen;").unwrap_err().errno, "EPERM");
    }
    wait::quiet(wait::SILENCE);
    assert_eq!(server.inbox(service).messages.len(), arrived);
    assert_eq!(segd.counted("allowed", "web", "db"), arrived as u64);
}
