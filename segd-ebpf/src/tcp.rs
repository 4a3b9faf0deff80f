//! TCP: judged at the SYN, remembered on the socket, judged again under every revision.
//!
//! The kernel has matched a packet to its connection before the hooks run, so the socket is the flow. What is
//! kept there is who the peer is, who opened the connection, and the revision of the last verdict.

use aya_ebpf::{bindings::BPF_SK_STORAGE_GET_F_CREATE, helpers::bpf_sk_storage_get};
use segd_common::{
    bytes::Bytes,
    flow::{
        DIRECTION_ACTIVE, STATE_DIALS, STATE_FOREIGN, STATE_LEARN, STATE_PEER_JUDGES, STATE_PEER_LOCAL,
        STATE_PUBLISHED, STATE_STAYS, STATE_WAS_ALLOWED, SocketState,
    },
    packet::{Packet, tcp},
    reason::Reason,
    segment,
    service::{self, Service, TCP},
    verdict::Outcome,
    workload::Identity,
};

use crate::{
    globals,
    handover::Side,
    identity::{self, UNKNOWN},
    maps::SOCKETS,
    policy::Policy,
    ruling::{DIALS, NEW_FLOW, PEER_LOCAL, PUBLISH, RECEIVER_JUDGES, REVERSED, REVOKED, Ruling, judge},
    skb::{LOOPBACK, Skb, state},
    socket::Socket,
    toward::{Place, judge_departure},
};

/// The state of a socket; created if asked to.
#[inline(always)]
pub fn remembered(socket: Socket, create: bool) -> Option<&'static mut SocketState> {
    let flags = if create {
        u64::from(BPF_SK_STORAGE_GET_F_CREATE)
    } else {
        0
    };
    // SAFETY: a full socket and the map of this object; the storage lives as long as the socket, which the
    // hook holds. Two CPUs may write at once: every field is judged again when it matters.
    unsafe {
        let storage = bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            socket.sk.as_ptr().cast(),
            core::ptr::null_mut(),
            flags,
        );
        storage.cast::<SocketState>().as_mut()
    }
}

/// The identity a connection's peer has now.
#[inline(always)]
fn peer_now(policy: &Policy, memory: &SocketState, peer_address: &[u8; 16]) -> Identity {
    if memory.peer_cgroup == 0 {
        return memory.peer;
    }
    let identity = identity::of_cgroup(policy, memory.peer_cgroup).unwrap_or(memory.peer);
    identity::claimed_by_address(policy, identity, peer_address)
}

/// Rules on a segment that a TCP socket sends, after [`crate::adopt::adopt`], and says what is to be done after.
// VERIFIER: see `handover::fill_key` on why it returns something.
#[inline(never)]
pub fn departs(policy: &Policy, ruling: &mut Ruling, packet: &Packet, skb: Skb, own: &Identity) -> u8 {
    depart(policy, ruling, packet, skb, own);
    ruling.after
}

