//! The compiled policy: exactly what the kernel reads, whatever the number of rules.
//!
//! Segments that initiate under the same rules are one *row*, those that are initiated to under the same rules one
//! *column*. What holds between a row and a column is a [`Cell`], found in one of two lines of a hash table. A cell with
//! one range is that range; longer lists lie behind the table, equal ones once.
//!
//! INVARIANT: zeroed memory allows nothing, wherever it stands; of prefixes it claims nothing, and an address in none is `world`.

use crate::{
    prefixes::{self, Length, Lengths, Prefixes},
    segment::{MAX_SEGMENTS, SEGMENT_COLUMN, SEGMENT_ROW, SEGMENT_VALID},
    service::Service,
    verdict::RuleIndex,
};

/// How many rules there may be, those that take turns included.
pub const MAX_RULES: usize = 1 << 20;
/// How many cells there may be.
pub const MAX_PAIRS: usize = 1 << 22;
/// How many port ranges all lists may have together.
pub const MAX_RANGES: usize = 1 << 22;
/// How many ranges a list may have.
pub const MAX_IN_LIST: usize = (1 << 16) - 1;
/// How many lines a search in a list looks at, at most: one in each level of the tree.
pub const MAX_LEVELS: u32 = 7;

/// Set in [`Cell::rule`]: a guardrail, not an allow.
pub const RULE_DENY: RuleIndex = 1 << 31;
/// A range of traffic inside a segment whose `intra` is `allow`. Not in the tables: the segment's flag says so.
pub const RULE_INTRA: RuleIndex = (1 << 30) | 1;
/// A range of `host` traffic that the policy does not enforce. Not in the tables: [`TABLES_HOST_OPEN`] says so.
pub const RULE_HOST: RuleIndex = (1 << 30) | 2;
/// Set in [`Cell::rule`]: the rule ends by itself, at what [`Tables::is_over`] says.
pub const RULE_UNTIL: RuleIndex = 1 << 29;
/// Set in [`Cell::rule`]: the cell is a range. Without it, it allows nothing.
pub const CELL_RANGE: u32 = 1 << 28;
/// Set in [`Cell::rule`]: the cell is a list of `high` ranges, in the lines from `low` on. Their cells are a tree: see [`below`].
pub const CELL_LIST: u32 = 1 << 27;

/// The whole policy only observes (`segd run --mode audit`, `spec.mode: audit`).
pub const TABLES_AUDIT: u32 = 1 << 0;
/// The tables are complete. The zeroed value is not a policy.
pub const TABLES_VALID: u32 = 1 << 1;
/// The policy does not enforce `host`: it may reach, and be reached by, itself and `world`.
pub const TABLES_HOST_OPEN: u32 = 1 << 2;

/// One range of services and the rule that decides it, a list of those, or nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct Cell {
    /// Whose it is, in the table: `row << 16 | column`; 0: nobody's.
    pub key: u32,
    /// The rule, with [`CELL_RANGE`] and perhaps [`RULE_DENY`] or [`RULE_UNTIL`]; or [`CELL_LIST`].
    pub rule: RuleIndex,
    /// The first service; of a list, the number of its first line.
    pub low: Service,
    /// The last service; of a list, how many ranges it has.
    pub high: Service,
}

/// How many cells a line has.
pub const LINE_CELLS: usize = 4;
/// How many numbers of 64 bits a line has.
pub const LINE_WORDS: u32 = 8;

/// What is read at once: a cache line of four cells, or of eight numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Line {
    /// The cells.
    pub cells: [Cell; LINE_CELLS],
}

/// Services `low..=high` and the rule that decides them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// The first service.
    pub low: Service,
    /// The last service.
    pub high: Service,
    /// The rule, with [`RULE_DENY`] for a guardrail or [`RULE_UNTIL`] if it ends, or one of the `RULE_` constants.
    pub rule: RuleIndex,
}

/// A segment under one revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// `SEGMENT_` flags.
    pub flags: u32,
    /// Who initiates under the same rules; 0: under none but those from `any`.
    pub row: u16,
    /// Who is initiated to under the same rules; 0: under none but those to `any`.
    pub column: u16,
}

