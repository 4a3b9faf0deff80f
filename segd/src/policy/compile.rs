//! From the resolved policy to the tables the kernel reads: rules become classes of segment pairs.
//!
//! Rules with the same two ends form a bundle; segments that stand in the same bundles form a group. Work is done
//! once for each pair of groups, so neither many rules between few segments nor many segments under few rules is slow.
//!
//! INVARIANT: precedence is `host` default, then guardrail, then allow, then intra, then allow rules that end by
//! themselves; within a kind the rule that stands first, of those that end the one that ends last. Rules with
//! windows that meet decide together. Deliberately absent: any choice that depends on the order of rules beyond naming one of them.

mod groups;
mod indexes;
mod ranges;
mod turns;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use segd_common::{
    address::MAX_PREFIXES,
    segment::{self, SegmentIndex},
    tables::{
        MAX_CLASSES, MAX_RANGES, MAX_RULES, MAX_STEPS, PortRange, PortSet, RULE_DENY, TABLES_AUDIT,
        TABLES_VALID,
    },
};

use self::{groups::Groups, ranges::Base, turns::Turns};
use super::{
    compiled::{CompiledTables, RuleInfo, SegmentIndexes, SelectorInfo},
    model::{Mode, Policy, SelectorKind},
    prefixes,
};

/// The longest set that the kernel's search reaches the end of.
const MAX_IN_SET: usize = (1 << MAX_STEPS) - 1;

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
    let mut tables = CompiledTables {
        flags: TABLES_VALID
            | if mode == Some(Mode::Audit) {
                TABLES_AUDIT
            } else {
                0
            },
        sets: vec![PortSet::default()],
        rules: policy
            .rules
            .iter()
            .map(|rule| RuleInfo {
                label: rule.label.clone(),
                location: rule.location.clone(),
                term: rule.term.clone(),
            })
            .collect(),
        release: policy.release.iter().cloned().collect(),
        ..CompiledTables::default()
    };
    fits("rules", tables.rules.len(), MAX_RULES)?;
    name_segments(&mut tables, policy, indexes, mode)?;
    pairs(&mut tables, policy, indexes)?;
    initiate_and_admit(&mut tables, &on_this_host(policy, indexes));
    prefixes_and_selectors(&mut tables, policy, indexes)?;
    Ok(tables)
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
    tables.names = vec![String::new(); usize::from(highest) + 1];
    tables.segments = vec![0; usize::from(highest) + 1];
    let mut set = |index: SegmentIndex, name: &str, flags: u32| {
        if let (Some(known), Some(slot)) = (
            tables.names.get_mut(usize::from(index)),
            tables.segments.get_mut(usize::from(index)),
        ) {
            name.clone_into(known);
            *slot = flags;
        }
    };
    set(segment::HOST, "host", segment::SEGMENT_VALID);
    set(segment::WORLD, "world", segment::SEGMENT_VALID);
    set(segment::PROBE, "_probe", segment::SEGMENT_VALID);
    for (name, index) in &indexes.by_name {
        set(*index, name, 0);
    }
    for (name, segment) in &policy.segments {
        let audit = mode.is_none() && segment.mode == Mode::Audit;
        let flags = segment::SEGMENT_VALID | if audit { segment::SEGMENT_AUDIT } else { 0 };
        set(index_of(indexes, name)?, name, flags);
    }
    Ok(())
}

