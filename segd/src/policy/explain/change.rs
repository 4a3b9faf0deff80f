//! What else was considered, and the smallest change of the policy that would turn an answer round.

use segd_common::{reason::Reason, service::Service};

use super::RuleRef;
use crate::policy::{
    model::{Action, Peer, Policy, Rule},
    port,
};

/// A rule about the same parties and the same port that did not decide.
#[derive(Clone, Debug, PartialEq)]
pub struct Considered {
    /// The rule.
    pub rule: RuleRef,
    /// What it says beside the one that decided.
    pub role: &'static str,
}

/// The smallest change that would turn the answer round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Turn {
    /// A rule to add: the list, and the rule.
    pub add: Option<(&'static str, String)>,
    /// Guardrails that would have to leave room for it.
    pub narrow: Vec<RuleRef>,
    /// `spec.defaults.host: enforce`, where no rule is asked.
    pub enforce_host: bool,
}

/// How many rules are told.
const MOST: usize = 8;

/// Rules that say something of the question and did not decide.
pub(super) fn considered(
    policy: &Policy,
    decider: Option<usize>,
    from: &Peer,
    to: &Peer,
    service: Service,
) -> Vec<Considered> {
    let decided = decider
        .and_then(|index| policy.rules.get(index))
        .map(|rule| rule.action);
    let role = |action: Action| match (action, decided) {
        (Action::Allow, Some(Action::Deny)) => "would allow it, but a guardrail beats it",
        (Action::Allow, Some(Action::Allow)) => "allows it, too",
        (Action::Allow, None) => "allows it, but is not asked",
        (Action::Deny, Some(Action::Deny)) => "forbids it, too",
        (Action::Deny, _) => "forbids it, but is not asked",
    };
    let others = policy
        .rules
        .iter()
        .enumerate()
        .filter(|(index, rule)| Some(*index) != decider && says(rule, from, to, service));
    let others = others.map(|(_, rule)| Considered {
        rule: RuleRef::of(rule),
        role: role(rule.action),
    });
    others.take(MOST).collect()
}

/// What would turn the answer round.
pub(super) fn turn(policy: &Policy, reason: Reason, from: &str, to: &str, service: Service) -> Turn {
    let (from_peer, to_peer) = (super::peer(from), super::peer(to));
    let rule = format!("{{from: {from}, to: {to}, ports: [{}]}}", written(service));
    let says = |rule: &&Rule| says(rule, &from_peer, &to_peer, service);
    match reason {
        Reason::HostDefault => Turn {
            enforce_host: true,
            ..Turn::default()
        },
        reason if reason.allows() => Turn {
            add: Some(("deny", rule)),
            ..Turn::default()
        },
        Reason::Guardrail => {
            let of = |action: Action| policy.rules.iter().filter(move |rule| rule.action == action);
            let open = of(Action::Allow).any(|rule| says(&rule))
                || (from == to && policy.segments.get(from).is_some_and(|segment| segment.intra));
            Turn {
                add: (!open).then_some(("allow", rule)),
                narrow: of(Action::Deny)
                    .filter(says)
                    .map(RuleRef::of)
                    .take(MOST)
                    .collect(),
                enforce_host: false,
            }
        }
        _ => Turn {
            add: Some(("allow", rule)),
            ..Turn::default()
        },
    }
}

fn says(rule: &Rule, from: &Peer, to: &Peer, service: Service) -> bool {
    let covers = |(low, high): &(Service, Service)| (*low..=*high).contains(&service);
    rule.from.contains(from) && rule.to.contains(to) && rule.services.iter().any(covers)
}

/// The narrowest port that a rule can say for a service.
fn written(service: Service) -> String {
    let text = port::display(service);
    // Port 0, and what has no word, only `any` covers.
    match port::parse(&text) {
        Ok((low, high)) if (low..=high).contains(&service) => text,
        _ => "any".to_owned(),
    }
}
