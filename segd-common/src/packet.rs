//! The packet walk: from the IP header to what the packet asks for.
//!
//! INVARIANT: what the walk calls the destination port is what the kernel will call it. IPv4 options are
//! honoured, IPv6 extension headers are walked, and whatever does not parse is an error with a reason of its own.
//! Deliberately absent: reassembly. Mobility (135), HIP (139) and shim6 (140) are walked over by nobody here, as by
//! Linux: they are protocols (`ip/135`), and so are ESP (50) and no-next-header (59).
//! Sources: RFC 791, RFC 1858, RFC 3128, RFC 4302, RFC 7045, RFC 7112, RFC 8200, RFC 9868.

mod quoted;
mod upper;
mod v4;
mod v6;

pub use quoted::quoted;
pub use v6::follow;

use crate::{
    address::{self, Address},
    bytes::Bytes,
    reason::Reason,
    service::{self, ICMP, ICMPV6, IGMP, Service, TCP, has_ports},
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
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Echo request.
    pub const ECHO: u8 = 8;
    /// ICMPv6 destination unreachable.
    pub const UNREACHABLE6: u8 = 1;
    /// ICMPv6 parameter problem.
    pub const PARAMETER6: u8 = 4;
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
    /// Neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
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
// Aligned, so that an address is read in two words.
#[repr(C, align(8))]
pub struct Packet {
    /// The source address, IPv4 as v4-mapped.
    pub source: Address,
    /// The destination address.
    pub destination: Address,
    /// Length in bytes from the IP header on, as the packet says it.
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
    pub reserved: [u8; 3],
    /// Where the upper layer begins, or a later fragment's part of it, from the IP header on.
    pub upper: u16,
    /// Where the IPv6 fragment header begins; 0 without one, and in IPv4.
    pub fragment_at: u16,
}

const _: () = assert!(size_of::<Packet>() == 56);

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

    /// What it answers, if it can be an answer: a SYN begins, and of ICMP only an echo reply answers.
    #[must_use]
    #[inline(always)]
    pub fn answered(&self) -> Option<Service> {
        match self.protocol {
            TCP if self.is_syn() => None,
            ICMP | ICMPV6 if !self.is_echo_reply() => None,
            ICMP => Some(service::icmp(ICMP, icmp::ECHO, 0)),
            ICMPV6 => Some(service::icmp(ICMPV6, icmp::ECHO6, 0)),
            _ => Some(self.reverse_service()),
        }
    }

    /// The packet as its reply would look.
    #[must_use]
    #[inline(always)]
    pub fn mirrored(&self) -> Packet {
        Packet {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            service: self.reverse_service(),
            ..*self
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

    /// Whether it asks the receiving kernel for an answer: an echo, a timestamp, an address mask, a name.
    #[must_use]
    #[inline(always)]
    pub fn is_icmp_request(&self) -> bool {
        (self.protocol == ICMP && matches!(self.kind, icmp::ECHO | 13 | 15 | 17))
            || (self.protocol == ICMPV6 && matches!(self.kind, icmp::ECHO6 | 139))
    }

    /// Whether it is an ICMP or ICMPv6 echo reply.
    #[must_use]
    #[inline(always)]
    pub fn is_echo_reply(&self) -> bool {
        (self.protocol == ICMP && self.kind == icmp::ECHO_REPLY)
            || (self.protocol == ICMPV6 && self.kind == icmp::ECHO_REPLY6)
    }

    /// Whether it is an ICMP or ICMPv6 error message: it quotes the packet it is about.
    #[must_use]
    #[inline(always)]
    pub fn is_icmp_error(&self) -> bool {
        (self.protocol == ICMP && matches!(self.kind, 3 | 4 | 5 | 11 | 12))
            || (self.protocol == ICMPV6 && self.kind < 128)
    }

    /// Whether it is an error by which the machine that was asked says that nobody there listens, or that it does not know the protocol
    /// (for IPv6 a parameter problem, RFC 8200 4).
    #[must_use]
    #[inline(always)]
    pub fn is_unreachable(&self) -> bool {
        (self.protocol == ICMP && self.kind == icmp::UNREACHABLE)
            || (self.protocol == ICMPV6 && matches!(self.kind, icmp::UNREACHABLE6 | icmp::PARAMETER6))
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
            icmp::MLD_FIRST..=icmp::MLD_LAST | icmp::MLD2_REPORT => {
                self.hop_limit == 1 && address::is_multicast(&self.destination)
            }
            _ => false,
        }
    }

    /// Whether it is group membership of IPv4 that never left its link (RFC 3376 4: TTL 1, to a group).
    #[must_use]
    #[inline(always)]
    pub fn is_group_control(&self) -> bool {
        self.protocol == IGMP && self.hop_limit == 1 && address::is_multicast(&self.destination)
    }

    /// Whether it has the upper-layer header, so that its ports are known.
    #[must_use]
    #[inline(always)]
    pub fn has_upper_layer(&self) -> bool {
        self.flags & PACKET_LATER_FRAGMENT == 0
    }
}

/// Walks an IPv4 or IPv6 packet, told apart by its carrier and by its first four bits, which must agree.
///
/// # Errors
///
/// [`Reason::Malformed`], [`Reason::Truncated`], [`Reason::Length`], [`Reason::SourceRoute`], [`Reason::RoutingHeader`],
/// [`Reason::ExtensionHeader`], [`Reason::MappedAddress`], [`Reason::WrongFamily`], [`Reason::TinyFragment`],
/// [`Reason::Spoofed`] for a group as the source.
#[inline(always)]
pub fn walk<B: Bytes>(bytes: &B, v6: bool, packet: &mut Packet) -> Result<(), Reason> {
    let walked = if v6 {
        v6::header(bytes, packet)
    } else {
        v4::header(bytes, packet)
    };
    let walked = match walked {
        Ok(()) => upper::header(bytes, packet),
        Err(reason) => Err(reason),
    };
    match walked {
        // RFC 1858, RFC 7112: the first fragment carries every header, or nobody can judge it.
        Err(Reason::Truncated) if packet.flags & PACKET_FRAGMENT != 0 => Err(Reason::TinyFragment),
        other => other,
    }
}

#[inline(always)]
fn fragment_flags(more: bool, offset: bool) -> u8 {
    match (more, offset) {
        (false, false) => 0,
        (true, false) => PACKET_FRAGMENT,
        (_, true) => PACKET_FRAGMENT | PACKET_LATER_FRAGMENT,
    }
}

/// A group cannot send.
#[inline(always)]
fn check_source(packet: &Packet) -> Result<(), Reason> {
    if address::is_multicast(&packet.source) {
        return Err(Reason::Spoofed);
    }
    Ok(())
}
