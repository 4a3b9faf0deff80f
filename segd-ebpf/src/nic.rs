//! XDP: drops early what no socket of this host could accept, and answers for the kernel, which has no socket.
//!
//! There is no identity here, only addresses. Whatever could be a reply passes on to the socket that may have
//! asked. Later fragments follow the first, an ICMP error must be about a packet that left this host.
//! Deliberately absent: anything an address alone cannot prove.

use aya_ebpf::programs::XdpContext;
use segd_common::{
    address::{self, LOCAL_HOST, Local},
    event::Hook,
    fragment::FRAGMENT_TTL_NS,
    packet::{PACKET_FRAGMENT, Packet},
    reason::Reason,
    segment::{self, SEGMENT_ADMITS, SEGMENT_GUARDED, SEGMENT_INITIATES},
    service::{TCP, UDP},
    tables::{TABLES_AUDIT, Tables},
    workload::Identity,
};

use crate::{
    count::{count, count_rule},
    egress::is_dhcp,
    errors, fragments,
    frame::{self, Frame},
    handover::Side,
    identity::{self, UNKNOWN},
    link_found,
    lookup::{self, Holder},
    policy::Policy,
    ruling::{Ruling, emit, judge},
    skb::LOOPBACK,
};

/// Whether the frame may go on.
#[inline(always)]
pub fn may_enter(ctx: &XdpContext) -> bool {
    let Some(policy) = Policy::active() else {
        // The socket hooks deny; here ARP and the like must live.
        return true;
    };
    // What loops back never left: both of its ends have sockets.
    if ctx.ingress_ifindex() == LOOPBACK as usize {
        return true;
    }
    let found = frame::dissect(ctx);
    if found == frame::OTHER {
        return true;
    }
    let Some(scratch) = frame::scratch() else {
        return false;
    };
    let mut ruling = Ruling {
        hook: Hook::Xdp as u8,
        ..Ruling::default()
    };
    ruling.from = Identity::of(segment::WORLD);
    ruling.to = Identity::of(segment::HOST);
    let packet = &scratch.packet;
    if found == frame::PACKET {
        admit(&policy, &mut ruling, packet, ctx);
    } else {
        ruling.unparsed(found);
    }
    if ruling.reason == 0 || ruling.passes() {
        return true;
    }
    count(&ruling, packet.bytes);
    count_rule(&policy, &ruling);
    emit(&policy, &ruling, packet);
    false
}

/// Judges what an address alone can answer for; leaves `ruling.reason` 0 where it cannot.
#[inline(never)]
fn admit(policy: &Policy, ruling: &mut Ruling, packet: &Packet, ctx: &XdpContext) {
    // What keeps the link itself working, and the host's DHCP client, which hears from servers nobody may ask.
    let dhcp = packet.protocol == UDP && is_dhcp(packet.destination_port, packet.source_port);
    if packet.is_link_control() || packet.is_group_control() {
        return;
    }
    if dhcp {
        if link_found::comes_borrowed(packet) {
            ruling.fixed(Reason::Spoofed);
        }
        return;
    }
    // Loopback has no wire, whatever `route_localnet` says (CVE-2020-8558).
    if address::is_loopback(&packet.source) || address::is_loopback(&packet.destination) {
        return ruling.fixed(Reason::Spoofed);
    }
    let source = identity::local(&packet.source);
    // This host's own address does not come in by a wire. A namespace's address does, by its veth.
    if source.is_some_and(|source| source.flags & LOCAL_HOST != 0) {
        return ruling.fixed(Reason::Spoofed);
    }
    let Some(local) = identity::local(&packet.destination) else {
        // It may be led to one of this host, or be several's.
        if source.is_none() && link_found::is_borrowed(packet, Side::Source) {
            ruling.fixed(Reason::Spoofed);
        }
        return;
    };
    let to = receiver(policy, packet, local);
    let from = Identity::of(identity::of_address(policy, &packet.source));
    ruling.from = from;
    ruling.to = to.0;
    ruling.service = packet.service;
    let Some(scratch) = frame::scratch() else {
        return ruling.fixed(Reason::NoState);
    };
    let frame = &Frame::at(ctx.ctx, scratch.offset);
    if !packet.has_upper_layer() {
        if let Some(reason) = fragments::refuses(frame, packet, 0, FRAGMENT_TTL_NS) {
            ruling.fixed(reason);
        }
        return;
    }
    if packet.is_icmp_error() {
        if !scratch.quotes || !errors::may_enter(frame, packet, &scratch.inner) {
            ruling.fixed(Reason::IcmpError);
        }
        return;
    }
    if source.is_none() {
        judge_address(policy, ruling, packet, frame, to, local.flags & LOCAL_HOST != 0);
        if (ruling.reason == 0 || ruling.passes()) && link_found::is_borrowed(packet, Side::Source) {
            return ruling.fixed(Reason::Spoofed);
        }
    }
    if packet.flags & PACKET_FRAGMENT != 0 && (ruling.reason == 0 || ruling.passes()) {
        fragments::first(frame, packet, 0);
    }
}

/// Judges a packet from another machine. What has the address of a namespace of this host has a sender with an
/// identity, and the receiver judges.
#[inline(always)]
fn judge_address(
    policy: &Policy,
    ruling: &mut Ruling,
    packet: &Packet,
    frame: &Frame,
    (to, single): (Identity, bool),
    own: bool,
) {
    let from = ruling.from;
    let initiates = packet.is_syn() || packet.is_icmp_request();
    let alone = initiates && (single || packet.is_icmp_request());
    if alone {
        return judge(policy, ruling, from, to, packet.service);
    }
    // Whom nothing lets begin, nor anybody answer, no socket of this host hears. That is known without looking for one.
    let flags = policy.segment(from.segment).flags;
    let audited = policy.flags() & TABLES_AUDIT != 0;
    let may_begin = audited || flags & SEGMENT_INITIATES != 0;
    if from.segment != to.segment && !may_begin && (initiates || flags & SEGMENT_ADMITS == 0) {
        if flags & SEGMENT_GUARDED != 0 {
            return judge(policy, ruling, from, to, packet.service);
        }
        return ruling.fixed(Reason::NoRule);
    }
    // What is claimed by address on both sides, and all else, the receiver judges.
    if own && is_refused_by_the_kernel(packet, frame) {
        judge(policy, ruling, from, to, packet.service);
    }
}

/// Whether no socket will see the packet and the kernel answers for the closed port, which tells it from an open one.
#[inline(always)]
fn is_refused_by_the_kernel(packet: &Packet, frame: &Frame) -> bool {
    if packet.protocol != TCP && packet.protocol != UDP {
        return false;
    }
    lookup::holder(frame, packet) == Holder::Nobody && !lookup::forwards(frame, packet)
}

/// Who answers at a local address, and whether it is the only one there.
#[inline(always)]
fn receiver(policy: &Policy, packet: &Packet, local: Local) -> (Identity, bool) {
    if local.flags & LOCAL_HOST != 0 {
        return (Identity::of(segment::HOST), false);
    }
    if local.namespace == 0 {
        return (UNKNOWN, false);
    }
    let (owner, single) = identity::owner(policy, local.namespace, UNKNOWN);
    if owner.segment == segment::NONE {
        return (Identity::of(segment::HOST), false);
    }
    let claimed = identity::claimed_by_address(policy, owner, &packet.destination);
    (claimed, single || claimed.segment != owner.segment)
}
