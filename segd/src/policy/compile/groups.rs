//! Bundles of rules with the same ends, and the rows and columns of segments that stand in the same of them.
//!
//! What `any` stands for is everybody: rules with it are kept apart, so that they neither tell segments from each other nor
//! need a cell for each of them.

mod walk;

use std::{
    borrow::Cow,
    collections::BTreeSet,
    hash::{Hash, Hasher},
    sync::Arc,
};

use segd_common::segment::{self, SegmentIndex};

use super::{CompileError, indexes_of};
use crate::policy::{
    compiled::SegmentIndexes,
    model::{Peer, Policy},
    numbers::{Addresses, Numbers, Words},
};

pub use walk::Visit;
use walk::Walk;

/// The number of a set of peers.
type End = u32;
/// The number of a bundle.
pub type Bundle = u32;

/// A segment, its row and its column.
pub type Placed = (SegmentIndex, u16, u16);

/// Which rules hold between which rows and columns.
#[derive(Debug)]
pub struct Groups {
    /// Who is grouped.
    members: Vec<SegmentIndex>,
    /// The ends of each bundle and the place of its first rule, ascending by ends.
    bundles: Vec<(End, End, usize)>,
    /// By end, where the bundles from it begin; and where the last ends.
    starts: Vec<usize>,
    /// The rules of all bundles, one after another, ascending in each.
    rules: Vec<usize>,
    /// The end that is everybody, if a rule has it.
    any: Option<End>,
    /// Who initiates.
    rows: Side,
    /// Who is initiated to.
    columns: Side,
    /// The columns of each end.
    reach: Vec<Vec<u16>>,
}

/// Segments by what they stand in on one side of rules. Number 0 are those that stand in nothing but `any`.
#[derive(Debug)]
struct Side {
    /// By segment, in the order they were given.
    numbers: Vec<u16>,
    /// By number, the ends.
    ends: Vec<Vec<End>>,
}

/// The bundles that hold in one cell.
pub struct Held<'g> {
    /// The row; 0: every other.
    pub row: u16,
    /// The column; 0: every other.
    pub column: u16,
    /// Ascending.
    pub bundles: &'g [Bundle],
}

impl Groups {
    /// Groups the segments of a policy, `host` and `world` among them.
    ///
    /// # Errors
    ///
    /// If a segment has no index.
    pub fn new(policy: &Policy, indexes: &SegmentIndexes) -> Result<Groups, CompileError> {
        let mut members = vec![segment::HOST, segment::WORLD];
        members.extend(indexes_of(policy, indexes)?);
        // The names of the members after `host` and `world`, in order.
        let mut names = Words::default();
        for name in policy.segments.keys() {
            names.number(name);
        }
        let mut ends = Ends::default();
        let both: Vec<(End, End)> = policy
            .rules
            .iter()
            .map(|rule| (ends.number(&rule.from), ends.number(&rule.to)))
            .collect();
        let (by_ends, first) = sorted(&both, ends.sets.len());
        let mut bundles: Vec<(End, End, usize)> = Vec::new();
        let mut starts = Vec::with_capacity(first.len());
        for (from, row) in (0..).zip(first.iter().zip(first.iter().skip(1))) {
            starts.push(bundles.len());
            let mut last = None;
            for (place, (to, _)) in (*row.0..*row.1).zip(by_ends.get(*row.0..*row.1).unwrap_or_default()) {
                if last != Some(*to) {
                    last = Some(*to);
                    bundles.push((from, *to, place));
                }
            }
        }
        starts.push(bundles.len());
        let mut stood = vec![(false, false); ends.sets.len()];
        for (from, to, _) in &bundles {
            if let Some(end) = stood.get_mut(*from as usize) {
                end.0 = true;
            }
            if let Some(end) = stood.get_mut(*to as usize) {
                end.1 = true;
            }
        }
        let mut any = None;
        let (mut initiates, mut admits) = (vec![Vec::new(); members.len()], vec![Vec::new(); members.len()]);
        for (number, (set, (from, to))) in (0..).zip(ends.sets.iter().zip(&stood)) {
            if set.len() == members.len() {
                any = Some(number);
                continue;
            }
            for peer in set.iter() {
                let place = match peer {
                    Peer::Host => 0,
                    Peer::World => 1,
                    Peer::Segment(name) => {
                        let unknown = || CompileError::NoIndex { name: name.clone() };
                        2 + names.find(name).ok_or_else(unknown)? as usize
                    }
                };
                for (stands, table) in [(*from, &mut initiates), (*to, &mut admits)] {
                    if let Some(ends) = table.get_mut(place).filter(|_| stands) {
                        ends.push(number);
                    }
                }
            }
        }
        let (rows, columns) = (Side::of(initiates), Side::of(admits));
        let mut reach = vec![Vec::new(); ends.sets.len()];
        for (column, ends) in (0..=u16::MAX).zip(&columns.ends) {
            for end in ends {
                if let Some(columns) = reach.get_mut(*end as usize) {
                    columns.push(column);
                }
            }
        }
        Ok(Groups {
            members,
            bundles,
            starts,
            rules: by_ends.into_iter().map(|(_, rule)| rule as usize).collect(),
            any,
            rows,
            columns,
            reach,
        })
    }

    /// Who was grouped, with the row and the column of each.
    pub fn segments(&self) -> impl Iterator<Item = Placed> {
        let numbers = self.rows.numbers.iter().zip(&self.columns.numbers);
        let segments = self.members.iter().zip(numbers);
        segments.map(|(index, (row, column))| (*index, *row, *column))
    }

