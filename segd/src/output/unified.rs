//! Two texts as a unified diff.

use std::fmt::Write as _;

/// Lines around what differs.
const CONTEXT: usize = 3;
/// The largest table of lines by lines that is filled; beyond, what differs is told as one block.
const MOST_CELLS: usize = 1 << 22;

/// What differs, as `diff -u` tells it; nothing if nothing does.
#[must_use]
pub fn unified(name: &str, before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (
        before.split_inclusive('\n').collect(),
        after.split_inclusive('\n').collect(),
    );
    let steps = steps(&old, &new);
    let mut out = String::new();
    let changed: Vec<usize> = (0..steps.len())
        .filter(|at| !matches!(steps.get(*at), Some(Step::Keep(_))))
        .collect();
    let mut rest = changed.as_slice();
    if !rest.is_empty() {
        let _ = write!(out, "--- {name}\n+++ {name}\n");
    }
    while let Some(first) = rest.first() {
        let near = |pair: &[usize]| matches!(pair, [a, b] if b - a <= 2 * CONTEXT + 1);
        let count = 1 + rest.windows(2).take_while(|pair| near(pair)).count();
        let (group, others) = rest.split_at(count.min(rest.len()));
        rest = others;
        let start = first.saturating_sub(CONTEXT);
        let end = group
            .last()
            .map_or(*first, |last| last + 1 + CONTEXT)
            .min(steps.len());
        let lines = |range: std::ops::Range<usize>, mark: char| {
            let steps = steps.get(range).unwrap_or_default().iter();
            steps
                .filter(|step| step.mark() == ' ' || step.mark() == mark)
                .count()
        };
        let place = |mark: char| {
            let (before, count) = (lines(0..start, mark), lines(start..end, mark));
            // A range of no lines is named by the line before it.
            format!("{},{count}", if count == 0 { before } else { before + 1 })
        };
        let _ = writeln!(out, "@@ -{} +{} @@", place('-'), place('+'));
        for step in steps.get(start..end).unwrap_or_default() {
            let line = step.line();
            let _ = write!(out, "{}{line}", step.mark());
            if !line.ends_with('\n') {
                out.push_str("\n\\ No newline at end of file\n");
            }
        }
    }
    out
}

enum Step<'t> {
    Keep(&'t str),
    Take(&'t str),
    Add(&'t str),
}

impl<'t> Step<'t> {
    const fn mark(&self) -> char {
        match self {
            Step::Keep(_) => ' ',
            Step::Take(_) => '-',
            Step::Add(_) => '+',
        }
    }

    const fn line(&self) -> &'t str {
        match self {
            Step::Keep(line) | Step::Take(line) | Step::Add(line) => line,
        }
    }
}

/// From one to the other by the longest common subsequence.
fn steps<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<Step<'t>> {
    let same = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (head, old) = old.split_at(same);
    let (_, new) = new.split_at(same);
    let tail = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let (old, tail) = old.split_at(old.len() - tail);
    let (new, _) = new.split_at(new.len() - tail.len());
    let width = new.len() + 1;
    let fits = (old.len() + 1).saturating_mul(width) <= MOST_CELLS;
    // How long the longest one is from each pair of places on.
    let mut table = vec![0_u32; if fits { (old.len() + 1) * width } else { 0 }];
    let cell = |table: &[u32], i: usize, j: usize| table.get(i * width + j).copied().unwrap_or_default();
    if fits {
        for (i, a) in old.iter().enumerate().rev() {
            for (j, b) in new.iter().enumerate().rev() {
                let best = match a == b {
                    true => cell(&table, i + 1, j + 1) + 1,
                    false => cell(&table, i + 1, j).max(cell(&table, i, j + 1)),
                };
                if let Some(cell) = table.get_mut(i * width + j) {
                    *cell = best;
                }
            }
        }
    }
    let mut steps: Vec<Step<'t>> = head.iter().map(|line| Step::Keep(line)).collect();
    let (mut i, mut j) = (0, 0);
    loop {
        match (old.get(i), new.get(j)) {
            (Some(a), Some(b)) if fits && a == b => {
                steps.push(Step::Keep(a));
                (i, j) = (i + 1, j + 1);
            }
            (Some(a), b) if b.is_none() || cell(&table, i + 1, j) >= cell(&table, i, j + 1) => {
                steps.push(Step::Take(a));
                i += 1;
            }
            (_, Some(b)) => {
                steps.push(Step::Add(b));
                j += 1;
            }
            (_, None) => break,
        }
    }
    steps.extend(tail.iter().map(|line| Step::Keep(line)));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_differs_with_its_surroundings() {
        let before = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12";
        let after = "0\n1\n2\n3\nfour\n5\n6\n7\n8\n9\n10\n11\n12\n";
        let expected = "--- p\n+++ p\n@@ -1,7 +1,8 @@\n+0\n 1\n 2\n 3\n-4\n+four\n 5\n 6\n 7\n@@ -9,4 +10,4 @@\n 9\n 10\n 11\n\
                        -12\n\\ No newline at end of file\n+12\n";
        assert_eq!(unified("p", before, after), expected);
        assert_eq!(unified("p", before, before), "");
        assert_eq!(unified("p", "", "1\n"), "--- p\n+++ p\n@@ -0,0 +1,1 @@\n+1\n");
    }
}
