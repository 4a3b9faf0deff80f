//! `policy::learn`: the proposal is a policy that is right, opens what was seen, and nothing else between whom it names.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what must hold")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use segd::{
    policy::{
        compile::compile,
        compiled::{CompiledTables, SegmentIndexes},
        diagnostic::{Severity, Style, render},
        learn::{Ground, Party, Proposal, Seen, learn},
        model::{Peer, Policy, Source},
        oracle, port,
        resolve::resolve,
    },
    workload::selector::SelectorTables,
};
use segd_common::{
    matching::{Name, child_flags},
    service::{self, Service},
};

/// The policy of a text; a warning that it opens too much fails as an error does.
#[track_caller]
fn policy_of(text: &str) -> (Policy, CompiledTables) {
    let sources = [Source {
        name: "learned.yaml".into(),
        text: text.into(),
    }];
    let (policy, warnings) = resolve(&sources, false)
        .unwrap_or_else(|errors| panic!("{}\n{text}", render(&errors, &sources, Style::Plain)));
    let broad: Vec<_> = warnings
        .into_iter()
        .filter(|warning| warning.severity == Severity::Error || warning.code.label() == "broad")
        .collect();
    assert!(
        broad.is_empty(),
        "{}\n{text}",
        render(&broad, &sources, Style::Plain)
    );
    let mut indexes = SegmentIndexes::default();
    indexes.allocate(&policy, &BTreeSet::new()).expect("it fits");
    let tables = compile(&policy, &indexes, None).expect("it fits");
    (policy, tables)
}

/// Who a party is under a policy, the way a host would find out.
fn peer(party: &Party, policy: &Policy, tables: &CompiledTables) -> Peer {
    match party {
        Party::Host => Peer::Host,
        Party::World => Peer::World,
        Party::Segment(name) => Peer::Segment(name.clone()),
        Party::Address(address) => match oracle::owners(policy, *address).as_slice() {
            [] => Peer::World,
            [one] => Peer::Segment((*one).to_owned()),
            more => panic!("{address} is claimed by {more:?}"),
        },
        Party::Cgroup(path) => {
            let selectors = SelectorTables::compile(tables, 1, &|_| None).expect("few selectors");
            let mut flags = 0;
            let way: Vec<(&[u8], u16)> = path
                .split('/')
                .filter(|name| !name.is_empty())
                .map(|name| {
                    flags = child_flags(flags, true, &Name::new(name.as_bytes()));
                    (name.as_bytes(), flags)
                })
                .collect();
            let slot = selectors.classify_path(&way);
            assert_eq!(slot.identity.flags, 0, "{path} is ambiguous or pending");
            match tables.names[usize::from(slot.identity.segment)].as_str() {
                "host" => Peer::Host,
                name => Peer::Segment(name.to_owned()),
            }
        }
    }
}

fn seen(from: Party, to: Party, port: &str) -> Seen {
    Seen {
        from,
        to,
        service: port::parse_one(port).expect("a port"),
        flows: 1,
        example: "10.0.0.1:4000 -> 10.0.0.2:5432 at 2026-11-29T08:00:00Z".into(),
    }
}

fn cgroup(path: &str) -> Party {
    Party::Cgroup(path.into())
}

fn address(text: &str) -> Party {
    Party::Address(text.parse().expect("an address"))
}

#[track_caller]
fn proposed(flows: &[Seen]) -> (Proposal, String) {
    let proposal = learn(flows, &Ground::default());
    let text = proposal.document("learned", &[]);
    (proposal, text)
}

