//! The kernel's own memory, where no helper tells: read at the offsets that the loader found.

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::{bpf_get_current_task, bpf_get_netns_cookie, bpf_probe_read_kernel_buf},
};
use core::ffi::c_void;

use crate::globals;

/// Reads eight bytes of kernel memory.
#[inline(always)]
pub fn peek(at: u64) -> Option<u64> {
    let mut word = [0; 8];
    // SAFETY: the helper checks the address and fails on a bad one.
    unsafe { bpf_probe_read_kernel_buf(at as *const u8, &mut word) }.ok()?;
    Some(u64::from_ne_bytes(word))
}

/// The kernel address of a socket, as a number.
// VERIFIER: arithmetic on a socket pointer is refused. The helper copies it out of the stack as plain bytes.
#[inline(always)]
pub fn address_of(sk: *mut bpf_sock) -> Option<u64> {
    let mut word = [0; 8];
    // SAFETY: reads eight bytes of this program's own stack.
    unsafe { bpf_probe_read_kernel_buf((&raw const sk).cast(), &mut word) }.ok()?;
    Some(u64::from_ne_bytes(word))
}

/// The id of a cgroup, by its address.
#[inline(always)]
pub fn id_of_cgroup(cgroup: u64) -> Option<u64> {
    peek(peek(cgroup + globals::cgroup_kn())? + globals::kn_id())
}

/// The cgroup id of a socket, by its address; `None` where the kernel does not let us look.
#[inline(always)]
pub fn cgroup_of(sk: u64) -> Option<u64> {
    /// Before 5.15 the same word may hold the socket's numbers in cgroup v1, marked by these bits.
    const NOT_A_POINTER: u64 = 3;
    let cgroup = peek(sk + globals::sock_cgroup())?;
    if cgroup == 0 || cgroup & NOT_A_POINTER != 0 {
        return None;
    }
    id_of_cgroup(cgroup)
}

/// Whether a socket is the kernel's own, by its address: no file leads to it. To one that a process has closed, but whose packets are on
/// their way still, none leads any more; that is not the kernel's.
#[inline(always)]
pub fn has_no_file(sk: u64) -> bool {
    match peek(sk + globals::sock_socket()) {
        // The kernel makes the socket of a rehearsal's packets by itself.
        Some(0) => globals::rehearsal() != 0,
        Some(socket) => peek(socket + globals::socket_file()) == Some(0),
        None => false,
    }
}

/// The cgroup of the running task, by its address.
#[inline(always)]
pub fn cgroup_of_task() -> Option<u64> {
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() };
    peek(peek(task + globals::task_cgroups())? + globals::css_set_cgroup())
}

/// The number of a hook's network namespace, as the daemon numbers them; 0 if it cannot be told. `sk`: the hook's socket.
#[inline(always)]
pub fn namespace(ctx: *mut c_void, sk: *mut bpf_sock) -> u64 {
    if globals::namespace_helper() != 0 {
        // SAFETY: the hook's own context.
        return unsafe { bpf_get_netns_cookie(ctx) };
    }
    if sk.is_null() {
        return 0;
    }
    address_of(sk).and_then(namespace_of).unwrap_or(0)
}

/// The number of a socket's network namespace, by the socket's address.
#[inline(always)]
pub fn namespace_of(sk: u64) -> Option<u64> {
    number_of(peek(sk + globals::sock_net())?)
}

/// Whether the network namespace of a socket, by the socket's address, may translate where its own processes send to: some
/// NAT hangs on its output. What cannot be read says yes.
#[inline(always)]
pub fn translates_output(sk: u64, v4: bool) -> bool {
    let hooks = if v4 {
        globals::net_output_v4()
    } else {
        globals::net_output_v6()
    };
    // A kernel without netfilter.
    hooks != 0 && has_nat(sk, hooks).unwrap_or(true)
}

#[inline(always)]
fn has_nat(sk: u64, hooks: u64) -> Option<bool> {
    /// `NF_IP_PRI_NAT_DST`: nobody else hangs there (include/uapi/linux/netfilter_ipv4.h).
    const NAT: i32 = -100;
    /// More on one hook than any rule set has.
    const MOST: u64 = 16;
    /// `struct nf_hook_entries`: a number, so many pairs of pointers, and so many pointers to what was registered.
    const FIRST: u64 = 8;
    const PAIR: u64 = 16;
    let entries = peek(peek(sk + globals::sock_net())? + hooks)?;
    if entries == 0 {
        return Some(false);
    }
    let len = u64::from(peek(entries)? as u16);
    if len > MOST {
        return None;
    }
    for at in 0..MOST {
        if at >= len {
            break;
        }
        let registered = peek(entries + FIRST + PAIR * len + 8 * at)?;
        if peek(registered + globals::hook_priority())? as i32 == NAT {
            return Some(true);
        }
    }
    Some(false)
}

/// The number of a network namespace, by its address.
#[inline(always)]
pub fn number_of(net: u64) -> Option<u64> {
    Some(peek(net + globals::net_number())? & globals::net_number_mask())
}
