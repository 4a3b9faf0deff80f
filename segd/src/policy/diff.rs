//! What changes between two policies, by meaning: who may newly start what towards whom, and who may no longer.
//!
//! Both policies are compiled. A *party* is whoever stays together: the members of a segment, `host`, `world`, and those
//! workloads and addresses that one policy counts to one segment and the other to another. What holds between two of them
//! is compared, once for all pairs between which the same holds.
//!
//! INVARIANT: a packet that one policy lets pass and the other does not is in an entry; nothing else is.
//! Deliberately absent: texts. A policy that is written differently and means the same has no entry.

mod changes;
mod entries;
mod stretches;

use std::collections::BTreeSet;

use segd_common::segment::{self, SegmentIndex};

pub use entries::{Cause, Diff, Entry, Moved, Name};

use self::changes::Changes;
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
    let (before, now) = (old.tables.indexes(), new.tables.indexes());
    let stay = old
        .policy
        .segments
        .keys()
        .filter(|name| new.policy.segments.contains_key(*name));
    parties.extend(stay.filter_map(|name| Some((*before.get(name.as_str())?, *now.get(name.as_str())?))));
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

#[cfg(test)]
mod tests;
