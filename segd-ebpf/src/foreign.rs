//! Which sockets are held by a process of another segment than they are of: the process moved, or was handed them.
//!
//! INVARIANT: changes nothing. Such a socket keeps the identity that it was made with; this only tells of it.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_seq_write, bpf_sock_from_file};
use segd_common::{
    service::{TCP, UDP},
    session::Foreign,
};

use crate::{
    census::{cgroup_of, number},
    globals, identity,
    kernel::{self, peek},
    policy::Policy,
    sessions::{describe, is_open},
};

/// Tells of one open file of one task, if it is such a socket.
#[inline(always)]
pub fn tell(ctx: *mut c_void) -> Option<()> {
    // The iterator's context: `meta`, `task`, a number, and `file` (kernel/bpf/task_iter.c, `bpf_iter__task_file`).
    let fields = ctx.cast::<*mut c_void>();
    // SAFETY: the context of this program type.
    // VERIFIER: the pointers must come from the context itself to be known for what they are.
    let (meta, task, file) = unsafe {
        (
            fields.read_volatile(),
            fields.add(1).read_volatile(),
            fields.add(3).read_volatile(),
        )
    };
    if task.is_null() || file.is_null() {
        return None;
    }
    // SAFETY: a file that is open while this runs.
    let socket = unsafe { bpf_sock_from_file(file.cast()) };
    if socket.is_null() {
        return None;
    }
    let sk = peek(socket as u64 + globals::socket_sk())?;
    let protocol = peek(sk + globals::sock_protocol())? as u16;
    let is_udp = protocol == u16::from(UDP);
    let mut told = Foreign {
        socket_cgroup: kernel::cgroup_of(sk)?,
        holder_cgroup: cgroup_of(task as u64)?,
        ..Foreign::default()
    };
    if told.socket_cgroup == told.holder_cgroup || !(is_udp || protocol == u16::from(TCP)) {
        return None;
    }
    let policy = Policy::for_good()?;
    let maker = identity::of_cgroup(&policy, told.socket_cgroup)?;
    let holder = identity::of_cgroup(&policy, told.holder_cgroup)?;
    if maker.segment == holder.segment {
        return None;
    }
    let now = describe(sk, &mut told.session)?;
    if !is_udp && !is_open(now) {
        return None;
    }
    told.session.protocol = protocol as u8;
    told.session.from = maker.segment;
    told.session.to = holder.segment;
    told.process = number(task as u64)?;
    // SAFETY: `meta` holds the sequence file first (include/linux/bpf.h, `bpf_iter_meta`).
    let seq = unsafe { meta.cast::<*mut c_void>().read_volatile() };
    // SAFETY: a live value of the length given. Too little room makes the kernel run this again with more.
    unsafe { bpf_seq_write(seq.cast(), (&raw const told).cast(), size_of::<Foreign>() as u32) };
    Some(())
}
