//! segd's kernel programs: entry points only. Each turns a ruling into its hook's return code, in one place.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "atomic addition, see ruling.rs")]

mod accept;
mod adopt;
mod birth;
mod census;
mod clock;
mod connect;
mod count;
mod egress;
mod errors;
mod exchange;
mod foreign;
mod fragments;
mod frame;
mod globals;
mod guard;
mod handover;
mod identity;
mod ingress;
mod kept;
mod kernel;
mod link;
mod link_found;
mod link_out;
mod link_sent;
mod link_tunnel;
mod lookup;
mod maps;
mod nic;
mod policy;
mod publish;
mod ruling;
mod sessions;
mod settled;
mod skb;
mod socket;
mod sockets;
mod source;
mod tcp;
mod toward;

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    macros::{cgroup_skb, cgroup_sock_addr, classifier, lsm, raw_tracepoint, sock_ops, xdp},
    programs::{
        LsmContext, RawTracePointContext, SkBuffContext, SockAddrContext, SockOpsContext, TcContext,
        XdpContext,
    },
};
use segd_common::event::Hook;

use crate::{connect::Call, skb::Skb};

/// A cgroup hook's return code. What learns lets pass: others enforce still.
#[inline(always)]
fn passes(may: bool) -> i32 {
    i32::from(may || globals::learning() != 0)
}

#[cgroup_skb(egress)]
fn segd_egress(ctx: SkBuffContext) -> i32 {
    passes(egress::egress(Skb { skb: ctx.skb.skb }))
}

#[cgroup_skb(ingress)]
fn segd_ingress(ctx: SkBuffContext) -> i32 {
    passes(ingress::ingress(Skb { skb: ctx.skb.skb }))
}

#[cgroup_sock_addr(connect4)]
fn segd_connect4(ctx: SockAddrContext) -> i32 {
    passes(connect::may_call(Call {
        ctx: ctx.sock_addr,
        hook: Hook::Connect,
        v6: false,
    }))
}

#[cgroup_sock_addr(connect6)]
fn segd_connect6(ctx: SockAddrContext) -> i32 {
    passes(connect::may_call(Call {
        ctx: ctx.sock_addr,
        hook: Hook::Connect,
        v6: true,
    }))
}

#[cgroup_sock_addr(sendmsg4)]
fn segd_sendmsg4(ctx: SockAddrContext) -> i32 {
    passes(connect::may_call(Call {
        ctx: ctx.sock_addr,
        hook: Hook::Send,
        v6: false,
    }))
}

#[cgroup_sock_addr(sendmsg6)]
fn segd_sendmsg6(ctx: SockAddrContext) -> i32 {
    passes(connect::may_call(Call {
        ctx: ctx.sock_addr,
        hook: Hook::Send,
        v6: true,
    }))
}

#[sock_ops]
fn segd_accept(ctx: SockOpsContext) -> u32 {
    let _ = accept::note(&ctx);
    1
}

#[xdp]
fn segd_nic(ctx: XdpContext) -> u32 {
    if nic::may_enter(&ctx) { XDP_PASS } else { XDP_DROP }
}

/// Passing means: whoever hangs behind segd on this hook goes on (`TCX_NEXT`).
#[inline(always)]
fn tcx(passes: bool) -> i32 {
    const TCX_NEXT: i32 = -1;
    const TCX_DROP: i32 = 2;
    // What only learns denies nothing.
    if passes || globals::learning() != 0 {
        TCX_NEXT
    } else {
        TCX_DROP
    }
}

#[classifier]
fn segd_link_leave(ctx: TcContext) -> i32 {
    tcx(link::may_leave(Skb { skb: ctx.skb.skb }))
}

#[classifier]
fn segd_link_depart(ctx: TcContext) -> i32 {
    let skb = Skb { skb: ctx.skb.skb };
    tcx(link::may_leave(skb) && link_found::may_depart(skb))
}

#[classifier]
fn segd_link_come_in(ctx: TcContext) -> i32 {
    tcx(link::may_come_in(Skb { skb: ctx.skb.skb }))
}

#[classifier]
fn segd_link_come_out(ctx: TcContext) -> i32 {
    tcx(link_out::may_come_out(Skb { skb: ctx.skb.skb }))
}

#[classifier]
fn segd_link_enter(ctx: TcContext) -> i32 {
    tcx(link::may_enter(Skb { skb: ctx.skb.skb }))
}

#[classifier]
fn segd_link_arrive(ctx: TcContext) -> i32 {
    tcx(link::may_arrive(Skb { skb: ctx.skb.skb }))
}

#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
fn segd_born(ctx: RawTracePointContext) -> i32 {
    let _ = birth::born(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "cgroup_release")]
fn segd_released(ctx: RawTracePointContext) -> i32 {
    let _ = birth::released(&ctx);
    0
}

