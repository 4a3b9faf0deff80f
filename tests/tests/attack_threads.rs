//! Threads that share a socket and judge each other's peers into each other: what is kept of a judgement, and what is kept of an
//! exchange, is written by several CPUs at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use segd_tests::{Lab, wait};

const OPEN: u16 = 5432;
const SHUT: u16 = 5533;
const TIMES: u32 = 5000;
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
        let shut = [SHUT, SHUT + 1].map(|port| server.listen_udp((local, port)));
        let foreign = other.listen_udp((local, OPEN + 1));
        let socket = client.open_udp((local, 0), None).unwrap();
        let to = [open, shut[0], open, foreign, shut[1]];
        let peers: Vec<SocketAddr> = to.iter().map(|handle| handle.local).collect();
        let denied = |segd: &segd_tests::Segd| {
            let labels = [("verdict", "denied"), ("from", "web")];
            segd.metric("segd_packets_total", &labels).unwrap_or_default() as u64
        };
        let tally = client.alternate(socket, peers, TIMES, THREADS);
        let each = u64::from(TIMES) * THREADS as u64;
        assert_eq!(tally.attempts, 5 * each);
        assert_eq!(tally.successes, 2 * each, "{:?}", tally.failures);
        for handle in [shut[0], foreign, shut[1]] {
            let story = format!("EPERM to {}", handle.local);
            assert_eq!(tally.failures.get(&story), Some(&each), "{:?}", tally.failures);
        }
        wait::wait_until("all refusals are counted", Duration::from_secs(5), || {
            denied(&segd) == 3 * each
        });
        server.wait_for_message(open, &format!("for {};", open.local));
        wait::quiet(wait::SILENCE);
        for handle in shut {
            assert_eq!(server.inbox(handle).messages, [""; 0]);
        }
        assert_eq!(other.inbox(foreign).messages, [""; 0]);
        let strange = |message: &String| *message != format!("for {};", open.local);
        assert!(!server.inbox(open).messages.iter().any(strange));
        for handle in [open, shut[0], shut[1]] {
            server.close(handle);
        }
        other.close(foreign);
    }
}
