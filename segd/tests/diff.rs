//! `policy::diff` beside the oracle: what it tells of random pairs of policies is what packets would meet, no more, no less.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what must hold")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
};

use segd::{
    policy::{
        compile::compile,
        compiled::{CompiledTables, SegmentIndexes},
        diagnostic::{Style, render},
        diff::{Change, Diff, Name, Side, diff},
        model::{Peer, Policy, SelectorKind, Source},
        oracle,
        resolve::resolve,
    },
    workload::selector::moves::moves,
};
use segd_common::service::{self, Service};

/// A random number generator that a seed names (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % count.max(1) as u64) as usize
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const PATHS: [&str; 6] = ["/x", "/x/y", "/x/y/z", "/u", "/u/v", "/w"];
const PREFIXES: [&str; 8] = [
    "10.0.0.0/8",
    "10.0.0.0/9",
    "10.128.0.0/9",
    "10.1.0.0/16",
    "10.1.2.3/32",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "0.0.0.0/0",
];
const ADDRESSES: [&str; 9] = [
    "10.0.0.1",
    "10.128.0.1",
    "10.1.0.1",
    "10.1.2.3",
    "192.0.2.1",
    "2001:db8::1",
    "2001:db8:1::1",
    "2001:db9::1",
    "10.255.255.255",
];
const PORTS: [&str; 8] = [
    "tcp/80",
    "tcp/1-100",
    "tcp/22-80",
    "any",
    "udp/53",
    "icmp",
    "icmp/echo-request",
    "ip/47",
];

