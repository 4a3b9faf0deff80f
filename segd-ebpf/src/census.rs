//! Who is in which network namespace, read where the kernel keeps it.
//!
//! From outside the kernel this would take CAP_SYS_PTRACE (`/proc/<pid>/ns/net`) and CAP_SYS_ADMIN (`setns`), which is
//! the right to do anything. The daemon has neither: these programs run when it asks, and only tell.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_current_task, generated::bpf_seq_write};
use segd_common::census::{Namespace, Task};

use crate::{
    globals,
    kernel::{id_of_cgroup, number_of, peek},
};

/// Tells of one task. Tasks of the host's namespace are left out: they are most of them, and nobody asks.
#[inline(always)]
pub fn tell(ctx: *mut c_void) -> Option<()> {
    // The iterator's context: two pointers, `meta` and `task` (kernel/bpf/task_iter.c, `bpf_iter__task`).
    let fields = ctx.cast::<*mut u64>();
    // SAFETY: the context of this program type.
    // VERIFIER: the pointers must come from the context itself to be known for what they are.
    let (meta, task) = unsafe { (fields.read_volatile(), fields.add(1).read_volatile()) };
    if task.is_null() {
        return None;
    }
    let task = task as u64;
    let namespace = describe(peek(
        peek(task + globals::task_nsproxy())? + globals::nsproxy_net(),
    )?)?;
    if namespace.cookie == globals::host_namespace() {
        return None;
    }
    let told = Task {
        namespace,
        cgroup: cgroup_of(task)?,
        started: peek(task + globals::task_started())?,
        number: number(task)?,
        reserved: 0,
    };
    // SAFETY: `meta` holds the sequence file first (include/linux/bpf.h, `bpf_iter_meta`).
    let seq = unsafe { meta.cast::<*mut c_void>().read_volatile() };
    // SAFETY: a live value of the length given. Too little room makes the kernel run this again with more.
    unsafe { bpf_seq_write(seq.cast(), (&raw const told).cast(), size_of::<Task>() as u32) };
    Some(())
}

/// A word of the namespace behind one of the asking process' own descriptors.
#[inline(always)]
pub fn word(ctx: *mut c_void) -> Option<u32> {
    let arguments = ctx.cast::<u64>();
    // SAFETY: the daemon runs this with two arguments; the verifier knows how many there can be.
    let (descriptor, word) = unsafe { (arguments.read_volatile(), arguments.add(1).read_volatile()) };
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() };
    let table = peek(peek(task + globals::task_files())? + globals::files_table())?;
    let file = peek(peek(table + globals::table_files())? + descriptor * 8)?;
    let common = peek(peek(file + globals::file_inode())? + globals::inode_private())?;
    Some(describe(common - globals::net_common())?.word(word))
}

#[inline(always)]
fn describe(net: u64) -> Option<Namespace> {
    let level = peek(peek(net + globals::net_owner())? + globals::owner_level())?;
    Some(Namespace {
        cookie: number_of(net)?,
        inode: peek(net + globals::net_common() + globals::common_inode())? as u32,
        delegated: level as u32,
    })
}

/// The id of a task's cgroup, by the task's address.
#[inline(always)]
pub fn cgroup_of(task: u64) -> Option<u64> {
    id_of_cgroup(peek(
        peek(task + globals::task_cgroups())? + globals::css_set_cgroup(),
    )?)
}

/// A task's number in the asking process' pid namespace.
#[inline(always)]
pub fn number(task: u64) -> Option<u32> {
    /// `struct upid`: the number, and the namespace it is in.
    const UPID_LEN: u64 = 16;
    // SAFETY: no arguments.
    let asking = unsafe { bpf_get_current_task() };
    let level = peek(peek(asking + globals::task_pid())? + globals::pid_level())? as u32;
    let numbers = peek(task + globals::task_pid())? + globals::pid_numbers();
    Some(peek(numbers + u64::from(level) * UPID_LEN)? as u32)
}
