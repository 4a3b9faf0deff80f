//! The packet walk: from the IP header to what the packet asks for.
//!
//! INVARIANT: what the walk calls the destination port is what the kernel will call it. IPv4 options are
//! honoured, IPv6 extension headers are walked, and whatever does not parse is an error with a reason.
//! Sources: RFC 791, RFC 8200, RFC 4302, RFC 7045.

use crate::{
    address::{Address, mapped},
    bytes::Bytes,
    reason::Reason,
    service::{self, ICMP, ICMPV6, Service, TCP, has_ports},
};

/// How many IPv6 extension headers may stand before the upper layer.
pub const MAX_EXTENSION_HEADERS: u32 = 8;

/// TCP's flag bits.
pub mod tcp {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;
}

/// ICMP types that the datapath treats by name (RFC 792, RFC 4443, RFC 4861, RFC 3810).
pub mod icmp {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Echo request.
    pub const ECHO: u8 = 8;
    /// ICMPv6 echo request.
    pub const ECHO6: u8 = 128;
    /// ICMPv6 echo reply.
    pub const ECHO_REPLY6: u8 = 129;
    /// ICMPv6 MLD query, report, done (130 to 132).
    pub const MLD_FIRST: u8 = 130;
    /// Last of the first MLD types.
    pub const MLD_LAST: u8 = 132;
    /// ICMPv6 router solicitation, the first neighbour discovery type.
    pub const ND_FIRST: u8 = 133;
    /// ICMPv6 redirect, the last neighbour discovery type.
    pub const ND_LAST: u8 = 137;
    /// ICMPv6 router advertisement.
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// ICMPv6 redirect.
    pub const REDIRECT: u8 = 137;
    /// ICMPv6 MLDv2 report.
    pub const MLD2_REPORT: u8 = 143;
}

/// The packet is IPv6.
pub const PACKET_V6: u8 = 1 << 0;
/// The packet is a fragment that is not the whole datagram.
pub const PACKET_FRAGMENT: u8 = 1 << 1;
/// The packet is a fragment without the upper-layer header.
pub const PACKET_LATER_FRAGMENT: u8 = 1 << 2;

/// What the walk found. Ports are in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Packet {
    /// The source address, IPv4 as v4-mapped.
    pub source: Address,
    /// The destination address.
    pub destination: Address,
    /// Length in bytes from the IP header on, as the carrier knows it.
    pub bytes: u32,
    /// What it asks for, taking it as an initiation.
    pub service: Service,
    /// The source port; the identifier of an ICMP echo; else 0.
    pub source_port: u16,
    /// The destination port; the identifier of an ICMP echo; else 0.
    pub destination_port: u16,
    /// The upper-layer protocol.
    pub protocol: u8,
    /// The ICMP type, or 0.
    pub kind: u8,
    /// The TCP flags, or 0.
    pub tcp_flags: u8,
    /// `PACKET_` flags.
    pub flags: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Explicit padding, zero.
    pub reserved: u8,
    /// Where the upper layer begins, from the IP header on; 0 in a later fragment.
    pub upper: u16,
}

const _: () = assert!(size_of::<Packet>() == 52);

impl Packet {
    /// The service seen from the other side: what a reply with these ports answers.
    #[must_use]
    #[inline(always)]
    pub fn reverse_service(&self) -> Service {
        if has_ports(self.protocol) {
            service::port(self.protocol, self.source_port)
        } else {
            self.service
        }
    }

    /// Whether it opens a TCP connection.
    #[must_use]
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        self.protocol == TCP && self.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN
    }

    /// Whether it is an ICMP or ICMPv6 echo request.
    #[must_use]
    #[inline(always)]
    pub fn is_echo(&self) -> bool {
        (self.protocol == ICMP && self.kind == icmp::ECHO)
            || (self.protocol == ICMPV6 && self.kind == icmp::ECHO6)
    }

    /// Whether it is an ICMP or ICMPv6 echo reply.
    #[must_use]
    #[inline(always)]
    pub fn is_echo_reply(&self) -> bool {
        (self.protocol == ICMP && self.kind == icmp::ECHO_REPLY)
            || (self.protocol == ICMPV6 && self.kind == icmp::ECHO_REPLY6)
    }

    /// Whether it is an ICMP or ICMPv6 error message.
    #[must_use]
    #[inline(always)]
    pub fn is_icmp_error(&self) -> bool {
        (self.protocol == ICMP && matches!(self.kind, 3 | 4 | 5 | 11 | 12))
            || (self.protocol == ICMPV6 && self.kind < 128)
    }

    /// Whether it is neighbour discovery or multicast listener discovery that never left its link
    /// (RFC 4861 7.1, RFC 3810 5: hop limit 255 and 1; neither is forwarded).
    #[must_use]
    #[inline(always)]
    pub fn is_link_control(&self) -> bool {
        if self.protocol != ICMPV6 {
            return false;
        }
        match self.kind {
            icmp::ND_FIRST..=icmp::ND_LAST => self.hop_limit == 255,
            icmp::MLD_FIRST..=icmp::MLD_LAST | icmp::MLD2_REPORT => self.hop_limit == 1,
            _ => false,
        }
    }
}

/// Walks an IPv4 or IPv6 packet, told apart by its carrier and by its first four bits, which must agree.
///
/// # Errors
///
/// [`Reason::Malformed`], [`Reason::ExtensionHeader`], [`Reason::RoutingHeader`].
#[inline(always)]
pub fn walk<B: Bytes>(bytes: &B, v6: bool, packet: &mut Packet) -> Result<(), Reason> {
    let upper = if v6 {
        walk_v6(bytes, packet)?
    } else {
        walk_v4(bytes, packet)?
    };
    upper_layer(bytes, upper, packet)
}

