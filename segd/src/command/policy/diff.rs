//! `segd policy diff`.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{
    CANNOT, INVALID, NO, Reply, YES,
    compare::{Then, later},
    replay::replay,
};
use crate::{
    output::{
        Format,
        diff::{Answer, table},
        policy::print,
    },
    policy::{diagnostic::Style, time},
    source::{Loaded, load_named},
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
    /// Compare from this time on instead of now: rules that are over then, or in none of their windows, open nothing
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    at: Option<Timestamp>,
    /// Judge a recorded flow log under both: the lines of `segd flows -o json`, or `-` for stdin
    #[arg(long, value_name = "LOG")]
    against_flows: Option<PathBuf>,
    /// Take a policy without any document, every segment, rule and guardrail is gone then; and empty files
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
        let compared = Then::of(&old_whole.policy, None, time).and_then(|old| {
            let new = Then::of(&new_whole.policy, None, time)?;
            let mut answer = Answer::of(&old.against(&new)?);
            answer.later = later(&old_whole.policy, &new_whole.policy, None, time, &answer.changes)?;
            Ok((old, new, answer))
        });
        let (old, new, mut answer) = match compared {
            Ok(compared) => compared,
            Err(error) => return Reply::refusal(&error),
        };
        answer.widens |= answer.later.iter().any(|later| later.widens);
        let no = if self.deny_widening {
            answer.widens
        } else {
            !(answer.changes.is_empty() && answer.later.is_empty())
        };
        if let Some(log) = &self.against_flows {
            match replay(log, old.side(), new.side()) {
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
    fn a_window_is_a_change_even_if_the_two_agree_at_this_moment() {
        // 2026-11-29 is a Sunday; in winter Berlin's clocks are Lagos'.
        let ask = |old: &str, new: &str| {
            let directory = tempfile::tempdir().expect("a directory");
            let write = |name: &str, rule: &str| {
                let path = directory.path().join(name);
                fs::write(&path, OLD.replace("tcp/5432]", &format!("tcp/5432]{rule}"))).expect("a file");
                path
            };
            let diff = Diff {
                old: write("old.yaml", old),
                new: write("new.yaml", new),
                deny_widening: true,
                at: Some("2026-11-29T12:00:00Z".parse().expect("a time")),
                against_flows: None,
                allow_empty: false,
                output: Format::Json,
            };
            let reply = diff.reply(Style::Plain);
            let answer: serde_json::Value = serde_json::from_str(&reply.answer).expect("JSON");
            let later = answer["later"].as_array().expect("a list").iter().map(|later| {
                assert_eq!(later["weekly"], true, "{later}");
                let changes = later["changes"].as_array().expect("a list");
                let words: Vec<&str> = changes
                    .iter()
                    .filter_map(|change| change["change"].as_str())
                    .collect();
                format!("{} {}", later["from"].as_str().expect("a time"), words.join(","))
            });
            (
                reply.code,
                answer["changes"].as_array().expect("a list").len(),
                later.collect::<Vec<_>>(),
            )
        };
        let week = |days: &str, hours: &str, zone: &str| {
            format!(", when: {{days: [{days}], hours: \"{hours}\", zone: {zone}}}")
        };
        let narrow = week("mon-fri", "08:00-18:00", "Europe/Berlin");
        assert_eq!(ask(&narrow, &narrow), (YES, 0, vec![]));
        let one_more_hour = week("mon-fri", "08:00-19:00", "Europe/Berlin");
        let wider = vec!["2026-11-30T17:00:00Z allowed".to_owned()];
        assert_eq!(ask(&narrow, &one_more_hour), (NO, 0, wider));
        let narrower = vec!["2026-11-30T17:00:00Z denied".to_owned()];
        assert_eq!(ask(&one_more_hour, &narrow), (YES, 0, narrower));
        // Only in summer.
        let lagos = week("mon-fri", "08:00-18:00", "Africa/Lagos");
        let in_spring = vec![
            "2027-03-29T06:00:00Z denied".to_owned(),
            "2027-03-29T16:00:00Z allowed".to_owned(),
        ];
        assert_eq!(ask(&narrow, &lagos), (NO, 0, in_spring));
        // None at all, on a Sunday: denied now, allowed in the window.
        assert_eq!(
            ask("", &narrow),
            (YES, 1, vec!["2026-11-30T07:00:00Z ".to_owned()])
        );
        // Written otherwise, and the same.
        let halves = format!(
            ", when: [{}, {}]",
            week("mon-wed", "08:00-18:00", "Europe/Berlin").trim_start_matches(", when: "),
            week("thu-fri", "08:00-18:00", "Europe/Berlin").trim_start_matches(", when: ")
        );
        assert_eq!(ask(&narrow, &halves), (YES, 0, vec![]));
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
