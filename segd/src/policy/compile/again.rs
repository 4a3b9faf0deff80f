//! Compiling one policy after another: what a change leaves as it is is taken over from the tables before.
//!
//! INVARIANT: what comes out is, to the byte, what [`super::compile`] makes of the policy alone: a restart, which has nothing before it,
//! knows what a slot holds by its bytes. What is not certain to be so is compiled from scratch, and so is what does not fit,
//! to tell how far.
//!
//! Deliberately absent: rules of `any`, which hold in every cell, and rules with windows, which take turns.

mod layout;
mod lists;
mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use segd_common::{
    segment::{self, SegmentIndex},
    tables::{Cell, MAX_RANGES, MAX_RULES, RULE_DENY, Segment},
};

use self::{
    layout::{cell_at, order_of},
    rules::Rules,
};
use super::{
    CompileError,
    cells::{Content, Laid, content},
    fits, flags,
    groups::Groups,
    start,
    turns::Turns,
};
use crate::policy::{
    compiled::{CompiledTables, SegmentIndexes, SharedLines, ToldRules},
    model::{Mode, Peer, Policy, Rule},
};

/// Compiles policies one after another.
#[derive(Debug, Default)]
pub struct Compiler {
    last: Option<Last>,
}

/// What was compiled last, and how.
#[derive(Debug)]
struct Last {
    policy: Arc<Policy>,
    indexes: SegmentIndexes,
    mode: Option<Mode>,
    tables: Arc<CompiledTables>,
    groups: Arc<Groups>,
    /// The places of all cells in the table, ascending by their keys.
    order: Arc<Vec<u32>>,
    /// At least [`super::cells::Laid::met`].
    met: usize,
    /// A rule has windows.
    windows: bool,
}

impl Compiler {
    /// [`super::compile`]. Any policy, indexes and mode may follow any others.
    ///
    /// # Errors
    ///
    /// As that.
    pub fn compile(
        &mut self,
        policy: &Arc<Policy>,
        indexes: &SegmentIndexes,
        mode: Option<Mode>,
    ) -> Result<Arc<CompiledTables>, CompileError> {
        let changed = self
            .last
            .as_ref()
            .and_then(|last| last.change(policy, indexes, mode));
        let last = match changed {
            Some(Changed::Done(last)) => *last,
            Some(Changed::Grouped(groups)) => Last::new(policy, indexes, mode, Some(groups))?,
            None => Last::new(policy, indexes, mode, None)?,
        };
        let tables = Arc::clone(&last.tables);
        self.last = Some(last);
        Ok(tables)
    }
}

/// How far a change was followed.
enum Changed {
    /// All the way.
    Done(Box<Last>),
    /// Only these are known.
    Grouped(Arc<Groups>),
}

/// What is to stand under a key.
struct Patch {
    key: u32,
    /// Which of the cells before had the key, if one did.
    before: Option<usize>,
    /// Nothing: none has it now.
    now: Option<Content>,
}

impl Last {
    fn new(
        policy: &Arc<Policy>,
        indexes: &SegmentIndexes,
        mode: Option<Mode>,
        groups: Option<Arc<Groups>>,
    ) -> Result<Last, CompileError> {
        let mut tables = start(policy, indexes, mode)?;
        let groups = match groups {
            Some(groups) => groups,
            None => Arc::new(Groups::new(policy, indexes)?),
        };
        let Laid { cells, met } = super::finish(&mut tables, policy, indexes, &groups)?;
        let order = Arc::new(order_of(&cells, &tables));
        Ok(Last {
            policy: Arc::clone(policy),
            indexes: indexes.clone(),
            mode,
            tables: Arc::new(tables),
            groups,
            order,
            met,
            windows: policy.rules.iter().any(|rule| rule.term.when.is_some()),
        })
    }

    /// Compiles what has changed since. `None`: too much, or not so that it can be followed.
    fn change(&self, policy: &Arc<Policy>, indexes: &SegmentIndexes, mode: Option<Mode>) -> Option<Changed> {
        let same = |one: &SegmentIndexes, other: &SegmentIndexes| {
            Arc::ptr_eq(&one.by_name, &other.by_name) || one.by_name == other.by_name
        };
        let segments = (&self.policy.segments, &policy.segments);
        let ground = self.mode == mode
            && self.policy.enforce_host == policy.enforce_host
            && same(&self.indexes, indexes)
            && (Arc::ptr_eq(segments.0, segments.1) || segments.0 == segments.1);
        if !ground || self.windows {
            return None;
        }
        let rules = Rules::compare(&self.policy.rules, &policy.rules)?;
        let come = || rules.come.iter().filter_map(|rule| policy.rules.get(*rule));
        if come().any(|rule| rule.term.when.is_some()) {
            return None;
        }
        let groups = match rules.same_ends {
            true => Arc::clone(&self.groups),
            false => Arc::new(Groups::new(policy, indexes).ok()?),
        };
        let gone = rules.gone.iter().filter_map(|rule| self.policy.rules.get(*rule));
        let done = self
            .keys(gone.chain(come()))
            .filter(|_| groups.places_as(&self.groups))
            .and_then(|keys| self.with(policy, &rules, &groups, &keys).ok());
        match done {
            Some(mut last) => {
                last.indexes = indexes.clone();
                Some(Changed::Done(Box::new(last)))
            }
            None => Some(Changed::Grouped(groups)),
        }
    }

