//! The answer of `segd policy diff`. Stable; documented in docs/diff.md.

use serde::Serialize;

use super::clean;
use crate::policy::{
    diff::{Cause, Change, Diff, Entry, Moved, Name},
    port,
};

/// What changes between two policies.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Answer {
    /// Whether more passes, or more may, than before.
    pub widens: bool,
    /// What changes; none: every packet is judged as before.
    pub changes: Vec<Changed>,
    /// Who belongs to another segment than before.
    pub moved: Vec<Mover>,
    /// What changes later, when rules end that the other policy does not have, or ends otherwise: from each moment on.
    pub later: Vec<Later>,
    /// What of recorded traffic would be judged otherwise, if a log was given.
    pub flows: Option<Replayed>,
}

/// What changes between the two from a moment on.
#[derive(Clone, Debug, Serialize)]
pub struct Later {
    /// The moment, RFC 3339.
    pub from: String,
    /// It comes with a window (`when`), which opens and shuts every week; else it comes to stay.
    pub weekly: bool,
    /// Whether more passes then than under the old policy.
    pub widens: bool,
    /// What changes, all of it.
    pub changes: Vec<Changed>,
}

/// A flow log under both policies.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Replayed {
    /// Lines of the log.
    pub read: usize,
    /// Lines that are no flow, or about somebody that a policy does not know.
    pub not_understood: usize,
    /// What would be judged otherwise: what would be denied first.
    pub changed: Vec<Traffic>,
}

/// Recorded flows that would be judged otherwise, for one cause.
#[derive(Clone, Debug, Serialize)]
pub struct Traffic {
    /// `denied`, `allowed`.
    pub change: &'static str,
    /// Who starts, under the new policy.
    pub from: String,
    /// Towards whom.
    pub to: String,
    /// On what.
    pub port: String,
    /// How many flows of the log.
    pub flows: usize,
    /// The first of them, as the log has it.
    pub example: String,
    /// What decides under the old policy.
    pub old: Judged,
    /// What decides under the new one.
    pub new: Judged,
}

/// What decides about a flow.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// The reason's word.
    pub reason: &'static str,
    /// The rule's label.
    pub rule: Option<String>,
    /// Where it stands, `file:line`.
    pub location: Option<String>,
}

impl Judged {
    fn words(&self) -> String {
        match (&self.rule, &self.location) {
            (Some(rule), Some(location)) => format!("{rule} at {location}"),
            _ => self.reason.to_owned(),
        }
    }
}

/// One change for one cause.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Changed {
    /// `allowed`, `audited`, `denied`, `enforced`.
    pub change: &'static str,
    /// Who starts.
    pub from: Vec<Party>,
    /// Towards whom.
    pub to: Vec<Party>,
    /// On what.
    pub ports: Vec<String>,
    /// What decided before.
    pub old: Decider,
    /// What decides now.
    pub new: Decider,
}

/// A segment, `host`, `world`, or `any`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Party {
    /// Its name now.
    pub name: String,
    /// Its name before, if it was another one.
    pub was: Option<String>,
}

/// What decides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decider {
    /// `rule`, `guardrail`, `intra`, `host-default`, `no-rule`.
    pub reason: &'static str,
    /// The label of a rule or guardrail.
    pub rule: Option<String>,
    /// Where it stands, `file:line`.
    pub location: Option<String>,
    /// What stands there.
    pub text: Option<String>,
}

/// Who belongs to another segment than before.
#[derive(Clone, Debug, Serialize)]
pub struct Mover {
    /// The segment before.
    pub old: String,
    /// The segment now.
    pub new: String,
    /// Matchers and prefixes.
    pub what: Vec<String>,
}

impl Answer {
    /// In words.
    #[must_use]
    pub fn of(diff: &Diff) -> Answer {
        Answer {
            widens: diff.widens(),
            changes: diff.entries.iter().map(Changed::of).collect(),
            moved: diff.moved.iter().map(Mover::of).collect(),
            later: Vec::new(),
            flows: None,
        }
    }
}

impl Changed {
    fn of(entry: &Entry) -> Changed {
        let party = |name: &Name| Party {
            name: name.name.clone(),
            was: name.was.clone(),
        };
        Changed {
            change: entry.change.label(),
            from: entry.from.iter().map(party).collect(),
            to: entry.to.iter().map(party).collect(),
            ports: port::list::display_list(&entry.services),
            old: Decider::of(entry.old.as_ref()),
            new: Decider::of(entry.new.as_ref()),
        }
    }
}

