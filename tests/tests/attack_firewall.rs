//! Somebody reloads a firewall while traffic runs: segd depends on no rule set, so nothing becomes allowed and nothing
//! allowed is lost. BYPASSES.md section 3, class 34, and F12.
//!
//! The rule sets are those of the namespaces that the packets cross, a workload's and its router's: the host's own is
//! not a test's to flush.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use segd_tests::{
    Cgroup, Kind, Lab, Netns, Segd, Worker,
    netns::{v4, v6},
    wait,
    worker::{Handle, probe},
};

const OPEN: u16 = 5432;
const SHUT: u16 = 9000;
/// How long rule sets come and go.
const STORM: Duration = Duration::from_secs(4);

/// Rule sets that people load: one that tracks, accepts what is established and translates, one that tracks nothing and
/// marks everything, one that knows of workloads by their cgroups.
const RULE_SETS: [&str; 3] = [
    "table inet filter {
       chain in { type filter hook input priority filter; policy accept;
         ct state established,related accept; meta l4proto tcp counter accept;
       }
       chain out { type filter hook output priority filter; policy accept; ct state new counter accept;
       }
     }
     table ip nat {
       chain post { type nat hook postrouting priority srcnat; ip daddr 192.0.2.0/24 masquerade; }
       chain pre { type nat hook prerouting priority dstnat; tcp dport 1 dnat to 10.213.7.11:9000; }
     }",
    "table inet raw {
       chain pre { type filter hook prerouting priority raw; notrack; meta mark set 0xffffffff; }
       chain out { type filter hook output priority raw; notrack; meta mark set 0x00005e9d; }
     }",
    "table bridge filter {
       chain forward { type filter hook forward priority 0; policy accept; }
     }
     table netdev early {
       chain in { type filter hook ingress device eth0 priority -500; policy accept; counter; }
     }",
];

struct Scene {
    near: Netns,
    far: Netns,
    web: Worker,
    rogue: Worker,
    db: Worker,
    /// `db` beside its clients, over their loopback.
    beside: Worker,
    segd: Segd,
    _cgroups: [Cgroup; 3],
    _bridge: segd_tests::Bridge,
    _lab: Lab,
}

impl Scene {
    fn new() -> Option<Scene> {
        let lab = Lab::open()?;
        let bridge = lab.bridge();
        let (near, far) = (lab.netns("near"), lab.netns("far"));
        bridge.plug(&near, 10);
        bridge.plug(&far, 11);
        let [web, rogue, db] = ["web", "rogue", "db"].map(|name| lab.cgroup(name));
        let policy = format!(
            "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: firewall}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
  allow:
    - {{from: web, to: db, ports: [tcp/{OPEN}, udp/{OPEN}]}}
",
            web.path(),
            rogue.path(),
            db.path()
        );
        Some(Scene {
            web: lab.worker_in(&web, &near),
            rogue: lab.worker_in(&rogue, &near),
            db: lab.worker_in(&db, &far),
            beside: lab.worker_in(&db, &near),
            segd: lab.enforce(&policy),
            near,
            far,
            _cgroups: [web, rogue, db],
            _bridge: bridge,
            _lab: lab,
        })
    }
}

#[test]
fn rule_sets_come_and_go_and_every_verdict_stays() {
    let Some(scene) = Scene::new() else { return };
    let mut ears: Vec<(&Worker, Handle, bool)> = Vec::new();
    for (worker, addresses) in [
        (&scene.db, [IpAddr::from(v4(11)), v6(11).into()]),
        (
            &scene.beside,
            [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        ),
    ] {
        for address in addresses {
            for port in [OPEN, SHUT] {
                ears.push((worker, worker.listen_tcp_echo((address, port)), port == OPEN));
            }
        }
    }
    let open = || ears.iter().filter(|(_, _, open)| *open).map(|(_, ear, _)| *ear);
    let flows: Vec<Handle> = open().map(|ear| scene.web.open_tcp(ear.local).unwrap()).collect();
    let traffic = scene.web.traffic(&flows);
    let fresh = scene
        .web
        .hammer(open().map(|ear| probe(Kind::Tcp, ear.local, "new;")).collect(), 1);
    let attack = |worker: &Worker, wanted: bool| {
        let targets = ears.iter().filter(|(_, _, open)| wanted || !*open);
        let probes = targets.flat_map(|(_, ear, _)| {
            [Kind::Tcp, Kind::Udp, Kind::RawUdp].map(|kind| segd_tests::Probe {
                timeout_ms: 20,
                ..probe(kind, ear.local, "leak;")
            })
        });
        worker.hammer(probes.collect(), 1)
    };
    let hammers = [
        (&scene.rogue, attack(&scene.rogue, true)),
        (&scene.web, attack(&scene.web, false)),
    ];

    let start = Instant::now();
    let mut storms = 0;
    while start.elapsed() < STORM {
        for rules in RULE_SETS {
            for netns in [&scene.near, &scene.far] {
                netns.run(&["nft", "-f", "-"], rules);
            }
        }
        for netns in [&scene.near, &scene.far] {
            netns.run(&["iptables", "-A", "INPUT", "-j", "ACCEPT"], "");
            netns.run(&["iptables", "-F"], "");
            netns.run(&["iptables", "-t", "nat", "-F"], "");
            netns.run(&["ip6tables", "-F"], "");
            netns.run(&["nft", "flush", "ruleset"], "");
        }
        storms += 1;
    }
    assert!(storms >= 2, "{storms} rounds of rule sets");
    let kept = scene.web.stop(traffic);
    assert!(
        kept.failures.is_empty() && kept.least > 20,
        "sessions went on: {kept:?}"
    );
    let made = scene.web.stop(fresh);
    assert!(
        made.successes > 20 && made.successes == made.attempts,
        "new ones, too: {made:?}"
    );
    for (worker, hammer) in hammers {
        let tally = worker.stop(hammer);
        assert!(tally.attempts > 20, "{tally:?}");
    }
    wait::quiet(wait::SILENCE);
    for (worker, ear, _) in &ears {
        assert!(!worker.inbox(*ear).has("leak;"), "{} was reached", ear.local);
    }
    // `unknown` is a late segment of a short connection that is gone: it finds the listener, with or without a storm.
    let denied = scene.segd.denied();
    let named = denied
        .keys()
        .all(|reason| ["no-rule", "unknown"].contains(&reason.as_str()));
    assert!(named && denied["no-rule"] > 100, "{denied:?}");
    assert_eq!(scene.segd.json(&["status"])["enforcing"], true);
}
