//! Which segment gets which dense index.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use segd_common::segment::{FIRST_SEGMENT, MAX_SEGMENTS, SegmentIndex};

use super::CompileError;
use crate::policy::{compiled::SegmentIndexes, model::Policy};

impl SegmentIndexes {
    /// Whether every segment of a policy has an index: [`SegmentIndexes::allocate`] changes nothing then.
    #[must_use]
    pub fn has_all_of(&self, policy: &Policy) -> bool {
        let mut known = self.by_name.keys();
        let mut names = policy.segments.keys();
        names.all(|name| known.any(|known| known == name))
    }

    /// Gives every segment of the policy an index; where a new one is needed, those are forgotten that are neither in the
    /// policy nor kept.
    ///
    /// Indexes are given in turn, so that one that was given up is not given again soon: what was counted under it would be
    /// told as the new one's.
    ///
    /// `keep` names segments that left the policy while workloads, sockets or events may still bear their index;
    /// theirs is not given to anybody else. A name that has an index keeps it.
    ///
    /// # Errors
    ///
    /// If there are more names than indexes; then nothing changes.
    pub fn allocate(&mut self, policy: &Policy, keep: &BTreeSet<String>) -> Result<(), CompileError> {
        if self.has_all_of(policy) {
            return Ok(());
        }
        let wanted: BTreeSet<&String> = policy
            .segments
            .keys()
            .chain(keep.iter().filter(|name| self.by_name.contains_key(*name)))
            .collect();
        let available = MAX_SEGMENTS - usize::from(FIRST_SEGMENT);
        if wanted.len() > available {
            let what =
                "segments, those included whose workloads are still alive or that the policy in force names";
            return Err(CompileError::Capacity {
                what,
                needed: wanted.len(),
                available,
            });
        }
        let mut by_name: BTreeMap<String, SegmentIndex> = BTreeMap::new();
        for name in &wanted {
            if let Some(index) = self.by_name.get(*name) {
                by_name.insert((*name).clone(), *index);
            }
        }
        let used: BTreeSet<SegmentIndex> = by_name.values().copied().collect();
        let last = SegmentIndex::try_from(MAX_SEGMENTS - 1).unwrap_or(SegmentIndex::MAX);
        let highest = || {
            self.by_name
                .values()
                .max()
                .and_then(|highest| highest.checked_add(1))
        };
        let next = self.next.or_else(highest).unwrap_or(FIRST_SEGMENT);
        let turn = (next..=last).chain(FIRST_SEGMENT..next);
        let mut free = turn.filter(|index| !used.contains(index));
        for name in wanted {
            if !by_name.contains_key(name)
                && let Some(index) = free.next()
            {
                by_name.insert(name.clone(), index);
                self.next = index.checked_add(1);
            }
        }
        self.by_name = Arc::new(by_name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::policy_of;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn starts_after_the_built_in_indexes() {
        let mut indexes = SegmentIndexes::default();
        indexes
            .allocate(&policy_of("{a: {}, b: {}}", "[]", "[]"), &names(&[]))
            .expect("fits");
        assert_eq!(indexes.by_name.values().copied().collect::<Vec<_>>(), [4, 5]);
    }

    #[test]
    fn never_gives_away_an_index_that_is_kept() {
        let mut indexes = SegmentIndexes::default();
        indexes
            .allocate(&policy_of("{a: {}, b: {}}", "[]", "[]"), &names(&[]))
            .expect("fits");
        indexes
            .allocate(&policy_of("{c: {}}", "[]", "[]"), &names(&["a", "unknown"]))
            .expect("fits");
        assert_eq!(indexes.by_name.get("a"), Some(&4));
        assert_eq!(indexes.by_name.get("c"), Some(&6), "the index of `b` rests");
        assert_eq!(indexes.by_name.len(), 2);
    }

    #[test]
    fn an_index_that_was_given_up_is_given_again_after_all_others() {
        let mut indexes = SegmentIndexes::default();
        let mut given = Vec::new();
        let fresh = MAX_SEGMENTS - usize::from(FIRST_SEGMENT);
        let mut policy = policy_of("{a: {}}", "[]", "[]");
        for number in 0..fresh + 2 {
            let segments = Arc::make_mut(&mut policy.segments);
            let (_, model) = segments.pop_first().expect("there is one");
            segments.insert(format!("s{number}"), model);
            indexes.allocate(&policy, &names(&[])).expect("fits");
            given.extend(indexes.by_name.values().copied());
        }
        let expected: Vec<SegmentIndex> = (FIRST_SEGMENT..=SegmentIndex::MAX).chain([4, 5]).collect();
        assert!(given == expected, "each once, then from the first on");
        // What another daemon gave is all that this one knows.
        let mut found = SegmentIndexes {
            by_name: Arc::new(BTreeMap::from([("a".to_owned(), 9)])),
            ..SegmentIndexes::default()
        };
        let policy = policy_of("{a: {}, b: {}}", "[]", "[]");
        found.allocate(&policy, &names(&[])).expect("fits");
        assert_eq!(found.by_name.get("b"), Some(&10));
    }

    #[test]
    fn a_segment_that_leaves_changes_no_index_until_another_one_needs_room() {
        let mut indexes = SegmentIndexes::default();
        indexes
            .allocate(&policy_of("{a: {}, b: {}, c: {}}", "[]", "[]"), &names(&[]))
            .expect("fits");
        let before = indexes.clone();
        indexes
            .allocate(&policy_of("{a: {}, c: {}}", "[]", "[]"), &names(&[]))
            .expect("fits");
        assert!(Arc::ptr_eq(&before.by_name, &indexes.by_name));
    }

    #[test]
    fn changes_nothing_when_there_are_too_many() {
        let mut indexes = SegmentIndexes::default();
        let many = |count: usize| {
            let mut policy = policy_of("{a: {}}", "[]", "[]");
            let model = Arc::make_mut(&mut policy.segments).remove("a").expect("defined");
            for number in 0..count {
                Arc::make_mut(&mut policy.segments).insert(format!("s{number}"), model.clone());
            }
            policy
        };
        indexes
            .allocate(&many(65_532), &names(&[]))
            .expect("fits exactly");
        let before = indexes.clone();
        let error = indexes
            .allocate(&many(65_533), &names(&[]))
            .expect_err("one too many");
        assert!(matches!(
            error,
            CompileError::Capacity {
                needed: 65_533,
                available: 65_532,
                ..
            }
        ));
        assert_eq!(indexes, before);
    }
}
