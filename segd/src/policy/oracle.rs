//! The slow, obvious judge: what a policy means, read straight from its rules.
//!
//! INVARIANT: shares no logic with `compile`, `prefixes` or `segd_common::decide`, so that it can contradict them.

use std::net::IpAddr;

use jiff::Timestamp;
use segd_common::{reason::Reason, service::Service};

use super::{
    model::{Action, Mode, Peer, Policy, Rule, SelectorKind},
    term::State,
};

/// Why `from` may or may not initiate `service` towards `to`, and the first rule that says so.
#[must_use]
pub fn judge(policy: &Policy, from: &Peer, to: &Peer, service: Service) -> (Reason, Option<usize>) {
    judge_at(policy, Timestamp::MIN, from, to, service)
}

/// As [`judge`], at a time.
#[must_use]
pub fn judge_at(
    policy: &Policy,
    time: Timestamp,
    from: &Peer,
    to: &Peer,
    service: Service,
) -> (Reason, Option<usize>) {
    let host_alone = (from == &Peer::Host && matches!(to, Peer::Host | Peer::World))
        || (from == &Peer::World && to == &Peer::Host);
    if host_alone && !policy.enforce_host {
        return (Reason::HostDefault, None);
    }
    let says = |rule: &Rule| {
        rule.from.contains(from)
            && rule.to.contains(to)
            && rule
                .services
                .iter()
                .any(|(low, high)| *low <= service && service <= *high)
    };
    let first = |action: Action| {
        policy
            .rules
            .iter()
            .position(|rule| rule.action == action && rule.term.is_lasting() && says(rule))
    };
    if let Some(rule) = first(Action::Deny) {
        return (Reason::Guardrail, Some(rule));
    }
    if let Some(rule) = first(Action::Allow) {
        return (Reason::Rule, Some(rule));
    }
    if let (Peer::Segment(a), Peer::Segment(b)) = (from, to)
        && a == b
        && policy.segments.get(a).is_some_and(|segment| segment.intra)
    {
        return (Reason::Intra, None);
    }
    // Only what nothing else allows hangs on a rule that ends: of several, on the last to end.
    let mut last: Option<(Timestamp, usize)> = None;
    for (number, rule) in policy.rules.iter().enumerate() {
        if let (false, State::Open(end)) = (rule.term.is_lasting(), rule.term.at(time))
            && says(rule)
        {
            let end = end.unwrap_or(Timestamp::MAX);
            if last.is_none_or(|(latest, _)| latest < end) {
                last = Some((end, number));
            }
        }
    }
    if let Some((_, number)) = last {
        return (Reason::Rule, Some(number));
    }
    (Reason::NoRule, None)
}

/// Whether a denial between the two only counts.
#[must_use]
pub fn audits(policy: &Policy, from: &Peer, to: &Peer) -> bool {
    [from, to].into_iter().any(|peer| match peer {
        Peer::Segment(name) => policy
            .segments
            .get(name)
            .is_some_and(|segment| segment.mode == Mode::Audit),
        Peer::Host | Peer::World => false,
    })
}

/// The segments that claim an address with the longest prefix: none, one, or several that the policy must not have.
#[must_use]
pub fn owners(policy: &Policy, address: IpAddr) -> Vec<&str> {
    let mut claims: Vec<(u8, &str)> = Vec::new();
    for (name, segment) in policy.segments.iter() {
        for selector in &segment.selectors {
            if let SelectorKind::Cidr { prefix, except } = &selector.kind
                && prefix.contains(&address)
                && !except.iter().any(|except| except.contains(&address))
            {
                claims.push((prefix.prefix_len(), name));
            }
        }
    }
    let longest = claims.iter().map(|(len, _)| *len).max();
    let mut owners: Vec<&str> = claims
        .into_iter()
        .filter(|(len, _)| Some(*len) == longest)
        .map(|(_, name)| name)
        .collect();
    owners.dedup();
    owners
}
