//! The recorded flow log under two policies: what of real traffic would be judged otherwise.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use segd_common::{decide::decide, service::Service, verdict::Verdict, workload::Identity};

use super::who::{Who, of_flow};
use crate::{
    output::diff::{Judged, Replayed, Traffic},
    policy::{compiled::CompiledTables, diff::Side, explain::RuleRef, port},
};

/// The longest line that is read; a longer one is no flow.
pub const LONGEST_LINE: usize = 64 << 10;

/// One policy, with whom it takes everybody for: most flows are between the same few.
pub struct Judge<'p> {
    side: Side<'p>,
    known: BTreeMap<Who, Option<String>>,
}

/// What is told once, however many flows it is: both sides under the new policy, the port, both verdicts.
type Key = (String, String, Service, (u8, u32), (u8, u32));

/// Judges every flow of a log (`segd flows -o json`; `-`: stdin) under both policies.
///
/// # Errors
///
/// If the log cannot be read. A line that is no flow is counted.
pub fn replay(log: &Path, old: Side<'_>, new: Side<'_>) -> io::Result<Replayed> {
    let reader: Box<dyn BufRead> = if log == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(log)?))
    };
    replay_lines(reader, old, new)
}

fn replay_lines(mut reader: Box<dyn BufRead + '_>, old: Side<'_>, new: Side<'_>) -> io::Result<Replayed> {
    let (mut old, mut new) = (Judge::of(old), Judge::of(new));
    let mut replayed = Replayed::default();
    let mut changed: BTreeMap<Key, Traffic> = BTreeMap::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let text = std::str::from_utf8(&line).unwrap_or_default().trim();
        if text.is_empty() && line.len() < 3 {
            continue;
        }
        replayed.read += 1;
        let judged = (text.len() <= LONGEST_LINE)
            .then(|| of_flow(text).ok())
            .flatten()
            .and_then(|(from, to, port)| {
                let service = port::parse_one(&port).ok()?;
                let before = old.judge(&from, &to, service)?;
                let now = new.judge(&from, &to, service)?;
                Some((service, before, now))
            });
        let Some((service, before, now)) = judged else {
            replayed.not_understood += 1;
            continue;
        };
        if before.2.allows() == now.2.allows() {
            continue;
        }
        let verdict = |verdict: &Verdict| (verdict.reason as u8, verdict.rule);
        let key = (
            now.0.clone(),
            now.1.clone(),
            service,
            verdict(&before.2),
            verdict(&now.2),
        );
        let traffic = changed.entry(key).or_insert_with(|| Traffic {
            change: if now.2.allows() { "allowed" } else { "denied" },
            from: now.0.clone(),
            to: now.1.clone(),
            port: port::display(service),
            flows: 0,
            example: text.to_owned(),
            old: old.told(&before.2),
            new: new.told(&now.2),
        });
        traffic.flows += 1;
    }
    replayed.changed = changed.into_values().collect();
    // What would be cut comes first, the most of it before the least.
    replayed.changed.sort_by(|a, b| {
        (b.change, b.flows)
            .cmp(&(a.change, a.flows))
            .then_with(|| (&a.from, &a.to, &a.port).cmp(&(&b.from, &b.to, &b.port)))
    });
    Ok(replayed)
}

impl<'p> Judge<'p> {
    /// Who knows nobody yet.
    pub fn of(side: Side<'p>) -> Judge<'p> {
        Judge {
            side,
            known: BTreeMap::new(),
        }
    }

    /// Both sides' segments, and the verdict; `None` if the policy knows nobody of that name.
    pub fn judge(&mut self, from: &Who, to: &Who, service: Service) -> Option<(String, String, Verdict)> {
        let (from, to) = (self.segment(from)?, self.segment(to)?);
        let index = |name: &str| self.side.tables.index(name).map(Identity::of);
        let verdict = decide(self.side.tables, index(&from)?, index(&to)?, service);
        Some((from, to, verdict))
    }

    /// The segment of somebody; `None` if the policy cannot tell.
    pub fn segment(&mut self, who: &Who) -> Option<String> {
        let tables: &CompiledTables = self.side.tables;
        let known = self.known.entry(who.clone());
        known
            .or_insert_with(|| who.clone().identify(tables).ok().map(|found| found.segment))
            .clone()
    }

    fn told(&self, verdict: &Verdict) -> Judged {
        let rule = (verdict.rule != Verdict::NO_RULE).then_some(verdict.rule as usize);
        let rule = rule
            .and_then(|index| self.side.policy.rules.get(index))
            .map(RuleRef::of);
        Judged {
            reason: verdict.reason.label(),
            rule: rule.as_ref().map(|rule| rule.label.clone()),
            location: rule.map(|rule| rule.location.to_string()),
        }
    }
}
