//! Two policies at a moment, and how they differ at later ones: when rules end, and when windows open and shut.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    output::diff::{Answer, Changed, Later},
    policy::{
        compile::compile,
        compiled::{CompiledTables, SegmentIndexes},
        diff::{Diff, Side, diff},
        model::{Mode, Policy},
        term::Term,
        window::When,
    },
    workload::selector::moves::moves,
};

/// A week, and whatever a change of the clocks may add to it.
const WEEK: SignedDuration = SignedDuration::from_hours(8 * 24);
/// Long enough for every change of the clocks of a year.
const YEAR: SignedDuration = SignedDuration::from_hours(400 * 24);

/// A policy as it is enforced at a moment.
pub struct Then<'p> {
    policy: Cow<'p, Policy>,
    tables: CompiledTables,
}

impl<'p> Then<'p> {
    /// A policy at a moment.
    ///
    /// # Errors
    ///
    /// It does not fit.
    pub fn of(policy: &'p Policy, mode: Option<Mode>, time: Timestamp) -> Result<Then<'p>, String> {
        let policy = policy.at(time);
        let mut indexes = SegmentIndexes::default();
        let tables = indexes
            .allocate(&policy, &BTreeSet::new())
            .and_then(|()| compile(&policy, &indexes, mode))
            .map_err(|error| error.to_string())?;
        Ok(Then { policy, tables })
    }

    /// For those who compare.
    pub fn side(&self) -> Side<'_> {
        Side {
            policy: &self.policy,
            tables: &self.tables,
        }
    }

    /// What is different under another one.
    ///
    /// # Errors
    ///
    /// The workloads could not be told apart.
    pub fn against(&self, new: &Then<'_>) -> Result<Diff, String> {
        let moves = moves(&self.tables, &new.tables).map_err(|error| error.to_string())?;
        Ok(diff(self.side(), new.side(), moves))
    }
}

/// What is different after a moment, wherever that is not what it was before; by windows, each difference once, at the first
/// moment in which it shows.
///
/// # Errors
///
/// As [`Then`].
pub fn later(
    old: &Policy,
    new: &Policy,
    mode: Option<Mode>,
    time: Timestamp,
    now: &[Changed],
) -> Result<Vec<Later>, String> {
    let rules = old.rules.iter().chain(&new.rules);
    let terms: BTreeSet<&Term> = rules
        .map(|rule| &*rule.term)
        .filter(|term| !term.is_lasting())
        .collect();
    let ends: BTreeSet<Timestamp> = terms
        .iter()
        .filter_map(|term| term.until)
        .filter(|end| *end > time)
        .collect();
    let state = |time: Timestamp| -> Vec<bool> { terms.iter().map(|term| term.at(time).is_open()).collect() };
    let mut known = BTreeMap::from([(state(time), (false, now.to_vec()))]);
    let mut before = state(time);
    let mut told: Vec<Vec<Changed>> = vec![now.to_vec()];
    let mut found = Vec::new();
    for moment in moments(&terms, &ends, time) {
        let then = state(moment);
        if !known.contains_key(&then) {
            let changes = Then::of(old, mode, moment)?.against(&Then::of(new, mode, moment)?)?;
            let answer = Answer::of(&changes);
            known.insert(then.clone(), (answer.widens, answer.changes));
        }
        let (Some((widens, changes)), Some((_, last))) = (known.get(&then), known.get(&before)) else {
            continue;
        };
        let for_good = ends.contains(&moment);
        if changes != last && (for_good || !told.contains(changes)) {
            told.push(changes.clone());
            found.push(Later {
                from: moment.to_string(),
                weekly: !for_good,
                widens: *widens,
                changes: changes.clone(),
            });
        }
        before = then;
    }
    Ok(found)
}

/// Every moment after a time at which something may be different that was not so before: the ends of rules, and what windows do
/// in a week from now, from each end, and from each change of the clocks.
fn moments(terms: &BTreeSet<&Term>, ends: &BTreeSet<Timestamp>, time: Timestamp) -> BTreeSet<Timestamp> {
    let mut moments = ends.clone();
    let windows: BTreeSet<&When> = terms.iter().filter_map(|term| term.when.as_ref()).collect();
    let mut starts = ends.clone();
    starts.insert(time);
    for start in starts.clone() {
        for when in &windows {
            starts.extend(when.clock_changes(start, start.saturating_add(YEAR).unwrap_or(Timestamp::MAX)));
        }
    }
    for when in windows {
        for start in &starts {
            let end = start.saturating_add(WEEK).unwrap_or(Timestamp::MAX);
            let mut at = *start;
            while let Some(change) = when.change_after(at).filter(|change| *change < end) {
                moments.insert(change);
                at = change;
            }
        }
    }
    moments
}
