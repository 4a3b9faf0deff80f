//! What was asked without a connection, and by whom: kept on the local socket itself, so that no other socket's exchanges
//! can push it out.
//!
//! INVARIANT: what is kept is a proof of who asked, never a right: it is judged again by whoever finds it. A socket with more
//! peers at once than it has room for keeps the rest in `FLOWS`, which all sockets share.

use aya_ebpf::{bindings::BPF_SK_STORAGE_GET_F_CREATE, helpers::bpf_sk_storage_get};
use core::ffi::c_void;
use segd_common::{
    address,
    flow::{Exchange, FLOW_LOCAL_ASKED, FLOW_LOST, FLOW_PEER_JUDGES, Flow, FlowKey, PEERS},
    packet::Packet,
    reason::Reason,
};

use crate::{
    kept,
    maps::{EXCHANGES, FLOWS},
    policy::Policy,
    ruling::{NEW_FLOW, REVOKED, Ruling},
    skb::Skb,
};

/// The exchange a packet belongs to, as its local socket knows it.
#[inline(always)]
pub fn key_of(packet: &Packet, skb: Skb, arrives: bool) -> FlowKey {
    FlowKey {
        socket: skb.cookie(),
        peer: if arrives {
            packet.source
        } else {
            packet.destination
        },
        peer_port: if arrives {
            packet.source_port
        } else {
            packet.destination_port
        },
        protocol: packet.protocol,
        reserved: [0; 5],
    }
}

/// The place on a socket where an exchange lies, or another one that must make room for it.
#[inline(always)]
fn place(socket: *mut c_void, key: &FlowKey, create: bool) -> Option<&'static mut Exchange> {
    let flags = if create {
        u64::from(BPF_SK_STORAGE_GET_F_CREATE)
    } else {
        0
    };
    let (high, low) = address::halves(&key.peer);
    let hash = (high ^ low ^ u64::from(key.peer_port) << 48 ^ u64::from(key.protocol) << 40)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // VERIFIER: the bound must be seen on the very register that is added to the pointer.
    let index = core::hint::black_box(hash >> 56) as usize & (PEERS - 1);
    // SAFETY: a full socket and the map of this object; the storage lives as long as the socket, which the hook holds, and
    // has `PEERS` places. Two CPUs may write at once: see `find`.
    unsafe {
        let storage = bpf_sk_storage_get(
            (&raw const EXCHANGES).cast_mut().cast(),
            socket,
            core::ptr::null_mut(),
            flags,
        );
        if storage.is_null() {
            return None;
        }
        storage.cast::<Exchange>().add(index).as_mut()
    }
}

#[inline(always)]
fn is_same(exchange: &Exchange, key: &FlowKey) -> bool {
    let (high, low) = address::halves(&key.peer);
    let (other_high, other_low) = address::halves(&exchange.key.peer);
    high == other_high
        && low == other_low
        && exchange.key.peer_port == key.peer_port
        && exchange.key.protocol == key.protocol
}

/// Nobody has asked.
pub const NOWHERE: u32 = 0;
/// In the table that all sockets share: others may push it out.
pub const SHARED: u32 = 1;
/// On its socket.
pub const ON_SOCKET: u32 = 2;

/// Looks up an exchange, and copies what is known of it. Says where it was found.
#[inline(never)]
pub fn find(socket: *mut c_void, key: &FlowKey, flow: &mut Flow) -> u32 {
    if let Some(exchange) = place(socket, key, false)
        && is_same(exchange, key)
    {
        *flow = exchange.flow;
        // Another CPU may have put another exchange here meanwhile: it takes the old one's proof away first.
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
        return if is_same(exchange, key) && flow.asked != 0 {
            ON_SOCKET
        } else {
            NOWHERE
        };
    }
    let Some(known) = FLOWS.get_ptr(key) else {
        return NOWHERE;
    };
    // SAFETY: an element of the map.
    *flow = unsafe { *known };
    if flow.asked != 0 { SHARED } else { NOWHERE }
}

/// Keeps an exchange; the one whose place it takes moves to the table that all share.
#[inline(never)]
pub fn keep(socket: *mut c_void, key: &FlowKey, flow: &Flow) -> bool {
    let Some(exchange) = place(socket, key, true) else {
        // No memory for the socket. A full table evicts the oldest.
        return FLOWS.insert(key, flow, 0).is_ok();
    };
    if !is_same(exchange, key) {
        if exchange.flow.asked != 0 {
            let _ = FLOWS.insert(&exchange.key, &exchange.flow, 0);
            kept::forget(socket, &exchange.key.peer, exchange.key.peer_port);
        }
        // SAFETY: a field of the storage.
        unsafe { (&raw mut exchange.flow.asked).write_volatile(0) };
        exchange.key = *key;
    }
    exchange.flow.peer_cgroup = flow.peer_cgroup;
    exchange.flow.peer = flow.peer;
    exchange.flow.revision = flow.revision;
    exchange.flow.service = flow.service;
    // SAFETY: as above.
    unsafe { (&raw mut exchange.flow.asked).write_volatile(flow.asked) };
    true
}

/// Notes that an exchange has lost its right, or has it again. It is no right itself, but says who asked, and that is as true under
/// the next policy.
#[inline(never)]
fn lose(socket: *mut c_void, key: &FlowKey, lost: u32) -> bool {
    if let Some(exchange) = place(socket, key, false)
        && is_same(exchange, key)
    {
        exchange.flow.asked = exchange.flow.asked & !FLOW_LOST | lost;
        return true;
    }
    let Some(flow) = FLOWS.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: a word of an element of the map. If it is reused meanwhile, another's exchange is told once less.
    unsafe { (*flow).asked = (*flow).asked & !FLOW_LOST | lost };
    true
}

/// Notes after the ruling on a packet what its exchange has become: that one side asked, so that the other may answer; or
/// that the right to go on is lost.
#[inline(always)]
pub fn note(
    policy: &Policy,
    ruling: &mut Ruling,
    socket: *mut c_void,
    key: &FlowKey,
    known: Option<&Flow>,
    asks: Option<u32>,
) {
    if !ruling.passes() {
        const SILENT: u32 = FLOW_PEER_JUDGES | FLOW_LOST;
        if known.is_some_and(|flow| flow.revision != policy.revision && flow.asked & SILENT == 0) {
            ruling.flags |= REVOKED;
            lose(socket, key, FLOW_LOST);
        }
        return;
    }
    let lost = known.is_some_and(|flow| flow.asked & FLOW_LOST != 0);
    if lost && ruling.reason == Reason::Reply as u8 {
        // VERIFIER: its answer is asked for, see `handover::fill_key`.
        core::hint::black_box(lose(socket, key, 0));
    }
    let Some(asked) = asks else { return };
    if known.is_none() || lost && ruling.reason != Reason::Reply as u8 {
        ruling.flags |= NEW_FLOW;
    } else if let Some(flow) = known
        && flow.revision == policy.revision
        && flow.asked & asked != 0
        && flow.peer_cgroup == ruling.peer_cgroup
    {
        return;
    }
    if ruling.reason == Reason::Reply as u8 {
        return;
    }
    let flow = Flow {
        peer_cgroup: ruling.peer_cgroup,
        peer: if asked == FLOW_LOCAL_ASKED {
            ruling.to
        } else {
            ruling.from
        },
        revision: policy.to_remember(ruling.rule),
        service: ruling.service,
        asked: known.map_or(0, |flow| flow.asked & !FLOW_LOST) | asked,
    };
    // VERIFIER: its answer is asked for, see `handover::fill_key`.
    core::hint::black_box(keep(socket, key, &flow));
}
