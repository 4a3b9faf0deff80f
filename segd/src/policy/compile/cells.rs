//! The cells of the tables: what the rules hold between rows and columns, each list once.

use std::collections::{BTreeMap, BTreeSet};

use segd_common::{
    segment,
    tables::{CELL_LIST, Cell, Line, MAX_IN_LIST, MAX_PAIRS, MAX_RANGES, MAX_RULES, PortRange},
};

use super::{
    CompileError, fits,
    groups::{Bundle, Groups},
    lists, ranges, table,
    turns::Turns,
};
use crate::policy::{
    compiled::CompiledTables,
    model::{Pieces, Policy, Rule},
};

/// What is known of cells that were laid out.
pub struct Laid {
    /// They, ascending by their keys; where their lists are is counted from the first.
    pub cells: Vec<Cell>,
    /// How many bundles those are that hold together, each time they do.
    pub met: usize,
}

/// Lays out what holds between all rows and columns.
///
/// # Errors
///
/// It does not fit.
pub fn lay_out(tables: &mut CompiledTables, policy: &Policy, groups: &Groups) -> Result<Laid, CompileError> {
    for (index, row, column) in groups.segments() {
        if let Some(segment) = tables.segments.get_mut(usize::from(index)) {
            (segment.row, segment.column) = (row, column);
        }
    }
    let mut interned = Interned::new(&policy.rules, groups);
    let mut cells: Vec<Cell> = Vec::new();
    // Rows that have rules to `any`, and columns that have rules from it.
    let mut open: (BTreeSet<u16>, BTreeSet<u16>) = Default::default();
    groups.cells(&mut |held| {
        let cell = interned.cell(groups, held.bundles)?;
        // What rules of `any` hold is in every cell: where there is nothing, they hold nothing.
        if cell == Cell::default() {
            return Ok(());
        }
        if (held.row, held.column) == (0, 0) {
            tables.any = cell;
            return Ok(());
        }
        if held.column == 0 {
            open.0.insert(held.row);
        }
        if held.row == 0 {
            open.1.insert(held.column);
        }
        let key = Cell::key(held.row, held.column);
        cells.push(Cell { key, ..cell });
        // Counting on tells people how far off they are; counting for ever tells nobody anything.
        at_most_twice(
            "pairs of segments with rules of their own",
            cells.len(),
            MAX_PAIRS,
        )
    })?;
    for segment in &mut tables.segments {
        let flags = [
            (segment::SEGMENT_ROW, open.0.contains(&segment.row)),
            (segment::SEGMENT_COLUMN, open.1.contains(&segment.column)),
        ];
        for (flag, _) in flags.into_iter().filter(|(_, is)| *is) {
            segment.flags |= flag;
        }
    }
    let lists = std::mem::take(&mut interned.lists);
    tables.ranges = interned.ranges;
    let met = interned.met;
    tables.together = interned.turns.finish();
    all_fit(tables, cells.len())?;
    let (seed, lines) = table::lay_out(&cells)?;
    (tables.seed, tables.lines) = (seed, lines.into());
    put_behind(tables, cells.len(), &lists);
    Ok(Laid { cells, met })
}

/// Whether there is room for what there is, and for so many cells.
pub fn all_fit(tables: &CompiledTables, cells: usize) -> Result<(), CompileError> {
    fits("pairs of segments with rules of their own", cells, MAX_PAIRS)?;
    fits("port ranges", tables.ranges, MAX_RANGES)?;
    fits(
        "rules, those that take turns included",
        tables.rules.len() + tables.together.len(),
        MAX_RULES,
    )
}

/// Puts the lists behind the lines of the table, and says so to its cells.
pub fn put_behind(tables: &mut CompiledTables, cells: usize, lists: &[Line]) {
    tables.cells = cells;
    tables.buckets = tables.lines.len() as u32;
    let behind = tables.buckets;
    let used = tables
        .lines
        .make_whole()
        .iter_mut()
        .flat_map(|line| &mut line.cells);
    for cell in used
        .chain([&mut tables.any])
        .filter(|cell| cell.rule & CELL_LIST != 0)
    {
        cell.low += behind;
    }
    tables.lines.make_whole().extend_from_slice(lists);
}

