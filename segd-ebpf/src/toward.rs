//! The sender's side: where a packet goes, and what can be said about it before it gets there.
//!
//! A receiver on this host is judged exactly where it can be found; where only it can tell who it is
//! (several segments behind one address, a translated port), the judgement is left to its own hook.

use segd_common::{
    address::{self, Address, LOCAL_HOST},
    packet::Packet,
    segment::{self},
    service::{ICMP, ICMPV6, TCP, UDP, has_ports},
    workload::Identity,
};

use crate::{
    globals,
    identity::{self, UNKNOWN},
    lookup,
    policy::Policy,
    ruling::{COUNT_HERE, KERNEL_SERVES, PEER_LOCAL, RECEIVER_JUDGES, Ruling, judge, pack, unpack},
    skb::{LOOPBACK, Skb},
};

/// Where a destination is, seen from a namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    /// On the network, or multicast.
    Network,
    /// In the same namespace.
    Here,
    /// In another namespace of this host, where exactly one segment lives, or nobody claims its processes
    /// and the address itself is claimed.
    Beside,
    /// In another namespace where nobody can tell who receives.
    Shared,
}

/// Finds out where an address is and, unless it is in the same namespace, who answers there.
/// `through_loopback`: the packet is known to stay in its namespace.
#[inline(always)]
pub fn place(policy: &Policy, to: &Address, namespace: u64, through_loopback: bool) -> (Place, Identity) {
    if through_loopback {
        return (Place::Here, UNKNOWN);
    }
    let (high, low) = address::halves(to);
    let packed = segd_place(policy.slot, high, low, namespace);
    let place = match (packed >> 32) as u8 {
        1 => Place::Here,
        2 => Place::Beside,
        3 => Place::Shared,
        _ => Place::Network,
    };
    (place, unpack(packed))
}

// VERIFIER: a global function of scalars, see `segd_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_place(slot: u32, high: u64, low: u64, namespace: u64) -> u64 {
    let Some(policy) = Policy::in_slot(slot) else {
        return pack(UNKNOWN);
    };
    let (place, identity) = find(&policy, &address::of_halves(high, low), namespace);
    (place as u64) << 32 | pack(identity)
}

#[inline(always)]
fn find(policy: &Policy, to: &Address, namespace: u64) -> (Place, Identity) {
    if address::is_multicast(to) {
        return (Place::Network, Identity::of(identity::of_address(policy, to)));
    }
    if address::is_loopback(to) {
        return (Place::Here, UNKNOWN);
    }
    let Some(local) = identity::local(to) else {
        return (Place::Network, Identity::of(identity::of_address(policy, to)));
    };
    if local.namespace == namespace {
        return (Place::Here, UNKNOWN);
    }
    if local.flags & LOCAL_HOST != 0 {
        return (Place::Shared, Identity::of(segment::HOST));
    }
    // Several namespaces say that they have it: where no socket judges, it is nobody's.
    if local.namespace == 0 {
        return (Place::Shared, UNKNOWN);
    }
    let (owner, single) = identity::owner(policy, local.namespace, UNKNOWN);
    if single || owner.segment != segment::HOST {
        return (if single { Place::Beside } else { Place::Shared }, owner);
    }
    // As `claimed_by_address`, for an address that is known to lie in another namespace.
    let claimed = identity::of_address(policy, to);
    if claimed >= segment::FIRST_SEGMENT {
        (Place::Beside, Identity::of(claimed))
    } else {
        (Place::Shared, owner)
    }
}

/// Finds out where a packet goes, and notes it in the ruling.
// VERIFIER: before the judgement and not inside it, for the sake of the stack.
#[inline(never)]
pub fn locate(policy: &Policy, ruling: &mut Ruling, packet: &Packet, skb: Skb) {
    let (place, there) = place(
        policy,
        &packet.destination,
        skb.namespace(),
        leaves_by_loopback(packet, skb),
    );
    ruling.place = place as u8;
    ruling.there = there;
    if may_end_in_the_kernel(packet, skb) {
        ruling.flags |= KERNEL_SERVES;
    }
    if place == Place::Here && has_socket(packet) {
        ruling.receiver = lookup::receiver(skb, packet);
    }
}

#[inline(always)]
fn has_socket(packet: &Packet) -> bool {
    packet.protocol == TCP || packet.protocol == UDP
}

/// Whether the receiving kernel acts on it without a socket whose hook would judge: an echo request, an error. A
/// reply is for the socket that asked.
#[inline(always)]
fn ends_in_the_kernel(packet: &Packet) -> bool {
    (packet.protocol == ICMP || packet.protocol == ICMPV6) && !packet.is_echo_reply()
}

/// Whether it has a protocol that the receiving kernel may serve by itself (a tunnel's endpoint), beside raw sockets,
/// each of which judges. SCTP and UDP-Lite have sockets; whoever writes them by hand does not talk to these.
#[inline(always)]
fn may_end_in_the_kernel(packet: &Packet, skb: Skb) -> bool {
    let icmp = packet.protocol == ICMP || packet.protocol == ICMPV6;
    let raw = skb.socket().is_none_or(|socket| socket.is_raw());
    !icmp && !has_socket(packet) && (raw || !has_ports(packet.protocol))
}

/// Judges a packet that leaves as an initiation, after [`locate`].
#[inline(always)]
pub fn judge_departure(policy: &Policy, ruling: &mut Ruling, packet: &Packet, skb: Skb, own: &Identity) {
    let own = *own;
    let service = packet.service;
    ruling.from = own;
    ruling.service = service;
    let there = ruling.there;
    let place = ruling.place;
    if place == Place::Network as u8 {
        return judge(policy, ruling, own, there, service);
    }
    ruling.flags |= PEER_LOCAL;
    if place != Place::Here as u8 {
        if ends_in_the_kernel(packet) {
            ruling.flags |= COUNT_HERE;
        } else if ruling.flags & KERNEL_SERVES != 0 {
            ruling.flags |= RECEIVER_JUDGES;
        } else if place == Place::Shared as u8 {
            return ruling.defer();
        } else {
            ruling.flags |= RECEIVER_JUDGES;
        }
        return judge(policy, ruling, own, there, service);
    }
    if ruling.receiver != 0 {
        ruling.peer_cgroup = ruling.receiver;
        ruling.flags |= RECEIVER_JUDGES;
        let to = match identity::of_cgroup(policy, ruling.receiver) {
            Some(to) => to,
            // Outside the subtree that is enforced: no segment claims it, and no hook judges for it.
            None if globals::subtree() != 0 => Identity::of(segment::HOST),
            // Not in the table: its own hook walks its ancestors.
            None => return ruling.defer(),
        };
        let to = identity::claimed_by_address(policy, to, &packet.destination);
        return judge(policy, ruling, own, to, service);
    }
    if ruling.flags & KERNEL_SERVES != 0 {
        ruling.flags |= RECEIVER_JUDGES;
    } else if packet.protocol == ICMP || packet.protocol == ICMPV6 || has_socket(packet) {
        ruling.flags |= COUNT_HERE;
    } else {
        return ruling.defer();
    }
    let (owner, _) = identity::owner(policy, skb.namespace(), own);
    judge(policy, ruling, own, owner, service);
}

/// Whether the packet is on its way to this namespace's own address. A multicast copy loops back too, but goes out
/// as well.
#[inline(always)]
fn leaves_by_loopback(packet: &Packet, skb: Skb) -> bool {
    skb.device() == LOOPBACK && !address::is_multicast(&packet.destination)
}
