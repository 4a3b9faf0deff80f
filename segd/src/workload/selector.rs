//! From a policy's selectors to the tables that newborn cgroups are matched against, and the daemon's own,
//! complete classification.
//!
//! INVARIANT: pure. The kernel, given the tables, and the daemon, given the tables and the globs, agree on every
//! cgroup, or the kernel says `PENDING`.

use std::{collections::BTreeMap, sync::Arc};

use segd_common::{
    matching::{Claim, Edges, Name, Selectors, child_path_len, claim, classify},
    segment::{HOST, SegmentIndex},
    workload::{
        AMBIGUOUS, BELOW_PENDING, CGROUP_IN_UNIT, CGROUP_UNTRUSTED, CgroupSlot, Edge, Identity, MAX_EDGES,
        NAME_LEN, PENDING, STATE_NONE, STATE_ROOT, STATE_UNIT, UnitPattern, WHOLE_LEN,
    },
};

use super::{
    error::WorkloadError,
    glob::{PathGlob, Progress, literal_len, name_matches},
};
use crate::policy::{
    compiled::{CompiledTables, SelectorInfo},
    model::SelectorKind,
};

pub mod moves;
mod pattern;
mod rivals;

pub use self::rivals::rivals;

/// By the state an edge leaves (or `STATE_UNIT`) and the name it takes.
pub type SelectorEdges = BTreeMap<(u32, [u8; NAME_LEN]), Edge>;

/// One revision's selectors, ready to be written and to classify with.
#[derive(Clone, Debug)]
pub struct SelectorTables {
    /// The edges; revisions of the same selectors share them.
    pub edges: Arc<SelectorEdges>,
    /// At most `MAX_UNIT_PATTERNS`.
    pub patterns: Vec<UnitPattern>,
    /// The slot of the cgroup root.
    pub root: CgroupSlot,
    /// The users that it names, and the numbers that it was made with; the selectors of one without match nothing.
    pub users: BTreeMap<String, Option<u32>>,
    paths: Vec<PathSelector>,
    units: Vec<UnitSelector>,
    /// What it was made of.
    made_of: Arc<Vec<SelectorInfo>>,
}

/// A path that the kernel cannot match.
#[derive(Clone, Debug)]
struct PathSelector {
    glob: PathGlob,
    segment: SegmentIndex,
    selector: u32,
    literal: u16,
}

/// A unit name with `*`, or one too long for the kernel.
#[derive(Clone, Debug)]
struct UnitSelector {
    pattern: String,
    segment: SegmentIndex,
    selector: u32,
    literal: u16,
    /// The kernel's patterns hold it: it is for names that those cannot be compared with.
    in_kernel: bool,
}

/// A classified cgroup, from which its children are classified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Who it is. Never `PENDING`.
    pub slot: CgroupSlot,
    /// The length of its path.
    pub path_len: u16,
    progress: Vec<Progress>,
}

impl SelectorTables {
    /// Compiles the selectors of a policy for the revision that will be written; `uid` resolves user names.
    ///
    /// # Errors
    ///
    /// [`WorkloadError::TooManyEdges`].
    pub fn compile(
        tables: &CompiledTables,
        revision: u32,
        uid: &dyn Fn(&str) -> Option<u32>,
    ) -> Result<SelectorTables, WorkloadError> {
        let root = CgroupSlot {
            identity: Identity::of(HOST),
            revision,
            state: STATE_ROOT,
            ..CgroupSlot::default()
        };
        let mut compiled = SelectorTables {
            edges: Arc::default(),
            patterns: Vec::new(),
            root,
            users: BTreeMap::new(),
            paths: Vec::new(),
            units: Vec::new(),
            made_of: Arc::clone(&tables.selectors),
        };
        let mut edges = SelectorEdges::new();
        let mut states = STATE_ROOT;
        for (number, info) in (1..).zip(tables.selectors.iter()) {
            match &info.kind {
                SelectorKind::Cgroup(path) => {
                    compiled.add_path(&mut edges, &mut states, path, info.segment, number)
                }
                SelectorKind::Systemd(unit) => compiled.add_service(&mut edges, unit, info.segment, number),
                SelectorKind::UserId(id) => compiled.add_user(&mut edges, *id, info.segment, number),
                SelectorKind::UserName(name) => {
                    let id = *compiled.users.entry(name.clone()).or_insert_with(|| uid(name));
                    if let Some(id) = id {
                        compiled.add_user(&mut edges, id, info.segment, number);
                    }
                }
                SelectorKind::Cidr { .. } => {}
            }
        }
        compiled.patterns = pattern::for_kernel(&mut compiled.units);
        if edges.len() > MAX_EDGES as usize {
            return Err(WorkloadError::TooManyEdges(edges.len()));
        }
        compiled.edges = Arc::new(edges);
        Ok(compiled)
    }

