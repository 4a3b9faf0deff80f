//! What the next daemon finds beside the tables: where their lines are pinned, and whose each index is.
//!
//! INVARIANT: an index that the policy in force names is noted as that segment's, whatever comes to nothing, and whenever.

use std::{collections::BTreeSet, sync::Arc};

use segd_common::{config::Active, segment::SegmentIndex};

use super::{engine::Engine, error::ApplyError};
use crate::policy::{compiled::SegmentIndexes, model::Policy};

/// The other way round: names by their index.
#[derive(Debug)]
pub(super) struct Names<'i>(Vec<&'i str>);

impl<'i> Names<'i> {
    pub fn of(indexes: &'i SegmentIndexes) -> Names<'i> {
        let highest = indexes
            .by_name
            .values()
            .max()
            .map_or(0, |index| usize::from(*index));
        let mut names = vec![""; highest + 1];
        for (name, index) in indexes.by_name.iter() {
            if let Some(known) = names.get_mut(usize::from(*index)) {
                *known = name;
            }
        }
        Names(names)
    }

    /// The name of an index, if it is a segment's of some policy.
    pub fn get(&self, index: SegmentIndex) -> Option<&'i str> {
        let name = self.0.get(usize::from(index)).copied();
        name.filter(|name| !name.is_empty())
    }
}

impl Engine {
    /// Pins a slot's lines, and guards them before anything is written to them.
    pub(super) fn pin_lines(&mut self, slot: u32) -> Result<(), ApplyError> {
        if let Some(array) = self.tables.array(slot) {
            self.maps.keep_lines(slot, array)?;
        }
        if let Some(guard) = &mut self.guard {
            guard.follow(&self.maps, &self.options.pin_dir)?;
        }
        Ok(())
    }

    /// Pins the names of indexes that are new, and that nobody bears any more.
    pub(super) fn note_names(
        &self,
        before: &SegmentIndexes,
        after: &SegmentIndexes,
    ) -> Result<(), ApplyError> {
        for (index, name) in changes(before, after) {
            self.tables.note_name(index, name)?;
        }
        Ok(())
    }

    /// The segments whose indexes no other may get before the word is written: those of the policy in force. Whoever dies
    /// in between leaves names under which that policy still says what it said.
    pub(super) fn named_now(&self, active: Active) -> BTreeSet<String> {
        let in_force = self.in_force.as_ref().map(|now| &*now.policy);
        named(active, in_force, &self.indexes)
    }
}

/// What a policy in force that only the kernel knows names may be all that has an index.
fn named(active: Active, in_force: Option<&Policy>, indexes: &SegmentIndexes) -> BTreeSet<String> {
    match in_force {
        Some(policy) => policy.segments.keys().cloned().collect(),
        None if active.revision() != 0 => indexes.by_name.keys().cloned().collect(),
        None => BTreeSet::new(),
    }
}

/// What has to be noted where some indexes are noted and others are to be; an empty name is a free index.
fn changes<'i>(before: &'i SegmentIndexes, after: &'i SegmentIndexes) -> Vec<(SegmentIndex, &'i str)> {
    if Arc::ptr_eq(&before.by_name, &after.by_name) {
        return Vec::new();
    }
    let new = after.by_name.iter();
    let new = new.filter(|(name, index)| before.by_name.get(*name) != Some(*index));
    let used: BTreeSet<SegmentIndex> = after.by_name.values().copied().collect();
    let gone = before.by_name.values().filter(|index| !used.contains(index));
    let new = new.map(|(name, index)| (*index, name.as_str()));
    new.chain(gone.map(|index| (*index, ""))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::policy::testing::policy_of;

    fn allocated(indexes: &SegmentIndexes, policy: &Policy, keep: &BTreeSet<String>) -> SegmentIndexes {
        let mut indexes = indexes.clone();
        indexes.allocate(policy, keep).expect("fits");
        indexes
    }

    #[test]
    fn no_index_that_the_policy_in_force_names_is_given_away_before_another_is_in_force() {
        let (old, new) = (
            policy_of("{a: {}, b: {}}", "[]", "[]"),
            policy_of("{a: {}, c: {}}", "[]", "[]"),
        );
        let before = allocated(&SegmentIndexes::default(), &old, &BTreeSet::new());
        let active = Active::new(3, 0);
        // A daemon that starts knows the names, and not yet the policy.
        for in_force in [Some(&old), None] {
            let after = allocated(&before, &new, &named(active, in_force, &before));
            assert_eq!(
                (after.by_name.get("b"), after.by_name.get("c")),
                (Some(&5), Some(&6))
            );
            assert_eq!(changes(&before, &after), [(6, "c")]);
        }
        let after = allocated(&before, &new, &named(active, Some(&old), &before));
        let third = policy_of("{a: {}, d: {}}", "[]", "[]");
        let last = allocated(&after, &third, &named(active, Some(&new), &after));
        assert!(
            !last.by_name.contains_key("b"),
            "no policy in force is about it any more"
        );
        assert_eq!(
            named(Active::new(0, 0), None, &before),
            BTreeSet::new(),
            "nothing is in force"
        );
    }

    #[test]
    fn what_was_noted_is_taken_back_by_the_changes_the_other_way_round() {
        let list = |names: &[(&str, SegmentIndex)]| SegmentIndexes {
            by_name: Arc::new(
                names
                    .iter()
                    .map(|(name, index)| ((*name).to_owned(), *index))
                    .collect(),
            ),
            ..SegmentIndexes::default()
        };
        let before = list(&[("a", 4), ("b", 5), ("c", 6)]);
        let after = list(&[("a", 4), ("d", 5), ("e", 7)]);
        let noted = |noted: &BTreeMap<SegmentIndex, String>, changes: Vec<(SegmentIndex, &str)>| {
            let mut noted = noted.clone();
            for (index, name) in changes {
                match name {
                    "" => noted.remove(&index),
                    name => noted.insert(index, name.to_owned()),
                };
            }
            noted
        };
        let map = |indexes: &SegmentIndexes| -> BTreeMap<SegmentIndex, String> {
            let names = indexes.by_name.iter();
            names.map(|(name, index)| (*index, name.clone())).collect()
        };
        let now = noted(&map(&before), changes(&before, &after));
        assert_eq!(now, map(&after));
        assert_eq!(noted(&now, changes(&after, &before)), map(&before));
        assert!(changes(&before, &before.clone()).is_empty());
    }
}