    /// The bundles of each cell, ascending by row and then column. Row and column 0 stand for every other.
    ///
    /// # Errors
    ///
    /// What `visit` says.
    pub fn cells(&self, visit: &mut Visit<'_>) -> Result<(), CompileError> {
        let mut walk = Walk::new(self);
        walk.of_everybody(visit)?;
        (0..=u16::MAX)
            .zip(&self.rows.ends)
            .try_for_each(|(row, _)| walk.of_row(row, visit))
    }

    /// The bundles of the cells of some rows, as [`Groups::cells`] has them.
    ///
    /// # Errors
    ///
    /// What `visit` says.
    pub fn cells_of(
        &self,
        rows: impl IntoIterator<Item = u16>,
        visit: &mut Visit<'_>,
    ) -> Result<(), CompileError> {
        let mut walk = Walk::new(self);
        rows.into_iter().try_for_each(|row| walk.of_row(row, visit))
    }

    /// Whether segments stand in the same rows and columns.
    pub fn places_as(&self, other: &Groups) -> bool {
        self.rows.numbers == other.rows.numbers && self.columns.numbers == other.columns.numbers
    }

    /// The bundles from an end, with the other end of each.
    fn from(&self, end: End) -> impl Iterator<Item = (Bundle, End)> {
        let start = self.starts.get(end as usize).copied();
        let end = self.starts.get(end as usize + 1).copied();
        let of_end = start.zip(end).map_or(0..0, |(start, end)| start..end);
        let bundles = self.bundles.get(of_end.clone()).unwrap_or_default();
        let numbered = of_end.zip(bundles);
        numbered.map(|(bundle, (_, to, _))| (bundle as Bundle, *to))
    }

    /// How many bundles there are.
    pub fn len(&self) -> usize {
        self.bundles.len()
    }

    /// The rules of a bundle, ascending.
    pub fn rules(&self, bundle: Bundle) -> &[usize] {
        let start = |bundle: usize| {
            self.bundles
                .get(bundle)
                .map_or(self.rules.len(), |(_, _, first)| *first)
        };
        let bundle = bundle as usize;
        self.rules
            .get(start(bundle)..start(bundle + 1))
            .unwrap_or_default()
    }

    /// The rules of some bundles, ascending.
    pub fn rules_of(&self, bundles: &[Bundle]) -> Cow<'_, [usize]> {
        if let [only] = bundles {
            return Cow::Borrowed(self.rules(*only));
        }
        let mut rules: Vec<usize> = bundles
            .iter()
            .flat_map(|bundle| self.rules(*bundle))
            .copied()
            .collect();
        rules.sort_unstable();
        Cow::Owned(rules)
    }
}

impl Side {
    /// Numbers segments by the ends that each stands in.
    fn of(by_segment: Vec<Vec<End>>) -> Side {
        // By number less one, the place of the first who has it: 0 are those that stand in nothing.
        let (mut numbers, mut firsts) = (Vec::with_capacity(by_segment.len()), Vec::new());
        let mut known = Numbers::default();
        for (place, ends) in (0..).zip(&by_segment) {
            if ends.is_empty() {
                numbers.push(0);
                continue;
            }
            let next = firsts.len() as u32;
            let number = known.number(ends, next, |number| {
                let first = firsts.get(number as usize).copied();
                first.and_then(|place: usize| by_segment.get(place)) == Some(ends)
            });
            if number == next {
                firsts.push(place);
            }
            // There are fewer segments than numbers.
            numbers.push(u16::try_from(number + 1).unwrap_or_default());
        }
        let mut by_segment = by_segment;
        let own = firsts
            .into_iter()
            .map(|place| by_segment.get_mut(place).map(std::mem::take).unwrap_or_default());
        let ends = std::iter::once(Vec::new()).chain(own).collect();
        Side { numbers, ends }
    }
}

/// Sets of peers, numbered as they are met.
#[derive(Default)]
struct Ends<'p> {
    sets: Vec<&'p BTreeSet<Peer>>,
    by_content: Numbers,
    by_address: Addresses,
}

impl<'p> Ends<'p> {
    fn number(&mut self, set: &'p Arc<BTreeSet<Peer>>) -> End {
        let Ends {
            sets,
            by_content,
            by_address,
        } = self;
        by_address.number(set, || {
            let next = sets.len() as End;
            let number = by_content.number(&Content(set), next, |number| {
                sets.get(number as usize).is_some_and(|known| *known == &**set)
            });
            if number == next {
                sets.push(set);
            }
            number
        })
    }
}

/// A set of peers, for its hash.
struct Content<'p>(&'p BTreeSet<Peer>);

impl Hash for Content<'_> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for peer in self.0 {
            match peer {
                Peer::Host => hasher.write_u8(0),
                Peer::World => hasher.write_u8(1),
                Peer::Segment(name) => {
                    hasher.write_u8(2);
                    name.hash(hasher);
                }
            }
        }
    }
}

/// The other end and the number of each rule, sorted by both ends and the number; and by end, where those from it begin.
fn sorted(both: &[(End, End)], ends: usize) -> (Vec<(End, u32)>, Vec<usize>) {
    let mut first = vec![0; ends + 1];
    for (from, _) in both {
        if let Some(count) = first.get_mut(*from as usize + 1) {
            *count += 1;
        }
    }
    let mut total = 0;
    for first in &mut first {
        total += *first;
        *first = total;
    }
    let mut by_ends = vec![(0, 0); both.len()];
    let mut free = first.clone();
    for ((from, to), rule) in both.iter().zip(0..) {
        if let Some(free) = free.get_mut(*from as usize) {
            if let Some(place) = by_ends.get_mut(*free) {
                *place = (*to, rule);
            }
            *free += 1;
        }
    }
    // Those from one end are few.
    for (start, end) in first.iter().zip(first.iter().skip(1)) {
        by_ends.get_mut(*start..*end).unwrap_or_default().sort_unstable();
    }
    (by_ends, first)
}
