//! The answer of `segd apply --dry-run`. Stable; documented in docs/cli.md.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    diff,
    rows::{Table, endpoint},
    table::clean,
};
use crate::control::dry_run::{DryRun, Ending};

/// How many of those that end for one cause are told one by one to people.
const MOST: usize = 5;

/// What would change.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Answer {
    /// The revision in force, which the policy was compared with.
    pub revision: u32,
    /// TCP sessions of the host's network namespace.
    pub sessions: Sessions,
    /// What the flow log tells of the rest.
    pub flows: Flows,
    /// What could live without being seen here, a sentence each.
    pub not_covered: Vec<String>,
    /// As `segd policy diff -o json` has it.
    pub diff: diff::Answer,
}

/// Live sessions under the new policy.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sessions {
    /// How many were judged; null: this kernel does not list them.
    pub judged: Option<u64>,
    /// How many only their next packet can judge.
    pub unclear: u64,
    /// Those that would be cut.
    pub cut: Vec<Ending>,
}

/// Recent flows under the new policy.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Flows {
    /// How many were judged.
    pub judged: u64,
    /// How far back.
    pub seconds: u64,
    /// Those that would be denied; they may have ended.
    pub denied: Vec<Ending>,
}

impl Answer {
    /// What the daemon says, and what the policies say.
    #[must_use]
    pub fn of(told: DryRun, diff: diff::Answer) -> Answer {
        let seconds = told.flow_seconds;
        let mut not_covered = vec![format!(
            "other protocols than TCP, and other network namespaces than the host's, are seen as far as the flow log has \
             them: allowed flows that began in the last {seconds} s"
        )];
        if told.sessions.is_none() {
            let sentence = "this kernel does not list TCP sessions (Linux 5.11 does)";
            not_covered.insert(0, sentence.to_owned());
        }
        if told.unclear > 0 {
            not_covered.insert(
                0,
                format!(
                    "of {} TCP sockets only the next packet can show whose session it is",
                    told.unclear
                ),
            );
        }
        Answer {
            revision: told.revision,
            sessions: Sessions {
                judged: told.sessions,
                unclear: told.unclear,
                cut: told.cut,
            },
            flows: Flows {
                judged: told.flows,
                seconds,
                denied: told.flows_denied,
            },
            not_covered,
            diff,
        }
    }

    /// Whether anything would be judged differently, or cut.
    #[must_use]
    pub fn changes(&self) -> bool {
        !(self.diff.changes.is_empty() && self.sessions.cut.is_empty() && self.flows.denied.is_empty())
    }
}

impl Table for Answer {
    /// What somebody will notice comes first.
    fn table(&self) -> String {
        let mut out = String::new();
        match (self.sessions.cut.len(), self.sessions.judged) {
            (0, None) => {}
            (0, Some(judged)) => out.push_str(&format!("no live session would be cut (of {judged})\n\n")),
            (count, judged) => {
                out.push_str(&format!(
                    "{} would be cut (of {})\n",
                    counted(count, "live session"),
                    judged.unwrap_or(0)
                ));
                list(&mut out, &self.sessions.cut);
            }
        }
        if !self.flows.denied.is_empty() {
            out.push_str(&format!(
                "{} of the last {} s would be denied, and may have ended\n",
                counted(self.flows.denied.len(), "recent flow"),
                self.flows.seconds
            ));
            list(&mut out, &self.flows.denied);
        }
        for sentence in &self.not_covered {
            out.push_str(&format!("not covered: {sentence}\n"));
        }
        out.push('\n');
        out.push_str(&diff::table(&self.diff));
        out.push_str(&format!(
            "compared with revision {}; nothing was changed\n",
            self.revision
        ));
        out
    }
}

/// `1 flow`, `2 flows`.
fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// By cause, the most of one first.
fn list(out: &mut String, endings: &[Ending]) {
    let mut causes: BTreeMap<(&str, &str, &str, String), Vec<&Ending>> = BTreeMap::new();
    for ending in endings {
        let why = match (&ending.rule, &ending.location) {
            (Some(rule), Some(location)) => format!("{rule} at {location}"),
            _ => ending.reason.to_string(),
        };
        let key = (
            ending.from.as_str(),
            ending.to.as_str(),
            ending.port.as_str(),
            why,
        );
        causes.entry(key).or_default().push(ending);
    }
    let mut causes: Vec<_> = causes.into_iter().collect();
    causes.sort_by_key(|(_, endings)| std::cmp::Reverse(endings.len()));
    for ((from, to, port, why), endings) in causes {
        out.push_str(&clean(&format!(
            "  {} {from} -> {to} {port}: {why}",
            endings.len()
        )));
        out.push('\n');
        for ending in endings.iter().take(MOST) {
            let cgroup = |path: &Option<String>| path.clone().unwrap_or_else(|| "-".to_owned());
            out.push_str(&clean(&format!(
                "    {} -> {}  {} -> {}",
                endpoint(&ending.source, ending.source_port),
                endpoint(&ending.destination, ending.destination_port),
                cgroup(&ending.source_cgroup),
                cgroup(&ending.destination_cgroup),
            )));
            out.push('\n');
        }
        if endings.len() > MOST {
            out.push_str(&format!("    and {} more\n", endings.len() - MOST));
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(from: &str, source_port: u16) -> Ending {
        Ending {
            from: from.to_owned(),
            to: "db".to_owned(),
            port: "tcp/5432".to_owned(),
            reason: "no-rule".into(),
            source: "10.0.0.1".to_owned(),
            source_port: Some(source_port),
            destination: "fd00::2".to_owned(),
            destination_port: Some(5432),
            source_cgroup: Some(format!("/{from}")),
            ..Ending::default()
        }
    }

    #[test]
    fn tells_first_what_would_be_cut_the_most_of_one_cause_first_and_a_few_of_each() {
        let mut cut: Vec<Ending> = (0..7).map(|at| ending("web", 40_000 + at)).collect();
        cut.insert(0, ending("app", 50_000));
        let told = DryRun {
            revision: 3,
            sessions: Some(9),
            cut,
            flow_seconds: 60,
            ..DryRun::default()
        };
        let answer = Answer::of(told, diff::Answer::default());
        assert!(answer.changes());
        let text = answer.table();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines.get(..10),
            Some(
                [
                    "8 live sessions would be cut (of 9)",
                    "  7 web -> db tcp/5432: no-rule",
                    "    10.0.0.1:40000 -> [fd00::2]:5432  /web -> -",
                    "    10.0.0.1:40001 -> [fd00::2]:5432  /web -> -",
                    "    10.0.0.1:40002 -> [fd00::2]:5432  /web -> -",
                    "    10.0.0.1:40003 -> [fd00::2]:5432  /web -> -",
                    "    10.0.0.1:40004 -> [fd00::2]:5432  /web -> -",
                    "    and 2 more",
                    "  1 app -> db tcp/5432: no-rule",
                    "    10.0.0.1:50000 -> [fd00::2]:5432  /app -> -",
                ]
                .as_slice()
            ),
            "{text}"
        );
        assert!(text.contains("not covered: other protocols than TCP"), "{text}");
    }

    #[test]
    fn says_what_it_could_not_see() {
        let told = DryRun {
            unclear: 2,
            ..DryRun::default()
        };
        let answer = Answer::of(told, diff::Answer::default());
        assert!(!answer.changes());
        assert_eq!(answer.not_covered.len(), 3, "{:?}", answer.not_covered);
        assert!(!answer.table().contains("would be cut"));
    }
}
