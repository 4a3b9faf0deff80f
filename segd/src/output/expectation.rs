//! The answer of `segd policy test`. Stable; documented in docs/policy.md.

use std::collections::BTreeMap;

use serde::Serialize;

use super::clean;
use crate::policy::{
    compiled::CompiledTables,
    expectation::{Answer, Asker, decider, sentence},
    model::{Action, Policy},
    port,
};

/// What the tests of a policy found.
#[derive(Clone, Debug, Serialize)]
pub struct Tested {
    /// How many tests pass.
    pub passed: usize,
    /// How many do not.
    pub failed: usize,
    /// What the kernel programs said, if they were asked.
    pub kernel: Option<Kernel>,
    /// What became of real traffic, if this host was probed.
    pub live: Option<Live>,
    /// Every test.
    pub tests: Vec<TestRow>,
}

/// What the kernel programs said.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Kernel {
    /// Questions that a packet asked.
    pub asked: usize,
    /// Questions that no packet on this host asks, or too many of one test.
    pub left_out: usize,
    /// Where they do not say what the decision says: faults of segd.
    pub disagreements: Vec<String>,
}

/// What became of real traffic on this host.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Live {
    /// The revision that was in force.
    pub revision: u32,
    /// Questions that real traffic asked.
    pub probed: usize,
    /// Those that none did.
    pub not_probed: Vec<NotProbed>,
    /// Where it did not become what the decision says: faults of segd.
    pub disagreements: Vec<String>,
}

/// A question that no traffic asked.
#[derive(Clone, Debug, Serialize)]
pub struct NotProbed {
    /// The label of the test.
    pub test: String,
    /// Who starts.
    pub from: String,
    /// Towards whom.
    pub to: String,
    /// On what.
    pub port: String,
    /// Why not.
    pub why: String,
}

impl Live {
    /// What was not probed by why, with one example each, then what was, and how it went.
    fn lines(&self) -> String {
        let mut out = String::new();
        let mut by_cause: BTreeMap<&str, Vec<&NotProbed>> = BTreeMap::new();
        for left in &self.not_probed {
            by_cause.entry(&left.why).or_default().push(left);
        }
        for (why, left) in by_cause {
            if let [first, rest @ ..] = left.as_slice() {
                let more = match rest.len() {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                out.push_str(&format!(
                    "not probed: {} -> {} {} of {}{more}: {why}\n",
                    first.from, first.to, first.port, first.test
                ));
            }
        }
        for line in &self.disagreements {
            out.push_str(&format!("BUG   {line}\n"));
        }
        out.push_str(&format!(
            "live: {} questions probed under revision {}, {} not probed, {} disagreements{}\n",
            self.probed,
            self.revision,
            self.not_probed.len(),
            self.disagreements.len(),
            if self.disagreements.is_empty() {
                ""
            } else {
                ": a fault of segd, please report it"
            }
        ));
        out
    }
}

/// One test.
#[derive(Clone, Debug, Serialize)]
pub struct TestRow {
    /// Its label.
    pub test: String,
    /// Where it stands, `file:line`.
    pub location: String,
    /// What stands there.
    pub text: String,
    /// `allow`, `deny`.
    pub expect: &'static str,
    /// Whether every answer is the expected one.
    pub passed: bool,
    /// The first that is not.
    pub answer: Option<Answered>,
}

/// One answer.
#[derive(Clone, Debug, Serialize)]
pub struct Answered {
    /// Who starts.
    pub from: String,
    /// Towards whom.
    pub to: String,
    /// On what.
    pub port: String,
    /// `allowed`, `denied`.
    pub verdict: &'static str,
    /// The reason's word.
    pub reason: &'static str,
    /// The reason in a sentence.
    pub sentence: String,
    /// The rule that decided.
    pub rule: Option<String>,
    /// Where it stands.
    pub location: Option<String>,
}

impl Tested {
    /// Runs the tests.
    #[must_use]
    pub fn of(policy: &Policy, tables: &CompiledTables) -> Tested {
        let mut asker = Asker::new(tables, u64::MAX);
        let tests: Vec<TestRow> = policy
            .tests
            .iter()
            .map(|test| {
                let wrong = asker.first_wrong(test, |answer| Answered::of(policy, answer));
                // Whoever asks here waits for it himself: there is no bound.
                let wrong = wrong.unwrap_or_default();
                TestRow {
                    test: test.label.clone(),
                    location: test.location.to_string(),
                    text: test.text.to_string(),
                    expect: match test.expect {
                        Action::Allow => "allow",
                        Action::Deny => "deny",
                    },
                    passed: wrong.is_none(),
                    answer: wrong,
                }
            })
            .collect();
        let passed = tests.iter().filter(|test| test.passed).count();
        Tested {
            passed,
            failed: tests.len() - passed,
            kernel: None,
            live: None,
            tests,
        }
    }
}

impl Answered {
    fn of(policy: &Policy, answer: &Answer<'_>) -> Answered {
        let rule = decider(policy, answer);
        Answered {
            from: answer.from.name.clone(),
            to: answer.to.name.clone(),
            port: port::display(answer.service),
            verdict: Answered::verdict(answer),
            reason: answer.verdict.reason.label(),
            sentence: sentence(answer),
            rule: rule.as_ref().map(|rule| rule.label.clone()),
            location: rule.map(|rule| rule.location.to_string()),
        }
    }

    /// The verdict in a word. What only audit mode lets pass is denied.
    #[must_use]
    pub fn verdict(answer: &Answer<'_>) -> &'static str {
        if answer.verdict.allows() {
            "allowed"
        } else {
            "denied"
        }
    }
}

/// For people.
#[must_use]
pub fn table(tested: &Tested) -> String {
    let mut out = String::new();
    for row in &tested.tests {
        match &row.answer {
            None => out.push_str(&format!("ok    {} at {}\n", row.test, clean(&row.location))),
            Some(answer) => {
                let rule = match (&answer.rule, &answer.location) {
                    (Some(rule), Some(location)) => format!(" ({rule} at {location})"),
                    _ => String::new(),
                };
                let test = format!("{} at {} {}", row.test, row.location, row.text);
                let told = format!(
                    "{} -> {} {} is {}: {}{rule}",
                    answer.from, answer.to, answer.port, answer.verdict, answer.sentence
                );
                out.push_str(&format!("FAIL  {}\n      {}\n", clean(&test), clean(&told)));
            }
        }
    }
    if let Some(kernel) = &tested.kernel {
        for line in &kernel.disagreements {
            out.push_str(&format!("BUG   {line}\n"));
        }
        out.push_str(&format!(
            "kernel: {} questions asked, {} left to the decision alone, {} disagreements{}\n",
            kernel.asked,
            kernel.left_out,
            kernel.disagreements.len(),
            if kernel.disagreements.is_empty() {
                ""
            } else {
                ": a fault of segd, please report it"
            }
        ));
    }
    if let Some(live) = &tested.live {
        out.push_str(&live.lines());
    }
    let count = tested.tests.len();
    let noun = if count == 1 { "test" } else { "tests" };
    out.push_str(&format!(
        "{count} {noun}: {} passed, {} failed\n",
        tested.passed, tested.failed
    ));
    out
}
