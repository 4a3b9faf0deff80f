//! What documents define, found once: a policy whose rules change has the segments that it had.
//!
//! INVARIANT: what is kept is what would be found again: it follows from the names and texts of the files that define anything, and
//! from their places.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use super::{
    Resolver,
    capacity::Needs,
    conflict::conflicts,
    read::{Kept, ReadFile},
};
use crate::policy::{
    diagnostic::{Diagnostic, Places, Span},
    document::Document,
    lint,
    model::{Segment, SelectorKind},
};

/// A matcher: its segment, what it says, where.
pub(super) type Claim = (String, SelectorKind, Span);

/// What documents define.
#[derive(Debug, Default)]
pub(super) struct Defined {
    /// In which files, by name.
    by: Vec<(String, Arc<ReadFile>)>,
    segments: Arc<BTreeMap<String, Segment>>,
    /// Where segments are defined.
    pub spans: BTreeMap<String, Span>,
    /// Every matcher.
    pub matchers: Arc<Vec<Claim>>,
    /// What is wrong with them, and between them.
    out: Vec<Diagnostic>,
    pub conflicts: Vec<Diagnostic>,
    /// What they take.
    pub needs: Needs,
    /// What they probably do not mean, once it was asked for.
    warnings: OnceLock<Vec<Diagnostic>>,
}

/// Definitions as they are met.
pub(super) struct Defining<'p> {
    pub places: &'p Places<'p>,
    pub out: Vec<Diagnostic>,
    pub segments: BTreeMap<String, Segment>,
    pub spans: BTreeMap<String, Span>,
    pub claims: Vec<Claim>,
}

impl Defining<'_> {
    pub(super) fn report(&mut self, diagnostic: Diagnostic) {
        self.out.push(diagnostic);
    }
}

impl Defined {
    /// What the matchers probably do not mean.
    pub(super) fn warnings(&self) -> &[Diagnostic] {
        self.warnings.get_or_init(|| {
            let mut out = Vec::new();
            lint::matchers(&self.matchers, &mut out);
            out
        })
    }
}

impl Resolver<'_> {
    /// All segments. `known`: what was found last.
    pub(super) fn define(&mut self, files: &[Kept], known: &mut Arc<Defined>) {
        let defines = |kept: &&Kept| {
            let mut documents = kept.file.documents.iter();
            documents.any(|document| !document.segments.is_empty())
        };
        let name = |kept: &Kept| {
            self.sources
                .get(kept.place)
                .map_or("", |source| source.name.as_str())
        };
        let by = || files.iter().filter(defines).map(|kept| (name(kept), &kept.file));
        let is_known = known
            .by
            .iter()
            .map(|(name, file)| (name.as_str(), Arc::as_ptr(file)));
        if !is_known.eq(by().map(|(name, file)| (name, Arc::as_ptr(file)))) {
            let by = by()
                .map(|(name, file)| (name.to_owned(), Arc::clone(file)))
                .collect();
            let documents = files.iter().flat_map(|kept| &kept.file.documents);
            *known = Arc::new(self.defined_by(by, &documents.collect::<Vec<&Document>>()));
        }
        self.out.extend(known.out.iter().cloned());
        self.policy.segments = Arc::clone(&known.segments);
        self.defined = Arc::clone(known);
    }

    fn defined_by(&self, by: Vec<(String, Arc<ReadFile>)>, documents: &[&Document]) -> Defined {
        let mut defining = Defining {
            places: &self.places,
            out: Vec::new(),
            segments: BTreeMap::new(),
            spans: BTreeMap::new(),
            claims: Vec::new(),
        };
        defining.segments(documents);
        Defined {
            by,
            conflicts: conflicts(&defining.claims),
            needs: Needs::of(&defining.claims),
            segments: Arc::new(defining.segments),
            spans: defining.spans,
            matchers: Arc::new(defining.claims),
            out: defining.out,
            warnings: OnceLock::new(),
        }
    }
}
