//! What is remembered between packets: who sent, who asked, what a socket may.
//!
//! INVARIANT: nothing here is a policy. A miss is a full evaluation, an entry is judged again under every revision.

use crate::{address::Address, segment::SegmentIndex, workload::Identity};

/// How many senders' identities are handed over at once.
pub const MAX_HANDOVERS: u32 = 128 * 1024;
/// How many exchanges without a connection are remembered beside those on the sockets themselves.
pub const MAX_FLOWS: u32 = if crate::OTHER_LAYOUT { 64 } else { 128 } * 1024;

/// A sender's tuple. `destination` and `destination_port` are zero in the short form, which survives DNAT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HandoverKey {
    /// The source address as sent.
    pub source: Address,
    /// The destination address as sent.
    pub destination: Address,
    /// The network namespace, where addresses repeat (loopback); else 0.
    pub namespace: u64,
    /// In host order.
    pub source_port: u16,
    /// In host order.
    pub destination_port: u16,
    /// The IP protocol.
    pub protocol: u8,
    /// The ICMP type, or 0.
    pub kind: u8,
    /// Explicit padding, zero.
    pub reserved: [u8; 2],
    /// Binds the entry to one packet: what its payload begins with, or TCP's first sequence number. 0 = any packet.
    pub print: u32,
    /// [`ANY_DESTINATION`], or 0.
    pub form: u32,
}

/// In [`HandoverKey::form`]: a short form that says who sends datagrams from there at all.
pub const ANY_DESTINATION: u32 = 1;

/// Who sent. The cgroup is the truth under every revision; the identity is what it was when it sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Handover {
    /// The sending socket's cgroup, or the last of two that sent what cannot be told apart.
    pub cgroup: u64,
    /// Its identity then, for when the cgroup is gone.
    pub identity: Identity,
    /// TCP: the sequence number of its SYN. Else: when a datagram was last seen to arrive as it left, [`coarse`]; 0 = never.
    pub sequence: u32,
    /// When it last sent, in monotonic nanoseconds; 0 for a TCP session whose SYN was not seen.
    pub sent_ns: u64,
    /// When it last changed hands; 0 = never.
    pub changed_ns: u64,
}

/// How long after its sending a datagram may still be on its way. Shorter than any conntrack keeps it from giving its tuple
/// to another (`nf_conntrack_udp_timeout`, 30 s).
pub const BELIEVED_NS: u64 = 10_000_000_000;
/// How long after a tuple changed hands each datagram must show by its content who sent it.
pub const CONTESTED_NS: u64 = 1_000_000_000;

/// For how long, in units of [`coarse`], datagrams of a tuple that were seen to arrive as they left are taken to go on so: about
/// a second.
pub const SEEN: u32 = 1 << 10;

/// How far ahead of this CPU's clock another's may be, in units of [`coarse`]: a tick of the kernel is up to 10 ms.
const AHEAD: u32 = 16;

/// A moment of the monotonic clock in units of 2^20 ns, and never 0.
#[inline(always)]
#[must_use]
pub const fn coarse(now_ns: u64) -> u32 {
    (now_ns >> 20) as u32 | 1
}

/// Whether datagrams of a tuple were seen within so many units.
#[inline(always)]
#[must_use]
pub const fn was_seen(seen: u32, within: u32, now_ns: u64) -> bool {
    seen != 0 && coarse(now_ns).wrapping_sub(seen).wrapping_add(AHEAD) < within + AHEAD
}

/// One socket's exchange with one peer, without a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowKey {
    /// The local socket.
    pub socket: u64,
    /// The peer's address.
    pub peer: Address,
    /// The peer's port in host order; for ICMP the echo identifier.
    pub peer_port: u16,
    /// The IP protocol.
    pub protocol: u8,
    /// Explicit padding, zero.
    pub reserved: [u8; 5],
}

/// What is known of such an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// The peer's cgroup, if it is a workload of this host that showed itself; else 0.
    pub peer_cgroup: u64,
    /// The peer's identity when it was judged.
    pub peer: Identity,
    /// The revision that last judged it.
    pub revision: u32,
    /// The service of the initiating direction.
    pub service: u32,
    /// `FLOW_` direction bits: who asked.
    pub asked: u32,
}

/// How many exchanges a socket keeps by itself; a power of two.
pub const PEERS: usize = 16;

/// An exchange, kept on the socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Exchange {
    /// With whom.
    pub key: FlowKey,
    /// What is known.
    pub flow: Flow,
}

/// The exchanges of one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Exchanges {
    /// By a hash of the peer.
    pub places: [Exchange; PEERS],
}

