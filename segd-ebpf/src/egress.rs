//! cgroup_skb egress: what a socket of this host sends.

use segd_common::event::Hook;
use segd_common::{
    flow::{FLOW_LOCAL_ASKED, FLOW_PEER_ASKED, Flow, FlowKey},
    packet::{Packet, icmp, tcp},
    reason::Reason,
    segment,
    service::{ICMP, ICMPV6, IGMP, TCP, UDP, has_ports},
    workload::Identity,
};

use crate::{
    globals,
    handover::publish,
    identity,
    maps::FLOWS,
    policy::Policy,
    ruling::{NEW_FLOW, PEER_LOCAL, REVERSED, Ruling, judge, settle, tell},
    skb::{Skb, parse},
    tcp as stream,
    toward::{Place, judge_departure, locate},
};

/// Rules on one packet that leaves: whether it passes.
#[inline(always)]
pub fn egress(skb: Skb) -> bool {
    let mut ruling = Ruling {
        hook: Hook::Egress as u8,
        ..Ruling::default()
    };
    let mut packet = Packet::default();
    let Some(policy) = Policy::active() else {
        return no_policy(&mut ruling, skb);
    };
    let socket = skb.socket();
    if let Some(socket) = socket
        && let Some(passes) = stream::known(&policy, skb, socket, Hook::Egress)
    {
        return passes;
    }
    ruling.cgroup = skb.cgroup();
    let mut own = identity::of_socket(&policy, skb, ruling.cgroup);
    ruling.from = own;
    ruling.to = Identity::of(segment::WORLD);
    let unparsed = parse(skb, &mut packet);
    if unparsed != 0 {
        ruling.unparsed(unparsed);
    } else {
        // What the kernel itself sends bears the root cgroup, whoever claims the address it sends from.
        let kernel = own;
        if skb.namespace() != globals::host_namespace() {
            own = identity::claimed_by_address(&policy, own, &packet.source);
            ruling.from = own;
        }
        let raw = socket.is_none_or(|socket| socket.is_raw());
        if is_control(&packet, kernel, raw) {
            ruling.fixed(Reason::Control);
        } else {
            locate(&policy, &mut ruling, &packet, skb);
            depart(&policy, &mut ruling, &packet, skb, &own);
            if ruling.publish != 0 && ruling.passes() {
                publish(&mut ruling, skb, &own);
            }
        }
    }
    settle(&policy, &ruling, &packet);
    tell(skb, &ruling);
    ruling.passes()
}

/// Without a policy nothing passes. It cannot happen while the daemon keeps its promises: the hooks are
/// attached after the first policy is complete.
#[inline(always)]
pub fn no_policy(ruling: &mut Ruling, skb: Skb) -> bool {
    ruling.fixed(Reason::NoPolicy);
    crate::ruling::count(ruling, skb.bytes());
    tell(skb, ruling);
    false
}

/// What the kernel itself sends, by an enumerated list, and the host's DHCP client.
#[inline(always)]
fn is_control(packet: &Packet, own: Identity, raw: bool) -> bool {
    let host = own.segment == segment::HOST && own.flags == 0;
    match packet.protocol {
        // The kernel's neighbour discovery sockets bear the cgroup of whoever made the namespace.
        ICMPV6 if packet.is_link_control() => {
            host || (packet.kind != icmp::ROUTER_ADVERTISEMENT && packet.kind != icmp::REDIRECT)
        }
        ICMP | ICMPV6 => host && raw && (packet.is_icmp_error() || packet.is_echo_reply()),
        IGMP => packet.hop_limit == 1,
        TCP => host && raw && packet.tcp_flags & tcp::RST != 0,
        UDP => host && is_dhcp(packet.source_port, packet.destination_port),
        _ => false,
    }
}

/// RFC 2131, RFC 8415: a client's ports.
#[inline(always)]
pub fn is_dhcp(local: u16, peer: u16) -> bool {
    matches!((local, peer), (68, 67) | (546, 547))
}

#[inline(always)]
fn depart(policy: &Policy, ruling: &mut Ruling, packet: &Packet, skb: Skb, own: &Identity) {
    if packet.protocol == TCP && skb.socket().is_some_and(|socket| socket.is_tcp()) {
        stream::departs(policy, ruling, packet, skb, own);
    } else {
        datagram_departs(policy, ruling, packet, skb, own);
    }
}

#[inline(never)]
fn datagram_departs(policy: &Policy, ruling: &mut Ruling, packet: &Packet, skb: Skb, own: &Identity) {
    let key = flow_key(packet, skb, false);
    let known = FLOWS.get_ptr_mut(key);
    judge_departure(policy, ruling, packet, skb, own);
    if !ruling.allowed()
        && let Some(flow) = known
    {
        // SAFETY: an element of the map.
        answer(policy, ruling, packet, unsafe { &*flow }, own);
    }
    ruling.publish = 1;
    if ruling.passes() {
        remember(known, &key, policy, ruling, FLOW_LOCAL_ASKED);
    }
}

/// A datagram back to a peer that asked: judged as what was asked.
#[inline(always)]
fn answer(policy: &Policy, ruling: &mut Ruling, packet: &Packet, flow: &Flow, own: &Identity) {
    if flow.asked & FLOW_PEER_ASKED == 0 || !has_ports(packet.protocol) {
        return;
    }
    let first = *ruling;
    let peer = match flow.peer_cgroup {
        // An address on the network is looked up again: its segment may have changed.
        0 if ruling.place == Place::Network as u32 => ruling.there,
        0 => flow.peer,
        cgroup => {
            let peer = identity::of_cgroup(policy, cgroup).unwrap_or(flow.peer);
            identity::claimed_by_address(policy, peer, &packet.destination)
        }
    };
    judge(policy, ruling, peer, *own, packet.reverse_service());
    if ruling.allowed() {
        ruling.reason = Reason::Reply as u8;
        ruling.flags |= REVERSED;
        ruling.flags &= !crate::ruling::COUNT_HERE;
        if flow.peer_cgroup != 0 {
            ruling.flags |= crate::ruling::RECEIVER_JUDGES | PEER_LOCAL;
        }
    } else if !ruling.passes() {
        *ruling = first;
    }
}

/// The exchange this packet belongs to, as its local socket knows it.
#[inline(always)]
pub fn flow_key(packet: &Packet, skb: Skb, arrives: bool) -> FlowKey {
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

/// Notes that one side asked, so that the other may answer.
#[inline(always)]
pub fn remember(known: Option<*mut Flow>, key: &FlowKey, policy: &Policy, ruling: &mut Ruling, asked: u32) {
    let peer = if asked == FLOW_LOCAL_ASKED {
        ruling.to
    } else {
        ruling.from
    };
    if let Some(flow) = known {
        // SAFETY: an element of the map; a torn write is judged again under the same revision.
        unsafe {
            if (*flow).revision == policy.revision
                && (*flow).asked & asked != 0
                && (*flow).peer_cgroup == ruling.peer_cgroup
            {
                return;
            }
        }
    } else {
        ruling.flags |= NEW_FLOW;
    }
    if ruling.reason == Reason::Reply as u8 {
        return;
    }
    // SAFETY: copied out.
    let before = known.map_or(0, |flow| unsafe { (*flow).asked });
    let flow = Flow {
        peer_cgroup: ruling.peer_cgroup,
        peer,
        revision: policy.revision,
        service: ruling.service,
        asked: before | asked,
    };
    // A full table evicts the oldest: its next packet is judged anew.
    let _ = FLOWS.insert(key, flow, 0);
}
