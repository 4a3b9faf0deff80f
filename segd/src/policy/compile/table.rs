//! The hash table of cells.

use segd_common::tables::{Cell, LINE_CELLS, Line, places};

use super::{
    CompileError,
    cuckoo::{Entry, Table},
};

impl Entry for Cell {
    fn is_free(&self) -> bool {
        self.key == 0
    }

    fn places(&self, seed: u32, lines: u32) -> [u32; 2] {
        places(self.key, seed, lines)
    }
}

/// Lays cells with different keys out: what the table is hashed with, and its lines.
///
/// # Errors
///
/// They find no place.
pub fn lay_out(cells: &[Cell]) -> Result<(u32, Vec<Line>), CompileError> {
    let table: Table<Cell, LINE_CELLS> = Table::of(cells)?;
    let lines = table.lines.into_iter().map(|cells| Line { cells });
    Ok((table.seed, lines.collect()))
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
            let (seed, lines) = lay_out(&cells).expect("there is a place for each");
            let buckets = lines.len() as u32;
            for cell in &cells {
                let [a, b] = places(cell.key, seed, buckets).map(|place| lines[place as usize].cells);
                assert!(a.contains(cell) || b.contains(cell), "{cell:?} of {count}");
            }
            let held = lines
                .iter()
                .flat_map(|line| line.cells)
                .filter(|cell| cell.key != 0);
            assert_eq!(held.count(), cells.len(), "{count}");
            assert!(
                lines.len() * LINE_CELLS * 4 <= cells.len() * 5 + 16,
                "{count}: {buckets} lines"
            );
            assert_eq!(seed, 0, "{count}: not at once");
        }
    }
}
