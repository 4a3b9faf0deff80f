//! Every pair of segments, `host` and other machines, every protocol, both families, over loopback and between
//! namespaces: what arrives is what `segd policy explain` says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use segd_tests::{
    Cgroup, Kind, Lab, Netns, Outcome, Probe, Remote, Segd, Worker,
    netns::{v4, v6},
    segd::explain,
    wait,
    worker::{Handle, probe},
};

const SEGMENTS: [&str; 4] = ["web", "db", "cache", "ops"];
/// Ports that rules speak about, and ports that few rules speak about. One of each for every receiver.
const GOOD: u16 = 5400;
const BAD: u16 = 9000;

fn policy(cgroups: &[Cgroup]) -> String {
    let member = |index: usize| format!("match: [{{cgroup: {}}}]", cgroups[index].path());
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: truth}}
spec:
  segments:
    web: {{{}}}
    db: {{{}}}
    cache: {{intra: deny, {}}}
    ops: {{labels: {{tier: admin}}, {}}}
    net:
      match:
        - cidr: {}/32
        - cidr: {}/128
  allow:
    - {{from: web, to: db, ports: [tcp/5400-5499, udp/5400-5499]}}
    - {{from: web, to: cache, ports: [any]}}
    - {{from: cache, to: web, ports: [udp/1-65535, icmp/echo-request, icmpv6/echo-request]}}
    - {{from: ops, to: any, ports: [tcp/5400-5499, icmp/echo-request, icmpv6/echo-request]}}
    - {{from: net, to: web, ports: [tcp/5400-5499, udp/5400-5499, icmp/echo-request, icmpv6/echo-request]}}
    - {{from: db, to: net, ports: [udp/5400-5499]}}
    - {{from: web, to: world, ports: [tcp/5400-5499, icmp/echo-request, icmpv6/echo-request]}}
    - {{from: world, to: ops, ports: [tcp/9000-9099, udp/5400-5499]}}
    - {{from: [web, db], to: host, ports: [udp/5400-5499, icmp/echo-request, icmpv6/echo-request]}}
    - {{from: host, to: [cache, ops], ports: [any]}}
  deny:
    - {{from: {{tier: admin}}, to: db}}
    - {{from: host, to: ops, ports: [udp/9000-9099]}}
",
        member(0),
        member(1),
        member(2),
        member(3),
        v4(200),
        v6(200),
    )
}

/// What was found at one cell.
#[derive(Debug)]
struct Cell {
    name: String,
    expected: bool,
    arrived: bool,
    client: String,
}

fn judge(cells: &[Cell], what: &str) {
    let wrong: Vec<_> = cells
        .iter()
        .filter(|cell| cell.expected != cell.arrived)
        .collect();
    let allowed = cells.iter().filter(|cell| cell.expected).count();
    println!(
        "{what}: {} cells, {allowed} allowed, {} wrong",
        cells.len(),
        wrong.len()
    );
    // A denied flow must not look like success to the client either; UDP over a switch may.
    for cell in &wrong {
        println!(
            "  {}: explain says {}, at the receiver it {}; the client saw {}",
            cell.name,
            if cell.expected { "allow" } else { "deny" },
            if cell.arrived { "ARRIVED" } else { "did not arrive" },
            cell.client
        );
    }
    assert!(
        wrong.is_empty(),
        "{what}: {} of {} cells are wrong (listed above)",
        wrong.len(),
        cells.len()
    );
    assert!(
        allowed > 0 && allowed < cells.len(),
        "{what}: the table has both kinds of cell"
    );
}

struct Oracle<'a> {
    segd: &'a Segd,
    known: HashMap<(String, String, String), bool>,
}

impl Oracle<'_> {
    fn says(&mut self, from: &str, to: &str, port: &str) -> bool {
        let key = (from.to_owned(), to.to_owned(), port.to_owned());
        let segd = self.segd;
        *self
            .known
            .entry(key)
            .or_insert_with(|| segd.explains_allowed(from, to, port))
    }
}

fn echo_port(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() {
        "icmp/echo-request"
    } else {
        "icmpv6/echo-request"
    }
}

