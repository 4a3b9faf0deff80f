//! Segments as the kernel sees them: dense per-host indexes and a few flags.

/// A segment's index on this host. Dense.
pub type SegmentIndex = u16;

/// No segment: the zeroed value. Every pair with it is denied.
pub const NONE: SegmentIndex = 0;
/// This host's processes and kernel that no segment claims.
pub const HOST: SegmentIndex = 1;
/// Addresses in no segment.
pub const WORLD: SegmentIndex = 2;
/// segd's own health probe: never allowed, never audited.
pub const PROBE: SegmentIndex = 3;
/// The first index a policy's segment may get.
pub const FIRST_SEGMENT: SegmentIndex = 4;
/// How many indexes there are, the built-in ones included.
pub const MAX_SEGMENTS: usize = 1 << 16;

/// The index is in use by the policy in force.
pub const SEGMENT_VALID: u32 = 1 << 0;
/// The segment observes only: its denials are counted as `audited` and pass.
pub const SEGMENT_AUDIT: u32 = 1 << 1;
/// Something in the policy lets this segment initiate towards somebody (or audit lets it pass).
pub const SEGMENT_INITIATES: u32 = 1 << 2;
/// Something in the policy lets somebody initiate towards this segment (or audit lets it pass).
pub const SEGMENT_ADMITS: u32 = 1 << 3;
/// A guardrail is about what this segment initiates.
pub const SEGMENT_GUARDED: u32 = 1 << 4;
/// Its members may initiate towards each other (`intra: allow`).
pub const SEGMENT_INTRA: u32 = 1 << 5;
/// Its row has rules to `any`.
pub const SEGMENT_ROW: u32 = 1 << 6;
/// Its column has rules from `any`.
pub const SEGMENT_COLUMN: u32 = 1 << 7;

/// A segment's identifier, the same on every host: FNV-1a over the name, finished by murmur3's mixer.
#[must_use]
pub const fn segment_id(name: &str) -> u32 {
    let bytes = name.as_bytes();
    let mut hash: u32 = 0x811c_9dc5;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}
