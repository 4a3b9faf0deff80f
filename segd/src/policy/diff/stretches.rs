//! One pair of endpoints under two policies: the services whose fate changes, with what decided before and after.

use segd_common::{
    reason::Reason,
    service::{self, Service},
    tables::{PortRange, RULE_DENY},
    verdict::RuleIndex,
};

use super::Change;

/// Services whose fate changes alike, for one cause. Rules are those of the tables, `RULE_` constants included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stretch {
    /// What changes.
    pub change: Change,
    /// What decided before; `None`: nothing did.
    pub old: Option<RuleIndex>,
    /// What decides now.
    pub new: Option<RuleIndex>,
    /// The first service.
    pub low: Service,
    /// The last service.
    pub high: Service,
}

/// One side of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Fate<'t> {
    /// The pair's ranges.
    pub ranges: &'t [PortRange],
    /// A denial between the two only counts.
    pub audit: bool,
}

/// What becomes of a service.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Denied,
    Audited,
    Allowed,
}

impl Fate<'_> {
    /// What decides at a service, and up to where.
    fn at(&self, next: &mut usize, service: Service) -> (Option<RuleIndex>, Service) {
        while self.ranges.get(*next).is_some_and(|range| range.high < service) {
            *next += 1;
        }
        match self.ranges.get(*next) {
            Some(range) if range.low <= service => (Some(range.rule), range.high),
            Some(range) => (None, range.low - 1),
            None => (None, service::MAX),
        }
    }

    fn state(&self, rule: Option<RuleIndex>) -> State {
        let reason = match rule {
            Some(rule) if rule & RULE_DENY == 0 => return State::Allowed,
            Some(_) => Reason::Guardrail,
            None => Reason::NoRule,
        };
        if self.audit && reason.auditable() {
            State::Audited
        } else {
            State::Denied
        }
    }
}

/// Every change between two fates, ascending; neighbours of one cause are one stretch.
pub fn between(old: Fate<'_>, new: Fate<'_>) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    let (mut old_at, mut new_at) = (0, 0);
    let mut low = 0;
    while low <= service::MAX {
        let (old_rule, old_end) = old.at(&mut old_at, low);
        let (new_rule, new_end) = new.at(&mut new_at, low);
        let high = old_end.min(new_end);
        if let Some(change) = change(old.state(old_rule), new.state(new_rule)) {
            match stretches.last_mut() {
                Some(last)
                    if (last.change, last.old, last.new, last.high + 1)
                        == (change, old_rule, new_rule, low) =>
                {
                    last.high = high;
                }
                _ => stretches.push(Stretch {
                    change,
                    old: old_rule,
                    new: new_rule,
                    low,
                    high,
                }),
            }
        }
        low = high + 1;
    }
    stretches
}

fn change(old: State, new: State) -> Option<Change> {
    match (old, new) {
        (State::Denied | State::Audited, State::Allowed) => Some(Change::Allowed),
        (State::Allowed, State::Denied | State::Audited) => Some(Change::Denied),
        (State::Denied, State::Audited) => Some(Change::Audited),
        (State::Audited, State::Denied) => Some(Change::Enforced),
        _ => None,
    }
}
