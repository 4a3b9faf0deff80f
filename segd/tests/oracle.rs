//! Random policies, judged twice: by the oracle and by the compiled tables. The answers must be the same.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what must hold")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use jiff::Timestamp;
use proptest::{collection::vec, prelude::*, sample::select};
use segd::policy::{
    compile::compile,
    compiled::{CompiledTables, Moment, SegmentIndexes, zeroed_tables},
    model::{Action, Home, Location, Mode, Peer, Policy, Rule, Segment, Selector, SelectorKind, Spot},
    oracle,
    prefixes::{Claim, Walk},
    term::Term,
    window::{When, Zone},
};
use segd_common::{
    address::{Address, mapped},
    decide::{decide, outcome},
    prefixes::{self, Length, Prefixes},
    segment::{self, SEGMENT_ADMITS, SEGMENT_INITIATES},
    service::{self, Service},
    tables::{self, Cell, LINE_WORDS, Line, PolicyTables, Shape, Tables},
    verdict::{Outcome, RuleIndex, Verdict},
    workload::Identity,
};

/// Where rules of this test begin and end, so that they touch, overlap and leave gaps.
const POINTS: [Service; 10] = [
    0,
    service::port(service::TCP, 1),
    service::port(service::TCP, 22),
    service::port(service::TCP, 23),
    service::port(service::TCP, 65535),
    service::icmp(service::ICMP, 8, 0),
    service::port(service::UDP, 53),
    service::icmp(service::ICMPV6, 128, 0),
    service::bare(47),
    service::MAX,
];

fn location() -> Location {
    Location {
        file: "random.yaml".into(),
        line: 1,
        column: 1,
    }
}

fn segment(name: &str, intra: bool, audit: bool, selectors: Vec<Selector>) -> Segment {
    Segment {
        name: name.to_owned(),
        location: location(),
        labels: BTreeMap::new(),
        mode: if audit { Mode::Audit } else { Mode::Enforce },
        intra,
        selectors,
    }
}

fn peers(count: usize) -> Vec<Peer> {
    let segments = (0..count).map(|number| Peer::Segment(format!("s{number}")));
    [Peer::Host, Peer::World].into_iter().chain(segments).collect()
}

/// Some of them, none, or all.
fn side(count: usize) -> impl Strategy<Value = BTreeSet<Peer>> {
    let all: BTreeSet<Peer> = peers(count).into_iter().collect();
    prop_oneof![
        6 => vec(select(peers(count)), 0..4).prop_map(|peers| peers.into_iter().collect()),
        1 => Just(all),
    ]
}