#[test]
fn every_cell_over_loopback_equals_explain() {
    let Some(lab) = Lab::open() else { return };
    let cgroups: Vec<_> = SEGMENTS.iter().map(|name| lab.cgroup(name)).collect();
    let outside = lab.cgroup("outside");
    let mut names: Vec<&str> = SEGMENTS.to_vec();
    names.push("host");
    let senders: Vec<Worker> = cgroups
        .iter()
        .chain([&outside])
        .map(|cgroup| lab.worker(cgroup))
        .collect();
    let receivers: Vec<Worker> = cgroups
        .iter()
        .chain([&outside])
        .map(|cgroup| lab.worker(cgroup))
        .collect();
    let segd = lab.enforce(&policy(&cgroups));
    let mut oracle = Oracle {
        segd: &segd,
        known: HashMap::new(),
    };

    let mut cells = Vec::new();
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        // One address, so the receivers differ by port; the rules speak of ranges.
        let mut listeners: Vec<(usize, &str, u16, Handle)> = Vec::new();
        for (number, receiver) in receivers.iter().enumerate() {
            for base in [GOOD, BAD] {
                let port = base + 10 + number as u16;
                listeners.push((number, "tcp", port, receiver.listen_tcp((ip, port))));
                listeners.push((number, "udp", port, receiver.listen_udp((ip, port))));
            }
        }
        let mut pending = Vec::new();
        for (from, sender) in names.iter().zip(&senders) {
            let mut probes: Vec<Probe> = Vec::new();
            for (to, protocol, port, _) in &listeners {
                let kind = if *protocol == "tcp" { Kind::Tcp } else { Kind::Udp };
                probes.push(probe(
                    kind,
                    (ip, *port),
                    &format!("{from}>{}:{protocol}/{port};", names[*to]),
                ));
            }
            probes.push(probe(Kind::Echo, (ip, 0), &format!("{from}>host:echo;")));
            let outcomes = sender.probe_all(probes.clone());
            pending.push((*from, probes, outcomes));
        }
        wait::quiet(wait::SILENCE);
        for (from, probes, outcomes) in pending {
            for ((probe, outcome), listener) in probes
                .iter()
                .zip(&outcomes)
                .zip(listeners.iter().map(Some).chain([None]))
            {
                let (to, port, arrived) = match listener {
                    Some((to, protocol, port, handle)) => {
                        let arrived = receivers[*to].inbox(*handle).has(&probe.token);
                        (names[*to], format!("{protocol}/{port}"), arrived)
                    }
                    // The kernel answers: the reply is the evidence that the request arrived.
                    None => ("host", echo_port(ip).to_owned(), outcome.result == "ok"),
                };
                cells.push(Cell {
                    name: format!("loopback {ip} {from} -> {to} {port}"),
                    expected: oracle.says(from, to, &port),
                    arrived,
                    client: outcome.result.clone(),
                });
            }
        }
        for (to, protocol, port, handle) in listeners {
            let inbox = receivers[to].inbox(handle);
            if protocol == "tcp" {
                let tokens = inbox.messages.len() as u64;
                assert_eq!(
                    inbox.accepts, tokens,
                    "{ip} tcp/{port}: every accepted connection was a probe's"
                );
            }
            receivers[to].close(handle);
        }
    }
    judge(&cells, "loopback");
}

struct Place<'a> {
    name: &'static str,
    sender: &'a Worker,
    receiver: &'a Worker,
    /// The receiver's number on the bridge.
    number: u8,
}

