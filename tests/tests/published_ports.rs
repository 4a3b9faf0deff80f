//! Published ports: DNAT in the host's namespace does not hide who asks; host to container and back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::net::IpAddr;

use segd_tests::{
    Cgroup, Kind, Lab, Worker,
    netns::{NftTable, Sysctl, cable},
    wait,
    worker::Handle,
};

fn policy(web: &Cgroup, rogue: &Cgroup, db: &Cgroup) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: published}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: web, to: db, ports: [tcp/5432, udp/5432]}}
    - {{from: host, to: db, ports: [tcp/5432, udp/5432]}}
    - {{from: db, to: host, ports: [tcp/9100, udp/9100]}}
",
        web.path(),
        rogue.path(),
        db.path()
    )
}

/// Published on the host as 15432, the server listens on 5432.
const PUBLISHED: u16 = 15432;

#[track_caller]
fn arrives(client: &Worker, kind: Kind, to: (IpAddr, u16), server: &Worker, listener: Handle, token: &str) {
    let outcome = client.probe(kind, to, token);
    assert_eq!(outcome.result, "ok", "{token} to {to:?}");
    server.wait_for_message(listener, token);
}

#[track_caller]
fn does_not(client: &Worker, kind: Kind, to: (IpAddr, u16), server: &Worker, listener: Handle, token: &str) {
    let before = server.inbox(listener).accepts;
    let outcome = client.probe(kind, to, token);
    wait::quiet(wait::SILENCE);
    let inbox = server.inbox(listener);
    assert!(
        !inbox.has(token),
        "{token} to {to:?} ARRIVED; the client saw {outcome:?}"
    );
    assert_eq!(
        inbox.accepts, before,
        "{token} to {to:?} was accepted; the client saw {outcome:?}"
    );
}

#[test]
fn a_published_port_serves_whom_the_policy_allows_and_nobody_else() {
    let Some(lab) = Lab::open() else { return };
    let _forward = (
        Sysctl::set("net/ipv4/ip_forward", "1"),
        Sysctl::set("net/ipv6/conf/all/forwarding", "1"),
    );
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (ns_web, ns_rogue, ns_db) = (lab.netns("web"), lab.netns("rogue"), lab.netns("db"));
    cable(&ns_web, 31);
    cable(&ns_rogue, 32);
    let (db4, db6) = cable(&ns_db, 33);
    let _nat = NftTable::create(
        &format!("sgt{}", std::process::id()),
        &format!(
            "chain in {{
type nat hook prerouting priority -100;
fib daddr type local meta l4proto {{tcp, udp}} th dport {PUBLISHED} dnat ip to {db4}:5432
fib daddr type local meta l4proto {{tcp, udp}} th dport {PUBLISHED} dnat ip6 to [{db6}]:5432
}}
chain out {{
type nat hook output priority -100;
ip daddr 10.213.33.1 meta l4proto {{tcp, udp}} th dport {PUBLISHED} dnat ip to {db4}:5432
ip6 daddr fd13:213:21::1 meta l4proto {{tcp, udp}} th dport {PUBLISHED} dnat ip6 to [{db6}]:5432
}}"
        ),
    );
    let (friend, enemy, server) = (
        lab.worker_in(&web, &ns_web),
        lab.worker_in(&rogue, &ns_rogue),
        lab.worker_in(&db, &ns_db),
    );
    let outside = lab.cgroup("outside");
    let (host, local_enemy) = (lab.worker(&outside), lab.worker(&rogue));
    let _segd = lab.enforce(&policy(&web, &rogue, &db));
    for (address, gateways) in [
        (db4, ["10.213.31.1", "10.213.32.1", "10.213.33.1"]),
        (db6, ["fd13:213:1f::1", "fd13:213:20::1", "fd13:213:21::1"]),
    ] {
        let [via_web, via_rogue, via_host] = gateways.map(|gateway| gateway.parse::<IpAddr>().unwrap());
        let tcp = server.listen_tcp((address, 5432));
        let udp = server.listen_udp_echo((address, 5432));
        for (kind, listener) in [(Kind::Tcp, tcp), (Kind::Udp, udp)] {
            let name = |who: &str| format!("{who}-{kind:?}-{address};");
            // Container to container, by its own address and through the published port.
            arrives(&friend, kind, (address, 5432), &server, listener, &name("direct"));
            arrives(
                &friend,
                kind,
                (via_web, PUBLISHED),
                &server,
                listener,
                &name("published"),
            );
            does_not(
                &enemy,
                kind,
                (address, 5432),
                &server,
                listener,
                &name("rogue-direct"),
            );
            does_not(
                &enemy,
                kind,
                (via_rogue, PUBLISHED),
                &server,
                listener,
                &name("rogue-published"),
            );
            // Host to container, and through the host's own DNAT.
            arrives(
                &host,
                kind,
                (address, 5432),
                &server,
                listener,
                &name("host-direct"),
            );
            arrives(
                &host,
                kind,
                (via_host, PUBLISHED),
                &server,
                listener,
                &name("host-published"),
            );
            // A process of the host's namespace that is not host.
            does_not(
                &local_enemy,
                kind,
                (address, 5432),
                &server,
                listener,
                &name("local-rogue"),
            );
            does_not(
                &local_enemy,
                kind,
                (via_host, PUBLISHED),
                &server,
                listener,
                &name("local-rogue-published"),
            );
        }
        // The answers of a translated UDP exchange come back to who asked.
        let any: std::net::SocketAddr = if address.is_ipv4() {
            ([0; 4], 0).into()
        } else {
            ([0u16; 8], 0).into()
        };
        let asker = friend.open_udp(any, Some((via_web, PUBLISHED).into())).unwrap();
        friend.send(asker, "question;").unwrap();
        assert_eq!(
            friend.receive(asker, 2000).unwrap().as_deref(),
            Some("question;"),
            "{address}"
        );
        server.close(tcp);
        server.close(udp);
    }
}

