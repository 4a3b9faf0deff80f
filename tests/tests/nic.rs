//! XDP on an interface: what no socket could accept is dropped before the stack pays for it, and counted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{IpAddr, Ipv4Addr},
    process::Command,
    time::Duration,
};

use segd_tests::{Kind, Lab, Netns, Segd, netns::cable, wait, wire};

const PATIENCE: Duration = Duration::from_secs(5);

struct Wire {
    netns: Netns,
    interface: String,
    host: IpAddr,
    host6: IpAddr,
    far: IpAddr,
    far6: IpAddr,
    mac: [u8; 6],
}

fn wire_to(lab: &Lab) -> Wire {
    let netns = lab.netns("far");
    let (far, far6) = cable(&netns, 9);
    let interface = format!("sgt{}c9", std::process::id() % 100_000);
    let mac = wire::mac(&interface);
    Wire {
        netns,
        interface,
        host: "10.213.9.1".parse().unwrap(),
        host6: "fd13:213:9::1".parse().unwrap(),
        far,
        far6,
        mac,
    }
}

fn denied(segd: &Segd, reason: &str) -> f64 {
    segd.metric("segd_packets_total", &[("verdict", "denied"), ("reason", reason)])
        .unwrap_or(0.0)
}

#[track_caller]
fn drops(segd: &Segd, wire: &Wire, reason: &str, packets: &[Vec<u8>]) {
    let before = denied(segd, reason);
    let frames: Vec<Vec<u8>> = packets
        .iter()
        .map(|packet| wire::frame(wire.mac, packet))
        .collect();
    wire::inject(&wire.netns, &frames);
    let wanted = before + packets.len() as f64;
    wait::wait_until(format!("{wanted} packets denied for {reason}"), PATIENCE, || {
        denied(segd, reason) >= wanted
    });
    wait::stays("each counted once", Duration::from_millis(100), || {
        denied(segd, reason) == wanted
    });
}

const NOTHING: &str = "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {name: nic}
spec:
  segments:
    nobody: {match: [{cgroup: /segd-t-nobody}]}
";

#[test]
fn malformed_packets_are_dropped_with_their_own_reason() {
    let Some(lab) = Lab::open() else { return };
    let wire = wire_to(&lab);
    let segd = lab.segd(NOTHING).args(&["--interface", &wire.interface]).start();
    let good = wire::packet(wire.far, wire.host, 17, &wire::udp(1, 9, b"x"));

    let mut short_header = good.clone();
    short_header[0] = 0x44;
    let mut long_total = good.clone();
    long_total[2..4].copy_from_slice(&1000_u16.to_be_bytes());
    let cut = wire::packet(wire.far, wire.host, 17, &[0, 1, 0, 9, 0]);
    drops(&segd, &wire, "malformed", &[short_header]);
    drops(&segd, &wire, "length", &[long_total]);
    drops(&segd, &wire, "truncated", &[cut]);

    // A routing header with a segment left (RFC 8754 form), then UDP.
    let mut routed = vec![17, 2, 4, 1, 0, 0, 0, 0];
    routed.extend([0; 16]);
    routed.extend(wire::udp(1, 9, b"x"));
    drops(
        &segd,
        &wire,
        "routing-header",
        &[wire::packet(wire.far6, wire.host6, 43, &routed)],
    );

    // Nine destination options in a row: one more than is walked.
    let mut chain = Vec::new();
    for _ in 0..9 {
        chain.extend([60, 0, 1, 4, 0, 0, 0, 0]);
    }
    drops(
        &segd,
        &wire,
        "extension-header",
        &[wire::packet(wire.far6, wire.host6, 60, &chain)],
    );
}

#[test]
fn the_hosts_own_address_does_not_come_in_by_a_wire() {
    let Some(lab) = Lab::open() else { return };
    let wire = wire_to(&lab);
    let segd = lab.segd(NOTHING).args(&["--interface", &wire.interface]).start();
    let forged = wire::packet(wire.host, wire.host, 17, &wire::udp(1, 9, b"x"));
    drops(&segd, &wire, "spoofed", &[forged.clone(), forged]);
}

