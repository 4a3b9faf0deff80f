//! Rule hits by label, which never go backwards although rules are renumbered with every revision.
//!
//! The kernel counts by rule index, beside the tables of each policy slot. The daemon clears the counts of a slot when it
//! writes a new revision into the slot, and reads them out here before.

use std::collections::BTreeMap;

use segd_common::tables::MAX_RULES;

use super::metrics::MAX_SERIES;

/// How many labels are told apart; hits of further ones count as `other`.
const MAX_LABELS: usize = 2 * MAX_RULES;
/// The label of what does not fit.
const OTHER: &str = "other";

/// Totals by label.
#[derive(Clone, Debug, Default)]
pub struct RuleHits {
    totals: BTreeMap<String, u64>,
    slots: [Seen; 2],
}

/// What was last read of a slot.
#[derive(Clone, Debug, Default)]
struct Seen {
    revision: u32,
    hits: Vec<u64>,
}

impl RuleHits {
    /// Adds what happened in a slot since it was last read. `hits` are the slot's counts by rule index,
    /// `labels` those of the revision in the slot, which may be fewer.
    ///
    /// Call it for both slots at a scrape, and for the slot about to be cleared before it is. A count that
    /// fell was cleared and counts from zero.
    pub fn absorb<'a>(
        &mut self,
        slot: u32,
        revision: u32,
        labels: impl IntoIterator<Item = &'a str>,
        hits: &[u64],
    ) {
        let seen = &mut self.slots[(slot & 1) as usize];
        if seen.revision != revision {
            *seen = Seen {
                revision,
                hits: Vec::new(),
            };
        }
        for (index, (label, &now)) in labels.into_iter().zip(hits).enumerate() {
            let before = seen.hits.get(index).copied().unwrap_or(0);
            let delta = if now >= before { now - before } else { now };
            if let Some(total) = self.totals.get_mut(label) {
                *total += delta;
            } else if self.totals.len() < MAX_LABELS {
                self.totals.insert(label.to_string(), delta);
            } else {
                *self.totals.entry(OTHER.to_string()).or_default() += delta;
            }
        }
        seen.hits.clear();
        seen.hits.extend_from_slice(hits);
    }

    /// Totals by label, sorted by label. A rule never hit is there with 0.
    #[must_use]
    pub fn totals(&self) -> Vec<(String, u64)> {
        self.totals
            .iter()
            .map(|(label, total)| (label.clone(), *total))
            .collect()
    }

    /// [`RuleHits::totals`]; of more than a scrape tells apart, without the rules that were never hit.
    #[must_use]
    pub fn series(&self) -> Vec<(String, u64)> {
        self.of_more_than(MAX_SERIES)
    }

    fn of_more_than(&self, few: usize) -> Vec<(String, u64)> {
        let all = self.totals.len() <= few;
        let told = self.totals.iter().filter(|(_, total)| all || **total > 0);
        told.map(|(label, total)| (label.clone(), *total)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_rules_those_never_hit_are_no_series() {
        let mut hits = RuleHits::default();
        hits.absorb(0, 1, ["a", "b", "c"], &[0, 5, 6]);
        assert_eq!(hits.of_more_than(3), hits.totals());
        assert_eq!(hits.of_more_than(2), [("b".to_owned(), 5), ("c".to_owned(), 6)]);
    }

    fn total(hits: &RuleHits, label: &str) -> u64 {
        hits.totals()
            .into_iter()
            .find(|(known, _)| known == label)
            .map_or(0, |(_, total)| total)
    }

    #[test]
    fn counts_a_rule_on_although_it_gets_another_number() {
        let mut hits = RuleHits::default();
        hits.absorb(0, 1, ["a", "b"], &[3, 5]);
        hits.absorb(0, 1, ["a", "b"], &[4, 5]);
        hits.absorb(1, 2, ["b"], &[2]);
        hits.absorb(0, 1, ["a", "b"], &[4, 6]);
        assert_eq!((total(&hits, "a"), total(&hits, "b")), (4, 8));
        hits.absorb(0, 3, ["b", "a"], &[1, 1]);
        assert_eq!(
            (total(&hits, "a"), total(&hits, "b")),
            (5, 9),
            "a cleared slot starts from zero"
        );
    }

    #[test]
    fn never_goes_backwards_when_a_slot_was_cleared_behind_its_back() {
        let mut hits = RuleHits::default();
        hits.absorb(0, 1, ["a"], &[10]);
        hits.absorb(0, 1, ["a"], &[2]);
        assert_eq!(total(&hits, "a"), 12);
    }

    #[test]
    fn names_a_rule_that_was_never_hit() {
        let mut hits = RuleHits::default();
        hits.absorb(0, 1, ["a"], &[0, 0, 0]);
        assert_eq!(hits.totals(), [("a".to_string(), 0)]);
    }

    #[test]
    fn counts_what_does_not_fit_under_other() {
        let mut hits = RuleHits::default();
        let labels: Vec<String> = (0..MAX_LABELS + 2).map(|n| format!("r{n}")).collect();
        hits.absorb(0, 1, labels.iter().map(String::as_str), &vec![1; labels.len()]);
        assert_eq!(hits.totals().len(), MAX_LABELS + 1);
        assert_eq!(total(&hits, OTHER), 2);
    }
}