/// Sorted, disjoint and not adjacent, as the resolver makes them.
fn services() -> impl Strategy<Value = Vec<(Service, Service)>> {
    vec((select(POINTS.to_vec()), select(POINTS.to_vec()), 0..2_u32), 0..3).prop_map(|pairs| {
        let mut covered: Vec<(Service, Service)> = pairs
            .into_iter()
            .map(|(a, b, more)| (a.min(b), (a.max(b) + more).min(service::MAX)))
            .collect();
        covered.sort_unstable();
        let mut merged: Vec<(Service, Service)> = Vec::new();
        for (low, high) in covered {
            match merged.last_mut() {
                Some(last) if low <= last.1 + 1 => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        merged
    })
}

/// Few moments, so that rules end together: hours of the first day of 1970, a Thursday.
fn hour(hour: i64) -> Timestamp {
    Timestamp::from_second(hour * 3600).expect("a time")
}

/// Windows of some hours, which touch, overlap and leave gaps; in two zones, an hour apart then.
fn when() -> impl Strategy<Value = When> {
    let window = (
        0..6_u32,
        1..4_u32,
        prop::sample::select(vec!["UTC", "Africa/Lagos"]),
    );
    vec(window, 1..3).prop_map(|windows| {
        let mut when = When::default();
        for (start, length, zone) in windows {
            let zone = Zone::find(zone).expect("a zone");
            when.add(&[3], (start * 3600, (start + length) * 3600), zone);
        }
        when
    })
}

fn rule(count: usize) -> impl Strategy<Value = Rule> {
    (
        any::<bool>(),
        side(count).prop_map(Arc::new),
        side(count).prop_map(Arc::new),
        services(),
        prop::option::of(0..8_i64),
        prop::option::of(when()),
    )
        .prop_map(|(deny, from, to, services, end, when)| {
            let home = Arc::new(Home {
                file: "random.yaml".into(),
                document: "random".into(),
                text: "".into(),
            });
            let action = if deny { Action::Deny } else { Action::Allow };
            let term = Arc::new(Term {
                until: end.filter(|_| !deny).map(hour),
                when: when.filter(|_| !deny),
            });
            Rule::new(
                (home, Spot::default()),
                action,
                [from, to],
                services.into(),
                (None, term),
            )
        })
}

/// Without windows.
fn policy() -> impl Strategy<Value = Policy> {
    policy_with_windows().prop_map(|mut policy| {
        for rule in policy.rules.iter_mut() {
            Arc::make_mut(&mut rule.term).when = None;
        }
        policy
    })
}

fn policy_with_windows() -> impl Strategy<Value = Policy> {
    (0..5_usize).prop_flat_map(|count| {
        let segments = vec((any::<bool>(), prop::bool::weighted(0.2)), count);
        (segments, vec(rule(count), 0..10), any::<bool>()).prop_map(|(segments, rules, enforce_host)| {
            let segments = segments.into_iter().enumerate().map(|(number, (intra, audit))| {
                let name = format!("s{number}");
                (name.clone(), segment(&name, intra, audit, Vec::new()))
            });
            Policy {
                segments: Arc::new(segments.collect()),
                rules: rules.into(),
                enforce_host,
                ..Policy::default()
            }
        })
    })
}

fn compiled(policy: &Policy, mode: Option<Mode>) -> (SegmentIndexes, CompiledTables) {
    let mut indexes = SegmentIndexes::default();
    indexes.allocate(policy, &BTreeSet::new()).expect("few segments");
    let tables = compile(policy, &indexes, mode).expect("few rules");
    (indexes, tables)
}

fn identity(tables: &CompiledTables, peer: &Peer) -> Identity {
    let name = match peer {
        Peer::Host => "host",
        Peer::World => "world",
        Peer::Segment(name) => name,
    };
    Identity::of(tables.index(name).expect("every peer has an index"))
}

/// Every point, its neighbours, and the ends.
fn questions() -> Vec<Service> {
    let mut services: BTreeSet<Service> = BTreeSet::new();
    for point in POINTS {
        services.extend([point.saturating_sub(1), point, (point + 1).min(service::MAX)]);
    }
    services.into_iter().collect()
}

/// The kernel's layout, read the way the kernel reads it.
struct Layout {
    tables: Box<PolicyTables>,
    lines: Vec<Line>,
    /// What the kernel's clock says.
    boot_ns: u64,
}

impl Layout {
    fn new() -> Layout {
        Layout {
            tables: zeroed_tables(),
            lines: Vec::new(),
            boot_ns: 0,
        }
    }

    fn fill(&mut self, revision: u32, now: Moment, from: &CompiledTables) {
        // Some lines more, which a slot that is used again has.
        let room = from.kernel_lines() + 3;
        self.lines.resize(room.max(self.lines.len()), Line::default());
        from.fill(revision, now, &mut self.tables, &mut self.lines);
    }
}

impl Tables for Layout {
    fn flags(&self) -> u32 {
        self.tables.flags
    }

    fn segment(&self, index: u16) -> tables::Segment {
        self.tables.segments[usize::from(index)]
    }

    fn shape(&self) -> Shape {
        self.tables.shape
    }

    fn any(&self) -> &Cell {
        &self.tables.any
    }

    fn line(&self, index: u32) -> Option<&Line> {
        self.lines.get(index as usize)
    }

    fn prefixes(&self) -> Prefixes {
        self.tables.shape.prefixes
    }

    fn first_length(&self, six: usize) -> u8 {
        self.tables.lengths.first[six]
    }

    fn length(&self, number: u8) -> Length {
        self.tables.lengths.all[usize::from(number)]
    }

    fn is_over(&self, rule: RuleIndex) -> bool {
        let shape = self.tables.shape;
        assert!(rule < shape.ending, "rule {rule} has an end");
        let line = &self.lines[(shape.ends + rule / LINE_WORDS) as usize];
        let cell = line.cells[(rule % LINE_WORDS / 2) as usize];
        let [low, high] = if rule.is_multiple_of(2) {
            [cell.key, cell.rule]
        } else {
            [cell.low, cell.high]
        };
        self.boot_ns >= (u64::from(high) << 32 | u64::from(low))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    // 400 policies, up to 49 pairs and 27 services each: some 200 000 verdicts.
    #[test]
    fn the_tables_say_what_the_policy_means(policy in policy()) {
        let (_, tables) = compiled(&policy, None);
        for from in peers(policy.segments.len()) {
            for to in peers(policy.segments.len()) {
                let (a, b) = (identity(&tables, &from), identity(&tables, &to));
                for service in questions() {
                    let (reason, rule) = oracle::judge(&policy, &from, &to, service);
                    let verdict = decide(&tables, a, b, service);
                    prop_assert_eq!(verdict.reason, reason, "{:?} {:?} {:x}", from, to, service);
                    let rule = rule.map_or(Verdict::NO_RULE, |rule| rule as u32);
                    prop_assert_eq!(verdict.rule, rule, "{:?} {:?} {:x}", from, to, service);
                    let expected = match (reason.allows(), oracle::audits(&policy, &from, &to)) {
                        (true, _) => Outcome::Allowed,
                        (false, true) => Outcome::Audited,
                        (false, false) => Outcome::Denied,
                    };
                    prop_assert_eq!(outcome(&tables, verdict, a, b), expected);
                    // What is between members of a segment that is only elsewhere never comes by here.
                    let elsewhere = from == to && policy.segments.values().any(|segment| {
                        from == Peer::Segment(segment.name.clone())
                            && segment.selectors.iter().all(|selector| matches!(selector.kind, SelectorKind::Cidr { .. }))
                    });
                    if expected != Outcome::Denied && !elsewhere {
                        prop_assert!(tables.segment(a.segment).flags & SEGMENT_INITIATES != 0, "{:?} initiates", from);
                        prop_assert!(tables.segment(b.segment).flags & SEGMENT_ADMITS != 0, "{:?} admits", to);
                    }
                }
            }
        }
    }

    // Whether a time is asked about before compiling, as commands do, or by the kernel's clock, as packets do: with a daemon that
    // says at each moment when rules end, and with one that died at the first.
    #[test]
    fn at_every_time_the_tables_say_what_the_policy_means_then(policy in policy_with_windows()) {
        let whole = compiled(&policy, None).1;
        let died = Moment { calendar: hour(0), boot_ns: 7_000_000_000 };
        let (mut alive, mut dead) = (Layout::new(), Layout::new());
        dead.fill(1, died, &whole);
        let mut due = Some(hour(0));
        for elapsed in 0..12_u32 {
            let time = hour(elapsed.into());
            let (_, tables) = compiled(&policy.at(time), None);
            let boot_ns = died.boot_ns + u64::from(elapsed) * 3_600_000_000_000;
            // A daemon writes only when something changes.
            if due.is_some_and(|due| due <= time) {
                alive.fill(1, Moment { calendar: time, boot_ns }, &whole);
                due = whole.change_after(time);
            }
            (alive.boot_ns, dead.boot_ns) = (boot_ns, boot_ns);
            for from in peers(policy.segments.len()) {
                for to in peers(policy.segments.len()) {
                    let (a, b) = (identity(&tables, &from), identity(&tables, &to));
                    for service in questions() {
                        let (reason, rule) = oracle::judge_at(&policy, time, &from, &to, service);
                        let rule = rule.map_or(Verdict::NO_RULE, |rule| rule as u32);
                        let verdict = Verdict { reason, rule };
                        prop_assert_eq!(decide(&tables, a, b, service), verdict, "{:?} {:?} {:x}", from, to, service);
                        let mut by_clock = decide(&alive, a, b, service);
                        if by_clock.rule != Verdict::NO_RULE {
                            by_clock.rule = whole.decider(by_clock.rule, time).expect("a rule") as u32;
                        }
                        prop_assert_eq!(by_clock, verdict, "at {}: {:?} {:?} {:x}", time, from, to, service);
                        let left = decide(&dead, a, b, service);
                        prop_assert!(
                            verdict.allows() || !left.allows(),
                            "with no daemon, at {}: {:?} {:?} {:x}", time, from, to, service
                        );
                        // What the daemon could have known goes on without it: only windows that opened since do not.
                        let untouched = policy.rules.iter().all(|rule| rule.term.when.is_none());
                        prop_assert!(!untouched || left == verdict);
                    }
                }
            }
        }
    }

    #[test]
    fn nobody_gets_through_to_or_from_the_probe_or_an_unknown_segment(policy in policy()) {
        for mode in [None, Some(Mode::Audit)] {
            let (_, tables) = compiled(&policy, mode);
            for peer in peers(policy.segments.len()) {
                let known = identity(&tables, &peer);
                let unknown = [segment::NONE, segment::PROBE, 900, u16::MAX];
                for other in unknown.map(Identity::of) {
                    for service in questions() {
                        prop_assert!(!decide(&tables, known, other, service).allows());
                        prop_assert!(!decide(&tables, other, known, service).allows());
                    }
                }
            }
        }
    }

    #[test]
    fn the_mode_of_the_command_line_overrides_every_other(policy in policy()) {
        for (mode, denied) in [(Mode::Audit, Outcome::Audited), (Mode::Enforce, Outcome::Denied)] {
            let (_, tables) = compiled(&policy, Some(mode));
            for from in peers(policy.segments.len()) {
                for to in peers(policy.segments.len()) {
                    let (a, b) = (identity(&tables, &from), identity(&tables, &to));
                    let verdict = decide(&tables, a, b, POINTS[2]);
                    let expected = if verdict.allows() { Outcome::Allowed } else { denied };
                    prop_assert_eq!(outcome(&tables, verdict, a, b), expected);
                }
            }
        }
    }

    #[test]
    fn the_order_of_rules_decides_nothing(policy in policy(), seed in any::<u64>()) {
        let mut shuffled = policy.clone();
        let mut rules: Vec<Rule> = shuffled.rules.iter().cloned().collect();
        for at in (1..rules.len()).rev() {
            rules.swap(at, (seed.rotate_left(at as u32) % (at as u64 + 1)) as usize);
        }
        shuffled.rules = rules.into();
        let (_, one) = compiled(&policy, None);
        let (_, other) = compiled(&shuffled, None);
        for from in peers(policy.segments.len()) {
            for to in peers(policy.segments.len()) {
                let (a, b) = (identity(&one, &from), identity(&one, &to));
                for service in questions() {
                    prop_assert_eq!(decide(&one, a, b, service).reason, decide(&other, a, b, service).reason);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_kernel_layout_says_the_same(first in policy(), second in policy()) {
        let mut layout = Layout::new();
        // Filled twice: nothing of the first revision may be left in the second.
        layout.fill(1, Moment::FIRST, &compiled(&first, None).1);
        let (_, tables) = compiled(&second, None);
        layout.fill(2, Moment::FIRST, &tables);
        prop_assert_eq!(layout.tables.revision, 2);
        for from in (0..12).chain([u16::MAX]).map(Identity::of) {
            for to in (0..12).chain([u16::MAX]).map(Identity::of) {
                for service in questions() {
                    let verdict = decide(&tables, from, to, service);
                    prop_assert_eq!(verdict, decide(&layout, from, to, service));
                    prop_assert_eq!(outcome(&tables, verdict, from, to), outcome(&layout, verdict, from, to));
                }
            }
        }
    }
}

/// Prefixes in a space so small that every address of it can be asked about.
fn net() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        6 => (0..16_u8, 28..=32_u8).prop_map(|(host, len)| net_of(Ipv4Addr::new(10, 0, 0, host).into(), len)),
        1 => select(vec![0_u8, 8, 24]).prop_map(|len| net_of(Ipv4Addr::new(10, 0, 0, 0).into(), len)),
        4 => (0..8_u16, 125..=128_u8)
            .prop_map(|(host, len)| net_of(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host).into(), len)),
        2 => select(vec![0_u8, 1, 64, 80, 95]).prop_map(|len| net_of(Ipv6Addr::UNSPECIFIED.into(), len)),
    ]
}

fn net_of(address: IpAddr, len: u8) -> IpNet {
    IpNet::new(address, len).expect("a length that exists").trunc()
}

/// Claims of four segments; exceptions lie inside their prefix, as the resolver guarantees.
fn claims() -> impl Strategy<Value = Policy> {
    vec((0..4_usize, net(), vec(net(), 0..4)), 0..8).prop_map(|claims| {
        let mut segments = BTreeMap::new();
        for (owner, prefix, except) in claims {
            let inside = except
                .into_iter()
                .filter(|net| *net != prefix && prefix.contains(net))
                .collect();
            let kind = SelectorKind::Cidr {
                prefix,
                except: inside,
            };
            let name = format!("s{owner}");
            let entry = segments
                .entry(name.clone())
                .or_insert_with(|| segment(&name, true, false, Vec::new()));
            entry.selectors.push(Selector {
                location: location(),
                kind,
            });
        }
        Policy {
            segments: Arc::new(segments),
            ..Policy::default()
        }
    })
}

/// Every address that the prefixes tell apart.
fn addresses() -> Vec<IpAddr> {
    let v4 = (0..18).map(|host| IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)));
    let v6 = (0..9).map(|host| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host)));
    let far = [
        "0.0.0.0",
        "10.0.1.1",
        "10.9.9.9",
        "127.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::2:0:0:1",
        "::5:0:0:0:1",
    ]
    .map(|text| text.parse().expect("an address"));
    let edges = [
        "::ffff:ffff:0:0",
        "::fffe:ffff:ffff",
        "7fff::",
        "8000::",
        "ffff::",
    ]
    .map(|text| text.parse().expect("an address"));
    v4.chain(v6).chain(far).chain(edges).collect()
}

