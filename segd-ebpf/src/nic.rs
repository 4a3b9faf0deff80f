//! XDP: drops early what no socket of this host could accept, and answers for the kernel, which has no socket.
//!
//! There is no identity here, only addresses. Whatever could be a reply passes on to the socket that may have
//! asked. Deliberately absent: anything an address alone cannot prove.

use aya_ebpf::programs::XdpContext;
use segd_common::{
    address::LOCAL_HOST,
    bytes::Bytes,
    event::Hook,
    packet::{PACKET_FRAGMENT, Packet, walk},
    reason::Reason,
    segment::{self, SEGMENT_ADMITS, SEGMENT_INITIATES},
    service::{IGMP, UDP},
    tables::{TABLES_AUDIT, Tables},
    workload::Identity,
};

use crate::{
    egress::is_dhcp,
    identity,
    identity::UNKNOWN,
    policy::Policy,
    ruling::{Ruling, count, count_rule, emit, judge},
    skb::LOOPBACK,
};

const ETHERNET: u32 = 14;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const VLAN: [u16; 2] = [0x8100, 0x88a8];

/// The packet behind the link header.
struct Frame {
    ctx: *const XdpContext,
    offset: u32,
}

impl Frame {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: the hook's own context, alive for the whole run.
        unsafe { ((*self.ctx).data(), (*self.ctx).data_end()) }
    }
}

/// The longest header chain that is looked at.
const MAX_OFFSET: u32 = 2048;

impl Bytes for Frame {
    #[inline(always)]
    fn total(&self) -> u32 {
        let (data, end) = self.bounds();
        ((end - data) as u32).wrapping_sub(self.offset)
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let at = self.offset.wrapping_add(offset);
        // VERIFIER: the offset must have a bound before it is added to the packet pointer.
        if at >= MAX_OFFSET {
            return None;
        }
        let (data, end) = self.bounds();
        let start = data + at as usize;
        if start + N > end {
            return None;
        }
        // SAFETY: checked against the end of the packet.
        Some(unsafe { core::ptr::read_unaligned(start as *const [u8; N]) })
    }
}

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
    let mut frame = Frame { ctx, offset: 0 };
    let mut offset = ETHERNET;
    let Some(kind) = frame.read::<2>(12) else {
        return true;
    };
    let mut kind = u16::from_be_bytes(kind);
    for _ in 0..2 {
        if kind == VLAN[0] || kind == VLAN[1] {
            let Some(next) = frame.read::<2>(offset + 2) else {
                return true;
            };
            kind = u16::from_be_bytes(next);
            offset += 4;
        }
    }
    if kind != ETH_P_IP && kind != ETH_P_IPV6 {
        return true;
    }
    frame.offset = offset;
    let mut packet = Packet::default();
    let mut ruling = Ruling {
        hook: Hook::Xdp as u8,
        ..Ruling::default()
    };
    ruling.from = Identity::of(segment::WORLD);
    ruling.to = Identity::of(segment::HOST);
    match walk(&frame, kind == ETH_P_IPV6, &mut packet) {
        Err(reason) => {
            packet.bytes = frame.total();
            ruling.fixed(reason);
        }
        Ok(()) => admit(&policy, &mut ruling, &packet),
    }
    if ruling.reason == 0 || ruling.passes() {
        return true;
    }
    count(&ruling, packet.bytes);
    count_rule(&policy, &ruling);
    emit(&policy, &ruling, &packet);
    false
}

/// Judges what an address alone can answer for; leaves `ruling.reason` 0 where it cannot.
#[inline(never)]
fn admit(policy: &Policy, ruling: &mut Ruling, packet: &Packet) {
    // What keeps the link itself working, and the host's DHCP client, which hears from servers nobody may ask.
    let dhcp = packet.protocol == UDP && is_dhcp(packet.destination_port, packet.source_port);
    if packet.is_link_control() || packet.protocol == IGMP || dhcp {
        return;
    }
    if let Some(source) = identity::local(&packet.source) {
        // This host's own address does not come in by a wire. A namespace's address does, by its veth:
        // then the sender has an identity, and the receiver judges.
        if source.flags & LOCAL_HOST != 0 {
            ruling.fixed(Reason::Spoofed);
        }
        return;
    }
    let from = Identity::of(identity::of_address(policy, &packet.source));
    let Some(to) = receiver(policy, packet) else {
        return;
    };
    let initiates = packet.is_syn() || packet.is_echo();
    if initiates && packet.flags & PACKET_FRAGMENT == 0 && (to.1 || packet.is_echo()) {
        return judge(policy, ruling, from, to.0, packet.service);
    }
    if from.segment == to.0.segment {
        // Claimed by address on both sides: the receiver judges.
        return;
    }
    let flags = policy.segment(from.segment);
    if policy.flags() & TABLES_AUDIT != 0 || flags & SEGMENT_INITIATES != 0 {
        return;
    }
    if initiates || flags & SEGMENT_ADMITS == 0 {
        ruling.from = from;
        ruling.to = to.0;
        ruling.service = packet.service;
        ruling.fixed(Reason::NoRule);
    }
}

/// Who answers at a local address, and whether it is the only one there; `None` for an address that is not local.
#[inline(always)]
fn receiver(policy: &Policy, packet: &Packet) -> Option<(Identity, bool)> {
    let local = identity::local(&packet.destination)?;
    if local.flags & LOCAL_HOST != 0 || local.namespace == 0 {
        return Some((Identity::of(segment::HOST), false));
    }
    let (owner, single) = identity::owner(policy, local.namespace, UNKNOWN);
    if owner.segment == segment::NONE {
        return Some((Identity::of(segment::HOST), false));
    }
    let claimed = identity::claimed_by_address(policy, owner, &packet.destination);
    Some((claimed, single || claimed.segment != owner.segment))
}