/// The local socket sent first.
pub const FLOW_LOCAL_ASKED: u32 = 1 << 0;
/// The peer sent first.
pub const FLOW_PEER_ASKED: u32 = 1 << 1;
/// The peer is a workload of this host and judges for itself.
pub const FLOW_PEER_JUDGES: u32 = 1 << 2;
/// It has lost its right, which was told. Who asked stays known: the policy may be one on trial, which is taken back.
pub const FLOW_LOST: u32 = 1 << 3;

/// What a TCP socket remembers of its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SocketState {
    /// Moves everything, see `OTHER_LAYOUT`.
    #[cfg(feature = "other-layout")]
    pub moved: u64,
    /// The peer's cgroup, if known; else 0.
    pub peer_cgroup: u64,
    /// Where its packets are counted: a packed `CounterKey`, and in the upper 16 bits one more than the number of its tally; 0 =
    /// that has none. In one word, so that a number is never taken for another key's.
    pub counted: u64,
    /// The peer's identity when it was last resolved.
    pub peer: Identity,
    /// The revision of the last verdict; 0 = never judged.
    pub revision: u32,
    /// The service of the connection: its destination port.
    pub service: u32,
    /// The rule of the last verdict.
    pub rule: u32,
    /// A `Direction`.
    pub direction: u8,
    /// The reason of the last verdict.
    pub reason: u8,
    /// The outcome of the last verdict.
    pub outcome: u8,
    /// `STATE_` flags.
    pub flags: u8,
    /// This side's segment at the last verdict.
    pub own: SegmentIndex,
    /// Explicit padding, zero.
    pub reserved: [u8; 2],
}

/// [`SocketState::direction`]: not known yet.
pub const DIRECTION_UNKNOWN: u8 = 0;
/// [`SocketState::direction`]: this socket connected.
pub const DIRECTION_ACTIVE: u8 = 1;
/// [`SocketState::direction`]: this socket was accepted.
pub const DIRECTION_PASSIVE: u8 = 2;

/// The peer is a workload of this host.
pub const STATE_PEER_LOCAL: u8 = 1 << 0;
/// The peer is local but did not show itself (its address was translated): it judges for itself.
pub const STATE_PEER_JUDGES: u8 = 1 << 1;
/// The connection was allowed once: a denial now is a revocation.
pub const STATE_WAS_ALLOWED: u8 = 1 << 2;
/// The sender's identity was published for this connection.
pub const STATE_PUBLISHED: u8 = 1 << 3;
/// The peer is local and has not shown itself yet: look when it answers.
pub const STATE_LEARN: u8 = 1 << 4;
/// The handshake was seen and no socket of this host was behind it: the peer is whose address it is.
pub const STATE_FOREIGN: u8 = 1 << 5;

/// Nothing has come from the peer yet but its part of the handshake: whoever accepts may still have to be told who dials.
pub const STATE_DIALS: u8 = 1 << 6;
/// Its segments stayed in their namespace. What leaves it after all, because a route has changed, is judged anew.
pub const STATE_STAYS: u8 = 1 << 7;

const _: () = assert!(size_of::<HandoverKey>() == 56);
const _: () = assert!(size_of::<Handover>() == 32);
const _: () = assert!(size_of::<FlowKey>() == 32);
const _: () = assert!(size_of::<Flow>() == 24);
const _: () = assert!(size_of::<Exchange>() == 56);
const _: () = assert!(size_of::<Exchanges>() == PEERS * 56);
const _: () = assert!(size_of::<SocketState>() == if crate::OTHER_LAYOUT { 48 } else { 40 });

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: u64 = 1 << 20;

    #[test]
    fn what_was_seen_is_believed_for_as_long_as_is_said_and_never_again() {
        let now = 1000 * u64::from(SEEN) * UNIT;
        let seen = coarse(now);
        for (later, expected) in [
            (0, true),
            (u64::from(SEEN) - 2, true),
            (u64::from(SEEN), false),
            (1 << 31, false),
            ((1 << 31) + 1, false),
            ((1 << 32) - 100, false),
        ] {
            assert_eq!(was_seen(seen, SEEN, now + later * UNIT), expected, "{later}");
        }
        // Written by a CPU whose clock is a little ahead.
        assert!(was_seen(coarse(now + 2 * UNIT), SEEN, now));
        assert!(!was_seen(coarse(now + 100 * UNIT), SEEN, now));
    }

    #[test]
    fn what_was_never_seen_is_not_taken_for_a_moment_ago() {
        for now in [0, 1, UNIT, (1 << 32) * UNIT, ((1 << 32) + 3) * UNIT] {
            assert!(!was_seen(0, SEEN, now), "{now}");
            assert_ne!(coarse(now), 0);
        }
    }
}
