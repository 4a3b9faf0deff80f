//! A denied peer looks for what is there: open, closed and unbound ports look alike to another machine, whatever it
//! sends. BYPASSES.md D6.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use segd_tests::{
    Lab, Remote, Segd, Worker,
    netns::{v4, v6},
    wait, wire,
    worker::Handle,
};

const OPEN: u16 = 5432;
/// Where nobody listens.
const CLOSED: u16 = 5433;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
const URG: u8 = 32;

struct Scan {
    remote: Remote,
    server: Worker,
    ears: Vec<Handle>,
    segd: Segd,
    policy: String,
    mac: [u8; 6],
    _cgroup: segd_tests::Cgroup,
    _bridge: segd_tests::Bridge,
    _lab: Lab,
}

fn addresses() -> [IpAddr; 2] {
    [v4(1).into(), v6(1).into()]
}

impl Scan {
    /// `at_the_nic`: XDP looks at what the scanner sends, too; else the hooks of sockets and of the kernel's answers alone.
    fn open(at_the_nic: bool) -> Option<Scan> {
        let lab = Lab::open()?;
        let bridge = lab.bridge();
        let remote = Remote::plug(&bridge, 60);
        let cgroup = lab.cgroup("db");
        let server = lab.worker(&cgroup);
        let mut ears = Vec::new();
        for at in addresses() {
            ears.push(server.listen_tcp((at, OPEN)));
            ears.push(server.listen_udp((at, OPEN)));
        }
        // `allow:` may be empty for the scanner and the host: nobody may.
        let policy = format!(
            "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: scan}}
spec:
  segments:
    db: {{match: [{{cgroup: {}}}]}}
    scanner: {{intra: deny, match: [{{cidr: {}/32}}, {{cidr: {}/128}}]}}
  allow:
    - {{from: db, to: world, ports: [tcp/9]}}
",
            cgroup.path(),
            v4(60),
            v6(60)
        );
        let words = ["--interface", remote.interface()];
        let segd = lab
            .segd(&policy)
            .args(if at_the_nic { &words } else { &[] })
            .start();
        Some(Scan {
            mac: wire::mac(bridge.name()),
            remote,
            server,
            ears,
            segd,
            policy,
            _cgroup: cgroup,
            _bridge: bridge,
            _lab: lab,
        })
    }

    /// What came back to the scanner: all but neighbour discovery and groups.
    fn answers(&self) -> Vec<(u8, u16, u8)> {
        let ours = |source: &IpAddr| addresses().contains(source);
        let frames = self.remote.frames().into_iter();
        frames
            .filter(|frame| ours(&frame.source) && !(frame.protocol == 58 && frame.port >= 130))
            .map(|frame| (frame.protocol, frame.port, frame.flags))
            .collect()
    }

    fn send(&self, from: u16, to: SocketAddr, protocol: u8, upper: &[u8]) {
        let _ = from;
        let packet = wire::packet(self.remote.address(to.ip()), to.ip(), protocol, upper);
        self.remote.inject(&wire::frame(self.mac, &packet));
    }

    fn segment(&self, from: u16, to: SocketAddr, flags: u8) {
        let source = SocketAddr::new(self.remote.address(to.ip()), from);
        self.send(from, to, 6, &wire::segment(source, to, flags));
    }
}

#[test]
fn open_closed_and_unbound_ports_look_alike_to_a_denied_machine() {
    for at_the_nic in [true, false] {
        ports_look_alike(at_the_nic);
    }
}