/// Returns the offset of the upper layer.
#[inline(always)]
fn walk_v4<B: Bytes>(bytes: &B, packet: &mut Packet) -> Result<u32, Reason> {
    let header: [u8; 20] = bytes.read(0).ok_or(Reason::Malformed)?;
    let ihl = u32::from(header[0] & 0x0f) * 4;
    let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
    // A GSO packet of more than 64 KiB says 0 (kernel: "BIG TCP", include/linux/ip.h iph_totlen).
    let big = total == 0 && bytes.total() > 0xffff;
    if header[0] >> 4 != 4 || ihl < 20 || !big && (total < ihl || total > bytes.total()) {
        return Err(Reason::Malformed);
    }
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    packet.flags = fragment_flags(fragment & 0x2000 != 0, fragment & 0x1fff != 0);
    packet.bytes = if big { bytes.total() } else { total };
    packet.hop_limit = header[8];
    packet.protocol = header[9];
    packet.source = mapped([header[12], header[13], header[14], header[15]]);
    packet.destination = mapped([header[16], header[17], header[18], header[19]]);
    Ok(ihl)
}

#[inline(always)]
fn fragment_flags(more: bool, offset: bool) -> u8 {
    match (more, offset) {
        (false, false) => 0,
        (true, false) => PACKET_FRAGMENT,
        (_, true) => PACKET_FRAGMENT | PACKET_LATER_FRAGMENT,
    }
}

/// Returns the offset of the upper layer.
#[inline(always)]
fn walk_v6<B: Bytes>(bytes: &B, packet: &mut Packet) -> Result<u32, Reason> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;

    let start: [u8; 8] = bytes.read(0).ok_or(Reason::Malformed)?;
    let length = u32::from(u16::from_be_bytes([start[4], start[5]]));
    let big = length == 0 && bytes.total() > 0xffff;
    if start[0] >> 4 != 6 || !big && length + 40 > bytes.total() {
        return Err(Reason::Malformed);
    }
    packet.bytes = if big { bytes.total() } else { length + 40 };
    packet.hop_limit = start[7];
    packet.source = bytes.read(8).ok_or(Reason::Malformed)?;
    packet.destination = bytes.read(24).ok_or(Reason::Malformed)?;
    packet.flags = PACKET_V6;

    let mut next = start[6];
    let mut offset = 40;
    // VERIFIER: a constant bound; the turn after the last header only looks at `next`.
    for turn in 0..=MAX_EXTENSION_HEADERS {
        if !matches!(
            next,
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
        ) {
            packet.protocol = next;
            return Ok(offset);
        }
        if turn == MAX_EXTENSION_HEADERS || (next == HOP_BY_HOP && turn != 0) {
            return Err(Reason::ExtensionHeader);
        }
        let header: [u8; 4] = bytes.read(offset).ok_or(Reason::Malformed)?;
        let size = match next {
            FRAGMENT => 8,
            AUTHENTICATION => (u32::from(header[1]) + 2) * 4,
            _ => (u32::from(header[1]) + 1) * 8,
        };
        if next == ROUTING && header[3] != 0 {
            return Err(Reason::RoutingHeader);
        }
        if next == FRAGMENT {
            let field = u16::from_be_bytes([header[2], header[3]]);
            packet.flags |= fragment_flags(field & 1 != 0, field & 0xfff8 != 0);
        }
        next = header[0];
        offset += size;
        if packet.flags & PACKET_LATER_FRAGMENT != 0 {
            packet.protocol = next;
            return Ok(offset);
        }
    }
    Err(Reason::ExtensionHeader)
}

/// Reads ports, or ICMP type and code, and TCP flags.
#[inline(always)]
fn upper_layer<B: Bytes>(bytes: &B, offset: u32, packet: &mut Packet) -> Result<(), Reason> {
    packet.service = service::bare(packet.protocol);
    if packet.flags & PACKET_LATER_FRAGMENT != 0 {
        return Ok(());
    }
    // The longest chain of headers the walk follows ends far below this type's limit.
    packet.upper = offset as u16;
    let is_icmp = packet.protocol == ICMP || packet.protocol == ICMPV6;
    if !is_icmp && !has_ports(packet.protocol) {
        return Ok(());
    }
    // The shortest header of every protocol here has 8 bytes; TCP's has 20.
    if offset + 8 > packet.bytes {
        return Err(Reason::Malformed);
    }
    let header: [u8; 8] = bytes.read(offset).ok_or(Reason::Malformed)?;
    if is_icmp {
        packet.kind = header[0];
        packet.service = service::icmp(packet.protocol, header[0], header[1]);
        if packet.is_echo() || packet.is_echo_reply() {
            packet.source_port = u16::from_be_bytes([header[4], header[5]]);
            packet.destination_port = packet.source_port;
        }
        return Ok(());
    }
    packet.source_port = u16::from_be_bytes([header[0], header[1]]);
    packet.destination_port = u16::from_be_bytes([header[2], header[3]]);
    packet.service = service::port(packet.protocol, packet.destination_port);
    if packet.protocol == TCP {
        if offset + 20 > packet.bytes {
            return Err(Reason::Malformed);
        }
        let [data_offset, flags]: [u8; 2] = bytes.read(offset + 12).ok_or(Reason::Malformed)?;
        if data_offset >> 4 < 5 {
            return Err(Reason::Malformed);
        }
        packet.tcp_flags = flags;
    }
    Ok(())
}