impl Decider {
    fn of(cause: Option<&Cause>) -> Decider {
        let (reason, rule) = match cause {
            None => ("no-rule", None),
            Some(Cause::Intra) => ("intra", None),
            Some(Cause::HostDefault) => ("host-default", None),
            Some(Cause::Rule(rule)) => ("rule", Some(rule)),
            Some(Cause::Guardrail(rule)) => ("guardrail", Some(rule)),
        };
        Decider {
            reason,
            rule: rule.map(|rule| rule.label.clone()),
            location: rule.map(|rule| rule.location.to_string()),
            text: rule.map(|rule| rule.text.clone()),
        }
    }

    /// `shop/allow[0] at shop.yaml:9: {from: …}`.
    fn line(&self) -> String {
        match (&self.rule, &self.location, &self.text) {
            (Some(rule), Some(location), Some(text)) => format!("{location} {rule} {text}"),
            _ => match self.reason {
                "intra" => "members of one segment may talk to each other".to_owned(),
                "host-default" => "`host` and `world` are not enforced".to_owned(),
                _ => "no rule".to_owned(),
            },
        }
    }
}

impl Mover {
    fn of(moved: &Moved) -> Mover {
        Mover {
            old: moved.old.clone(),
            new: moved.new.clone(),
            what: moved.what.clone(),
        }
    }
}

/// For people: what widens first.
#[must_use]
pub fn table(answer: &Answer) -> String {
    let mut out = answer.flows.as_ref().map(traffic).unwrap_or_default();
    out.push_str(&changes(&answer.changes));
    for later in &answer.later {
        let again = if later.weekly {
            ", and whenever the same windows are open"
        } else {
            ""
        };
        out.push_str(&format!("from {} on{again}\n\n", later.from));
        out.push_str(match later.changes.is_empty() {
            true => "  no packet is judged differently\n\n",
            false => "",
        });
        out.push_str(&changes(&later.changes));
    }
    if !answer.moved.is_empty() {
        out.push_str("in another segment than before\n");
        for mover in &answer.moved {
            out.push_str(&format!(
                "  {} -> {}: {}\n",
                mover.old,
                mover.new,
                few(&mover.what)
            ));
        }
        out.push('\n');
    }
    out.push_str(
        match (
            answer.widens,
            answer.changes.is_empty() && answer.later.is_empty(),
        ) {
            (true, _) => "the policy widens\n",
            (false, false) => "the policy narrows, and widens nowhere\n",
            (false, true) => "no packet is judged differently\n",
        },
    );
    out
}

/// Entries by what changes, what widens first.
fn changes(changes: &[Changed]) -> String {
    let mut out = String::new();
    for change in Change::ALL {
        let entries: Vec<&Changed> = changes
            .iter()
            .filter(|entry| entry.change == change.label())
            .collect();
        if entries.is_empty() {
            continue;
        }
        out.push_str(title(change));
        out.push('\n');
        for entry in entries {
            out.push_str(&format!(
                "  {} -> {}  {}\n    - {}\n    + {}\n",
                parties(&entry.from),
                parties(&entry.to),
                entry.ports.join(", "),
                clean(&entry.old.line()),
                clean(&entry.new.line())
            ));
        }
        out.push('\n');
    }
    out
}

/// Recorded traffic comes first: it is what somebody will notice.
fn traffic(replayed: &Replayed) -> String {
    let mut out = format!("of {} recorded flows", replayed.read);
    if replayed.not_understood > 0 {
        out.push_str(&format!(" ({} not understood)", replayed.not_understood));
    }
    if replayed.changed.is_empty() {
        out.push_str(" none would be judged otherwise\n\n");
        return out;
    }
    out.push('\n');
    for traffic in &replayed.changed {
        out.push_str(&format!(
            "  {} would be {}: {} -> {} {}\n    - {}\n    + {}\n",
            traffic.flows,
            traffic.change,
            traffic.from,
            traffic.to,
            traffic.port,
            clean(&traffic.old.words()),
            clean(&traffic.new.words())
        ));
    }
    out.push('\n');
    out
}

const fn title(change: Change) -> &'static str {
    match change {
        Change::Allowed => "newly allowed",
        Change::Audited => "still denied, but no longer dropped (audit)",
        Change::Denied => "newly denied",
        Change::Enforced => "denied before, and now dropped (no longer audit)",
    }
}

/// `web, db (was world)`.
fn parties(parties: &[Party]) -> String {
    let words: Vec<String> = parties
        .iter()
        .map(|party| match &party.was {
            Some(was) => format!("{} (was {was})", party.name),
            None => party.name.clone(),
        })
        .collect();
    few(&words)
}

/// As many as one can read, and how many more there are.
fn few(words: &[String]) -> String {
    const MOST: usize = 12;
    let shown = words.get(..MOST.min(words.len())).unwrap_or_default().join(", ");
    match words.len().saturating_sub(MOST) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
