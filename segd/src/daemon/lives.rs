//! Who lives in which network namespace, as the kernel is told, and whose a namespace stays that all have left.
//!
//! INVARIANT: a daemon that starts knows it by the kernel's own table.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use segd_common::{
    address::{NAMESPACE_PLAIN, Namespace, is_link_local, is_loopback},
    config::Active,
    segment::{FIRST_SEGMENT, HOST, NONE, SEGMENT_VALID, SegmentIndex},
    workload::Identity,
};

use super::{engine::Engine, error::ApplyError, noted::Names};
use crate::{
    datapath::{cgroups::Cgroups, kernel, places::Lives},
    policy::compiled::CompiledTables,
    workload::{
        cgroupfs::CgroupRoot,
        namespaces::{NamespaceInfo, Past, Whose, owner},
    },
};

/// Whose namespaces stay, by policy slot. Those that found no room in the kernel's table, too.
#[derive(Debug, Default)]
pub(super) struct Former {
    pasts: BTreeMap<u64, [Past; 2]>,
    /// Numbers are given again once a namespace is gone: what was there is another's past.
    forgets: bool,
}

impl Former {
    /// As a daemon before has left it. `host`: the number of its own namespace.
    pub fn of(table: &BTreeMap<u64, Namespace>, host: kernel::Namespace) -> Former {
        if let kernel::Namespace::Inode(_) = host {
            return Former {
                forgets: true,
                ..Former::default()
            };
        }
        let whose = |entry: &Namespace, slot: usize| {
            Whose::of_entry(*entry.owner.get(slot)?, *entry.flags.get(slot)?)
        };
        let past = |entry: &Namespace, slot: usize| Past::of(whose(entry, slot));
        let known = table.iter();
        Former {
            pasts: known
                .map(|(cookie, entry)| (*cookie, [past(entry, 0), past(entry, 1)]))
                .collect(),
            forgets: false,
        }
    }

    /// Forgets those that are gone.
    pub fn keep(&mut self, living: &BTreeSet<u64>) {
        self.pasts.retain(|cookie, _| living.contains(cookie));
    }

    fn at(&self, cookie: u64, slot: u32) -> Past {
        let slots = self.pasts.get(&cookie);
        slots
            .and_then(|slots| slots.get(slot as usize & 1))
            .cloned()
            .unwrap_or_default()
    }

    fn note(&mut self, cookie: u64, slot: u32, past: Past) {
        if self.forgets {
            return;
        }
        if let Some(to) = self.pasts.entry(cookie).or_default().get_mut(slot as usize & 1) {
            *to = past;
        }
    }

    fn of_slot(&self, slot: u32) -> impl Iterator<Item = &Past> {
        self.pasts
            .values()
            .filter_map(move |slots| slots.get(slot as usize & 1))
    }

    /// How many namespaces are somebody's whose workloads have left.
    pub fn left(&self, slot: u32) -> usize {
        let left = self.of_slot(slot).filter(|past| !past.is_claimed);
        left.filter(|past| past.lasts.is_some()).count()
    }

    /// The segments that a slot names.
    pub fn segments(&self, slot: u32) -> impl Iterator<Item = SegmentIndex> {
        let whose = self
            .of_slot(slot)
            .flat_map(|past| [past.lasts, past.before])
            .flatten();
        whose
            .map(|whose| whose.segment)
            .filter(|segment| *segment >= FIRST_SEGMENT)
    }

    /// Says of a slot what another one says. `None`: nothing.
    fn hand_on(&mut self, from: Option<u32>, to: u32, stays: impl Fn(u64, &Whose) -> bool) {
        for (cookie, slots) in &mut self.pasts {
            let from = from.and_then(|from| slots.get(from as usize & 1));
            let mut past = from.cloned().unwrap_or_default();
            for whose in [&mut past.lasts, &mut past.before] {
                *whose = whose.filter(|whose| stays(*cookie, whose));
            }
            if let Some(to) = slots.get_mut(to as usize & 1) {
                *to = past;
            }
        }
    }
}

/// Whether a policy gives up a segment, by its index under the policy before.
fn gives_up(segment: SegmentIndex, names: &Names<'_>, tables: &CompiledTables) -> bool {
    let name = names.get(segment);
    name.is_some_and(|name| tables.release.iter().any(|released| released == name))
}

/// Whether a policy gives up all of a namespace's workloads. `there`: who they were under the policy before.
fn gives_all_up(there: impl Iterator<Item = Identity>, names: &Names<'_>, tables: &CompiledTables) -> bool {
    let mut segments = there
        .map(|identity| identity.segment)
        .filter(|segment| *segment != HOST)
        .peekable();
    segments.peek().is_some() && segments.all(|segment| gives_up(segment, names, tables))
}

