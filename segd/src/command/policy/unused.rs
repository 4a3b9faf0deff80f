//! `segd policy check --live --unused-for`: rules of the policy in force that nobody has used for a long time.

use std::{
    collections::BTreeMap,
    path::Path,
    str::FromStr,
    time::{Duration, SystemTime},
};

use crate::{
    control::{
        client::{Client, ClientError},
        protocol::{Request, Response},
        types::RuleRow,
    },
    policy::diagnostic::{Code, Diagnostic},
    source::Loaded,
    telemetry::clock::rfc3339,
};

/// `--unused-for`: a number with `s`, `m`, `h` or `d`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unused {
    time: Duration,
    text: String,
}

impl FromStr for Unused {
    type Err = String;

    fn from_str(text: &str) -> Result<Unused, String> {
        let wrong = || "expected a time like 30d, 12h, 30m or 90s, up to 3650d".to_owned();
        let (number, unit) = match text.char_indices().last() {
            Some((at, 's')) => (text.get(..at), 1),
            Some((at, 'm')) => (text.get(..at), 60),
            Some((at, 'h')) => (text.get(..at), 60 * 60),
            Some((at, 'd')) => (text.get(..at), 24 * 60 * 60),
            _ => return Err(wrong()),
        };
        let number = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        let number: u64 = number.and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
        match number.checked_mul(unit) {
            Some(seconds) if (1..=3650 * 24 * 60 * 60).contains(&seconds) => Ok(Unused {
                time: Duration::from_secs(seconds),
                text: text.to_owned(),
            }),
            _ => Err(wrong()),
        }
    }
}

/// What was found, and what could not be told.
#[derive(Debug, Default)]
pub struct Found {
    /// A warning for each rule that is not used.
    pub warnings: Vec<Diagnostic>,
    /// Of which rules that cannot be told, and why: a sentence each.
    pub notes: Vec<String>,
}

/// Asks the daemon behind `control` about each rule.
///
/// # Errors
///
/// It does not answer.
pub fn unused_rules(loaded: &Loaded, unused: &Unused, control: &Path) -> Result<Found, ClientError> {
    let mut client = Client::ask(control, &Request::Rules)?;
    let Response::Rules(rows) = client.answer()? else {
        return Err(client.surprise());
    };
    Ok(judge(loaded, unused, &rows, SystemTime::now()))
}

fn judge(loaded: &Loaded, unused: &Unused, rows: &[RuleRow], now: SystemTime) -> Found {
    let rows: BTreeMap<String, &RuleRow> = rows.iter().map(|row| (key(&row.rule, &row.text), row)).collect();
    // Times of one form and one zone are in the order of their texts.
    let before = rfc3339(now.checked_sub(unused.time).unwrap_or(SystemTime::UNIX_EPOCH));
    let mut found = Found::default();
    let (mut strange, mut young, mut since) = (0, 0, String::new());
    for (rule, span) in loaded.policy.rules.iter().zip(&loaded.rules) {
        let Some(row) = rows.get(&key(&rule.label().to_string(), &rule.text().to_string())) else {
            strange += 1;
            continue;
        };
        if row.sessions > 0 || row.last_hit.as_ref().is_some_and(|last| *last > before) {
            continue;
        }
        if row.watched_since > before || row.watched_since.is_empty() {
            young += 1;
            since = since.max(row.watched_since.clone());
            continue;
        }
        let message = match &row.last_hit {
            Some(last) => format!("nothing has begun under rule `{}` since {last}", rule.label()),
            None => format!(
                "nothing has begun under rule `{}` since segd watches it: {}",
                rule.label(),
                row.watched_since
            ),
        };
        let warning = Diagnostic::warning(Code::UnusedRule, *span, message);
        found
            .warnings
            .push(warning.help("take it out, or allow this warning where it is meant to wait"));
    }
    if young > 0 {
        found.notes.push(format!(
            "whether {young} rules are unused cannot be told: segd watches them for less than {} (since {since})",
            unused.text
        ));
    }
    if strange > 0 {
        found.notes.push(format!(
            "whether {strange} rules are unused cannot be told: they are not in force here"
        ));
    }
    found
}

/// What stays when a rule moves, as far as rows tell it: `shop/allow {from: …}`.
fn key(label: &str, text: &str) -> String {
    let list = label.split_once('[').map_or(label, |(list, _)| list);
    format!("{list} {text}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Trust, load};

    #[test]
    fn reads_times() {
        for (text, seconds) in [("90s", 90), ("2m", 120), ("1h", 3600), ("30d", 2_592_000)] {
            let read: Unused = text.parse().expect("a time");
            assert_eq!(read.time.as_secs(), seconds, "{text}");
        }
        for wrong in ["", "30", "d", "0d", "-1d", "1w", "3651d", "1.5d", "é"] {
            assert!(wrong.parse::<Unused>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn warns_only_of_what_was_watched_long_enough() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("p.yaml");
        let text = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: p}\nspec:\n  segments:\n    \
            a: {match: [{cgroup: /a}]}\n  allow:\n    - {from: a, to: world, ports: [tcp/1]}\n    \
            - {from: a, to: world, ports: [tcp/2]}\n    - {from: a, to: world, ports: [tcp/3]}\n    \
            - {from: a, to: world, ports: [tcp/4]}\n    - {from: a, to: world, ports: [tcp/5]}\n    \
            - {from: a, to: world, ports: [tcp/6]}\n";
        std::fs::write(&path, text).expect("a file");
        let loaded = load(&[path], false, &Trust::Everybody).expect("a policy");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100 * 24 * 60 * 60);
        let ago = |days: u64| rfc3339(now - Duration::from_secs(days * 24 * 60 * 60));
        let row = |index: usize, since: u64, last: Option<u64>, sessions| RuleRow {
            // The daemon's policy has a rule more before these.
            rule: format!("p/allow[{}]", index + 1),
            text: loaded.policy.rules.get(index).unwrap().text().to_string(),
            watched_since: ago(since),
            last_hit: last.map(ago),
            sessions,
            ..RuleRow::default()
        };
        let rows = [
            row(0, 40, None, 0),
            row(1, 40, Some(31), 0),
            row(2, 40, Some(29), 0),
            row(3, 40, None, 1),
            row(4, 20, None, 0),
        ];
        let found = judge(&loaded, &"30d".parse().expect("a time"), &rows, now);
        let told: Vec<&str> = found
            .warnings
            .iter()
            .map(|warning| warning.message.as_str())
            .collect();
        assert_eq!(
            told,
            [
                format!(
                    "nothing has begun under rule `p/allow[0]` since segd watches it: {}",
                    ago(40)
                ),
                format!("nothing has begun under rule `p/allow[1]` since {}", ago(31)),
            ]
        );
        assert_eq!(found.notes.len(), 2, "{:?}", found.notes);
        assert!(
            found.notes[0].contains("1 rules are unused cannot be told: segd watches them for less than 30d")
        );
        assert!(found.notes[1].contains("1 rules are unused cannot be told: they are not in force here"));
    }
}