#[track_caller]
fn ports_look_alike(at_the_nic: bool) {
    let Some(scan) = Scan::open(at_the_nic) else {
        return;
    };
    let flags = [
        SYN,
        SYN | ACK,
        ACK,
        FIN,
        FIN | ACK,
        RST,
        RST | ACK,
        0,
        FIN | PSH | URG,
        PSH | ACK,
        SYN | FIN,
        SYN | RST,
    ];
    // Neighbours know each other, so that an answer would not have to wait.
    for at in addresses() {
        scan.remote.udp((at, OPEN).into(), 0, "warm;");
        wait::quiet(Duration::from_millis(50));
    }
    for at in addresses() {
        for port in [OPEN, CLOSED] {
            for (number, flags) in flags.into_iter().enumerate() {
                // What resets a closed port of IPv6 is a packet without a socket: no hook but the NIC's sees either.
                if at_the_nic || at.is_ipv4() || port == OPEN {
                    scan.segment(50_000 + number as u16, (at, port).into(), flags);
                }
            }
            let (from, to) = ((scan.remote.address(at), 50_100).into(), (at, port).into());
            scan.send(50_100, to, 17, &wire::udp_between(from, to, b"scan;"));
            for protocol in [47, 132, 136, 253] {
                scan.send(50_100, to, protocol, &wire::udp_between(from, to, b"scan;"));
            }
        }
        assert!(!scan.remote.ping(at, Duration::from_millis(100)));
    }
    wait::quiet(wait::SILENCE * 2);
    assert_eq!(scan.answers(), [], "the scanner was told something");
    for ear in &scan.ears {
        let inbox = scan.server.inbox(*ear);
        assert_eq!((inbox.accepts, inbox.bytes), (0, 0), "{}", ear.local);
    }
    let denied = scan.segd.denied();
    // Where nobody listens, only an answer that is held back is counted without the NIC's hook: some segments have none.
    let counted = if at_the_nic { 2 * 2 * 13 } else { 2 * 13 };
    assert!(
        denied.values().sum::<u64>() >= counted,
        "each was denied: {denied:?}"
    );
}

/// Strays to what a scanner had while it was allowed: a connection that ended here first, one half open, one live.
#[test]
fn a_machine_that_lost_its_right_hears_nothing_of_its_old_connections() {
    for at_the_nic in [true, false] {
        hears_nothing(at_the_nic);
    }
}

#[track_caller]
fn hears_nothing(at_the_nic: bool) {
    let Some(scan) = Scan::open(at_the_nic) else {
        return;
    };
    let allowed = scan.policy.replace(
        "  allow:\n",
        &format!("  allow:\n    - {{from: scanner, to: db, ports: [tcp/{OPEN}]}}\n"),
    );
    scan.segd.set_policy(&allowed);
    for (at, ear) in addresses().into_iter().zip([scan.ears[0], scan.ears[2]]) {
        assert_eq!(
            scan.remote
                .tcp((at, OPEN).into(), "mine;", Duration::from_secs(3)),
            "ok"
        );
        wait::wait_until("it arrived", wait::PATIENCE, || {
            scan.server.inbox(ear).has("mine;")
        });
        // Half open: the answer to a SYN whose sender never says another word.
        scan.segment(51_000, (at, OPEN).into(), SYN);
        wait::wait_until("the handshake is answered", wait::PATIENCE, || {
            scan.remote
                .frames()
                .iter()
                .any(|frame| frame.protocol == 6 && frame.flags == SYN | ACK)
        });
        // An allowed machine is told of a closed port; so the silence below is segd's.
        scan.segment(51_001, (at, OPEN).into(), ACK);
        wait::wait_until("a stray is reset", wait::PATIENCE, || {
            let frames = scan.remote.frames();
            frames
                .iter()
                .any(|frame| frame.protocol == 6 && frame.port == 51_001 && frame.flags & RST != 0)
        });
    }
    let ports: Vec<u16> = {
        let inbox = scan.ears.iter().flat_map(|ear| scan.server.inbox(*ear).sources);
        inbox
            .map(|source| source.port())
            .chain([51_000, 51_001])
            .collect()
    };
    scan.segd.set_policy(&scan.policy);
    // What was on its way, and a SYN-ACK that is sent again, has come or is denied from here on.
    wait::quiet(wait::SILENCE * 2);
    let before = scan.answers().len();
    for at in addresses() {
        for port in &ports {
            for flags in [ACK, FIN | ACK, RST, SYN, SYN | ACK, PSH | ACK] {
                scan.segment(*port, (at, OPEN).into(), flags);
            }
        }
    }
    // A SYN-ACK is sent again after one second, and after three.
    wait::quiet(Duration::from_millis(1500));
    let answers = scan.answers();
    assert_eq!(answers[before..], [], "it was told something");
}
