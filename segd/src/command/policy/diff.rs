//! `segd policy diff`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{CANNOT, INVALID, NO, Reply, YES, replay::replay};
use crate::{
    output::{
        Format,
        diff::{Answer, Later, table},
        policy::print,
    },
    policy::{
        compile::compile,
        compiled::{CompiledTables, SegmentIndexes},
        diagnostic::Style,
        diff::{Side, diff},
        model::Policy,
        time,
    },
    source::{Loaded, load_named},
    workload::selector::moves::moves,
};

/// Say what changes between two policies.
#[derive(Debug, clap::Args)]
pub struct Diff {
    /// The policy before: a file, a directory, or `git:REV:PATH`, as in `git:HEAD:policies`
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The policy after
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Exit with 1 only if something is newly allowed, or no longer enforced: for CI
    #[arg(long)]
    deny_widening: bool,
    /// Compare from this time on instead of now: rules whose `until` is over then open nothing
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    at: Option<Timestamp>,
    /// Judge a recorded flow log under both: the lines of `segd flows -o json`, or `-` for stdin
    #[arg(long, value_name = "LOG")]
    against_flows: Option<PathBuf>,
    /// Take a policy without any document: under it everything is denied
    #[arg(long)]
    allow_empty: bool,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

impl Diff {
    /// The answer.
    pub(super) fn reply(&self, style: Style) -> Reply {
        let time = self.at.unwrap_or_else(Timestamp::now);
        let sides = self
            .read(&self.old, style)
            .and_then(|old| Ok((old, self.read(&self.new, style)?)));
        let (old_whole, new_whole) = match sides {
            Ok(sides) => sides,
            Err(reply) => return reply,
        };
        let (old, new) = match both(&old_whole, &new_whole, time) {
            Ok(sides) => sides,
            Err(reply) => return reply,
        };
        let moves = match moves(&old.1, &new.1) {
            Ok(moves) => moves,
            Err(error) => return Reply::refusal(&error.to_string()),
        };
        let old = Side {
            policy: &old.0,
            tables: &old.1,
        };
        let new = Side {
            policy: &new.0,
            tables: &new.1,
        };
        let found = diff(old, new, moves);
        let mut answer = Answer::of(&found);
        answer.later = match later(&old_whole, &new_whole, time, &answer) {
            Ok(later) => later,
            Err(reply) => return reply,
        };
        answer.widens |= answer.later.iter().any(|later| later.widens);
        let no = if self.deny_widening {
            answer.widens
        } else {
            !(found.entries.is_empty() && answer.later.is_empty())
        };
        if let Some(log) = &self.against_flows {
            match replay(log, old, new) {
                Ok(replayed) => answer.flows = Some(replayed),
                Err(error) => {
                    return Reply {
                        complaint: format!("error: cannot read `{}`: {error}\n", log.display()),
                        code: CANNOT,
                        ..Reply::default()
                    };
                }
            }
        }
        Reply::of(
            print(self.output, &answer, table),
            String::new(),
            if no { NO } else { YES },
        )
    }

