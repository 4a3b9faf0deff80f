//! The sender's side: where a packet goes, and what can be said about it before it gets there.
//!
//! A receiver on this host is judged exactly where it can be found; where only it can tell who it is
//! (several segments behind one address, a translated port), the judgement is left to its own hook.

use segd_common::{
    address::{self, LOCAL_HOST},
    packet::Packet,
    segment::{self},
    service::{ICMP, ICMPV6, TCP, UDP},
    workload::Identity,
};

use crate::{
    globals,
    identity::{self, UNKNOWN},
    policy::Policy,
    ruling::{COUNT_HERE, PEER_LOCAL, Ruling, judge},
    skb::{LOOPBACK, Skb},
};

/// Where a destination is, seen from a namespace.
pub enum Place {
    /// In the same namespace.
    Here,
    /// In another namespace of this host, where exactly one segment lives, or nobody claims its processes
    /// and the address itself is claimed.
    Beside(Identity),
    /// In another namespace where nobody can tell who receives.
    Shared(Identity),
    /// On the network, or multicast.
    Network(Identity),
}

/// Finds out where an address is. `through_loopback`: the packet is known to stay in its namespace.
#[inline(always)]
pub fn place(
    policy: &Policy,
    to: &address::Address,
    namespace: u64,
    own: Identity,
    through_loopback: bool,
) -> Place {
    if address::is_multicast(to) {
        return Place::Network(Identity::of(identity::of_address(policy, to)));
    }
    if through_loopback || address::is_loopback(to) {
        return Place::Here;
    }
    let Some(local) = identity::local(to) else {
        return Place::Network(Identity::of(identity::of_address(policy, to)));
    };
    if local.namespace == namespace {
        return Place::Here;
    }
    if local.namespace == 0 || local.flags & LOCAL_HOST != 0 {
        return Place::Shared(Identity::of(segment::HOST));
    }
    let (owner, single) = identity::owner(policy, local.namespace, UNKNOWN);
    if single {
        return Place::Beside(owner);
    }
    let claimed = identity::claimed_by_address(policy, owner, to);
    if claimed.segment != owner.segment { Place::Beside(claimed) } else { Place::Shared(owner) }
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
    match place(policy, &packet.destination, namespace, own, skb.device() == LOOPBACK) {
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
        Place::Beside(to) => {
            judge(policy, ruling, own, to, service);
            ruling.flags |= PEER_LOCAL;
            if echo {
                ruling.flags |= COUNT_HERE;
            } else {
                ruling.flags |= crate::ruling::RECEIVER_JUDGES;
            }
        }
        Place::Shared(owner) => {
            if echo {
                judge(policy, ruling, own, owner, service);
                ruling.flags |= PEER_LOCAL | COUNT_HERE;
            } else {
                ruling.defer();
            }
        }
        Place::Network(to) => judge(policy, ruling, own, to, service),
    }
}
