//! Which segment a cgroup is born into: the one classification that the mkdir tracepoint and the daemon run.
//!
//! INVARIANT: it looks at the parent's slot and at the cgroup's own name, nowhere else, so a child is classified
//! the moment it exists, by whoever sees it first, with one result.
//! INVARIANT: what it cannot tell is `PENDING`, never a guess; a parent that was never classified gives a child
//! without a segment.
//! VERIFIER: constant loop bounds, masked indexes, and comparisons without branches, so that paths do not multiply.
//!
//! Deliberately absent: globs with several `*` and globs in paths. They are the daemon's; here they only make
//! newborns `PENDING`.

use crate::{
    segment::{self, SegmentIndex},
    workload::{
        AMBIGUOUS, BELOW_PENDING, CGROUP_IN_UNIT, CGROUP_UNIT, CGROUP_UNTRUSTED, CgroupSlot, Edge,
        MAX_UNIT_PATTERNS, NAME_LEN, PENDING, STATE_NONE, STATE_UNIT, UNIT_AFFIX_LEN, UnitPattern, WHOLE_LEN,
    },
};

/// One policy slot's literal selectors.
pub trait Edges {
    /// The edge that a path component takes from a state, or, from [`STATE_UNIT`], the unit of exactly this name.
    fn edge(&self, state: u32, name: &[u8; NAME_LEN]) -> Option<Edge>;
}

/// All of one policy slot's selectors.
pub trait Selectors: Edges {
    /// A unit pattern; `None` past the last.
    fn unit_pattern(&self, index: u32) -> Option<&UnitPattern>;
}

/// A cgroup's own name: the last component of its path. 200 bytes: in the kernel it lives in a map, not on the stack.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Name {
    /// Its bytes, zero-padded; cut off if it is longer.
    bytes: [u8; NAME_LEN],
    /// Its last bytes, zero-padded in front.
    tail: [u8; UNIT_AFFIX_LEN],
    /// Its length; anything above [`WHOLE_LEN`] says that `bytes` may not be the whole name.
    len: u32,
    /// Explicit padding, zero.
    reserved: u32,
}

impl Default for Name {
    fn default() -> Name {
        Name {
            bytes: [0; NAME_LEN],
            tail: [0; UNIT_AFFIX_LEN],
            len: 0,
            reserved: 0,
        }
    }
}

impl Name {
    /// The name of these bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Name {
        let mut name = Name::default();
        for (to, from) in name.bytes.iter_mut().zip(bytes) {
            *to = *from;
        }
        name.seal(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        name
    }

    /// Where the bytes are written, all of them, zeros behind the name included; [`Name::seal`] comes after.
    #[inline(always)]
    pub fn buffer(&mut self) -> &mut [u8; NAME_LEN] {
        &mut self.bytes
    }

    /// Says how long the name in the buffer is. If it fills the buffer but for a zero, it may have been cut off.
    #[inline(always)]
    pub fn seal(&mut self, len: u32) {
        self.len = len;
        let mut i = 0;
        while i < UNIT_AFFIX_LEN {
            let from_end = (UNIT_AFFIX_LEN - i) as u32;
            // VERIFIER: the mask is the bound check; what it folds back is in front of the name and blanked.
            let at = len.wrapping_sub(from_end) as usize & (NAME_LEN - 1);
            self.tail[i] = self.bytes[at] & ones_unless_less(len, from_end);
            i += 1;
        }
    }

    /// Its bytes, zero-padded; not all of them unless it is whole.
    #[must_use]
    #[inline(always)]
    pub const fn bytes(&self) -> &[u8; NAME_LEN] {
        &self.bytes
    }

    /// Whether all of the name is there to be compared.
    #[must_use]
    #[inline(always)]
    pub const fn is_whole(&self) -> bool {
        self.len <= WHOLE_LEN as u32
    }