#[test]
fn a_small_session_becomes_a_policy_to_read() {
    let (_, text) = proposed(&[
        seen(
            cgroup("/shop/curl"),
            cgroup("/system.slice/nginx.service"),
            "tcp/443",
        ),
        seen(
            cgroup("/shop/curl"),
            cgroup("/system.slice/nginx.service"),
            "tcp/80",
        ),
        seen(
            cgroup("/shop/curl"),
            cgroup("/system.slice/nginx.service"),
            "tcp/81",
        ),
        seen(
            cgroup("/user.slice/user-1001.slice/user@1001.service/app.slice/x.service"),
            cgroup("/shop/curl"),
            "tcp/22",
        ),
        seen(cgroup("/shop/curl"), address("192.0.2.53"), "udp/53"),
        seen(cgroup("/shop/curl"), cgroup("/shop/curl"), "icmp/echo-request"),
    ]);
    let example = "e.g. 10.0.0.1:4000 -> 10.0.0.2:5432 at 2026-11-29T08:00:00Z";
    let expected = format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata:
  name: learned
spec:
  segments:
    nginx:
      intra: deny
      match:
        - systemd: nginx.service
    user-1001:
      intra: deny
      match:
        - user: 1001
    curl:
      intra: deny
      match:
        - cgroup: /shop/curl
    # 1 address on the network, no longer `world`: whoever talks to it needs a rule
    curl-servers:
      intra: deny
      match:
        - cidr: 192.0.2.53/32
  allow:
    # 1 flow, {example}
    - {{from: curl, to: curl, ports: [icmp/echo-request]}}
    # 1 flow, {example}
    - {{from: curl, to: curl-servers, ports: [udp/53]}}
    # 3 flows, {example}
    - {{from: curl, to: nginx, ports: [tcp/80-81, tcp/443]}}
    # 1 flow, {example}
    - {{from: user-1001, to: curl, ports: [tcp/22]}}
"
    );
    assert_eq!(text, expected);
    policy_of(&text);
}

#[test]
fn many_addresses_are_the_world_and_never_everybody() {
    let flows: Vec<Seen> = (0..40)
        .map(|n| seen(cgroup("/curl"), address(&format!("198.51.100.{n}")), "tcp/443"))
        .collect();
    let (proposal, text) = proposed(&flows);
    assert_eq!(proposal.rules.len(), 1, "{text}");
    assert!(
        text.contains("- {from: curl, to: world, ports: [tcp/443]}"),
        "{text}"
    );
    assert!(text.contains("`world`: 40 addresses on the network"), "{text}");
    assert!(!text.contains("any"), "{text}");
}

#[test]
fn names_and_paths_that_yaml_or_people_trip_over_are_quoted_or_renamed() {
    let paths = [
        "/system.slice/no.service",
        "/system.slice/host.service",
        "/system.slice/any.service",
        "/system.slice/getty@tty1.service",
        "/system.slice/a\\x2db.scope",
        "/system.slice/1password.service",
        "/a b/it's: \"x\" #y",
        "/{x: [", // no matcher can say it
        "/é/ü",
        "/shop/web",
        "/blog/web",
        "/x/\u{7}",
        "/star/*",
        "/true",
        "/a/world",
    ];
    let flows: Vec<Seen> = paths.map(|path| seen(cgroup(path), Party::World, "tcp/1")).into();
    let (proposal, text) = proposed(&flows);
    let (policy, tables) = policy_of(&text);
    let left: u64 = proposal.left_out.values().sum();
    assert_eq!((left, proposal.segments.len()), (3, 12), "{text}");
    for (flow, covered) in flows.iter().zip(&proposal.covered) {
        if *covered {
            let from = peer(&flow.from, &policy, &tables);
            assert_ne!(from, Peer::Host, "{:?}\n{text}", flow.from);
        }
    }
    for name in [
        "shop-web",
        "blog-web",
        "host-segment",
        "getty-tty1",
        "a-b",
        "s-1password",
    ] {
        assert!(policy.segments.contains_key(name), "{name}\n{text}");
    }
}

#[test]
fn a_comment_stays_a_comment_whatever_it_quotes() {
    let mut flow = seen(cgroup("/a"), cgroup("/b"), "tcp/1");
    flow.example = "x\n    - {from: any, to: any, ports: [any]}\r\u{2028}# segd: allow(broad)".into();
    let (_, text) = proposed(&[flow]);
    let (policy, _) = policy_of(&text);
    assert_eq!(policy.rules.len(), 1, "{text}");
}

#[test]
fn instances_of_one_unit_belong_together_and_names_given_for_once_do_not() {
    let (proposal, text) = proposed(&[
        seen(
            cgroup("/system.slice/system-w.slice/w@1.service"),
            cgroup("/db"),
            "tcp/1",
        ),
        seen(
            cgroup("/system.slice/system-w.slice/w@2.service"),
            cgroup("/db"),
            "tcp/1",
        ),
        seen(
            cgroup("/system.slice/run-r0123456789abcdef.scope"),
            cgroup("/db"),
            "tcp/1",
        ),
        seen(
            cgroup("/system.slice/run-r1123456789abcdef.scope"),
            cgroup("/db"),
            "tcp/1",
        ),
    ]);
    assert!(text.contains("- systemd: \"w@*.service\""), "{text}");
    assert!(!text.contains("run-r*"), "{text}");
    assert!(text.contains("given for once"), "{text}");
    assert_eq!(proposal.segments.len(), 4, "{text}");
    policy_of(&text);
}

