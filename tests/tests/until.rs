//! A rule that ends by itself, for good or with a window, ends what it alone allowed, to the moment: with the daemon, and without
//! it. A window that opens, opens.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant, SystemTime},
};

use segd::telemetry::clock::rfc3339;
use segd_tests::{Cgroup, Kind, Lab, Step, Worker, wait, worker::Handle};

/// What the rule that ends opens, what another one opens as well, and what a permanent one opens beside it.
const ENDS: u16 = 5432;
const STAYS: u16 = 5433;
const LATER: u16 = 5434;

fn policy(web: &Cgroup, db: &Cgroup, end: SystemTime) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: until}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: web, to: db, ports: [tcp/5432-5434, udp/5432-5434], until: {}, reason: INC-42}}
    - {{from: web, to: db, ports: [tcp/5433, udp/5433]}}
    - {{from: web, to: db, ports: [tcp/5434, udp/5434], until: {}}}
",
        web.path(),
        db.path(),
        rfc3339(end),
        rfc3339(end + Duration::from_secs(3600)),
    )
}

/// A connection and a datagram socket on one port, and who listens there.
struct Talk<'a> {
    client: &'a Worker,
    server: &'a Worker,
    port: u16,
    listener: Handle,
    connection: Handle,
    datagrams: Handle,
    socket: Handle,
}

impl<'a> Talk<'a> {
    #[track_caller]
    fn open(client: &'a Worker, server: &'a Worker, port: u16) -> Talk<'a> {
        let listener = server.listen_tcp_echo(at(port));
        let datagrams = server.listen_udp(at(port));
        Talk {
            client,
            server,
            port,
            listener,
            datagrams,
            connection: client.open_tcp(at(port)).expect("a connection"),
            socket: client.open_udp(at(0), None).expect("a socket"),
        }
    }

    #[track_caller]
    fn goes_on(&self, word: &str) {
        let port = self.port;
        self.client.send(self.connection, word).expect("it is sent");
        let answer = self.client.receive(self.connection, 2000);
        assert_eq!(answer, Ok(Some(word.to_owned())), "on {port}");
        self.client
            .send_to(self.socket, at(port), word)
            .expect("it is sent");
        self.server.wait_for_message(self.datagrams, word);
    }

    /// How many bytes have come.
    fn received(&self) -> (u64, u64, u64) {
        let (stream, datagrams) = (
            self.server.inbox(self.listener),
            self.server.inbox(self.datagrams),
        );
        (stream.accepts, stream.bytes, datagrams.bytes)
    }

    /// Says what it can, by every way there is.
    fn insists(&self) {
        for round in 0..20 {
            let word = format!("late {round};");
            let _ = self.client.send(self.connection, &word);
            let _ = self.client.send_to(self.socket, at(self.port), &word);
            let _ = self.client.probe(Kind::Udp, at(self.port), &word);
            wait::quiet(Duration::from_millis(20));
        }
        let outcome = self.client.probe(Kind::Tcp, at(self.port), "late;");
        assert_ne!(outcome.result, "ok", "a new connection");
    }
}

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[track_caller]
fn wait_until_it_is(end: SystemTime) {
    wait::wait_until("the rule's end", Duration::from_secs(30), || {
        SystemTime::now() >= end
    });
}