/// A policy as its parts, so that it can be changed a little.
#[derive(Clone)]
struct Draft {
    segments: BTreeMap<&'static str, (bool, bool)>,
    owner_of_path: BTreeMap<&'static str, &'static str>,
    owner_of_prefix: BTreeMap<&'static str, &'static str>,
    allow: Vec<(String, String, &'static str)>,
    deny: Vec<(String, String, &'static str)>,
    enforce_host: bool,
}

impl Draft {
    fn random(dice: &mut Dice) -> Draft {
        let mut draft = Draft {
            segments: BTreeMap::new(),
            owner_of_path: BTreeMap::new(),
            owner_of_prefix: BTreeMap::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            enforce_host: dice.once_in(3),
        };
        for name in NAMES {
            if !dice.once_in(4) {
                draft.segments.insert(name, (dice.once_in(2), dice.once_in(6)));
            }
        }
        for _ in 0..8 {
            draft.change(dice);
        }
        draft
    }

    /// One edit, as somebody would make it.
    fn change(&mut self, dice: &mut Dice) {
        let names: Vec<&'static str> = self.segments.keys().copied().collect();
        if names.is_empty() || dice.once_in(12) {
            let name = dice.pick(&NAMES);
            if self.segments.remove(name).is_none() {
                self.segments.insert(name, (dice.once_in(2), dice.once_in(6)));
            }
            return;
        }
        match dice.below(6) {
            0 => {
                let path = dice.pick(&PATHS);
                if self.owner_of_path.remove(path).is_none() {
                    self.owner_of_path.insert(path, dice.pick(&names));
                }
            }
            1 => {
                let prefix = dice.pick(&PREFIXES);
                if self.owner_of_prefix.remove(prefix).is_none() {
                    self.owner_of_prefix.insert(prefix, dice.pick(&names));
                }
            }
            2 if !self.allow.is_empty() => drop(self.allow.remove(dice.below(self.allow.len()))),
            3 if !self.deny.is_empty() => drop(self.deny.remove(dice.below(self.deny.len()))),
            kind => {
                let mut end = || match dice.below(8) {
                    0 => "any".to_owned(),
                    1 => "host".to_owned(),
                    2 => "world".to_owned(),
                    3 => format!("[{}, {}]", dice.pick(&names), dice.pick(&["host", "world"])),
                    _ => dice.pick(&names).to_owned(),
                };
                let (from, to) = (end(), end());
                let list = if kind == 5 {
                    &mut self.deny
                } else {
                    &mut self.allow
                };
                list.push((from, to, PORTS[dice.below(PORTS.len())]));
            }
        }
    }

    /// Without what a segment that is gone leaves behind.
    fn text(&self) -> String {
        let mut text =
            "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: t}\nspec:\n".to_owned();
        if self.enforce_host {
            text.push_str("  defaults: {host: enforce}\n");
        }
        text.push_str("  segments:\n");
        for (name, (intra, audit)) in &self.segments {
            let owned = |owners: &BTreeMap<&'static str, &'static str>, field: &str| -> Vec<String> {
                let mine = owners.iter().filter(|(_, owner)| owner == &name);
                mine.map(|(what, _)| format!("{{{field}: '{what}'}}")).collect()
            };
            let matchers = [
                owned(&self.owner_of_path, "cgroup"),
                owned(&self.owner_of_prefix, "cidr"),
            ]
            .concat();
            let (intra, mode) = (
                if *intra { "allow" } else { "deny" },
                if *audit { "audit" } else { "enforce" },
            );
            let _ = writeln!(
                text,
                "    {name}: {{intra: {intra}, mode: {mode}, match: [{}]}}",
                matchers.join(", ")
            );
        }
        if self.segments.is_empty() {
            text = text.replace("  segments:\n", "  segments: {}\n");
        }
        for (field, rules) in [("allow", &self.allow), ("deny", &self.deny)] {
            let known = |end: &str| {
                let names = end.trim_matches(['[', ']']).split(", ");
                names
                    .into_iter()
                    .all(|name| ["any", "host", "world"].contains(&name) || self.segments.contains_key(name))
            };
            let rules: Vec<String> = rules
                .iter()
                .filter(|(from, to, _)| known(from) && known(to))
                .map(|(from, to, port)| format!("{{from: {from}, to: {to}, ports: [{port}]}}"))
                .collect();
            let _ = writeln!(text, "  {field}: [{}]", rules.join(", "));
        }
        text
    }
}

#[track_caller]
fn policy(text: &str) -> (Policy, CompiledTables) {
    let sources = [Source {
        name: "t.yaml".to_owned(),
        text: text.into(),
    }];
    let (policy, _) = resolve(&sources, false)
        .unwrap_or_else(|errors| panic!("{text}\n{}", render(&errors, &sources, Style::Plain)));
    let mut indexes = SegmentIndexes::default();
    indexes.allocate(&policy, &BTreeSet::new()).expect("fits");
    let tables = compile(&policy, &indexes, None).expect("fits");
    (policy, tables)
}

/// Who a cgroup is, as docs/policy.md says: the longest path that it lies in.
fn of_cgroup(policy: &Policy, cgroup: &str) -> Peer {
    let mut best: (usize, Peer) = (0, Peer::Host);
    for (name, segment) in policy.segments.iter() {
        for selector in &segment.selectors {
            let SelectorKind::Cgroup(components) = &selector.kind else {
                continue;
            };
            let path = format!("/{}", components.join("/"));
            let inside = cgroup == path || cgroup.starts_with(&format!("{path}/"));
            if inside && path.len() > best.0 {
                best = (path.len(), Peer::Segment(name.clone()));
            }
        }
    }
    best.1
}

fn of_address(policy: &Policy, address: IpAddr) -> Peer {
    match oracle::owners(policy, address).first() {
        Some(name) => Peer::Segment((*name).to_owned()),
        None => Peer::World,
    }
}

/// Everybody there can be, by who he is under both.
fn parties(old: &Policy, new: &Policy) -> BTreeSet<(Peer, Peer)> {
    let mut parties = BTreeSet::from([(Peer::Host, Peer::Host), (Peer::World, Peer::World)]);
    for name in old
        .segments
        .keys()
        .filter(|name| new.segments.contains_key(*name))
    {
        parties.insert((Peer::Segment(name.clone()), Peer::Segment(name.clone())));
    }
    for path in PATHS {
        for cgroup in [path.to_owned(), format!("{path}/below")] {
            parties.insert((of_cgroup(old, &cgroup), of_cgroup(new, &cgroup)));
        }
    }
    for address in ADDRESSES {
        let address = address.parse().expect("an address");
        parties.insert((of_address(old, address), of_address(new, address)));
    }
    parties
}

/// Where something can change: beside every end of every rule.
fn services(policies: [&Policy; 2]) -> BTreeSet<Service> {
    let mut services = BTreeSet::from([0, service::MAX, service::port(service::TCP, 443)]);
    for (low, high) in policies
        .iter()
        .flat_map(|policy| &policy.rules)
        .flat_map(|rule| rule.services.iter())
    {
        services.extend([*low, *high, low.saturating_sub(1), (high + 1).min(service::MAX)]);
    }
    services
}

/// What changes for one packet, by the oracle.
fn expected(
    policies: [&Policy; 2],
    from: &(Peer, Peer),
    to: &(Peer, Peer),
    service: Service,
) -> Option<Change> {
    let state = |policy: &Policy, from: &Peer, to: &Peer| {
        let allowed = oracle::judge(policy, from, to, service).0.allows();
        (allowed, allowed || oracle::audits(policy, from, to))
    };
    let old = state(policies[0], &from.0, &to.0);
    let new = state(policies[1], &from.1, &to.1);
    match (old, new) {
        ((false, _), (true, _)) => Some(Change::Allowed),
        ((true, _), (false, _)) => Some(Change::Denied),
        ((false, false), (false, true)) => Some(Change::Audited),
        ((false, true), (false, false)) => Some(Change::Enforced),
        _ => None,
    }
}

/// What the diff tells of one packet.
fn told(diff: &Diff, from: &(Peer, Peer), to: &(Peer, Peer), service: Service) -> Vec<Change> {
    let name = |peer: &Peer| match peer {
        Peer::Host => "host".to_owned(),
        Peer::World => "world".to_owned(),
        Peer::Segment(name) => name.clone(),
    };
    let among = |names: &[Name], party: &(Peer, Peer)| {
        let own = Name {
            name: name(&party.1),
            was: (party.0 != party.1).then(|| name(&party.0)),
        };
        names.contains(&own) || names.iter().any(|name| name.name == "any")
    };
    let covers = |entry: &&segd::policy::diff::Entry| {
        among(&entry.from, from)
            && among(&entry.to, to)
            && entry
                .services
                .iter()
                .any(|(low, high)| (*low..=*high).contains(&service))
    };
    diff.entries
        .iter()
        .filter(covers)
        .map(|entry| entry.change)
        .collect()
}

#[test]
fn a_thousand_pairs_of_policies_widen_exactly_where_the_oracle_finds_a_packet() {
    let (mut widening, mut same, mut changes) = (0, 0, 0);
    for seed in 0..1000_u64 {
        let mut dice = Dice(seed);
        let old_draft = Draft::random(&mut dice);
        let mut new_draft = old_draft.clone();
        if dice.once_in(4) {
            new_draft = Draft::random(&mut dice);
        } else {
            for _ in 0..dice.below(3) {
                new_draft.change(&mut dice);
            }
        }
        let texts = (old_draft.text(), new_draft.text());
        let ((old, old_tables), (new, new_tables)) = (policy(&texts.0), policy(&texts.1));
        let found = diff(
            Side {
                policy: &old,
                tables: &old_tables,
            },
            Side {
                policy: &new,
                tables: &new_tables,
            },
            moves(&old_tables, &new_tables).expect("fits"),
        );
        let parties = parties(&old, &new);
        let mut widens = false;
        for service in services([&old, &new]) {
            for (from, to) in parties
                .iter()
                .flat_map(|from| parties.iter().map(move |to| (from, to)))
            {
                let expected = expected([&old, &new], from, to, service);
                widens |= expected.is_some_and(Change::widens);
                changes += usize::from(expected.is_some());
                let told = told(&found, from, to, service);
                assert_eq!(
                    told,
                    expected.into_iter().collect::<Vec<_>>(),
                    "seed {seed}: {from:?} -> {to:?} {service:#x}\n{}\n{}\n{found:#?}",
                    texts.0,
                    texts.1
                );
            }
        }
        assert_eq!(found.widens(), widens, "seed {seed}\n{}\n{}", texts.0, texts.1);
        widening += usize::from(widens);
        same += usize::from(found.entries.is_empty());
    }
    println!("{widening} of 1000 widen, {same} change nothing, {changes} packets change");
    assert!(
        widening > 200 && same > 100,
        "{widening} widen, {same} are the same"
    );
}
