//! What is in force, as rows for people and dashboards.

use std::collections::{BTreeMap, BTreeSet};

use segd_common::{
    counter::MAX_COUNTERS,
    segment::{FIRST_SEGMENT, PROBE, SEGMENT_AUDIT, SegmentIndex, segment_id},
    tables::{MAX_PAIRS, MAX_RANGES, MAX_RULES, TABLES_AUDIT, Tables as _},
    workload::{AMBIGUOUS, CgroupSlot, MAX_CGROUPS, MAX_EDGES, ORPHANED, PENDING},
};

use super::{engine::Engine, noted::Names};
use crate::{
    control::types::{SegmentRow, WorkloadRow},
    policy::{compiled::CompiledTables, model::SelectorKind},
    report::chain,
    workload::cgroupfs::Cgroup,
};

impl Engine {
    /// A cgroup's slot under the revision in force.
    fn slot_of(&self, id: u64) -> Option<CgroupSlot> {
        let active = self.in_force.as_ref()?.active;
        self.cgroups
            .read(id)
            .ok()??
            .slots
            .get(active.slot() as usize)
            .copied()
    }

    /// How many workloads each segment has.
    pub(super) fn workload_counts(&self) -> Vec<(String, u64)> {
        let Some(in_force) = &self.in_force else {
            return Vec::new();
        };
        let mut counts: BTreeMap<String, u64> = in_force
            .policy
            .segments
            .keys()
            .map(|name| (name.clone(), 0))
            .collect();
        let names = self.names();
        for id in self.cgroups.ids().unwrap_or_default() {
            if let Some(slot) = self.slot_of(id)
                && slot.identity.segment >= FIRST_SEGMENT
                && let Some(name) = names.get(slot.identity.segment)
                && let Some(count) = counts.get_mut(name)
            {
                *count += 1;
            }
        }
        counts.into_iter().collect()
    }

    /// How full the tables are.
    pub(super) fn map_uses(&self) -> Vec<(String, u64, u64)> {
        let mut uses = vec![(
            "cgroups".to_owned(),
            self.cgroups.ids().map_or(0, |ids| ids.len() as u64),
            u64::from(MAX_CGROUPS),
        )];
        if let Some(in_force) = &self.in_force {
            let tables = &in_force.tables;
            let mut add = |name: &str, used: usize, capacity: usize| {
                uses.push((name.to_owned(), used as u64, capacity as u64));
            };
            add(
                "segments",
                self.indexes.by_name.len(),
                segd_common::segment::MAX_SEGMENTS - usize::from(FIRST_SEGMENT),
            );
            add("pairs", tables.cells, MAX_PAIRS);
            add("port_ranges", tables.ranges, MAX_RANGES);
            add("rules", tables.rules.len(), MAX_RULES);
            add(
                "prefixes",
                tables.prefixes.len(),
                segd_common::address::MAX_PREFIXES as usize,
            );
            add("selectors", in_force.selectors.edges.len(), MAX_EDGES as usize);
            add(
                "addresses",
                self.places.addresses(),
                segd_common::address::MAX_LOCALS as usize,
            );
            add(
                "namespaces",
                self.namespaces.len(),
                segd_common::address::MAX_NAMESPACES as usize,
            );
        }
        let counters = self.counters.used().unwrap_or(0);
        uses.push(("counters".to_owned(), counters as u64, u64::from(MAX_COUNTERS)));
        uses
    }

    /// Whether nothing is dropped by policy.
    pub(super) fn only_audits(&self) -> bool {
        self.in_force.as_ref().is_some_and(|in_force| {
            let (tables, segments) = (&in_force.tables, &in_force.policy.segments);
            let indexes = tables.indexes();
            let mut indexes = segments.keys().map(|name| indexes.get(name.as_str()).copied());
            tables.flags & TABLES_AUDIT != 0
                || (!segments.is_empty() && indexes.all(|index| audits(tables, index.unwrap_or(0))))
        })
    }

