//! Lists of port ranges, laid out as trees: a search reads one line in each level, of which even the longest list has seven.

use segd_common::tables::{Cell, LINE_CELLS, Line, PortRange, below, lines_of_list};

/// A place behind the last range: it begins above every service.
const NO_RANGE: Cell = Cell {
    key: 0,
    rule: 0,
    low: u32::MAX,
    high: 0,
};

/// The lines of a list. The ranges are sorted and disjoint.
#[must_use]
pub fn tree(ranges: &[PortRange]) -> Vec<Line> {
    let line = Line {
        cells: [NO_RANGE; LINE_CELLS],
    };
    let mut lines = vec![line; lines_of_list(ranges.len() as u32) as usize];
    fill(&mut lines, 0, &mut ranges.iter());
    lines
}

/// Fills what is below a line, and the line, in the order of the ranges.
fn fill(lines: &mut [Line], line: u32, ranges: &mut std::slice::Iter<'_, PortRange>) {
    if line as usize >= lines.len() {
        return;
    }
    for (turn, cell) in (0..).zip(0..LINE_CELLS) {
        fill(lines, below(line, turn), ranges);
        let place = lines
            .get_mut(line as usize)
            .and_then(|line| line.cells.get_mut(cell));
        if let (Some(place), Some(range)) = (place, ranges.next()) {
            *place = Cell::of(*range);
        }
    }
    fill(lines, below(line, LINE_CELLS as u32), ranges);
}

#[cfg(test)]
mod tests {
    use segd_common::{
        decide::rule_at,
        tables::{CELL_LIST, MAX_IN_LIST},
        verdict::Verdict,
    };

    use super::*;
    use crate::policy::compiled::CompiledTables;

    /// Tables in which everything is one list, that does not begin with the first line.
    fn tables(ranges: &[PortRange]) -> CompiledTables {
        let mut lines = vec![Line::default(); 2];
        lines.extend(tree(ranges));
        CompiledTables {
            lines: lines.into(),
            any: Cell {
                key: 0,
                rule: CELL_LIST,
                low: 2,
                high: ranges.len() as u32,
            },
            ..CompiledTables::default()
        }
    }

    #[test]
    fn every_service_of_lists_of_all_lengths_is_found_and_no_other() {
        let lengths = (1..=260).chain([624, 625, 3124, 3125, 15_624, 15_625, 65_000, MAX_IN_LIST]);
        for length in lengths {
            // Ranges of three services, with two between them.
            let ranges = (0..length as u32).map(|number| PortRange {
                low: number * 5 + 2,
                high: number * 5 + 4,
                rule: number,
            });
            let ranges: Vec<PortRange> = ranges.collect();
            let tables = tables(&ranges);
            assert_eq!(tables.ranges(tables.any).collect::<Vec<_>>(), ranges, "{length}");
            let last = length as u32 * 5 + 2;
            let step = if length > 1000 { 7 } else { 1 };
            let near = (0..last).step_by(step).chain(last.saturating_sub(10)..last);
            for service in near.chain([segd_common::service::MAX, segd_common::service::NONE]) {
                let expected = match service % 5 {
                    2..5 if service < last => service / 5,
                    _ => Verdict::NO_RULE,
                };
                // The place of `any`.
                assert_eq!(
                    rule_at(&tables, u32::MAX, service),
                    expected,
                    "{service} of {length}"
                );
            }
        }
    }
}