/// Where in the lines what lies: the table from 0 on, lists behind it, prefixes, then hits, then ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Shape {
    /// What the table is hashed with.
    pub seed: u32,
    /// How many lines the table has.
    pub buckets: u32,
    /// The first line of the hits: how often each rule decided.
    pub hits: u32,
    /// The first line of the ends: when each rule ends, in nanoseconds of the clock that counts from boot, suspended time
    /// included; 0 = never.
    pub ends: u32,
    /// How many rules have hits.
    pub rules: u32,
    /// How many of them have ends.
    pub ending: u32,
    /// The table of prefixes.
    pub prefixes: Prefixes,
    /// Explicit padding, zero.
    pub reserved: u32,
}

/// One revision of the policy but for its lines, as it lies in the kernel: the value of one map slot.
#[repr(C)]
pub struct PolicyTables {
    /// The revision, never 0 in a valid table.
    pub revision: u32,
    /// `TABLES_` flags.
    pub flags: u32,
    /// Where the lines are what.
    pub shape: Shape,
    /// What holds where no cell is: the rules from `any` to `any`.
    pub any: Cell,
    /// The lengths of prefixes.
    pub lengths: Lengths,
    /// Explicit padding, zero.
    pub reserved: u32,
    /// Segments by index.
    pub segments: [Segment; MAX_SEGMENTS],
}

const _: () = assert!(size_of::<Cell>() == 16 && size_of::<Line>() == 64);
const _: () = assert!(size_of::<Line>() == LINE_WORDS as usize * size_of::<u64>());
// Full trees of as many levels.
const _: () = assert!(MAX_IN_LIST < 5_usize.pow(MAX_LEVELS) && MAX_IN_LIST >= 5_usize.pow(MAX_LEVELS - 1));
const _: () = assert!(size_of::<Segment>() == 8 && size_of::<Shape>() == 40);
const _: () = assert!(size_of::<PolicyTables>() == 64 + size_of::<Lengths>() + 4 + 8 * MAX_SEGMENTS);

/// Read access to one revision of the policy.
pub trait Tables {
    /// `TABLES_` flags.
    fn flags(&self) -> u32;
    /// A segment; zeroed for an index out of range.
    fn segment(&self, index: u16) -> Segment;
    /// Where the lines are what.
    fn shape(&self) -> Shape;
    /// What holds where no cell is.
    fn any(&self) -> &Cell;
    /// The line at an index; `None` out of range.
    fn line(&self, index: u32) -> Option<&Line>;
    /// Where the table of prefixes is.
    fn prefixes(&self) -> Prefixes;
    /// The number of the length to look at first: of IPv4 (0) or IPv6 (1).
    fn first_length(&self, six: usize) -> u8;
    /// A length by its number.
    fn length(&self, number: u8) -> Length;
    /// The entry of the first bits of an address: what [`prefixes::find`] says.
    // VERIFIER: kernel programs look in a function of its own, or each look would be another path through all that follow.
    #[inline(always)]
    fn prefix(&self, high: u64, low: u64, bits: u8, second: bool) -> u32
    where
        Self: Sized,
    {
        prefixes::find(self, high, low, bits, second)
    }
    /// Whether the time of a rule with [`RULE_UNTIL`] is over. Asked of no other; what is not known is over.
    fn is_over(&self, rule: RuleIndex) -> bool;
}

impl Cell {
    /// The key of a row and a column.
    #[must_use]
    #[inline(always)]
    pub const fn key(row: u16, column: u16) -> u32 {
        (row as u32) << 16 | column as u32
    }

    /// A range by itself.
    #[must_use]
    pub const fn of(range: PortRange) -> Cell {
        Cell {
            key: 0,
            rule: range.rule | CELL_RANGE,
            low: range.low,
            high: range.high,
        }
    }

    /// The range that a cell is.
    #[must_use]
    #[inline(always)]
    pub const fn range(self) -> Option<PortRange> {
        if self.rule & CELL_RANGE == 0 {
            return None;
        }
        Some(PortRange {
            low: self.low,
            high: self.high,
            rule: self.rule & !CELL_RANGE,
        })
    }
}

