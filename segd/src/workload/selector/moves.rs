//! Which workloads belong to another segment under another policy.
//!
//! A selector stands for many cgroups; one example of each is classified under both policies, the way a host would.
//! Examples are made of bytes that no selector can name, so that nothing but the selector itself fits them.
//!
//! Where two patterns with `*` have a cgroup in common, one example of that is classified, too.

use std::collections::{BTreeMap, BTreeSet};

use segd_common::{
    matching::{Name, child_flags},
    segment::{self, SegmentIndex},
    workload::AMBIGUOUS,
};

use super::SelectorTables;
use crate::{
    policy::{compiled::CompiledTables, diff::Move, model::SelectorKind, pattern},
    workload::error::WorkloadError,
};

/// A name that fits nothing but `*`.
const NOBODY: &[u8] = &[pattern::NOBODY];
/// Stands in for the numbers of users by name, which each host has its own of. Above every number that is given out.
const FIRST_USER: u32 = 0xf000_0000;

/// The workloads that change their segment between two policies, by selector. The same ones may be told several times.
///
/// # Errors
///
/// [`WorkloadError::TooManyEdges`].
pub fn moves(old: &CompiledTables, new: &CompiledTables) -> Result<Vec<Move>, WorkloadError> {
    let (olds, news) = (selectors(old), selectors(new));
    if olds == news {
        return Ok(Vec::new());
    }
    let users: BTreeMap<&str, u32> = olds
        .iter()
        .chain(&news)
        .filter_map(|(_, kind, _)| match kind {
            SelectorKind::UserName(name) => Some(name.as_str()),
            _ => None,
        })
        .collect::<BTreeSet<&str>>()
        .into_iter()
        .zip(FIRST_USER..)
        .collect();
    let uid = |name: &str| users.get(name).copied();
    let (old_selectors, new_selectors) = (
        SelectorTables::compile(old, 1, &uid)?,
        SelectorTables::compile(new, 1, &uid)?,
    );
    let mut all: BTreeMap<&str, (&SelectorKind, Example)> = BTreeMap::new();
    for (text, kind, _) in olds.iter().chain(&news) {
        if let Some(example) = Example::of(kind, &uid) {
            all.entry(text).or_insert((kind, example));
        }
    }
    let segment_in = |side: &[(String, SelectorKind, String)]| -> BTreeMap<String, String> {
        side.iter()
            .map(|(text, _, name)| (text.clone(), name.clone()))
            .collect()
    };
    let (before, after) = (segment_in(&olds), segment_in(&news));
    let changed = |text: &str| before.get(text) != after.get(text);
    let mut found = Vec::new();
    let mut look = |what: String, path: &[Vec<u8>]| {
        let (old, new) = (segment_of(&old_selectors, path), segment_of(&new_selectors, path));
        found.push(Move { what, old, new });
    };
    for (text, (kind, example)) in &all {
        look((*text).to_owned(), &example.path());
        for (other_text, (other_kind, other)) in &all {
            if !changed(text) && !changed(other_text) {
                continue;
            }
            if text < other_text
                && let Some(path) = in_common(kind, other_kind)
            {
                look(format!("{text} and {other_text}"), &path);
            }
            // A unit below a path: the unit wins where there is one, else the path.
            if let (Example::Unit(unit), Example::Path(path)) = (example, other) {
                let below: Vec<Vec<u8>> = path.iter().chain([unit]).cloned().collect();
                look(format!("{text} below {other_text}"), &below);
            }
        }
    }
    Ok(found)
}

/// Each selector with its text and its segment's name.
fn selectors(tables: &CompiledTables) -> Vec<(String, SelectorKind, String)> {
    let named = |index: SegmentIndex| tables.names.get(usize::from(index)).cloned().unwrap_or_default();
    let all = tables.selectors.iter();
    all.map(|info| (info.kind.to_string(), info.kind.clone(), named(info.segment)))
        .collect()
}

/// A cgroup that two selectors fit, at least one of them with `*`.
fn in_common(one: &SelectorKind, other: &SelectorKind) -> Option<Vec<Vec<u8>>> {
    match (one, other) {
        (SelectorKind::Cgroup(one), SelectorKind::Cgroup(other)) => {
            let has_star = |path: &[String]| path.iter().any(|part| part.contains('*'));
            let a: Vec<&str> = one.iter().map(String::as_str).collect();
            let b: Vec<&str> = other.iter().map(String::as_str).collect();
            (has_star(one) || has_star(other))
                .then(|| pattern::common_path(&a, &b))
                .flatten()
        }
        (SelectorKind::Systemd(one), SelectorKind::Systemd(other)) => {
            let has_star = one.contains('*') || other.contains('*');
            let name = has_star
                .then(|| pattern::common_name(one.as_bytes(), other.as_bytes()))
                .flatten();
            name.map(|name| vec![NOBODY.to_vec(), name])
        }
        _ => None,
    }
}

/// One cgroup that a selector fits.
enum Example {
    /// At this path.
    Path(Vec<Vec<u8>>),
    /// Of this name, anywhere.
    Unit(Vec<u8>),
}

impl Example {
    fn of(kind: &SelectorKind, uid: &dyn Fn(&str) -> Option<u32>) -> Option<Example> {
        let fill = |pattern: &str| -> Vec<u8> {
            let parts: Vec<&[u8]> = pattern.split('*').map(str::as_bytes).collect();
            parts.join(NOBODY)
        };
        match kind {
            SelectorKind::Cgroup(components) => {
                let components = components.iter().filter(|component| *component != "**");
                Some(Example::Path(
                    components.map(|component| fill(component)).collect(),
                ))
            }
            SelectorKind::Systemd(unit) => Some(Example::Unit(fill(unit))),
            SelectorKind::UserName(name) => {
                uid(name).map(|id| Example::Unit(format!("user-{id}.slice").into_bytes()))
            }
            SelectorKind::UserId(id) => Some(Example::Unit(format!("user-{id}.slice").into_bytes())),
            SelectorKind::Cidr { .. } => None,
        }
    }

    fn path(&self) -> Vec<Vec<u8>> {
        match self {
            Example::Path(path) => path.clone(),
            Example::Unit(name) => vec![NOBODY.to_vec(), name.clone()],
        }
    }
}

/// The segment of a cgroup that root made.
fn segment_of(tables: &SelectorTables, path: &[Vec<u8>]) -> SegmentIndex {
    let mut flags = 0;
    let mut position = tables.root_position();
    for name in path {
        flags = child_flags(flags, true, &Name::new(name));
        position = tables.descend(&position, flags, name);
    }
    let identity = position.slot.identity;
    if identity.flags & AMBIGUOUS != 0 {
        segment::NONE
    } else {
        identity.segment
    }
}
