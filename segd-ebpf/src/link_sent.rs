//! What a workload's namespace sent by its link, and who accounts for that: a socket's hook, its kernel, or nobody.

use segd_common::{
    address::{self, LOCAL_HOST},
    bytes::Bytes as _,
    flow::{CONTESTED_NS, HandoverKey},
    packet::{PACKET_FRAGMENT, Packet, tcp},
    reason::Reason,
    segment,
    service::{self, ICMP, ICMPV6, IGMP, TCP, UDP, has_ports},
    workload::Identity,
};

use crate::{
    clock::now,
    egress::{is_dhcp, is_kernels},
    errors, globals,
    handover::{Entry, Side, fill_key, within},
    identity::{self, UNKNOWN},
    link::{Bears, Frame, Sender, Way},
    link_found::{is_at_home, is_its_sockets},
    link_out::{BROADCAST, PASSES},
    lookup,
    ruling::reason,
    skb::{Skb, state},
    socket::Socket,
    toward::{Place, place},
};

/// Whether what this very namespace sent may leave it.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
pub fn judge_sent(way: &Way, packet: &Packet) -> u32 {
    let icmp = packet.protocol == ICMP || packet.protocol == ICMPV6;
    // The kernel's errors, answers and neighbour discovery, which no hook publishes. What else bears its socket, its namespace's root has
    // made of that behind the hook.
    if way.by == Sender::Inet && icmp && is_kernels(way.skb) {
        if packet.is_icmp_error() || packet.is_link_control() {
            return whole(packet);
        }
        if packet.is_echo_reply() {
            return errors::refuses_echo(way, packet);
        }
        return as_owner(way, packet);
    }
    // Whoever asks for an address asks on one tuple.
    let dhcp = packet.protocol == UDP && is_dhcp(packet.source_port, packet.destination_port);
    let all = packet.destination == BROADCAST || address::is_multicast(&packet.destination);
    if way.by == Sender::Inet && dhcp && all {
        return translated(way, packet, NOBODY);
    }
    let mut owner = owner_of_tuple(packet, way.skb.cgroup());
    // Who bears an address that is nobody's is the network to a receiver here that does not find him. He begins nothing.
    if way.bears == Bears::Hidden && owner != ANOTHER {
        if packet.is_syn() || packet.protocol != TCP && has_ports(packet.protocol) {
            return Reason::Spoofed as u32;
        }
        owner = NOBODY;
    }
    if is_accounted_for(way, packet, owner) {
        return PASSES;
    }
    // Where it is known by its content (a translated destination), nobody but its sender can have sent it.
    if owner == ANOTHER {
        return Reason::Unjudged as u32;
    }
    let socket = way.by == Sender::Inet && (packet.protocol == TCP || icmp || owner == ITSELF_ONCE);
    if way.by == Sender::Kernel || socket {
        return translated(way, packet, owner);
    }
    as_owner(way, packet)
}

/// What the kernel says by itself fits into one packet: pieces are its namespace's root's, who might say anything in the next one.
#[inline(always)]
fn whole(packet: &Packet) -> u32 {
    if packet.flags & PACKET_FRAGMENT == 0 {
        PASSES
    } else {
        Reason::Fragment as u32
    }
}

/// Judges what is not on the way that its socket's hook has seen: its namespace translates. Either end may have begun. `owner`: who has
/// sent on its tuple.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
fn translated(way: &Way, packet: &Packet, owner: u32) -> u32 {
    let local = identity::is_local(&packet.destination);
    // Whoever hears it on this host judges for himself, if he has a socket and is told who sends. On a tuple that nobody has said anything
    // of, he would take it for whoever the address may be, or for whoever once dialled alike.
    if local && has_ports(packet.protocol) && owner != NOBODY {
        return PASSES;
    }
    // Nor could he tell who begins: nobody has said so of this tuple, and what the host leads on to another is told by less than a tuple.
    if local && packet.is_syn() {
        return Reason::Unjudged as u32;
    }
    // Errors open nothing, but act on connections: what one quotes was looked at for another receiver.
    if local && packet.is_icmp_error() {
        return Reason::IcmpError as u32;
    }
    let own = identity::claimed_by_address(&way.policy, speaker(way), &packet.source);
    let to = hearer(way, packet);
    let (denied, begins) = reason(&way.policy, own, to, packet.service);
    // A port that is led to another in this namespace (REDIRECT) is judged as the one that is listened on, as by the hooks.
    let asked = packet.answered().map(|asked| match served(way.skb) {
        port if port != 0 && packet.protocol == TCP => service::port(TCP, port),
        _ => asked,
    });
    let answers = asked.is_some_and(|asked| reason(&way.policy, to, own, asked).1);
    if begins || answers { PASSES } else { denied }
}

/// Who hears a packet, as far as can be told from here.
#[inline(always)]
fn hearer(way: &Way, packet: &Packet) -> Identity {
    let (place, to) = place(&way.policy, &packet.destination, way.namespace, false);
    if place != Place::Shared || packet.protocol != TCP {
        return to;
    }
    // Where segments share the host's addresses, it is known whose socket it is for; of other namespaces' sockets, nothing is.
    if identity::local(&packet.destination).is_none_or(|local| local.flags & LOCAL_HOST == 0) {
        return UNKNOWN;
    }
    let outside = if globals::subtree() != 0 { HOST } else { UNKNOWN };
    match lookup::hearer(way.skb, packet) {
        0 => HOST,
        hearer => identity::of_cgroup(&way.policy, hearer).unwrap_or(outside),
    }
}

