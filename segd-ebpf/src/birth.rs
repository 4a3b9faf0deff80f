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
    matching::{self, Edges, Name},
    workload::{CgroupEntry, Edge, EdgeKey, MAX_UNIT_PATTERNS, NAME_LEN},
};

use crate::{
    count::stat as add_stat,
    globals,
    kernel::{id_of_cgroup, peek},
    maps::{BIRTH, CGROUPS, CGROUPS_FULL, EDGES, UNIT_PATTERNS},
};

/// What one birth needs, and the stack has no room for.
// One for all: births are serialised by cgroup_mutex, which is held over the tracepoint.
#[repr(C)]
pub struct Scratch {
    name: Name,
    key: EdgeKey,
    child: CgroupEntry,
}

/// One policy slot's literal selectors.
struct Slot {
    slot: u32,
    key: *mut EdgeKey,
}

impl Edges for Slot {
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

/// Classifies the child in the scratch for one slot, as `matching::classify` does, step by step.
#[inline(always)]
fn classify(scratch: *mut Scratch, slot: u32, parent: &CgroupEntry) {
    let above = &parent.slots[slot as usize];
    // SAFETY: the map's one element, and the reference ends here.
    if !matching::inherit(unsafe { &mut (*scratch).child.slots[slot as usize] }, above) {
        return;
    }
    // SAFETY: as above.
    let flags = unsafe { (*scratch).child.flags };
    if matching::is_by_unit(flags) {
        for index in 0..MAX_UNIT_PATTERNS as u32 {
            if segd_claim_pattern(slot, index, u32::from(parent.path_len)) == 0 {
                break;
            }
        }
    }
    // SAFETY: as above; nothing else refers to it.
    let Scratch { name, key, child } = unsafe { &mut *scratch };
    let selectors = Slot { slot, key };
    let child = &mut child.slots[slot as usize];
    matching::claim_edges(child, &selectors, above, parent.path_len, flags, name);
}

// VERIFIER: a global function of scalars: it is verified once, and the loop over the patterns goes on in one state, whatever a
// pattern came to. Inlined, 5.15 and 6.18 follow every outcome of every pattern into the next: more than a million instructions.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_claim_pattern(slot: u32, index: u32, parent_path_len: u32) -> u32 {
    let (Some(scratch), Some(all)) = (BIRTH.get_ptr_mut(0), UNIT_PATTERNS.get(slot)) else {
        return 0;
    };
    if index >= all.len {
        return 0;
    }
    // VERIFIER: bounded on the very registers that are added.
    let index = core::hint::black_box(index as usize & (MAX_UNIT_PATTERNS - 1));
    let slot = core::hint::black_box(slot as usize & 1);
    // SAFETY: the map's one element; the caller holds no reference into it.
    let Scratch { name, child, .. } = unsafe { &mut *scratch };
    let (Some(pattern), Some(child)) = (all.patterns.get(index), child.slots.get_mut(slot)) else {
        return 0;
    };
    matching::claim_pattern(child, pattern, name, parent_path_len as u16);
    1
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
    let Scratch { name, child, .. } = unsafe { &mut *scratch };
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
    child.parent = parent_id;
    child.path_len = matching::child_path_len(parent.path_len, name);
    child.flags = matching::child_flags(parent.flags, root, name);
    child.reserved = 0;
    classify(scratch, 0, parent);
    classify(scratch, 1, parent);
    // SAFETY: as above; nothing else refers to it.
    let child = unsafe { &(*scratch).child };
    if CGROUPS.insert(id, child, 1).is_err() && CGROUPS.get_ptr(id).is_none() {
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

const _: () = assert!(MAX_UNIT_PATTERNS.is_power_of_two());
