//! A packet read slowly, from the RFCs: the third opinion on what the packet walk finds.
//!
//! INVARIANT: shares nothing with `segd_common::packet`; the reader is the one that its own tests hold it against.

#[path = "../../../segd-common/tests/walk/slow.rs"]
mod slow;

use std::net::IpAddr;

use slow::Part;

/// What a packet is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub source: [u8; 16],
    pub destination: [u8; 16],
    pub protocol: u8,
    /// The 24-bit number of what it asks for.
    pub service: u32,
    /// ICMP and ICMPv6.
    pub kind: u8,
    pub tcp_flags: u8,
    pub source_port: u16,
    pub destination_port: u16,
    pub hop_limit: u8,
}

/// Reads a packet as the socket hooks do, which take no fragment. The error is the word of the reason.
pub fn parse(packet: &[u8], v6: bool) -> Result<View, &'static str> {
    let seen = slow::look(packet, v6)?;
    if seen.part != Part::Whole {
        return Err("fragment");
    }
    // An echo's identifier is no port.
    let ports = seen.ports.filter(|_| seen.icmp.is_none());
    let (source_port, destination_port) = ports.unwrap_or_default();
    let (kind, code) = seen.icmp.unwrap_or_default();
    let asked = u16::from_be_bytes([kind, code]) | destination_port;
    Ok(View {
        source: bits(seen.source),
        destination: bits(seen.destination),
        protocol: seen.protocol,
        service: u32::from(seen.protocol) << 16 | u32::from(asked),
        kind,
        tcp_flags: seen.tcp_flags,
        source_port,
        destination_port,
        hop_limit: seen.hop_limit,
    })
}

fn bits(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
