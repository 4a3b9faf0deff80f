//! Exact counters by segment pair, outcome and reason.

use crate::segment::SegmentIndex;

/// How many different counters there may be; what does not fit is counted under `other`.
pub const MAX_COUNTERS: u32 = 16 * 1024;

/// What a counter counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct CounterKey {
    /// The initiating segment.
    pub from: SegmentIndex,
    /// The other side.
    pub to: SegmentIndex,
    /// An `Outcome`.
    pub outcome: u8,
    /// A `Reason`.
    pub reason: u8,
    /// Explicit padding, zero.
    pub reserved: u16,
}

/// What was counted, on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the IP header on.
    pub bytes: u64,
    /// Flows: first packets.
    pub flows: u64,
    /// Established sessions that lost their right.
    pub revoked: u64,
}

impl CounterKey {
    /// The key as a number of 48 bits.
    #[must_use]
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.from as u64 | (self.to as u64) << 16 | (self.outcome as u64) << 32 | (self.reason as u64) << 40
    }

    /// The key in the lower 48 bits of a number.
    #[must_use]
    #[inline(always)]
    pub const fn unpack(packed: u64) -> CounterKey {
        CounterKey {
            from: packed as u16,
            to: (packed >> 16) as u16,
            outcome: (packed >> 32) as u8,
            reason: (packed >> 40) as u8,
            reserved: 0,
        }
    }
}

/// How many counters may have a tally beside; a power of two, and less than 2^16.
pub const MAX_TALLIES: u32 = 4 * 1024;
/// In how many places the tally of a counter may be.
pub const TALLY_PLACES: u32 = 8;

/// What was counted, on one CPU, of packets whose verdict lies on their socket: beside the counter, found by a number that
/// lies there, too.
///
/// INVARIANT: a place that was given to a key is that key's for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the IP header on.
    pub bytes: u64,
}

const _: () = assert!(size_of::<CounterKey>() == 8);
const _: () = assert!(size_of::<Tally>() == 16);
const _: () = assert!(size_of::<Counter>() == 32);

/// Indexes of the per-CPU array of plain counts.
pub mod stat {
    /// Events that did not fit into the ring buffer.
    pub const EVENTS_LOST: u32 = 0;
    /// Events not emitted because of the kernel's own rate limit.
    pub const EVENTS_SUPPRESSED: u32 = 1;
    /// cgroups that did not fit into the table.
    pub const CGROUPS_LOST: u32 = 2;
    /// How many there are.
    pub const COUNT: u32 = 4;
}