#[inline(always)]
fn depart(policy: &Policy, ruling: &mut Ruling, packet: &Packet, skb: Skb, own: &Identity) {
    let Some(socket) = skb.socket() else {
        return ruling.fixed(Reason::Unknown);
    };
    if socket.state() == state::LISTEN {
        ruling.after = PUBLISH;
        return accepting(policy, ruling, packet, skb, socket, own);
    }
    let Some(memory) = remembered(socket, true) else {
        return ruling.fixed(Reason::NoState);
    };
    if packet.is_syn() {
        *memory = SocketState {
            direction: DIRECTION_ACTIVE,
            flags: STATE_DIALS,
            ..SocketState::default()
        };
        ruling.flags |= NEW_FLOW;
    }
    if ruling.place == Place::Here as u8 {
        memory.flags |= STATE_STAYS;
    } else if memory.flags & STATE_STAYS != 0 {
        return strays(policy, ruling, memory, packet, skb, Side::Destination, own);
    }
    if memory.direction == DIRECTION_ACTIVE {
        // To an address of the network nobody else judges, whoever has answered there before.
        let here = ruling.place != Place::Network as u8;
        if here && memory.peer_cgroup != 0 {
            let peer = peer_now(policy, memory, &packet.destination);
            judge(policy, ruling, *own, peer, packet.service);
            ruling.flags |= PEER_LOCAL | RECEIVER_JUDGES;
            ruling.peer_cgroup = memory.peer_cgroup;
        } else if here && memory.flags & STATE_PEER_JUDGES != 0 {
            ruling.defer();
        } else {
            judge_departure(policy, ruling, packet, skb, own);
            if ruling.flags & PEER_LOCAL != 0 && ruling.peer_cgroup == 0 {
                memory.flags |= STATE_LEARN;
            }
        }
    } else {
        ruling.flags |= REVERSED;
        let peer = passive_peer(policy, ruling, memory, packet, skb, Side::Destination);
        judge(policy, ruling, peer, *own, served(socket, packet));
        if ruling.peer_cgroup != 0 {
            ruling.flags |= PEER_LOCAL | RECEIVER_JUDGES;
        }
    }
    if ends(memory, packet, ruling, skb) {
        return ruling.fixed(Reason::Control);
    }
    // A socket without a cookie could not be named to whoever is to end it.
    skb.cookie();
    note(policy, ruling, memory, own);
    if skb.device() != LOOPBACK && is_turned(packet, socket) && skb.namespace() != globals::host_namespace() {
        // This verdict is about whom the namespace turned the segment to, and where it turns the next one, or this one, behind the
        // hook, is not known.
        memory.revision = 0;
    }
    if ruling.passes() && memory.flags & STATE_DIALS != 0 {
        // Until the peer shows that it has accepted: who dials may have been forgotten since the first packet.
        memory.flags |= STATE_PUBLISHED;
        ruling.after = DIALS;
    } else if ruling.passes() && memory.flags & STATE_PUBLISHED == 0 {
        memory.flags |= STATE_PUBLISHED;
        ruling.after = PUBLISH;
    }
}

/// Whether a segment goes elsewhere than its socket is connected to.
#[inline(always)]
fn is_turned(packet: &Packet, socket: Socket) -> bool {
    packet.destination_port != socket.peer_port() || !socket.is_peer(&packet.destination)
}

/// Rules on a segment that leaves the namespace in which its connection has stayed, or comes there from outside: on which `side` of it
/// somebody else is. Nothing of that is kept, as the route may be back for the next one.
#[inline(always)]
fn strays(
    policy: &Policy,
    ruling: &mut Ruling,
    memory: &SocketState,
    packet: &Packet,
    skb: Skb,
    side: Side,
    own: &Identity,
) {
    let leaves = side == Side::Destination;
    let active = memory.direction == DIRECTION_ACTIVE;
    if leaves && active {
        return judge_departure(policy, ruling, packet, skb, own);
    }
    let peer = identity::of_foreign(policy, packet, skb, side);
    if !leaves && !active {
        return judge(policy, ruling, peer, *own, packet.service);
    }
    ruling.flags |= REVERSED;
    let (from, to) = if active { (*own, peer) } else { (peer, *own) };
    judge(policy, ruling, from, to, packet.reverse_service());
}

/// What the peer of a listening or accepted socket asked for. Where the port is translated in this very namespace
/// (REDIRECT), an answer already shows the one that was dialled, and the request showed the socket's own.
#[inline(always)]
fn served(socket: Socket, packet: &Packet) -> Service {
    match socket.port() {
        0 => packet.reverse_service(),
        port => service::port(TCP, port),
    }
}

