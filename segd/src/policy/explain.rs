//! Why a packet would pass or not: the verdict of the same function that the kernel runs, traced to its source line.

mod change;

use std::fmt;

use segd_common::{
    decide::{decide, outcome},
    reason::Reason,
    segment::SegmentIndex,
    service::Service,
    verdict::{Outcome, Verdict},
    workload::Identity,
};

pub use change::{Considered, Turn};

use super::{
    compile::{CompileError, compile},
    compiled::{CompiledTables, SegmentIndexes},
    diagnostic::nearest,
    model::{Action, Location, Mode, Peer, Policy, Rule},
    port::{self, Interval},
};

/// The answer to one question.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// Who initiates.
    pub from: String,
    /// Towards whom.
    pub to: String,
    /// What.
    pub service: Service,
    /// Allowed, denied, or denied and passed by audit mode.
    pub outcome: Outcome,
    /// The cause.
    pub reason: Reason,
    /// The cause in a sentence.
    pub sentence: String,
    /// The rule that decided.
    pub rule: Option<RuleRef>,
    /// The rule that comes nearest to allowing what no rule allows.
    pub nearest: Option<NearMiss>,
    /// Other rules that speak of it.
    pub considered: Vec<Considered>,
    /// What would turn the answer round.
    pub turn: Turn,
}

/// A rule, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleRef {
    /// Its label in metrics.
    pub label: String,
    /// Where it stands.
    pub location: Location,
    /// What the user wrote.
    pub text: String,
    /// `reason:`.
    pub reason: Option<String>,
}

/// A rule that almost allowed it.
#[derive(Clone, Debug, PartialEq)]
pub struct NearMiss {
    /// The rule.
    pub rule: RuleRef,
    /// What would have to be different.
    pub difference: String,
}

/// A name in a question that the policy does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownSegment {
    /// The name.
    pub name: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
}

