//! Datagrams into the host's tunnels: VXLAN, GENEVE, FOU and the like take one before any hook of their socket is asked, and
//! what is in it comes out of the tunnel's device as another machine's.

use segd_common::{
    address::{self, LOCAL_HOST},
    packet::Packet,
    segment,
    service::UDP,
    workload::Identity,
};

use crate::{
    identity,
    link::{Sender, Way},
    link_out::{BROADCAST, PASSES},
    link_sent::speaker,
    lookup,
    ruling::reason,
};

/// Judges a datagram that a tunnel's socket of the host will take.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
pub fn into_tunnel(way: &Way, packet: &Packet) -> u32 {
    if packet.protocol != UDP || !packet.has_upper_layer() {
        return PASSES;
    }
    let to = &packet.destination;
    let local = identity::local(to);
    if local.is_some_and(|local| local.flags & LOCAL_HOST == 0) {
        return PASSES;
    }
    let mut kernels = false;
    let tunnel = lookup::tunnel(way.skb, packet, &mut kernels);
    if tunnel == 0 {
        return PASSES;
    }
    // To nobody's address of this host: to all of a network, which the host is in, or on to another machine.
    let all = address::is_multicast(to) || *to == BROADCAST;
    if local.is_none() && !all && !lookup::ends_here(way.skb, packet) {
        return PASSES;
    }
    let own = if way.by == Sender::Nobody {
        // Sent by the namespace itself, or by one behind it.
        let from = identity::local(&packet.source).map_or(way.namespace, |local| local.namespace);
        identity::voice(way.policy.slot, from)
    } else {
        speaker(way)
    };
    let own = identity::claimed_by_address(&way.policy, own, &packet.source);
    let to = identity::of_cgroup(&way.policy, tunnel).unwrap_or(Identity::of(segment::HOST));
    let (denied, begins) = reason(&way.policy, own, to, packet.service);
    // A process that has a tunnel on its socket (IKE's) asks, too, and is answered there.
    let answers = !kernels && reason(&way.policy, to, own, packet.reverse_service()).1;
    if begins || answers { PASSES } else { denied }
}
