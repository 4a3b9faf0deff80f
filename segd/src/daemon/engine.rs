//! What is enforced, and the one way to change it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use segd_common::{
    address::{NAMESPACE_PLAIN, is_link_local, is_loopback},
    config::Active,
    segment::{FIRST_SEGMENT, HOST, NONE, SegmentIndex},
    workload::Identity,
};

use super::{
    Options,
    health::Repairs,
    probe::Probe,
    sequence::{self, Step},
};
use crate::{
    datapath::{
        census::Census,
        cgroups::Cgroups,
        counters::Counters,
        links::Links,
        pinned::PinnedMaps,
        places::{Lives, Places},
        tables::Tables,
    },
    policy::{
        compile::compile,
        compiled::{CompiledTables, SegmentIndexes},
        model::Policy,
    },
    source::{ContentHash, Loaded},
    telemetry::{flows::FlowLog, hits::RuleHits},
    workload::{
        births::Births,
        cgroupfs::CgroupRoot,
        namespaces::{NamespaceInfo, owner},
        selector::SelectorTables,
        users,
    },
};

/// Why a policy that is right is not in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It does not fit into the tables.
    #[error(transparent)]
    Compile(#[from] crate::policy::compile::CompileError),
    /// The workloads could not be told apart.
    #[error(transparent)]
    Workload(#[from] crate::workload::error::WorkloadError),
    /// Two segments claim one workload with equal right.
    #[error("{0}")]
    Ambiguous(String),
    /// The kernel refused.
    #[error(transparent)]
    Datapath(#[from] crate::datapath::Error),
}

/// The policy in force.
#[derive(Debug)]
pub struct InForce {
    /// Revision and slot.
    pub active: Active,
    /// The policy.
    pub policy: Policy,
    /// Its tables.
    pub tables: Arc<CompiledTables>,
    /// Its selectors.
    pub selectors: SelectorTables,
    /// The hash of its texts.
    pub hash: ContentHash,
}

/// Everything that changes the kernel's state.
pub struct Engine {
    pub(super) options: Options,
    pub(super) links: Links,
    pub(super) maps: PinnedMaps,
    pub(super) repairs: Repairs,
    pub(super) tables: Tables,
    pub(super) cgroups: Cgroups,
    pub(super) places: Places,
    pub(super) counters: Counters,
    pub(super) census: Arc<Census>,
    pub(super) root: Arc<CgroupRoot>,
    pub(super) indexes: SegmentIndexes,
    pub(super) namespaces: Vec<NamespaceInfo>,
    pub(super) in_force: Option<InForce>,
    pub(super) hits: RuleHits,
    pub(super) flows: Arc<FlowLog>,
    pub(super) probe: Option<Probe>,
    pub(super) births: Option<Births>,
    pub(super) paths: BTreeMap<u64, String>,
    /// What the host does not support, as found at the start.
    pub(super) degraded: Vec<String>,
}

impl Engine {
    /// The index and name of every segment that a living workload may bear.
    pub(super) fn name_of(&self, index: SegmentIndex) -> String {
        let found = self.indexes.by_name.iter().find(|(_, known)| **known == index);
        found.map_or_else(String::new, |(name, _)| name.clone())
    }

    /// Puts a policy in force: everything beside, then one word.
    ///
    /// # Errors
    ///
    /// Nothing has changed then.
    pub fn apply(&mut self, loaded: &Loaded) -> Result<u32, ApplyError> {
        let active = self.tables.active()?;
        let slot = if active.revision() == 0 {
            0
        } else {
            1 - active.slot()
        };
        // A number is given once: tags of an attempt that came to nothing must not pass for this one's.
        let last = active.revision().max(self.tables.written(slot)?);
        let revision = last.checked_add(1).unwrap_or(1);
        let before = self.indexes.clone();
        let keep = self.borne(active)?;
        self.indexes.allocate(&loaded.policy, &keep)?;
        match self.prepare(loaded, active, slot, revision, &before) {
            Ok((tables, selectors)) => {
                self.flip(loaded, Active::new(revision, slot), tables, selectors)?;
                Ok(revision)
            }
            Err(error) => {
                self.indexes = before;
                Err(error)
            }
        }
    }

    fn prepare(
        &mut self,
        loaded: &Loaded,
        active: Active,
        slot: u32,
        revision: u32,
        before: &SegmentIndexes,
    ) -> Result<(CompiledTables, SelectorTables), ApplyError> {
        let began = Instant::now();
        let tables = compile(&loaded.policy, &self.indexes, self.options.mode)?;
        let selectors = SelectorTables::compile(&tables, revision, &users::uid)?;
        self.collect_hits()?;
        let names: BTreeMap<SegmentIndex, String> = before
            .by_name
            .iter()
            .map(|(name, index)| (*index, name.clone()))
            .collect();
        for step in sequence::MAKING {
            match step {
                Step::Settle => self.tables.settle()?,
                Step::Tables => {
                    self.tables.write(slot, revision, &tables, &selectors)?;
                    self.note_names(before)?;
                }
                Step::Tags => self.tag_all(active, slot, revision, &tables, &selectors, &names)?,
                Step::Owners => self.write_owners(slot, &tables)?,
            }
            tracing::debug!("revision {revision}: {step:?} done after {:?}", began.elapsed());
        }
        Ok((tables, selectors))
    }

    /// Pins the names of indexes that are new, and that nobody bears any more.
    fn note_names(&self, before: &SegmentIndexes) -> Result<(), ApplyError> {
        for (name, index) in &self.indexes.by_name {
            if before.by_name.get(name) != Some(index) {
                self.tables.note_name(*index, name)?;
            }
        }
        for (name, index) in &before.by_name {
            if !self.indexes.by_name.contains_key(name)
                && !self.indexes.by_name.values().any(|used| used == index)
            {
                self.tables.note_name(*index, "")?;
            }
        }
        Ok(())
    }

    fn flip(
        &mut self,
        loaded: &Loaded,
        active: Active,
        tables: CompiledTables,
        selectors: SelectorTables,
    ) -> Result<(), ApplyError> {
        let tables = Arc::new(tables);
        self.flows.adopt(active.revision(), Arc::clone(&tables));
        self.tables.flip(active)?;
        for user in &selectors.unresolved_users {
            tracing::warn!("user `{user}` is not known on this host: its matcher matches nothing");
        }
        self.in_force = Some(InForce {
            active,
            policy: loaded.policy.clone(),
            tables,
            selectors,
            hash: loaded.hash,
        });
        self.watch_births();
        Ok(())
    }

    /// The segments that living workloads bear: their indexes are not for others.
    fn borne(&self, active: Active) -> Result<BTreeSet<String>, ApplyError> {
        let mut borne = BTreeSet::new();
        if active.revision() == 0 {
            return Ok(borne);
        }
        let mut indexes = BTreeSet::new();
        for id in self.cgroups.ids()? {
            if let Some(entry) = self.cgroups.read(id)?
                && let Some(slot) = entry.slots.get(active.slot() as usize)
                && slot.identity.segment >= FIRST_SEGMENT
            {
                indexes.insert(slot.identity.segment);
            }
        }
        for index in indexes {
            borne.insert(self.name_of(index));
        }
        Ok(borne)
    }

    /// Says under a slot's revision who lives in which namespace.
    pub(super) fn write_owners(&self, slot: u32, tables: &CompiledTables) -> Result<(), ApplyError> {
        // What has no entry is outside of what segd governs, if that is not all there is.
        let stranger = (!self.root.is_hierarchy_root()).then_some(Identity::of(HOST));
        for info in &self.namespaces {
            let identity = |id: u64| -> Option<Identity> {
                let Some(entry) = self.cgroups.read(id).ok()? else {
                    return stranger;
                };
                let slot = entry.slots.get(slot as usize & 1)?;
                (slot.revision != 0).then_some(slot.identity)
            };
            let (owner, mut flags) = owner(info, &identity);
            let addresses = info.addresses.iter();
            let routed = addresses.filter(|address| !is_loopback(address) && !is_link_local(address));
            let claims: BTreeSet<SegmentIndex> = routed.map(|address| tables.claimed_by(address)).collect();
            let mut claimed = NONE;
            if !claims.iter().any(|segment| *segment >= FIRST_SEGMENT) {
                flags |= NAMESPACE_PLAIN;
            } else if claims.len() == 1 {
                claimed = claims.first().copied().unwrap_or(NONE);
            }
            let lives = Lives {
                owner,
                flags,
                claimed,
            };
            self.places.set_lives(info.cookie, slot, lives)?;
        }
        Ok(())
    }

    /// Takes a new list of namespaces.
    ///
    /// # Errors
    ///
    /// A write that failed; the next list repeats it.
    pub fn set_namespaces(&mut self, list: Vec<NamespaceInfo>) -> Result<(), ApplyError> {
        self.namespaces = list;
        // Owners go first: an address without an owner is judged by its receiver alone.
        // The other slot gets its owners with its revision.
        if let Some(in_force) = &self.in_force {
            self.write_owners(in_force.active.slot(), &in_force.tables)?;
        }
        let places = self.namespaces.iter();
        self.places
            .set_addresses(places.map(|info| (info.cookie, info.is_host, info.addresses.as_slice())))?;
        let living: BTreeSet<u64> = self.namespaces.iter().map(|info| info.cookie).collect();
        self.places.keep_namespaces(&|cookie| living.contains(&cookie))?;
        Ok(())
    }

    /// Adds the kernel's rule hits to the totals.
    pub(super) fn collect_hits(&mut self) -> Result<(), ApplyError> {
        if let Some(in_force) = &self.in_force {
            let rules = in_force.tables.rules.len();
            let hits = self.tables.hits(in_force.active.slot(), rules)?;
            let labels = in_force.tables.rules.iter().map(|rule| rule.label.as_str());
            self.hits.absorb(
                in_force.active.slot(),
                in_force.active.revision(),
                labels,
                hits.as_slice(),
            );
        }
        Ok(())
    }
}
