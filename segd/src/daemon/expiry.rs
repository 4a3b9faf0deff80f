//! Rules that end by themselves (`until`), and rules in windows (`when`): told to the kernel programs on their clock, and again
//! whenever a window opens or the calendar is put right.
//!
//! INVARIANT: the kernel programs end a right by themselves, whether this runs or not. What is done here opens windows, keeps
//! the kernel's clock in step with the calendar, and ends the sessions of a rule that is shut.
//! Deliberately absent: a new revision. The tables hold what the policy says, before a rule's end and after it.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use jiff::{SignedDuration, Timestamp};

use super::engine::Engine;
use crate::{
    control::types,
    policy::{
        compiled::{CompiledTables, Moment},
        term::{State, Term},
    },
    report::chain,
    telemetry::metrics::MAX_SERIES,
};

/// How far the two clocks may move against each other before the ends are written again. Reading both is not one act.
const STEP_NS: i128 = 20_000_000;

/// What is known of ends.
#[derive(Debug, Default)]
pub struct Expiry {
    /// By which the ends were written last.
    written: Option<Moment>,
    /// The revisions that they were written for.
    revisions: Vec<u32>,
    /// The first moment at which they are others.
    due: Option<Timestamp>,
    /// Rules that open nothing: the revision and the label.
    shut: BTreeSet<(u32, String)>,
}

/// A revision that packets may be judged by, and its tables.
type Judging<'t> = (u32, &'t CompiledTables);

/// What there is to do.
#[derive(Debug, Default, PartialEq, Eq)]
struct Todo {
    /// Say again when rules end.
    write: bool,
    /// Rules that are shut since the last look: the revision, the label, and when they open again.
    shut: Vec<(u32, String, Option<Timestamp>)>,
    /// Rules that are open again.
    opened: Vec<(u32, String)>,
}

impl Expiry {
    /// Compares both clocks, and the policies, with the last look. What is to be written is taken for done: see
    /// [`Expiry::again`].
    fn look(&mut self, policies: &[Judging<'_>], now: Moment) -> Todo {
        let revisions: Vec<u32> = policies.iter().map(|(revision, _)| *revision).collect();
        let stepped = self
            .written
            .is_none_or(|before| step_ns(&before, &now).abs() >= STEP_NS);
        let due = self.due.is_some_and(|due| due <= now.calendar);
        if !stepped && !due && revisions == self.revisions {
            return Todo::default();
        }
        let mut todo = Todo {
            write: true,
            ..Todo::default()
        };
        let mut shut = BTreeSet::new();
        for (revision, tables) in policies {
            for rule in tables
                .rules
                .iter()
                .take(tables.ending)
                .filter(|rule| !rule.term.is_lasting())
            {
                let key = (*revision, rule.label().to_string());
                let known = self.shut.contains(&key);
                match rule.term.at(now.calendar) {
                    State::Shut(opens) => {
                        if !known {
                            todo.shut.push((*revision, rule.label().to_string(), opens));
                        }
                        shut.insert(key);
                    }
                    State::Open(_) if known => todo.opened.push(key),
                    State::Open(_) => {}
                }
            }
        }
        *self = Expiry {
            written: Some(now),
            revisions,
            due: policies
                .iter()
                .filter_map(|(_, tables)| tables.change_after(now.calendar))
                .min(),
            shut,
        };
        todo
    }

    /// They could not be written: the next look tries again.
    fn again(&mut self) {
        self.written = None;
    }

    /// The last moment up to a time at which nothing had changed since the last look.
    pub(super) fn not_due_at(&self, time: Timestamp) -> Timestamp {
        let due = self.due.filter(|due| *due <= time);
        due.and_then(|due| due.checked_sub(JUST_BEFORE).ok())
            .unwrap_or(time)
    }

    /// When to look next, whatever the clock does till then; `None`: nothing is known to change.
    pub(super) fn due(&self) -> Option<SystemTime> {
        let since = Duration::try_from(self.due?.as_duration()).unwrap_or_default();
        SystemTime::UNIX_EPOCH.checked_add(since)
    }
}

/// How far the calendar has moved against the boot clock.
fn step_ns(before: &Moment, now: &Moment) -> i128 {
    let offset = |moment: &Moment| moment.calendar.as_nanosecond() - i128::from(moment.boot_ns);
    offset(now) - offset(before)
}

/// The last moment before something is due.
const JUST_BEFORE: SignedDuration = SignedDuration::from_nanos(1);

impl Engine {
    /// Looks at both clocks: once a second, when a window is to open or shut, and when the calendar was put right.
    pub(super) fn keep_time(&mut self, now: Moment) {
        // Hits so far are those of the rules that were open.
        if self.expiry.due.is_some_and(|due| due <= now.calendar) {
            self.collect_hits_or_warn();
        }
        let mut expiry = std::mem::take(&mut self.expiry);
        let policies: Vec<Judging<'_>> = self
            .policies()
            .map(|policy| (policy.active.revision(), policy.tables.as_ref()))
            .collect();
        let todo = expiry.look(&policies, now);
        self.expiry = expiry;
        if todo.write {
            self.write_ends(now);
        }
        for (revision, label) in &todo.opened {
            tracing::info!("rule `{label}` of revision {revision} is open: its window has begun");
        }
        for (revision, label, opens) in &todo.shut {
            let word = match opens {
                Some(opens) => format!("shut until {opens}"),
                None => "over".to_owned(),
            };
            tracing::info!(
                "rule `{label}` of revision {revision} is {word}: what it alone allowed is denied"
            );
        }
        if !todo.shut.is_empty() {
            self.cut();
        }
    }

