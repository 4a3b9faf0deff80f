//! What documents define, found once: a policy whose rules change has the segments that it had.
//!
//! INVARIANT: what is kept is what would be found again: it follows from the names and places of the files that define anything, and
//! from what their documents say of segments, and where.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use super::{Resolver, capacity::Needs, conflict::conflicts, read::Kept};
use crate::policy::{
    diagnostic::{Diagnostic, Places, Span},
    document::{Document, SegmentEntry},
    lint,
    model::{Segment, SelectorKind},
    numbers::Words,
};

/// A matcher: its segment, what it says, where.
pub(super) type Claim = (String, SelectorKind, Span);

/// What was found last.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    /// In which files, by name.
    by: Vec<(String, Kept)>,
    found: Arc<Defined>,
}

/// What documents define.
#[derive(Debug, Default)]
pub(super) struct Defined {
    segments: Arc<BTreeMap<String, Segment>>,
    /// Where segments are defined.
    pub spans: BTreeMap<String, Span>,
    /// Their names, to be found fast.
    names: Words,
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
    /// Names that were defined, with the place of each in `spans`.
    pub names: Words,
    pub spans: Vec<(String, Span)>,
    pub segments: Vec<(String, Segment)>,
    pub claims: Vec<Claim>,
}

impl Defining<'_> {
    pub(super) fn report(&mut self, diagnostic: Diagnostic) {
        self.out.push(diagnostic);
    }
}

impl Defined {
    /// Whether a segment has this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.find(name).is_some()
    }

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
    pub(super) fn define(&mut self, files: &[Kept], known: &mut Definitions) {
        let defines = |kept: &&Kept| definitions(kept).next().is_some();
        let name = |kept: &Kept| {
            self.sources
                .get(kept.place)
                .map_or("", |source| source.name.as_str())
        };
        let by = files.iter().filter(defines);
        let by: Vec<(String, Kept)> = by.map(|kept| (name(kept).to_owned(), kept.clone())).collect();
        let same = |((name, kept), (other, before)): (&(String, Kept), &(String, Kept))| {
            name == other && define_the_same(kept, before)
        };
        if by.len() != known.by.len() || !by.iter().zip(&known.by).all(same) {
            let documents = files.iter().flat_map(|kept| &kept.file.documents);
            known.found = Arc::new(self.defined_by(&documents.collect::<Vec<&Document>>()));
        }
        known.by = by;
        let found = &known.found;
        self.out.extend(found.out.iter().cloned());
        self.policy.segments = Arc::clone(&found.segments);
        self.defined = Arc::clone(found);
    }

    fn defined_by(&self, documents: &[&Document]) -> Defined {
        let mut defining = Defining {
            places: &self.places,
            out: Vec::new(),
            names: Words::default(),
            spans: Vec::new(),
            segments: Vec::new(),
            claims: Vec::new(),
        };
        defining.segments(documents);
        Defined {
            conflicts: conflicts(&defining.claims),
            needs: Needs::of(&defining.claims),
            // Sorted first, which is faster than to find a place for one after another.
            segments: Arc::new(defining.segments.into_iter().collect()),
            spans: defining.spans.into_iter().collect(),
            names: defining.names,
            matchers: Arc::new(defining.claims),
            out: defining.out,
            warnings: OnceLock::new(),
        }
    }
}

/// What a file says of segments, document by document.
fn definitions(kept: &Kept) -> impl Iterator<Item = (&Document, &SegmentEntry)> {
    let documents = kept.file.documents.iter();
    documents.flat_map(|document| document.segments.iter().map(move |entry| (document, entry)))
}

/// Whether two files say the same of segments, in the same places.
fn define_the_same(kept: &Kept, before: &Kept) -> bool {
    if Arc::ptr_eq(&kept.file, &before.file) {
        return true;
    }
    let said = |kept| definitions(kept).map(|(document, entry)| (document.mode.map(|(mode, _)| mode), entry));
    let places = definitions(kept).map(|(_, entry)| {
        let matchers = entry.matchers.iter().map(|matcher| matcher.span.start);
        matchers.fold(entry.name.span.start, usize::max)
    });
    // Lines and columns follow from what stands before.
    let above = places.max().unwrap_or_default();
    kept.text.get(..above) == before.text.get(..above) && said(kept).eq(said(before))
}
