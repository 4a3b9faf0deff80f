//! Tagging: which cgroup has which identity under a revision.
//!
//! INVARIANT: a parent is tagged before its children are read. So a newborn either inherits from a parent that is
//! tagged already, in the kernel, or is found by the walk.

mod classify;
mod foresee;
mod ties;

use std::{cell::LazyCell, collections::BTreeMap};

use segd_common::{
    config::Active,
    segment::{FIRST_SEGMENT, HOST, PROBE, SegmentIndex},
    workload::{
        AMBIGUOUS, CGROUP_UNTRUSTED, CgroupEntry, CgroupSlot, Identity, MAX_CGROUPS, ORPHANED, STATE_NONE,
    },
};

use super::{
    engine::Engine,
    error::ApplyError,
    noted::Names,
    sequence::{self, Tagging},
};
use crate::{
    datapath::cgroups::Place,
    policy::compiled::CompiledTables,
    report::chain,
    workload::{
        cgroupfs::Cgroup,
        orphan::keep_orphaned,
        selector::{Position, SelectorTables, rivals},
    },
};

/// One walk over the cgroups.
struct Walk<'a> {
    slot: u32,
    active: Active,
    selectors: &'a SelectorTables,
    tables: &'a CompiledTables,
    /// The names of indexes under the revision in force.
    names: &'a Names<'a>,
    positions: BTreeMap<u64, (Position, u16)>,
    paths: BTreeMap<u64, String>,
    /// What stands for all below a cgroup whose owner hides it.
    hidden: BTreeMap<u64, CgroupSlot>,
    ambiguous: Vec<String>,
    /// It met a cgroup whose tag was another.
    changed: bool,
}

impl Engine {
    /// Tags every cgroup in a slot that is not in force. Returns, in lines, who is denied because two segments claim him with equal right.
    ///
    /// # Errors
    ///
    /// There is such a one, and a policy that this daemon put in force stays. A start has none: it goes on without them, for to refuse would be to
    /// leave everybody ungoverned, or the kernel without a daemon.
    pub(super) fn tag_all(
        &mut self,
        active: Active,
        slot: u32,
        revision: u32,
        tables: &CompiledTables,
        selectors: &SelectorTables,
        names: &Names<'_>,
    ) -> Result<Vec<String>, ApplyError> {
        let mut walk = Walk {
            slot,
            active,
            selectors,
            tables,
            names,
            positions: BTreeMap::new(),
            paths: BTreeMap::new(),
            hidden: BTreeMap::new(),
            ambiguous: Vec::new(),
            changed: false,
        };
        let root = std::sync::Arc::clone(&self.root);
        let overflowed = self.cgroups.overflowed()?;
        if overflowed {
            self.cgroups.await_overflow()?;
        }
        let (mut at, mut repeats) = (0, 0);
        while let Some(step) = sequence::TAGGING.get(at) {
            at += 1;
            match step {
                Tagging::Walk => {
                    walk.ambiguous.clear();
                    walk.hidden.clear();
                    walk.changed = false;
                    let mut failed = None;
                    root.walk(&mut |cgroup| {
                        if failed.is_none() {
                            failed = self.tag_one(&mut walk, cgroup).err();
                        }
                    })?;
                    if let Some(error) = failed {
                        return Err(error);
                    }
                }
                // A birth under way may have read its parent's slot before the walk wrote it, and show its directory
                // only after the walk has passed.
                Tagging::AwaitBirths => {
                    if let Err(error) = root.await_births() {
                        // A mount that may not be written; the second walk alone leaves a window of one mkdir(2).
                        tracing::debug!("births under way cannot be waited for: {}", chain(&error));
                    }
                }
                Tagging::Repeat => {
                    if walk.changed && repeats < sequence::MOST_REPEATS {
                        repeats += 1;
                        at = sequence::AGAIN;
                    }
                }
                Tagging::Unseen => {
                    if !walk.ambiguous.is_empty() && self.in_force.is_some() {
                        return Err(ApplyError::Ambiguous(walk.ambiguous.join("\n")));
                    }
                    self.tag_unseen(&walk, revision)?;
                    self.tag_probe(slot, revision)?;
                }
            }
        }
        self.paths = walk.paths;
        if overflowed {
            // The walk found room for every cgroup there is, if none was born meanwhile that found none.
            self.cgroups.clear_overflow()?;
        }
        Ok(ties::told(walk.ambiguous))
    }

    fn tag_one(&self, walk: &mut Walk<'_>, cgroup: &Cgroup) -> Result<(), ApplyError> {
        let known = self.cgroups.read(cgroup.id)?;
        // The kernel saw who made it; the walk only sees who may.
        let flags = cgroup.flags | known.map_or(0, |entry| entry.flags & CGROUP_UNTRUSTED);
        let mut position = match walk.positions.get(&cgroup.parent) {
            Some((parent, _)) => walk.selectors.descend(parent, flags, &cgroup.name),
            None => walk.selectors.root_position(),
        };
        // Who may choose names freely must not be able to keep a policy from being loaded: he is denied, and nobody asks him.
        if position.slot.identity.flags & AMBIGUOUS != 0 && flags & CGROUP_UNTRUSTED == 0 {
            walk.ambiguous
                .push(ambiguity(cgroup, walk.tables, walk.selectors, flags));
        }
        let old = identity_in(known.as_ref(), walk.active);
        let old_name = walk.names.get(old.segment).unwrap_or("");
        position.slot = keep_orphaned(old, old_name, position.slot, &walk.tables.release);
        let place = Place {
            id: cgroup.id,
            parent: cgroup.parent,
            path_len: position.path_len,
            flags,
        };
        let was = known.and_then(|entry| entry.slots.get(walk.slot as usize & 1).copied());
        walk.changed |= was != Some(position.slot);
        self.cgroups.tag(place, walk.slot, position.slot)?;
        if cgroup.is_hidden {
            let inherited = CgroupSlot {
                state: STATE_NONE,
                ..position.slot
            };
            walk.hidden.insert(cgroup.id, inherited);
        }
        walk.paths.insert(cgroup.id, cgroup.path.clone());
        walk.positions.insert(cgroup.id, (position, flags));
        Ok(())
    }

