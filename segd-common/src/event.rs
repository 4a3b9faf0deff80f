//! What the kernel programs tell the daemon through the ring buffer.

use crate::{address::Address, segment::SegmentIndex, service::Service};

/// Bytes of the ring buffer.
pub const RING_BYTES: u32 = 1 << 20;

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
