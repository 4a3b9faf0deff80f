//! Who could let a packet pass at all, so that the kernel need not look further for the rest.

use std::collections::{BTreeMap, BTreeSet};

use segd_common::{
    segment::{self, SegmentIndex},
    tables::{CELL_LIST, Cell, RULE_DENY, Segment, TABLES_AUDIT, TABLES_HOST_OPEN},
};

use crate::policy::{
    compiled::{CompiledTables, SegmentIndexes},
    model::{Policy, SelectorKind},
};

/// The segments that can have members on this host by what they match. One that only has addresses is elsewhere:
/// that its members may talk to each other is nothing a packet here could ask for.
pub fn on_this_host(policy: &Policy, indexes: &SegmentIndexes) -> BTreeSet<SegmentIndex> {
    let here = policy.segments.values().filter(|segment| {
        let mut kinds = segment.selectors.iter().map(|selector| &selector.kind);
        kinds.any(|kind| !matches!(kind, SelectorKind::Cidr { .. }))
    });
    here.filter_map(|segment| indexes.by_name.get(&segment.name).copied())
        .collect()
}

/// Takes away what [`initiate_and_admit`] gives.
pub fn clear(segments: &mut [Segment]) {
    for segment in segments {
        segment.flags &= !(segment::SEGMENT_INITIATES | segment::SEGMENT_ADMITS | segment::SEGMENT_GUARDED);
    }
}

/// Whether a cell opens anything, and whether a guardrail shuts anything in it: all that is asked of it here.
pub fn does(tables: &CompiledTables, cell: Cell) -> (bool, bool) {
    let ranges = tables.ranges(cell).map(|range| range.rule & RULE_DENY != 0);
    ranges.fold((false, false), |(opens, shuts), denies| {
        (opens || !denies, shuts || denies)
    })
}

/// `INITIATES` and `ADMITS`: who could let a packet pass, so that the rest need not be looked at; `GUARDED`: whom it would be
/// wrong to tell that no rule allows it.
pub fn initiate_and_admit(tables: &mut CompiledTables, here: &BTreeSet<SegmentIndex>) {
    let mut add = vec![0_u32; tables.segments.len()];
    let (in_row, in_column) = (
        Members::of(&tables.segments, |segment| segment.row),
        Members::of(&tables.segments, |segment| segment.column),
    );
    // What cells say of rows and columns, and what those that hold for every other say of all.
    let (mut rows, mut columns) = (Marks::default(), Marks::default());
    let mut does = Does {
        tables,
        lists: BTreeMap::new(),
    };
    for (row, column, cell) in tables.cells() {
        let (opens, shuts) = does.of(cell);
        let initiates = if opens { segment::SEGMENT_INITIATES } else { 0 };
        let guarded = if shuts { segment::SEGMENT_GUARDED } else { 0 };
        // Between members of one segment that are all elsewhere no packet comes by here.
        let one = in_row
            .only(row)
            .filter(|one| in_column.only(column) == Some(*one));
        let lone = one.is_some_and(|one| one >= segment::FIRST_SEGMENT && !here.contains(&one));
        if !lone {
            rows.add(row, initiates | guarded);
            columns.add(column, if opens { segment::SEGMENT_ADMITS } else { 0 });
        }
    }
    let host_open = tables.flags & TABLES_HOST_OPEN != 0;
    let both = segment::SEGMENT_INITIATES | segment::SEGMENT_ADMITS;
    for (index, (flags, segment)) in (0..=SegmentIndex::MAX).zip(add.iter_mut().zip(&tables.segments)) {
        *flags |= rows.of(segment.row) | columns.of(segment.column);
        let intra = segment.flags & segment::SEGMENT_INTRA != 0 && here.contains(&index);
        if intra || host_open && matches!(index, segment::HOST | segment::WORLD) {
            *flags |= both;
        }
    }
    // An audited segment lets everything pass to and from everybody.
    let everything = tables.flags & TABLES_AUDIT != 0
        || tables
            .segments
            .iter()
            .any(|segment| segment.flags & segment::SEGMENT_AUDIT != 0);
    let probe = usize::from(segment::PROBE);
    for (index, (segment, add)) in tables.segments.iter_mut().zip(add).enumerate() {
        if segment.flags & segment::SEGMENT_VALID != 0 && index != probe {
            segment.flags |= add;
            if everything {
                segment.flags |= both;
            }
        }
    }
}

/// What cells do, each list looked at once.
struct Does<'t> {
    tables: &'t CompiledTables,
    lists: BTreeMap<u32, (bool, bool)>,
}

impl Does<'_> {
    /// [`does`].
    fn of(&mut self, cell: Cell) -> (bool, bool) {
        let look = || does(self.tables, cell);
        match cell.rule & CELL_LIST {
            0 => look(),
            _ => *self.lists.entry(cell.low).or_insert_with(look),
        }
    }
}

/// Who is in each row or column.
struct Members(Vec<Option<Known>>);

#[derive(Clone, Copy)]
enum Known {
    One(SegmentIndex),
    More,
}

impl Members {
    fn of(segments: &[Segment], number: impl Fn(&Segment) -> u16) -> Members {
        let mut known = vec![None; usize::from(u16::MAX) + 1];
        for (index, segment) in (0..=SegmentIndex::MAX).zip(segments) {
            if let Some(known) = known.get_mut(usize::from(number(segment))) {
                *known = match known {
                    None => Some(Known::One(index)),
                    Some(_) => Some(Known::More),
                };
            }
        }
        Members(known)
    }

    /// The only member; `None` of number 0, which is everybody.
    fn only(&self, number: u16) -> Option<SegmentIndex> {
        match self.0.get(usize::from(number)) {
            Some(Some(Known::One(index))) if number != 0 => Some(*index),
            _ => None,
        }
    }
}

/// Flags of rows or columns; those of number 0 are everybody's.
struct Marks(Vec<u32>);

impl Default for Marks {
    fn default() -> Marks {
        Marks(vec![0; usize::from(u16::MAX) + 1])
    }
}

impl Marks {
    fn add(&mut self, number: u16, flags: u32) {
        if let Some(marked) = self.0.get_mut(usize::from(number)) {
            *marked |= flags;
        }
    }

    fn of(&self, number: u16) -> u32 {
        let of = |number: u16| self.0.get(usize::from(number)).copied().unwrap_or_default();
        of(number) | of(0)
    }
}