    /// Whether a whole name ends like that of a service or scope.
    #[inline(always)]
    fn is_unit(&self) -> bool {
        let [.., a, b, c, d, e, f, g, h] = self.tail;
        let scope = [c, d, e, f, g, h] == *b".scope";
        let service = [a, b, c, d, e, f, g, h] == *b".service";
        scope | service
    }
}

/// A selector that matches a cgroup, and with what right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The segment; `NONE` claims nothing.
    pub segment: SegmentIndex,
    /// [`AMBIGUOUS`] if two segments claim with this literal length, else 0.
    pub flags: u16,
    /// The selector, from 1.
    pub selector: u32,
    /// The literal length in bytes.
    pub literal: u16,
}

/// The length of a child's path. A name that is not whole counts [`NAME_LEN`] bytes, here and in the kernel.
#[must_use]
#[inline(always)]
pub fn child_path_len(parent_path_len: u16, name: &Name) -> u16 {
    let own = if name.is_whole() {
        name.len as u16
    } else {
        NAME_LEN as u16
    };
    parent_path_len.saturating_add(1).saturating_add(own)
}

/// The `CGROUP_` flags of a child.
///
/// `created_by_root`: by uid 0 of the initial user namespace. Who looks only later asks whether nobody but root
/// may create directories in the parent.
#[must_use]
#[inline(always)]
pub fn child_flags(parent_flags: u16, created_by_root: bool, name: &Name) -> u16 {
    let mut flags = parent_flags & (CGROUP_IN_UNIT | CGROUP_UNTRUSTED);
    if parent_flags & CGROUP_UNIT != 0 {
        flags |= CGROUP_IN_UNIT;
    }
    if !created_by_root {
        flags |= CGROUP_UNTRUSTED;
    }
    // How a name ends that is not whole is unknown; assuming a unit only takes rights away from what is below.
    if !name.is_whole() || name.is_unit() {
        flags |= CGROUP_UNIT;
    }
    flags
}

/// Classifies a cgroup from its parent's slot, the length of its parent's path, its own flags and its own name.
///
/// The child is what its parent is, unless a selector matches the child itself and its literal is longer. Equal
/// literals of two segments make it [`AMBIGUOUS`]. What stands only on the parent's orphanhood ends with any match.
#[must_use]
#[inline(always)]
pub fn classify<S: Selectors>(
    selectors: &S,
    parent: &CgroupSlot,
    parent_path_len: u16,
    flags: u16,
    name: &Name,
) -> CgroupSlot {
    let mut child = CgroupSlot::default();
    if !inherit(&mut child, parent) {
        return child;
    }
    if is_by_unit(flags) {
        for index in 0..MAX_UNIT_PATTERNS as u32 {
            let Some(pattern) = selectors.unit_pattern(index) else {
                break;
            };
            claim_pattern(&mut child, pattern, name, parent_path_len);
        }
    }
    claim_edges(&mut child, selectors, parent, parent_path_len, flags, name);
    child
}

/// The first step of [`classify`]: what a child is before any selector matches it. `false`: nobody knows its parent, and that is all.
#[must_use]
#[inline(always)]
pub fn inherit(child: &mut CgroupSlot, parent: &CgroupSlot) -> bool {
    *child = *parent;
    if parent.revision == 0 {
        *child = CgroupSlot::default();
        return false;
    }
    child.state = STATE_NONE;
    child.identity.flags |= (parent.below & BELOW_PENDING) * (PENDING / BELOW_PENDING);
    true
}

/// Whether unit selectors can match a cgroup with these `CGROUP_` flags. The second step of [`classify`] is [`claim_pattern`] with each
/// pattern then.
#[must_use]
#[inline(always)]
pub const fn is_by_unit(flags: u16) -> bool {
    flags & (CGROUP_IN_UNIT | CGROUP_UNTRUSTED) == 0
}

