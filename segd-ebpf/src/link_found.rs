//! What a frame's receiver will find of who sends it, asked at the links, where it can still be stopped.
//!
//! INVARIANT: who comes by a link and bears an address that is nobody's is not taken for the network, nor what comes by a NIC for him.

use segd_common::{
    bytes::Bytes as _,
    flow::{BELIEVED_NS, CONTESTED_NS, HandoverKey, SEEN, was_seen},
    packet::{PACKET_FRAGMENT, PACKET_LATER_FRAGMENT, Packet, tcp},
    reason::Reason,
    service::{TCP, has_ports},
};

use crate::{
    clock::now,
    fragments, globals,
    handover::{Entry, Side, fill_key, from_there, of_handshake, print_behind, print_of, shorten, within},
    identity, kernel,
    link::{Bears, ETH_P_IP, Frame, Way, is_plain_host, read, refuse, sender},
    link_out::{UNKNOWN_NAMESPACE, UNSPECIFIED_V4, UNSPECIFIED_V6, segd_bears_own_tuple},
    policy::Policy,
    skb::Skb,
    tcp::carries_nothing,
    toward::place,
};

/// Whether the socket on a frame is one of the namespace that the frame comes from. What another sent in, and is sent back before anybody
/// received it, bears that one's socket still. Of a link that leads nobody knows where, what is not the host's own comes from there.
#[inline(always)]
pub fn is_at_home(skb: Skb, namespace: u64) -> bool {
    let socket = skb
        .inet_socket()
        .and_then(|socket| kernel::address_of(socket.sk.as_ptr()));
    let at = socket.and_then(kernel::namespace_of);
    if namespace == UNKNOWN_NAMESPACE {
        at.is_some_and(|at| at != globals::host_namespace())
    } else {
        at == Some(namespace)
    }
}

/// Whether a frame comes from a socket of its namespace, and goes where that is connected to.
#[inline(always)]
pub fn is_its_sockets(skb: Skb, namespace: u64) -> bool {
    is_at_home(skb, namespace) && segd_bears_own_tuple(skb.skb) != 0
}

/// Whether a receiver on this host would not find who sends a packet from an address that is nobody's. Any destination may be led to
/// one: by the host's translation, or because it is several's.
#[inline(always)]
pub fn is_hidden(way: &Way, packet: &Packet) -> bool {
    if way.bears == Bears::Known {
        return false;
    }
    if packet.protocol == TCP && packet.tcp_flags & tcp::SYN == 0 {
        // Of a connection the receiver knows who has begun it.
        return identity::is_local(&packet.destination) && !is_its_sockets(way.skb, way.namespace);
    }
    if packet.protocol == TCP
        && packet.tcp_flags & tcp::ACK == 0
        && !carries_nothing(packet, &Frame { skb: way.skb })
    {
        // What accepts data with the first segment (RFC 7413) acknowledges them: nobody would know whom it answers. Whoever sent them
        // asks again without.
        return true;
    }
    !is_found(way, packet)
}

/// Whether a receiver on this host will find the cgroup that sends this very packet; as `handover.rs` looks for it, and, but for datagrams
/// that were just seen to arrive as they left, after a translation of the destination, too. What namespaces make of their packets behind
/// the hook is on no tuple that was published, begins otherwise or has another number.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
fn is_found(way: &Way, packet: &Packet) -> bool {
    let skb = way.skb;
    let cgroup = skb.cgroup();
    let mut key = HandoverKey::default();
    fill_key(&mut key, packet, 0, Side::Source);
    if packet.protocol == TCP {
        let number = (Frame { skb }).read::<4>(u32::from(packet.upper) + 4);
        shorten(&mut key, print_of(number.map_or(0, u32::from_be_bytes)));
        return Entry::at(&key).is_some_and(|entry| entry.cgroup() == cgroup);
    }
    let now = now();
    let Some(full) = Entry::at(&key) else {
        return false;
    };
    if full.cgroup() != cgroup || !full.is_believed(now) {
        return false;
    }
    if was_seen(full.sequence(), SEEN + SEEN / 2, now) {
        return true;
    }
    shorten(&mut key, print_behind(skb, packet, ETHERNET));
    if Entry::at(&key)
        .is_some_and(|entry| entry.cgroup() == cgroup && within(BELIEVED_NS, entry.sent_ns(), now))
    {
        return true;
    }
    key.print = 0;
    Entry::at(&key)
        .is_some_and(|entry| entry.cgroup() == cgroup && within(CONTESTED_NS, entry.sent_ns(), now))
}

/// The length of the link header of the devices that lead to namespaces.
const ETHERNET: u32 = 14;