impl fmt::Display for UnknownSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the policy has no segment `{}`", self.name)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; did you mean `{suggestion}`?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for UnknownSegment {}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ExplainError {
    /// The policy has no segment of that name.
    #[error(transparent)]
    Unknown(#[from] UnknownSegment),
    /// The policy does not fit into the tables.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

/// Answers whether `from` may initiate `service` towards `to`.
///
/// Only the rules between the two are compiled: no other rule has a part in what is decided about them, and a question
/// about a large policy need not wait for all of it.
///
/// # Errors
///
/// If the policy has no segment of that name, or does not fit into the tables.
pub fn explain(
    policy: &Policy,
    indexes: &SegmentIndexes,
    mode: Option<Mode>,
    from: &str,
    to: &str,
    service: Service,
) -> Result<Explanation, ExplainError> {
    let (from_peer, to_peer) = (peer(from), peer(to));
    let between = |rule: &Rule| rule.from.contains(&from_peer) && rule.to.contains(&to_peer);
    let numbers: Vec<usize> = (0..)
        .zip(&policy.rules)
        .filter(|(_, rule)| between(rule))
        .map(|(number, _)| number)
        .collect();
    let asked = Policy {
        rules: numbers
            .iter()
            .filter_map(|number| policy.rules.get(*number))
            .cloned()
            .collect(),
        segments: policy.segments.clone(),
        enforce_host: policy.enforce_host,
        ..Policy::default()
    };
    let tables = compile(&asked, indexes, mode)?;
    let from_identity = Identity::of(find(policy, &tables, from)?);
    let to_identity = Identity::of(find(policy, &tables, to)?);
    let verdict = decide(&tables, from_identity, to_identity, service);
    let outcome = outcome(&tables, verdict, from_identity, to_identity);
    let decider = (verdict.rule != Verdict::NO_RULE)
        .then(|| numbers.get(verdict.rule as usize).copied())
        .flatten();
    let rule = decider.and_then(|index| policy.rules.get(index)).map(RuleRef::of);
    let nearest = (verdict.reason == Reason::NoRule)
        .then(|| near_miss(policy, from, to, service))
        .flatten();
    Ok(Explanation {
        from: from.to_owned(),
        to: to.to_owned(),
        service,
        outcome,
        reason: verdict.reason,
        sentence: sentence(verdict.reason, from, to, service, Some(outcome)),
        rule,
        nearest,
        considered: change::considered(policy, decider, &from_peer, &to_peer, service),
        turn: change::turn(policy, verdict.reason, from, to, service),
    })
}

impl RuleRef {
    /// What people want to know of a rule.
    #[must_use]
    pub fn of(rule: &Rule) -> RuleRef {
        RuleRef {
            label: rule.label().to_string(),
            location: rule.location(),
            text: rule.text().to_string(),
            reason: rule.reason().map(str::to_owned),
        }
    }
}

fn find(policy: &Policy, tables: &CompiledTables, name: &str) -> Result<SegmentIndex, UnknownSegment> {
    let known = name == "host" || name == "world" || policy.segments.contains_key(name);
    tables.index(name).filter(|_| known).ok_or_else(|| {
        let names = policy
            .segments
            .keys()
            .map(String::as_str)
            .chain(["host", "world"]);
        UnknownSegment {
            name: name.to_owned(),
            suggestion: nearest(name, names).map(str::to_owned),
        }
    })
}

/// A decision in a sentence; without an outcome, what the policy says.
pub(super) fn sentence(
    reason: Reason,
    from: &str,
    to: &str,
    service: Service,
    outcome: Option<Outcome>,
) -> String {
    let port = port::display(service);
    let sentence = match reason {
        Reason::Rule => format!("a rule allows `{from}` to reach `{to}` on {port}"),
        Reason::Intra => format!("members of `{from}` may talk to each other"),
        Reason::HostDefault => format!("`{from}` to `{to}` is not enforced by this policy"),
        Reason::Guardrail => format!("a guardrail forbids `{from}` to reach `{to}` on {port}"),
        Reason::NoRule => format!("no rule allows `{from}` to reach `{to}` on {port}"),
        other => format!("`{from}` to `{to}` on {port}: {}", other.label()),
    };
    match outcome {
        Some(Outcome::Audited) => format!("{sentence}; audit mode lets it pass"),
        _ => sentence,
    }
}

/// The `allow` rule that differs in the fewest respects: first the time, then the port, then one side, then the direction.
fn near_miss(policy: &Policy, from: &str, to: &str, service: Service) -> Option<NearMiss> {
    let (from_peer, to_peer) = (peer(from), peer(to));
    let candidates = policy
        .rules
        .iter()
        .filter(|rule| rule.action == Action::Allow)
        .filter_map(|rule| {
            let covers = |services: &[Interval]| {
                let mut intervals = services.iter();
                intervals.any(|(low, high)| (*low..=*high).contains(&service))
            };
            let resting = rule.resting();
            let fits = covers(resting.map_or(&rule.services, |resting| &resting.services));
            let (from_fits, to_fits) = (rule.from.contains(&from_peer), rule.to.contains(&to_peer));
            let (rank, difference) = match (from_fits, to_fits, fits) {
                (true, true, true) => match resting?.opens {
                    Some(opens) => (0, format!("it is in none of its windows, and opens at {opens}")),
                    None => (0, "it is over".to_owned()),
                },
                (true, true, false) => (1, "it is about other ports".to_owned()),
                (true, false, true) => (2, format!("it does not lead to `{to}`")),
                (false, true, true) => (3, format!("it does not start from `{from}`")),
                (false, false, true) if rule.from.contains(&to_peer) && rule.to.contains(&from_peer) => {
                    (4, "it is about the other direction".to_owned())
                }
                _ => return None,
            };
            Some((rank, rule, difference))
        });
    let (_, rule, difference) = candidates.min_by_key(|(rank, ..)| *rank)?;
    Some(NearMiss {
        rule: RuleRef::of(rule),
        difference,
    })
}

fn peer(name: &str) -> Peer {
    match name {
        "host" => Peer::Host,
        "world" => Peer::World,
        _ => Peer::Segment(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::policy::{port, testing::policy_of};

    const SEGMENTS: &str = "{a: {match: [{cgroup: /a}]}, b: {intra: deny, match: [{cgroup: /b}]}}";

    fn ask(allow: &str, deny: &str, from: &str, to: &str, service: Service) -> Explanation {
        let policy = policy_of(SEGMENTS, &format!("[{allow}]"), &format!("[{deny}]"));
        let mut indexes = SegmentIndexes::default();
        indexes.allocate(&policy, &BTreeSet::new()).expect("fits");
        let found = explain(&policy, &indexes, None, from, to, service).expect("known names");
        // What only the rules between the two say is what all of them say.
        let tables = compile(&policy, &indexes, None).expect("fits");
        let identity = |name: &str| Identity::of(tables.index(name).expect("known"));
        let verdict = decide(&tables, identity(from), identity(to), service);
        let decider = policy.rules.get(verdict.rule as usize).map(RuleRef::of);
        assert_eq!((found.reason, &found.rule), (verdict.reason, &decider));
        found
    }

    #[test]
    fn the_smallest_change_turns_the_answer_round() {
        let allow = "{from: a, to: b, ports: [tcp/5432]}, {from: any, to: b, ports: [icmp]}, {from: host, to: a, ports: [udp/53]}";
        let deny = "{from: b, to: any}, {from: world, to: [a, b], ports: [tcp/22]}";
        let ports = ["tcp/5432", "tcp/22", "icmp/echo-request", "udp/53", "ip/47"];
        let peers = ["a", "b", "host", "world"];
        let mut turned = 0;
        for (from, to) in peers.into_iter().flat_map(|from| peers.map(|to| (from, to))) {
            for text in ports {
                let service = port::parse_one(text).expect("a port");
                let before = ask(allow, deny, from, to, service);
                assert_eq!(before.turn.enforce_host, before.reason == Reason::HostDefault);
                if before.turn.enforce_host {
                    continue;
                }
                let (mut allow, mut deny) = (allow.to_owned(), deny.to_owned());
                for guardrail in &before.turn.narrow {
                    deny = deny
                        .replace(&guardrail.text, "")
                        .trim_matches([',', ' '])
                        .to_owned();
                }
                match &before.turn.add {
                    Some(("allow", rule)) => allow = format!("{allow}, {rule}"),
                    Some((_, rule)) => deny = format!("{deny}, {rule}"),
                    None => assert!(
                        !before.turn.narrow.is_empty(),
                        "{from} {to} {text}: nothing to do"
                    ),
                }
                let after = ask(&allow, deny.trim_matches([',', ' ']), from, to, service);
                assert_ne!(
                    after.reason.allows(),
                    before.reason.allows(),
                    "{from} {to} {text}: {:?}",
                    before.turn
                );
                turned += 1;
            }
        }
        assert!(turned > 50, "{turned}");
    }

    #[test]
    fn says_of_a_rule_that_rests_when_it_opens() {
        let rule = "{from: a, to: b, ports: [tcp/80], when: {days: [mon], hours: 08:00-18:00, zone: UTC}}, \
                    {from: a, to: b, ports: [tcp/22], until: 2026-11-29T00:00:00Z}";
        let policy = policy_of(SEGMENTS, &format!("[{rule}]"), "[]");
        let ask = |time: &str, port: &str| {
            let policy = policy.at(time.parse().expect("a time"));
            let mut indexes = SegmentIndexes::default();
            indexes.allocate(&policy, &BTreeSet::new()).expect("fits");
            let service = port::parse_one(port).expect("a port");
            let found = explain(&policy, &indexes, None, "a", "b", service).expect("known names");
            (found.reason, found.nearest.map(|nearest| nearest.difference))
        };
        // A Monday.
        assert_eq!(ask("2026-11-30T12:00:00Z", "tcp/80"), (Reason::Rule, None));
        let opens = "it is in none of its windows, and opens at 2026-12-07T08:00:00Z".to_owned();
        assert_eq!(
            ask("2026-11-30T18:00:00Z", "tcp/80"),
            (Reason::NoRule, Some(opens))
        );
        assert_eq!(
            ask("2026-11-30T12:00:00Z", "tcp/22"),
            (Reason::NoRule, Some("it is over".to_owned()))
        );
        let other = "it is about other ports".to_owned();
        assert_eq!(
            ask("2026-11-30T12:00:00Z", "tcp/443"),
            (Reason::NoRule, Some(other))
        );
    }

    #[test]
    fn tells_the_rules_that_did_not_decide() {
        let allow = "{from: a, to: b, ports: [tcp/1-100]}, {from: a, to: b, ports: [tcp/80]}";
        let told = |deny: &str| -> Vec<(String, &'static str)> {
            let service = port::parse_one("tcp/80").expect("a port");
            let found = ask(allow, deny, "a", "b", service).considered.into_iter();
            found
                .map(|considered| (considered.rule.label, considered.role))
                .collect()
        };
        assert_eq!(told(""), [("test/allow[1]".to_owned(), "allows it, too")]);
        let beaten = "would allow it, but a guardrail beats it";
        let expected = [
            ("test/allow[0]".to_owned(), beaten),
            ("test/allow[1]".to_owned(), beaten),
            ("test/deny[1]".to_owned(), "forbids it, too"),
        ];
        assert_eq!(
            told("{from: a, to: b}, {from: any, to: b, ports: [tcp/80]}"),
            expected
        );
    }
}