/// The last step of [`classify`]: what matches every byte of the name.
#[inline(always)]
pub fn claim_edges<S: Edges>(
    child: &mut CgroupSlot,
    selectors: &S,
    parent: &CgroupSlot,
    parent_path_len: u16,
    flags: u16,
    name: &Name,
) {
    if !name.is_whole() {
        return;
    }
    let path_len = child_path_len(parent_path_len, name);
    if is_by_unit(flags)
        && let Some(edge) = selectors.edge(STATE_UNIT, name.bytes())
    {
        claim(child, ended(&edge, path_len));
    }
    if parent.state != STATE_NONE
        && let Some(edge) = selectors.edge(parent.state, name.bytes())
    {
        child.state = edge.state;
        child.below |= edge.below as u16 & BELOW_PENDING;
        claim(child, ended(&edge, path_len));
    }
}

/// Lets a selector claim a cgroup: the longest literal wins, a tie between segments is [`AMBIGUOUS`]. What is
/// [`PENDING`] stays so.
#[inline(always)]
pub fn claim(slot: &mut CgroupSlot, claim: Claim) {
    if claim.segment == segment::NONE {
        return;
    }
    if slot.selector == 0 || claim.literal > slot.literal {
        slot.identity.segment = claim.segment;
        slot.identity.flags = slot.identity.flags & PENDING | claim.flags & AMBIGUOUS;
        slot.literal = claim.literal;
        slot.selector = claim.selector;
    } else if claim.literal == slot.literal {
        slot.identity.flags |= claim.flags & AMBIGUOUS;
        if claim.segment != slot.identity.segment {
            slot.identity.flags |= AMBIGUOUS;
        }
    }
}

/// The claim of a selector whose every byte is literal.
#[inline(always)]
fn ended(edge: &Edge, path_len: u16) -> Claim {
    Claim {
        segment: edge.segment,
        flags: edge.flags,
        selector: edge.selector,
        literal: path_len,
    }
}

/// Lets a unit pattern claim if it matches; [`PENDING`] if it says so or cannot be compared.
// VERIFIER: on a frame of its own: the compiler finds no way through all of it on the stack of another function.
#[inline(never)]
pub fn claim_pattern(child: &mut CgroupSlot, pattern: &UnitPattern, name: &Name, parent_path_len: u16) {
    let matched = pattern_matches(pattern, name);
    if !name.is_whole() || (matched && pattern.segment == segment::NONE) {
        child.identity.flags |= PENDING;
    } else if matched {
        let own = pattern.prefix_len.saturating_add(pattern.suffix_len);
        let literal = parent_path_len.saturating_add(1).saturating_add(own);
        let (segment, selector) = (pattern.segment, pattern.selector);
        claim(
            child,
            Claim {
                segment,
                flags: 0,
                selector,
                literal,
            },
        );
    }
}

/// Whether a whole name starts with the prefix and ends, behind it, with the suffix.
#[inline(always)]
fn pattern_matches(pattern: &UnitPattern, name: &Name) -> bool {
    if u32::from(pattern.prefix_len) + u32::from(pattern.suffix_len) > name.len {
        return false;
    }
    let (head, _) = name.bytes.as_chunks::<8>();
    let (tail, _) = name.tail.as_chunks::<8>();
    let (prefix, _) = pattern.prefix.as_chunks::<8>();
    let (suffix, _) = pattern.suffix.as_chunks::<8>();
    let mut difference = 0;
    let mut i = 0;
    while i < UNIT_AFFIX_LEN / 8 {
        difference |= unlike(head[i], prefix[i]) | unlike(tail[i], suffix[i]);
        i += 1;
    }
    difference == 0
}

/// Zero if the bytes are equal wherever the pattern's are not zero. No name holds a zero byte.
#[inline(always)]
fn unlike(bytes: [u8; 8], pattern: [u8; 8]) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let pattern = u64::from_ne_bytes(pattern);
    let not_zero = (((pattern & LOW) + LOW) | pattern) & !LOW;
    (u64::from_ne_bytes(bytes) ^ pattern) & ((not_zero >> 7) * 0xff)
}