/// The class of every pair.
fn pairs(tables: &mut CompiledTables, policy: &Policy, indexes: &SegmentIndexes) -> Result<(), CompileError> {
    let groups = Groups::new(policy, indexes)?;
    let mut intra = Vec::new();
    for segment in policy.segments.values().filter(|segment| segment.intra) {
        intra.push(index_of(indexes, &segment.name)?);
    }
    intra.sort_unstable();
    let base = |from: SegmentIndex, to: SegmentIndex| {
        let unenforced = matches!(
            (from, to),
            (segment::HOST, segment::HOST | segment::WORLD) | (segment::WORLD, segment::HOST)
        );
        if unenforced && !policy.enforce_host {
            Base::Host
        } else if from == to && intra.binary_search(&from).is_ok() {
            Base::Intra
        } else {
            Base::Nothing
        }
    };
    let mut interned = Interned {
        by_bundles: BTreeMap::new(),
        by_ranges: BTreeMap::new(),
        ranges: 0,
        turns: Turns::of(&policy.rules),
    };
    let mut classes = Vec::new();
    for row in groups.rows() {
        let cells = groups.cells(row);
        let mut plain = Vec::with_capacity(cells.len());
        for bundles in &cells {
            plain.push(interned.class(&groups, bundles, Base::Nothing)?);
        }
        for from in &row.members {
            for (to, column) in groups.columns() {
                let class = match base(*from, *to) {
                    Base::Nothing => plain.get(*column).copied().unwrap_or_default(),
                    base => interned.class(&groups, cells.get(*column).map_or(&[], Vec::as_slice), base)?,
                };
                if class != 0 {
                    classes.push(((*from, *to), class));
                }
            }
        }
    }
    tables.together = std::mem::take(&mut interned.turns).finish();
    fits(
        "rules, those that take turns included",
        tables.rules.len() + tables.together.len(),
        MAX_RULES,
    )?;
    let sets = interned.finish(tables)?;
    fits("port sets", sets, MAX_CLASSES)?;
    let class = |(pair, class): ((SegmentIndex, SegmentIndex), u32)| Some((pair, u16::try_from(class).ok()?));
    tables.classes = classes.into_iter().filter_map(class).collect();
    Ok(())
}

/// Port sets, each kept once.
struct Interned<'p> {
    /// What was already compiled, by what decides it.
    by_bundles: BTreeMap<(Base, Vec<usize>), u32>,
    /// Classes by their ranges.
    by_ranges: BTreeMap<Vec<PortRange>, u32>,
    /// How many ranges all sets have.
    ranges: usize,
    /// Rules that decide together.
    turns: Turns<'p>,
}

impl Interned<'_> {
    fn class(&mut self, groups: &Groups, bundles: &[usize], base: Base) -> Result<u32, CompileError> {
        if bundles.is_empty() && base == Base::Nothing {
            return Ok(0);
        }
        let key = (base, bundles.to_vec());
        if let Some(class) = self.by_bundles.get(&key) {
            return Ok(*class);
        }
        let ranges = ranges::of(&mut self.turns, &groups.rules(bundles), base)?;
        let next = u32::try_from(self.by_ranges.len() + 1).unwrap_or(u32::MAX);
        let class = match self.by_ranges.get(&ranges) {
            _ if ranges.is_empty() => 0,
            Some(class) => *class,
            None => {
                self.ranges += ranges.len();
                // Counting on tells people how far off they are; counting for ever tells nobody anything.
                if self.ranges > 16 * MAX_RANGES {
                    fits("port ranges", self.ranges, MAX_RANGES)?;
                }
                self.by_ranges.insert(ranges, next);
                next
            }
        };
        self.by_bundles.insert(key, class);
        Ok(class)
    }

    /// Lays the sets out by class; says how many there are.
    fn finish(self, tables: &mut CompiledTables) -> Result<usize, CompileError> {
        fits("port ranges", self.ranges, MAX_RANGES)?;
        let mut sets: Vec<(u32, Vec<PortRange>)> = self
            .by_ranges
            .into_iter()
            .map(|(ranges, class)| (class, ranges))
            .collect();
        sets.sort_unstable_by_key(|(class, _)| *class);
        for (_, ranges) in sets {
            fits("port ranges in one set", ranges.len(), MAX_IN_SET)?;
            let first = u32::try_from(tables.ranges.len()).unwrap_or(u32::MAX);
            let len = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
            tables.sets.push(PortSet { first, len });
            tables.ranges.extend(ranges);
        }
        Ok(tables.sets.len())
    }
}

