//! The fixture itself, without segd: everything that the suites expect to be allowed must arrive here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use segd_tests::{
    Kind, Lab, Remote,
    netns::{v4, v6},
    wait::PATIENCE,
};

fn both(host: u8) -> [IpAddr; 2] {
    [v4(host).into(), v6(host).into()]
}

#[test]
fn without_segd_everything_arrives_over_loopback() {
    let Some(lab) = Lab::open() else { return };
    let (a, b) = (lab.cgroup("a"), lab.cgroup("b"));
    let (client, server) = (lab.worker(&a), lab.worker(&b));
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let tcp = server.listen_tcp((ip, 0));
        let udp = server.listen_udp((ip, 0));
        for (kind, to) in [
            (Kind::Tcp, tcp),
            (Kind::Udp, udp),
            (Kind::UdpConnected, udp),
            (Kind::RawUdp, udp),
        ] {
            let token = format!("{kind:?}-{ip}");
            assert_eq!(client.probe(kind, to.local, &token).result, "ok", "{token}");
            server.wait_for_message(to, &token);
        }
        assert_eq!(
            client.probe(Kind::Echo, (ip, 0), "echo").result,
            "ok",
            "echo {ip}"
        );
    }
}

#[test]
fn a_v4_mapped_socket_reaches_an_ipv4_listener() {
    let Some(lab) = Lab::open() else { return };
    let cgroup = lab.cgroup("a");
    let (client, server) = (lab.worker(&cgroup), lab.worker(&cgroup));
    let tcp = server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
    let udp = server.listen_udp((Ipv4Addr::LOCALHOST, 0));
    let mapped = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port));
    assert_eq!(
        client.probe(Kind::Tcp, mapped(tcp.local.port()), "mapped").result,
        "ok"
    );
    assert_eq!(
        client.probe(Kind::Udp, mapped(udp.local.port()), "mapped").result,
        "ok"
    );
    server.wait_for_message(tcp, "mapped");
    server.wait_for_message(udp, "mapped");
}

#[test]
fn without_segd_everything_arrives_between_namespaces_and_with_another_machine() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let (cga, cgb) = (lab.cgroup("a"), lab.cgroup("b"));
    let (nsa, nsb) = (lab.netns("a"), lab.netns("b"));
    bridge.plug(&nsa, 10);
    bridge.plug(&nsb, 11);
    let (a, b) = (lab.worker_in(&cga, &nsa), lab.worker_in(&cgb, &nsb));
    let host = lab.worker(&cga);
    let remote = Remote::plug(&bridge, 200);
    remote.listen(5400);
    for (index, ip) in both(11).into_iter().enumerate() {
        let (tcp, udp) = (b.listen_tcp((ip, 5400)), b.listen_udp((ip, 5400)));
        for sender in [&a, &host] {
            for (kind, listener) in [(Kind::Tcp, tcp), (Kind::Udp, udp), (Kind::RawUdp, udp)] {
                let token = format!("{kind:?}-{}", sender.pid());
                assert_eq!(
                    sender.probe(kind, (ip, 5400), &token).result,
                    "ok",
                    "{token} to {ip}"
                );
                b.wait_for_message(listener, &token);
            }
            let before = b.echo_requests_received();
            assert_eq!(
                sender.probe(Kind::Echo, (ip, 0), "echo").result,
                "ok",
                "echo to {ip}"
            );
            let after = b.echo_requests_received();
            let grown = if index == 0 {
                after.0 - before.0
            } else {
                after.1 - before.1
            };
            assert_eq!(grown, 1, "the receiver's kernel counts the request");
        }
        assert_eq!(
            remote.tcp((ip, 5400).into(), "from-remote", PATIENCE),
            "ok",
            "remote to {ip}"
        );
        b.wait_for_message(tcp, "from-remote");
        remote.udp((ip, 5400).into(), 0, "from-remote");
        b.wait_for_message(udp, "from-remote");
        assert!(remote.ping(ip, PATIENCE), "remote pings {ip}");

        let there = remote.address(ip);
        for kind in [Kind::Tcp, Kind::Udp] {
            let token = format!("{kind:?}-{there}");
            assert_eq!(a.probe(kind, (there, 5400), &token).result, "ok", "{token}");
            segd_tests::wait::wait_until(&token, PATIENCE, || remote.inbox().has(&token));
        }
        assert_eq!(
            a.probe(Kind::Echo, (there, 0), "echo").result,
            "ok",
            "echo to {there}"
        );
    }
    assert_eq!(remote.echo_requests_received(), (1, 1));
    assert!(
        remote
            .frames()
            .iter()
            .any(|frame| frame.protocol == 6 && frame.port == 5400)
    );
}

#[test]
fn a_kept_flow_carries_bytes_both_ways() {
    let Some(lab) = Lab::open() else { return };
    let cgroup = lab.cgroup("a");
    let (client, server) = (lab.worker(&cgroup), lab.worker(&cgroup));
    let listener = server.listen_tcp_echo((Ipv4Addr::LOCALHOST, 0));
    let flow = client.open_tcp(listener.local).unwrap();
    client.send(flow, "hello").unwrap();
    assert_eq!(client.receive(flow, 2000).unwrap().as_deref(), Some("hello"));
    server.send_accepted(listener, "pushed").unwrap();
    assert_eq!(client.receive(flow, 2000).unwrap().as_deref(), Some("pushed"));

    let task = client.traffic(&[flow]);
    segd_tests::wait::wait_until("some rounds", PATIENCE, || client.task(task).least > 10);
    assert!(client.stop(task).failures.is_empty());

    let closed = listener.local;
    server.close(listener);
    segd_tests::wait::wait_until("the port is closed", Duration::from_secs(2), || {
        client.probe(Kind::Tcp, closed, "late").result == "ECONNREFUSED"
    });
}
