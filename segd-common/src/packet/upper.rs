//! The upper layer: ports, ICMP types, TCP flags, and whether their lengths can be true.

use super::{PACKET_FRAGMENT, PACKET_V6, Packet};
use crate::{
    bytes::Bytes,
    reason::Reason,
    service::{self, ICMP, ICMPV6, IGMP, SCTP, TCP, UDP, UDPLITE, has_ports},
};

/// The shortest header of a protocol that is looked into.
#[inline(always)]
fn shortest(protocol: u8) -> u32 {
    match protocol {
        TCP => 20,
        SCTP => 12,
        _ => 8,
    }
}

/// Reads what the packet asks for, `packet.upper` bytes behind the IP header's first.
#[inline(always)]
pub(super) fn header<B: Bytes>(bytes: &B, packet: &mut Packet) -> Result<(), Reason> {
    let protocol = packet.protocol;
    packet.service = service::bare(protocol);
    let foreign = if packet.flags & PACKET_V6 != 0 {
        protocol == ICMP || protocol == IGMP
    } else {
        protocol == ICMPV6
    };
    if foreign {
        return Err(Reason::WrongFamily);
    }
    let is_icmp = protocol == ICMP || protocol == ICMPV6;
    if !packet.has_upper_layer() || (!is_icmp && !has_ports(protocol)) {
        return Ok(());
    }
    let at = u32::from(packet.upper);
    if at + shortest(protocol) > packet.bytes {
        return Err(Reason::Truncated);
    }
    let header: [u8; 8] = bytes.read(at).ok_or(Reason::Truncated)?;
    fields(packet, &header);
    if is_icmp {
        return Ok(());
    }
    let payload = packet.bytes - at;
    match protocol {
        TCP => {
            let [data_offset, flags]: [u8; 2] = bytes.read(at + 12).ok_or(Reason::Truncated)?;
            packet.tcp_flags = flags;
            let length = u32::from(data_offset >> 4) * 4;
            if length < 20 {
                return Err(Reason::Length);
            }
            if length > payload {
                return Err(if packet.flags & PACKET_FRAGMENT != 0 {
                    Reason::TinyFragment
                } else {
                    Reason::Length
                });
            }
        }
        UDP | UDPLITE => {
            let length = u32::from(u16::from_be_bytes([header[4], header[5]]));
            // UDP-Lite: how much the checksum covers; 0 is all (RFC 3828).
            let whole = protocol == UDPLITE && length == 0;
            // A first fragment tells the length of the whole, a GSO packet of a tunnel cannot tell it. Less than the
            // payload is no lie: what follows are options (RFC 9868).
            let beyond = length > payload && packet.flags & PACKET_FRAGMENT == 0;
            if packet.bytes <= 0xffff && !whole && (length < 8 || beyond) {
                return Err(Reason::Length);
            }
        }
        _ => {}
    }
    Ok(())
}

/// Takes ports, or ICMP type, code and identifier, out of the first eight bytes.
#[inline(always)]
pub(super) fn fields(packet: &mut Packet, header: &[u8; 8]) {
    let protocol = packet.protocol;
    if protocol == ICMP || protocol == ICMPV6 {
        packet.kind = header[0];
        packet.service = service::icmp(protocol, header[0], header[1]);
        if packet.is_echo() || packet.is_echo_reply() {
            packet.source_port = u16::from_be_bytes([header[4], header[5]]);
            packet.destination_port = packet.source_port;
        }
    } else if has_ports(protocol) {
        packet.source_port = u16::from_be_bytes([header[0], header[1]]);
        packet.destination_port = u16::from_be_bytes([header[2], header[3]]);
        packet.service = service::port(protocol, packet.destination_port);
    } else {
        packet.service = service::bare(protocol);
    }
}