    /// [`SelectorTables::compile`], with what is known of the revision before: the same selectors make the same of themselves.
    ///
    /// # Errors
    ///
    /// As that.
    pub fn compile_again(
        before: Option<&SelectorTables>,
        tables: &CompiledTables,
        revision: u32,
        uid: &dyn Fn(&str) -> Option<u32>,
    ) -> Result<SelectorTables, WorkloadError> {
        // Who has which number on this host may have changed.
        let names_users = |info: &SelectorInfo| matches!(info.kind, SelectorKind::UserName(_));
        match before {
            Some(before)
                if Arc::ptr_eq(&before.made_of, &tables.selectors)
                    && !tables.selectors.iter().any(names_users) =>
            {
                let mut same = before.clone();
                same.root.revision = revision;
                Ok(same)
            }
            _ => SelectorTables::compile(tables, revision, uid),
        }
    }

    /// The users that have no number.
    pub fn unresolved(&self) -> impl Iterator<Item = &String> {
        self.users
            .iter()
            .filter_map(|(name, number)| number.is_none().then_some(name))
    }

    /// Whether newborns can be `PENDING`, so that somebody must watch for them.
    #[must_use]
    pub fn can_be_pending(&self) -> bool {
        !self.paths.is_empty() || !self.patterns.is_empty()
    }

    /// Whether newborns directly below a cgroup can be `PENDING`; `flags` are the cgroup's.
    #[must_use]
    pub fn is_watched(&self, position: &Position, flags: u16) -> bool {
        let names_units =
            flags & (CGROUP_IN_UNIT | CGROUP_UNTRUSTED | segd_common::workload::CGROUP_UNIT) == 0;
        let unsure = self.units.iter().any(|unit| !unit.in_kernel);
        position.slot.below & BELOW_PENDING != 0 || (names_units && unsure)
    }

    /// The root's position.
    #[must_use]
    pub fn root_position(&self) -> Position {
        let progress = self.paths.iter().map(|path| path.glob.start()).collect();
        Position {
            slot: self.root,
            path_len: 0,
            progress,
        }
    }

    /// Classifies a child in full; `flags` are its own `CGROUP_` flags.
    #[must_use]
    pub fn descend(&self, parent: &Position, flags: u16, name: &[u8]) -> Position {
        let own = Name::new(name);
        let mut slot = classify(self, &parent.slot, parent.path_len, flags, &own);
        slot.identity.flags &= !PENDING;
        slot.below = 0;
        let steps = self.paths.iter().zip(&parent.progress);
        let progress: Vec<Progress> = steps.map(|(path, at)| path.glob.advance(at, name)).collect();
        for (path, at) in self.paths.iter().zip(&progress) {
            if path.glob.matches(at) {
                let PathSelector {
                    segment,
                    selector,
                    literal,
                    ..
                } = *path;
                claim(
                    &mut slot,
                    Claim {
                        segment,
                        flags: 0,
                        selector,
                        literal,
                    },
                );
            }
            if path.glob.continues(at) {
                slot.below = BELOW_PENDING;
            }
        }
        if flags & (CGROUP_IN_UNIT | CGROUP_UNTRUSTED) == 0 {
            let unseen = self
                .units
                .iter()
                .filter(|unit| !unit.in_kernel || !own.is_whole());
            for unit in unseen.filter(|unit| name_matches(unit.pattern.as_bytes(), name)) {
                let literal = parent.path_len.saturating_add(1).saturating_add(unit.literal);
                let UnitSelector {
                    segment, selector, ..
                } = *unit;
                claim(
                    &mut slot,
                    Claim {
                        segment,
                        flags: 0,
                        selector,
                        literal,
                    },
                );
            }
        }
        Position {
            slot,
            path_len: child_path_len(parent.path_len, &own),
            progress,
        }
    }