#[test]
fn a_session_whose_rule_ends_is_cut_within_a_second_and_nothing_arrives_later() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let segd = lab.enforce(&policy(&web, &db, SystemTime::now() + Duration::from_secs(3600)));
    let talks = [ENDS, STAYS, LATER].map(|port| Talk::open(&client, &server, port));
    let idle = client.open_tcp(at(ENDS)).expect("a connection");

    let end = SystemTime::now() + Duration::from_secs(4);
    segd.set_policy(&policy(&web, &db, end));
    assert!(segd.explains_allowed("web", "db", "tcp/5432"));
    for talk in &talks {
        talk.goes_on("in time;");
    }
    let expiry = &segd.json(&["status"])["expiries"][0];
    assert_eq!(expiry["rule"], "until/allow[0]", "{expiry}");
    assert!(expiry["location"].as_str().unwrap().ends_with(":9"), "{expiry}");
    let metric = |rule: &str| segd.metric("segd_rule_expiry_timestamp_seconds", &[("rule", rule)]);
    let second = end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(metric("until/allow[0]"), Some(second as f64));
    assert_eq!(metric("until/allow[1]"), None, "it does not end");

    assert!(SystemTime::now() < end, "this machine is too slow for this test");
    wait_until_it_is(end);
    let since = Instant::now();
    let before = talks[0].received();
    // The kernel has closed it already, whatever the daemon does.
    let _ = client.send_to(talks[0].socket, at(ENDS), "late;");
    wait::wait_until("the server is told", Duration::from_millis(1500), || {
        server.inbox(talks[0].listener).open == 0
    });
    for connection in [talks[0].connection, idle] {
        let told = client.receive(connection, 500);
        assert!(told.is_err(), "the client saw {told:?}");
    }
    println!("both ends were told {:?} after the end", since.elapsed());
    talks[0].insists();
    assert_eq!(talks[0].received(), before, "something came after the end");
    for talk in &talks[1..] {
        talk.goes_on("another rule;");
    }
    assert!(!segd.explains_allowed("web", "db", "tcp/5432"));
    assert!(
        segd.log().contains("rule `until/allow[0]`") && segd.log().contains("is over"),
        "{}",
        segd.log()
    );
    // Reading the same policy again opens nothing, and another end opens it again.
    segd.client(&["reload"]);
    talks[0].insists();
    assert_eq!(talks[0].received(), before);
    segd.set_policy(&policy(&web, &db, SystemTime::now() + Duration::from_secs(3600)));
    let again = client.open_tcp(at(ENDS)).expect("a connection");
    client.send(again, "again;").expect("it is sent");
    assert_eq!(client.receive(again, 2000), Ok(Some("again;".to_owned())));
}

#[test]
fn a_right_ends_to_the_moment_when_the_daemon_is_dead_and_stays_ended_when_it_is_back() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let mut segd = lab.enforce(&policy(&web, &db, SystemTime::now() + Duration::from_secs(3600)));
    let talks = [ENDS, STAYS, LATER].map(|port| Talk::open(&client, &server, port));

    let end = SystemTime::now() + Duration::from_secs(4);
    segd.set_policy(&policy(&web, &db, end));
    segd.kill();
    for talk in &talks {
        talk.goes_on("in time;");
    }
    // Busy up to the end: what is remembered of a session is no right.
    let mut count = 0;
    while SystemTime::now() < end - Duration::from_millis(200) {
        count += 1;
        talks[0].goes_on(&format!("word {count};"));
    }
    assert!(count > 0, "this machine is too slow for this test");
    wait_until_it_is(end);
    let before = talks[0].received();
    talks[0].insists();
    assert_eq!(talks[0].received(), before, "something came after the end");
    for talk in &talks[1..] {
        talk.goes_on("another rule;");
    }
    segd.restart();
    talks[0].insists();
    assert_eq!(talks[0].received(), before, "a new daemon opened it again");
    for talk in &talks[1..] {
        talk.goes_on("with a new daemon;");
    }
}

/// `HH:MM` in UTC, some minutes from a minute of Unix time.
fn clock(minute: u64) -> String {
    format!("{:02}:{:02}", minute / 60 % 24, minute % 60)
}

/// A window of every day, in minutes of Unix time.
fn window(from: u64, to: u64) -> String {
    let to = match clock(to).as_str() {
        "00:00" => "24:00".to_owned(),
        other => other.to_owned(),
    };
    format!(
        "when: {{days: [mon-sun], hours: \"{}-{to}\", zone: UTC}}",
        clock(from)
    )
}