    /// Tags what the walk did not meet. What is known below cgroups that it could not look into, as those are: hiding must not keep
    /// anybody who he was under an older policy. The rest are removed cgroups whose sockets live: they keep their segment as
    /// long as it exists, and never become `host`.
    ///
    /// One that is born meanwhile and is not met here either has another revision, or its parent's tag: nothing of it is old.
    fn tag_unseen(&self, walk: &Walk<'_>, revision: u32) -> Result<(), ApplyError> {
        // Of few, most often, and of none with an index.
        let indexes = LazyCell::new(|| walk.tables.indexes());
        let mut below = BTreeMap::new();
        for id in self.cgroups.ids()? {
            if walk.positions.contains_key(&id) {
                continue;
            }
            let hidden = self.hidden_above(id, walk, &mut below)?;
            self.cgroups.change(id, |entry| {
                let old = identity_in(Some(entry), walk.active);
                let name = walk.names.get(old.segment).unwrap_or("");
                let identity = dying(old, name, walk.tables, |name| indexes.get(name).copied());
                let Some(to) = entry.slots.get_mut(walk.slot as usize & 1) else {
                    return;
                };
                if let Some(hidden) = hidden {
                    *to = hidden;
                } else if to.revision != revision {
                    *to = CgroupSlot {
                        identity,
                        revision,
                        state: STATE_NONE,
                        ..CgroupSlot::default()
                    };
                }
            })?;
        }
        Ok(())
    }

    /// What stands for a cgroup below one that the walk could not look into. `below`: what was found so before.
    fn hidden_above(
        &self,
        id: u64,
        walk: &Walk<'_>,
        below: &mut BTreeMap<u64, Option<CgroupSlot>>,
    ) -> Result<Option<CgroupSlot>, ApplyError> {
        let (mut at, mut way) = (id, Vec::new());
        let found = loop {
            if let Some(tag) = walk.hidden.get(&at) {
                break Some(*tag);
            }
            if let Some(known) = below.get(&at) {
                break *known;
            }
            if walk.positions.contains_key(&at) || way.len() >= MAX_CGROUPS as usize {
                break None;
            }
            way.push(at);
            // Not out of a list made before: a parent is known before its children are, and may be younger than the list.
            match self.cgroups.read(at)? {
                Some(entry) => at = entry.parent,
                None => break None,
            }
        };
        below.extend(way.into_iter().map(|id| (id, found)));
        Ok(found)
    }

    /// Tags the probe's cgroup, whose directory is gone and whose birth nobody may have seen.
    pub(super) fn tag_probe(&self, slot: u32, revision: u32) -> Result<(), ApplyError> {
        let Some(probe) = &self.probe else {
            return Ok(());
        };
        let place = Place {
            id: probe.cgroup,
            parent: 0,
            path_len: 0,
            flags: CGROUP_UNTRUSTED,
        };
        let identity = Identity::of(PROBE);
        let tag = CgroupSlot {
            identity,
            revision,
            state: STATE_NONE,
            ..CgroupSlot::default()
        };
        Ok(self.cgroups.tag(place, slot, tag)?)
    }

    /// The path of a cgroup that the last walk met.
    pub(super) fn path_of(&self, id: u64) -> Option<String> {
        self.paths.get(&id).cloned()
    }
}

/// Names both sides of a tie.
fn ambiguity(cgroup: &Cgroup, tables: &CompiledTables, selectors: &SelectorTables, flags: u16) -> String {
    let names: Vec<(&[u8], u16)> = cgroup
        .path
        .split('/')
        .filter(|name| !name.is_empty())
        .map(|name| (name.as_bytes(), flags))
        .collect();
    let uid = |name: &str| *selectors.users.get(name)?;
    let sides: Vec<String> = rivals(tables, &uid, &names)
        .into_iter()
        .filter_map(|number| tables.selectors.get(number.checked_sub(1)? as usize))
        .map(|side| {
            let segment = tables
                .names
                .get(usize::from(side.segment))
                .map_or("?", String::as_str);
            format!("`{segment}` by `{}` ({})", side.kind, side.location)
        })
        .collect();
    format!(
        "cgroup `{}` is claimed with equal right: {}",
        cgroup.path,
        sides.join(", ")
    )
}

/// Who a cgroup is under the revision in force.
fn identity_in(entry: Option<&CgroupEntry>, active: Active) -> Identity {
    if active.revision() == 0 {
        return Identity::of(HOST);
    }
    entry
        .and_then(|entry| entry.slots.get(active.slot() as usize))
        .filter(|slot| slot.revision != 0)
        .map_or(Identity::of(HOST), |slot| slot.identity)
}

/// Who a removed cgroup's sockets are under a new revision.
fn dying(
    old: Identity,
    name: &str,
    tables: &CompiledTables,
    index: impl FnOnce(&str) -> Option<SegmentIndex>,
) -> Identity {
    // The probe's index is one of the built-in ones.
    if old.segment < FIRST_SEGMENT {
        return old;
    }
    if tables.release.iter().any(|released| released == name) {
        return Identity::of(HOST);
    }
    match index(name) {
        Some(index) => Identity {
            segment: index,
            flags: old.flags,
        },
        None => Identity {
            segment: old.segment,
            flags: old.flags | ORPHANED,
        },
    }
}