/// What the kernel is told: a segment that the policy does not have is denied, as its workloads are.
fn told(whose: Whose, tables: &CompiledTables) -> Whose {
    let segment = tables.segments.get(usize::from(whose.segment));
    if whose.segment >= FIRST_SEGMENT && segment.is_none_or(|segment| segment.flags & SEGMENT_VALID == 0) {
        return whose.denied();
    }
    whose
}

/// Who a cgroup is under a slot's revision; `None`: nobody classified it.
fn identities(cgroups: &Cgroups, root: &CgroupRoot, slot: u32) -> impl Fn(u64) -> Option<Identity> {
    // What has no entry is outside of what segd governs, if that is not all there is.
    let stranger = (!root.is_hierarchy_root()).then_some(Identity::of(HOST));
    move |id| {
        let Some(entry) = cgroups.read(id).ok()? else {
            return stranger;
        };
        let slot = entry.slots.get(slot as usize & 1)?;
        (slot.revision != 0).then_some(slot.identity)
    }
}

impl Engine {
    /// Before owners are written in a slot for the first time: whose namespaces stay, they stay under the next policy.
    pub(super) fn hand_on_owners(
        &mut self,
        active: Active,
        slot: u32,
        tables: &CompiledTables,
        names: &Names<'_>,
    ) {
        let from = (active.revision() != 0).then(|| active.slot());
        // Of what several left, or nobody can tell who, nothing is said by name.
        let given_up: BTreeSet<u64> = match from {
            Some(from) if !tables.release.is_empty() => {
                let identity = identities(&self.cgroups, &self.root, from);
                let all = self.namespaces.iter().filter(|info| {
                    let there = info.cgroups.iter().filter_map(|cgroup| identity(*cgroup));
                    gives_all_up(there, names, tables)
                });
                all.map(|info| info.cookie).collect()
            }
            _ => BTreeSet::new(),
        };
        self.former.hand_on(from, slot, |cookie, whose| {
            let is_named = whose.segment >= FIRST_SEGMENT;
            !gives_up(whose.segment, names, tables) && (is_named || !given_up.contains(&cookie))
        });
    }

    /// How many namespaces are kept for segments whose workloads have left.
    pub(super) fn left_namespaces(&self) -> u64 {
        let slot = self.in_force.as_ref().map(|now| now.active.slot());
        slot.map_or(0, |slot| self.former.left(slot)) as u64
    }

    /// Says under every revision that packets may be judged by who lives in which namespace. How many of them did not fit.
    pub(super) fn write_all_owners(&mut self) -> Result<usize, ApplyError> {
        let policies: Vec<(u32, Arc<CompiledTables>)> = self
            .policies()
            .map(|policy| (policy.active.slot(), Arc::clone(&policy.tables)))
            .collect();
        let mut left_out = 0;
        for (slot, tables) in policies {
            left_out = left_out.max(self.write_owners(slot, &tables)?);
        }
        Ok(left_out)
    }

    /// Says under a slot's revision who lives in which namespace, and how many of them did not fit.
    pub(super) fn write_owners(&mut self, slot: u32, tables: &CompiledTables) -> Result<usize, ApplyError> {
        let mut left_out = 0;
        let identity = identities(&self.cgroups, &self.root, slot);
        for info in &self.namespaces {
            let past = self.former.at(info.cookie, slot).then(info, &identity);
            let owner = told(owner(info, past.lasts, &identity), tables);
            self.former.note(info.cookie, slot, past);
            let (claimed, plain) = claim(info, tables);
            let lives = Lives {
                owner: owner.segment,
                flags: owner.flags | plain,
                claimed,
            };
            left_out += usize::from(!self.places.set_lives(info.cookie, slot, lives)?);
        }
        Ok(left_out)
    }
}

/// The one segment that claims a namespace's addresses, or `NAMESPACE_PLAIN` if none does. Neither, where that depends on the
/// address or is not known: then packets are asked.
fn claim(info: &NamespaceInfo, tables: &CompiledTables) -> (SegmentIndex, u16) {
    if info.is_unheard {
        return (NONE, 0);
    }
    let addresses = info.addresses.iter();
    let routed = addresses.filter(|address| !is_loopback(address) && !is_link_local(address));
    let claims: BTreeSet<SegmentIndex> = routed.map(|address| tables.claimed_by(address)).collect();
    if !claims.iter().any(|segment| *segment >= FIRST_SEGMENT) {
        return (NONE, NAMESPACE_PLAIN);
    }
    match claims.first() {
        Some(segment) if claims.len() == 1 => (*segment, 0),
        _ => (NONE, 0),
    }
}

#[cfg(test)]
mod tests;
