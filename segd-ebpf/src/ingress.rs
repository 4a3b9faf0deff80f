//! cgroup_skb ingress: what a socket of this host is about to receive.

use segd_common::{
    address,
    event::Hook,
    flow::{FLOW_LOCAL_ASKED, FLOW_PEER_ASKED, Flow},
    packet::Packet,
    reason::Reason,
    segment,
    service::{self, ICMP, ICMPV6, TCP, UDP, has_ports},
    workload::Identity,
};

use crate::{
    adopt::adopt,
    egress::{is_dhcp, no_policy},
    errors, exchange, globals,
    handover::Side,
    identity, kept,
    policy::Policy,
    ruling::{COPY, KEEP, REVERSED, Ruling, judge, settle, tell},
    settled,
    skb::{LOOPBACK, Skb, parse},
    tcp as stream,
};

/// Rules on one packet that arrives: whether the socket gets it.
#[inline(always)]
pub fn ingress(skb: Skb) -> bool {
    let policy = Policy::active();
    // As at egress.
    if let Some(policy) = &policy
        && let Some(socket) = skb.socket()
        && settled::may_go_on(policy, skb, socket, Hook::Ingress)
    {
        return true;
    }
    let mut ruling = Ruling {
        hook: Hook::Ingress as u8,
        ..Ruling::default()
    };
    let mut packet = Packet::default();
    let Some(policy) = policy else {
        return no_policy(&mut ruling, skb);
    };
    ruling.cgroup = skb.cgroup();
    ruling.places = kept::places();
    let unparsed = parse(skb, &mut packet);
    if unparsed == 0 && kept::may_enter(&policy, &ruling, &packet, skb) {
        return true;
    }
    let mut own = identity::of_socket(&policy, skb, ruling.cgroup);
    ruling.from = Identity::of(segment::WORLD);
    ruling.to = own;
    if unparsed != 0 {
        ruling.unparsed(unparsed);
    } else if address::is_loopback(&packet.source) && skb.device() != LOOPBACK {
        // Under `route_localnet` the kernel takes it (CVE-2020-8558); its tuple may be a live one of this namespace.
        ruling.fixed(Reason::Spoofed);
    } else if packet.is_link_control() {
        ruling.fixed(Reason::Control);
    } else {
        if skb.namespace() != globals::host_namespace() {
            own = identity::claimed_by_address(&policy, own, &packet.destination);
            ruling.to = own;
        }
        if is_dhcp_answer(&packet, own) && is_strangers(&policy, &packet, skb) {
            ruling.fixed(Reason::Control);
        } else if packet.is_icmp_error() && own.segment != segment::HOST {
            // A copy for a raw socket: a workload hears of what became of its own packets.
            ruling.flags |= COPY;
            ruling.fixed(if errors::quoted_sender(skb, &packet) == ruling.cgroup {
                Reason::Reply
            } else {
                Reason::IcmpError
            });
        } else {
            arrive(&policy, &mut ruling, &packet, skb, &own);
            kept::keep(&policy, &ruling, &packet, skb);
        }
    }
    settle(&policy, &ruling, &packet);
    tell(skb, &ruling);
    ruling.passes()
}

#[inline(always)]
fn is_dhcp_answer(packet: &Packet, own: Identity) -> bool {
    packet.protocol == UDP
        && own.segment == segment::HOST
        && own.flags == 0
        && is_dhcp(packet.destination_port, packet.source_port)
}

/// Whether no workload of this host sends it, as far as can be told.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
fn is_strangers(policy: &Policy, packet: &Packet, skb: Skb) -> bool {
    let mut cgroup = 0;
    let from = identity::of_sender(policy, packet, skb, Side::Source, &mut cgroup);
    cgroup == 0 || from == Identity::of(segment::HOST)
}