/// Runs once for every task when the daemon asks. Not by a macro: aya has none for iterators.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn segd_census(ctx: *mut core::ffi::c_void) -> i32 {
    let _ = census::tell(ctx);
    0
}

/// Runs once for every TCP socket of the host's network namespace, when the daemon asks.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
extern "C" fn segd_sessions(ctx: *mut core::ffi::c_void) -> i32 {
    let _ = sessions::tell_of_tcp(ctx);
    0
}

/// Runs once for every TCP socket of the host's network namespace, when somebody asks what a policy would do.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
extern "C" fn segd_living(ctx: *mut core::ffi::c_void) -> i32 {
    let _ = sessions::tell_of_living(ctx);
    0
}

/// Runs once for every open file of every task, when the daemon asks.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn segd_foreign(ctx: *mut core::ffi::c_void) -> i32 {
    let _ = foreign::tell(ctx);
    0
}

/// [`segd_sessions`] for a kernel before 5.11: runs once for every socket that was ever judged.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn segd_judged(ctx: *mut core::ffi::c_void) -> i32 {
    let _ = sessions::tell_of_judged(ctx);
    0
}

/// Hangs on no tracepoint: the daemon runs it (`BPF_PROG_TEST_RUN`), and its answer is a word. Not by a macro: aya's
/// makes every answer 0.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/segd_namespace")]
extern "C" fn segd_namespace(ctx: *mut core::ffi::c_void) -> i32 {
    census::word(ctx).unwrap_or(0) as i32
}

/// The number of the process that runs this, as [`guard`] knows it (`BPF_PROG_TEST_RUN`).
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/segd_process")]
extern "C" fn segd_process(_ctx: *mut core::ffi::c_void) -> i32 {
    guard::process() as i32
}

// The loader knows an LSM program's hook by its name: `segd_lsm_` and the hook.

/// An argument of a hook. What is no pointer is narrower: its upper bits say nothing.
// VERIFIER: eight bytes at once, and volatile, because a narrower load of an argument is refused.
#[inline(always)]
fn argument(ctx: &LsmContext, number: usize) -> u64 {
    // SAFETY: the hook's own context, an array of words. The verifier knows how many.
    unsafe { ctx.as_ptr().cast::<u64>().add(number).read_volatile() }
}

#[lsm(hook = "socket_create")]
fn segd_lsm_socket_create(ctx: LsmContext) -> i32 {
    let (family, protocol, kernel) = (argument(&ctx, 0), argument(&ctx, 2), argument(&ctx, 3));
    sockets::create(family as i32, protocol as i32, kernel as i32 != 0)
}

#[lsm(hook = "socket_bind")]
fn segd_lsm_socket_bind(ctx: LsmContext) -> i32 {
    sockets::touch(argument(&ctx, 0) as *const u8)
}

#[lsm(hook = "socket_sendmsg")]
fn segd_lsm_socket_sendmsg(ctx: LsmContext) -> i32 {
    sockets::touch(argument(&ctx, 0) as *const u8)
}

/// `-EPERM` for what the guard keeps.
// VERIFIER: two constants, because newer kernels want to see that an answer is an errno.
#[inline(always)]
fn kept(is_kept: bool) -> i32 {
    if is_kept { -1 } else { 0 }
}

#[lsm(hook = "inode_unlink")]
fn segd_lsm_inode_unlink(ctx: LsmContext) -> i32 {
    kept(guard::keeps_entry(argument(&ctx, 1)))
}

#[lsm(hook = "inode_rmdir")]
fn segd_lsm_inode_rmdir(ctx: LsmContext) -> i32 {
    kept(guard::keeps_entry(argument(&ctx, 1)))
}

#[lsm(hook = "inode_rename")]
fn segd_lsm_inode_rename(ctx: LsmContext) -> i32 {
    kept(guard::keeps_entry(argument(&ctx, 1)) || guard::keeps_entry(argument(&ctx, 3)))
}

#[lsm(hook = "sb_umount")]
fn segd_lsm_sb_umount(ctx: LsmContext) -> i32 {
    kept(guard::keeps_mount(argument(&ctx, 0)))
}

#[lsm(hook = "bpf")]
fn segd_lsm_bpf(ctx: LsmContext) -> i32 {
    kept(guard::keeps_link(argument(&ctx, 0) as i32, argument(&ctx, 1)))
}

#[lsm(hook = "bpf_map")]
fn segd_lsm_bpf_map(ctx: LsmContext) -> i32 {
    kept(guard::keeps_map(argument(&ctx, 0), argument(&ctx, 1) as u32))
}

#[lsm(hook = "task_kill")]
fn segd_lsm_task_kill(ctx: LsmContext) -> i32 {
    kept(guard::keeps_daemon(argument(&ctx, 0), argument(&ctx, 2) as i32))
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Not reachable: the verifier refuses a program that could get here.
    loop {}
}

// GPL-only helpers are used (bpf_probe_read_kernel, bpf_sk_storage_get): the object says so to the kernel.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
