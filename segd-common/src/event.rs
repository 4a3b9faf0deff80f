//! What the kernel programs tell the daemon through the ring buffer.

use crate::{address::Address, segment::SegmentIndex, service::Service};

/// How many events a CPU may tell in a window.
pub const EVENTS_PER_WINDOW: u32 = 128;
/// The length of a window in nanoseconds; the daemon looks at the ring once in it.
pub const WINDOW_NS: u64 = 100_000_000;
/// The most bytes that the ring buffer takes.
pub const MAX_RING_BYTES: u32 = 1 << 20;

/// Bytes of the ring buffer on a host with so many CPUs: what each of them may tell in four windows, as far as that is no more than
/// [`MAX_RING_BYTES`]. A power of two, and pages of any size.
#[must_use]
pub fn ring_bytes(cpus: usize) -> u32 {
    /// The kernel keeps the length of each record before it.
    const RECORD: usize = 8 + size_of::<FlowEvent>();
    /// Four pages of 64 KiB.
    const LEAST: usize = 1 << 18;
    const MOST: usize = MAX_RING_BYTES as usize;
    let told = cpus.saturating_mul(4 * EVENTS_PER_WINDOW as usize * RECORD);
    told.clamp(LEAST, MOST).next_power_of_two() as u32
}

/// A new flow was judged, a packet was denied, or a session lost its right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowEvent {
    /// Nanoseconds since boot (`CLOCK_BOOTTIME` where the kernel has the helper, else monotonic).
    pub time_ns: u64,
    /// The local workload's cgroup; 0 if none is known.
    pub cgroup: u64,
    /// The peer's cgroup, where both live on this host; 0 otherwise.
    pub peer_cgroup: u64,
    /// The rule that decided, or `Verdict::NO_RULE`.
    pub rule: u32,
    /// The revision it was judged under.
    pub revision: u32,
    /// The service of the initiating direction.
    pub service: Service,
    /// The packet's length in bytes from the IP header on; 0 at a system call.
    pub bytes: u32,
    /// The initiator's address.
    pub source: Address,
    /// The other side's address.
    pub destination: Address,
    /// The initiator's port in host order; 0 if it has none.
    pub source_port: u16,
    /// The destination port in host order; 0 if it has none.
    pub destination_port: u16,
    /// The initiator's segment.
    pub from: SegmentIndex,
    /// The other side's segment.
    pub to: SegmentIndex,
    /// An `Outcome`.
    pub outcome: u8,
    /// A `Reason`.
    pub reason: u8,
    /// A `Hook`.
    pub hook: u8,
    /// `EVENT_` flags.
    pub flags: u8,
    /// Explicit padding, zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<FlowEvent>() == 88);

/// An established session lost its right.
pub const EVENT_REVOKED: u8 = 1 << 0;

/// Where a verdict was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Hook {
    /// cgroup_skb egress.
    Egress = 1,
    /// cgroup_skb ingress.
    Ingress = 2,
    /// connect4, connect6.
    Connect = 3,
    /// sendmsg4, sendmsg6.
    Send = 4,
    /// XDP.
    Xdp = 5,
    /// tcx on a link.
    Link = 6,
    /// LSM: a socket that was made, bound or sent by. No packet is known then.
    Socket = 7,
}

impl Hook {
    /// The word used in flows.
    #[must_use]
    pub const fn label(number: u8) -> &'static str {
        match number {
            1 => "egress",
            2 => "ingress",
            3 => "connect",
            4 => "sendmsg",
            5 => "xdp",
            6 => "link",
            7 => "socket",
            _ => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_has_room_for_what_its_cpus_may_tell() {
        let bytes = [0, 1, 2, 5, 6, 8, 16, 22, 4096, usize::MAX].map(ring_bytes);
        const KIB: u32 = 1024;
        assert_eq!(
            bytes.map(|bytes| bytes / KIB),
            [256, 256, 256, 256, 512, 512, 1024, 1024, 1024, 1024]
        );
        // Four windows of eight CPUs, each record with its length before it.
        assert!(ring_bytes(8) >= 8 * 4 * EVENTS_PER_WINDOW * (8 + 88));
        assert!(
            bytes
                .iter()
                .all(|bytes| bytes.is_power_of_two() && *bytes <= MAX_RING_BYTES)
        );
    }
}
