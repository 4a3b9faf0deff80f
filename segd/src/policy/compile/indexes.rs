//! Which segment gets which dense index.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use segd_common::segment::{FIRST_SEGMENT, MAX_SEGMENTS, SegmentIndex};

use super::CompileError;
use crate::policy::{compiled::SegmentIndexes, model::Policy};

impl SegmentIndexes {
    /// Gives every segment of the policy an index and forgets those that are neither in the policy nor kept.
    ///
    /// `keep` names segments that left the policy while workloads, sockets or events may still bear their index;
    /// theirs is not given to anybody else. A name that has an index keeps it.
    ///
    /// # Errors
    ///
    /// If there are more names than indexes; then nothing changes.
    pub fn allocate(&mut self, policy: &Policy, keep: &BTreeSet<String>) -> Result<(), CompileError> {
        // What most changes leave as it is.
        if self.by_name.len() == policy.segments.len() && self.by_name.keys().eq(policy.segments.keys()) {
            return Ok(());
        }
        let wanted: BTreeSet<&String> = policy
            .segments
            .keys()
            .chain(keep.iter().filter(|name| self.by_name.contains_key(*name)))
            .collect();
        let available = MAX_SEGMENTS - usize::from(FIRST_SEGMENT);
        if wanted.len() > available {
            let what = "segments, those included whose workloads are still alive";
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
        let mut free = (FIRST_SEGMENT..=last).filter(|index| !used.contains(index));
        for name in wanted {
            if !by_name.contains_key(name)
                && let Some(index) = free.next()
            {
                by_name.insert(name.clone(), index);
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
        assert_eq!(
            indexes.by_name.get("c"),
            Some(&5),
            "the index of `b` was free again"
        );
        assert_eq!(indexes.by_name.len(), 2);
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
