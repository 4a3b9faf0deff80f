//! What a frame's receiver will find of who sends it, asked at the links, where it can still be stopped.
//!
//! INVARIANT: who bears an address that is nobody's is never taken for the network, nor the network for him.

use segd_common::{
    bytes::Bytes as _,
    flow::{BELIEVED_NS, CONTESTED_NS, HandoverKey, SEEN, was_seen},
    packet::{Packet, tcp},
    reason::Reason,
    service::{TCP, has_ports},
};

use crate::{
    clock::now,
    handover::{Entry, Side, fill_key, of_handshake, print_behind, shorten, within},
    identity, kernel,
    link::{Bears, ETH_P_IP, Frame, Sender, Way, read, refuse, sender},
    link_out::segd_bears_own_tuple,
    policy::Policy,
    skb::Skb,
    toward::place,
};

/// Whether the socket on a frame is one of the namespace that the frame comes from. What another sent in, and is sent back before anybody
/// received it, bears that one's socket still.
#[inline(always)]
pub fn is_at_home(skb: Skb, namespace: u64) -> bool {
    let socket = skb
        .inet_socket()
        .and_then(|socket| kernel::address_of(socket.sk.as_ptr()));
    socket.and_then(kernel::namespace_of) == Some(namespace)
}

/// Whether a receiver on this host would not find who sends a packet from an address that is nobody's.
#[inline(always)]
pub fn is_hidden(way: &Way, packet: &Packet) -> bool {
    if way.bears == Bears::Known || !identity::is_local(&packet.destination) {
        return false;
    }
    if packet.protocol == TCP && packet.tcp_flags & tcp::SYN == 0 {
        // Of a connection the receiver knows who has begun it.
        return !is_at_home(way.skb, way.namespace) || segd_bears_own_tuple(way.skb.skb) == 0;
    }
    !is_found(way, packet)
}

/// Whether the receiver on this host will find the cgroup that sends this very packet; as `handover.rs` looks for it, and after a
/// translation of the destination, too. What namespaces make of their packets behind the hook is on no tuple that was published, begins
/// otherwise or has another number.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
fn is_found(way: &Way, packet: &Packet) -> bool {
    let skb = way.skb;
    let cgroup = skb.cgroup();
    let mut key = HandoverKey::default();
    fill_key(&mut key, packet, 0, Side::Source);
    if packet.protocol == TCP {
        let number = (Frame { skb }).read::<4>(u32::from(packet.upper) + 4);
        let first = number.map_or(0, u32::from_be_bytes);
        return of_handshake(&mut key, first).is_some_and(|entry| entry.cgroup() == cgroup);
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

/// tcx egress on what leads out of this host: whether a frame may leave. An answer to a workload of this host that has asked by
/// an address of the network does not: whoever has the address would be that workload from then on.
#[inline(always)]
pub fn may_depart(skb: Skb) -> bool {
    let by = sender(skb);
    let stream = by == Sender::Inet && skb.socket().is_some_and(|socket| socket.is_tcp());
    if stream || !may_answer(skb) {
        return true;
    }
    let mut packet = Packet::default();
    // What cannot be read answers nobody.
    if read(skb, &mut packet) != 0 || !is_answer_to_borrowed(&packet, skb) {
        return true;
    }
    let Some(policy) = Policy::active() else {
        return true;
    };
    let mut way = Way::new(policy, skb, by);
    way.from = place(&way.policy, &packet.source, 0, false).1;
    refuse(&way, Reason::Spoofed as u32)
}

/// Whether a frame that enters is a datagram on a tuple that a workload of this host holds: its receiver would take it for that one.
#[inline(always)]
pub fn enters_borrowed(skb: Skb) -> bool {
    if !may_be_datagram(skb) {
        return false;
    }
    let mut packet = Packet::default();
    read(skb, &mut packet) == 0 && is_borrowed(&packet, Side::Source)
}

/// Whether a datagram, or what it answers, has the tuple that a cgroup of this host sends by lately, from an address that is none of
/// this host.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
pub fn is_borrowed(packet: &Packet, side: Side) -> bool {
    let peer = if side == Side::Source {
        &packet.source
    } else {
        &packet.destination
    };
    if packet.protocol == TCP || !has_ports(packet.protocol) || identity::is_local(peer) {
        return false;
    }
    let mut key = HandoverKey::default();
    fill_key(&mut key, packet, 0, side);
    Entry::at(&key).is_some_and(|entry| entry.is_believed(now()))
}

/// Whether a packet accepts, or answers, what a cgroup of this host sent from an address that is none of this host.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
fn is_answer_to_borrowed(packet: &Packet, skb: Skb) -> bool {
    if packet.protocol != TCP {
        return is_borrowed(packet, Side::Destination);
    }
    if identity::is_local(&packet.destination) {
        return false;
    }
    let mut key = HandoverKey::default();
    fill_key(&mut key, packet, 0, Side::Destination);
    let number = (Frame { skb }).read::<4>(u32::from(packet.upper) + 8);
    let first = number.map_or(0, u32::from_be_bytes).wrapping_sub(1);
    of_handshake(&mut key, first).is_some()
}

/// Whether a frame may be an answer that is looked at: all that is not TCP, and of TCP what accepts a connection.
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
            Some([first]) => u32::from(first & 0xf) * 4,
            None => return false,
        }
    };
    const ACCEPTS: u8 = tcp::SYN | tcp::ACK;
    frame
        .read::<1>(header + 13)
        .is_some_and(|[flags]| flags & ACCEPTS == ACCEPTS)
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
