//! What changes between two policies, by meaning: who may newly start what towards whom, and who may no longer.
//!
//! Both policies are compiled. A *party* is whoever stays together: the members of a segment, `host`, `world`, and those
//! workloads and addresses that one policy counts to one segment and the other to another. For every pair of parties the
//! two classes are compared, which is once for each pair of classes, whatever the number of rules.
//!
//! INVARIANT: a packet that one policy lets pass and the other does not is in an entry; nothing else is.
//! Deliberately absent: texts. A policy that is written differently and means the same has no entry.

mod entries;
mod stretches;

use std::collections::{BTreeMap, BTreeSet};

use segd_common::{
    segment::{self, MAX_SEGMENTS, SegmentIndex},
    tables::{PortRange, TABLES_AUDIT},
};

pub use entries::{Cause, Diff, Entry, Moved, Name};

use self::stretches::{Fate, Stretch, between};
use super::{compiled::CompiledTables, model::Policy, prefixes::overlay::overlay};

/// One of the two policies.
#[derive(Clone, Copy, Debug)]
pub struct Side<'p> {
    /// As it is written.
    pub policy: &'p Policy,
    /// As it is enforced.
    pub tables: &'p CompiledTables,
}

/// What becomes different for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Denied before, allowed now.
    Allowed,
    /// Denied before and dropped; denied now, and passed by audit mode.
    Audited,
    /// Allowed before, denied now.
    Denied,
    /// Denied before and passed by audit mode; dropped now.
    Enforced,
}

impl Change {
    /// Every change, in the order they are told.
    pub const ALL: [Change; 4] = [Change::Allowed, Change::Audited, Change::Denied, Change::Enforced];

    /// Whether more passes than before, or more may.
    #[must_use]
    pub const fn widens(self) -> bool {
        matches!(self, Change::Allowed | Change::Audited)
    }

    /// The word used in JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Change::Allowed => "allowed",
            Change::Audited => "audited",
            Change::Denied => "denied",
            Change::Enforced => "enforced",
        }
    }
}

/// Workloads that belong to one segment under one policy and to another under the other; `NONE`: ambiguous, and denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The selector that tells them, for people.
    pub what: String,
    /// Their segment before.
    pub old: SegmentIndex,
    /// Their segment now.
    pub new: SegmentIndex,
}

/// Whoever stays together: the index under both policies.
type Party = (SegmentIndex, SegmentIndex);

/// Compares two policies. `workloads` tells which workloads change their segment; addresses are found out here.
#[must_use]
pub fn diff(old: Side<'_>, new: Side<'_>, workloads: Vec<Move>) -> Diff {
    let mut parties: BTreeSet<Party> = [segment::HOST, segment::WORLD].map(|peer| (peer, peer)).into();
    for name in old.policy.segments.keys() {
        if let (true, Some(a), Some(b)) = (
            new.policy.segments.contains_key(name),
            old.tables.index(name),
            new.tables.index(name),
        ) {
            parties.insert((a, b));
        }
    }
    let mut moves = workloads;
    for owned in overlay(&old.tables.prefixes, &new.tables.prefixes) {
        let (what, old, new) = (owned.text, owned.old, owned.new);
        moves.push(Move { what, old, new });
    }
    let name = |tables: &CompiledTables, index: SegmentIndex| match index {
        segment::NONE => None,
        _ => tables.names.get(usize::from(index)).cloned(),
    };
    let stays = |found: &Move| {
        found.old != segment::NONE && name(old.tables, found.old) == name(new.tables, found.new)
    };
    moves.retain(|found| !stays(found));
    parties.extend(moves.iter().map(|found| (found.old, found.new)));
    let parties: Vec<Party> = parties.into_iter().collect();
    let changes = Changes::of(old.tables, new.tables, &parties);
    entries::describe(old, new, &parties, &moves, changes)
}