    /// The keys of the cells in which some rules hold. `None`: too many.
    fn keys<'p>(&self, rules: impl Iterator<Item = &'p Rule>) -> Option<BTreeSet<u32>> {
        const FEW: usize = 64;
        let most = FEW + self.order.len() / 16;
        let mut keys = BTreeSet::new();
        let mut met = 0;
        for rule in rules {
            let everybody = self.policy.segments.len() + 2;
            let (from, to) = (&*rule.from, &*rule.to);
            met += from.len() + to.len() + from.len() * to.len();
            if from.len() == everybody || to.len() == everybody || met > most {
                return None;
            }
            let columns: BTreeSet<u16> = to.iter().map(|peer| self.segment(peer).column).collect();
            let rows: BTreeSet<u16> = from.iter().map(|peer| self.segment(peer).row).collect();
            for row in rows {
                keys.extend(columns.iter().map(|column| Cell::key(row, *column)));
            }
        }
        Some(keys)
    }

    fn segment(&self, peer: &Peer) -> Segment {
        let index = match peer {
            Peer::Host => Some(segment::HOST),
            Peer::World => Some(segment::WORLD),
            Peer::Segment(name) => self.indexes.by_name.get(name).copied(),
        };
        let segment = index.and_then(|index: SegmentIndex| self.tables.segments.get(usize::from(index)));
        segment.copied().unwrap_or_default()
    }

    /// The tables with other cells under some keys.
    fn with(
        &self,
        policy: &Arc<Policy>,
        rules: &Rules,
        groups: &Arc<Groups>,
        keys: &BTreeSet<u32>,
    ) -> Result<Last, CompileError> {
        // What neither came nor went holds as long as it did.
        let mut come = rules.come.iter().filter_map(|rule| policy.rules.get(*rule));
        let lasting = self.tables.ending == 0 && come.all(|rule| rule.term.is_lasting());
        let mut turns = match lasting {
            true => Turns::lasting(&policy.rules),
            false => Turns::of(&policy.rules),
        };
        let mut contents: BTreeMap<u32, Content> = BTreeMap::new();
        let mut met = self.met;
        let rows: BTreeSet<u16> = keys.iter().map(|key| (key >> 16) as u16).collect();
        groups.cells_of(rows, &mut |held| {
            let key = Cell::key(held.row, held.column);
            if keys.contains(&key) {
                if let Some(content) = content(&mut turns, &groups.rules_of(held.bundles))? {
                    contents.insert(key, content);
                }
                if held.bundles.len() > 1 {
                    met += held.bundles.len();
                }
            }
            Ok(())
        })?;
        // Counted too high, because what is not met any more is still in it: there may be room.
        fits("places of rules in pairs of segments", met, 2 * MAX_RANGES)?;
        let patches = keys.iter().filter_map(|key| {
            let by_key = |place: &u32| cell_at(&self.tables.lines, *place).key;
            let patch = Patch {
                key: *key,
                before: self.order.binary_search_by_key(key, by_key).ok(),
                now: contents.remove(key),
            };
            (patch.before.is_some() || patch.now.is_some()).then_some(patch)
        });
        let patches: Vec<Patch> = patches.collect();
        let tables = CompiledTables {
            flags: self.tables.flags,
            segments: self.tables.segments.clone(),
            seed: self.tables.seed,
            buckets: self.tables.buckets,
            lines: SharedLines::default(),
            lengths: self.tables.lengths,
            prefix_table: self.tables.prefix_table,
            any: self.tables.any,
            cells: self.tables.cells,
            ranges: self.tables.ranges,
            rules: ToldRules(policy.rules.clone()),
            ending: match lasting {
                true => 0,
                false => super::ending(&policy.rules),
            },
            together: Vec::new(),
            names: Arc::clone(&self.tables.names),
            prefixes: Arc::clone(&self.tables.prefixes),
            selectors: Arc::clone(&self.tables.selectors),
            release: policy.release.iter().cloned().collect(),
        };
        fits("rules", tables.rules.len(), MAX_RULES)?;
        let does_the_same = self.does_the_same(&patches);
        let (mut tables, order) = self.laid_out(tables, patches, &rules.moved)?;
        if !does_the_same {
            flags::clear(&mut tables.segments);
            flags::initiate_and_admit(&mut tables, &flags::on_this_host(policy, &self.indexes));
        }
        Ok(Last {
            policy: Arc::clone(policy),
            indexes: self.indexes.clone(),
            mode: self.mode,
            tables: Arc::new(tables),
            groups: Arc::clone(groups),
            order,
            met,
            windows: false,
        })
    }

    /// Whether cells stand under the same keys, and open and shut what those before did: then everybody initiates and admits as before.
    fn does_the_same(&self, patches: &[Patch]) -> bool {
        patches.iter().all(|patch| {
            let before = patch.before.and_then(|at| self.order.get(at));
            let (Some(place), Some(now)) = (before, &patch.now) else {
                return false;
            };
            let denies = |rule: u32| rule & RULE_DENY != 0;
            let now = match now {
                Content::One(cell) => (!denies(cell.rule), denies(cell.rule)),
                Content::List(ranges) => (
                    ranges.iter().any(|range| !denies(range.rule)),
                    ranges.iter().any(|range| denies(range.rule)),
                ),
            };
            flags::does(&self.tables, cell_at(&self.tables.lines, *place)) == now
        })
    }
}

#[cfg(test)]
mod tests;
