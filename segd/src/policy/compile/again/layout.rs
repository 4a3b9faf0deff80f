//! The lines of tables in which some cells are others than before.

use std::{collections::BTreeMap, sync::Arc};

use segd_common::tables::{CELL_LIST, Cell, LINE_CELLS, Line, places};

use super::{Last, Patch, lists::Lists, rules::Moved};
use crate::policy::{
    compile::{
        CompileError,
        cells::{self, Content},
        table,
    },
    compiled::{CompiledTables, SharedLines},
};

impl Last {
    /// Lays the cells out; of the lines, the order comes beside.
    pub(super) fn laid_out(
        &self,
        mut tables: CompiledTables,
        patches: Vec<Patch>,
        moved: &Moved,
    ) -> Result<(CompiledTables, Arc<Vec<u32>>), CompileError> {
        if let Some(lines) = self.in_place(&patches, moved) {
            tables.lines = lines;
            return Ok((tables, Arc::clone(&self.order)));
        }
        let same_keys = patches
            .iter()
            .all(|patch| patch.before.is_some() && patch.now.is_some());
        let behind = self.behind().ok_or(CompileError::NoPlace { entries: 1 })?;
        let (cells, lists) = self.merged(&mut tables, behind.lists, patches, moved)?;
        cells::all_fit(&tables, cells.len())?;
        if same_keys {
            let mut lines = vec![Line::default(); self.tables.buckets as usize];
            for (cell, place) in cells.iter().zip(self.order.iter()) {
                put(&mut lines, *place, *cell);
            }
            tables.lines = lines.into();
        } else {
            let (seed, lines) = table::lay_out(&cells)?;
            (tables.seed, tables.lines) = (seed, lines.into());
        }
        cells::put_behind(&mut tables, cells.len(), &lists);
        let order = match same_keys {
            true => Arc::clone(&self.order),
            false => Arc::new(order_of(&cells, &tables)),
        };
        if self.tables.prefix_table.buckets != 0 {
            tables.prefix_table.first = tables.lines.len() as u32;
        }
        tables.lines.make_whole().extend_from_slice(behind.prefixes);
        Ok((tables, order))
    }

    /// All lines, where no list comes, goes or moves, nor any cell: most changes are so.
    fn in_place(&self, patches: &[Patch], moved: &Moved) -> Option<SharedLines> {
        if !moved.nothing() {
            return None;
        }
        let mut cells = Vec::with_capacity(patches.len());
        for patch in patches {
            let place = *self.order.get(patch.before?)?;
            match patch.now {
                Some(Content::One(cell)) if cell_at(&self.tables.lines, place).rule & CELL_LIST == 0 => {
                    cells.push((
                        place,
                        Cell {
                            key: patch.key,
                            ..cell
                        },
                    ));
                }
                _ => return None,
            }
        }
        let lines = &self.tables.lines;
        let mut others: BTreeMap<u32, Line> = BTreeMap::new();
        for (place, cell) in cells {
            let number = place / LINE_CELLS as u32;
            let line = others.entry(number).or_insert(*lines.get(number)?);
            *line.cells.get_mut(place as usize % LINE_CELLS)? = cell;
        }
        Some(lines.with(others))
    }

    /// All cells, ascending by their keys, and the lists, in the order in which they are met.
    fn merged(
        &self,
        tables: &mut CompiledTables,
        list_lines: &[Line],
        patches: Vec<Patch>,
        moved: &Moved,
    ) -> Result<(Vec<Cell>, Vec<Line>), CompileError> {
        let before = &self.tables.lines;
        let behind = self.tables.buckets;
        let lengths = patches.iter().filter_map(|patch| match &patch.now {
            Some(Content::List(ranges)) => Some(ranges.len()),
            _ => None,
        });
        let mut lists = Lists::new(list_lines, moved, lengths.collect());
        let kept = |lists: &mut Lists<'_>, cell: Cell| -> Result<Cell, CompileError> {
            if cell.rule & CELL_LIST != 0 {
                let first = cell.low.wrapping_sub(behind);
                // Every list is there: the tables were made so.
                return lists
                    .kept(cell, first)
                    .ok_or(CompileError::NoPlace { entries: 1 });
            }
            Ok(match cell.range() {
                Some(_) => Cell {
                    rule: moved.of(cell.rule),
                    ..cell
                },
                None => cell,
            })
        };
        let added = |lists: &mut Lists<'_>, key: u32, content: Content| {
            let cell = match content {
                Content::One(cell) => cell,
                Content::List(ranges) => lists.added(ranges),
            };
            Cell { key, ..cell }
        };
        tables.any = kept(&mut lists, self.tables.any)?;
        let mut cells = Vec::with_capacity(self.order.len() + patches.len());
        let mut patches = patches.into_iter().peekable();
        for place in self.order.iter() {
            let cell = cell_at(before, *place);
            while let Some(patch) = patches.next_if(|patch| patch.key < cell.key) {
                cells.extend(patch.now.map(|content| added(&mut lists, patch.key, content)));
            }
            match patches.next_if(|patch| patch.key == cell.key) {
                Some(patch) => cells.extend(patch.now.map(|content| added(&mut lists, patch.key, content))),
                None => cells.push(kept(&mut lists, cell)?),
            }
        }
        for patch in patches {
            cells.extend(patch.now.map(|content| added(&mut lists, patch.key, content)));
        }
        tables.ranges = lists.ranges;
        Ok((cells, lists.lines))
    }

    /// What stands behind the table: of those lines none stands apart.
    fn behind(&self) -> Option<Behind<'_>> {
        let table = &self.tables.prefix_table;
        let behind = self.tables.lines.behind(self.tables.buckets)?;
        let lists = match table.buckets {
            0 => behind.len(),
            _ => table.first.checked_sub(self.tables.buckets)? as usize,
        };
        let (lists, prefixes) = behind.split_at_checked(lists)?;
        Some(Behind { lists, prefixes })
    }
}

/// The lines behind those of the table.
struct Behind<'t> {
    lists: &'t [Line],
    prefixes: &'t [Line],
}

/// Where each cell stands, in the order of the cells.
pub(super) fn order_of(cells: &[Cell], tables: &CompiledTables) -> Vec<u32> {
    let place = |cell: &Cell| {
        let lines = places(cell.key, tables.seed, tables.buckets).into_iter();
        let mut places =
            lines.flat_map(|line| (0..LINE_CELLS as u32).map(move |turn| line * LINE_CELLS as u32 + turn));
        places
            .find(|place| cell_at(&tables.lines, *place).key == cell.key)
            .unwrap_or_default()
    };
    cells.iter().map(place).collect()
}

/// The cell with a number, counted over all lines.
pub(super) fn cell_at(lines: &SharedLines, place: u32) -> Cell {
    let line = lines.get(place / LINE_CELLS as u32);
    let cell = line.and_then(|line| line.cells.get(place as usize % LINE_CELLS));
    cell.copied().unwrap_or_default()
}

fn put(lines: &mut [Line], place: u32, cell: Cell) {
    let line = lines.get_mut(place as usize / LINE_CELLS);
    if let Some(there) = line.and_then(|line| line.cells.get_mut(place as usize % LINE_CELLS)) {
        *there = cell;
    }
}
