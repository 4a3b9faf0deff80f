//! What is enforced, and the one way to change it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use segd_common::{
    address,
    config::{Active, Trial},
    segment::{FIRST_SEGMENT, SegmentIndex},
};

use super::{
    Options, cover,
    cut::Cutter,
    error::ApplyError,
    expiry::Expiry,
    health::Repairs,
    last_good::Keeper,
    lives::Former,
    noted::Names,
    probe::Probe,
    sequence::{self, Step},
    trial::{self, OnTrial},
    users::Users,
};
use crate::{
    datapath::{
        self,
        census::Census,
        cgroups::Cgroups,
        counters::Counters,
        devices::Devices,
        guard::Guard,
        links::Links,
        pinned::PinnedMaps,
        pins::Pins,
        places::{Addresses, Places},
        sessions::Foreigners,
        tables::Tables,
    },
    policy::{
        compile::again::Compiler,
        compiled::{CompiledTables, SegmentIndexes},
        model::Policy,
    },
    report::chain,
    source::{ContentHash, Loaded, Sources, Texts, git::Provenance, signature::Signed},
    telemetry::{clock, flows::FlowLog},
    workload::{
        births::Births,
        cgroupfs::CgroupRoot,
        namespaces::{Listed, NamespaceInfo},
        selector::SelectorTables,
    },
};

/// The policy in force.
#[derive(Debug)]
pub struct InForce {
    /// Revision and slot.
    pub active: Active,
    /// The policy.
    pub policy: Arc<Policy>,
    /// Its tables.
    pub tables: Arc<CompiledTables>,
    /// Its selectors.
    pub selectors: SelectorTables,
    /// Its texts.
    pub texts: Texts,
    /// Who signed it, if it had to be signed.
    pub signed: Option<Signed>,
    /// The commit that whoever applied it says it comes from.
    pub claimed: Option<Provenance>,
    /// Where its texts came from.
    pub origin: Origin,
    /// The revision that brought it: those after it are of other users' numbers.
    pub brought: u32,
    /// Who two of its segments claim with equal right, and is denied.
    pub ties: Vec<String>,
}

/// Where a policy came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The files that segd follows.
    Files,
    /// `segd apply` or `segd rollback`: it stays until the followed files are others than these.
    Applied {
        /// Their hash when it came.
        files: ContentHash,
    },
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
    /// Once everything else is attached.
    pub(super) cover: Option<cover::Cover>,
    /// If it was asked for, and the kernel can.
    pub(super) guard: Option<Guard>,
    pub(super) counters: Counters,
    pub(super) census: Arc<Census>,
    pub(super) root: Arc<CgroupRoot>,
    pub(super) indexes: SegmentIndexes,
    pub(super) compiler: Compiler,
    pub(super) users: Users,
    pub(super) namespaces: Vec<NamespaceInfo>,
    pub(super) former: Former,
    /// Why the last list of them was not written whole.
    pub(super) unwritten: Option<String>,
    /// How many network namespaces did not fit into their table.
    pub(super) ownerless: usize,
    pub(super) in_force: Option<InForce>,
    /// What is in force is only on trial.
    pub(super) trial: Option<OnTrial>,
    pub(super) hits: super::usage::Hits,
    pub(super) expiry: Expiry,
    /// What `--last-good` was written for.
    pub(super) kept_last: Arc<Keeper>,
    pub(super) flows: Arc<FlowLog>,
    pub(super) cutter: Cutter,
    /// `None`: this kernel does not tell.
    pub(super) foreigners: Option<Arc<Foreigners>>,
    pub(super) probe: Option<Probe>,
    pub(super) births: Option<Births>,
    pub(super) paths: BTreeMap<u64, String>,
    /// What the host does not support, as found at the start.
    pub(super) degraded: Vec<String>,
}

impl Engine {
    /// What packets may be judged by: the policy in force and, if that is on trial, the one before it.
    pub(super) fn policies(&self) -> impl Iterator<Item = &InForce> {
        let before = self.trial.as_ref().map(|trial| &trial.before);
        self.in_force.iter().chain(before)
    }

