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

/// Where the parts of [`follow`]'s word begin; the reason is at 0.
const PROTOCOL: u32 = 8;
const FLAGS: u32 = 16;
const UPPER: u32 = 32;
const FRAGMENT_AT: u32 = 48;

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
    if !bytes.fill(8, &mut packet.source) || !bytes.fill(24, &mut packet.destination) {
        return Err(Reason::Truncated);
    }
    // Here such an address would be taken for an IPv4 one; on a wire nobody may use it (RFC 4291 2.5.5.2).
    if address::is_v4(&packet.source) || address::is_v4(&packet.destination) {
        return Err(Reason::MappedAddress);
    }
    check_source(packet)?;
    let end = packet.bytes;
    chain(bytes, HEADER, end, start[6], packet)
}

/// Follows the chain from `start` on; no header may end beyond `end`. What was found is in the packet, also if it ends in an
/// error.
#[inline(always)]
pub(super) fn chain<B: Bytes>(
    bytes: &B,
    start: u32,
    end: u32,
    first: u8,
    packet: &mut Packet,
) -> Result<(), Reason> {
    let found = bytes.chain(start, end, first);
    packet.flags |= (found >> FLAGS) as u8;
    packet.upper = (found >> UPPER) as u16;
    packet.fragment_at = (found >> FRAGMENT_AT) as u16;
    packet.protocol = (found >> PROTOCOL) as u8;
    match Reason::from_number(found as u8) {
        Some(reason) => Err(reason),
        None => Ok(()),
    }
}

/// Follows a chain of extension headers, for [`Bytes::chain`]. In one word: the number of a `Reason` or 0, the protocol behind the
/// chain, `PACKET_` flags, where that protocol's header begins (from bit 32 on), and where a fragment header does.
#[inline(always)]
pub fn follow<B: Bytes>(bytes: &B, start: u32, end: u32, first: u8) -> u64 {
    let mut next = first;
    let mut offset = start;
    // VERIFIER: one word for all, for the sake of the stack.
    let mut found = 0;
    // VERIFIER: a constant bound; the turn after the last header only looks at `next`.
    for turn in 0..=MAX_EXTENSION_HEADERS {
        let extends = matches!(
            next,
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
        );
        if !extends || found & u64::from(PACKET_LATER_FRAGMENT) << FLAGS != 0 {
            return found | u64::from(next) << PROTOCOL | u64::from(offset as u16) << UPPER;
        }
        let again = next == FRAGMENT && found >> FRAGMENT_AT != 0;
        if turn == MAX_EXTENSION_HEADERS || (next == HOP_BY_HOP && turn != 0) || again {
            return found | Reason::ExtensionHeader as u64;
        }
        let Some(header) = bytes.read::<4>(offset) else {
            return found | Reason::Truncated as u64;
        };
        let size = match next {
            FRAGMENT => 8,
            AUTHENTICATION => (u32::from(header[1]) + 2) * 4,
            _ => (u32::from(header[1]) + 1) * 8,
        };
        // Before anything else is read: what stands behind the packet's end is no header of it.
        if offset + size > end {
            return found | Reason::Truncated as u64;
        }
        // Segments left: the destination in the header is not where the packet goes.
        if next == ROUTING && header[3] != 0 {
            return found | Reason::RoutingHeader as u64;
        }
        if next == FRAGMENT {
            let place = u16::from_be_bytes([header[2], header[3]]);
            let flags = fragment_flags(place & MORE_FRAGMENTS != 0, place & FRAGMENT_OFFSET != 0);
            found |= u64::from(flags) << FLAGS | u64::from(offset as u16) << FRAGMENT_AT;
        }
        next = header[0];
        offset += size;
    }
    found | Reason::ExtensionHeader as u64
}
