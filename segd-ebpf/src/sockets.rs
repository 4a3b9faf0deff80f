//! LSM: packet and XDP sockets send and hear past every socket hook, so they are not for workloads.
//!
//! A socket is judged when it is made, and again when it is bound or sent by: it may be older than the policy, made before
//! the process was moved, or passed by somebody else. Then it is who uses it that counts. What the host's own processes
//! do with such sockets (DHCP, `tcpdump`) is left alone.

use segd_common::{
    decide::outcome,
    event::Hook,
    lsm::{ANSWER, QUESTION, refusal},
    packet::Packet,
    reason::Reason,
    segment,
    verdict::Verdict,
    workload::Identity,
};

use crate::{
    count::count,
    globals, identity,
    link::is_plain_host,
    policy::Policy,
    ruling::{Ruling, emit},
};

/// The answer of a hook that lets pass.
const PASS: i32 = 0;
/// `-EPERM`.
const REFUSE: i32 = -1;

/// Rules on a socket that is to be made; the hook's return code.
#[inline(always)]
pub fn create(family: i32, protocol: i32, by_the_kernel: bool) -> i32 {
    const AF_UNIX: i32 = 1;
    if by_the_kernel {
        return PASS;
    }
    if family == AF_UNIX && protocol == QUESTION {
        return -ANSWER;
    }
    code(family)
}

/// Rules on a socket that is to be bound or sent by, by the kernel's address of it; the hook's return code.
// VERIFIER: `socket` is the hook's own argument, so that its fields are read without a helper: every send of the host
// comes by here.
#[inline(always)]
pub fn touch(socket: *const u8) -> i32 {
    // SAFETY: the kernel checks loads from what its type description knows, at offsets from that description.
    let sk = unsafe {
        let sk = socket.add(globals::socket_sk() as usize).cast::<*const u8>();
        sk.read_volatile()
    };
    if sk.is_null() {
        return PASS;
    }
    // SAFETY: as above.
    let family = unsafe {
        sk.add(globals::family_alone() as usize)
            .cast::<u16>()
            .read_volatile()
    };
    code(i32::from(family))
}

// VERIFIER: two constants, because newer kernels want to see that an answer is an errno.
#[inline(always)]
fn code(family: i32) -> i32 {
    match refusal(family) {
        Some(reason) if !may_have(reason as u32) => REFUSE,
        _ => PASS,
    }
}

/// Whether the running task may have a socket of which `reason` tells the family. Counts and tells, if not.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
fn may_have(reason: u32) -> bool {
    let Some(policy) = Policy::active() else {
        return true;
    };
    let mut cgroup = 0;
    let from = identity::of_task(&policy, &mut cgroup);
    if is_plain_host(from) {
        return true;
    }
    let Some(reason) = Reason::from_number(reason as u8) else {
        return true;
    };
    let mut ruling = Ruling {
        hook: Hook::Socket as u8,
        cgroup,
        from,
        to: Identity::of(segment::WORLD),
        ..Ruling::default()
    };
    ruling.fixed(reason);
    ruling.outcome = outcome(&policy, Verdict::of(reason), ruling.from, ruling.to) as u8;
    count(&ruling, 0);
    emit(&policy, &ruling, &Packet::default());
    ruling.passes()
}