    /// Classifies a cgroup from its path: name and `CGROUP_` flags of every component below the root.
    #[must_use]
    pub fn classify_path(&self, path: &[(&[u8], u16)]) -> CgroupSlot {
        path.iter()
            .fold(self.root_position(), |parent, (name, flags)| {
                self.descend(&parent, *flags, name)
            })
            .slot
    }

    /// A cgroup and all below it.
    fn add_path(
        &mut self,
        edges: &mut SelectorEdges,
        states: &mut u32,
        path: &[String],
        segment: SegmentIndex,
        selector: u32,
    ) {
        // `/a/**` is `/a`: what is below is meant either way.
        let deep = path
            .iter()
            .rev()
            .take_while(|component| *component == "**")
            .count();
        let path = path.get(..path.len() - deep).unwrap_or_default();
        let literal = path.iter().map(|component| 1 + literal_len(component)).sum();
        let in_kernel = |component: &&String| !component.contains('*') && component.len() <= WHOLE_LEN;
        let literal_path: Vec<&String> = path.iter().take_while(in_kernel).collect();
        let complete = literal_path.len() == path.len();
        let Some((last, directories)) = literal_path.split_last() else {
            if complete {
                claim(
                    &mut self.root,
                    Claim {
                        segment,
                        flags: 0,
                        selector,
                        literal: 0,
                    },
                );
            } else {
                self.root.below = BELOW_PENDING;
                self.add_glob(path, segment, selector, literal);
            }
            return;
        };
        let mut state = STATE_ROOT;
        for name in directories {
            let edge = edges.entry((state, padded(name.as_bytes()))).or_default();
            if edge.state == STATE_NONE {
                *states += 1;
                edge.state = *states;
            }
            state = edge.state;
        }
        let edge = edges.entry((state, padded(last.as_bytes()))).or_default();
        if complete {
            end_at(edge, segment, selector);
        } else {
            edge.below = u32::from(BELOW_PENDING);
            self.add_glob(path, segment, selector, literal);
        }
    }

    fn add_glob(&mut self, path: &[String], segment: SegmentIndex, selector: u32, literal: usize) {
        let literal = u16::try_from(literal).unwrap_or(u16::MAX);
        self.paths.push(PathSelector {
            glob: PathGlob::new(path),
            segment,
            selector,
            literal,
        });
    }

    /// A user is the unit of its slice.
    fn add_user(&mut self, edges: &mut SelectorEdges, id: u32, segment: SegmentIndex, selector: u32) {
        self.add_unit(edges, &format!("user-{id}.slice"), segment, selector);
    }

    /// A service stands for its socket too: systemd makes the listening socket in the socket unit's cgroup.
    fn add_service(&mut self, edges: &mut SelectorEdges, unit: &str, segment: SegmentIndex, selector: u32) {
        self.add_unit(edges, unit, segment, selector);
        if let Some(stem) = unit.strip_suffix(".service") {
            self.add_unit(edges, &format!("{stem}.socket"), segment, selector);
        }
    }

    fn add_unit(&mut self, edges: &mut SelectorEdges, unit: &str, segment: SegmentIndex, selector: u32) {
        if !unit.contains('*') && unit.len() <= WHOLE_LEN {
            end_at(
                edges.entry((STATE_UNIT, padded(unit.as_bytes()))).or_default(),
                segment,
                selector,
            );
            return;
        }
        let literal = u16::try_from(literal_len(unit)).unwrap_or(u16::MAX);
        self.units.push(UnitSelector {
            pattern: unit.to_owned(),
            segment,
            selector,
            literal,
            in_kernel: false,
        });
    }
}

impl Edges for SelectorTables {
    fn edge(&self, state: u32, name: &[u8; NAME_LEN]) -> Option<Edge> {
        self.edges.get(&(state, *name)).copied()
    }
}

impl Selectors for SelectorTables {
    fn unit_pattern(&self, index: u32) -> Option<&UnitPattern> {
        self.patterns.get(index as usize)
    }
}

/// Lets a selector end at an edge. Of two segments the first stays, ambiguous.
fn end_at(edge: &mut Edge, segment: SegmentIndex, selector: u32) {
    if edge.selector == 0 {
        edge.segment = segment;
        edge.selector = selector;
    } else if edge.segment != segment {
        edge.flags |= AMBIGUOUS;
    }
}

/// The bytes, zero-padded; what does not fit is cut off.
fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut padded = [0; N];
    for (to, from) in padded.iter_mut().zip(bytes) {
        *to = *from;
    }
    padded
}

#[cfg(test)]
mod tests;