#[test]
fn a_live_flow_through_a_published_port_carries_both_ways_and_is_cut_when_revoked() {
    let Some(lab) = Lab::open() else { return };
    let _forward = Sysctl::set("net/ipv4/ip_forward", "1");
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (ns_web, ns_db) = (lab.netns("web"), lab.netns("db"));
    cable(&ns_web, 31);
    let (db4, _) = cable(&ns_db, 33);
    let _nat = NftTable::create(
        &format!("sgt{}", std::process::id()),
        &format!(
            "chain in {{
type nat hook prerouting priority -100;
fib daddr type local tcp dport {PUBLISHED} dnat ip to {db4}:5432
}}"
        ),
    );
    let (friend, server) = (lab.worker_in(&web, &ns_web), lab.worker_in(&db, &ns_db));
    let listener = server.listen_tcp_echo((db4, 5432));
    let text = policy(&web, &rogue, &db);
    let segd = lab.enforce(&text);
    let published = (std::net::Ipv4Addr::new(10, 213, 31, 1), PUBLISHED);
    let flow = friend.open_tcp(published).expect("web may reach db");
    for number in 0..5 {
        let line = format!("{number};");
        friend.send(flow, &line).unwrap();
        assert_eq!(
            friend.receive(flow, 2000).unwrap().as_deref(),
            Some(line.as_str())
        );
    }
    segd.set_policy(&text.replace(
        "{from: web, to: db, ports: [tcp/5432, udp/5432]}",
        "{from: web, to: db, ports: [tcp/1]}",
    ));
    friend.send(flow, "after;").ok();
    server.send_accepted(listener, "pushed;").ok();
    wait::quiet(std::time::Duration::from_millis(500));
    assert!(
        !server.inbox(listener).has("after;"),
        "{:?}",
        server.inbox(listener).messages
    );
    let got = friend.receive(flow, 50).ok().flatten().unwrap_or_default();
    assert_eq!(got, "", "nothing more comes from the server");
}

#[test]
fn a_container_reaches_the_host_where_a_rule_says_so() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let (ns_db, ns_rogue) = (lab.netns("db"), lab.netns("rogue"));
    cable(&ns_db, 33);
    cable(&ns_rogue, 32);
    let (inside, enemy) = (lab.worker_in(&db, &ns_db), lab.worker_in(&rogue, &ns_rogue));
    let outside = lab.cgroup("outside");
    let host = lab.worker(&outside);
    let _segd = lab.enforce(&policy(&web, &rogue, &db));
    for (mine, theirs) in [
        ("10.213.33.1", "10.213.32.1"),
        ("fd13:213:21::1", "fd13:213:20::1"),
    ] {
        let (mine, theirs): (IpAddr, IpAddr) = (mine.parse().unwrap(), theirs.parse().unwrap());
        let (tcp, udp) = (host.listen_tcp((mine, 9100)), host.listen_udp((mine, 9100)));
        let other = (host.listen_tcp((mine, 9101)), host.listen_udp((mine, 9101)));
        let foreign = (host.listen_tcp((theirs, 9100)), host.listen_udp((theirs, 9100)));
        for (kind, listener, other, foreign) in [
            (Kind::Tcp, tcp, other.0, foreign.0),
            (Kind::Udp, udp, other.1, foreign.1),
        ] {
            let name = |what: &str| format!("{what}-{kind:?}-{mine};");
            arrives(&inside, kind, (mine, 9100), &host, listener, &name("allowed"));
            does_not(&inside, kind, (mine, 9101), &host, other, &name("other-port"));
            does_not(&enemy, kind, (theirs, 9100), &host, foreign, &name("rogue"));
        }
        for listener in [tcp, udp, other.0, other.1, foreign.0, foreign.1] {
            host.close(listener);
        }
    }
}