#[test]
fn what_the_user_made_is_known_by_its_path() {
    let path = "/box/evil.service";
    let ground = Ground {
        made_by_root: BTreeMap::from([(path.to_owned(), 1)]),
        ..Ground::default()
    };
    let text = learn(&[seen(cgroup(path), Party::World, "tcp/1")], &ground).document("learned", &[]);
    assert!(text.contains("- cgroup: /box/evil.service"), "{text}");
}

#[test]
fn ten_thousand_flows_take_no_time() {
    let flows: Vec<Seen> = (0..10_000_u32)
        .map(|n| {
            seen(
                cgroup(&format!("/shop/c{}", n % 200)),
                address(&format!("10.{}.{}.{}", n % 3, n / 256 % 256, n % 256)),
                &format!("tcp/{}", 1 + n % 50),
            )
        })
        .collect();
    let start = Instant::now();
    let (_, text) = proposed(&flows);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    policy_of(&text);
}

const CGROUPS: [&str; 10] = [
    "/shop/web",
    "/shop",
    "/blog/web",
    "/system.slice/nginx.service",
    "/system.slice/nginx.socket",
    "/system.slice/w@1.service",
    "/system.slice/w@2.service/sub",
    "/user.slice/user-7.slice/session-1.scope",
    "/x/nginx.service.d",
    "/",
];
const PORTS: [&str; 10] = [
    "tcp/80",
    "tcp/81",
    "tcp/82",
    "tcp/65535",
    "udp/53",
    "sctp/1",
    "icmp/echo-request",
    "icmp/3/4",
    "icmpv6/128/0",
    "ip/47",
];

fn any_party() -> impl Strategy<Value = Party> {
    prop_oneof![
        1 => Just(Party::Host),
        1 => Just(Party::World),
        6 => (0..CGROUPS.len()).prop_map(|at| cgroup(CGROUPS[at])),
        3 => (0..14_u8).prop_map(|n| Party::Address(IpAddr::from([203, 0, 113, n]))),
        1 => (0..3_u8).prop_map(|n| address(&format!("2001:db8::{n}"))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn opens_every_flow_and_nothing_else(
        picked in prop::collection::vec((any_party(), any_party(), 0..PORTS.len()), 1..60),
        enforce_host in any::<bool>(),
        world_only in any::<bool>(),
    ) {
        let flows: Vec<Seen> = picked.into_iter().map(|(from, to, at)| seen(from, to, PORTS[at])).collect();
        let ground = Ground { enforce_host, world_only, ..Ground::default() };
        let proposal = learn(&flows, &ground);
        if proposal.is_empty() {
            return Ok(());
        }
        let mut text = proposal.document("learned", &[]);
        if enforce_host {
            text.push_str("  defaults: {host: enforce}\n");
        }
        let (policy, tables) = policy_of(&text);
        let mut known: BTreeMap<&Party, Peer> = BTreeMap::new();
        for flow in &flows {
            for party in [&flow.from, &flow.to] {
                known.entry(party).or_insert_with(|| peer(party, &policy, &tables));
            }
        }
        let mut right: BTreeSet<(Peer, Peer, Service)> = BTreeSet::new();
        for (flow, covered) in flows.iter().zip(&proposal.covered) {
            let (from, to) = (&known[&flow.from], &known[&flow.to]);
            if *covered {
                let (reason, _) = oracle::judge(&policy, from, to, flow.service);
                prop_assert!(reason.allows(), "{:?}: {reason:?}\n{text}", flow);
                right.insert((from.clone(), to.clone(), flow.service));
            }
        }
        let peers: BTreeSet<&Peer> = known.values().collect();
        let mut services: BTreeSet<Service> = flows.iter().map(|flow| flow.service).collect();
        services.extend([service::port(service::TCP, 79), service::port(service::TCP, 83), service::port(service::UDP, 54)]);
        for from in &peers {
            for to in &peers {
                for service in &services {
                    let segment = [from, to].iter().any(|peer| matches!(peer, Peer::Segment(_)));
                    let (reason, _) = oracle::judge(&policy, from, to, *service);
                    if segment && reason.allows() {
                        prop_assert!(
                            right.contains(&((*from).clone(), (*to).clone(), *service)),
                            "{from:?} -> {to:?} {} was not seen\n{text}",
                            port::display(*service)
                        );
                    }
                }
            }
        }
    }
}