/// tcx egress on a NIC: whether a frame may leave. An answer to a workload of this host that has asked by an address of the network does
/// not: whoever has the address would be that workload from then on.
#[inline(always)]
pub fn may_depart(skb: Skb) -> bool {
    if !may_answer(skb) {
        return true;
    }
    let mut packet = Packet::default();
    // What cannot be read answers nobody.
    if read(skb, &mut packet) != 0 {
        return true;
    }
    let frame = Frame { skb };
    let follows = packet.flags & PACKET_LATER_FRAGMENT != 0;
    let begins = !follows && packet.flags & PACKET_FRAGMENT != 0;
    let answers = if follows {
        fragments::was_refused(&frame, &packet, skb.device())
    } else {
        is_answer_to_borrowed(&packet, skb)
    };
    if !answers {
        if begins {
            fragments::not_refused(&frame, &packet, skb.device());
        }
        return true;
    }
    let Some(policy) = Policy::active() else {
        return true;
    };
    let mut way = Way::new(policy, skb, sender(skb));
    way.from = place(&way.policy, &packet.source, 0, false).1;
    let passes = refuse(&way, Reason::Spoofed as u32);
    if !passes && begins {
        fragments::refused(&frame, &packet, skb.device());
    }
    passes
}

/// tcx ingress on a NIC: whether a frame is a datagram from where a workload of this host sends: its receiver would take it for that one.
#[inline(always)]
pub fn enters_borrowed(skb: Skb) -> bool {
    if !may_be_datagram(skb) {
        return false;
    }
    let mut packet = Packet::default();
    read(skb, &mut packet) == 0 && comes_borrowed(&packet)
}

/// Whether a packet that comes in from elsewhere is a datagram from an address and port that are borrowed, see [`is_borrowed`].
#[inline(always)]
pub fn comes_borrowed(packet: &Packet) -> bool {
    !identity::is_local(&packet.source) && is_borrowed(packet, Side::Source)
}

/// Whether a datagram comes from, or goes to, an address and port from which somebody whom a segment claims sends lately, wherever to: by
/// its source nobody is told from him. The address is none of this host's.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
pub fn is_borrowed(packet: &Packet, side: Side) -> bool {
    if packet.protocol == TCP || !has_ports(packet.protocol) {
        return false;
    }
    let mut key = HandoverKey::default();
    fill_key(&mut key, packet, 0, side);
    // Who has no address yet is anybody.
    if key.source == UNSPECIFIED_V4 || key.source == UNSPECIFIED_V6 {
        return false;
    }
    from_there(&mut key);
    let now = now();
    Entry::at(&key).is_some_and(|entry| {
        // As long as any tuple of his is believed: this entry may be older by what lies between two refreshments. Who else sends from there
        // takes the entry, and not the tuples.
        const LATELY_NS: u64 = BELIEVED_NS + CONTESTED_NS;
        let claimed = !is_plain_host(entry.identity()) || entry.was_anothers(LATELY_NS, now);
        claimed && within(LATELY_NS, entry.sent_ns(), now)
    })
}

/// Whether a packet accepts, or answers, what somebody whom a segment claims sent from an address that is none of this host.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
fn is_answer_to_borrowed(packet: &Packet, skb: Skb) -> bool {
    if identity::is_local(&packet.destination) {
        return false;
    }
    if packet.protocol != TCP {
        return is_borrowed(packet, Side::Destination);
    }
    let mut key = HandoverKey::default();
    fill_key(&mut key, packet, 0, Side::Destination);
    let number = (Frame { skb }).read::<4>(u32::from(packet.upper) + 8);
    let first = number.map_or(0, u32::from_be_bytes).wrapping_sub(1);
    of_handshake(&mut key, first).is_some_and(|entry| !is_plain_host(entry.identity()))
}

/// Whether a frame may be an answer that is looked at: of IP, all that is not TCP, and of TCP what accepts a connection, or says of a
/// connection that is half open which number the next byte has (RFC 9293 3.10.7.4, RFC 7323 5.3).
#[inline(always)]
fn may_answer(skb: Skb) -> bool {
    if may_be_datagram(skb) {
        return true;
    }
    let frame = Frame { skb };
    let header = if skb.is_v6() {
        40
    } else {
        match frame.read::<1>(0) {
            Some([first]) if u16::from_be(skb.protocol()) == ETH_P_IP => u32::from(first & 0xf) * 4,
            _ => return false,
        }
    };
    let Some([offset, flags]) = frame.read::<2>(header + 12) else {
        return false;
    };
    if flags & tcp::ACK == 0 {
        return false;
    }
    if flags & tcp::SYN != 0 {
        return true;
    }
    // A connection that is open has a socket. What containers send has lost it on its way, data included, which is what most of that is.
    if skb.socket().is_some_and(|socket| socket.is_tcp()) {
        return false;
    }
    let (at, before) = if skb.is_v6() { (4, 40) } else { (2, 0) };
    let told = frame
        .read::<2>(at)
        .map(|told| u32::from(u16::from_be_bytes(told)));
    told.is_some_and(|told| told + before == header + u32::from(offset >> 4) * 4)
}

/// Whether an IP packet is not plainly TCP's.
#[inline(always)]
fn may_be_datagram(skb: Skb) -> bool {
    let frame = Frame { skb };
    if skb.is_v6() {
        frame.read::<1>(6) != Some([TCP])
    } else {
        u16::from_be(skb.protocol()) == ETH_P_IP && frame.read::<1>(9) != Some([TCP])
    }
}
