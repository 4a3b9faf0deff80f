//! LSM, only if asked for: what segd keeps in the kernel is touched by nobody but its daemon.
//!
//! The daemon holds these programs' links open and pins none of them: the guard lives exactly as long as the daemon, so
//! that nobody is ever locked out. Who wants past it ends the daemon first, which a process of a segment cannot.
//! Deliberately absent: what a root of the host can do besides (load a module, write to memory, race a descriptor between
//! this look and the kernel's): the guard keeps mistakes and workloads away, not the host's owner.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task};
use segd_common::lsm::{self, Guard};

use crate::{
    globals, identity,
    kernel::peek,
    link::is_plain_host,
    maps::{GUARD, GUARDED},
    policy::Policy,
};

/// How far below the pin directory a pin may lie.
const MAX_DEPTH: u32 = 4;

/// The number of the asking process, in the initial pid namespace.
#[inline(always)]
pub fn process() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// What is guarded from the running process; nothing is from the daemon.
#[inline(always)]
fn guard() -> Option<&'static Guard> {
    let guard = GUARD.get(0)?;
    if guard.daemon == 0 || guard.daemon == process() {
        None
    } else {
        Some(guard)
    }
}

#[inline(always)]
fn device_of(superblock: u64) -> Option<u32> {
    Some(peek(superblock + globals::super_device())? as u32)
}

/// Whether a directory entry is the pin directory or lies below it.
#[inline(always)]
pub fn keeps_entry(dentry: u64) -> bool {
    guard().is_some_and(|guard| is_pin(guard, dentry).unwrap_or(false))
}

#[inline(always)]
fn is_pin(guard: &Guard, dentry: u64) -> Option<bool> {
    let mut at = dentry;
    for _ in 0..MAX_DEPTH {
        let inode = peek(at + globals::dentry_inode())?;
        // The name that a rename leads to has none.
        if inode != 0 {
            if device_of(peek(inode + globals::inode_super())?)? != guard.device {
                return Some(false);
            }
            if peek(inode + globals::inode_number())? == guard.inode {
                return Some(true);
            }
        }
        let above = peek(at + globals::dentry_parent())?;
        if above == at {
            return Some(false);
        }
        at = above;
    }
    Some(false)
}

/// Whether a mount is one of the bpffs with the pins.
#[inline(always)]
pub fn keeps_mount(mount: u64) -> bool {
    let device = |guard: &Guard| -> Option<bool> {
        Some(device_of(peek(mount + globals::mount_super())?)? == guard.device)
    };
    guard().is_some_and(|guard| device(guard).unwrap_or(false))
}

/// Whether a call would take a link of segd's off its hook, or put a program of others behind it.
#[inline(always)]
pub fn keeps_link(command: i32, attributes: u64) -> bool {
    const LINK_UPDATE: i32 = 29;
    const LINK_DETACH: i32 = 34;
    if command != LINK_UPDATE && command != LINK_DETACH {
        return false;
    }
    // Both begin with the link's descriptor.
    let descriptor = |attributes| peek(attributes).map(|word| u64::from(word as u32));
    guard().is_some() && descriptor(attributes).is_some_and(is_of_a_guarded_program)
}

/// Whether a descriptor of the running process is a link with a program of segd's. What is no link has some other number
/// there: a call with it fails in any case.
#[inline(always)]
fn is_of_a_guarded_program(descriptor: u64) -> bool {
    let id = || -> Option<u32> {
        // SAFETY: no arguments.
        let task = unsafe { bpf_get_current_task() };
        let table = peek(peek(task + globals::task_files())? + globals::files_table())?;
        let file = peek(peek(table + globals::table_files())? + descriptor * 8)?;
        let program = peek(peek(file + globals::file_private())? + globals::link_program())?;
        Some(peek(peek(program + globals::program_aux())? + globals::program_id())? as u32)
    };
    id().is_some_and(|id| GUARDED.get_ptr(lsm::program(id)).is_some())
}

/// Whether a map of segd's is about to be opened to be written to.
#[inline(always)]
pub fn keeps_map(map: u64, mode: u32) -> bool {
    const FMODE_WRITE: u32 = 2;
    let is_guarded = |id: u64| GUARDED.get_ptr(lsm::map(id as u32)).is_some();
    mode & FMODE_WRITE != 0 && guard().is_some() && peek(map + globals::map_id()).is_some_and(is_guarded)
}

/// Whether a process of a segment signals the daemon. Who is in none may: that is the way out.
#[inline(always)]
pub fn keeps_daemon(task: u64, signal: i32) -> bool {
    let aimed = |guard: &Guard| peek(task + globals::task_tgid()).is_some_and(|id| id as u32 == guard.daemon);
    signal != 0 && guard().is_some_and(aimed) && !is_of_the_host()
}

// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
fn is_of_the_host() -> bool {
    let Some(policy) = Policy::active() else {
        return true;
    };
    is_plain_host(identity::of_task(&policy, &mut 0))
}