    /// Says in every slot that packets may be judged by when its rules end.
    fn write_ends(&mut self, now: Moment) {
        let written = self
            .policies()
            .try_for_each(|policy| self.tables.write_ends(policy.active.slot(), &policy.tables, now));
        if let Err(error) = written {
            // Rules end as they would have by the calendar before.
            tracing::error!("saying when rules end: {}", chain(&error));
            self.expiry.again();
        }
    }

    /// Rules of the policy in force that change by themselves, the next one first; those that are over stand last.
    pub(super) fn expiries(&self, now: Moment) -> Vec<types::Expiry> {
        let mut found: Vec<_> = self
            .in_force
            .iter()
            .flat_map(|policy| policy.tables.rules.iter())
            .filter_map(|rule| {
                let (next, at) = next_of(&rule.term, now.calendar)?;
                Some((next == "over", at, next, rule))
            })
            .collect();
        found.sort_by_key(|(over, at, ..)| (*over, *at));
        // Part of what everybody who may look may ask for, as often as he likes.
        found.truncate(MAX_SERIES);
        let rows = found.into_iter().map(|(_, at, next, rule)| types::Expiry {
            rule: rule.label().to_string(),
            location: rule.location().to_string(),
            next: next.to_owned(),
            until: at.to_string(),
            seconds_left: at.as_second() - now.calendar.as_second(),
        });
        rows.collect()
    }

    /// When what each rule allows ends next, for metrics: of many, those that end soonest.
    pub(super) fn rule_ends(&self, now: Moment) -> Vec<(String, u64)> {
        let rules = self.in_force.iter().flat_map(|policy| policy.tables.rules.iter());
        let ends = rules.filter_map(|rule| {
            let second = end_of(&rule.term, now.calendar)?.as_second();
            // A policy may say a year before 1970.
            Some((u64::try_from(second).unwrap_or(0), rule))
        });
        let mut ends: Vec<_> = ends.collect();
        if ends.len() > MAX_SERIES {
            ends.sort_by_key(|(second, _)| *second);
            ends.truncate(MAX_SERIES);
        }
        ends.into_iter()
            .map(|(second, rule)| (rule.label().to_string(), second))
            .collect()
    }
}

/// What a rule does next, and when; `None`: nothing, it holds for good.
fn next_of(term: &Term, now: Timestamp) -> Option<(&'static str, Timestamp)> {
    match term.at(now) {
        State::Open(end) => Some((if end == term.until { "ends" } else { "shuts" }, end?)),
        State::Shut(Some(opens)) => Some(("opens", opens)),
        State::Shut(None) => Some(("over", term.until?)),
    }
}

/// When what a rule allows ends next: its window, the one that is open or the next one, or the rule itself.
fn end_of(term: &Term, now: Timestamp) -> Option<Timestamp> {
    match term.at(now) {
        State::Open(end) => end,
        State::Shut(None) => term.until,
        State::Shut(Some(opens)) => term.at(opens).change(),
    }
}

#[cfg(test)]
mod tests;