#[test]
fn a_source_that_nothing_admits_is_dropped_and_an_admitted_one_arrives() {
    let Some(lab) = Lab::open() else { return };
    let wire = wire_to(&lab);
    let server = lab.cgroup("server");
    let policy = format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: nic}}
spec:
  defaults: {{host: enforce}}
  segments:
    server: {{match: [{{cgroup: {}}}]}}
    friend: {{match: [{{cidr: 198.51.100.0/24}}]}}
    stranger: {{intra: deny, match: [{{cidr: 203.0.113.0/24}}]}}
  allow:
    # This machine's own life goes on: the test runs on it.
    - {{from: [host, world], to: [host, world], ports: [any]}}
    - {{from: friend, to: server, ports: [udp/5300]}}
",
        server.path()
    );
    let worker = lab.worker(&server);
    let segd = lab.segd(&policy).args(&["--interface", &wire.interface]).start();
    let inbox = worker.listen_udp((wire.host, 5300));

    // Only reverse-path filtering, not segd, cares where a source is routed.
    let rp_filter = format!("net/ipv4/conf/{}/rp_filter", wire.interface);
    let _off = segd_tests::netns::Sysctl::set(&rp_filter, "0");
    let _all = segd_tests::netns::Sysctl::set("net/ipv4/conf/all/rp_filter", "0");

    let stranger = IpAddr::from(Ipv4Addr::new(203, 0, 113, 7));
    let friend = IpAddr::from(Ipv4Addr::new(198, 51, 100, 7));
    drops(
        &segd,
        &wire,
        "no-rule",
        &[
            wire::packet(stranger, wire.host, 6, &wire::syn(22)),
            wire::packet(stranger, wire.host, 17, &wire::udp(1, 5300, b"stranger;")),
            wire::packet(stranger, wire.host, 1, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]),
        ],
    );
    let hello = wire::packet(friend, wire.host, 17, &wire::udp(1, 5300, b"friend;"));
    wire::inject(&wire.netns, &[wire::frame(wire.mac, &hello)]);
    wait::wait_until("the friend's datagram arrives", PATIENCE, || {
        worker.inbox(inbox).has("friend;")
    });
    assert!(
        !worker.inbox(inbox).has("stranger;"),
        "a stranger's datagram arrived"
    );
}

#[test]
fn ordinary_traffic_passes_and_status_tells_how_xdp_is_attached() {
    let Some(lab) = Lab::open() else { return };
    let wire = wire_to(&lab);
    let mut segd = lab.segd(NOTHING).args(&["--interface", &wire.interface]).start();
    let anybody = lab.cgroup("anybody");
    let near = lab.worker(&anybody);
    let far = lab.worker_in(&anybody, &wire.netns);
    for ip in [wire.host, wire.host6] {
        let listener = near.listen_tcp((ip, 5301));
        assert_eq!(
            far.probe(Kind::Tcp, listener.local, "hello;").result,
            "ok",
            "TCP to {ip}"
        );
    }
    let status = segd.json(&["status"]);
    let hook = format!("xdp:{}", wire.interface);
    let program = status["programs"]
        .as_array()
        .unwrap()
        .iter()
        .find(|program| program["hook"] == hook.as_str())
        .expect("status lists the interface");
    assert_eq!(program["attached"], true);
    let note = program["note"].as_str().unwrap();
    assert!(note == "native" || note == "generic", "the mode is told: {note}");
    let shown = || {
        let output = Command::new("ip")
            .args(["link", "show", &wire.interface])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(shown().contains("xdp"), "attached: {}", shown());
    segd.unload();
    wait::wait_until("XDP is gone from the interface", PATIENCE, || {
        !shown().contains("prog/xdp")
    });
}
