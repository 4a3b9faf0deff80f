//! A denied client is told at once, and told EPERM.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use segd_tests::{
    Cgroup, Kind, Lab, Worker,
    netns::{v4, v6},
    wait,
};

const LIMIT_MICROS: u64 = 5_000;
const ROUNDS: usize = 40;

fn policy(rogue: &Cgroup, db: &Cgroup) -> String {
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: errors}}
spec:
  segments:
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: host, to: db, ports: [any]}}
",
        rogue.path(),
        db.path()
    )
}

/// Every attempt gets EPERM; the median below 5 ms (the machine may take the processor away for longer).
#[track_caller]
fn refused_at_once(client: &Worker, kind: Kind, to: SocketAddr) {
    let mut times: Vec<u64> = (0..ROUNDS)
        .map(|round| {
            let outcome = client.probe(kind, to, &format!("{round};"));
            assert_eq!(
                outcome.result, "EPERM",
                "{kind:?} to {to}, attempt {round}: {outcome:?}"
            );
            outcome.micros
        })
        .collect();
    times.sort_unstable();
    let (median, worst) = (times[ROUNDS / 2], times[ROUNDS - 1]);
    println!("{kind:?} to {to}: EPERM, median {median} us, worst {worst} us");
    assert!(median < LIMIT_MICROS, "{kind:?} to {to}: EPERM took {median} us");
}

#[test]
fn a_denied_connect_or_sendto_gets_eperm_at_once_over_loopback() {
    let Some(lab) = Lab::open() else { return };
    let (rogue, db) = (lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, server) = (lab.worker(&rogue), lab.worker(&db));
    let _segd = lab.enforce(&policy(&rogue, &db));
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let (tcp, udp) = (server.listen_tcp((ip, 0)), server.listen_udp((ip, 0)));
        let mut forms = vec![ip];
        if let IpAddr::V4(v4) = ip {
            forms.push(v4.to_ipv6_mapped().into());
        }
        for form in forms {
            refused_at_once(&client, Kind::Tcp, (form, tcp.local.port()).into());
            refused_at_once(&client, Kind::Udp, (form, udp.local.port()).into());
            refused_at_once(&client, Kind::UdpConnected, (form, udp.local.port()).into());
        }
        wait::quiet(wait::SILENCE);
        assert_eq!(server.inbox(tcp).accepts, 0, "{ip}");
        assert_eq!(server.inbox(udp).bytes, 0, "{ip}");
    }
}

#[test]
fn a_denied_connect_or_sendto_gets_eperm_at_once_across_namespaces() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let (near, far) = (lab.netns("near"), lab.netns("far"));
    bridge.plug(&near, 10);
    bridge.plug(&far, 11);
    let (rogue, db) = (lab.cgroup("rogue"), lab.cgroup("db"));
    let (client, server) = (lab.worker_in(&rogue, &near), lab.worker_in(&db, &far));
    let _segd = lab.enforce(&policy(&rogue, &db));
    for ip in [IpAddr::from(v4(11)), v6(11).into()] {
        let (tcp, udp) = (server.listen_tcp((ip, 5400)), server.listen_udp((ip, 5400)));
        refused_at_once(&client, Kind::Tcp, tcp.local);
        refused_at_once(&client, Kind::Udp, udp.local);
        wait::quiet(wait::SILENCE);
        assert_eq!(server.inbox(tcp).accepts, 0, "{ip}");
        assert_eq!(server.inbox(udp).bytes, 0, "{ip}");
    }
    let mapped = SocketAddr::from((v4(11).to_ipv6_mapped(), 5400));
    refused_at_once(&client, Kind::Tcp, mapped);
    refused_at_once(&client, Kind::Udp, mapped);
}

#[test]
fn a_denied_client_of_the_world_gets_eperm_at_once() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let near = lab.netns("near");
    bridge.plug(&near, 10);
    let (rogue, db) = (lab.cgroup("rogue"), lab.cgroup("db"));
    let client = lab.worker_in(&rogue, &near);
    let remote = segd_tests::Remote::plug(&bridge, 201);
    remote.listen(5400);
    let _segd = lab.enforce(&policy(&rogue, &db));
    for ip in [IpAddr::from(v4(201)), v6(201).into()] {
        refused_at_once(&client, Kind::Tcp, (ip, 5400).into());
        refused_at_once(&client, Kind::Udp, (ip, 5400).into());
    }
    wait::quiet(wait::SILENCE);
    let leaked: Vec<_> = remote
        .frames()
        .into_iter()
        .filter(|frame| frame.port == 5400)
        .collect();
    assert!(leaked.is_empty(), "frames reached the other machine: {leaked:?}");
}
