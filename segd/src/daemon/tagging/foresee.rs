//! Who every cgroup would be under a policy that is not in force. Writes nothing.

use std::collections::{BTreeMap, BTreeSet};

use segd_common::workload::{AMBIGUOUS, CGROUP_UNTRUSTED, Identity};

use super::{ambiguity, dying, identity_in};
use crate::{
    daemon::{engine::Engine, error::ApplyError},
    policy::compiled::CompiledTables,
    workload::{
        orphan::keep_orphaned,
        selector::{Position, SelectorTables},
    },
};

impl Engine {
    /// The identity of each cgroup, living or removed, that tagging would give it under these tables.
    ///
    /// # Errors
    ///
    /// What would keep the policy from being put in force.
    pub(in crate::daemon) fn foresee(
        &self,
        tables: &CompiledTables,
        selectors: &SelectorTables,
    ) -> Result<BTreeMap<u64, Identity>, ApplyError> {
        let active = self.tables.active()?;
        let (names, indexes) = (self.names(), tables.indexes());
        let name = |old: Identity| names.get(old.segment).unwrap_or("");
        let mut known = BTreeMap::new();
        for id in self.cgroups.ids()? {
            known.extend(self.cgroups.read(id)?.map(|entry| (id, entry)));
        }
        let mut positions: BTreeMap<u64, Position> = BTreeMap::new();
        let mut hidden = BTreeSet::new();
        let mut ambiguous = Vec::new();
        self.root.walk(&mut |cgroup| {
            let entry = known.get(&cgroup.id);
            let flags = cgroup.flags | entry.map_or(0, |entry| entry.flags & CGROUP_UNTRUSTED);
            let mut position = match positions.get(&cgroup.parent) {
                Some(parent) => selectors.descend(parent, flags, &cgroup.name),
                None => selectors.root_position(),
            };
            if position.slot.identity.flags & AMBIGUOUS != 0 && flags & CGROUP_UNTRUSTED == 0 {
                ambiguous.push(ambiguity(cgroup, tables, selectors, flags));
            }
            let old = identity_in(entry, active);
            position.slot = keep_orphaned(old, name(old), position.slot, &tables.release);
            if cgroup.is_hidden {
                hidden.insert(cgroup.id);
            }
            positions.insert(cgroup.id, position);
        })?;
        if !ambiguous.is_empty() {
            return Err(ApplyError::Ambiguous(ambiguous.join("\n")));
        }
        let mut found: BTreeMap<u64, Identity> = (positions.iter())
            .map(|(id, position)| (*id, position.slot.identity))
            .collect();
        for (id, entry) in &known {
            if positions.contains_key(id) {
                continue;
            }
            // Hidden below another, or removed while its sockets live.
            let above = std::iter::successors(Some(entry.parent), |above| {
                known.get(above).map(|entry| entry.parent)
            });
            let hides = above.take(known.len()).find(|above| hidden.contains(above));
            let identity = match hides.and_then(|above| positions.get(&above)) {
                Some(position) => position.slot.identity,
                None => {
                    let old = identity_in(Some(entry), active);
                    dying(old, name(old), tables, |name| indexes.get(name).copied())
                }
            };
            found.insert(*id, identity);
        }
        Ok(found)
    }
}
