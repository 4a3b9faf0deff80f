//! The hash table of cells: each stands in one of the two lines that its key names, so that a look at two lines finds it or
//! shows that there is none.

use segd_common::tables::{Cell, LINE_CELLS, Line, places};

/// How many percent of its cells a table has in use. Cells that push each other about find a place up to some 98 percent.
const FILLED: usize = 85;
/// How many cells may be pushed from their place to find one for another.
const PUSHES: u32 = 500;

/// A table.
pub struct Table {
    /// What it is hashed with.
    pub seed: u32,
    /// Its lines, at least one.
    pub lines: Vec<Line>,
}

impl Table {
    /// Lays cells with different keys out, the same cells always in the same way.
    #[must_use]
    pub fn of(cells: &[Cell]) -> Table {
        let mut lines = (cells.len() * 100).div_ceil(FILLED * LINE_CELLS).max(1);
        let mut seed = 0;
        loop {
            if let Some(lines) = place_all(cells, seed, lines) {
                return Table { seed, lines };
            }
            // It never was seen to; and with ever more room, it must succeed.
            seed += 1;
            lines += lines / 8 + 1;
        }
    }
}

fn place_all(cells: &[Cell], seed: u32, lines: usize) -> Option<Vec<Line>> {
    let buckets = u32::try_from(lines).ok()?;
    let mut lines = vec![Line::default(); lines];
    let mut turn = 0_usize;
    'cells: for cell in cells {
        let mut carried = *cell;
        for _ in 0..PUSHES {
            let places = places(carried.key, seed, buckets);
            for place in places {
                let mut room = lines.get_mut(place as usize)?.cells.iter_mut();
                if let Some(free) = room.find(|cell| cell.key == 0) {
                    *free = carried;
                    continue 'cells;
                }
            }
            // Whom to push: not always the same one, or two would push each other for ever.
            turn = turn.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15);
            let place = places.get(turn >> 20 & 1).copied()?;
            let line = lines.get_mut(place as usize)?;
            std::mem::swap(line.cells.get_mut((turn >> 21) % LINE_CELLS)?, &mut carried);
        }
        return None;
    }
    Some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some keys: from a matrix, where they are alike, and drawn.
    fn keys(count: u32) -> Vec<u32> {
        let side = count.isqrt() + 1;
        let matrix = (0..count).map(|number| (number / side + 1) << 16 | (number % side + 1));
        let drawn = (0..count).map(|number| number.wrapping_mul(0x9e37_79b1) | 0x8000_8000);
        matrix.chain(drawn.filter(|key| key >> 16 > 0x8000)).collect()
    }

    #[test]
    fn every_cell_is_found_by_a_look_at_two_lines() {
        for count in [0, 1, 3, 4, 5, 100, 10_000, 300_000] {
            let mut keys = keys(count);
            keys.sort_unstable();
            keys.dedup();
            let cells: Vec<Cell> = keys
                .iter()
                .map(|key| Cell {
                    key: *key,
                    rule: key ^ 1,
                    low: 0,
                    high: 0,
                })
                .collect();
            let table = Table::of(&cells);
            let buckets = table.lines.len() as u32;
            for cell in &cells {
                let [a, b] =
                    places(cell.key, table.seed, buckets).map(|place| table.lines[place as usize].cells);
                assert!(a.contains(cell) || b.contains(cell), "{cell:?} of {count}");
            }
            let held = table
                .lines
                .iter()
                .flat_map(|line| line.cells)
                .filter(|cell| cell.key != 0);
            assert_eq!(held.count(), cells.len(), "{count}");
            assert!(
                table.lines.len() * LINE_CELLS * 4 <= cells.len() * 5 + 16,
                "{count}: {buckets} lines"
            );
            assert_eq!(table.seed, 0, "{count}: not at once");
        }
    }
}