/// Zero if `len < least`, else all ones, without a branch.
#[inline(always)]
fn ones_unless_less(len: u32, least: u32) -> u8 {
    // VERIFIER: hidden from the compiler, which would make a branch of it, in every turn of a loop; see `decide::is_below`.
    let beyond = core::hint::black_box(i64::from(len) - i64::from(least));
    !(beyond >> 63) as u8
}

const _: () = assert!(size_of::<Name>() == 200);
const _: () = assert!(NAME_LEN.is_power_of_two() && UNIT_AFFIX_LEN <= NAME_LEN);

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{collections::BTreeMap, vec::Vec};

    use super::*;
    use crate::workload::{Identity, ORPHANED, STATE_ROOT};

    #[derive(Default)]
    struct Table {
        edges: BTreeMap<(u32, [u8; NAME_LEN]), Edge>,
        patterns: Vec<UnitPattern>,
    }

    impl Edges for Table {
        fn edge(&self, state: u32, name: &[u8; NAME_LEN]) -> Option<Edge> {
            self.edges.get(&(state, *name)).copied()
        }
    }

    impl Selectors for Table {
        fn unit_pattern(&self, index: u32) -> Option<&UnitPattern> {
            self.patterns.get(index as usize)
        }
    }

    fn padded<const N: usize>(text: &str) -> [u8; N] {
        let mut bytes = [0; N];
        for (to, from) in bytes.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        bytes
    }

    fn padded_in_front(text: &str) -> [u8; UNIT_AFFIX_LEN] {
        let mut bytes = [0; UNIT_AFFIX_LEN];
        for (to, from) in bytes.iter_mut().rev().zip(text.bytes().rev()) {
            *to = from;
        }
        bytes
    }

    fn pattern(prefix: &str, suffix: &str, segment: SegmentIndex) -> UnitPattern {
        UnitPattern {
            prefix_len: prefix.len() as u16,
            suffix_len: suffix.len() as u16,
            segment,
            reserved: 0,
            selector: 9,
            prefix: padded(prefix),
            suffix: padded_in_front(suffix),
        }
    }

    fn edge(segment: SegmentIndex, state: u32) -> Edge {
        Edge {
            state,
            segment,
            flags: 0,
            selector: u32::from(segment),
            below: 0,
        }
    }

    fn root() -> CgroupSlot {
        CgroupSlot {
            identity: Identity::of(segment::HOST),
            revision: 7,
            state: STATE_ROOT,
            ..CgroupSlot::default()
        }
    }

    fn child(table: &Table, parent: &CgroupSlot, parent_len: u16, flags: u16, name: &str) -> CgroupSlot {
        classify(table, parent, parent_len, flags, &Name::new(name.as_bytes()))
    }

    fn unit(name: &str, segment: SegmentIndex) -> Table {
        let mut table = Table::default();
        table.edges.insert((STATE_UNIT, padded(name)), edge(segment, 0));
        table
    }

    #[test]
    fn a_child_that_nothing_matches_is_what_its_parent_is() {
        let parent = CgroupSlot {
            identity: Identity::of(5),
            literal: 4,
            selector: 3,
            ..root()
        };
        let born = child(&Table::default(), &parent, 4, 0, "x");
        assert_eq!(
            born,
            CgroupSlot {
                state: STATE_NONE,
                ..parent
            },
            "all but the path state is inherited"
        );
    }

    #[test]
    fn a_child_of_an_unclassified_parent_has_no_segment() {
        let table = unit("nginx.service", 5);
        assert_eq!(
            child(&table, &CgroupSlot::default(), 0, 0, "nginx.service"),
            CgroupSlot::default()
        );
    }

    #[test]
    fn a_literal_path_is_followed_component_by_component() {
        let mut table = Table::default();
        table.edges.insert((STATE_ROOT, padded("shop")), edge(0, 2));
        table.edges.insert((2, padded("web")), edge(5, 0));
        let shop = child(&table, &root(), 0, CGROUP_UNTRUSTED, "shop");
        assert_eq!((shop.identity, shop.state), (Identity::of(segment::HOST), 2));
        let web = child(&table, &shop, 5, CGROUP_UNTRUSTED, "web");
        assert_eq!(
            (web.identity, web.state, web.literal),
            (Identity::of(5), STATE_NONE, 9)
        );
        assert_eq!(
            child(&table, &shop, 5, 0, "we").identity,
            Identity::of(segment::HOST)
        );
        assert_eq!(
            child(&table, &root(), 0, 0, "web").identity,
            Identity::of(segment::HOST)
        );
    }

    #[test]
    fn a_unit_name_counts_only_where_root_made_it_and_no_unit_lies_above() {
        let table = unit("nginx.service", 5);
        assert_eq!(
            child(&table, &root(), 13, 0, "nginx.service").identity,
            Identity::of(5)
        );
        for flags in [CGROUP_UNTRUSTED, CGROUP_IN_UNIT, CGROUP_IN_UNIT | CGROUP_UNIT] {
            let born = child(&table, &root(), 13, flags, "nginx.service");
            assert_eq!(born.identity, Identity::of(segment::HOST), "flags {flags}");
        }
        assert_eq!(
            child(&table, &root(), 13, CGROUP_UNIT, "nginx.service").identity,
            Identity::of(5)
        );
    }

    #[test]
    fn a_pattern_matches_prefix_and_suffix_without_overlap() {
        let long = "p".repeat(64);
        let cases = [
            ("postgresql", ".service", "postgresql@16.service", true),
            ("postgresql", ".service", "postgresql.service", true),
            ("postgresql", ".service", "postgresq.service", false),
            ("postgresql", ".service", "postgresql.servicE", false),
            ("aba", "aba", "ababa", false),
            ("aba", "aba", "abaaba", true),
            ("", ".service", ".service", true),
            ("", ".service", "service", false),
            ("a", "", "a", true),
            ("a", "", "b", false),
            ("", "", "", true),
            (&long, &long[..63], &"p".repeat(127), true),
            (&long, &long[..63], &"p".repeat(126), false),
        ];
        for (prefix, suffix, name, expected) in cases {
            let matched = pattern_matches(&pattern(prefix, suffix, 5), &Name::new(name.as_bytes()));
            assert_eq!(matched, expected, "{prefix}*{suffix} {name}");
        }
    }

    #[test]
    fn the_longest_literal_wins_and_a_tie_is_ambiguous() {
        let mut table = unit("a.service", 5);
        table.patterns.push(pattern("a", ".servic", 6));
        assert_eq!(
            child(&table, &root(), 0, 0, "a.service").identity,
            Identity::of(5)
        );
        table.patterns.push(pattern("a", ".service", 7));
        let tied = child(&table, &root(), 0, 0, "a.service");
        assert_eq!(tied.identity.flags, AMBIGUOUS);
        let below = child(&table, &tied, 10, CGROUP_IN_UNIT, "x");
        assert_eq!(
            below.identity.flags, AMBIGUOUS,
            "what is below an ambiguous cgroup is ambiguous"
        );
        let parent = CgroupSlot {
            identity: Identity::of(8),
            literal: 100,
            selector: 1,
            ..root()
        };
        assert_eq!(
            child(&table, &parent, 0, 0, "a.service").identity,
            Identity::of(8),
            "shorter: inherited stays"
        );
    }

    #[test]
    fn pending_is_inherited_and_a_match_does_not_end_it() {
        let table = unit("a.service", 5);
        let below = CgroupSlot {
            below: BELOW_PENDING,
            ..root()
        };
        let born = child(&table, &below, 0, 0, "a.service");
        assert_eq!(
            born.identity,
            Identity {
                segment: 5,
                flags: PENDING
            }
        );
        assert_eq!(born.below, BELOW_PENDING);
        let next = child(&table, &CgroupSlot { below: 0, ..born }, 10, CGROUP_IN_UNIT, "x");
        assert_eq!(
            next.identity,
            Identity {
                segment: 5,
                flags: PENDING
            }
        );
    }

    #[test]
    fn an_edge_makes_what_is_below_it_pending_but_not_itself() {
        let mut table = Table::default();
        let glob = Edge {
            below: u32::from(BELOW_PENDING),
            ..edge(0, 0)
        };
        table.edges.insert((STATE_ROOT, padded("shop")), glob);
        let shop = child(&table, &root(), 0, 0, "shop");
        assert_eq!((shop.identity.flags, shop.below), (0, BELOW_PENDING));
        assert_eq!(child(&table, &shop, 5, 0, "x").identity.flags, PENDING);
    }

    #[test]
    fn a_pattern_without_a_segment_makes_its_matches_pending() {
        let mut table = Table::default();
        table.patterns.push(pattern("a", ".service", segment::NONE));
        table.patterns.push(pattern("ab", ".service", 5));
        let born = child(&table, &root(), 0, 0, "abc.service");
        assert_eq!(
            born.identity,
            Identity {
                segment: 5,
                flags: PENDING
            }
        );
        assert_eq!(
            child(&table, &root(), 0, 0, "b.service").identity,
            Identity::of(segment::HOST)
        );
        assert_eq!(
            child(&table, &root(), 0, CGROUP_UNTRUSTED, "abc.service")
                .identity
                .flags,
            0
        );
    }

    #[test]
    fn a_name_too_long_is_pending_where_a_pattern_could_match_it() {
        let name = std::format!("{}.service", "n".repeat(WHOLE_LEN - 7));
        let mut table = unit("nginx.service", 5);
        assert_eq!(
            child(&table, &root(), 0, 0, &name).identity,
            Identity::of(segment::HOST)
        );
        table.patterns.push(pattern("x", ".service", 5));
        assert_eq!(child(&table, &root(), 0, 0, &name).identity.flags, PENDING);
        assert_eq!(
            child(&table, &root(), 0, 0, &name[1..]).identity.flags,
            0,
            "the longest whole name"
        );
        assert_eq!(child(&table, &root(), 0, CGROUP_IN_UNIT, &name).identity.flags, 0);
    }

    #[test]
    fn a_child_of_an_orphan_is_orphaned_unless_a_selector_matches_it() {
        let orphan = CgroupSlot {
            identity: Identity {
                segment: 9,
                flags: ORPHANED,
            },
            ..root()
        };
        let table = unit("a.service", 5);
        assert_eq!(child(&table, &orphan, 3, 0, "x").identity, orphan.identity);
        assert_eq!(
            child(&table, &orphan, 3, 0, "a.service").identity,
            Identity::of(5)
        );
    }

    #[test]
    fn flags_pass_down_and_tell_units_by_their_suffix() {
        let flags = |parent, root, name: &str| child_flags(parent, root, &Name::new(name.as_bytes()));
        assert_eq!(flags(0, true, "system.slice"), 0);
        assert_eq!(flags(0, true, "nginx.service"), CGROUP_UNIT);
        assert_eq!(flags(0, true, "init.scope"), CGROUP_UNIT);
        assert_eq!(flags(0, true, "service"), 0);
        assert_eq!(flags(0, true, "x.services"), 0);
        assert_eq!(flags(CGROUP_UNIT, true, "x"), CGROUP_IN_UNIT);
        assert_eq!(flags(CGROUP_IN_UNIT, true, "x"), CGROUP_IN_UNIT);
        assert_eq!(flags(0, false, "x"), CGROUP_UNTRUSTED);
        assert_eq!(flags(CGROUP_UNTRUSTED, true, "x"), CGROUP_UNTRUSTED);
        assert_eq!(
            flags(0, true, &"x".repeat(NAME_LEN)),
            CGROUP_UNIT,
            "an unseen end counts as a unit's"
        );
    }
}