/// A listener's answer to a SYN: judged as the SYN it answers.
#[inline(always)]
fn accepting(
    policy: &Policy,
    ruling: &mut Ruling,
    packet: &Packet,
    skb: Skb,
    socket: Socket,
    own: &Identity,
) {
    let peer = identity::of_dialler(policy, packet, skb, Side::Destination, &mut ruling.peer_cgroup);
    judge(policy, ruling, peer, *own, served(socket, packet));
    if !ruling.passes() && peer.segment == segment::NONE {
        // Who dialled was known when the SYN was let in and has been forgotten. This carries nothing, and whoever gets it
        // says again who it is.
        ruling.defer();
    }
    ruling.flags |= REVERSED;
    if ruling.peer_cgroup != 0 {
        ruling.flags |= PEER_LOCAL | RECEIVER_JUDGES;
    }
}

/// The peer of an accepted connection: on which side of the packet it stands.
#[inline(always)]
fn passive_peer(
    policy: &Policy,
    ruling: &mut Ruling,
    memory: &mut SocketState,
    packet: &Packet,
    skb: Skb,
    side: Side,
) -> Identity {
    if memory.peer_cgroup != 0 {
        ruling.peer_cgroup = memory.peer_cgroup;
        let peer = if side == Side::Source {
            &packet.source
        } else {
            &packet.destination
        };
        return peer_now(policy, memory, peer);
    }
    if memory.flags & STATE_FOREIGN != 0 {
        return identity::of_foreign(policy, packet, skb, side);
    }
    let mut cgroup = 0;
    let mut peer = identity::of_sender(policy, packet, skb, side, &mut cgroup);
    if peer.segment == segment::NONE && side == Side::Destination {
        // A session older than segd, whose peer has not sent since: whoever will receive this.
        if ruling.receiver != 0 {
            cgroup = ruling.receiver;
            peer = identity::of_cgroup(policy, cgroup).unwrap_or(UNKNOWN);
            peer = identity::claimed_by_address(policy, peer, &packet.destination);
        } else if ruling.place == Place::Beside as u8 {
            peer = ruling.there;
        }
    }
    ruling.peer_cgroup = cgroup;
    memory.peer_cgroup = cgroup;
    peer
}

/// Rules on a segment that a TCP socket is about to receive, after [`crate::adopt::adopt`].
#[inline(never)]
pub fn arrives(policy: &Policy, ruling: &mut Ruling, packet: &Packet, skb: Skb, own: &Identity) {
    let Some(socket) = skb.socket() else {
        return ruling.fixed(Reason::Unknown);
    };
    if socket.state() == state::LISTEN {
        let peer = identity::of_dialler(policy, packet, skb, Side::Source, &mut ruling.peer_cgroup);
        judge(policy, ruling, peer, *own, packet.service);
        if packet.is_syn() {
            ruling.flags |= NEW_FLOW;
        }
        return;
    }
    let Some(memory) = remembered(socket, true) else {
        return ruling.fixed(Reason::NoState);
    };
    if memory.flags & STATE_STAYS != 0 && skb.device() != LOOPBACK && !is_here(packet, skb) {
        return strays(policy, ruling, memory, packet, skb, Side::Source, own);
    }
    if memory.direction == DIRECTION_ACTIVE {
        ruling.flags |= REVERSED;
        answered(policy, ruling, memory, packet, skb, own);
    } else {
        let peer = passive_peer(policy, ruling, memory, packet, skb, Side::Source);
        judge(policy, ruling, peer, *own, packet.service);
    }
    if ruling.peer_cgroup != 0 {
        ruling.flags |= PEER_LOCAL;
    }
    if skb.device() == LOOPBACK {
        memory.flags |= STATE_STAYS;
    }
    if ends(memory, packet, ruling, skb) {
        return ruling.fixed(Reason::Control);
    }
    skb.cookie();
    note(policy, ruling, memory, own);
    if ruling.passes() && packet.tcp_flags & tcp::SYN == 0 {
        memory.flags &= !STATE_DIALS;
    }
}

/// Whether a segment's source is known to be its receiver's namespace's: by a VRF it need not come by loopback.
#[inline(always)]
fn is_here(packet: &Packet, skb: Skb) -> bool {
    identity::local(&packet.source).is_some_and(|local| local.namespace == skb.namespace())
}

