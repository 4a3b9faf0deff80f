//! The fast path of datagrams: what one was judged is kept on its socket, for the next that is like it.
//!
//! Only where the receiver on this host judges too, and only for an exchange that lies on the socket already: the first datagram of
//! each is judged as a whole. Into another namespace only while datagrams are seen to arrive there as they left: what is
//! translated on its way must say who sends it, each one. An exchange that has to make room takes its judgement with it, so that
//! no question goes out by it whose answer nobody could be let have.
//!
//! INVARIANT: who has sent is found out for each datagram, and in one namespace who receives; what is kept is what the policy said
//! of them.

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    helpers::{bpf_get_prandom_u32, bpf_sk_storage_get},
};
use core::{ffi::c_void, ptr};
use segd_common::{
    address::{Address, words},
    counter::CounterKey,
    event::Hook,
    kept::{ELSEWHERE, Judged, KEPT_PEERS, Kept, Like, seal},
    packet::Packet,
    service::UDP,
    verdict::Outcome,
};

use crate::{
    count::{count_known, count_rule_of},
    handover, lookup,
    maps::{KEPT, PLACES},
    policy::Policy,
    publish::{has_tuple, needs_no_print},
    ruling::{KEEP, RECEIVER_JUDGES, Ruling},
    skb::Skb,
    toward::Place,
};

/// The state of the tables of addresses. Read before anything is looked up in them, so that what is kept is never older.
#[inline(always)]
pub fn places() -> u32 {
    // SAFETY: a slot of an array map; volatile so that it is read here.
    PLACES
        .get_ptr(0)
        .map_or(0, |places| unsafe { ptr::read_volatile(places) } as u32)
}

/// The place on a socket for the judgement of a peer's datagrams.
#[inline(always)]
fn place(socket: *mut c_void, arrives: bool, peer: &Address, port: u16, create: bool) -> Option<*mut Kept> {
    let flags = if create {
        u64::from(BPF_SK_STORAGE_GET_F_CREATE)
    } else {
        0
    };
    let (high, low) = words(peer);
    let hash = (high ^ low ^ u64::from(port) << 16).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let way = if arrives { KEPT_PEERS } else { 0 };
    // VERIFIER: the bound must be seen on the very register that is added to the pointer.
    let index = core::hint::black_box(hash >> 56) as usize & (KEPT_PEERS - 1);
    // SAFETY: a full socket and the map of this object; the storage lives as long as the socket, which the hook holds, and
    // has `KEPT_PEERS` places for each way. Two CPUs may write at once: see `Kept::seal`.
    unsafe {
        let storage = bpf_sk_storage_get(
            (&raw const KEPT).cast_mut().cast(),
            socket,
            ptr::null_mut(),
            flags,
        );
        if storage.is_null() {
            return None;
        }
        Some(storage.cast::<Kept>().add(way).add(index))
    }
}

/// What was judged of a datagram that is exactly like this one, and where it is kept.
#[inline(always)]
fn find(socket: *mut c_void, like: &Like<'_>, arrives: bool) -> Option<(*mut Kept, Judged)> {
    let place = place(socket, arrives, like.peer, like.peer_port, false)?;
    let words = like.words();
    for (number, word) in words.iter().enumerate() {
        // SAFETY: a place of the storage; volatile, so that what is compared is what is used.
        if unsafe { (&raw const (*place).like[number]).read_volatile() } != *word {
            return None;
        }
    }
    // SAFETY: as above.
    let judged = unsafe {
        let judged = &raw const (*place).judged;
        let word = |number: usize| judged.cast::<u64>().add(number).read_volatile();
        [word(0), word(1), word(2)]
    };
    // SAFETY: as above.
    let (salt, sealed) = unsafe {
        (
            (&raw const (*place).salt).read_volatile(),
            (&raw const (*place).seal).read_volatile(),
        )
    };
    (sealed == seal(&words, &judged, salt)).then_some((place, Judged::of_words(judged)))
}

/// Forgets what was judged of a peer's datagrams, both ways.
#[inline(always)]
pub fn forget(socket: *mut c_void, peer: &Address, port: u16) {
    if let Some(leaves) = place(socket, false, peer, port, false) {
        // SAFETY: the place for what leaves, and as far behind it the one for what arrives.
        unsafe {
            (&raw mut (*leaves).seal).write_volatile(0);
            (&raw mut (*leaves.add(KEPT_PEERS)).seal).write_volatile(0);
        }
    }
}

/// What a packet is like to its local socket.
#[inline(always)]
fn like<'a>(packet: &'a Packet, skb: Skb, ruling: &Ruling, revision: u32, arrives: bool) -> Like<'a> {
    let (own, own_port) = (&packet.destination, packet.destination_port);
    let (peer, peer_port) = (&packet.source, packet.source_port);
    let (own, own_port, peer, peer_port) = if arrives {
        (own, own_port, peer, peer_port)
    } else {
        (peer, peer_port, own, own_port)
    };
    Like {
        own,
        peer,
        cgroup: ruling.cgroup,
        revision,
        places: ruling.places,
        device: skb.device(),
        own_port,
        peer_port,
    }
}

