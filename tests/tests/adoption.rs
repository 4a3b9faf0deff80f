//! Sessions older than segd: those that the first policy allows go on, the others end at their next packet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use segd_tests::{
    Cgroup, Lab, Worker,
    netns::{v4, v6},
    wait,
};

fn policy(web: &Cgroup, db: &Cgroup) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: adoption}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: web, to: db, ports: [tcp/5701]}}
",
        web.path(),
        db.path()
    )
}

/// Opens sessions, lets segd come, and uses them from both ends.
#[track_caller]
fn the_first_policy_holds_for_them(lab: &Lab, client: &Worker, server: &Worker, policy: &str, ip: IpAddr) {
    let allowed = server.listen_tcp((ip, 5701));
    let denied = server.listen_tcp((ip, 5702));
    let right = client.open_tcp(allowed.local).unwrap();
    let answered = client.open_tcp(allowed.local).unwrap();
    let wrong = client.open_tcp(denied.local).unwrap();
    client.send(right, "before;").unwrap();
    client.send(wrong, "before;").unwrap();
    server.wait_for_message(allowed, "before;");
    server.wait_for_message(denied, "before;");

    let _segd = lab.enforce(policy);
    client.send(right, "after;").unwrap();
    server.wait_for_message(allowed, "after;");
    // The server speaks first on the other one.
    server.send_accepted(allowed, "greeting;").unwrap();
    assert_eq!(
        client.receive(answered, 5000).unwrap().as_deref(),
        Some("greeting;"),
        "over {ip}"
    );
    client.send(wrong, "after;").ok();
    server.send_accepted(denied, "leak;").ok();
    wait::quiet(wait::SILENCE);
    assert!(
        !server.inbox(denied).has("after;"),
        "a session without a right went on over {ip}"
    );
    let leaked = client.receive(wrong, 200);
    assert!(
        !matches!(leaked, Ok(Some(_))),
        "its other direction went on over {ip}"
    );
}

#[test]
fn over_loopback() {
    let Some(lab) = Lab::open() else { return };
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&web), lab.worker(&db));
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        the_first_policy_holds_for_them(&lab, &client, &server, &policy(&web, &db), ip);
    }
}

#[test]
fn between_namespaces() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let (near, far) = (lab.netns("near"), lab.netns("far"));
    bridge.plug(&near, 40);
    bridge.plug(&far, 41);
    let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
    let (client, server) = (lab.worker_in(&web, &near), lab.worker_in(&db, &far));
    for ip in [IpAddr::from(v4(41)), v6(41).into()] {
        the_first_policy_holds_for_them(&lab, &client, &server, &policy(&web, &db), ip);
    }
}
