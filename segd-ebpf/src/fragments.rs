//! Fragments, where they come in one by one: the first is judged, the rest follow it or are dropped.
//!
//! A later fragment that overtakes the first is an orphan: it is dropped, and with it the datagram.

use segd_common::{
    bytes::Bytes,
    fragment::{FRAGMENT_TTL_NS, FragmentEntry, FragmentKey},
    packet::{PACKET_V6, Packet},
    reason::Reason,
};

use crate::{clock, maps::FRAGMENTS};

/// A fragment's place: its datagram, its first byte there, how many bytes it holds.
struct Place {
    key: FragmentKey,
    start: u32,
    length: u32,
}

#[inline(always)]
fn place<B: Bytes>(bytes: &B, packet: &Packet, device: u32) -> Option<Place> {
    let mut key = FragmentKey {
        device,
        source: packet.source,
        destination: packet.destination,
        ..FragmentKey::default()
    };
    if packet.flags & PACKET_V6 != 0 {
        let at = u32::from(packet.fragment_at);
        let header: [u8; 8] = bytes.read(at)?;
        key.identification = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        Some(Place {
            key,
            start: u32::from(u16::from_be_bytes([header[2], header[3]]) & 0xfff8),
            length: packet.bytes.wrapping_sub(at + 8),
        })
    } else {
        let [high, low, field @ ..]: [u8; 4] = bytes.read(4)?;
        key.identification = u32::from(u16::from_be_bytes([high, low]));
        key.protocol = packet.protocol;
        Some(Place {
            key,
            start: u32::from(u16::from_be_bytes(field) & 0x1fff) * 8,
            length: packet.bytes.wrapping_sub(u32::from(packet.upper)),
        })
    }
}

/// Remembers a first fragment that was let in. `device`: see [`FragmentKey::device`].
#[inline(always)]
pub fn first<B: Bytes>(bytes: &B, packet: &Packet, device: u32) {
    if let Some(place) = place(bytes, packet, device) {
        remember(&place.key, place.length);
    }
}

/// `end`: where the first fragment of a datagram ends.
#[inline(always)]
fn remember(key: &FragmentKey, end: u32) {
    let entry = FragmentEntry {
        time_ns: clock::exact(),
        end,
        reserved: 0,
    };
    // A full table forgets the oldest: its later fragments are orphans.
    let _ = FRAGMENTS.insert(key, entry, 0);
}

/// Beyond the last byte of any datagram: nothing follows.
const NOTHING: u32 = u32::MAX;

/// Remembers a first fragment that was not let out.
#[inline(always)]
pub fn refused<B: Bytes>(bytes: &B, packet: &Packet, device: u32) {
    if let Some(place) = place(bytes, packet, device) {
        remember(&place.key, NOTHING);
    }
}

/// A first fragment is let out: that one before it that had the same number was not says nothing of those that follow.
#[inline(always)]
pub fn not_refused<B: Bytes>(bytes: &B, packet: &Packet, device: u32) {
    if let Some(place) = place(bytes, packet, device)
        && is_refused(&place.key)
    {
        let _ = FRAGMENTS.remove(&place.key);
    }
}

/// Whether the first fragment of a later one's datagram was not let out.
#[inline(always)]
pub fn was_refused<B: Bytes>(bytes: &B, packet: &Packet, device: u32) -> bool {
    place(bytes, packet, device).is_some_and(|place| is_refused(&place.key))
}

#[inline(always)]
fn is_refused(key: &FragmentKey) -> bool {
    // SAFETY: copied out; see `refuses`.
    FRAGMENTS.get_ptr(key).is_some_and(|entry| unsafe {
        (*entry).end == NOTHING && clock::exact().wrapping_sub((*entry).time_ns) < FRAGMENT_TTL_NS
    })
}

/// Why a later fragment may not follow, if it may not. `ttl`: for how long, in nanoseconds, a first one speaks for it.
#[inline(always)]
pub fn refuses<B: Bytes>(bytes: &B, packet: &Packet, device: u32, ttl: u64) -> Option<Reason> {
    let Some(place) = place(bytes, packet, device) else {
        return Some(Reason::Truncated);
    };
    // The last byte of no datagram is beyond 65,535 (the "ping of death").
    if place.start.wrapping_add(place.length) > 0xffff {
        return Some(Reason::Length);
    }
    let Some(entry) = FRAGMENTS.get_ptr(&place.key) else {
        return Some(Reason::OrphanFragment);
    };
    // SAFETY: copied out; an element that is reused meanwhile is another datagram's, and as true.
    let FragmentEntry { time_ns, end, .. } = unsafe { *entry };
    let now = clock::exact();
    if now.wrapping_sub(time_ns) > ttl {
        Some(Reason::OrphanFragment)
    } else if place.start < end {
        Some(Reason::OverlappingFragment)
    } else {
        None
    }
}