/// What holds in cells, each list kept once.
struct Interned<'p> {
    /// Of bundles that hold alone.
    alone: Vec<Option<Cell>>,
    /// Of those that hold together.
    by_bundles: BTreeMap<Vec<Bundle>, Cell>,
    /// How many bundles those are, each time they are.
    met: usize,
    /// With which line each list begins in `lists`.
    by_ranges: BTreeMap<Vec<PortRange>, u32>,
    /// All lists.
    lists: Vec<Line>,
    /// How many ranges they have.
    ranges: usize,
    /// Rules that decide together.
    turns: Turns<'p>,
}

impl<'p> Interned<'p> {
    fn new(rules: &'p Pieces<Rule>, groups: &Groups) -> Interned<'p> {
        Interned {
            alone: vec![None; groups.len()],
            by_bundles: BTreeMap::new(),
            met: 0,
            by_ranges: BTreeMap::new(),
            lists: Vec::new(),
            ranges: 0,
            turns: Turns::of_all(rules),
        }
    }

    /// What some bundles hold, but for whose it is.
    fn cell(&mut self, groups: &Groups, bundles: &[Bundle]) -> Result<Cell, CompileError> {
        if let [only] = bundles {
            if let Some(Some(cell)) = self.alone.get(*only as usize) {
                return Ok(*cell);
            }
            let cell = self.hold(groups.rules(*only))?;
            if let Some(known) = self.alone.get_mut(*only as usize) {
                *known = Some(cell);
            }
            return Ok(cell);
        }
        if let Some(cell) = self.by_bundles.get(bundles) {
            return Ok(*cell);
        }
        let cell = self.hold(&groups.rules_of(bundles))?;
        self.met += bundles.len();
        at_most_twice("places of rules in pairs of segments", self.met, MAX_RANGES)?;
        self.by_bundles.insert(bundles.to_vec(), cell);
        Ok(cell)
    }

    fn hold(&mut self, rules: &[usize]) -> Result<Cell, CompileError> {
        let ranges = match content(&mut self.turns, rules)? {
            None => return Ok(Cell::default()),
            Some(Content::One(cell)) => return Ok(cell),
            Some(Content::List(ranges)) => ranges,
        };
        let high = ranges.len() as u32;
        let low = match self.by_ranges.get(&ranges) {
            Some(first) => *first,
            None => {
                let first = self.lists.len() as u32;
                self.lists.extend(lists::tree(&ranges));
                self.ranges += ranges.len();
                // As above.
                at_most_twice("port ranges", self.ranges, MAX_RANGES)?;
                self.by_ranges.insert(ranges, first);
                first
            }
        };
        Ok(Cell {
            key: 0,
            rule: CELL_LIST,
            low,
            high,
        })
    }
}

/// What some rules hold together, if it is anything.
pub enum Content {
    /// One range.
    One(Cell),
    /// More.
    List(Vec<PortRange>),
}

/// What some rules hold together, ascending by their numbers.
///
/// # Errors
///
/// There is no place for so much.
pub fn content(turns: &mut Turns<'_>, rules: &[usize]) -> Result<Option<Content>, CompileError> {
    // What most cells hold takes no list to find.
    if let [only] = rules
        && let Some(range) = turns.single(*only)
    {
        return Ok(Some(Content::One(Cell::of(range))));
    }
    let ranges = ranges::of(turns, rules)?;
    Ok(match ranges.as_slice() {
        [] => None,
        [range] => Some(Content::One(Cell::of(*range))),
        _ => {
            fits("port ranges in one list", ranges.len(), MAX_IN_LIST)?;
            Some(Content::List(ranges))
        }
    })
}

/// [`fits`], asked while it is not known how many there will be.
fn at_most_twice(what: &'static str, so_far: usize, available: usize) -> Result<(), CompileError> {
    match so_far > 2 * available {
        true => fits(what, so_far, available),
        false => Ok(()),
    }
}
