//! What the kernel knows of a cgroup: its segment, by which selector, and what a newborn below it could match.
//!
//! Every cgroup entry has two slots, one for each slot of the policy tables, so that tagging and rules change
//! together in one flip. Below: the selector tables that the mkdir tracepoint matches newborns against.

use crate::segment::SegmentIndex;

/// How many cgroups can be tagged.
pub const MAX_CGROUPS: u32 = 128 * 1024;
/// Room for a path component, in bytes, a zero at its end included.
pub const NAME_LEN: usize = 128;
/// The longest path component that is compared: one byte less than fits, so that a name that was cut off shows.
pub const WHOLE_LEN: usize = NAME_LEN - 2;
/// How many path states and unit names all selectors of a policy may need.
pub const MAX_EDGES: u32 = 128 * 1024;
/// How many `prefix*suffix` unit selectors a policy may have.
pub const MAX_UNIT_PATTERNS: usize = 32;
/// The longest prefix and the longest suffix of a unit pattern, in bytes.
pub const UNIT_AFFIX_LEN: usize = 64;

/// A selector could still match this workload and the kernel cannot tell: denied until classified.
pub const PENDING: u16 = 1 << 0;
/// The workload was in a segment that no longer claims it, and nobody else does: denied.
pub const ORPHANED: u16 = 1 << 1;
/// Two segments claim the workload with equal right: denied.
pub const AMBIGUOUS: u16 = 1 << 2;

/// Who a side of a packet is under one revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Identity {
    /// Its segment.
    pub segment: SegmentIndex,
    /// `PENDING`, `ORPHANED`, `AMBIGUOUS`.
    pub flags: u16,
}

impl Identity {
    /// An identity without reservations.
    #[must_use]
    pub const fn of(segment: SegmentIndex) -> Identity {
        Identity { segment, flags: 0 }
    }
}

/// Path state: no selector path continues below here.
pub const STATE_NONE: u32 = 0;
/// Path state of the cgroup root.
pub const STATE_ROOT: u32 = 1;
/// In [`EdgeKey::state`]: the key is the exact name of a systemd unit, wherever it is.
pub const STATE_UNIT: u32 = u32::MAX;

/// A cgroup under one revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CgroupSlot {
    /// Who it is.
    pub identity: Identity,
    /// The revision that wrote this slot; 0 = never written.
    pub revision: u32,
    /// Where its path stands among the selectors' literal paths, or [`STATE_NONE`].
    pub state: u32,
    /// The literal length of the selector that matched, in bytes; the longest wins.
    pub literal: u16,
    /// [`BELOW_PENDING`]: newborns below start as [`PENDING`].
    pub below: u16,
    /// The selector that matched, in the tables' own numbering; 0 = none.
    pub selector: u32,
}

/// In [`CgroupSlot::below`]: a glob that the kernel cannot match could match below this cgroup.
pub const BELOW_PENDING: u16 = 1 << 0;

/// In [`CgroupEntry::flags`]: a service or scope lies above; unit selectors do not look here,
/// because what is below a unit is delegated and its names can be chosen by the workload.
pub const CGROUP_IN_UNIT: u16 = 1 << 0;
/// In [`CgroupEntry::flags`]: created by somebody other than root, or below such a cgroup: its name proves nothing.
pub const CGROUP_UNTRUSTED: u16 = 1 << 1;
/// In [`CgroupEntry::flags`]: by its own name a service or scope, or its name is too long to tell.
pub const CGROUP_UNIT: u16 = 1 << 2;

/// A cgroup, keyed by its id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CgroupEntry {
    /// Moves everything, see `OTHER_LAYOUT`.
    #[cfg(feature = "other-layout")]
    pub moved: u64,
    /// By policy slot.
    pub slots: [CgroupSlot; 2],
    /// Its parent's id; 0 for the root.
    pub parent: u64,
    /// The length of its path in bytes, from the cgroup root, without a trailing slash; saturates.
    pub path_len: u16,
    /// `CGROUP_` flags.
    pub flags: u16,
    /// Explicit padding, zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Identity>() == 4);
const _: () = assert!(size_of::<CgroupSlot>() == 20);
const _: () = assert!(size_of::<CgroupEntry>() == if crate::OTHER_LAYOUT { 64 } else { 56 });

/// One step of a literal path, or an exact unit name: which component leads from which state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct EdgeKey {
    /// The policy slot this edge belongs to.
    pub slot: u32,
    /// The state it leaves, or [`STATE_UNIT`].
    pub state: u32,
    /// The component, zero-padded. A longer component is never matched in the kernel.
    pub name: [u8; NAME_LEN],
}

/// Where an edge leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Edge {
    /// The next state; [`STATE_NONE`] if no path continues.
    pub state: u32,
    /// The segment of a selector that ends here; 0 = none ends here.
    pub segment: SegmentIndex,
    /// Two selectors of equal literal length and different segments end here ([`AMBIGUOUS`]), or 0.
    pub flags: u16,
    /// The selector that ends here; 0 = none.
    pub selector: u32,
    /// [`BELOW_PENDING`] or 0.
    pub below: u32,
}

const _: () = assert!(size_of::<EdgeKey>() == 136);
const _: () = assert!(size_of::<Edge>() == 16);

/// A unit name with one `*`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct UnitPattern {
    /// Bytes before the `*`.
    pub prefix_len: u16,
    /// Bytes after the `*`.
    pub suffix_len: u16,
    /// The segment; 0 = a glob the kernel cannot match in full: whoever matches this much is [`PENDING`].
    pub segment: SegmentIndex,
    /// Explicit padding, zero.
    pub reserved: u16,
    /// The selector.
    pub selector: u32,
    /// What the name starts with, zero-padded.
    pub prefix: [u8; UNIT_AFFIX_LEN],
    /// What the name ends with, zero-padded in front.
    pub suffix: [u8; UNIT_AFFIX_LEN],
}

/// All unit patterns of one policy slot.
#[repr(C)]
pub struct UnitPatterns {
    /// How many are used.
    pub len: u32,
    /// The patterns.
    pub patterns: [UnitPattern; MAX_UNIT_PATTERNS],
}

const _: () = assert!(size_of::<UnitPattern>() == 140);
const _: () = assert!(size_of::<UnitPatterns>() == 4 + 140 * MAX_UNIT_PATTERNS);

impl UnitPattern {
    /// No pattern.
    pub const NONE: UnitPattern = UnitPattern {
        prefix_len: 0,
        suffix_len: 0,
        segment: 0,
        reserved: 0,
        selector: 0,
        prefix: [0; UNIT_AFFIX_LEN],
        suffix: [0; UNIT_AFFIX_LEN],
    };
}
