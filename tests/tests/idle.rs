//! A session that says nothing ends with its right all the same: both ends are told within a second, nobody else is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use segd_tests::{Cgroup, Lab, Segd, Worker, netns::cable, segd::write_atomically, wait, worker::Handle};

/// The promise.
const TOLD: Duration = Duration::from_secs(1);

fn policy(web: &Cgroup, db: &Cgroup, ports: &str) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: idle}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: web, to: db, ports: [{ports}]}}
",
        web.path(),
        db.path()
    )
}

/// The port of sessions that lose their right, and of one that keeps it.
const LOST: u16 = 5432;
const KEPT: u16 = 5433;
const SILENT: u16 = 5436;
const BOTH: &str = "tcp/5432, tcp/5433, tcp/5436";

/// A session at rest.
struct Session<'a> {
    client: &'a Worker,
    server: &'a Worker,
    listener: Handle,
    connection: Handle,
    story: &'a str,
}

impl<'a> Session<'a> {
    #[track_caller]
    fn connect(client: &'a Worker, server: &'a Worker, to: SocketAddr, story: &'a str) -> Session<'a> {
        let listener = server.listen_tcp_echo(to);
        let connection = client
            .open_tcp(to)
            .unwrap_or_else(|error| panic!("{story}: {error:?}"));
        let session = Session {
            client,
            server,
            listener,
            connection,
            story,
        };
        wait::wait_until(format!("{story}: accepted"), wait::PATIENCE, || {
            server.inbox(listener).open == 1
        });
        session
    }

    #[track_caller]
    fn open(client: &'a Worker, server: &'a Worker, to: SocketAddr, story: &'a str) -> Session<'a> {
        let session = Session::connect(client, server, to, story);
        session.carries_on();
        session
    }

    #[track_caller]
    fn carries_on(&self) {
        let story = self.story;
        let sent = self.client.send(self.connection, "hello;");
        let answer = self.client.receive(self.connection, 1000);
        assert_eq!(answer, Ok(Some("hello;".to_owned())), "{story}: {sent:?}");
        assert_eq!(self.server.inbox(self.listener).open, 1, "{story}");
    }

    /// Both ends hear of it, without having said a word.
    #[track_caller]
    fn is_ended(&self, since: Instant) {
        let left = || TOLD.saturating_sub(since.elapsed());
        let story = self.story;
        wait::wait_until(format!("{story}: the server is told"), left(), || {
            self.server.inbox(self.listener).open == 0
        });
        let told = self.client.receive(self.connection, left().as_millis() as u64);
        assert!(told.is_err(), "{story}: the client saw {told:?}");
    }

    #[track_caller]
    fn is_still_open(&self) {
        let story = self.story;
        assert_eq!(self.server.inbox(self.listener).open, 1, "{story}: the server");
        assert_eq!(
            self.client.receive(self.connection, 1),
            Ok(None),
            "{story}: the client"
        );
    }
}

fn cut(segd: &Segd) -> f64 {
    segd.metric("segd_sessions_cut_total", &[]).unwrap_or(0.0)
}

#[track_caller]
fn does(segd: &Segd, words: &[&str]) {
    let output = segd.client(words);
    assert!(output.status.success(), "segd {words:?}: {output:?}");
}

fn on(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    (address.into(), port).into()
}

#[test]
fn both_ends_of_an_idle_session_are_told_within_a_second_of_its_right_s_end() {
    let Some(lab) = Lab::open() else { return };
    let far = lab.netns("far");
    let (far_v4, far_v6) = cable(&far, 34);
    let near_v4 = Ipv4Addr::new(10, 213, 34, 1);
    let near_v6 = Ipv6Addr::new(0xfd13, 0x213, 34, 0, 0, 0, 0, 1);
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let (far_client, far_server) = (lab.worker_in(&web, &far), lab.worker_in(&db, &far));
    let segd = lab.enforce(&policy(&web, &db, BOTH));
    let kept = [
        Session::open(
            &client,
            &server,
            on(Ipv4Addr::LOCALHOST, KEPT),
            "kept over loopback",
        ),
        Session::open(&client, &far_server, on(far_v4, KEPT), "kept across a cable"),
    ];
    let lost = [
        Session::open(
            &client,
            &server,
            on(Ipv4Addr::LOCALHOST, LOST),
            "IPv4 over loopback",
        ),
        Session::open(
            &client,
            &server,
            on(Ipv6Addr::LOCALHOST, LOST),
            "IPv6 over loopback",
        ),
        Session::open(&client, &far_server, on(far_v4, LOST), "IPv4 into a namespace"),
        Session::open(&client, &far_server, on(far_v6, LOST), "IPv6 into a namespace"),
        Session::open(&far_client, &server, on(near_v4, LOST), "IPv4 out of a namespace"),
        Session::open(&far_client, &server, on(near_v6, LOST), "IPv6 out of a namespace"),
    ];
    // One that never said a word: only its handshake showed it.
    let silent = Session::connect(
        &far_client,
        &server,
        on(Ipv4Addr::new(10, 213, 34, 1), SILENT),
        "never said a word",
    );
    segd.set_policy(&policy(&web, &db, "tcp/5433"));
    let since = Instant::now();
    silent.is_ended(since);
    for session in &lost {
        session.is_ended(since);
    }
    assert_eq!(cut(&segd), lost.len() as f64 + 1.0, "each counts once");
    assert!(
        segd.log()
            .contains("ended 7 sessions that lost the right: web to db"),
        "{}",
        segd.log()
    );
    for session in &kept {
        session.carries_on();
    }
}

#[test]
fn a_policy_on_trial_ends_no_session_before_it_is_confirmed_or_taken_back() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let segd = lab.enforce(&policy(&web, &db, BOTH));
    let session = Session::open(&client, &server, on(Ipv4Addr::LOCALHOST, LOST), "a session");
    let files = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
    let tried = files.path().join("tried.yaml");
    write_atomically(&tried, &policy(&web, &db, "tcp/5433, tcp/5434"));
    let tried = ["apply", tried.to_str().unwrap(), "--confirm", "60s"];

    // A trial that begins right after another policy: what is looked at once more then is not ended either.
    segd.set_policy(&policy(&web, &db, "tcp/5432, tcp/5433, tcp/5435"));
    does(&segd, &tried);
    let new = Session::open(
        &client,
        &server,
        on(Ipv4Addr::LOCALHOST, 5434),
        "begun under the trial",
    );
    wait::quiet(TOLD);
    session.is_still_open();
    does(&segd, &["rollback"]);
    let since = Instant::now();
    new.is_ended(since);
    session.carries_on();

    does(&segd, &tried);
    wait::quiet(TOLD);
    session.is_still_open();
    does(&segd, &["confirm"]);
    session.is_ended(Instant::now());
    assert_eq!(cut(&segd), 2.0);
}

#[test]
fn a_hundred_sessions_live_through_changes_that_all_allow_them() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    let segd = lab.enforce(&policy(&web, &db, BOTH));
    let listener = server.listen_tcp_echo(on(Ipv4Addr::LOCALHOST, KEPT));
    let open: Vec<Handle> = (0..100)
        .map(|_| client.open_tcp(listener.local).unwrap())
        .collect();
    let (busy, idle) = open.split_at(50);
    let traffic = client.traffic(busy);
    for round in 0..20 {
        segd.set_policy(&policy(&web, &db, ["tcp/5433", BOTH, "any"][round % 3]));
        // Some are always just being accepted.
        let young = client.open_tcp(listener.local).unwrap();
        client.send(young, "young;").unwrap();
        assert_eq!(
            client.receive(young, 1000),
            Ok(Some("young;".into())),
            "round {round}"
        );
        client.close(young);
    }
    wait::quiet(TOLD);
    let tally = client.stop(traffic);
    assert!(tally.failures.is_empty(), "{tally:?}");
    for connection in idle {
        client.send(*connection, "still here;").unwrap();
        assert_eq!(client.receive(*connection, 1000), Ok(Some("still here;".into())));
    }
    assert_eq!(cut(&segd), 0.0);
}
