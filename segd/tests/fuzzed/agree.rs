//! What must hold of any text at all: it is refused with diagnostics that can be drawn, or it is a policy of which the tables
//! say what the oracle says. Used by the fuzz target and by the test that replays what fuzzing kept.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use segd_common::{
    decide::{decide, outcome},
    segment,
    service::{self, Service},
    verdict::{Outcome, Verdict},
    workload::Identity,
};

use crate::policy::{
    compile::compile,
    compiled::{CompiledTables, SegmentIndexes},
    diagnostic::{Style, render},
    model::{Peer, Policy, SelectorKind, Source},
    oracle,
    resolve::resolve,
};

/// Bounds that keep one text from taking a second; each text is also judged whole by `compile`.
const MOST_PEERS: usize = 12;
const MOST_SERVICES: usize = 48;
const MOST_ADDRESSES: usize = 64;

/// Panics if something does not hold. Returns whether the text was a policy.
pub fn agree(text: &str) -> bool {
    let sources = [Source {
        name: "fuzzed.yaml".to_owned(),
        text: text.into(),
    }];
    let (policy, warnings) = match resolve(&sources, false) {
        Ok(resolved) => resolved,
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a word");
            drawn(&errors, &sources);
            return false;
        }
    };
    drawn(&warnings, &sources);
    let (again, _) = resolve(&sources, false).expect("the same text is a policy again");
    assert_eq!(policy, again, "one text, two policies");
    let mut indexes = SegmentIndexes::default();
    // More segments than indexes, more ranges than room: refused with numbers, never cut off.
    if indexes.allocate(&policy, &BTreeSet::new()).is_err() {
        return false;
    }
    let Ok(tables) = compile(&policy, &indexes, None) else {
        return false;
    };
    verdicts(&policy, &tables);
    addresses(&policy, &tables);
    true
}

fn drawn(diagnostics: &[crate::policy::diagnostic::Diagnostic], sources: &[Source]) {
    for style in [Style::Plain, Style::Ansi] {
        let drawn = render(diagnostics, sources, style);
        assert_eq!(
            drawn.is_empty(),
            diagnostics.is_empty(),
            "a diagnostic nobody sees"
        );
        // A policy must not be able to drive the terminal that shows its mistakes.
        assert!(
            style == Style::Ansi || !drawn.contains(['\u{7}', '\u{1b}']),
            "{drawn:?}"
        );
    }
}

/// The ends of every rule's services, and what is beside them.
fn services(policy: &Policy) -> Vec<Service> {
    let mut services = BTreeSet::from([0, service::port(service::TCP, 443), service::MAX]);
    for (low, high) in policy.rules.iter().flat_map(|rule| rule.services.iter()) {
        services.extend([low.saturating_sub(1), *low, *high, (*high + 1).min(service::MAX)]);
    }
    services.into_iter().take(MOST_SERVICES).collect()
}

fn verdicts(policy: &Policy, tables: &CompiledTables) {
    let segments = policy.segments.keys().cloned().map(Peer::Segment);
    let peers: Vec<(Peer, Identity)> = [Peer::Host, Peer::World]
        .into_iter()
        .chain(segments)
        .take(MOST_PEERS)
        .map(|peer| {
            let name = match &peer {
                Peer::Host => "host",
                Peer::World => "world",
                Peer::Segment(name) => name,
            };
            let index = tables.index(name).expect("every peer has an index");
            (peer, Identity::of(index))
        })
        .collect();
    let services = services(policy);
    for (from, a) in &peers {
        for (to, b) in &peers {
            for service in &services {
                let (reason, rule) = oracle::judge(policy, from, to, *service);
                let verdict = decide(tables, *a, *b, *service);
                assert_eq!(verdict.reason, reason, "{from:?} {to:?} {service:x}");
                let rule = rule.map_or(Verdict::NO_RULE, |rule| rule as u32);
                assert_eq!(verdict.rule, rule, "{from:?} {to:?} {service:x}");
                let expected = match (reason.allows(), oracle::audits(policy, from, to)) {
                    (true, _) => Outcome::Allowed,
                    (false, true) => Outcome::Audited,
                    (false, false) => Outcome::Denied,
                };
                assert_eq!(
                    outcome(tables, verdict, *a, *b),
                    expected,
                    "{from:?} {to:?} {service:x}"
                );
            }
        }
    }
}

/// The ends of every prefix, and what is beside them.
fn addresses(policy: &Policy, tables: &CompiledTables) {
    let mut asked: BTreeSet<IpAddr> = BTreeSet::new();
    for segment in policy.segments.values() {
        for selector in &segment.selectors {
            let SelectorKind::Cidr { prefix, except } = &selector.kind else {
                continue;
            };
            for net in std::iter::once(prefix).chain(except) {
                let (first, last) = (bits(net.network()), bits(net.broadcast()));
                let near = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
                asked.extend(near.map(address));
            }
        }
    }
    for address in asked.into_iter().take(MOST_ADDRESSES) {
        let owner = match oracle::owners(policy, address).as_slice() {
            [] => segment::WORLD,
            [owner] => tables.index(owner).expect("a segment has an index"),
            several => panic!("{address} belongs to {several:?}, and nobody said so"),
        };
        assert_eq!(
            tables.claimed_by(&bits(address).to_be_bytes()),
            owner,
            "{address}"
        );
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(bits: u128) -> IpAddr {
    let v6 = Ipv6Addr::from(bits);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}
