//! What is made of a change is what is made from scratch.

use super::*;
use crate::policy::{compile::compile, model::Pieces, testing::policy_of};

/// Numbers that are the same in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) as usize % end
    }

    fn of<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.below(texts.len())]
    }

    fn peer(&mut self) -> String {
        match self.below(24) {
            0 => "any".to_owned(),
            1 => "[]".to_owned(),
            2 => "{env: prod}".to_owned(),
            3..6 => format!("[s{}, s{}, world]", self.below(9), self.below(9)),
            6 => self.of(&["host", "world"]).to_owned(),
            _ => format!("s{}", self.below(9)),
        }
    }

    fn rule(&mut self) -> String {
        let (from, to) = (self.peer(), self.peer());
        let ports = match self.below(6) {
            0 => "tcp/80, tcp/443".to_owned(),
            1 => format!(
                "tcp/{}, udp/{}-{}, tcp/900",
                1 + self.below(3),
                10 + self.below(3),
                20
            ),
            2 => self.of(&["any", "icmp/echo-request", "tcp/1-1000"]).to_owned(),
            _ => format!("tcp/{}", 1 + self.below(30)),
        };
        let term = match self.below(40) {
            0 => ", until: 2030-01-01T00:00:00Z",
            1 => ", until: 2031-01-01T00:00:00Z",
            _ => "",
        };
        format!("{{from: {from}, to: {to}, ports: [{ports}]{term}}}")
    }

    fn guardrail(&mut self) -> String {
        let (from, to, port) = (self.peer(), self.peer(), 1 + self.below(30));
        format!("{{from: {from}, to: {to}, ports: [tcp/{port}]}}")
    }

    /// Changes some of a list.
    fn change(&mut self, list: &mut Vec<String>, rule: impl Fn(&mut Draw) -> String) {
        let at = self.below(list.len() + 1);
        match self.below(5) {
            0 => list.insert(at, rule(self)),
            1 if at < list.len() => drop(list.remove(at)),
            2 if at + 1 < list.len() => list.swap(at, at + 1),
            _ if at < list.len() => list[at] = rule(self),
            _ => list.push(rule(self)),
        }
    }
}

/// With prefixes, which stand behind the lists.
fn segments(count: usize) -> String {
    let segment = |number: usize| {
        let env = if number.is_multiple_of(3) {
            ", labels: {env: prod}"
        } else {
            ""
        };
        let intra = if number.is_multiple_of(2) {
            ", intra: deny"
        } else {
            ""
        };
        let kind = match number % 4 {
            0 => format!("{{cidr: 10.0.{number}.0/24}}"),
            _ => format!("{{cgroup: /s{number}}}"),
        };
        format!("s{number}: {{match: [{kind}]{env}{intra}}}")
    };
    let segments: Vec<String> = (0..count).map(segment).collect();
    format!("{{{}}}", segments.join(", "))
}

/// The rules in pieces, as files have them: one that says what one before said is that one.
fn in_pieces(mut policy: Policy, cuts: &[usize], before: Option<&Policy>) -> Policy {
    let mut left: Vec<Rule> = policy.rules.iter().cloned().collect();
    let mut pieces = Pieces::default();
    for cut in cuts.iter().chain(&[usize::MAX]) {
        let rest = left.split_off((*cut).min(left.len()));
        let piece = Arc::new(std::mem::replace(&mut left, rest));
        let known = before.and_then(|before| before.rules.pieces().find(|(_, known)| **known == piece));
        pieces.add(known.map_or(piece, |(_, known)| Arc::clone(known)));
    }
    policy.rules = pieces;
    policy
}

#[test]
fn a_changed_policy_is_compiled_as_it_would_be_alone() {
    let mut followed = 0;
    for seed in 0..60 {
        let mut draw = Draw(seed);
        let mut allow: Vec<String> = (0..draw.below(60)).map(|_| draw.rule()).collect();
        let mut deny: Vec<String> = (0..draw.below(8)).map(|_| draw.guardrail()).collect();
        let mut compiler = Compiler::default();
        let mut indexes = SegmentIndexes::default();
        let mut names = None;
        let mut before: Option<Arc<Policy>> = None;
        let mut cuts = vec![];
        for step in 0..40 {
            for _ in 0..=draw.below(2) {
                match draw.below(8) {
                    0 => draw.change(&mut deny, Draw::guardrail),
                    _ => draw.change(&mut allow, Draw::rule),
                }
            }
            let count = if step < 35 { 9 } else { 10 };
            let list = |rules: &[String]| format!("[{}]", rules.join(", "));
            if draw.below(10) == 0 {
                cuts = (0..draw.below(4)).map(|_| draw.below(20)).collect();
            }
            let policy = policy_of(&segments(count), &list(&allow), &list(&deny));
            let policy = Arc::new(in_pieces(policy, &cuts, before.as_deref()));
            before = Some(Arc::clone(&policy));
            indexes.allocate(&policy, &BTreeSet::new()).expect("fits");
            let mode = (step >= 30).then_some(Mode::Audit);
            let alone = compile(&policy, &indexes, mode).expect("fits");
            let after = compiler.compile(&policy, &indexes, mode).expect("fits");
            assert!(
                *after == alone,
                "seed {seed}, step {step}:\n{}\n{}",
                list(&allow),
                list(&deny)
            );
            // What is followed shares what did not change.
            let shared = names.replace(Arc::clone(&after.names));
            followed += usize::from(shared.is_some_and(|names| Arc::ptr_eq(&names, &after.names)));
        }
    }
    assert!(followed > 800, "only {followed} of 2400 were followed");
}
