//! What a packet asks for, as one number: protocol and port, or ICMP type and code.
//!
//! A policy's ports are intervals of these numbers, so every protocol is matched by one search.

/// `protocol << 16 | x`, where `x` is the destination port (TCP, UDP, SCTP, UDP-Lite), `type << 8 | code`
/// (ICMP, ICMPv6), or 0 (any other IP protocol). 24 bits.
pub type Service = u32;

/// ICMP.
pub const ICMP: u8 = 1;
/// IGMP.
pub const IGMP: u8 = 2;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMPv6.
pub const ICMPV6: u8 = 58;
/// SCTP.
pub const SCTP: u8 = 132;
/// UDP-Lite.
pub const UDPLITE: u8 = 136;

/// The largest service: `ports: [any]` is `0..=MAX`.
pub const MAX: Service = 0x00ff_ffff;

/// What no port set covers, `any` neither.
pub const NONE: Service = u32::MAX;

/// The service of a protocol with ports.
#[must_use]
pub const fn port(protocol: u8, port: u16) -> Service {
    (protocol as u32) << 16 | port as u32
}

/// The service of an ICMP or ICMPv6 message.
#[must_use]
pub const fn icmp(protocol: u8, kind: u8, code: u8) -> Service {
    (protocol as u32) << 16 | (kind as u32) << 8 | code as u32
}

/// The service of a bare IP protocol.
#[must_use]
pub const fn bare(protocol: u8) -> Service {
    (protocol as u32) << 16
}

/// The protocol of a service.
#[must_use]
pub const fn protocol(service: Service) -> u8 {
    (service >> 16) as u8
}

/// Whether the protocol carries source and destination ports in its first four bytes.
#[must_use]
pub const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP | UDPLITE)
}
