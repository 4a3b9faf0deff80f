//! The lists of the tables before, laid out again with some that are new: in the order in which cells name them, equal ones once.

use std::collections::{BTreeMap, BTreeSet};

use segd_common::tables::{CELL_LIST, Cell, Line, PortRange, lines_of_list};

use super::rules::Moved;
use crate::policy::compile::lists::tree;

/// All lists there are so far.
pub struct Lists<'l> {
    /// Those before.
    before: &'l [Line],
    /// By the first line of each of those, what that is now.
    places: Vec<u32>,
    moved: &'l Moved,
    /// How many ranges those have that are new: another with as many may be the same.
    lengths: BTreeSet<usize>,
    /// Lists of such lengths.
    by_ranges: BTreeMap<Vec<PortRange>, u32>,
    /// Their lines.
    pub lines: Vec<Line>,
    /// How many ranges they have.
    pub ranges: usize,
}

/// In the place of a place: not met yet.
const UNKNOWN: u32 = u32::MAX;

impl<'l> Lists<'l> {
    /// None yet. `lengths`: of those that will be new.
    pub fn new(before: &'l [Line], moved: &'l Moved, lengths: BTreeSet<usize>) -> Lists<'l> {
        Lists {
            before,
            places: vec![UNKNOWN; before.len()],
            moved,
            lengths,
            by_ranges: BTreeMap::new(),
            lines: Vec::with_capacity(before.len()),
            ranges: 0,
        }
    }

    /// The cell of a list.
    pub fn added(&mut self, ranges: Vec<PortRange>) -> Cell {
        let high = ranges.len() as u32;
        let low = match self.by_ranges.get(&ranges) {
            Some(first) => *first,
            None => {
                let first = self.lines.len() as u32;
                self.lines.extend(tree(&ranges));
                self.ranges += ranges.len();
                self.by_ranges.insert(ranges, first);
                first
            }
        };
        Cell {
            key: 0,
            rule: CELL_LIST,
            low,
            high,
        }
    }

    /// A cell from before that is a list, whose lines began so far behind the first list; it has a place among the new ones now.
    /// `None`: there is no such list.
    pub fn kept(&mut self, cell: Cell, first: u32) -> Option<Cell> {
        let place = self.places.get(first as usize).copied()?;
        if place != UNKNOWN {
            return Some(Cell { low: place, ..cell });
        }
        let lines = first as usize..(first + lines_of_list(cell.high)) as usize;
        let lines = self.before.get(lines)?;
        let low = if self.lengths.contains(&(cell.high as usize)) {
            let held = lines.iter().flat_map(|line| line.cells).filter_map(Cell::range);
            let mut ranges: Vec<PortRange> = held
                .map(|range| PortRange {
                    rule: self.moved.of(range.rule),
                    ..range
                })
                .collect();
            ranges.sort_unstable();
            self.added(ranges).low
        } else {
            let low = self.lines.len() as u32;
            let moved = self.moved;
            self.lines.extend(lines.iter().map(|line| Line {
                cells: line.cells.map(|cell| match cell.range() {
                    Some(_) => Cell {
                        rule: moved.of(cell.rule),
                        ..cell
                    },
                    None => cell,
                }),
            }));
            self.ranges += cell.high as usize;
            low
        };
        *self.places.get_mut(first as usize)? = low;
        Some(Cell { low, ..cell })
    }
}
