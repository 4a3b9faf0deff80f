//! Threads that share a socket and judge each other's peers into each other: what is kept of a judgement, and what is kept of an
//! exchange, is written by several CPUs at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use segd_tests::{Lab, wait, worker::Handle};

const OPEN: u16 = 5432;
const SHUT: u16 = 5533;
/// More than a socket keeps judgements of: some share their place with the peer that is allowed.
const PEERS: u16 = 24;
const TIMES: u32 = 600;
const THREADS: usize = 4;

#[test]
fn threads_that_take_turns_with_peers_on_one_socket_reach_none_that_is_denied() {
    let Some(lab) = Lab::open() else { return };
    let [web, rogue, db] = ["web", "rogue", "db"].map(|name| lab.cgroup(name));
    let (client, server, other) = (lab.worker(&web), lab.worker(&db), lab.worker(&rogue));
    let policy = format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: threads}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: web, to: db, ports: [udp/{OPEN}]}}
",
        web.path(),
        rogue.path(),
        db.path()
    );
    for local in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let segd = lab.enforce(&policy);
        let open = server.listen_udp((local, OPEN));
        let shut: Vec<Handle> = (SHUT..SHUT + PEERS)
            .map(|port| server.listen_udp((local, port)))
            .collect();
        let foreign = other.listen_udp((local, OPEN + 1));
        let socket = client.open_udp((local, 0), None).unwrap();
        let denied_peers: Vec<SocketAddr> =
            shut.iter().chain([&foreign]).map(|handle| handle.local).collect();
        let peers: Vec<SocketAddr> = denied_peers
            .iter()
            .flat_map(|denied| [open.local, open.local, *denied])
            .collect();
        let denied = |segd: &segd_tests::Segd| {
            let labels = [("verdict", "denied"), ("from", "web")];
            segd.metric("segd_packets_total", &labels).unwrap_or_default() as u64
        };
        let tally = client.alternate(socket, peers, TIMES, THREADS);
        let each = u64::from(TIMES) * THREADS as u64;
        let refused = denied_peers.len() as u64 * each;
        assert_eq!(tally.attempts, 3 * refused);
        assert_eq!(tally.successes, 2 * refused, "{:?}", tally.failures);
        for peer in denied_peers {
            let story = format!("EPERM to {peer}");
            assert_eq!(tally.failures.get(&story), Some(&each), "{:?}", tally.failures);
        }
        wait::wait_until("all refusals are counted", Duration::from_secs(5), || {
            denied(&segd) == refused
        });
        server.wait_for_message(open, &format!("for {};", open.local));
        wait::quiet(wait::SILENCE);
        for handle in &shut {
            assert_eq!(server.inbox(*handle).messages, [""; 0]);
        }
        assert_eq!(other.inbox(foreign).messages, [""; 0]);
        let strange = |message: &String| *message != format!("for {};", open.local);
        assert!(!server.inbox(open).messages.iter().any(strange));
        for handle in shut.iter().chain([&open]) {
            server.close(*handle);
        }
        other.close(foreign);
    }
}
