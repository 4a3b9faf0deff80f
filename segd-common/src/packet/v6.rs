//! The IPv6 header and the chain of extension headers behind it.

use super::{MAX_EXTENSION_HEADERS, PACKET_LATER_FRAGMENT, PACKET_V6, Packet, check_source, fragment_flags};
use crate::{address, bytes::Bytes, reason::Reason};

/// The fixed header.
pub(super) const HEADER: u32 = 40;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

const MORE_FRAGMENTS: u16 = 1;
const FRAGMENT_OFFSET: u16 = 0xfff8;

/// Walks the header and its chain up to the upper layer.
#[inline(always)]
pub(super) fn header<B: Bytes>(bytes: &B, packet: &mut Packet) -> Result<(), Reason> {
    packet.flags = PACKET_V6;
    let start: [u8; 8] = bytes.read(0).ok_or(Reason::Truncated)?;
    if start[0] >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let length = u32::from(u16::from_be_bytes([start[4], start[5]])) + HEADER;
    // More than 64 KiB say 0, with a jumbo option or, in newer kernels, without (RFC 2675; kernel: "BIG TCP"). A jumbo
    // option in a shorter packet is a lie: then the packet ends with its header.
    let big = length == HEADER && bytes.total() > 0xffff;
    if !big && length > bytes.total() {
        return Err(Reason::Length);
    }
    packet.bytes = if big { bytes.total() } else { length };
    packet.hop_limit = start[7];
    packet.source = bytes.read(8).ok_or(Reason::Truncated)?;
    packet.destination = bytes.read(24).ok_or(Reason::Truncated)?;
    // Here such an address would be taken for an IPv4 one; on a wire nobody may use it (RFC 4291 2.5.5.2).
    if address::is_v4(&packet.source) || address::is_v4(&packet.destination) {
        return Err(Reason::MappedAddress);
    }
    check_source(packet)?;
    let end = packet.bytes;
    chain(bytes, HEADER, end, start[6], packet)
}

/// Follows the chain from `offset` on; no header may end beyond `end`.
#[inline(always)]
pub(super) fn chain<B: Bytes>(
    bytes: &B,
    start: u32,
    end: u32,
    first: u8,
    packet: &mut Packet,
) -> Result<(), Reason> {
    let mut next = first;
    let mut offset = start;
    // VERIFIER: a constant bound; the turn after the last header only looks at `next`.
    for turn in 0..=MAX_EXTENSION_HEADERS {
        let extends = matches!(
            next,
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
        );
        if !extends || packet.flags & PACKET_LATER_FRAGMENT != 0 {
            packet.protocol = next;
            packet.upper = offset as u16;
            return Ok(());
        }
        let again = next == FRAGMENT && packet.fragment_at != 0;
        if turn == MAX_EXTENSION_HEADERS || (next == HOP_BY_HOP && turn != 0) || again {
            return Err(Reason::ExtensionHeader);
        }
        let header: [u8; 4] = bytes.read(offset).ok_or(Reason::Truncated)?;
        let size = match next {
            FRAGMENT => 8,
            AUTHENTICATION => (u32::from(header[1]) + 2) * 4,
            _ => (u32::from(header[1]) + 1) * 8,
        };
        // Before anything else is read: what stands behind the packet's end is no header of it.
        if offset + size > end {
            return Err(Reason::Truncated);
        }
        if next == FRAGMENT {
            let place = u16::from_be_bytes([header[2], header[3]]);
            packet.flags |= fragment_flags(place & MORE_FRAGMENTS != 0, place & FRAGMENT_OFFSET != 0);
            packet.fragment_at = offset as u16;
        }
        // Segments left: the destination in the header is not where the packet goes.
        if next == ROUTING && header[3] != 0 {
            return Err(Reason::RoutingHeader);
        }
        next = header[0];
        offset += size;
    }
    Err(Reason::ExtensionHeader)
}
