//! The lines of tables: all of them, or those that tables before had and some others in their place.
//!
//! INVARIANT: how lines are held changes nothing of what tables are equal to, nor of what is written.

use std::{collections::BTreeMap, mem, sync::Arc};

use segd_common::tables::Line;

/// The lines of a policy's tables. A change of few shares all others with the tables before.
#[derive(Clone, Debug, Default)]
pub struct SharedLines {
    whole: Arc<Vec<Line>>,
    /// What stands in the place of some, by their numbers.
    apart: Arc<BTreeMap<u32, Line>>,
}

/// So many stand apart at most: they are copied at each change.
const APART: usize = 1024;

impl SharedLines {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.whole.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.whole.is_empty()
    }

    /// The line with a number.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&Line> {
        let line = self.whole.get(number as usize)?;
        Some(self.apart.get(&number).unwrap_or(line))
    }

    /// All in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Line> {
        let mut apart = self.apart.iter().peekable();
        (0..).zip(self.whole.iter()).map(move |(number, line)| {
            let other = apart.next_if(|(apart, _)| **apart == number);
            other.map_or(line, |(_, other)| other)
        })
    }

    /// All from one line on, if none of them stands apart.
    #[must_use]
    pub fn behind(&self, first: u32) -> Option<&[Line]> {
        match self.apart.range(first..).next() {
            None => self.whole.get(first as usize..),
            Some(_) => None,
        }
    }

    /// All of them, to be changed; those that are shared are copied.
    pub fn make_whole(&mut self) -> &mut Vec<Line> {
        let apart = mem::take(&mut self.apart);
        let whole = Arc::make_mut(&mut self.whole);
        for (number, other) in apart.iter() {
            if let Some(line) = whole.get_mut(*number as usize) {
                *line = *other;
            }
        }
        whole
    }

    /// The same with others in the place of some.
    #[must_use]
    pub fn with(&self, others: BTreeMap<u32, Line>) -> SharedLines {
        let mut lines = self.clone();
        Arc::make_mut(&mut lines.apart).extend(others);
        if lines.apart.len() > APART {
            lines.make_whole();
        }
        lines
    }

    /// Writes all of them over whatever is there, and clears the rest.
    ///
    /// Nothing that is there is trusted, not even what was written by the same hand: a write may have failed half way, another daemon may
    /// have written since, or somebody who may do everything.
    pub fn write(&self, out: &mut [Line]) {
        for (to, line) in out.iter_mut().zip(self.whole.iter()) {
            *to = *line;
        }
        for (number, line) in self.apart.iter() {
            if let Some(to) = out.get_mut(*number as usize) {
                *to = *line;
            }
        }
        out.get_mut(self.len()..)
            .unwrap_or_default()
            .fill(Line::default());
    }
}

impl From<Vec<Line>> for SharedLines {
    fn from(lines: Vec<Line>) -> SharedLines {
        SharedLines {
            whole: Arc::new(lines),
            apart: Arc::default(),
        }
    }
}

impl PartialEq for SharedLines {
    fn eq(&self, other: &SharedLines) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(key: u32) -> Line {
        let mut line = Line::default();
        line.cells[0].key = key;
        line
    }

    proptest::proptest! {
        #[test]
        fn a_slot_holds_what_was_written_last_whatever_was_there(
            len in 0..40_u32,
            changes in proptest::collection::vec(
                (proptest::collection::btree_map(0..40_u32, 1..9_u32, 0..6), 0..8_usize, 0..60_usize), 0..30),
        ) {
            let mut lines = SharedLines::from((0..len).map(line).collect::<Vec<_>>());
            // As they would be without sharing.
            let mut plain: Vec<Line> = lines.iter().copied().collect();
            let mut slots = [vec![line(77); 50], vec![line(78); 50]];
            for (turn, (change, kind, at)) in changes.into_iter().enumerate() {
                let change: BTreeMap<u32, Line> =
                    change.into_iter().filter(|(number, _)| *number < len).map(|(number, key)| (number, line(key))).collect();
                for (number, other) in &change {
                    plain[*number as usize] = *other;
                }
                let before = lines.clone();
                match kind {
                    // Compiled from scratch.
                    0 => lines = SharedLines::from(plain.clone()),
                    1 => *lines.make_whole() = plain.clone(),
                    _ => lines = lines.with(change),
                }
                assert_eq!(lines, SharedLines::from(plain.clone()));
                assert!((0..len + 2).all(|number| lines.get(number) == plain.get(number as usize)));
                let slot = &mut slots[turn % 2];
                // The kernel counts behind them, and somebody writes where he likes.
                slot[45] = line(99);
                if let Some(there) = slot.get_mut(at) {
                    *there = line(66);
                }
                // A daemon that writes the same is killed half way, or has written the policy before.
                if kind == 2 {
                    let half = at.min(slot.len());
                    lines.write(&mut slot[..half]);
                }
                if kind == 3 {
                    before.write(slot);
                }
                lines.write(slot);
                assert_eq!(slot[..len as usize], plain);
                assert!(slot[len as usize..].iter().all(|line| *line == Line::default()));
            }
        }
    }

    #[test]
    fn many_that_stand_apart_are_put_in_their_places() {
        let mut lines = SharedLines::from((0..5_000).map(line).collect::<Vec<_>>());
        for first in 0..3 {
            lines = lines.with((0..700).map(|number| (first * 700 + number, line(9))).collect());
            assert!(lines.apart.len() <= APART);
        }
        assert!((0..2_100).all(|number| lines.get(number) == Some(&line(9))));
        assert_eq!(lines.behind(2_100).map(<[Line]>::len), Some(2_900));
        assert_eq!(lines.behind(2_099).is_some(), lines.apart.is_empty());
    }
}
