//! Two services on one IP address, one allowed and one not: told apart, loopback included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use segd_tests::{
    Cgroup, Kind, Lab, Worker,
    netns::{v4, v6},
    wait,
};

fn policy(web: &Cgroup, open: &Cgroup, shut: &Cgroup) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: same-address}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    open: {{match: [{{cgroup: {}}}]}}
    shut: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: web, to: open, ports: [any]}}
",
        web.path(),
        open.path(),
        shut.path()
    )
}

/// Both services listen on `ip`; the client's address for it may be another form of the same.
#[track_caller]
fn told_apart(client: &Worker, open: &Worker, shut: &Worker, ip: IpAddr, dial: IpAddr) {
    let good = (open.listen_tcp((ip, 0)), open.listen_udp((ip, 0)));
    let bad = (shut.listen_tcp((ip, 0)), shut.listen_udp((ip, 0)));
    for round in 0..5 {
        for (kind, good, bad) in [
            (Kind::Tcp, good.0, bad.0),
            (Kind::Udp, good.1, bad.1),
            (Kind::UdpConnected, good.1, bad.1),
        ] {
            let token = format!("{kind:?}-{dial}-{round};");
            let at = |port: SocketAddr| SocketAddr::new(dial, port.port());
            let outcome = client.probe(kind, at(good.local), &token);
            assert_eq!(outcome.result, "ok", "{token} to the allowed service");
            open.wait_for_message(good, &token);
            let outcome = client.probe(kind, at(bad.local), &token);
            assert_ne!(outcome.result, "ok", "{token} to the denied service");
        }
    }
    wait::quiet(wait::SILENCE);
    for (name, listener) in [("tcp", bad.0), ("udp", bad.1)] {
        let inbox = shut.inbox(listener);
        assert_eq!(
            (inbox.accepts, inbox.bytes),
            (0, 0),
            "{name} via {dial} reached the denied service"
        );
    }
    for (worker, listener) in [(open, good.0), (open, good.1), (shut, bad.0), (shut, bad.1)] {
        worker.close(listener);
    }
}

#[test]
fn over_loopback_the_denied_service_is_not_reached() {
    let Some(lab) = Lab::open() else { return };
    let (web, open, shut) = (lab.cgroup("web"), lab.cgroup("open"), lab.cgroup("shut"));
    let (client, a, b) = (lab.worker(&web), lab.worker(&open), lab.worker(&shut));
    let _segd = lab.enforce(&policy(&web, &open, &shut));
    let (four, six) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    told_apart(&client, &a, &b, four.into(), four.into());
    told_apart(&client, &a, &b, six.into(), six.into());
    // The client's socket is AF_INET6, the packets are IPv4.
    told_apart(&client, &a, &b, four.into(), four.to_ipv6_mapped().into());
    // The servers' sockets are dual stack.
    told_apart(&client, &a, &b, Ipv6Addr::UNSPECIFIED.into(), four.into());
}

#[test]
fn over_a_namespace_address_the_denied_service_is_not_reached() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let (near, far) = (lab.netns("near"), lab.netns("far"));
    bridge.plug(&near, 10);
    bridge.plug(&far, 11);
    let (web, open, shut) = (lab.cgroup("web"), lab.cgroup("open"), lab.cgroup("shut"));
    let client = lab.worker_in(&web, &near);
    let (a, b) = (lab.worker_in(&open, &far), lab.worker_in(&shut, &far));
    let inside = lab.worker_in(&web, &far);
    let _segd = lab.enforce(&policy(&web, &open, &shut));
    for ip in [IpAddr::from(v4(11)), v6(11).into()] {
        // From another namespace a denied datagram may be dropped at the receiver: `ok` for the client.
        across(&client, &a, &b, ip);
        told_apart(&inside, &a, &b, ip, ip);
    }
    told_apart(&inside, &a, &b, v4(11).into(), v4(11).to_ipv6_mapped().into());
}

#[track_caller]
fn across(client: &Worker, open: &Worker, shut: &Worker, ip: IpAddr) {
    let good = (open.listen_tcp((ip, 0)), open.listen_udp((ip, 0)));
    let bad = (shut.listen_tcp((ip, 0)), shut.listen_udp((ip, 0)));
    for (kind, good, bad) in [(Kind::Tcp, good.0, bad.0), (Kind::Udp, good.1, bad.1)] {
        let token = format!("{kind:?}-{ip};");
        assert_eq!(
            client.probe(kind, good.local, &token).result,
            "ok",
            "{token} to the allowed service"
        );
        open.wait_for_message(good, &token);
        let denied = client.probe(kind, bad.local, &token);
        assert!(
            kind != Kind::Tcp || denied.result != "ok",
            "{token} to the denied service"
        );
    }
    wait::quiet(wait::SILENCE);
    for listener in [bad.0, bad.1] {
        let inbox = shut.inbox(listener);
        assert_eq!(
            (inbox.accepts, inbox.bytes),
            (0, 0),
            "{} was reached",
            listener.local
        );
    }
    for (worker, listener) in [(open, good.0), (open, good.1), (shut, bad.0), (shut, bad.1)] {
        worker.close(listener);
    }
}

#[test]
fn a_raw_socket_is_no_way_around() {
    let Some(lab) = Lab::open() else { return };
    let (web, open, shut) = (lab.cgroup("web"), lab.cgroup("open"), lab.cgroup("shut"));
    let (client, a, b) = (lab.worker(&web), lab.worker(&open), lab.worker(&shut));
    let _segd = lab.enforce(&policy(&web, &open, &shut));
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let (good, bad) = (a.listen_udp((ip, 0)), b.listen_udp((ip, 0)));
        // No sock_addr hook runs for a raw socket: only the packet hooks stand in the way.
        client.probe(Kind::RawUdp, good.local, "raw;");
        client.probe(Kind::RawUdp, bad.local, "raw;");
        a.wait_for_message(good, "raw;");
        wait::quiet(wait::SILENCE);
        assert_eq!(
            b.inbox(bad).bytes,
            0,
            "a raw datagram reached the denied service over {ip}"
        );
    }
}