/// The storage of the packet's socket, if both are UDP's.
#[inline(always)]
fn storage(skb: Skb, packet: &Packet) -> Option<*mut c_void> {
    let socket = skb.socket()?;
    if packet.protocol == UDP && socket.is_udp() {
        Some(socket.storage())
    } else {
        None
    }
}

/// Whether a datagram may leave as the last one like it did. The receiver counts it.
#[inline(never)]
pub fn may_leave(policy: &Policy, ruling: &Ruling, packet: &Packet, skb: Skb) -> bool {
    let Some(socket) = storage(skb, packet) else {
        return false;
    };
    let like = like(packet, skb, ruling, policy.revision, false);
    let Some((_, judged)) = find(socket, &like, false) else {
        return false;
    };
    if judged.peer_cgroup == ELSEWHERE {
        return needs_no_print(packet, skb, ruling.cgroup);
    }
    // Another socket may have got the port meanwhile; and outside of the subtree that is enforced nobody else judges.
    lookup::receiver(skb, packet) == judged.peer_cgroup && has_tuple(packet, skb, ruling.cgroup)
}

/// Whether a datagram may arrive as the last one like it did. Counts it.
#[inline(never)]
pub fn may_enter(policy: &Policy, ruling: &Ruling, packet: &Packet, skb: Skb) -> bool {
    let Some(socket) = storage(skb, packet) else {
        return false;
    };
    let like = like(packet, skb, ruling, policy.revision, true);
    let Some((place, judged)) = find(socket, &like, true) else {
        return false;
    };
    if !handover::is_of(packet, skb, judged.peer_cgroup) {
        return false;
    }
    let key = CounterKey {
        from: judged.from,
        to: judged.to,
        outcome: Outcome::Allowed as u8,
        reason: judged.reason,
        reserved: 0,
    };
    // SAFETY: a field of the storage.
    count_known(unsafe { &mut (*place).counted }, key, packet.bytes);
    count_rule_of(policy, judged.rule);
    true
}

/// Whether a datagram to this peer was let go under the policy in force: then the packet hook says the same again, or
/// judges.
#[inline(always)]
pub fn may_send(policy: &Policy, socket: *mut c_void, peer: &Address, port: u16) -> bool {
    let Some(place) = place(socket, false, peer, port, false) else {
        return false;
    };
    // SAFETY: as in `find`.
    let word = |number: usize| unsafe {
        (&raw const (*place).like)
            .cast::<u64>()
            .add(number)
            .read_volatile()
    };
    (word(2), word(3)) == words(peer) && word(5) as u32 == policy.revision && (word(6) >> 48) as u16 == port
}

/// Keeps the judgement of a datagram, if it may be kept: the policy allowed it, no rule ends by itself, and its receiver judges on this
/// host, known but where that is [`ELSEWHERE`]; of what arrives the sender is known.
#[inline(never)]
pub fn keep(policy: &Policy, ruling: &Ruling, packet: &Packet, skb: Skb) -> bool {
    if ruling.after & KEEP == 0 || !ruling.allowed() {
        return false;
    }
    let arrives = ruling.hook == Hook::Ingress as u8;
    let peer_cgroup = if arrives {
        ruling.peer_cgroup
    } else if ruling.flags & RECEIVER_JUDGES == 0 {
        0
    } else if ruling.place == Place::Here as u8 {
        ruling.receiver
    } else if ruling.place == Place::Beside as u8 || ruling.place == Place::Shared as u8 {
        ELSEWHERE
    } else {
        0
    };
    let revision = policy.to_remember(ruling.rule);
    if peer_cgroup == 0 || revision == 0 {
        return false;
    }
    let Some(socket) = storage(skb, packet) else {
        return false;
    };
    let like = like(packet, skb, ruling, revision, arrives);
    let Some(place) = place(socket, arrives, like.peer, like.peer_port, true) else {
        return false;
    };
    let judged = Judged {
        peer_cgroup,
        rule: ruling.rule,
        reason: ruling.reason,
        from: ruling.from.segment,
        to: ruling.to.segment,
    };
    let (like, judged) = (like.words(), judged.words());
    // SAFETY: a helper without arguments.
    let salt = u64::from(unsafe { bpf_get_prandom_u32() });
    let salt = salt | salt << 32;
    // SAFETY: a place of the storage.
    unsafe {
        (&raw mut (*place).seal).write_volatile(seal(&like, &judged, salt));
        (&raw mut (*place).salt).write_volatile(salt);
        (&raw mut (*place).like).write_volatile(like);
        (&raw mut (*place).judged).write_volatile(judged);
    }
    true
}