/// The two lines of a table in one of which the cell of a key stands, if there is one.
#[must_use]
#[inline(always)]
pub const fn places(key: u32, seed: u32, buckets: u32) -> [u32; 2] {
    lines_of_hash(mixed((seed as u64) << 32 | key as u64), buckets)
}

/// murmur3's mixer.
#[must_use]
#[inline(always)]
pub const fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

/// Each half of a hash chooses a line.
#[must_use]
#[inline(always)]
pub const fn lines_of_hash(hash: u64, buckets: u32) -> [u32; 2] {
    let buckets = buckets as u64;
    [
        (((hash & 0xffff_ffff) * buckets) >> 32) as u32,
        (((hash >> 32) * buckets) >> 32) as u32,
    ]
}

/// What holds between two segments; `None`: nothing.
#[inline(always)]
pub fn between<T: Tables>(tables: &T, from: Segment, to: Segment) -> Option<&Cell> {
    placed(tables, place(tables, from, to))
}

/// The place of [`Tables::any`].
const ANY: u32 = u32::MAX;

/// Where what holds between two segments stands: one more than a cell's number, or [`ANY`]; 0: nowhere.
// VERIFIER: a number, so that kernel programs can find it in one function and use it in another.
#[inline(always)]
pub fn place<T: Tables>(tables: &T, from: Segment, to: Segment) -> u32 {
    // Who is in no policy is not in `any`.
    if from.flags & to.flags & SEGMENT_VALID == 0 {
        return 0;
    }
    if from.row != 0 && to.column != 0 {
        let found = find(tables, Cell::key(from.row, to.column));
        if found != 0 {
            return found;
        }
    }
    // A row and a column that both have rules with `any` have a cell for the two.
    if from.flags & SEGMENT_ROW != 0 {
        find(tables, Cell::key(from.row, 0))
    } else if to.flags & SEGMENT_COLUMN != 0 {
        find(tables, Cell::key(0, to.column))
    } else {
        ANY
    }
}

/// What stands at a [`place`].
#[inline(always)]
pub fn placed<T: Tables>(tables: &T, place: u32) -> Option<&Cell> {
    match place {
        0 => None,
        ANY => Some(tables.any()),
        _ => numbered(tables, place - 1),
    }
}

/// The place of a key's cell.
#[inline(always)]
fn find<T: Tables>(tables: &T, key: u32) -> u32 {
    let shape = tables.shape();
    let [first, second] = places(key, shape.seed, shape.buckets);
    match in_line(tables, first, key) {
        0 => in_line(tables, second, key),
        found => found,
    }
}

#[inline(always)]
fn in_line<T: Tables>(tables: &T, index: u32, key: u32) -> u32 {
    let Some(Line { cells: [a, b, c, d] }) = tables.line(index) else {
        return 0;
    };
    let first = index * LINE_CELLS as u32;
    if a.key == key {
        first + 1
    } else if b.key == key {
        first + 2
    } else if c.key == key {
        first + 3
    } else if d.key == key {
        first + 4
    } else {
        0
    }
}

/// The cell with a number, counted over all lines.
#[inline(always)]
pub fn numbered<T: Tables>(tables: &T, number: u32) -> Option<&Cell> {
    let line = tables.line(number / LINE_CELLS as u32)?;
    // VERIFIER: `black_box`, or the compiler adds to the pointer before it looks whether there is one.
    line.cells
        .get(core::hint::black_box(number as usize % LINE_CELLS))
}

/// The line of a list's tree that is below another one: line 0 is the root, and the ranges of the line below `turn` 0 stand before
/// the first cell of the line, those of 1 behind it and before the second, and so on. What is left of the last lines are
/// cells of no range, which begin above every service.
#[must_use]
#[inline(always)]
pub const fn below(line: u32, turn: u32) -> u32 {
    line * (LINE_CELLS as u32 + 1) + turn + 1
}

/// How many lines a list takes.
#[must_use]
#[inline(always)]
pub const fn lines_of_list(ranges: u32) -> u32 {
    ranges.div_ceil(LINE_CELLS as u32)
}
