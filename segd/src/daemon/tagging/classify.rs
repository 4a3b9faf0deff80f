//! Classifying newborn cgroups that the kernel could not, under every policy that packets may be judged by.

use std::collections::{BTreeMap, BTreeSet};

use super::Walk;
use crate::{
    daemon::{
        engine::{Engine, InForce},
        error::ApplyError,
        noted::Names,
    },
    report::chain,
    workload::{
        births::Birth,
        cgroupfs::Cgroup,
        selector::{Position, SelectorTables},
    },
};

impl Engine {
    /// Classifies what the kernel could not, under every policy that packets may be judged by.
    pub(in crate::daemon) fn classify(&mut self, birth: &Birth) -> Result<(), ApplyError> {
        if self.in_force.is_none() {
            return Ok(());
        }
        let names = self.names();
        let mut places = BTreeSet::new();
        let mut paths = BTreeMap::new();
        for policy in self.policies() {
            let walk = self.classify_under(policy, birth, &names)?;
            for line in &walk.ambiguous {
                tracing::warn!("{line}: denied");
            }
            places.extend(watched(&walk.positions, &walk.paths, walk.selectors));
            paths.extend(walk.paths);
        }
        if *birth == Birth::Anywhere {
            self.paths.clear();
            if let Some(births) = &mut self.births {
                births.watch(&places);
            }
        }
        self.paths.extend(paths);
        Ok(())
    }

    fn classify_under<'a>(
        &self,
        policy: &'a InForce,
        birth: &Birth,
        names: &'a Names<'a>,
    ) -> Result<Walk<'a>, ApplyError> {
        let mut walk = Walk {
            slot: policy.active.slot(),
            active: policy.active,
            selectors: &policy.selectors,
            tables: &policy.tables,
            names,
            positions: BTreeMap::new(),
            paths: BTreeMap::new(),
            hidden: BTreeMap::new(),
            ambiguous: Vec::new(),
            changed: false,
        };
        let mut failed = None;
        let mut visit = |cgroup: &Cgroup| {
            if failed.is_none() {
                failed = self.tag_one(&mut walk, cgroup).err();
            }
        };
        match birth {
            Birth::Below(path) => self.root.walk_at(path, &mut visit)?,
            Birth::Anywhere => self.root.walk(&mut visit)?,
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(walk),
        }
    }

    /// Watches the cgroups below which newborns can be pending.
    pub(in crate::daemon) fn watch_births(&mut self) {
        let pending = self.policies().any(|policy| policy.selectors.can_be_pending());
        if !pending {
            if let Some(births) = &mut self.births {
                births.watch(&BTreeSet::new());
            }
        } else if let Err(error) = self.classify(&Birth::Anywhere) {
            tracing::warn!("watching for newborn cgroups: {}", chain(&error));
        }
    }
}

fn watched(
    positions: &BTreeMap<u64, (Position, u16)>,
    paths: &BTreeMap<u64, String>,
    selectors: &SelectorTables,
) -> BTreeSet<String> {
    positions
        .iter()
        .filter(|(_, (position, flags))| selectors.is_watched(position, *flags))
        .filter_map(|(id, _)| paths.get(id).cloned())
        .collect()
}