    /// What is degraded.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = self.degraded.clone();
        if self.probe.is_none() {
            warnings.push("there is no live probe: that segd enforces is not proved".to_owned());
        }
        if let Some(in_force) = &self.in_force {
            warnings.extend(self.users.warnings(&in_force.selectors));
            warnings.extend(in_force.ties.iter().cloned());
        }
        warnings.extend(self.repairs.line());
        warnings.extend(self.cover.as_ref().and_then(super::cover::Cover::warning));
        for info in self.namespaces.iter().filter(|info| info.more_addresses) {
            warnings.push(format!(
                "the network namespace {} has too many addresses: not all of them are known",
                info.inode
            ));
        }
        warnings.extend(
            self.unwritten.as_ref().map(|error| {
                format!("not all that is known of addresses and links could be written: {error}")
            }),
        );
        for info in self.namespaces.iter().filter(|info| info.elsewhere > 0) {
            warnings.push(format!(
                "the network namespace {} has addresses that this host has or leads elsewhere: {} are not believed",
                info.inode, info.elsewhere
            ));
        }
        warnings.extend(super::cover::warnings(&self.namespaces, &self.options.interfaces));
        let left_out = self.places.left_out();
        for (count, what, then) in [
            (left_out.addresses, "addresses", "they count as the network's"),
            (
                left_out.sources,
                "addresses that send by links",
                "what they send by a link is refused",
            ),
            (
                left_out.links,
                "links of network namespaces",
                "what no socket accounts for does not come out of them",
            ),
            (
                self.ownerless,
                "network namespaces",
                "nobody is known to live in them",
            ),
        ] {
            if count > 0 {
                warnings.push(format!("{count} {what} did not fit into their table: {then}"));
            }
        }
        if self.cgroups.overflowed().unwrap_or(false) {
            warnings.push(
                "the cgroup table was full: unknown cgroups are denied until the next reload".to_owned(),
            );
        }
        warnings
    }

    /// The policy's segments.
    pub(super) fn segment_rows(&self) -> Vec<SegmentRow> {
        let Some(in_force) = &self.in_force else {
            return Vec::new();
        };
        let counts: BTreeMap<String, u64> = self.workload_counts().into_iter().collect();
        let indexes = in_force.tables.indexes();
        let rows = in_force.policy.segments.values().map(|segment| {
            let addresses = segment
                .selectors
                .iter()
                .filter_map(|selector| match &selector.kind {
                    SelectorKind::Cidr { prefix, .. } => Some(prefix.to_string()),
                    _ => None,
                });
            let index = indexes.get(segment.name.as_str()).copied().unwrap_or(0);
            SegmentRow {
                name: segment.name.clone(),
                id: format!("{:08x}", segment_id(&segment.name)),
                index,
                mode: if audits(&in_force.tables, index) {
                    "audit".into()
                } else {
                    "enforce".into()
                },
                intra: if segment.intra {
                    "allow".into()
                } else {
                    "deny".into()
                },
                workloads: counts.get(&segment.name).copied().unwrap_or(0),
                addresses: addresses.collect(),
                labels: segment.labels.clone(),
                location: segment.location.to_string(),
            }
        });
        rows.collect()
    }

    /// Every cgroup there is, and who it is.
    pub(super) fn workload_rows(&self) -> Vec<WorkloadRow> {
        let mut rows: Vec<(Cgroup, CgroupSlot)> = Vec::new();
        let mut visited = BTreeSet::new();
        let walked = self.root.walk(&mut |cgroup| {
            if let Some(slot) = self.slot_of(cgroup.id)
                && slot.identity.segment != PROBE
                && visited.insert(cgroup.id)
            {
                rows.push((cgroup.clone(), slot));
            }
        });
        if let Err(error) = walked {
            tracing::error!("listing workloads: {}", chain(&error));
        }
        let slots: BTreeMap<u64, (String, CgroupSlot, u64)> = rows
            .iter()
            .map(|(cgroup, slot)| (cgroup.id, (cgroup.path.clone(), *slot, cgroup.parent)))
            .collect();
        let names = self.names();
        rows.iter()
            .map(|(cgroup, slot)| self.workload_row(cgroup, slot, &slots, &names))
            .collect()
    }

    fn workload_row(
        &self,
        cgroup: &Cgroup,
        slot: &CgroupSlot,
        slots: &BTreeMap<u64, (String, CgroupSlot, u64)>,
        names: &Names<'_>,
    ) -> WorkloadRow {
        let selectors = self.in_force.as_ref().map(|in_force| &in_force.tables.selectors);
        let number = slot.selector.checked_sub(1).unwrap_or(u32::MAX) as usize;
        let selector = selectors.and_then(|selectors| selectors.get(number));
        let flags = slot.identity.flags;
        let state = match slot.identity.segment {
            _ if flags & ORPHANED != 0 => "orphaned",
            _ if flags & AMBIGUOUS != 0 => "ambiguous",
            _ if flags & PENDING != 0 => "pending",
            segment if segment >= FIRST_SEGMENT => "tagged",
            _ => "host",
        };
        let segment = match slot.identity.segment {
            segment if segment >= FIRST_SEGMENT => names.get(segment).unwrap_or_default(),
            _ => "host",
        };
        WorkloadRow {
            cgroup: cgroup.path.clone(),
            id: cgroup.id,
            segment: segment.to_owned(),
            selector: selector.map(|selector| selector.kind.to_string()),
            location: selector.map(|selector| selector.location.to_string()),
            state: state.into(),
            inherited_from: selector.and_then(|_| inherited(cgroup, slot, slots)),
        }
    }
}

/// Whether a segment only observes.
fn audits(tables: &CompiledTables, index: SegmentIndex) -> bool {
    tables.flags & TABLES_AUDIT != 0 || tables.segment(index).flags & SEGMENT_AUDIT != 0
}

/// The highest ancestor that has its segment by the same selector.
fn inherited(
    cgroup: &Cgroup,
    slot: &CgroupSlot,
    slots: &BTreeMap<u64, (String, CgroupSlot, u64)>,
) -> Option<String> {
    let mut from = None;
    let mut at = cgroup.parent;
    let mut seen = BTreeSet::new();
    while let Some((path, above, parent)) = slots.get(&at) {
        if above.selector != slot.selector || !seen.insert(at) {
            break;
        }
        from = Some(path.clone());
        at = *parent;
    }
    from
}
