//! Rule hits by label, which never go backwards although rules are renumbered with every revision.
//!
//! The kernel counts by rule index, beside the tables of each policy slot. The daemon clears the counts of a slot when it
//! writes a new revision into the slot, and reads them out before, when nobody counts there any more.

use std::{collections::BTreeMap, sync::Arc};

use segd_common::tables::MAX_RULES;

use super::metrics::MAX_SERIES;
use crate::policy::model::{Action, RuleLabel};

/// How many labels are told apart; hits of further ones count as `other`.
const MAX_LABELS: usize = 2 * MAX_RULES;
/// The label of what does not fit.
const OTHER: &str = "other";
/// In the place of a total: no rule has been there.
const NOBODY: u64 = u64::MAX;

/// Totals by label.
#[derive(Clone, Debug, Default)]
pub struct RuleHits {
    /// Those of a document's list, by the number in it: a million labels are some hundred lists.
    lists: Lists,
    /// How many labels there are.
    known: usize,
    /// Of those that do not fit, if there are any.
    other: Option<u64>,
}

impl RuleHits {
    /// Names rules, hit or not.
    pub fn know(&mut self, labels: impl IntoIterator<Item = RuleLabel>) {
        let mut labels = labels.into_iter().peekable();
        while let Some(first) = labels.next() {
            let mut list = list(&mut self.lists, &first, self.known);
            let mut next = Some(first.clone());
            while let Some(label) = next {
                if !known(list.as_deref_mut(), &label, &mut self.known) {
                    self.other.get_or_insert_default();
                }
                next = labels.next_if(|next| next.is_of_list_of(&first));
            }
        }
    }

    /// Counts a rule's hits. See [`Counts::since`] for how many they are.
    pub fn add(&mut self, label: &RuleLabel, hits: u64) {
        let mut list = list(&mut self.lists, label, self.known);
        let place = label.number() as usize;
        match known(list.as_deref_mut(), label, &mut self.known) {
            // Short of what stands for nobody, which no kernel counts up to.
            true => {
                if let Some(total) = list.and_then(|list| list.get_mut(place)) {
                    *total = total.saturating_add(hits).min(NOBODY - 1);
                }
            }
            false => *self.other.get_or_insert_default() += hits,
        }
    }

    /// How often a rule was hit.
    #[must_use]
    pub fn total(&self, label: &RuleLabel) -> u64 {
        let list = self.lists.get(&(Arc::clone(label.document()), label.list()));
        let total = list.and_then(|list| list.get(label.number() as usize));
        total.copied().filter(|total| *total != NOBODY).unwrap_or(0)
    }

    /// Totals by label, sorted by document, list and number. A rule never hit is there with 0.
    #[must_use]
    pub fn totals(&self) -> Vec<(String, u64)> {
        self.of_more_than(usize::MAX)
    }

    /// [`RuleHits::totals`]; of more than a scrape tells apart, without the rules that were never hit.
    #[must_use]
    pub fn series(&self) -> Vec<(String, u64)> {
        self.of_more_than(MAX_SERIES)
    }

    fn of_more_than(&self, few: usize) -> Vec<(String, u64)> {
        let all = self.known + usize::from(self.other.is_some()) <= few;
        let told = |total: u64| total != NOBODY && (all || total > 0);
        let rules = self.lists.iter().flat_map(|((document, action), list)| {
            let totals = (0..).zip(list).filter(|(_, total)| told(**total));
            totals.map(|(number, total)| {
                let label = RuleLabel::new(Arc::clone(document), *action, number);
                (label.to_string(), *total)
            })
        });
        let other = self.other.filter(|total| told(*total));
        rules
            .chain(other.map(|total| (OTHER.to_owned(), total)))
            .collect()
    }
}

/// The totals by the lists of documents.
type Lists = BTreeMap<(Arc<str>, Action), Vec<u64>>;

/// The list of a label, made anew as long as there is room for labels.
fn list<'l>(lists: &'l mut Lists, label: &RuleLabel, known: usize) -> Option<&'l mut Vec<u64>> {
    let key = (Arc::clone(label.document()), label.list());
    match known < MAX_LABELS {
        true => Some(lists.entry(key).or_default()),
        false => lists.get_mut(&key),
    }
}

/// Whether a label has a place in its list, which it is given if there is one.
fn known(list: Option<&mut Vec<u64>>, label: &RuleLabel, known: &mut usize) -> bool {
    let Some(list) = list else {
        return false;
    };
    let place = label.number() as usize;
    if list.get(place).is_some_and(|total| *total != NOBODY) {
        return true;
    }
    if *known >= MAX_LABELS || place >= MAX_LABELS {
        return false;
    }
    if list.len() <= place {
        list.resize(place + 1, NOBODY);
    }
    if let Some(total) = list.get_mut(place) {
        *total = 0;
        *known += 1;
    }
    true
}

