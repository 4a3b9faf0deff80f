//! cgroups are born and released here: a newborn is tagged before anything can run in it.
//!
//! The tracepoint fires before the directory is visible, so no process can be inside. Entries go when the last
//! socket is closed (`cgroup_release`), not when the directory is removed: a removed cgroup's sockets keep
//! their segment.

use aya_ebpf::{
    helpers::{bpf_get_current_uid_gid, bpf_probe_read_kernel_str_bytes},
    programs::RawTracePointContext,
};
use aya_log_ebpf::warn;
use segd_common::{
    counter::stat,
    matching::{self, Name, Selectors},
    workload::{CgroupEntry, Edge, EdgeKey, NAME_LEN, UnitPattern},
};

use crate::{
    globals,
    identity::peek,
    maps::{CGROUPS, CGROUPS_FULL, EDGES, UNIT_PATTERNS},
    ruling::stat as add_stat,
};

/// One policy slot's selectors.
struct Slot {
    slot: u32,
}

impl Selectors for Slot {
    #[inline(always)]
    fn edge(&self, state: u32, name: &[u8; NAME_LEN]) -> Option<Edge> {
        let key = EdgeKey { slot: self.slot, state, name: *name };
        // SAFETY: copied out.
        EDGES.get_ptr(key).map(|edge| unsafe { *edge })
    }

    #[inline(always)]
    fn unit_pattern(&self, index: u32) -> Option<&UnitPattern> {
        let all = UNIT_PATTERNS.get(self.slot)?;
        if index >= all.len { None } else { all.patterns.get(index as usize) }
    }
}

/// The cgroup's id, if it is in the unified hierarchy.
#[inline(always)]
fn unified(cgroup: u64) -> Option<u64> {
    let root = peek(cgroup + globals::cgroup_root())?;
    let hierarchy = peek(root + globals::root_hierarchy())? as u32;
    if hierarchy != 0 {
        return None;
    }
    id_of(cgroup)
}

#[inline(always)]
fn id_of(cgroup: u64) -> Option<u64> {
    peek(peek(cgroup + globals::cgroup_kn())? + globals::kn_id())
}

/// A cgroup was made.
#[inline(always)]
pub fn born(ctx: &RawTracePointContext) -> Option<()> {
    let cgroup: u64 = ctx.arg::<*const u8>(0) as u64;
    let id = unified(cgroup)?;
    // css is the first member of a cgroup: the parent's css is the parent.
    let parent_id = id_of(peek(cgroup + globals::cgroup_parent())?)?;
    let parent = CGROUPS.get_ptr(parent_id)?;
    // SAFETY: copied out.
    let parent: &CgroupEntry = unsafe { &*parent };

    let mut bytes = [0; NAME_LEN];
    let node = peek(cgroup + globals::cgroup_kn())?;
    let at = peek(node + globals::kn_name())?;
    // SAFETY: the helper checks the address and ends the string.
    let read = unsafe { bpf_probe_read_kernel_str_bytes(at as *const u8, &mut bytes) }.ok()?.len();
    // A name that fills the buffer was cut: it is longer than any the tables hold.
    let len = if read + 1 >= NAME_LEN { NAME_LEN as u32 } else { read as u32 };
    let name = Name { bytes: &bytes, len };

    let root = bpf_get_current_uid_gid() as u32 == 0;
    let flags = matching::child_flags(parent.flags, root, &name);
    let mut child = CgroupEntry {
        parent: parent_id,
        path_len: parent.path_len.saturating_add(1).saturating_add(len as u16),
        flags,
        ..CgroupEntry::default()
    };
    child.slots[0] = matching::classify(&Slot { slot: 0 }, &parent.slots[0], parent.path_len, flags, &name);
    child.slots[1] = matching::classify(&Slot { slot: 1 }, &parent.slots[1], parent.path_len, flags, &name);
    if CGROUPS.insert(id, child, 1).is_err() && CGROUPS.get_ptr(id).is_none() {
        add_stat(stat::CGROUPS_LOST, 1);
        if let Some(full) = CGROUPS_FULL.get_ptr_mut(0) {
            // SAFETY: a slot of an array map.
            unsafe { core::ptr::write_volatile(full, 1) };
        }
        warn!(ctx, "the cgroup table is full: cgroup {} is denied until there is room", id);
    }
    Some(())
}

/// A cgroup is gone, its last socket too.
#[inline(always)]
pub fn released(ctx: &RawTracePointContext) -> Option<()> {
    let cgroup: u64 = ctx.arg::<*const u8>(0) as u64;
    let id = unified(cgroup)?;
    // It may be one that did not fit.
    let _ = CGROUPS.remove(id);
    Some(())
}

