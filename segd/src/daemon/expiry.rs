//! Rules that end by themselves (`until`): told to the kernel programs on their clock, and again whenever the calendar is put
//! right.
//!
//! INVARIANT: the kernel programs end a right by themselves, whether this runs or not. What is done here keeps their clock
//! in step with the calendar, and ends the sessions of a rule that is over.
//! Deliberately absent: a new revision. The tables hold what the policy says, before a rule's end and after it.

use std::collections::BTreeSet;

use super::engine::{Engine, InForce};
use crate::{control::types, policy::compiled::Moment, report::chain};

/// How far the two clocks may move against each other before the ends are written again. Reading both is not one act.
const STEP_NS: i128 = 20_000_000;

/// What is known of ends.
#[derive(Debug, Default)]
pub struct Expiry {
    /// By which the ends were written last; those of a revision that came since are as good.
    written: Option<Moment>,
    /// Rules that are over: the revision and the label.
    over: BTreeSet<(u32, String)>,
}

/// How far the calendar has moved against the boot clock.
fn step_ns(before: &Moment, now: &Moment) -> i128 {
    let offset = |moment: &Moment| moment.calendar.as_nanosecond() - i128::from(moment.boot_ns);
    offset(now) - offset(before)
}

impl Engine {
    /// Looks at both clocks: once a second.
    pub(super) fn keep_time(&mut self, now: Moment) {
        let step = self.expiry.written.map(|before| step_ns(&before, &now));
        if step.is_none_or(|step| step.abs() >= STEP_NS) {
            self.write_ends(now);
        }
        self.end_sessions(now);
    }

    /// Says in every slot that packets may be judged by when its rules end.
    fn write_ends(&mut self, now: Moment) {
        for policy in self.policies() {
            if let Err(error) = self.tables.write_ends(policy.active.slot(), &policy.tables, now) {
                // The next look tries again. Rules end as they would have by the calendar before.
                tracing::error!("saying when rules end: {}", chain(&error));
                return;
            }
        }
        self.expiry.written = Some(now);
    }

    /// Ends the sessions of rules that are over since the last look, idle ones too.
    fn end_sessions(&mut self, now: Moment) {
        let over: BTreeSet<(u32, String)> = self.policies().flat_map(|policy| over(policy, now)).collect();
        let new: Vec<&(u32, String)> = over.difference(&self.expiry.over).collect();
        for (revision, label) in &new {
            tracing::info!("rule `{label}` of revision {revision} is over: what it alone allowed is denied");
        }
        if !new.is_empty() {
            self.cut();
        }
        self.expiry.over = over;
    }

    /// Rules of the policy in force that end, the next one first; those that are over stand last.
    pub(super) fn expiries(&self, now: Moment) -> Vec<types::Expiry> {
        let mut ends: Vec<_> = self
            .in_force
            .iter()
            .flat_map(|policy| &policy.tables.rules)
            .filter_map(|rule| rule.until.map(|end| (end <= now.calendar, end, rule)))
            .collect();
        ends.sort_by_key(|(over, end, _)| (*over, *end));
        let rows = ends.into_iter().map(|(_, end, rule)| types::Expiry {
            rule: rule.label.clone(),
            location: rule.location.to_string(),
            until: end.to_string(),
            seconds_left: end.as_second() - now.calendar.as_second(),
        });
        rows.collect()
    }

    /// The same for metrics.
    pub(super) fn rule_ends(&self) -> Vec<(String, u64)> {
        let rules = self.in_force.iter().flat_map(|policy| &policy.tables.rules);
        let ends = rules.filter_map(|rule| {
            let second = rule.until?.as_second();
            // A policy may say a year before 1970.
            Some((rule.label.clone(), u64::try_from(second).unwrap_or(0)))
        });
        ends.collect()
    }
}

/// The rules of a policy that are over.
fn over(policy: &InForce, now: Moment) -> impl Iterator<Item = (u32, String)> {
    let revision = policy.active.revision();
    let rules = policy.tables.rules.iter();
    rules
        .filter(move |rule| rule.until.is_some_and(|end| end <= now.calendar))
        .map(move |rule| (revision, rule.label.clone()))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn moment(second: i64, boot_ns: u64) -> Moment {
        Moment {
            calendar: Timestamp::from_second(second).expect("a time"),
            boot_ns,
        }
    }

    #[test]
    fn time_that_passes_is_no_step() {
        let before = moment(1_000_000, 5_000_000_000);
        assert_eq!(step_ns(&before, &moment(1_000_007, 12_000_000_000)), 0);
        assert_eq!(
            step_ns(&before, &moment(1_000_107, 12_000_000_000)),
            100_000_000_000
        );
        assert_eq!(
            step_ns(&before, &moment(1_000_006, 12_000_000_000)),
            -1_000_000_000
        );
    }

    #[test]
    fn an_end_keeps_its_distance_on_the_boot_clock() {
        let now = moment(1_000_000, 5_000_000_000);
        let end = |second: i64| Timestamp::from_second(second).expect("a time");
        assert_eq!(now.boot_ns_of(end(1_000_003)), 8_000_000_000);
        assert_eq!(now.boot_ns_of(end(999_999)), 4_000_000_000);
        assert_eq!(now.boot_ns_of(end(0)), 1, "past, and not without an end");
        assert_eq!(Moment::FIRST.boot_ns_of(end(0)), u64::MAX, "nothing is over yet");
        assert!(now.boot_ns_of(Timestamp::MAX) > now.boot_ns);
    }
}