/// The segments that can have members on this host by what they match. One that only has addresses is elsewhere:
/// that its members may talk to each other is nothing a packet here could ask for.
fn on_this_host(policy: &Policy, indexes: &SegmentIndexes) -> BTreeSet<SegmentIndex> {
    let here = policy.segments.values().filter(|segment| {
        let mut kinds = segment.selectors.iter().map(|selector| &selector.kind);
        kinds.any(|kind| !matches!(kind, SelectorKind::Cidr { .. }))
    });
    here.filter_map(|segment| indexes.by_name.get(&segment.name).copied())
        .collect()
}

/// `INITIATES` and `ADMITS`: who could let a packet pass, so that the rest need not be looked at; `GUARDED`: whom it would be
/// wrong to tell that no rule allows it.
fn initiate_and_admit(tables: &mut CompiledTables, here: &BTreeSet<SegmentIndex>) {
    // Whether a class opens anything, and whether a guardrail shuts anything in it.
    let does = |class: u16| {
        let set = tables.sets.get(usize::from(class)).copied().unwrap_or_default();
        let first = set.first as usize;
        let ranges = tables
            .ranges
            .get(first..first + set.len as usize)
            .unwrap_or_default();
        let denies = |range: &PortRange| range.rule & RULE_DENY != 0;
        (!ranges.iter().all(denies), ranges.iter().any(denies))
    };
    let by_class: Vec<(bool, bool)> = (0..tables.sets.len())
        .map(|class| u16::try_from(class).map(does).unwrap_or_default())
        .collect();
    let mut add = vec![0_u32; tables.segments.len()];
    for ((from, to), class) in &tables.classes {
        if from == to && *from >= segment::FIRST_SEGMENT && !here.contains(from) {
            continue;
        }
        let (opens, shuts) = by_class.get(usize::from(*class)).copied().unwrap_or_default();
        if shuts && let Some(flags) = add.get_mut(usize::from(*from)) {
            *flags |= segment::SEGMENT_GUARDED;
        }
        if opens {
            if let Some(flags) = add.get_mut(usize::from(*from)) {
                *flags |= segment::SEGMENT_INITIATES;
            }
            if let Some(flags) = add.get_mut(usize::from(*to)) {
                *flags |= segment::SEGMENT_ADMITS;
            }
        }
    }
    // An audited segment lets everything pass to and from everybody.
    let everything = tables.flags & TABLES_AUDIT != 0
        || tables
            .segments
            .iter()
            .any(|flags| flags & segment::SEGMENT_AUDIT != 0);
    let probe = usize::from(segment::PROBE);
    for (index, (flags, add)) in tables.segments.iter_mut().zip(add).enumerate() {
        if *flags & segment::SEGMENT_VALID != 0 && index != probe {
            *flags |= add;
            if everything {
                *flags |= segment::SEGMENT_INITIATES | segment::SEGMENT_ADMITS;
            }
        }
    }
}

/// What puts an address or a workload into a segment.
fn prefixes_and_selectors(
    tables: &mut CompiledTables,
    policy: &Policy,
    indexes: &SegmentIndexes,
) -> Result<(), CompileError> {
    let mut claims: Vec<(IpNet, &[IpNet], &str)> = Vec::new();
    for (name, segment) in &policy.segments {
        let index = index_of(indexes, name)?;
        for selector in &segment.selectors {
            match &selector.kind {
                SelectorKind::Cidr { prefix, except } => claims.push((*prefix, except, name)),
                kind => tables.selectors.push(SelectorInfo {
                    segment: index,
                    kind: kind.clone(),
                    location: selector.location.clone(),
                }),
            }
        }
    }
    let claims = claims
        .into_iter()
        .map(|(prefix, except, name)| prefixes::Claim::new(prefix, except, name));
    for (address, bits, owner) in prefixes::Walk::new(claims).table() {
        let owner = owner.map_or(Ok(segment::WORLD), |name| index_of(indexes, name))?;
        tables.prefixes.push((address, bits, owner));
    }
    fits("address prefixes", tables.prefixes.len(), MAX_PREFIXES as usize)
}

#[cfg(test)]
mod tests;
