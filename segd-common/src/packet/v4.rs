//! The IPv4 header: its length, its options, its place in a datagram.

use super::{Packet, check_source, fragment_flags};
use crate::{address::mapped_word, bytes::Bytes, reason::Reason};

/// Without options.
pub(super) const SHORTEST: u32 = 20;
/// With all the options there is room for.
const LONGEST_OPTIONS: u32 = 40;

/// What place in its datagram a packet says it has: `PACKET_` flags.
#[inline(always)]
pub(super) fn place(field: u16) -> u8 {
    const MORE_FRAGMENTS: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    fragment_flags(field & MORE_FRAGMENTS != 0, field & OFFSET != 0)
}

/// Walks the header up to the upper layer.
#[inline(always)]
pub(super) fn header<B: Bytes>(bytes: &B, packet: &mut Packet) -> Result<(), Reason> {
    let [first, second, third, source, destination] = bytes.words::<5>(0).ok_or(Reason::Truncated)?;
    let [start, _, total @ ..] = first.to_ne_bytes();
    let length = u32::from(start & 0x0f) * 4;
    if start >> 4 != 4 || length < SHORTEST {
        return Err(Reason::Malformed);
    }
    let total = u32::from(u16::from_be_bytes(total));
    // A GSO packet of more than 64 KiB says 0 (kernel: "BIG TCP", include/linux/ip.h iph_totlen).
    let big = total == 0 && bytes.total() > 0xffff;
    if !big && (total < length || total > bytes.total()) {
        return Err(Reason::Length);
    }
    packet.bytes = if big { bytes.total() } else { total };
    let [_, _, fragment @ ..] = second.to_ne_bytes();
    packet.flags = place(u16::from_be_bytes(fragment));
    [packet.hop_limit, packet.protocol, ..] = third.to_ne_bytes();
    packet.source = mapped_word(source);
    packet.destination = mapped_word(destination);
    packet.upper = length as u16;
    check_source(packet)?;
    if length > SHORTEST {
        options(bytes, length)?;
    }
    Ok(())
}

/// Looks for a source route, and at every option's length: an option that ends beyond the header hides what follows.
#[inline(always)]
fn options<B: Bytes>(bytes: &B, end: u32) -> Result<(), Reason> {
    let mut list = Options::default();
    // VERIFIER: a constant bound, and no branch on what is read: with one per option the paths multiply.
    for number in 0..LONGEST_OPTIONS / 4 {
        let at = SHORTEST + number * 4;
        if at >= end {
            break;
        }
        let word: [u8; 4] = bytes.read(at).ok_or(Reason::Truncated)?;
        for byte in word {
            list.take(u32::from(byte));
        }
    }
    list.verdict()
}

/// A reader of options that takes one byte after the other; every flag is 0 or 1.
#[derive(Default)]
struct Options {
    /// How many bytes of data the current option still has.
    data: u32,
    /// The next byte is an option's length.
    length: u32,
    /// The list has ended.
    ended: u32,
    /// An option's length is less than its header's.
    broken: u32,
    /// A source route was found.
    route: u32,
}

impl Options {
    #[inline(always)]
    fn take(&mut self, byte: u32) {
        const END: u32 = 0;
        const NOTHING: u32 = 1;
        const LOOSE_SOURCE_ROUTE: u32 = 131;
        const STRICT_SOURCE_ROUTE: u32 = 137;

        let is = |kind: u32| is_zero(byte ^ kind);
        let kind = is_zero(self.data | self.length | self.ended | self.broken | self.route);
        let single = is(END) | is(NOTHING);
        let route = is(LOOSE_SOURCE_ROUTE) | is(STRICT_SOURCE_ROUTE);
        let data = 1 - is_zero(self.data);
        // The length counts the kind and itself.
        self.broken |= self.length & single;
        self.data = self.data - data + self.length * (byte.wrapping_sub(2) & 0xff);
        self.length = kind & (1 - single) & (1 - route);
        self.ended |= kind & is(END);
        self.route |= kind & route;
    }

    #[inline(always)]
    fn verdict(&self) -> Result<(), Reason> {
        if self.route != 0 {
            Err(Reason::SourceRoute)
        } else if self.broken | self.length | self.data != 0 {
            Err(Reason::Malformed)
        } else {
            Ok(())
        }
    }
}

/// 1 if the number is 0, else 0, without a branch; see `decide::is_below` on how.
#[inline(always)]
fn is_zero(number: u32) -> u32 {
    (core::hint::black_box(u64::from(number).wrapping_sub(1)) >> 63) as u32
}
