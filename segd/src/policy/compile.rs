//! From the resolved policy to the tables the kernel reads: rules become what holds between rows and columns of segments.
//!
//! Rules with the same two ends form a bundle; segments that stand in the same bundles on one side form a row, or a column.
//! Work is done once for each row and column that rules meet in, so neither many rules between few segments nor many segments
//! under few rules is slow, and what rules say of `any` is said once.
//!
//! INVARIANT: precedence is `host` default, then guardrail, then allow, then intra, then allow rules that end by
//! themselves; within a kind the rule that stands first, of those that end the one that ends last. Rules with
//! windows that meet decide together. Deliberately absent: any choice that depends on the order of rules beyond naming one of them.

pub mod again;
mod cells;
mod cuckoo;
mod flags;
mod groups;
mod indexes;
mod lists;
mod prefix_table;
mod ranges;
mod table;
mod turns;

use std::sync::Arc;

use ipnet::IpNet;
use segd_common::{
    address::MAX_PREFIXES,
    segment::{self, SegmentIndex},
    tables::{MAX_RULES, Segment, TABLES_AUDIT, TABLES_HOST_OPEN, TABLES_VALID},
};

use super::{
    compiled::{CompiledTables, SegmentIndexes, SelectorInfo, ToldRules},
    model::{Mode, Pieces, Policy, Rule, SelectorKind},
    prefixes,
};
use cells::Laid;
use groups::Groups;

/// Why a policy that is right cannot be put into the tables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A table is too small.
    #[error("the policy needs {needed} {what}; the kernel tables hold {available}")]
    Capacity {
        /// Of what.
        what: &'static str,
        /// How many the policy needs.
        needed: usize,
        /// How many there can be.
        available: usize,
    },
    /// A hash table found no place for all that belongs into it, by any seed.
    #[error(
        "the {entries} entries of a table of the policy find no place in it: this is a fault of segd, or the policy was made to cause it"
    )]
    NoPlace {
        /// How many there are.
        entries: usize,
    },
    /// [`SegmentIndexes::allocate`] was not called for this policy.
    #[error("segment `{name}` has no index")]
    NoIndex {
        /// The segment.
        name: String,
    },
}

/// Compiles a policy for the given indexes. `mode` is `--mode`, which overrides what the policy says.
///
/// # Errors
///
/// If a table is too small, with the needed and the available size.
pub fn compile(
    policy: &Policy,
    indexes: &SegmentIndexes,
    mode: Option<Mode>,
) -> Result<CompiledTables, CompileError> {
    let mut tables = start(policy, indexes, mode)?;
    let groups = Groups::new(policy, indexes)?;
    finish(&mut tables, policy, indexes, &groups)?;
    Ok(tables)
}

/// Tables in which nothing stands yet but the names of rules and segments.
fn start(
    policy: &Policy,
    indexes: &SegmentIndexes,
    mode: Option<Mode>,
) -> Result<CompiledTables, CompileError> {
    let mut tables = CompiledTables {
        flags: TABLES_VALID
            | if mode == Some(Mode::Audit) {
                TABLES_AUDIT
            } else {
                0
            }
            | if policy.enforce_host { 0 } else { TABLES_HOST_OPEN },
        rules: ToldRules(policy.rules.clone()),
        ending: ending(&policy.rules),
        release: policy.release.iter().cloned().collect(),
        ..CompiledTables::default()
    };
    fits("rules", tables.rules.len(), MAX_RULES)?;
    name_segments(&mut tables, policy, indexes, mode)?;
    Ok(tables)
}

/// How many rules there are up to the last that does not hold for good.
fn ending(rules: &Pieces<Rule>) -> usize {
    let ending = rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| !rule.term.is_lasting());
    ending.last().map_or(0, |(last, _)| last + 1)
}

/// Everything else. How the cells lie is returned.
fn finish(
    tables: &mut CompiledTables,
    policy: &Policy,
    indexes: &SegmentIndexes,
    groups: &Groups,
) -> Result<Laid, CompileError> {
    let laid = cells::lay_out(tables, policy, groups)?;
    flags::initiate_and_admit(tables, &flags::on_this_host(policy, indexes));
    prefixes_and_selectors(tables, policy, indexes)?;
    Ok(laid)
}