/// Whether this ends a session that has lost its right: a reset carries nothing, and without it the other end would wait
/// for what never comes.
#[inline(always)]
fn ends(memory: &SocketState, packet: &Packet, ruling: &Ruling, skb: Skb) -> bool {
    !ruling.passes()
        && packet.tcp_flags & tcp::RST != 0
        && memory.flags & STATE_WAS_ALLOWED != 0
        && carries_nothing(packet, &skb)
}

/// Whether a segment is all header.
#[inline(always)]
pub fn carries_nothing<B: Bytes>(packet: &Packet, bytes: &B) -> bool {
    let upper = u32::from(packet.upper);
    bytes
        .read::<1>(upper + 12)
        .is_some_and(|[offset]| packet.bytes == upper + u32::from(offset >> 4) * 4)
}

/// A segment for a socket that connected: judged as the connection it belongs to.
#[inline(always)]
fn answered(
    policy: &Policy,
    ruling: &mut Ruling,
    memory: &mut SocketState,
    packet: &Packet,
    skb: Skb,
    own: &Identity,
) {
    let mut peer = UNKNOWN;
    let mut unseen = memory.flags & STATE_PEER_JUDGES != 0;
    if memory.peer_cgroup != 0 {
        ruling.peer_cgroup = memory.peer_cgroup;
        peer = peer_now(policy, memory, &packet.source);
    } else if !unseen {
        let mut cgroup = 0;
        peer = identity::of_sender(policy, packet, skb, Side::Source, &mut cgroup);
        ruling.peer_cgroup = cgroup;
        memory.peer_cgroup = cgroup;
        if peer.segment == segment::NONE {
            // Local, and did not show itself: a kernel's RST, or its address was translated on the way.
            peer = memory.peer;
        }
        memory.flags &= !STATE_LEARN;
        let local = memory.flags & STATE_PEER_LOCAL != 0;
        unseen = local && peer.segment == segment::NONE;
        if local && cgroup == 0 && packet.tcp_flags & tcp::SYN != 0 {
            // Before 6.6 an IPv6 handshake is answered past the hooks; what follows shows who speaks, or nothing does.
            memory.flags |= STATE_LEARN;
        } else if unseen {
            memory.flags |= STATE_PEER_JUDGES;
        }
    }
    // The port that was connected to as it was when it left: a reply shows the one before its translation.
    let service = if memory.service != 0 {
        memory.service
    } else {
        packet.reverse_service()
    };
    if unseen {
        ruling.fixed(Reason::Reply);
        ruling.from = *own;
        ruling.to = UNKNOWN;
        ruling.service = service;
        return;
    }
    judge(policy, ruling, *own, peer, service);
}

/// Keeps the ruling on the socket, and notices a right that was lost.
#[inline(always)]
fn note(policy: &Policy, ruling: &mut Ruling, memory: &mut SocketState, own: &Identity) {
    if !ruling.passes() && memory.flags & STATE_WAS_ALLOWED != 0 && memory.outcome != Outcome::Denied as u8 {
        ruling.flags |= REVOKED;
    }
    let active = memory.direction == DIRECTION_ACTIVE;
    memory.peer = if active { ruling.to } else { ruling.from };
    memory.own = own.segment;
    memory.service = ruling.service;
    memory.rule = ruling.rule;
    memory.reason = ruling.reason;
    memory.outcome = ruling.outcome;
    // In one word, because both hooks may judge at once: what lets a packet pass is a revision, and only what it allows writes it.
    memory.revision = if ruling.passes() {
        memory.flags |= STATE_WAS_ALLOWED;
        policy.to_remember(ruling.rule)
    } else {
        0
    };
    if ruling.flags & PEER_LOCAL != 0 {
        memory.flags |= STATE_PEER_LOCAL;
    }
}