#[test]
fn a_window_that_shuts_cuts_its_session_and_one_that_opens_lets_another_begin_with_the_daemon_and_shuts_without_it()
 {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let since_epoch = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    // Windows are told to the minute: the clock is put where little of one is left.
    let mut calendar = Step::by(0);
    calendar.to_the_end_of_a_minute(20);
    let minute = since_epoch().as_secs() / 60;
    let moment = |minute: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(minute * 60);
    let rule = |port: u16, window: &str| {
        format!("    - {{from: web, to: db, ports: [tcp/{port}, udp/{port}], {window}}}\n")
    };
    let (shuts, opens) = (window(minute - 5, minute + 1), window(minute + 1, minute + 2));
    let stays = window(minute + 1, minute + 60);
    let policy = format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: when}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
{}{}{}{}",
        web.path(),
        db.path(),
        rule(ENDS, &shuts),
        rule(STAYS, &shuts),
        rule(STAYS, &stays),
        rule(LATER, &opens),
    );
    let mut segd = lab.enforce(&policy);
    let talks = [ENDS, STAYS].map(|port| Talk::open(&client, &server, port));
    for talk in &talks {
        talk.goes_on("in the window;");
    }
    let idle = client.open_tcp(at(ENDS)).expect("a connection");
    let listener = server.listen_tcp_echo(at(LATER));
    client.open_tcp(at(LATER)).expect_err("its window is not open");
    assert_eq!(server.inbox(listener).accepts, 0);
    let status = segd.json(&["status"]);
    let next = |number: usize| {
        let row = &status["expiries"][number];
        (
            row["rule"].as_str().unwrap().to_owned(),
            row["next"].as_str().unwrap().to_owned(),
        )
    };
    let says = |rule: &str, next: &str| (rule.to_owned(), next.to_owned());
    assert_eq!(next(0), says("when/allow[0]", "shuts"), "{status}");
    assert_eq!(next(3), says("when/allow[3]", "opens"), "{status}");
    let metric = |rule: &str| segd.metric("segd_rule_expiry_timestamp_seconds", &[("rule", rule)]);
    assert_eq!(metric("when/allow[0]"), Some(((minute + 1) * 60) as f64));
    assert_eq!(metric("when/allow[3]"), Some(((minute + 2) * 60) as f64));
    assert!(
        SystemTime::now() < moment(minute + 1),
        "this machine is too slow for this test"
    );

    wait_until_it_is(moment(minute + 1));
    let since = Instant::now();
    let before = talks[0].received();
    let _ = client.send_to(talks[0].socket, at(ENDS), "late;");
    wait::wait_until("the server is told", Duration::from_millis(1000), || {
        server.inbox(talks[0].listener).open == 0
    });
    for connection in [talks[0].connection, idle] {
        let told = client.receive(connection, 500);
        assert!(told.is_err(), "the client saw {told:?}");
    }
    println!("both ends were told {:?} after the window", since.elapsed());
    let mut opened = None;
    wait::wait_until("the other window is open", Duration::from_millis(1000), || {
        opened = client.open_tcp(at(LATER)).ok();
        opened.is_some()
    });
    println!("another session began {:?} after its window had", since.elapsed());
    let opened = opened.expect("a connection");
    client.send(opened, "in time;").expect("it is sent");
    assert_eq!(client.receive(opened, 2000), Ok(Some("in time;".to_owned())));
    talks[0].insists();
    assert_eq!(talks[0].received(), before, "something came after the window");
    talks[1].goes_on("by the next rule;");
    assert!(!segd.explains_allowed("web", "db", "tcp/5432"));
    assert!(segd.explains_allowed("web", "db", "tcp/5434"));

    // The daemon tells the kernel programs at once when the clock is set.
    calendar.to_the_end_of_a_minute(10);
    wait::quiet(Duration::from_secs(2));
    segd.kill();
    client.send(opened, "alone;").expect("it is sent");
    assert_eq!(client.receive(opened, 2000), Ok(Some("alone;".to_owned())));
    wait_until_it_is(moment(minute + 2));
    let before = server.inbox(listener).bytes;
    let _ = client.send(opened, "late;");
    client.open_tcp(at(LATER)).expect_err("nobody opened it again");
    assert!(
        !matches!(client.receive(opened, 500), Ok(Some(_))),
        "there was an answer"
    );
    assert_eq!(
        server.inbox(listener).bytes,
        before,
        "something came after the window"
    );
    talks[1].goes_on("with the daemon dead;");
    segd.restart();
    client
        .open_tcp(at(LATER))
        .expect_err("a new daemon opened it again");
    talks[1].goes_on("with a new daemon;");
}
