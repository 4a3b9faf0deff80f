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
    kernel::{id_of_cgroup, peek},
    maps::{BIRTH, CGROUPS, CGROUPS_FULL, EDGES, UNIT_PATTERNS},
    ruling::stat as add_stat,
};

/// What one birth needs, and the stack has no room for.
// One for all: births are serialised by cgroup_mutex, which is held over the tracepoint.
#[repr(C)]
pub struct Scratch {
    name: Name,
    key: EdgeKey,
    child: CgroupEntry,
}

/// One policy slot's selectors.
struct Slot {
    slot: u32,
    key: *mut EdgeKey,
}

impl Selectors for Slot {
    #[inline(always)]
    fn edge(&self, state: u32, name: &[u8; NAME_LEN]) -> Option<Edge> {
        // SAFETY: the scratch's key, which nothing else refers to.
        unsafe {
            (*self.key).slot = self.slot;
            (*self.key).state = state;
            (*self.key).name = *name;
            EDGES.get_ptr(&*self.key).map(|edge| *edge)
        }
    }

    #[inline(always)]
    fn unit_pattern(&self, index: u32) -> Option<&UnitPattern> {
        let all = UNIT_PATTERNS.get(self.slot)?;
        if index >= all.len {
            None
        } else {
            all.patterns.get(index as usize)
        }
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
    id_of_cgroup(cgroup)
}

/// A cgroup was made.
#[inline(always)]
pub fn born(ctx: &RawTracePointContext) -> Option<()> {
    let cgroup: u64 = ctx.arg::<*const u8>(0) as u64;
    let id = unified(cgroup)?;
    // css is the first member of a cgroup: the parent's css is the parent.
    let parent_id = id_of_cgroup(peek(cgroup + globals::cgroup_parent())?)?;
    let parent = CGROUPS.get_ptr(parent_id)?;
    // SAFETY: copied out.
    let parent: &CgroupEntry = unsafe { &*parent };

    let scratch = BIRTH.get_ptr_mut(0)?;
    // SAFETY: the map's one element; births are serialised.
    let Scratch { name, key, child } = unsafe { &mut *scratch };
    let node = peek(cgroup + globals::cgroup_kn())?;
    let at = peek(node + globals::kn_name())?;
    let buffer = name.buffer();
    buffer.fill(0);
    // SAFETY: the helper checks the address and ends the string.
    let read = unsafe { bpf_probe_read_kernel_str_bytes(at as *const u8, buffer) }
        .ok()?
        .len();
    // A name that fills the buffer was cut: it is longer than any the tables hold.
    name.seal(if read + 1 >= NAME_LEN {
        NAME_LEN as u32
    } else {
        read as u32
    });

    let root = bpf_get_current_uid_gid() as u32 == 0;
    let flags = matching::child_flags(parent.flags, root, name);
    child.parent = parent_id;
    child.path_len = matching::child_path_len(parent.path_len, name);
    child.flags = flags;
    child.reserved = 0;
    let (first, second) = (Slot { slot: 0, key }, Slot { slot: 1, key });
    child.slots[0] = matching::classify(&first, &parent.slots[0], parent.path_len, flags, name);
    child.slots[1] = matching::classify(&second, &parent.slots[1], parent.path_len, flags, name);
    if CGROUPS.insert(id, &*child, 1).is_err() && CGROUPS.get_ptr(id).is_none() {
        add_stat(stat::CGROUPS_LOST, 1);
        if let Some(full) = CGROUPS_FULL.get_ptr_mut(0) {
            // SAFETY: a slot of an array map.
            unsafe { core::ptr::write_volatile(full, 1) };
        }
        warn!(
            ctx,
            "the cgroup table is full: cgroup {} is denied until there is room", id
        );
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
