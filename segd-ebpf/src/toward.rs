//! The sender's side: where a packet goes, and what can be said about it before it gets there.
//!
//! A receiver on this host is judged exactly where it can be found; where only it can tell who it is
//! (several segments behind one address, a translated port), the judgement is left to its own hook.

use segd_common::{
    address::{self, Address, LOCAL_HOST},
    packet::Packet,
    segment::{self},
    service::{ICMP, ICMPV6, TCP, UDP},
    workload::Identity,
};

use crate::{
    globals,
    identity::{self, UNKNOWN},
    policy::Policy,
    ruling::{COUNT_HERE, PEER_LOCAL, Ruling, judge, pack, unpack},
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
    if local.namespace == 0 || local.flags & LOCAL_HOST != 0 {
        return (Place::Shared, Identity::of(segment::HOST));
    }
    let (owner, single) = identity::owner(policy, local.namespace, UNKNOWN);
    let claimed = identity::claimed_by_address(policy, owner, to);
    if single || claimed.segment != owner.segment { (Place::Beside, claimed) } else { (Place::Shared, owner) }
}

/// Judges a packet that leaves as an initiation.
#[inline(never)]
pub fn judge_departure(policy: &Policy, ruling: &mut Ruling, packet: &Packet, skb: Skb, own: &Identity) {
    let own = *own;
    let namespace = skb.namespace();
    let service = packet.service;
    let echo = packet.is_echo();
    ruling.from = own;
    ruling.service = service;
    let has_socket = packet.protocol == TCP || packet.protocol == UDP;
    let (place, to) = place(policy, &packet.destination, namespace, leaves_by_loopback(packet, skb));
    match place {
        Place::Here => {
            ruling.flags |= PEER_LOCAL;
            if has_socket {
                let cgroup = identity::receiver(skb, packet);
                if cgroup != 0 {
                    ruling.peer_cgroup = cgroup;
                    let mut to = identity::of_cgroup(policy, cgroup).unwrap_or(UNKNOWN);
                    if to.segment == segment::NONE && to.flags == 0 {
                        // Not in the table: its own hook walks its ancestors.
                        return ruling.defer();
                    }
                    if namespace != globals::host_namespace() {
                        to = identity::claimed_by_address(policy, to, &packet.destination);
                    }
                    judge(policy, ruling, own, to, service);
                    ruling.flags |= crate::ruling::RECEIVER_JUDGES;
                    return;
                }
            } else if packet.protocol != ICMP && packet.protocol != ICMPV6 {
                return ruling.defer();
            }
            let (owner, _) = identity::owner(policy, namespace, own);
            judge(policy, ruling, own, owner, service);
            ruling.flags |= COUNT_HERE;
        }
        Place::Beside => {
            judge(policy, ruling, own, to, service);
            ruling.flags |= PEER_LOCAL;
            if echo {
                ruling.flags |= COUNT_HERE;
            } else {
                ruling.flags |= crate::ruling::RECEIVER_JUDGES;
            }
        }
        Place::Shared => {
            if echo {
                judge(policy, ruling, own, to, service);
                ruling.flags |= PEER_LOCAL | COUNT_HERE;
            } else {
                ruling.defer();
            }
        }
        Place::Network => judge(policy, ruling, own, to, service),
    }
}

/// Whether the packet is on its way to this namespace's own address. A multicast copy loops back too, but goes out
/// as well.
#[inline(always)]
fn leaves_by_loopback(packet: &Packet, skb: Skb) -> bool {
    skb.device() == LOOPBACK && !address::is_multicast(&packet.destination)
}