    /// One side. What it probably does not mean is `check`'s business.
    fn read(&self, path: &Path, style: Style) -> Result<Loaded, Reply> {
        load_named(path, self.allow_empty).map_err(|error| Reply {
            complaint: error.render(style),
            code: INVALID,
            ..Reply::default()
        })
    }
}

/// Both sides as they are at a time.
fn both(old: &Loaded, new: &Loaded, time: Timestamp) -> Result<(Compiled, Compiled), Reply> {
    Ok((compiled(old, time)?, compiled(new, time)?))
}

type Compiled = (Policy, CompiledTables);

fn compiled(loaded: &Loaded, time: Timestamp) -> Result<Compiled, Reply> {
    let policy = loaded.policy.at(time);
    let mut indexes = SegmentIndexes::default();
    let tables = indexes
        .allocate(&policy, &BTreeSet::new())
        .and_then(|()| compile(&policy, &indexes, None))
        .map_err(|error| Reply::refusal(&error.to_string()))?;
    Ok((policy, tables))
}

/// What is different at the ends of rules after a time, wherever that is not what it was before.
fn later(old: &Loaded, new: &Loaded, time: Timestamp, answer: &Answer) -> Result<Vec<Later>, Reply> {
    let rules = old.policy.rules.iter().chain(&new.policy.rules);
    let ends: BTreeSet<Timestamp> = rules
        .filter_map(|rule| rule.until)
        .filter(|end| *end > time)
        .collect();
    let mut before = answer.changes.clone();
    let mut found = Vec::new();
    for end in ends {
        let (old, new) = both(old, new, end)?;
        let moves = moves(&old.1, &new.1).map_err(|error| Reply::refusal(&error.to_string()))?;
        let then = diff(
            Side {
                policy: &old.0,
                tables: &old.1,
            },
            Side {
                policy: &new.0,
                tables: &new.1,
            },
            moves,
        );
        let then = Answer::of(&then);
        if then.changes != before {
            before.clone_from(&then.changes);
            found.push(Later {
                from: end.to_string(),
                widens: then.widens,
                changes: then.changes,
            });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const OLD: &str = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: shop}\nspec:\n  segments:\n    \
        web: {match: [{cgroup: /web}]}\n    db: {match: [{cgroup: /db}]}\n  allow:\n    \
        - {from: web, to: db, ports: [tcp/5432]}\n  deny: []\n";

    /// What is said about a policy and the same one after an edit.
    #[track_caller]
    fn ask(edit: impl Fn(&str) -> String, insist: bool, output: Format) -> Reply {
        ask_with(edit, insist, output, None)
    }

    #[track_caller]
    fn ask_with(edit: impl Fn(&str) -> String, insist: bool, output: Format, flows: Option<&str>) -> Reply {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        fs::write(at("old.yaml"), OLD).expect("a file");
        fs::write(at("new.yaml"), edit(OLD)).expect("a file");
        let diff = Diff {
            old: at("old.yaml"),
            new: at("new.yaml"),
            deny_widening: insist,
            at: None,
            against_flows: flows.map(|flows| {
                fs::write(at("flows"), flows).expect("a file");
                at("flows")
            }),
            allow_empty: false,
            output,
        };
        let reply = diff.reply(Style::Plain);
        let strip = |text: String| text.replace(&format!("{}/", directory.path().display()), "");
        Reply {
            answer: strip(reply.answer),
            complaint: strip(reply.complaint),
            ..reply
        }
    }

    fn wider(text: &str) -> String {
        text.replace(
            "tcp/5432]}",
            "tcp/5432]}\n    - {from: web, to: db, ports: [tcp/22]}",
        )
    }

    #[test]
    fn tells_what_changes_with_the_lines_that_caused_it() {
        let reply = ask(
            |text| wider(&text.replace("[tcp/5432]", "[tcp/5433]")),
            false,
            Format::Table,
        );
        let expected = "newly allowed\n  \
            web -> db  tcp/5433\n    \
              - no rule\n    \
              + new.yaml:9 shop/allow[0] {from: web, to: db, ports: [tcp/5433]}\n\n\
            newly denied\n  \
            web -> db  tcp/5432\n    \
              - old.yaml:9 shop/allow[0] {from: web, to: db, ports: [tcp/5432]}\n    \
              + no rule\n\n\
            the policy widens\n";
        assert_eq!(
            (reply.answer.as_str(), reply.complaint.as_str(), reply.code),
            (expected, "", NO)
        );
    }

    #[test]
    fn insists_on_narrowing_only_if_asked_to() {
        let narrower = |text: &str| text.replace("allow:", "deny:").replace("deny: []", "allow: []");
        let same = |text: &str| text.replace("from: web", "from: [web]");
        for (edit, insist, code) in [
            (wider as fn(&str) -> String, true, NO),
            (wider, false, NO),
            (narrower, true, YES),
            (narrower, false, NO),
            (same, true, YES),
            (same, false, YES),
        ] {
            let reply = ask(edit, insist, Format::Table);
            assert_eq!(reply.code, code, "{}", reply.answer);
        }
        let told = ask(same, false, Format::Table).answer;
        assert_eq!(told, "no packet is judged differently\n");
    }

    #[test]
    fn answers_machines() {
        let reply = ask(wider, false, Format::Json);
        let answer: serde_json::Value = serde_json::from_str(&reply.answer).expect("JSON");
        assert_eq!(answer["widens"], true);
        let expected = serde_json::json!({
            "change": "allowed",
            "from": [{"name": "web", "was": null}], "to": [{"name": "db", "was": null}], "ports": ["tcp/22"],
            "old": {"reason": "no-rule", "rule": null, "location": null, "text": null},
            "new": {"reason": "rule", "rule": "shop/allow[1]", "location": "new.yaml:10",
                    "text": "{from: web, to: db, ports: [tcp/22]}"},
        });
        assert_eq!(answer["changes"], serde_json::json!([expected]));
        assert_eq!(answer["moved"], serde_json::json!([]));
    }

    #[test]
    fn replays_recorded_traffic_and_tells_first_what_would_be_denied() {
        let flow = |cgroup: &str, peer: &str, port: u16| {
            format!(
                "{{\"from\":\"x\",\"to\":\"y\",\"hook\":\"connect\",\"protocol\":\"tcp\",\"destination_port\":{port},\
                 \"cgroup\":\"{cgroup}\",\"peer_cgroup\":\"{peer}\"}}\n"
            )
        };
        let log = [
            flow("/web", "/db", 22),
            flow("/web", "/db", 5432),
            flow("/web/worker", "/db", 5432),
            flow("/db", "/web", 80),
            "no flow\n".to_owned(),
        ]
        .concat();
        let edit = |text: &str| text.replace("tcp/5432", "tcp/22");
        let reply = ask_with(edit, false, Format::Table, Some(&log));
        let expected = "of 5 recorded flows (1 not understood)\n  \
            2 would be denied: web -> db tcp/5432\n    \
              - shop/allow[0] at old.yaml:9\n    \
              + no-rule\n  \
            1 would be allowed: web -> db tcp/22\n    \
              - no-rule\n    \
              + shop/allow[0] at new.yaml:9\n\n";
        assert!(reply.answer.starts_with(expected), "{}", reply.answer);
        let same = ask_with(str::to_owned, false, Format::Table, Some(&log));
        assert!(
            same.answer
                .starts_with("of 5 recorded flows (1 not understood) none would be judged otherwise\n"),
            "{}",
            same.answer
        );
    }

    #[test]
    fn refuses_a_side_that_is_wrong() {
        let reply = ask(|text| text.replace("to: db", "to: bd"), false, Format::Table);
        assert_eq!((reply.answer.as_str(), reply.code), ("", INVALID));
        assert!(
            reply.complaint.contains("did you mean `db`?"),
            "{}",
            reply.complaint
        );
    }
}
