//! What is said of rules is what asking every rule about every other one says.

use crate::policy::{
    diagnostic::{Code, Diagnostic, Span},
    lint::{Standing, lint, meet, within},
    model::{Action, Peer, Policy, Rule},
    testing::policy_of,
};

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % sides
    }

    fn side(&mut self) -> String {
        let name = |dice: &mut Dice| char::from(b'a' + dice.below(5) as u8);
        match self.below(8) {
            0 => "{l: x}".to_owned(),
            1 => "{l: z}".to_owned(),
            2 => "any".to_owned(),
            3 | 4 => format!("[{}, {}]", name(self), ["host", "world"][self.below(2) as usize]),
            _ => name(self).to_string(),
        }
    }

    fn rules(&mut self, count: u64) -> String {
        let rule = |_| {
            let (from, to, low) = (self.side(), self.side(), 1 + self.below(6));
            let high = low + self.below(4);
            let more = ["", ", udp/53", ", tcp/20-30"][self.below(3) as usize];
            format!("{{from: {from}, to: {to}, ports: [tcp/{low}-{high}{more}]}}")
        };
        let rules: Vec<String> = (0..count).map(rule).collect();
        format!("[{}]", rules.join(", "))
    }
}

fn spans(policy: &Policy) -> Vec<Span> {
    let at = |start: usize| Span {
        file: 0,
        start,
        end: start,
    };
    (0..policy.rules.len()).map(at).collect()
}

/// What may be said of a rule: the class, and the rules that may be named with it.
fn expected(policy: &Policy, number: usize) -> Option<(Code, Vec<usize>)> {
    let rule = policy.rules.get(number).expect("a rule");
    let all = || policy.rules.iter().enumerate();
    let around = |other: &Rule| {
        rule.from.is_subset(&other.from)
            && rule.to.is_subset(&other.to)
            && within(&rule.services, &other.services)
    };
    let across = |other: &Rule| {
        !rule.from.is_disjoint(&other.from)
            && !rule.to.is_disjoint(&other.to)
            && meet(&rule.services, &other.services)
    };
    let denies: Vec<usize> = all()
        .filter(|(_, other)| other.action == Action::Deny && across(other))
        .map(|(at, _)| at)
        .collect();
    if rule.action == Action::Allow && !denies.is_empty() {
        let whole = denies
            .iter()
            .find(|at| policy.rules.get(**at).is_some_and(around));
        return Some(match whole {
            Some(whole) => (Code::Shadowed, vec![*whole]),
            None => (Code::Contradicted, vec![denies[0]]),
        });
    }
    if let (Action::Allow, true, Some(Peer::Segment(_)), 1) = (
        rule.action,
        rule.from == rule.to,
        rule.from.first(),
        rule.from.len(),
    ) {
        return Some((Code::Implied, Vec::new()));
    }
    let implies = |at: usize, other: &Rule| {
        let same = rule.from == other.from && rule.to == other.to && rule.services == other.services;
        at != number && rule.action == other.action && around(other) && (!same || at < number)
    };
    let by: Vec<usize> = all()
        .filter(|(at, other)| implies(*at, other))
        .map(|(at, _)| at)
        .collect();
    (!by.is_empty()).then_some((Code::Implied, by))
}

#[test]
fn says_of_each_rule_what_asking_all_of_them_says() {
    let segments =
        "{a: {labels: {l: x}}, b: {labels: {l: x}}, c: {labels: {l: z}}, d: {labels: {l: z}}, e: {}}";
    let mut told = [0; 3];
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let (allow, deny) = (dice.rules(14), dice.rules(seed % 5));
        let policy = policy_of(segments, &allow, &deny);
        let spans = spans(&policy);
        let standing = Standing {
            segments: &Default::default(),
            rules: &spans,
        };
        let mut out: Vec<Diagnostic> = Vec::new();
        lint(&policy, &standing, &mut out);
        for (number, span) in spans.iter().enumerate() {
            let codes = [Code::Shadowed, Code::Contradicted, Code::Implied];
            let of_rule = |found: &&Diagnostic| found.span == Some(*span) && codes.contains(&found.code);
            let said = out.iter().find(of_rule);
            let expected = expected(&policy, number);
            let story = format!("seed {seed}, rule {number} of {allow} {deny}");
            assert_eq!(
                said.map(|said| said.code),
                expected.as_ref().map(|(code, _)| *code),
                "{story}"
            );
            if let (Some(said), Some((code, by))) = (said, expected) {
                let named: Vec<usize> = said.related.iter().map(|label| label.span.start).collect();
                assert!(
                    named.iter().all(|named| by.contains(named)),
                    "{named:?}, {by:?}: {story}"
                );
                assert_eq!(named.is_empty(), by.is_empty(), "{story}");
                told[codes.iter().position(|known| *known == code).unwrap_or_default()] += 1;
            }
        }
    }
    assert!(
        told.iter().all(|count| *count > 10),
        "too little was said: {told:?}"
    );
}
