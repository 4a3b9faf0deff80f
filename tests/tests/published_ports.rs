//! Published ports: DNAT in the host's namespace does not hide who asks; host to container and back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

/// What did not turn out as the policy says; all of it is told at the end.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn arrives(
        &mut self,
        client: &Worker,
        kind: Kind,
        to: (IpAddr, u16),
        at: (&Worker, Handle),
        token: &str,
    ) {
        let outcome = client.probe(kind, to, token);
        let arrived = wait::within(wait::SILENCE, || at.0.inbox(at.1).has(token));
        if outcome.result != "ok" || !arrived {
            self.0.push(format!(
                "{token} to {to:?} is allowed; arrived: {arrived}; the client saw {outcome:?}"
            ));
        }
    }

    fn does_not(
        &mut self,
        client: &Worker,
        kind: Kind,
        to: (IpAddr, u16),
        at: (&Worker, Handle),
        token: &str,
    ) {
        let before = at.0.inbox(at.1).accepts;
        let outcome = client.probe(kind, to, token);
        wait::quiet(wait::SILENCE);
        let inbox = at.0.inbox(at.1);
        if inbox.has(token) || inbox.accepts != before {
            self.0.push(format!(
                "{token} to {to:?} is denied and ARRIVED; the client saw {outcome:?}"
            ));
        }
    }

    #[track_caller]
    fn judge(self) {
        assert!(
            self.0.is_empty(),
            "{} wrong:\n  {}",
            self.0.len(),
            self.0.join("\n  ")
        );
    }
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
    let mut wrong = Wrong::default();
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
            wrong.arrives(
                &friend,
                kind,
                (address, 5432),
                (&server, listener),
                &name("direct"),
            );
            wrong.arrives(
                &friend,
                kind,
                (via_web, PUBLISHED),
                (&server, listener),
                &name("published"),
            );
            wrong.does_not(
                &enemy,
                kind,
                (address, 5432),
                (&server, listener),
                &name("rogue-direct"),
            );
            wrong.does_not(
                &enemy,
                kind,
                (via_rogue, PUBLISHED),
                (&server, listener),
                &name("rogue-published"),
            );
            // Host to container, and through the host's own DNAT.
            wrong.arrives(
                &host,
                kind,
                (address, 5432),
                (&server, listener),
                &name("host-direct"),
            );
            wrong.arrives(
                &host,
                kind,
                (via_host, PUBLISHED),
                (&server, listener),
                &name("host-published"),
            );
            // A process of the host's namespace that is not host.
            wrong.does_not(
                &local_enemy,
                kind,
                (address, 5432),
                (&server, listener),
                &name("local-rogue"),
            );
            wrong.does_not(
                &local_enemy,
                kind,
                (via_host, PUBLISHED),
                (&server, listener),
                &name("local-rogue-published"),
            );
        }
        // The answers of a translated UDP exchange come back to who asked.
        let any: std::net::SocketAddr = if address.is_ipv4() {
            ([0; 4], 0).into()
        } else {
            ([0u16; 8], 0).into()
        };
        for (name, asker, via) in [("container", &friend, via_web), ("host", &host, via_host)] {
            let socket = asker.open_udp(any, Some((via, PUBLISHED).into())).unwrap();
            let sent = asker.send(socket, "question;");
            let got = asker.receive(socket, 1000);
            if got != Ok(Some("question;".into())) {
                wrong.0.push(format!(
                    "the UDP answer to {name} via {via}: sent {sent:?}, got {got:?}"
                ));
            }
        }
        server.close(tcp);
        server.close(udp);
    }
    wrong.judge();
}

#[test]
fn a_port_that_the_sender_s_own_namespace_redirects_is_judged_where_it_leads() {
    let Some(lab) = Lab::open() else { return };
    let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
    let _nat = NftTable::create(
        &format!("sgt{}", std::process::id()),
        &format!(
            "chain out {{
type nat hook output priority -100;
oifname lo tcp dport {PUBLISHED} redirect to :5432
oifname lo tcp dport 15433 redirect to :5433
}}"
        ),
    );
    let (friend, enemy, server) = (lab.worker(&web), lab.worker(&rogue), lab.worker(&db));
    let _segd = lab.enforce(&policy(&web, &rogue, &db));
    let mut wrong = Wrong::default();
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let (right, other) = (server.listen_tcp((ip, 5432)), server.listen_tcp((ip, 5433)));
        let name = |who: &str| format!("{who}-{ip};");
        wrong.arrives(
            &friend,
            Kind::Tcp,
            (ip, PUBLISHED),
            (&server, right),
            &name("web"),
        );
        wrong.does_not(
            &friend,
            Kind::Tcp,
            (ip, 15433),
            (&server, other),
            &name("web-other"),
        );
        wrong.does_not(
            &enemy,
            Kind::Tcp,
            (ip, PUBLISHED),
            (&server, right),
            &name("rogue"),
        );
        server.close(right);
        server.close(other);
    }
    wrong.judge();
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
    let mut wrong = Wrong::default();
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
            wrong.arrives(&inside, kind, (mine, 9100), (&host, listener), &name("allowed"));
            wrong.does_not(&inside, kind, (mine, 9101), (&host, other), &name("other-port"));
            wrong.does_not(&enemy, kind, (theirs, 9100), (&host, foreign), &name("rogue"));
        }
        for listener in [tcp, udp, other.0, other.1, foreign.0, foreign.1] {
            host.close(listener);
        }
    }
    wrong.judge();
}
