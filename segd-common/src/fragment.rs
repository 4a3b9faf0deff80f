//! What is remembered of a datagram that arrives in fragments: the first one was judged, the rest follow it.
//!
//! INVARIANT: a later fragment never takes the place of what was judged.

use crate::address::Address;

/// How many datagrams in fragments are known at once.
pub const MAX_FRAGMENTS: u32 = 16 * 1024;
/// How long the first fragment vouches for the rest: as long as the kernel keeps them (`IP_FRAG_TIME`).
pub const FRAGMENT_TTL_NS: u64 = 30_000_000_000;

/// Which datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentKey {
    /// The source address.
    pub source: Address,
    /// The destination address.
    pub destination: Address,
    /// The identification; IPv4's has 16 bits.
    pub identification: u32,
    /// The link that it came out of, of whose sender the first one speaks; 0 on NICs, of which several may lead to one network.
    pub device: u32,
    /// The protocol in IPv4; 0 in IPv6, whose later fragments may name any (RFC 8200 4.5).
    pub protocol: u8,
    /// Explicit padding, zero.
    pub reserved: [u8; 3],
}

/// Its first fragment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentEntry {
    /// When it came.
    pub time_ns: u64,
    /// How many bytes of the datagram it held.
    pub end: u32,
    /// Explicit padding, zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<FragmentKey>() == 44);
const _: () = assert!(size_of::<FragmentEntry>() == 16);
