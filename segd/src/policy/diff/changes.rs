//! Which pairs of parties change, and how.
//!
//! Parties that stand in the same row and column under both policies are one kind. What a kind has cells with is looked at one by one;
//! between it and the rest, what rules say of `any` decides, which is few things. So the cost follows the cells of both policies and not
//! the parties squared, but where that many pairs change.

use std::collections::{BTreeMap, BTreeSet};

use segd_common::{
    segment::{HOST, SEGMENT_AUDIT, SEGMENT_COLUMN, SEGMENT_ROW, SEGMENT_VALID, SegmentIndex, WORLD},
    tables::{Cell, Segment, TABLES_AUDIT, Tables as _, between},
};

use super::{
    Party,
    stretches::{self, Fate, Stretch},
};
use crate::policy::compiled::{Base, CompiledTables};

/// Which pairs change, and how.
pub struct Changes {
    /// Each way to change that occurs.
    pub ways: Vec<Vec<Stretch>>,
    /// By way, the pairs, as places in the list of parties.
    pub pairs: Vec<Vec<(usize, usize)>>,
}

impl Changes {
    /// Compares what holds between all pairs.
    pub fn of(old: &CompiledTables, new: &CompiledTables, parties: &[Party]) -> Changes {
        let mut ways = Ways {
            tables: [old, new],
            known: BTreeMap::new(),
            by_stretches: BTreeMap::new(),
        };
        let special = special([old, new], parties);
        let kinds = Kinds::of([old, new], parties);
        let mut pairs: Vec<Vec<(usize, usize)>> = Vec::new();
        let mut note = |way: Option<usize>, from: usize, to: usize| {
            let Some(way) = way else { return };
            if pairs.len() <= way {
                pairs.resize_with(way + 1, Vec::new);
            }
            if let Some(pairs) = pairs.get_mut(way) {
                pairs.push((from, to));
            }
        };
        // By what counts of who initiates where he has no cell with the other: how those change that do.
        let mut far_ways: BTreeMap<[Key; 2], Vec<(usize, &Vec<usize>)>> = BTreeMap::new();
        for from in &kinds.all {
            let near = kinds.near(from);
            let mut differs: Vec<(usize, &Kind)> = Vec::new();
            for to in near.iter().filter_map(|kind| kinds.all.get(*kind)) {
                differs.extend(
                    ways.of(from.sides, to.sides, [Base::Nothing; 2])
                        .map(|way| (way, to)),
                );
            }
            let stand_in = from.sides.map(far_from);
            let far = far_ways.entry(stand_in.map(key)).or_insert_with(|| {
                let far = kinds.far.iter();
                far.filter_map(|(sides, far)| Some((ways.of(stand_in, *sides, [Base::Nothing; 2])?, far)))
                    .collect()
            });
            for (way, far) in far {
                let rest = far.iter().filter(|kind| near.binary_search(kind).is_err());
                differs.extend(rest.filter_map(|kind| Some((*way, kinds.all.get(*kind)?))));
            }
            for (way, to) in differs {
                for one in &from.members {
                    let others = to
                        .members
                        .iter()
                        .filter(|other| !special.contains(&(*one, **other)));
                    others.for_each(|other| note(Some(way), *one, *other));
                }
            }
        }
        for (from, to) in &special {
            if let (Some(one), Some(other)) = (parties.get(*from), parties.get(*to)) {
                let bases = [old.base(one.0, other.0), new.base(one.1, other.1)];
                note(
                    ways.of(sides([old, new], one), sides([old, new], other), bases),
                    *from,
                    *to,
                );
            }
        }
        pairs.resize_with(ways.by_stretches.len(), Vec::new);
        let mut all = vec![Vec::new(); pairs.len()];
        for (stretches, way) in ways.by_stretches {
            if let Some(slot) = all.get_mut(way) {
                *slot = stretches;
            }
        }
        Changes { ways: all, pairs }
    }
}

/// Pairs between which more than cells counts under one of the policies: members of one segment, `host` and `world`.
fn special(tables: [&CompiledTables; 2], parties: &[Party]) -> BTreeSet<(usize, usize)> {
    let mut special = BTreeSet::new();
    for (side, tables) in tables.into_iter().enumerate() {
        let mut groups: BTreeMap<SegmentIndex, Vec<usize>> = BTreeMap::new();
        for (place, party) in parties.iter().enumerate() {
            let index = if side == 0 { party.0 } else { party.1 };
            groups.entry(index).or_default().push(place);
        }
        let of = |index| groups.get(&index).map_or(&[][..], Vec::as_slice);
        let mut add = |from: &[usize], to: &[usize]| {
            special.extend(from.iter().flat_map(|from| to.iter().map(|to| (*from, *to))));
        };
        for (index, group) in &groups {
            if tables.base(*index, *index) == Base::Intra {
                add(group, group);
            }
        }
        for (from, to) in [(HOST, HOST), (HOST, WORLD), (WORLD, HOST)] {
            if tables.base(from, to) == Base::Host {
                add(of(from), of(to));
            }
        }
    }
    special
}

/// A party's segment under both policies, as the tables have it.
type Sides = [Segment; 2];

/// Parties that the cells of neither policy tell apart.
struct Kind {
    sides: Sides,
    /// As places in the list of parties.
    members: Vec<usize>,
}

/// Kinds, and what stands in for the sides of each of them.
type Far = (Sides, Vec<usize>);

