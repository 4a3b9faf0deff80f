//! Bundles of rules with the same ends, and groups of segments that stand in the same bundles.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use segd_common::segment::{self, SegmentIndex};

use super::{CompileError, index_of};
use crate::policy::{
    compiled::SegmentIndexes,
    model::{Peer, Policy},
};

/// Which rules cover which pair.
pub struct Groups {
    /// The rules of each bundle, ascending.
    bundles: Vec<Vec<usize>>,
    /// Segments that initiate under the same bundles.
    rows: Vec<Row>,
    /// The group of each segment as the one that is initiated to.
    columns: BTreeMap<SegmentIndex, usize>,
    /// The column groups of each bundle.
    reach: Vec<Vec<usize>>,
    /// How many column groups there are.
    width: usize,
}

/// Segments that initiate under the same bundles.
pub struct Row {
    /// The segments.
    pub members: Vec<SegmentIndex>,
    /// The bundles.
    bundles: Vec<usize>,
}

impl Groups {
    /// Groups the segments of a policy.
    ///
    /// # Errors
    ///
    /// If a segment has no index.
    pub fn new(policy: &Policy, indexes: &SegmentIndexes) -> Result<Groups, CompileError> {
        let mut ends = Ends::default();
        let mut by_ends: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (index, rule) in policy.rules.iter().enumerate() {
            by_ends
                .entry((ends.number(&rule.from), ends.number(&rule.to)))
                .or_default()
                .push(index);
        }
        let mut members = vec![segment::HOST, segment::WORLD];
        for name in policy.segments.keys() {
            members.push(index_of(indexes, name)?);
        }
        let mut bundles = Vec::with_capacity(by_ends.len());
        let mut initiates: BTreeMap<SegmentIndex, Vec<usize>> =
            members.iter().map(|index| (*index, Vec::new())).collect();
        let mut admits = initiates.clone();
        for (bundle, ((from, to), rules)) in by_ends.into_iter().enumerate() {
            for (number, table) in [(from, &mut initiates), (to, &mut admits)] {
                for peer in ends.peers(number) {
                    table.entry(peer_index(peer, indexes)?).or_default().push(bundle);
                }
            }
            bundles.push(rules);
        }
        let rows = alike(&initiates)
            .into_iter()
            .map(|(bundles, members)| Row {
                members,
                bundles: bundles.to_vec(),
            })
            .collect();
        let mut columns = BTreeMap::new();
        let mut reach = vec![Vec::new(); bundles.len()];
        let mut width = 0;
        for (column, (covering, members)) in alike(&admits).into_iter().enumerate() {
            columns.extend(members.into_iter().map(|index| (index, column)));
            for bundle in covering {
                if let Some(columns) = reach.get_mut(*bundle) {
                    columns.push(column);
                }
            }
            width = column + 1;
        }
        Ok(Groups {
            bundles,
            rows,
            columns,
            reach,
            width,
        })
    }

    /// The groups of initiating segments.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The group of each segment as the one that is initiated to.
    pub fn columns(&self) -> &BTreeMap<SegmentIndex, usize> {
        &self.columns
    }

    /// The bundles that cover a row and each column group.
    pub fn cells(&self, row: &Row) -> Vec<Vec<usize>> {
        let mut cells = vec![Vec::new(); self.width];
        for bundle in &row.bundles {
            for column in self.reach.get(*bundle).into_iter().flatten() {
                if let Some(cell) = cells.get_mut(*column) {
                    cell.push(*bundle);
                }
            }
        }
        cells
    }

    /// The rules of some bundles, ascending.
    pub fn rules(&self, bundles: &[usize]) -> Vec<usize> {
        let mut rules: Vec<usize> = bundles
            .iter()
            .filter_map(|bundle| self.bundles.get(*bundle))
            .flatten()
            .copied()
            .collect();
        rules.sort_unstable();
        rules
    }
}

/// Sets of peers, numbered as they are met.
#[derive(Default)]
struct Ends<'p> {
    sets: Vec<&'p BTreeSet<Peer>>,
    by_content: BTreeMap<&'p BTreeSet<Peer>, usize>,
    /// Most rules share their sets: comparing addresses spares comparing names. Never iterated over.
    by_address: BTreeMap<*const BTreeSet<Peer>, usize>,
}

impl<'p> Ends<'p> {
    fn number(&mut self, set: &'p Arc<BTreeSet<Peer>>) -> usize {
        if let Some(number) = self.by_address.get(&Arc::as_ptr(set)) {
            return *number;
        }
        let number = *self.by_content.entry(set).or_insert(self.sets.len());
        if number == self.sets.len() {
            self.sets.push(set);
        }
        self.by_address.insert(Arc::as_ptr(set), number);
        number
    }

    fn peers(&self, number: usize) -> impl Iterator<Item = &'p Peer> {
        self.sets.get(number).into_iter().flat_map(|set| set.iter())
    }
}

/// Segments by what they have in common.
fn alike(table: &BTreeMap<SegmentIndex, Vec<usize>>) -> BTreeMap<&[usize], Vec<SegmentIndex>> {
    let mut alike: BTreeMap<&[usize], Vec<SegmentIndex>> = BTreeMap::new();
    for (index, bundles) in table {
        alike.entry(bundles).or_default().push(*index);
    }
    alike
}

fn peer_index(peer: &Peer, indexes: &SegmentIndexes) -> Result<SegmentIndex, CompileError> {
    match peer {
        Peer::Host => Ok(segment::HOST),
        Peer::World => Ok(segment::WORLD),
        Peer::Segment(name) => index_of(indexes, name),
    }
}