fn fits(what: &'static str, needed: usize, available: usize) -> Result<(), CompileError> {
    if needed > available {
        Err(CompileError::Capacity {
            what,
            needed,
            available,
        })
    } else {
        Ok(())
    }
}

fn index_of(indexes: &SegmentIndexes, name: &str) -> Result<SegmentIndex, CompileError> {
    indexes
        .by_name
        .get(name)
        .copied()
        .ok_or_else(|| CompileError::NoIndex {
            name: name.to_owned(),
        })
}

/// The indexes of a policy's segments, in the order of their names: both are sorted by them.
fn indexes_of(policy: &Policy, indexes: &SegmentIndexes) -> Result<Vec<SegmentIndex>, CompileError> {
    let mut known = indexes.by_name.iter().peekable();
    let index = |name: &String| {
        while known.next_if(|(before, _)| *before < name).is_some() {}
        let index = known.next_if(|(same, _)| *same == name).map(|(_, index)| *index);
        index.ok_or_else(|| CompileError::NoIndex { name: name.clone() })
    };
    policy.segments.keys().map(index).collect()
}

/// Names and flags by index. A name that is kept for its orphans has its name but no valid index.
fn name_segments(
    tables: &mut CompiledTables,
    policy: &Policy,
    indexes: &SegmentIndexes,
    mode: Option<Mode>,
) -> Result<(), CompileError> {
    let highest = indexes
        .by_name
        .values()
        .copied()
        .max()
        .unwrap_or(segment::PROBE)
        .max(segment::PROBE);
    let mut names = vec![String::new(); usize::from(highest) + 1];
    tables.segments = vec![Segment::default(); usize::from(highest) + 1];
    let mut set = |index: SegmentIndex, name: &str, flags: u32| {
        if let (Some(known), Some(slot)) = (
            names.get_mut(usize::from(index)),
            tables.segments.get_mut(usize::from(index)),
        ) {
            name.clone_into(known);
            slot.flags = flags;
        }
    };
    set(segment::HOST, "host", segment::SEGMENT_VALID);
    set(segment::WORLD, "world", segment::SEGMENT_VALID);
    set(segment::PROBE, "_probe", segment::SEGMENT_VALID);
    for (name, index) in indexes.by_name.iter() {
        set(*index, name, 0);
    }
    let own = indexes_of(policy, indexes)?;
    for ((name, segment), index) in policy.segments.iter().zip(own) {
        let audit = mode.is_none() && segment.mode == Mode::Audit;
        let flags = segment::SEGMENT_VALID
            | if audit { segment::SEGMENT_AUDIT } else { 0 }
            | if segment.intra { segment::SEGMENT_INTRA } else { 0 };
        set(index, name, flags);
    }
    tables.names = Arc::new(names);
    Ok(())
}

/// What puts an address or a workload into a segment.
fn prefixes_and_selectors(
    tables: &mut CompiledTables,
    policy: &Policy,
    indexes: &SegmentIndexes,
) -> Result<(), CompileError> {
    let mut claims: Vec<(IpNet, &[IpNet], &str)> = Vec::new();
    let mut selectors = Vec::new();
    let own = indexes_of(policy, indexes)?;
    for ((name, segment), index) in policy.segments.iter().zip(own) {
        for selector in &segment.selectors {
            match &selector.kind {
                SelectorKind::Cidr { prefix, except } => claims.push((*prefix, except, name)),
                kind => selectors.push(SelectorInfo {
                    segment: index,
                    kind: kind.clone(),
                    location: selector.location.clone(),
                }),
            }
        }
    }
    tables.selectors = Arc::new(selectors);
    let claims = claims
        .into_iter()
        .map(|(prefix, except, name)| prefixes::Claim::new(prefix, except, name));
    let mut owned = Vec::new();
    for (address, bits, owner) in prefixes::Walk::new(claims).table() {
        let owner = owner.map_or(Ok(segment::WORLD), |name| index_of(indexes, name))?;
        owned.push((address, bits, owner));
    }
    tables.prefixes = Arc::new(owned);
    fits("address prefixes", tables.prefixes.len(), MAX_PREFIXES as usize)?;
    prefix_table::lay_out(tables)
}

#[cfg(test)]
mod tests;