/// Which pairs change, and how.
struct Changes {
    /// Each way to change that occurs.
    ways: Vec<Vec<Stretch>>,
    /// By way, the pairs, as places in the list of parties.
    pairs: Vec<Vec<(usize, usize)>>,
}

impl Changes {
    fn of(old: &CompiledTables, new: &CompiledTables, parties: &[Party]) -> Changes {
        let (old, new) = (Matrix::of(old), Matrix::of(new));
        let mut known: BTreeMap<(u16, u16, bool, bool), Option<usize>> = BTreeMap::new();
        let mut by_way: BTreeMap<Vec<Stretch>, usize> = BTreeMap::new();
        let mut pairs: Vec<Vec<(usize, usize)>> = Vec::new();
        for (from, (from_old, from_new)) in parties.iter().enumerate() {
            let mut last = None;
            for (to, (to_old, to_new)) in parties.iter().enumerate() {
                let (old_class, old_audit) = old.pair(*from_old, *to_old);
                let (new_class, new_audit) = new.pair(*from_new, *to_new);
                if (old_class, new_class, old_audit) == (0, 0, new_audit) {
                    continue;
                }
                let key = (old_class, new_class, old_audit, new_audit);
                let way = match last {
                    Some((before, way)) if before == key => way,
                    _ => *known.entry(key).or_insert_with(|| {
                        let stretches =
                            between(old.fate(old_class, old_audit), new.fate(new_class, new_audit));
                        (!stretches.is_empty()).then(|| {
                            let next = by_way.len();
                            *by_way.entry(stretches).or_insert(next)
                        })
                    }),
                };
                last = Some((key, way));
                if let Some(way) = way {
                    if pairs.len() <= way {
                        pairs.resize_with(way + 1, Vec::new);
                    }
                    if let Some(pairs) = pairs.get_mut(way) {
                        pairs.push((from, to));
                    }
                }
            }
        }
        let mut ways = vec![Vec::new(); by_way.len()];
        for (stretches, way) in by_way {
            if let Some(slot) = ways.get_mut(way) {
                *slot = stretches;
            }
        }
        Changes { ways, pairs }
    }
}

/// The classes of one policy, to be looked up a million times.
struct Matrix<'t> {
    tables: &'t CompiledTables,
    classes: Vec<u16>,
}

impl<'t> Matrix<'t> {
    fn of(tables: &'t CompiledTables) -> Matrix<'t> {
        let mut classes = vec![0; MAX_SEGMENTS * MAX_SEGMENTS];
        for ((from, to), class) in &tables.classes {
            if let Some(cell) = classes.get_mut(usize::from(*from) * MAX_SEGMENTS + usize::from(*to)) {
                *cell = *class;
            }
        }
        Matrix { tables, classes }
    }

    /// The class of a pair, and whether denials between the two only count.
    fn pair(&self, from: SegmentIndex, to: SegmentIndex) -> (u16, bool) {
        if from == segment::NONE || to == segment::NONE {
            return (0, false);
        }
        let cell = usize::from(from) * MAX_SEGMENTS + usize::from(to);
        let flags = |index: SegmentIndex| {
            self.tables
                .segments
                .get(usize::from(index))
                .copied()
                .unwrap_or_default()
        };
        let audit =
            self.tables.flags & TABLES_AUDIT != 0 || (flags(from) | flags(to)) & segment::SEGMENT_AUDIT != 0;
        (self.classes.get(cell).copied().unwrap_or_default(), audit)
    }

    fn fate(&self, class: u16, audit: bool) -> Fate<'t> {
        let set = self
            .tables
            .sets
            .get(usize::from(class))
            .copied()
            .unwrap_or_default();
        let first = set.first as usize;
        let ranges: &[PortRange] = self
            .tables
            .ranges
            .get(first..first + set.len as usize)
            .unwrap_or_default();
        Fate { ranges, audit }
    }
}

#[cfg(test)]
mod tests;