#[test]
fn every_cell_between_namespaces_and_other_machines_equals_explain() {
    let Some(lab) = Lab::open() else { return };
    let bridge = lab.bridge();
    let cgroups: Vec<_> = SEGMENTS.iter().map(|name| lab.cgroup(name)).collect();
    let outside = lab.cgroup("outside");
    let mut spaces: Vec<Netns> = Vec::new();
    let mut place = |cgroup: &Cgroup, name: &str, number: u8| -> Worker {
        let netns = lab.netns(name);
        bridge.plug(&netns, number);
        let worker = lab.worker_in(cgroup, &netns);
        spaces.push(netns);
        worker
    };
    let mut senders: Vec<Worker> = Vec::new();
    let mut receivers: Vec<Worker> = Vec::new();
    for (index, name) in SEGMENTS.iter().enumerate() {
        senders.push(place(&cgroups[index], &format!("{name}1"), 10 + index as u8));
        receivers.push(place(&cgroups[index], &format!("{name}2"), 20 + index as u8));
    }
    senders.push(place(&outside, "outside", 30));
    // The host's own namespace: its address on the bridge is number 1.
    receivers.push(lab.worker(&outside));
    let net = Remote::plug(&bridge, 200);
    let world = Remote::plug(&bridge, 201);
    for remote in [&net, &world] {
        remote.listen(GOOD);
        remote.listen(BAD);
    }

    // Everybody meets the other machines once: neighbours are known before anything is judged.
    for (number, receiver) in receivers.iter().enumerate() {
        for remote in [&net, &world] {
            for there in [IpAddr::from(remote.v4), remote.v6.into()] {
                let token = format!("hello-{number};");
                receiver.probe(Kind::Udp, (there, 7), &token);
                wait::wait_until(format!("{token} at {there}"), wait::PATIENCE, || {
                    remote.frames().iter().any(|frame| {
                        frame.payload == token.as_bytes() && frame.source.is_ipv4() == there.is_ipv4()
                    })
                });
            }
        }
    }

    let text = policy(&cgroups);
    let segd = lab
        .segd(&text)
        .args(&["--interface", net.interface(), "--interface", world.interface()])
        .start();
    let mut oracle = Oracle {
        segd: &segd,
        known: HashMap::new(),
    };

    let places: Vec<Place<'_>> = SEGMENTS
        .iter()
        .copied()
        .chain(["host"])
        .zip(senders.iter().zip(&receivers))
        .enumerate()
        .map(|(index, (name, (sender, receiver)))| Place {
            name,
            sender,
            receiver,
            number: if name == "host" { 1 } else { 20 + index as u8 },
        })
        .collect();
    let remotes = [("net", &net), ("world", &world)];

    let mut cells = Vec::new();
    for family in [4, 6] {
        let address = |number: u8| -> IpAddr {
            if family == 4 {
                v4(number).into()
            } else {
                v6(number).into()
            }
        };
        let mut listeners: BTreeMap<(usize, &str, u16), Handle> = BTreeMap::new();
        for (index, place) in places.iter().enumerate() {
            let ip = address(place.number);
            for port in [GOOD, BAD] {
                listeners.insert((index, "tcp", port), place.receiver.listen_tcp((ip, port)));
                listeners.insert((index, "udp", port), place.receiver.listen_udp((ip, port)));
            }
        }

        // TCP and UDP from local senders to local receivers and to the other machines.
        let mut pending: Vec<(&str, &str, String, Probe, Outcome)> = Vec::new();
        for from in &places {
            let mut plan: Vec<(&str, String, Probe)> = Vec::new();
            let targets = places
                .iter()
                .map(|place| (place.name, address(place.number)))
                .chain(
                    remotes
                        .iter()
                        .map(|(name, remote)| (*name, remote.address(address(1)))),
                );
            for (to, ip) in targets {
                for (kind, protocol) in [(Kind::Tcp, "tcp"), (Kind::Udp, "udp")] {
                    for port in [GOOD, BAD] {
                        let token = format!("{}>{to}:{protocol}/{port}/{family};", from.name);
                        plan.push((to, format!("{protocol}/{port}"), probe(kind, (ip, port), &token)));
                    }
                }
            }
            let outcomes = from
                .sender
                .probe_all(plan.iter().map(|(_, _, probe)| probe.clone()).collect());
            for ((to, port, probe), outcome) in plan.into_iter().zip(outcomes) {
                pending.push((from.name, to, port, probe, outcome));
            }
        }
        // … and from the other machines to local receivers.
        for (name, remote) in &remotes {
            for place in &places {
                for port in [GOOD, BAD] {
                    let to = (address(place.number), port).into();
                    let token = |protocol: &str| format!("{name}>{}:{protocol}/{port}/{family};", place.name);
                    let result = remote.tcp(to, &token("tcp"), Duration::from_millis(300));
                    let mut tried = |protocol: &str, kind, result: &str| {
                        pending.push((
                            name,
                            place.name,
                            format!("{protocol}/{port}"),
                            probe(kind, to, &token(protocol)),
                            Outcome {
                                result: result.into(),
                                micros: 0,
                            },
                        ));
                    };
                    tried("tcp", Kind::Tcp, result);
                    remote.udp(to, 0, &token("udp"));
                    tried("udp", Kind::Udp, "sent");
                }
            }
        }
        wait::quiet(wait::SILENCE);
        for (from, to, port, probe, outcome) in pending {
            let (protocol, number) = port.split_once('/').unwrap();
            let arrived = match remotes.iter().find(|(name, _)| *name == to) {
                Some((_, remote)) => remote.inbox().has(&probe.token),
                None => {
                    let index = places.iter().position(|place| place.name == to).unwrap();
                    let key = (
                        index,
                        if protocol == "tcp" { "tcp" } else { "udp" },
                        number.parse().unwrap(),
                    );
                    places[index].receiver.inbox(listeners[&key]).has(&probe.token)
                }
            };
            cells.push(Cell {
                name: format!("namespaces v{family} {from} -> {to} {port}"),
                expected: oracle.says(from, to, &port),
                arrived,
                client: outcome.result,
            });
        }

        // Echo: the receiver's kernel counts the requests that reached it, the sender sees the reply.
        for from in &places {
            for place in &places {
                let ip = address(place.number);
                let pick = |(a, b): (u64, u64)| if family == 4 { a } else { b };
                let before = pick(place.receiver.echo_requests_received());
                let outcome =
                    from.sender
                        .probe(Kind::Echo, (ip, 0), &format!("{}>{}", from.name, place.name));
                let counted = pick(place.receiver.echo_requests_received()) > before;
                cells.push(Cell {
                    name: format!("namespaces v{family} {} -> {} echo", from.name, place.name),
                    expected: oracle.says(from.name, place.name, echo_port(ip)),
                    arrived: outcome.result == "ok",
                    client: format!("{}; the receiver's kernel counted it: {counted}", outcome.result),
                });
            }
            for (name, remote) in &remotes {
                let ip = remote.address(address(1));
                let pick = |(a, b): (u64, u64)| if family == 4 { a } else { b };
                let before = pick(remote.echo_requests_received());
                let outcome = from
                    .sender
                    .probe(Kind::Echo, (ip, 0), &format!("{}>{name}", from.name));
                let counted = pick(remote.echo_requests_received()) > before;
                cells.push(Cell {
                    name: format!("namespaces v{family} {} -> {name} echo", from.name),
                    expected: oracle.says(from.name, name, echo_port(ip)),
                    arrived: counted,
                    client: outcome.result,
                });
            }
        }
        for (name, remote) in &remotes {
            for place in &places {
                let ip = address(place.number);
                let answered = remote.ping(ip, Duration::from_millis(300));
                cells.push(Cell {
                    name: format!("namespaces v{family} {name} -> {} echo", place.name),
                    expected: oracle.says(name, place.name, echo_port(ip)),
                    arrived: answered,
                    client: if answered {
                        "a reply".into()
                    } else {
                        "no reply".into()
                    },
                });
            }
        }
        for ((index, _, _), handle) in listeners {
            places[index].receiver.close(handle);
        }
    }
    judge(&cells, "namespaces and other machines");

    // What the policy denies to the world leaves no frame behind either: no SYN at the closed pairs.
    let denied_syn = world
        .frames()
        .into_iter()
        .filter(|frame| frame.protocol == 6 && frame.flags & 2 != 0 && frame.port == BAD)
        .filter(|frame| frame.source != IpAddr::from(v4(30)) && frame.source != IpAddr::from(v6(30)))
        .collect::<Vec<_>>();
    assert!(
        denied_syn.is_empty(),
        "SYNs to a denied port reached the other machine: {denied_syn:?}"
    );
    assert!(!explain(
        &segd_tests::segd::binary(),
        segd.policy_path(),
        "web",
        "world",
        "tcp/9000"
    ));
}
