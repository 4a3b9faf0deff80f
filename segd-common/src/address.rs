//! Addresses, and which are this host's.
//!
//! An IPv4 address is kept v4-mapped (`::ffff:a.b.c.d`), in network order, so there is one kind.

use crate::segment::SegmentIndex;

/// 16 bytes in network order.
pub type Address = [u8; 16];

/// `::ffff:0:0/96`, as a prefix length.
pub const V4_PREFIX_BITS: u32 = 96;
/// How many prefixes a policy may name.
pub const MAX_PREFIXES: u32 = 1024 * 1024;
/// How many addresses of this host and its namespaces are known.
pub const MAX_LOCALS: u32 = 64 * 1024;
/// How many network namespaces are known.
pub const MAX_NAMESPACES: u32 = 16 * 1024;

/// The v4-mapped form of an IPv4 address given in network order.
#[must_use]
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> Address {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3],
    ]
}

/// The address as two numbers, most significant first.
#[must_use]
#[inline(always)]
pub const fn halves(address: &Address) -> (u64, u64) {
    let (first, last) = chunks(address);
    (u64::from_be_bytes(first), u64::from_be_bytes(last))
}

/// The address of two numbers.
#[must_use]
#[inline(always)]
pub const fn of_halves(high: u64, low: u64) -> Address {
    of_chunks(high.to_be_bytes(), low.to_be_bytes())
}

/// An address as two numbers, as they lie in memory.
#[must_use]
#[inline(always)]
pub const fn words(address: &Address) -> (u64, u64) {
    let (first, last) = chunks(address);
    (u64::from_ne_bytes(first), u64::from_ne_bytes(last))
}

/// The v4-mapped form of an IPv4 address, given as it lies in memory.
#[must_use]
#[inline(always)]
pub const fn mapped_word(v4: u32) -> Address {
    let low = 0xffff_0000_0000 | u32::from_be(v4) as u64;
    of_halves(0, low)
}

/// The two halves. Not byte by byte: the compiler would read each, and who reads soon after 16 bytes were written one by one waits
/// for each.
#[inline(always)]
const fn chunks(address: &Address) -> ([u8; 8], [u8; 8]) {
    match (address.first_chunk::<8>(), address.last_chunk::<8>()) {
        (Some(first), Some(last)) => (*first, *last),
        // 16 bytes have both.
        _ => ([0; 8], [0; 8]),
    }
}

#[inline(always)]
const fn of_chunks(first: [u8; 8], last: [u8; 8]) -> Address {
    let mut address = [0; 16];
    if let Some(to) = address.first_chunk_mut::<8>() {
        *to = first;
    }
    if let Some(to) = address.last_chunk_mut::<8>() {
        *to = last;
    }
    address
}

/// Whether the address is IPv4.
#[must_use]
#[inline(always)]
pub const fn is_v4(address: &Address) -> bool {
    let (high, low) = halves(address);
    high == 0 && low >> 32 == 0xffff
}

/// Whether the address is `127.0.0.0/8` or `::1`.
#[must_use]
#[inline(always)]
pub const fn is_loopback(address: &Address) -> bool {
    let (high, low) = halves(address);
    high == 0 && (low >> 24 == 0x00ff_ff7f || low == 1)
}

/// Whether the address is IPv6 link-local.
#[must_use]
#[inline(always)]
pub const fn is_link_local(address: &Address) -> bool {
    address[0] == 0xfe && address[1] & 0xc0 == 0x80
}

/// Whether the address is multicast, or IPv4's limited broadcast.
#[must_use]
#[inline(always)]
pub const fn is_multicast(address: &Address) -> bool {
    let (high, low) = halves(address);
    high >> 56 == 0xff || (high == 0 && (low >> 28 == 0x000f_fffe || low == 0xffff_ffff_ffff))
}

/// An address of this host or of one of its network namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Local {
    /// The cookie of its network namespace; 0 if several have this address.
    pub namespace: u64,
    /// `LOCAL_` flags.
    pub flags: u32,
    /// Explicit padding, zero.
    pub reserved: u32,
}

/// The address is in the initial network namespace.
pub const LOCAL_HOST: u32 = 1 << 0;
/// The host routes the address by the link of the one namespace that has it.
pub const LOCAL_BY_LINK: u32 = 1 << 1;

/// How many links of namespaces are known.
pub const MAX_LINKS: u32 = 16 * 1024;
/// How many addresses may send by links.
pub const MAX_SOURCES: u32 = 128 * 1024;

/// The host's end of a link, keyed by its index in the initial network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Link {
    /// The cookie of the namespace at its other end.
    pub namespace: u64,
}

/// A source address by which a frame may come out of a link. The value is `SOURCE_OWN` or `SOURCE_BEHIND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct Source {
    /// The host's end of the link.
    pub device: u32,
    /// The address.
    pub address: Address,
}

/// The address is in the namespace at the other end.
pub const SOURCE_OWN: u32 = 1;
/// The address is in a namespace that reaches the host through that one.
pub const SOURCE_BEHIND: u32 = 2;

/// A network namespace, keyed by its cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Namespace {
    /// The one segment whose workloads live in it, by policy slot; `HOST` if none or several do; see `NAMESPACE_DENIED`.
    pub owner: [SegmentIndex; 2],
    /// `NAMESPACE_` flags by policy slot.
    pub flags: [u16; 2],
    /// The one segment that claims every address in it, link-local ones aside, by policy slot; else `NONE`.
    pub claimed: [SegmentIndex; 2],
}

/// Exactly one segment lives in the namespace.
pub const NAMESPACE_SINGLE: u16 = 1 << 0;
/// No segment claims any of the namespace's addresses: an unclaimed process in it is `host`.
pub const NAMESPACE_PLAIN: u16 = 1 << 1;

/// Somebody lives in the namespace whom a segment claims, or may claim.
pub const NAMESPACE_MANAGED: u16 = 1 << 2;
/// The kernel programs do not ask for it: somebody whom a segment claims lives in the namespace, or was the last to; `owner` and
/// the other flags are his until somebody else comes.
pub const NAMESPACE_LIVED: u16 = 1 << 3;
/// What is said of the owner is for the daemon alone: to the kernel programs the namespace is nobody's, and denied.
pub const NAMESPACE_DENIED: u16 = 1 << 4;

const _: () = assert!(size_of::<Link>() == 8);
const _: () = assert!(size_of::<Source>() == 20);
const _: () = assert!(size_of::<Local>() == 16);
const _: () = assert!(size_of::<Namespace>() == 12);
