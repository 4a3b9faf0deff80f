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
    datapath::places::Lives,
    policy::compiled::CompiledTables,
    workload::namespaces::{NamespaceInfo, Whose, lasting, owner},
};

/// Whose namespaces stay, by policy slot. Those that found no room in the kernel's table, too.
#[derive(Debug, Default)]
pub(super) struct Former(BTreeMap<u64, [Option<Whose>; 2]>);

impl Former {
    /// As a daemon before has left it.
    pub fn of(table: &BTreeMap<u64, Namespace>) -> Former {
        let whose = |entry: &Namespace, slot: usize| {
            Whose::of_entry(*entry.owner.get(slot)?, *entry.flags.get(slot)?)
        };
        let known = table.iter();
        Former(
            known
                .map(|(cookie, entry)| (*cookie, [whose(entry, 0), whose(entry, 1)]))
                .collect(),
        )
    }

    /// Forgets those that are gone.
    pub fn keep(&mut self, living: &BTreeSet<u64>) {
        self.0.retain(|cookie, _| living.contains(cookie));
    }

    fn at(&self, cookie: u64, slot: u32) -> Option<Whose> {
        *self.0.get(&cookie)?.get(slot as usize & 1)?
    }

    fn note(&mut self, cookie: u64, slot: u32, whose: Option<Whose>) {
        if let Some(to) = self.0.entry(cookie).or_default().get_mut(slot as usize & 1) {
            *to = whose;
        }
    }

    /// The segments that a slot names.
    pub fn segments(&self, slot: u32) -> impl Iterator<Item = SegmentIndex> {
        let whose = self
            .0
            .values()
            .filter_map(move |slots| *slots.get(slot as usize & 1)?);
        whose
            .map(|whose| whose.segment)
            .filter(|segment| *segment >= FIRST_SEGMENT)
    }

    /// Says of a slot what another one says. `None`: nothing.
    fn hand_on(&mut self, from: Option<u32>, to: u32, stays: impl Fn(&Whose) -> bool) {
        for slots in self.0.values_mut() {
            let before = from.and_then(|from| *slots.get(from as usize & 1)?);
            if let Some(to) = slots.get_mut(to as usize & 1) {
                *to = before.filter(&stays);
            }
        }
    }
}

/// Whether it stays somebody's under another policy: what the policy gives up is nobody's.
fn stays(whose: Whose, names: &Names<'_>, tables: &CompiledTables) -> bool {
    let name = names.get(whose.segment);
    !name.is_some_and(|name| tables.release.iter().any(|released| released == name))
}

/// What the kernel is told: a segment that the policy does not have is denied, as its workloads are.
fn told(whose: Whose, tables: &CompiledTables) -> Whose {
    let segment = tables.segments.get(usize::from(whose.segment));
    if whose.segment >= FIRST_SEGMENT && segment.is_none_or(|segment| segment.flags & SEGMENT_VALID == 0) {
        return whose.orphaned();
    }
    whose
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
        self.former
            .hand_on(from, slot, |whose| stays(*whose, names, tables));
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
        // What has no entry is outside of what segd governs, if that is not all there is.
        let stranger = (!self.root.is_hierarchy_root()).then_some(Identity::of(HOST));
        let identity = |id: u64| -> Option<Identity> {
            let Some(entry) = self.cgroups.read(id).ok()? else {
                return stranger;
            };
            let slot = entry.slots.get(slot as usize & 1)?;
            (slot.revision != 0).then_some(slot.identity)
        };
        for info in &self.namespaces {
            let lasts = lasting(info, self.former.at(info.cookie, slot), &identity);
            self.former.note(info.cookie, slot, lasts);
            let owner = told(owner(info, lasts, &identity), tables);
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

/// The one segment that claims a namespace's addresses, or `NAMESPACE_PLAIN` if none does.
fn claim(info: &NamespaceInfo, tables: &CompiledTables) -> (SegmentIndex, u16) {
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