fn bits(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    // 2 000 sets of prefixes, after 2 000 others, 41 addresses each.
    #[test]
    fn an_address_belongs_to_the_longest_prefix_that_does_not_except_it(before in claims(), policy in claims()) {
        let flat: Vec<(IpNet, Vec<IpNet>, &str)> = policy.segments.iter().flat_map(|(name, segment)| {
            segment.selectors.iter().filter_map(move |selector| match &selector.kind {
                SelectorKind::Cidr { prefix, except } => Some((*prefix, except.clone(), name.as_str())),
                _ => None,
            })
        }).collect();
        let walk = Walk::new(flat.iter().map(|(prefix, except, name)| Claim::new(*prefix, except, name)));
        let tied = addresses().into_iter().any(|address| oracle::owners(&policy, address).len() > 1);
        if tied {
            prop_assert!(!walk.ties().is_empty(), "two owners of one address are a tie");
        }
        let (indexes, tables) = compiled(&policy, None);
        let mut kernel = Layout::new();
        kernel.fill(1, Moment::FIRST, &compiled(&before, None).1);
        kernel.fill(2, Moment::FIRST, &tables);
        for address in addresses() {
            let expected = match oracle::owners(&policy, address).as_slice() {
                [] => segment::WORLD,
                [owner] => indexes.by_name[*owner],
                _ => continue,
            };
            prop_assert_eq!(prefixes::owner(&kernel, &bits(address)), expected, "{}", address);
        }
    }

    #[test]
    fn a_tie_is_reported_only_where_some_address_has_two_owners(
        claims in vec((0..3_usize, (0..16_u8, 28..=32_u8), vec((0..16_u8, 29..=32_u8), 0..5)), 0..6)
    ) {
        let mut segments = BTreeMap::new();
        let space = |(host, len): (u8, u8)| net_of(Ipv4Addr::new(10, 0, 0, host).into(), len);
        for (owner, prefix, except) in claims {
            let prefix = space(prefix);
            let except = except.into_iter().map(space).filter(|net| *net != prefix && prefix.contains(net));
            let kind = SelectorKind::Cidr { prefix, except: except.collect() };
            let name = format!("s{owner}");
            let entry =
                segments.entry(name.clone()).or_insert_with(|| segment(&name, true, false, Vec::new()));
            entry.selectors.push(Selector { location: location(), kind });
        }
        let policy = Policy { segments: Arc::new(segments), ..Policy::default() };
        let claims = policy.segments.iter().flat_map(|(name, segment)| {
            segment.selectors.iter().filter_map(move |selector| match &selector.kind {
                SelectorKind::Cidr { prefix, except } => Some(Claim::new(*prefix, except, name)),
                _ => None,
            })
        });
        let ties = Walk::new(claims).ties();
        let tied = (0..16).any(|host| {
            oracle::owners(&policy, Ipv4Addr::new(10, 0, 0, host).into()).len() > 1
        });
        prop_assert_eq!(!ties.is_empty(), tied, "{:?}", policy);
    }
}

#[test]
fn a_default_route_of_one_family_claims_nothing_of_the_other() {
    let claim = |net: &str| {
        let kind = SelectorKind::Cidr {
            prefix: net.parse().expect("a prefix"),
            except: Vec::new(),
        };
        let selector = Selector {
            location: location(),
            kind,
        };
        let segments = BTreeMap::from([("s".to_owned(), segment("s", true, false, vec![selector]))]);
        let segments = Arc::new(segments);
        compiled(
            &Policy {
                segments,
                ..Policy::default()
            },
            None,
        )
        .1
    };
    let v4 = mapped([192, 0, 2, 1]);
    let v6: Address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let everything_v6 = claim("::/0");
    assert_eq!(everything_v6.claimed_by(&v6), 4);
    assert_eq!(
        everything_v6.claimed_by(&v4),
        segment::WORLD,
        "`::/0` is IPv6 only"
    );
    let everything_v4 = claim("0.0.0.0/0");
    assert_eq!(everything_v4.claimed_by(&v4), 4);
    assert_eq!(
        everything_v4.claimed_by(&v6),
        segment::WORLD,
        "`0.0.0.0/0` is IPv4 only"
    );
}
