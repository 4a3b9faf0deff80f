//! Which segment an address belongs to: a search over the lengths that the policy's prefixes have, and not over the prefixes.
//!
//! A hash table holds every prefix by its length and its bits. Its lengths stand in a tree: who finds the address's bits of one
//! length goes on to longer ones, who does not to shorter ones. So that the first is right, each prefix leaves a mark at the
//! shorter lengths that the search for it passes; a mark bears the segment of the longest prefix it lies in, so nobody ever has to go
//! back. (Waldvogel et al., "Scalable High Speed IP Routing Lookups", 1997.)
//!
//! INVARIANT: what an address costs follows the number of lengths, of which a search looks at `MAX_LOOKS`, and never the number
//! of prefixes.

use crate::{
    address::{Address, V4_PREFIX_BITS, halves, is_v4},
    segment::{self, SegmentIndex},
    tables::{Cell, Line, Tables, lines_of_hash, mixed},
};

/// How many lengths there may be: those of IPv4, those of IPv6, and 0, which ends a search.
pub const MAX_LENGTHS: usize = 256;
/// How many lengths a search looks at, at most.
pub const MAX_LOOKS: u32 = 9;

/// Set in an entry: there is one.
const ENTRY: u32 = 1 << 31;

/// A length at which a search looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Length {
    /// How many bits count; of IPv4, with those of its mapping.
    pub bits: u8,
    /// The number of the length to look at if there is an entry; 0: none.
    pub longer: u8,
    /// The number of the length to look at if there is none; 0: none.
    pub shorter: u8,
    /// Explicit padding, zero.
    pub reserved: u8,
}

/// The prefixes of a policy but for the table itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Lengths {
    /// The lengths by number.
    pub all: [Length; MAX_LENGTHS],
    /// Where the search for an IPv4 address begins, and for an IPv6 one; 0: there are no prefixes of it.
    pub first: [u8; 2],
    /// Explicit padding, zero.
    pub reserved: [u8; 2],
}

impl Default for Lengths {
    fn default() -> Lengths {
        Lengths {
            all: [Length::default(); MAX_LENGTHS],
            first: [0; 2],
            reserved: [0; 2],
        }
    }
}

/// Where in the lines the table of prefixes lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Prefixes {
    /// What it is hashed with.
    pub seed: u32,
    /// Its first line.
    pub first: u32,
    /// How many lines it has; 0: there are no prefixes.
    pub buckets: u32,
}

const _: () = assert!(33 + 129 < MAX_LENGTHS && 129 < 1 << MAX_LOOKS);
const _: () = assert!(size_of::<Length>() == 4);
const _: () = assert!(size_of::<Lengths>() == 4 * MAX_LENGTHS + 4 && size_of::<Prefixes>() == 12);

/// How many entries a line has.
pub const LINE_ENTRIES: usize = 3;

/// What the table holds of a prefix, or of a mark: never 0.
#[must_use]
pub const fn entry(bits: u8, owner: SegmentIndex) -> u32 {
    ENTRY | (bits as u32) << 16 | owner as u32
}

/// Puts an entry into a line: its address in the cell of its number, and what it says in the last cell.
pub fn put(line: &mut Line, number: usize, address: &Address, entry: u32) {
    let [a, b, c, says] = &mut line.cells;
    let (cell, said) = match number {
        0 => (a, &mut says.key),
        1 => (b, &mut says.rule),
        _ => (c, &mut says.low),
    };
    *said = entry;
    let (high, low) = halves(address);
    *cell = Cell {
        key: low as u32,
        rule: (low >> 32) as u32,
        low: high as u32,
        high: (high >> 32) as u32,
    };
}

/// The first bits of an address; the rest is 0.
#[must_use]
#[inline(always)]
pub const fn masked(high: u64, low: u64, bits: u8) -> (u64, u64) {
    let bits = bits as u32;
    if bits == 0 {
        (0, 0)
    } else if bits <= 64 {
        (high & u64::MAX << (64 - bits), 0)
    } else if bits < 128 {
        (high, low & u64::MAX << (128 - bits))
    } else {
        (high, low)
    }
}

/// The two lines in one of which the entry of some bits stands, if there is one: numbers that count from the table's first line.
#[must_use]
#[inline(always)]
pub const fn places(high: u64, low: u64, bits: u8, table: &Prefixes) -> [u32; 2] {
    // Whatever prefixes there are, those that have the same places have others under another seed: bits are weighed by it before
    // they meet the address, and the halves do not meet before one is mixed.
    let weight = (table.seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let first = mixed(high ^ weight.wrapping_mul(bits as u64));
    lines_of_hash(mixed(first.wrapping_add(low)), table.buckets)
}

/// The entry of the first bits of an address in one of the two lines where it may stand; 0: there is none.
// VERIFIER: one line at a time, so that who looks needs little of the stack.
#[inline(always)]
pub fn find<T: Tables>(tables: &T, high: u64, low: u64, bits: u8, second: bool) -> u32 {
    let table = tables.prefixes();
    let (high, low) = masked(high, low, bits);
    let places = places(high, low, bits, &table);
    let place = if second { places[1] } else { places[0] };
    in_line(tables, table.first.wrapping_add(place), high, low, bits)
}

#[inline(always)]
fn in_line<T: Tables>(tables: &T, index: u32, high: u64, low: u64, bits: u8) -> u32 {
    let Some(Line {
        cells: [a, b, c, says],
    }) = tables.line(index)
    else {
        // Nobody's, and not the world's.
        return entry(bits, segment::NONE);
    };
    if is(a, says.key, high, low, bits) {
        says.key
    } else if is(b, says.rule, high, low, bits) {
        says.rule
    } else if is(c, says.low, high, low, bits) {
        says.low
    } else {
        0
    }
}

// The part in which addresses differ most goes first.
#[inline(always)]
const fn is(cell: &Cell, entry: u32, high: u64, low: u64, bits: u8) -> bool {
    cell.key == low as u32
        && entry >> 16 == (ENTRY >> 16 | bits as u32)
        && cell.rule == (low >> 32) as u32
        && cell.low == high as u32
        && cell.high == (high >> 32) as u32
}

/// The segment of an address on the network, or `WORLD`.
#[inline(always)]
pub fn owner<T: Tables>(tables: &T, address: &Address) -> SegmentIndex {
    let (high, low) = halves(address);
    let six = usize::from(!is_v4(address));
    let mut number = tables.first_length(six);
    let mut owner = segment::WORLD;
    for _ in 0..MAX_LOOKS {
        if number == 0 {
            break;
        }
        let length = tables.length(number);
        let mut entry = tables.prefix(high, low, length.bits, false);
        if entry == 0 {
            entry = tables.prefix(high, low, length.bits, true);
        }
        if entry == 0 {
            number = length.shorter;
        } else {
            owner = entry as SegmentIndex;
            number = length.longer;
        }
    }
    owner
}

/// Whether a prefix is one of IPv4, whose search is its own.
#[must_use]
pub const fn is_of_v4(address: &Address, bits: u32) -> bool {
    bits >= V4_PREFIX_BITS && is_v4(address)
}