/// What was last read of a slot.
#[derive(Clone, Debug, Default)]
pub struct Counts(Vec<u64>);

impl Counts {
    /// What was counted since the last look, by rule index, without those that counted nothing. `read` are the slot's counts now:
    /// one that fell was cleared, and counts from zero. None at all say nothing: they could not be read.
    pub fn since(&mut self, read: Vec<u64>) -> Vec<(usize, u64)> {
        if read.is_empty() {
            return Vec::new();
        }
        let before = self.0.iter().copied().chain(std::iter::repeat(0));
        let deltas = read
            .iter()
            .zip(before)
            .map(|(now, before)| match now.checked_sub(before) {
                Some(delta) => delta,
                None => *now,
            });
        let deltas = deltas.enumerate().filter(|(_, delta)| *delta > 0).collect();
        self.0 = read;
        deltas
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(document: &str, number: u32) -> RuleLabel {
        RuleLabel::new(document.into(), Action::Allow, number)
    }

    fn count(hits: &mut RuleHits, counts: &mut Counts, labels: &[RuleLabel], read: &[u64]) {
        hits.know(labels.to_vec());
        for (index, delta) in counts.since(read.to_vec()) {
            hits.add(&labels[index], delta);
        }
    }

    #[test]
    fn of_many_rules_those_never_hit_are_no_series() {
        let mut hits = RuleHits::default();
        let labels = [rule("a", 0), rule("a", 1), rule("b", 0)];
        count(&mut hits, &mut Counts::default(), &labels, &[0, 5, 6]);
        assert_eq!(hits.of_more_than(3), hits.totals());
        let hit = [("a/allow[1]".to_owned(), 5), ("b/allow[0]".to_owned(), 6)];
        assert_eq!(hits.of_more_than(2), hit);
    }

    #[test]
    fn counts_a_rule_on_although_it_gets_another_number() {
        let mut hits = RuleHits::default();
        let (a, b) = (rule("a", 0), rule("b", 7));
        let (mut one, mut other) = (Counts::default(), Counts::default());
        let both = [a.clone(), b.clone()];
        count(&mut hits, &mut one, &both, &[3, 5]);
        count(&mut hits, &mut one, &both, &[4, 5]);
        count(&mut hits, &mut other, std::slice::from_ref(&b), &[2]);
        count(&mut hits, &mut one, &both, &[4, 6]);
        assert_eq!((hits.total(&a), hits.total(&b)), (4, 8));
        // Another revision in the slot.
        count(
            &mut hits,
            &mut Counts::default(),
            &[b.clone(), a.clone()],
            &[1, 1],
        );
        assert_eq!(
            (hits.total(&a), hits.total(&b)),
            (5, 9),
            "a cleared slot starts from zero"
        );
    }

    #[test]
    fn never_goes_backwards_when_a_slot_was_cleared_behind_its_back() {
        let (mut hits, mut counts) = (RuleHits::default(), Counts::default());
        let a = [rule("a", 0)];
        count(&mut hits, &mut counts, &a, &[10]);
        count(&mut hits, &mut counts, &a, &[2]);
        assert_eq!(hits.total(&a[0]), 12);
        // What cannot be read is not taken for nothing.
        count(&mut hits, &mut counts, &a, &[]);
        count(&mut hits, &mut counts, &a, &[3]);
        assert_eq!(hits.total(&a[0]), 13);
    }

    #[test]
    fn names_a_rule_that_was_never_hit() {
        let mut hits = RuleHits::default();
        count(&mut hits, &mut Counts::default(), &[rule("a", 3)], &[0, 0, 0]);
        assert_eq!(hits.totals(), [("a/allow[3]".to_string(), 0)]);
    }

    #[test]
    fn tells_documents_and_lists_apart_and_rules_of_one_label_as_one() {
        let mut hits = RuleHits::default();
        let deny = RuleLabel::new("a".into(), Action::Deny, 0);
        let labels = [rule("a", 0), deny.clone(), rule("b", 0), rule("a", 0)];
        count(&mut hits, &mut Counts::default(), &labels, &[1, 2, 4, 8]);
        assert_eq!(
            (hits.total(&labels[0]), hits.total(&deny), hits.total(&labels[2])),
            (9, 2, 4)
        );
    }

    #[test]
    fn counts_what_does_not_fit_under_other() {
        let mut hits = RuleHits::default();
        let labels: Vec<RuleLabel> = (0..MAX_LABELS as u32 + 2).map(|n| rule("r", n)).collect();
        count(&mut hits, &mut Counts::default(), &labels, &vec![1; labels.len()]);
        let totals = hits.totals();
        assert_eq!(totals.len(), MAX_LABELS + 1);
        assert_eq!(totals.last(), Some(&(OTHER.to_owned(), 2)));
    }
}
