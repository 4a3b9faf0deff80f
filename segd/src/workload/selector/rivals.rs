//! Which selectors claim one cgroup.

use std::sync::Arc;

use super::SelectorTables;
use crate::policy::compiled::CompiledTables;

/// The selectors, by number, that claim a cgroup with the longest literal: more than one segment's if it is
/// ambiguous. For people: it tries every selector alone.
#[must_use]
pub fn rivals(tables: &CompiledTables, uid: &dyn Fn(&str) -> Option<u32>, path: &[(&[u8], u16)]) -> Vec<u32> {
    let mut claims: Vec<(u16, u32)> = Vec::new();
    for (number, info) in (1..).zip(tables.selectors.iter()) {
        let alone = CompiledTables {
            selectors: Arc::new(vec![info.clone()]),
            ..CompiledTables::default()
        };
        let slot = SelectorTables::compile(&alone, 1, uid).map(|alone| alone.classify_path(path));
        claims.extend(
            slot.ok()
                .filter(|slot| slot.selector != 0)
                .map(|slot| (slot.literal, number)),
        );
    }
    let longest = claims.iter().map(|(literal, _)| *literal).max();
    claims
        .into_iter()
        .filter(|(literal, _)| Some(*literal) == longest)
        .map(|(_, number)| number)
        .collect()
}
