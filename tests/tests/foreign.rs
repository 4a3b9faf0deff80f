//! Sockets in other hands than their makers': told of, and with `--strict-sockets` TCP connections of them are dead within
//! a second.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use segd_tests::{Cgroup, Lab, Segd, Worker, wait, worker::Handle};

/// The promise.
const DEAD: Duration = Duration::from_secs(1);
/// Longer than two looks at every open file.
const A_WHILE: Duration = Duration::from_millis(1500);

fn policy(web: &Cgroup, rogue: &Cgroup, db: &Cgroup) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: foreign}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: [web, host], to: db, ports: [tcp/5400-5499, udp/5432]}}
",
        web.path(),
        rogue.path(),
        db.path()
    )
}

fn v4(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn v6(port: u16) -> SocketAddr {
    (Ipv6Addr::LOCALHOST, port).into()
}

/// A connection that has carried something.
struct Connection<'a> {
    server: &'a Worker,
    listener: Handle,
    handle: Handle,
}

impl<'a> Connection<'a> {
    #[track_caller]
    fn open(client: &Worker, server: &'a Worker, to: SocketAddr) -> Connection<'a> {
        let listener = server.listen_tcp_echo(to);
        let handle = client.open_tcp(to).unwrap();
        let connection = Connection {
            server,
            listener,
            handle,
        };
        connection.carries(client, handle);
        connection
    }

    #[track_caller]
    fn carries(&self, holder: &Worker, handle: Handle) {
        let sent = holder.send(handle, "hello;");
        let answer = holder.receive(handle, 1000);
        assert_eq!(answer, Ok(Some("hello;".to_owned())), "{sent:?}");
    }

    fn is_open(&self) -> bool {
        self.server.inbox(self.listener).open == 1
    }

    #[track_caller]
    fn dies(&self, since: Instant, story: &str) {
        let left = DEAD.saturating_sub(since.elapsed());
        wait::wait_until(format!("{story}: the server is told"), left, || !self.is_open());
    }
}

#[test]
fn with_strict_sockets_a_connection_in_another_segment_s_hands_is_dead_within_a_second() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let free = lab.cgroup("free");
    let (moves, stays, gives) = (lab.worker(&web), lab.worker(&web), lab.worker(&web));
    let (leaves, comes) = (lab.worker(&web), lab.worker(&free));
    let (thief, server) = (lab.worker(&rogue), lab.worker(&db));
    let segd = lab
        .segd(&policy(&web, &rogue, &db))
        .args(&["--strict-sockets"])
        .start();
    let moved = [
        Connection::open(&moves, &server, v4(5401)),
        Connection::open(&moves, &server, v6(5402)),
    ];
    let kept = Connection::open(&stays, &server, v4(5403));
    let given = Connection::open(&gives, &server, v4(5404));
    let left = Connection::open(&leaves, &server, v4(5405));
    let brought = Connection::open(&comes, &server, v4(5406));
    // In a descendant of its own segment's cgroup it is in its segment's hands.
    let below = web.child("below");
    stays.enter(&below);
    // The host starts services, and is one side of what it passes on.
    leaves.enter(&free);
    comes.enter(&rogue);
    wait::quiet(A_WHILE);
    for (connection, holder, story) in [
        (&kept, &stays, "deeper in its segment"),
        (&left, &leaves, "moved to the host"),
        (&brought, &comes, "made by the host"),
        (&moved[0], &moves, "not moved yet"),
        (&given, &gives, "not given yet"),
    ] {
        assert!(connection.is_open(), "{story}");
        connection.carries(holder, connection.handle);
    }

    let since = Instant::now();
    moves.enter(&rogue);
    for connection in &moved {
        connection.dies(since, "moved");
        assert!(moves.receive(connection.handle, 1000).is_err());
        assert!(moves.send(connection.handle, "late;").is_err());
    }
    let since = Instant::now();
    let stolen = thief.take_over(&gives, given.handle, true);
    given.dies(since, "passed on");
    assert!(thief.send(stolen, "late;").is_err());

    kept.carries(&stays, kept.handle);
    left.carries(&leaves, left.handle);
    let log = segd.log();
    assert!(
        log.contains("ended 2 TCP connections of web in the hands of rogue"),
        "{log}"
    );
    for connection in moved.iter().chain([&given]) {
        let inbox = server.inbox(connection.listener);
        assert!(!inbox.messages.iter().any(|message| message.contains("late;")));
    }
}

/// `segment` and `holder_segment` of a listed socket, by its protocol and the port of its peer.
fn listed(segd: &Segd, protocol: &str, port: u16) -> Vec<(String, String)> {
    let rows = segd.json(&["flows", "--foreign"]);
    let text = |row: &serde_json::Value, field: &str| row[field].as_str().unwrap().to_owned();
    let wanted = |row: &&serde_json::Value| row["protocol"] == protocol && row["peer_port"] == port;
    let rows = rows.as_array().unwrap().iter().filter(wanted);
    rows.map(|row| (text(row, "segment"), text(row, "holder_segment")))
        .collect()
}

#[test]
fn sockets_in_other_hands_are_listed_with_both_cgroups_and_the_process() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let segd = lab.enforce(&policy(&web, &rogue, &db));
    let connection = Connection::open(&client, &server, v4(5407));
    let datagrams = server.listen_udp(v4(5432));
    let socket = client.open_udp(v4(0), Some(datagrams.local)).unwrap();
    client.send(socket, "hello;").unwrap();
    server.wait_for_message(datagrams, "hello;");
    assert_eq!(listed(&segd, "tcp", 5407), []);
    client.enter(&rogue);
    let expected = [("web".to_owned(), "rogue".to_owned())];
    assert_eq!(listed(&segd, "tcp", 5407), expected);
    assert_eq!(listed(&segd, "udp", 5432), expected);
    let rows = segd.json(&["flows", "--foreign"]);
    let rows = rows.as_array().unwrap();
    let row = rows.iter().find(|row| row["peer_port"] == 5407).unwrap();
    assert_eq!(row["cgroup"], web.path());
    assert_eq!(row["holder_cgroup"], rogue.path());
    assert_eq!(row["holder_pid"], client.pid());
    assert_eq!(row["peer"], "127.0.0.1");
    // Told of, and nothing else: it is not asked to be strict.
    wait::quiet(A_WHILE);
    connection.carries(&client, connection.handle);
    client.enter(&web);
    assert_eq!(listed(&segd, "tcp", 5407), []);
}