const HOST: Identity = Identity::of(segment::HOST);

/// The port of a TCP socket, a half-open one included; else 0.
#[inline(always)]
fn served(skb: Skb) -> u16 {
    if skb.socket().is_some_and(|socket| !socket.is_tcp()) {
        return 0;
    }
    skb.inet_socket().map_or(0, Socket::port)
}

/// Whether a frame accepts a connection, and goes to whoever has begun it.
#[inline(always)]
fn accepts(way: &Way) -> bool {
    let skb = way.skb;
    skb.inet_socket()
        .is_some_and(|socket| socket.state() == state::NEW_SYN_RECV)
        && is_its_sockets(skb, way.namespace)
}

/// Whose the socket on a frame is, but for who claims its address. One of the kernel's own speaks for whoever lives where the frame comes
/// from.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
pub fn speaker(way: &Way) -> Identity {
    // What another sent in, and is sent back turned before anybody received it, bears that one's socket still.
    if way.skb.inet_socket().is_some() && !is_at_home(way.skb, way.namespace) {
        return identity::voice(way.policy.slot, way.namespace);
    }
    let own = identity::of_socket(&way.policy, way.skb, way.skb.cgroup());
    let may_be = own == HOST || way.skb.socket().is_some_and(|socket| socket.is_raw());
    if way.by != Sender::Inet || !may_be || !is_kernels(way.skb) {
        return own;
    }
    let lives = identity::voice(way.policy.slot, way.namespace);
    if lives == HOST && own != HOST {
        UNKNOWN
    } else {
        lives
    }
}

/// Nobody has sent on a tuple.
const NOBODY: u32 = 0;
/// The cgroup in question has, a moment ago.
const ITSELF: u32 = 1;
/// It has, but lately it did not: its right may have ended since.
const ITSELF_ONCE: u32 = 2;
/// Another cgroup has.
const ANOTHER: u32 = 3;

/// Who last sent on a packet's tuple, by the egress hooks.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
fn owner_of_tuple(packet: &Packet, cgroup: u64) -> u32 {
    let mut key = HandoverKey::default();
    fill_key(&mut key, packet, 0, Side::Source);
    match Entry::at(&key) {
        None => NOBODY,
        Some(entry) if entry.cgroup() != cgroup => ANOTHER,
        Some(entry) if within(CONTESTED_NS, entry.sent_ns(), now()) => ITSELF,
        Some(_) => ITSELF_ONCE,
    }
}

/// Whether a socket hook has seen this very packet, or the kernel made it on its own.
#[inline(always)]
fn is_accounted_for(way: &Way, packet: &Packet, owner: u32) -> bool {
    let skb = way.skb;
    if packet.protocol == IGMP {
        return packet.is_group_control() && whole(packet) == PASSES;
    }
    match way.by {
        // The listener's hook has let in whoever began.
        Sender::Kernel => packet.protocol == TCP && (is_bare(skb, packet) || accepts(way)),
        Sender::Inet => {
            // No tunnel wraps a packet in one of these; in everything else the outer packet bears the inner one's
            // socket, and only the tuple tells them apart.
            match packet.protocol {
                // The kernel's own control socket resets what nobody listens for.
                TCP => is_bare(skb, packet),
                _ => owner == ITSELF,
            }
        }
        // A reset or an acknowledgement without data, for a connection that has no socket any more.
        Sender::Nobody => packet.protocol == TCP && is_bare(skb, packet),
        Sender::Device => false,
    }
}

/// Whether a TCP segment carries nothing and opens nothing, and no piece of it is to come.
#[inline(always)]
fn is_bare(skb: Skb, packet: &Packet) -> bool {
    let v6 = skb.is_v6();
    let header = if v6 { 40 } else { 20 };
    let first = Frame { skb }.read::<1>(0);
    let next = Frame { skb }.read::<1>(6);
    let plain = if v6 {
        next == Some([TCP])
    } else {
        first == Some([0x45])
    };
    let Some([offset]) = (Frame { skb }).read::<1>(header + 12) else {
        return false;
    };
    let whole = whole(packet) == PASSES;
    plain && whole && packet.tcp_flags & tcp::SYN == 0 && packet.bytes == header + u32::from(offset >> 4) * 4
}

/// Judges what no socket accounts for as the one segment that lives in the namespace it comes from, or as whoever claims its address where
/// nobody is claimed otherwise. Of a connection either end may have begun; of a datagram only nobody's own processes are believed that.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
fn as_owner(way: &Way, packet: &Packet) -> u32 {
    let own = identity::voice(way.policy.slot, way.namespace);
    let own = identity::claimed_by_address(&way.policy, own, &packet.source);
    if own == UNKNOWN {
        return Reason::Unjudged as u32;
    }
    // Whether it is false was looked at before.
    if !way.inhabited && packet.is_link_control() {
        return PASSES;
    }
    if way.inhabited && packet.flags & PACKET_FRAGMENT != 0 {
        return Reason::Fragment as u32;
    }
    let (_, to) = place(&way.policy, &packet.destination, way.namespace, false);
    let (denied, begins) = reason(&way.policy, own, to, packet.service);
    let answers = (packet.protocol == TCP || !way.inhabited)
        && packet
            .answered()
            .is_some_and(|asked| reason(&way.policy, to, own, asked).1);
    // What passes is counted where a socket of this host receives it, if one does.
    if begins || answers { PASSES } else { denied }
}
