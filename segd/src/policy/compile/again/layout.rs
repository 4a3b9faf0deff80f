//! The lines of tables in which some cells are others than before.

use segd_common::tables::{CELL_LIST, Cell, LINE_CELLS, Line, places};

use super::{Last, Patch, lists::Lists, rules::Moved};
use crate::policy::{
    compile::{
        CompileError,
        cells::{self, Content},
        table,
    },
    compiled::CompiledTables,
};

impl Last {
    /// Lays the cells out; of the lines, the order comes beside.
    pub(super) fn laid_out(
        &self,
        mut tables: CompiledTables,
        patches: Vec<Patch>,
        moved: &Moved,
    ) -> Result<(CompiledTables, Vec<u32>), CompileError> {
        if let Some(lines) = self.in_place(&patches, moved) {
            tables.lines = lines;
            return Ok((tables, self.order.clone()));
        }
        let same_keys = patches
            .iter()
            .all(|patch| patch.before.is_some() && patch.now.is_some());
        let (cells, lists) = self.merged(&mut tables, patches, moved)?;
        cells::all_fit(&tables, cells.len())?;
        if same_keys {
            tables.lines = vec![Line::default(); self.tables.buckets as usize];
            for (cell, place) in cells.iter().zip(&self.order) {
                put(&mut tables.lines, *place, *cell);
            }
        } else {
            (tables.seed, tables.lines) = table::lay_out(&cells)?;
        }
        cells::put_behind(&mut tables, cells.len(), &lists);
        let order = match same_keys {
            true => self.order.clone(),
            false => order_of(&cells, &tables),
        };
        if self.tables.prefix_table.buckets != 0 {
            tables.prefix_table.first = tables.lines.len() as u32;
        }
        tables.lines.extend_from_slice(self.prefix_lines());
        Ok((tables, order))
    }

    /// All lines, where no list comes, goes or moves, nor any cell: most changes are so.
    fn in_place(&self, patches: &[Patch], moved: &Moved) -> Option<Vec<Line>> {
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
        let mut lines = self.tables.lines.clone();
        for (place, cell) in cells {
            put(&mut lines, place, cell);
        }
        Some(lines)
    }

    /// All cells, ascending by their keys, and the lists, in the order in which they are met.
    fn merged(
        &self,
        tables: &mut CompiledTables,
        patches: Vec<Patch>,
        moved: &Moved,
    ) -> Result<(Vec<Cell>, Vec<Line>), CompileError> {
        let before = &self.tables.lines;
        let behind = self.tables.buckets;
        let lengths = patches.iter().filter_map(|patch| match &patch.now {
            Some(Content::List(ranges)) => Some(ranges.len()),
            _ => None,
        });
        let mut lists = Lists::new(self.list_lines(), moved, lengths.collect());
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
        for place in &self.order {
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

    fn list_lines(&self) -> &[Line] {
        let all = &self.tables.lines;
        let end = all.len() - self.prefix_lines().len();
        all.get(self.tables.buckets as usize..end).unwrap_or_default()
    }

    fn prefix_lines(&self) -> &[Line] {
        let table = &self.tables.prefix_table;
        match table.buckets {
            0 => &[],
            _ => self.tables.lines.get(table.first as usize..).unwrap_or_default(),
        }
    }
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
pub(super) fn cell_at(lines: &[Line], place: u32) -> Cell {
    let line = lines.get(place as usize / LINE_CELLS);
    let cell = line.and_then(|line| line.cells.get(place as usize % LINE_CELLS));
    cell.copied().unwrap_or_default()
}

fn put(lines: &mut [Line], place: u32, cell: Cell) {
    let line = lines.get_mut(place as usize / LINE_CELLS);
    if let Some(there) = line.and_then(|line| line.cells.get_mut(place as usize % LINE_CELLS)) {
        *there = cell;
    }
}