    /// The index and name of every segment that a living workload may bear.
    pub(super) fn names(&self) -> Names<'_> {
        Names::of(&self.indexes)
    }

    /// Puts a policy in force: everything beside, then one word. On trial for so long from then on, if that is given.
    ///
    /// # Errors
    ///
    /// Nothing has changed then.
    pub fn apply(
        &mut self,
        loaded: &Loaded,
        origin: Origin,
        trial: Option<Duration>,
    ) -> Result<u32, ApplyError> {
        let active = self.tables.active()?;
        if active.is_on_trial() {
            return Err(ApplyError::OnTrial(active.revision()));
        }
        self.users.settle(&loaded.policy, Instant::now());
        let slot = if active.revision() == 0 {
            0
        } else {
            1 - active.slot()
        };
        // A number is given once: tags of an attempt that came to nothing must not pass for this one's.
        let given = self.tables.written(slot)?.max(self.tables.trial()?.revision);
        let last = active.revision().max(given);
        let next = Active::new(last.checked_add(1).unwrap_or(1), slot);
        let before = self.indexes.clone();
        // What most changes leave as it is: then nobody's index is given to another.
        if !self.indexes.has_all_of(&loaded.policy) {
            let mut keep = self.borne(active)?;
            keep.extend(self.named_now(active));
            if trial.is_some() {
                // The other slot may be in force again: what its indexes mean must not change.
                keep.extend(before.by_name.keys().cloned());
            }
            self.indexes.allocate(&loaded.policy, &keep)?;
        }
        let done = self
            .prepare(loaded, active, next, &before)
            .and_then(|(tables, selectors, ties)| {
                // Last, so that what comes to nothing leaves the text of the policy before, which is the way back.
                self.keep_text(next, &Sources::from(loaded), &selectors.users, origin)?;
                tracing::debug!("revision {}: its text is kept", next.revision());
                let new = InForce {
                    active: next,
                    policy: Arc::clone(&loaded.policy),
                    tables,
                    selectors,
                    texts: Texts::of(&loaded.sources),
                    signed: loaded.signed.clone(),
                    claimed: loaded.claimed.clone(),
                    origin,
                    brought: next.revision(),
                    ties,
                };
                self.flip(new, trial)
            });
        if let Err(error) = done {
            let after = std::mem::replace(&mut self.indexes, before);
            if let Err(error) = self.note_names(&after, &self.indexes) {
                tracing::error!("noting whose each index is: {}", chain(&error));
            }
            return Err(error);
        }
        Ok(next.revision())
    }

    fn prepare(
        &mut self,
        loaded: &Loaded,
        active: Active,
        next: Active,
        before: &SegmentIndexes,
    ) -> Result<(Arc<CompiledTables>, SelectorTables, Vec<String>), ApplyError> {
        let (slot, revision) = (next.slot(), next.revision());
        let began = Instant::now();
        let tables = self
            .compiler
            .compile(&loaded.policy, &self.indexes, self.options.mode)?;
        tracing::debug!("revision {revision}: compiled after {:?}", began.elapsed());
        let known = self.in_force.as_ref().map(|policy| &policy.selectors);
        let selectors =
            SelectorTables::compile_again(known, &tables, revision, &|name| self.users.number(name))?;
        // What is in force is counted on until it is left, and read out then.
        self.follow_rules(SystemTime::now())?;
        let (names, mut ties) = (Names::of(before), Vec::new());
        for step in sequence::MAKING {
            match step {
                Step::Settle => self.tables.settle()?,
                Step::Tables => {
                    self.leave_slot(slot)?;
                    let now = clock::moment();
                    self.tables.make_room(slot, &tables)?;
                    self.pin_lines(slot)?;
                    self.tables.write(slot, revision, &tables, &selectors, now)?;
                    self.note_names(before, &self.indexes)?;
                }
                Step::Tags => ties = self.tag_all(active, slot, revision, &tables, &selectors, &names)?,
                Step::Owners => {
                    self.hand_on_owners(active, slot, &tables, &names);
                    self.ownerless = self.write_owners(slot, &tables)?;
                }
            }
            tracing::debug!("revision {revision}: {step:?} done after {:?}", began.elapsed());
        }
        self.collect_hits_of_turns();
        Ok((tables, selectors, ties))
    }

    fn flip(&mut self, new: InForce, trial: Option<Duration>) -> Result<(), ApplyError> {
        self.flows.adopt(new.active.revision(), Arc::clone(&new.tables));
        match (trial, &self.in_force) {
            (Some(time), Some(before)) => {
                let deadline_ns = trial::deadline_ns(time);
                let trial = Trial {
                    deadline_ns,
                    before: before.active,
                    revision: new.active.revision(),
                    reserved: 0,
                };
                self.tables.try_out(new.active, &trial)?;
                self.trial = self.in_force.take().map(|before| OnTrial { before, deadline_ns });
            }
            _ => {
                self.tables.flip(new.active)?;
                self.cut();
            }
        }
        self.users.tell(&new.selectors);
        self.in_force = Some(new);
        self.watch_births();
        Ok(())
    }

    /// What is in force now stays: sessions that have no right under it are ended, idle ones too.
    pub(super) fn cut(&self) {
        self.cutter.look(self.flows.names().shared());
    }

    /// The segments that living workloads, and namespaces that are theirs, bear: their indexes are not for others.
    pub(super) fn borne(&self, active: Active) -> Result<BTreeSet<String>, ApplyError> {
        let (mut borne, mut indexes) = (BTreeSet::new(), BTreeSet::new());
        if active.revision() == 0 {
            return Ok(borne);
        }
        for id in self.cgroups.ids()? {
            if let Some(entry) = self.cgroups.read(id)?
                && let Some(slot) = entry.slots.get(active.slot() as usize)
                && slot.identity.segment >= FIRST_SEGMENT
            {
                indexes.insert(slot.identity.segment);
            }
        }
        indexes.extend(self.former.segments(active.slot()));
        let names = self.names();
        let name = |index: &SegmentIndex| names.get(*index).unwrap_or_default();
        borne.extend(indexes.iter().map(|index| name(index).to_owned()));
        Ok(borne)
    }

    /// Takes a new list of namespaces.
    ///
    /// # Errors
    ///
    /// A write that failed; the next list repeats it.
    pub fn set_namespaces(&mut self, listed: Listed) -> Result<(), ApplyError> {
        let living = listed.living();
        self.namespaces = listed.completed(&self.namespaces);
        if let Some(living) = living {
            self.former.keep(&living);
            // What is gone makes room for what is new.
            self.places.keep_namespaces(&|cookie| living.contains(&cookie))?;
        }
        // Owners go first: an address without an owner is judged by its receiver alone.
        // A slot that packets cannot come to gets its owners with its revision.
        self.ownerless = self.write_all_owners()?;
        let map = cover::Topology::of(&self.namespaces, &self.options.interfaces);
        let addresses = self
            .places
            .set_addresses(self.namespaces.iter().map(|info| Addresses {
                namespace: info.cookie,
                is_host: info.is_host,
                by_link: map.links.values().any(|link| link.namespace == info.cookie),
                addresses: &info.addresses,
            }));
        // What one of them cannot write leaves nothing of the other uncovered.
        let links = self.places.set_links(&map.links, &map.sources);
        let Some(cover) = &mut self.cover else {
            return Ok(addresses.and(links)?);
        };
        let repair = cover.follow(&self.namespaces, map.seats);
        self.repairs.note(repair.into_iter().collect());
        let kept = self.keep_links(&map.links, &map.sources);
        Ok(addresses.and(links).and(kept)?)
    }

    /// Forgets links on which no program hangs any more.
    fn keep_links(
        &mut self,
        links: &BTreeMap<u32, address::Link>,
        sources: &BTreeMap<address::Source, u32>,
    ) -> Result<(), datapath::Error> {
        if self.places.keep_links(links, sources)? {
            return Ok(());
        }
        self.places.set_links(links, sources)
    }

    /// Puts programs on the links of workloads and on NICs, and from now on keeps them there.
    ///
    /// # Errors
    ///
    /// The programs are not there. A kernel that cannot do it is told by status, and no error.
    pub fn cover_links(&mut self, pins: &Pins) -> Result<(), ApplyError> {
        let mut cover = cover::Cover::new(Devices::new(&self.links, pins)?);
        let map = cover::Topology::of(&self.namespaces, &self.options.interfaces);
        cover.follow(&self.namespaces, map.seats);
        self.cover = Some(cover);
        Ok(self.keep_links(&map.links, &map.sources)?)
    }
}
