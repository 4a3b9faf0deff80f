//! sock_ops: notes who connected on the socket of an accepted connection, while it is still known.
//!
//! Decides nothing. Without it the first packet on the new socket would have to find the sender again.

use aya_ebpf::{bindings::bpf_sock_ops, helpers::bpf_get_socket_cookie, programs::SockOpsContext};
use core::ptr::NonNull;
use segd_common::{
    address::mapped,
    flow::{DIRECTION_PASSIVE, HandoverKey, STATE_FOREIGN, STATE_PUBLISHED, STATE_WAS_ALLOWED},
    packet::Packet,
    service::TCP,
};

use crate::{
    handover::{Entry, Side, fill_key, of_handshake},
    kernel, lookup,
    socket::Socket,
    tcp::remembered,
};

const PASSIVE_ESTABLISHED: u32 = 5;
const AF_INET: u32 = 2;

/// A connection was accepted.
#[inline(always)]
pub fn note(ctx: &SockOpsContext) -> Option<()> {
    let ops = ctx.ops;
    if ctx.op() != PASSIVE_ESTABLISHED {
        return None;
    }
    // SAFETY: the hook's own context; checked before use.
    let sk = unsafe { (*ops).__bindgen_anon_2.sk };
    let socket = Socket {
        sk: NonNull::new(sk)?,
    };
    // SAFETY: the hook's own context; volatile: fused loads are refused. The remote port is in network order in the
    // upper half on little-endian machines (include/uapi/linux/bpf.h), the local one in host order.
    let (remote_port, local_port) = unsafe {
        (
            u32::from_be(core::ptr::read_volatile(&raw const (*ops).remote_port)) as u16,
            core::ptr::read_volatile(&raw const (*ops).local_port) as u16,
        )
    };
    let mut arrived = Packet {
        source_port: remote_port,
        destination_port: local_port,
        protocol: TCP,
        ..Packet::default()
    };
    // SAFETY: the hook's own context.
    let v4 = unsafe { core::ptr::read_volatile(&raw const (*ops).family) } == AF_INET;
    if v4 {
        addresses_v4(ops, &mut arrived);
    } else {
        addresses_v6(ops, &mut arrived);
    }
    let namespace = kernel::namespace(ops.cast(), sk);
    // SAFETY: the hook's own context.
    let next = unsafe { core::ptr::read_volatile(&raw const (*ops).rcv_nxt) };
    let mut key = HandoverKey::default();
    fill_key(&mut key, &arrived, namespace, Side::Source);
    // A socket without a cookie could not be named to whoever is to end it.
    // SAFETY: the hook's own context.
    unsafe { bpf_get_socket_cookie(ops.cast()) };
    let dialler = of_handshake(&mut key, next.wrapping_sub(1));
    accepted(socket, dialler, v4 || has_answered(ops, &arrived, namespace));
    Some(())
}

/// Whether the answer to the handshake passed the hook, and so was published. Before 6.6 an IPv6 one did not.
#[inline(never)]
fn has_answered(ops: *mut bpf_sock_ops, arrived: &Packet, namespace: u64) -> bool {
    // SAFETY: the hook's own context.
    let next = unsafe { core::ptr::read_volatile(&raw const (*ops).snd_nxt) };
    let mut key = HandoverKey::default();
    fill_key(&mut key, arrived, namespace, Side::Destination);
    of_handshake(&mut key, next.wrapping_sub(1)).is_some()
}

// VERIFIER: two functions. In one, the loads of both families are merged into one through a computed context
// pointer: "dereference of modified ctx ptr".
#[inline(never)]
fn addresses_v4(ops: *mut bpf_sock_ops, packet: &mut Packet) {
    // SAFETY: the hook's own context; volatile: fused loads are refused.
    unsafe {
        packet.source = mapped(core::ptr::read_volatile(&raw const (*ops).remote_ip4).to_ne_bytes());
        packet.destination = mapped(core::ptr::read_volatile(&raw const (*ops).local_ip4).to_ne_bytes());
    }
}

#[inline(never)]
fn addresses_v6(ops: *mut bpf_sock_ops, packet: &mut Packet) {
    // SAFETY: as above.
    unsafe {
        let word = |words: *const [u32; 4], i: usize| core::ptr::read_volatile(words.cast::<u32>().add(i));
        let remote = &raw const (*ops).remote_ip6;
        let local = &raw const (*ops).local_ip6;
        packet.source =
            lookup::from_words(word(remote, 0), word(remote, 1), word(remote, 2), word(remote, 3));
        packet.destination =
            lookup::from_words(word(local, 0), word(local, 1), word(local, 2), word(local, 3));
    }
}

/// An accepted connection is complete: who connected is noted on its own socket while it is still known. `None`: no
/// socket of this host. `published`: so is who accepts; else its first words publish it.
#[inline(always)]
fn accepted(socket: Socket, dialler: Option<Entry>, published: bool) {
    if let Some(memory) = remembered(socket, true) {
        memory.direction = DIRECTION_PASSIVE;
        memory.revision = 0;
        memory.flags |= STATE_WAS_ALLOWED;
        if published {
            memory.flags |= STATE_PUBLISHED;
        }
        match dialler {
            Some(dialler) => {
                memory.peer_cgroup = dialler.cgroup();
                memory.peer = dialler.identity();
            }
            None => memory.flags |= STATE_FOREIGN,
        }
    }
}