#[inline(always)]
fn arrive(policy: &Policy, ruling: &mut Ruling, packet: &Packet, skb: Skb, own: &Identity) {
    if packet.protocol == TCP && skb.socket().is_some_and(|socket| socket.is_tcp()) {
        adopt(skb, packet, true);
        stream::arrives(policy, ruling, packet, skb, own);
    } else {
        // VERIFIER: before the judgement and not inside it, for the sake of the stack.
        ruling.from = identity::of_sender(policy, packet, skb, Side::Source, &mut ruling.peer_cgroup);
        datagram_arrives(policy, ruling, packet, skb, own);
    }
}

/// Rules on a datagram whose sender stands in the ruling.
#[inline(never)]
fn datagram_arrives(policy: &Policy, ruling: &mut Ruling, packet: &Packet, skb: Skb, own: &Identity) {
    let Some(socket) = skb.socket() else {
        // Nobody to judge for.
        return ruling.fixed(Reason::Unknown);
    };
    // A raw socket for a protocol that has receivers of its own gets a copy; the packet itself is judged there.
    if socket.is_raw() && (has_ports(packet.protocol) || packet.protocol == ICMP || packet.protocol == ICMPV6)
    {
        ruling.flags |= COPY;
    }
    let peer = ruling.from;
    let shows = ruling.peer_cgroup != 0;
    if ruling.peer_cgroup == identity::ONE_OF_SEVERAL {
        ruling.peer_cgroup = 0;
    }
    let key = exchange::key_of(packet, skb, true);
    let mut flow = Flow::default();
    let found = exchange::find(socket.storage(), &key, &mut flow);
    let known = (found != exchange::NOWHERE).then_some(&flow);
    if found == exchange::ON_SOCKET {
        ruling.after = KEEP;
    }
    // A kernel's echo reply was judged where it was asked for; a workload that sends one by hand asks for something itself.
    let by_kernel = packet.is_echo_reply() && !shows;
    if by_kernel {
        // No rule is about an answer. Who did not ask gets it in audit mode alone.
        judge(policy, ruling, peer, *own, service::NONE);
        ruling.service = packet.service;
    } else {
        judge(policy, ruling, peer, *own, packet.service);
    }
    if !ruling.allowed()
        && (by_kernel || !packet.is_echo_reply())
        && let Some(flow) = known
    {
        answered(policy, ruling, packet, shows, flow, own, &peer);
    }
    let asks = (ruling.allowed() && has_ports(packet.protocol)).then_some(FLOW_PEER_ASKED);
    exchange::note(policy, ruling, socket.storage(), &key, known, asks);
}

/// A datagram to a socket that asked this peer: judged as what was asked. `shows`: its sender, or one of several, is of this host.
#[inline(always)]
fn answered(
    policy: &Policy,
    ruling: &mut Ruling,
    packet: &Packet,
    shows: bool,
    flow: &Flow,
    own: &Identity,
    peer: &Identity,
) {
    if flow.asked & FLOW_LOCAL_ASKED == 0 {
        return;
    }
    let service = match packet.protocol {
        ICMP => service::icmp(ICMP, segd_common::packet::icmp::ECHO, 0),
        ICMPV6 => service::icmp(ICMPV6, segd_common::packet::icmp::ECHO6, 0),
        protocol if has_ports(protocol) => packet.reverse_service(),
        _ => return,
    };
    // Who answers an echo is the kernel of whoever was asked. Who answers a datagram is its sender, if it showed
    // itself. One behind a translated address did not: it was judged where it received, and is where it answers.
    // But a receiver that was seen when it was asked must show itself, and who `shows` that he is of this host must be known.
    let to = if packet.is_echo_reply() {
        flow.peer
    } else if peer.segment != segment::NONE {
        *peer
    } else if flow.peer_cgroup == 0 && !shows {
        flow.peer
    } else {
        return;
    };
    let first = *ruling;
    if to.segment == segment::NONE {
        ruling.fixed(Reason::Reply);
        ruling.from = *own;
        ruling.flags |= REVERSED;
        ruling.flags &= !COPY;
        return;
    }
    judge(policy, ruling, *own, to, service);
    if ruling.allowed() {
        ruling.reason = Reason::Reply as u8;
        ruling.flags |= REVERSED;
        ruling.flags &= !COPY;
    } else if !ruling.passes() {
        *ruling = first;
    }
}