/// All parties, by kind.
struct Kinds {
    all: Vec<Kind>,
    /// The kinds that no cell tells apart for whoever has none with them, and a stand-in for their sides that has none with anybody.
    far: Vec<Far>,
    /// By policy, the columns that a row has cells with.
    columns: [BTreeMap<u16, Vec<u16>>; 2],
    /// By policy, the kinds in a column.
    in_column: [BTreeMap<u16, Vec<usize>>; 2],
}

/// What of a segment's entry tells kinds apart.
type Key = (u32, u16, u16);

fn key(segment: Segment) -> Key {
    (
        segment.flags & (SEGMENT_AUDIT | SEGMENT_COLUMN | SEGMENT_ROW | SEGMENT_VALID),
        segment.row,
        segment.column,
    )
}

/// What counts of who initiates where he has no cell with the other.
fn far_from(side: Segment) -> Segment {
    Segment {
        flags: side.flags & (SEGMENT_AUDIT | SEGMENT_ROW | SEGMENT_VALID),
        row: if side.flags & SEGMENT_ROW != 0 {
            side.row
        } else {
            0
        },
        column: 0,
    }
}

/// What counts of the other.
fn far_to(side: Segment) -> Segment {
    Segment {
        flags: side.flags & (SEGMENT_AUDIT | SEGMENT_COLUMN | SEGMENT_VALID),
        row: 0,
        column: if side.flags & SEGMENT_COLUMN != 0 {
            side.column
        } else {
            0
        },
    }
}

impl Kinds {
    fn of(tables: [&CompiledTables; 2], parties: &[Party]) -> Kinds {
        let mut by_key: BTreeMap<[Key; 2], Kind> = BTreeMap::new();
        for (place, party) in parties.iter().enumerate() {
            let sides = sides(tables, party);
            let kind = by_key.entry(sides.map(key)).or_insert_with(|| Kind {
                sides,
                members: Vec::new(),
            });
            kind.members.push(place);
        }
        let all: Vec<Kind> = by_key.into_values().collect();
        let mut far: BTreeMap<[Key; 2], Far> = BTreeMap::new();
        let mut in_column: [BTreeMap<u16, Vec<usize>>; 2] = Default::default();
        for (number, kind) in all.iter().enumerate() {
            for (columns, side) in in_column.iter_mut().zip(kind.sides) {
                columns.entry(side.column).or_default().push(number);
            }
            let stand_in = kind.sides.map(far_to);
            let known = far
                .entry(stand_in.map(key))
                .or_insert_with(|| (stand_in, Vec::new()));
            known.1.push(number);
        }
        let columns = tables.map(|tables| {
            let mut columns: BTreeMap<u16, Vec<u16>> = BTreeMap::new();
            for (row, column, _) in tables
                .cells()
                .filter(|(row, column, _)| *row != 0 && *column != 0)
            {
                columns.entry(row).or_default().push(column);
            }
            columns
        });
        Kinds {
            all,
            far: far.into_values().collect(),
            columns,
            in_column,
        }
    }

    /// The kinds that one has cells with under either policy, ascending.
    fn near(&self, from: &Kind) -> Vec<usize> {
        let mut near = Vec::new();
        for ((side, columns), in_column) in from.sides.iter().zip(&self.columns).zip(&self.in_column) {
            let columns = columns.get(&side.row).into_iter().flatten();
            near.extend(columns.filter_map(|column| in_column.get(column)).flatten());
        }
        near.sort_unstable();
        near.dedup();
        near
    }
}

fn sides(tables: [&CompiledTables; 2], party: &Party) -> Sides {
    let [old, new] = tables;
    [old.segment(party.0), new.segment(party.1)]
}

/// What holds between two parties under one policy: equal where nothing tells two pairs apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    /// Without its key: whose it is.
    cell: Cell,
    base: Base,
    /// A denial between the two only counts.
    audit: bool,
}

/// What changes where something holds before and something now, each found out once.
struct Ways<'t> {
    tables: [&'t CompiledTables; 2],
    known: BTreeMap<[Held; 2], Option<usize>>,
    by_stretches: BTreeMap<Vec<Stretch>, usize>,
}

impl Ways<'_> {
    /// The way in which a pair changes, if it does.
    fn of(&mut self, from: Sides, to: Sides, bases: [Base; 2]) -> Option<usize> {
        let [old, new] = self.tables;
        let held = [
            held(old, from[0], to[0], bases[0]),
            held(new, from[1], to[1], bases[1]),
        ];
        if held[0] == held[1] && held[0].cell == Cell::default() {
            return None;
        }
        if let Some(way) = self.known.get(&held) {
            return *way;
        }
        let ranges = [
            old.holds(held[0].cell, held[0].base),
            new.holds(held[1].cell, held[1].base),
        ];
        let fate = |side: usize| Fate {
            ranges: ranges.get(side).map_or(&[], Vec::as_slice),
            audit: held.get(side).is_some_and(|held| held.audit),
        };
        let stretches = stretches::between(fate(0), fate(1));
        let way = (!stretches.is_empty()).then(|| {
            let next = self.by_stretches.len();
            *self.by_stretches.entry(stretches).or_insert(next)
        });
        self.known.insert(held, way);
        way
    }
}

fn held(tables: &CompiledTables, from: Segment, to: Segment, base: Base) -> Held {
    // Who is in no segment is denied, whatever is audited.
    let known = from.flags & to.flags & SEGMENT_VALID != 0;
    let audit = tables.flags & TABLES_AUDIT != 0 || (from.flags | to.flags) & SEGMENT_AUDIT != 0;
    let cell = between(tables, from, to).copied().unwrap_or_default();
    Held {
        cell: Cell { key: 0, ..cell },
        base: if known { base } else { Base::Nothing },
        audit: known && audit,
    }
}
