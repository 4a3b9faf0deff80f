//! From documents to one policy: every name found, every port parsed, every conflict excluded.
//!
//! INVARIANT: neither the order of files nor the order of entries changes what the policy means.

pub mod name;
pub mod prefix;
pub mod selector;
mod segment;
mod defined;
mod plain;
mod rule;
mod test;
mod conflict;
mod capacity;
mod known;
mod edited;
mod read;
mod doubts;

use std::{collections::BTreeMap, mem, sync::Arc};

use self::{defined::Defined, known::Known, plain::places_of_rules, read::Kept};
pub use self::{doubts::Doubts, read::ReadFiles};
use super::{
    diagnostic::{Code, Diagnostic, Places, Severity, Span},
    document::{Document, Text, allowance::Allowance},
    model::{Mode, Policy, SelectorKind, Source},
    term::Term,
};

/// A policy that is right, and what its texts say beside it.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// The policy.
    pub policy: Policy,
    /// What it probably does not mean, without what its author allows.
    pub warnings: Vec<Diagnostic>,
    /// What its author allows.
    pub allowances: Vec<Allowance>,
    /// Every matcher: its segment, what it says, where.
    pub matchers: Arc<Vec<(String, SelectorKind, Span)>>,
    /// Where rules stand, by their index; nothing where there is nobody to be told: neither warnings nor tests.
    pub rules: Vec<Span>,
    /// Where tests stand, by their index.
    pub tests: Vec<Span>,
}

/// Resolves all sources into one policy, with warnings; or says everything that is wrong with them.
///
/// # Errors
///
/// Every problem of every source at once. A source that is not YAML has one.
pub fn resolve(sources: &[Source], allow_empty: bool) -> Result<(Policy, Vec<Diagnostic>), Vec<Diagnostic>> {
    resolve_whole(sources, allow_empty).map(|resolved| (resolved.policy, resolved.warnings))
}

/// As [`resolve`], with what it takes to look at a host as well.
///
/// # Errors
///
/// As [`resolve`].
pub fn resolve_whole(sources: &[Source], allow_empty: bool) -> Result<Resolved, Vec<Diagnostic>> {
    resolve_again(sources, allow_empty, &mut ReadFiles::default())
}

/// As [`resolve_whole`], for whoever resolves again and again: a file that is as it was is not read again.
///
/// # Errors
///
/// As [`resolve`].
pub fn resolve_again(
    sources: &[Source],
    allow_empty: bool,
    files: &mut ReadFiles,
) -> Result<Resolved, Vec<Diagnostic>> {
    let (mut resolved, doubts) = resolve_doubting(sources, allow_empty, files)?;
    (resolved.rules, resolved.warnings) = doubts.warnings(&resolved.policy, sources);
    Ok(resolved)
}

/// As [`resolve_again`], without warnings, for whoever tells of them when there is time for it, or nobody.
///
/// # Errors
///
/// As [`resolve`].
pub fn resolve_doubting(
    sources: &[Source],
    allow_empty: bool,
    files: &mut ReadFiles,
) -> Result<(Resolved, Doubts), Vec<Diagnostic>> {
    let (mut resolver, read) = resolved(sources, allow_empty, files)?;
    if !resolver.policy.tests.is_empty() {
        resolver.rule_spans = places_of_rules(&read);
    }
    let out = mem::take(&mut resolver.out);
    let doubts = Doubts::new(
        read,
        Arc::clone(&resolver.defined),
        resolver.allowances.clone(),
        out,
    );
    Ok((resolver.finish(), doubts))
}

/// Everything that is in a policy, if nothing is wrong with it.
fn resolved<'s>(
    sources: &'s [Source],
    allow_empty: bool,
    files: &mut ReadFiles,
) -> Result<(Resolver<'s>, Vec<Kept>), Vec<Diagnostic>> {
    let mut resolver = Resolver::new(sources);
    let read = resolver.read(files);
    let documents: Vec<&Document> = read.iter().flat_map(|kept| kept.file.documents.iter()).collect();
    if documents.is_empty() && resolver.complete && !allow_empty {
        let message = "the policy has no document: it gives up every segment, rule and guardrail";
        let diagnostic = Diagnostic::general(Code::Empty, message).help("check the path");
        resolver.report(diagnostic.help(
            "under an empty policy nothing is enforced but on what segments left behind; where that is meant, `segd run`, \
             `segd apply`, `segd policy check` and `segd policy diff` take it with `--allow-empty`",
        ));
    }
    if !documents.is_empty() && !allow_empty {
        resolver.blank(&read);
    }
    resolver.names(&documents);
    resolver.define(&read, &mut files.defined);
    resolver.known = mem::take(&mut files.known);
    resolver.rules(&read, files.words());
    resolver.tests(&documents);
    files.known = mem::take(&mut resolver.known);
    resolver.release(&documents);
    resolver.out.extend(resolver.defined.conflicts.iter().cloned());
    resolver.capacity();
    Ok((resolver.right()?, read))
}

/// What is known so far.
struct Resolver<'s> {
    places: Places<'s>,
    sources: &'s [Source],
    out: Vec<Diagnostic>,
    /// Every source and document could be read: a name that is missing is missing.
    complete: bool,
    policy: Policy,
    /// What documents define.
    defined: Arc<Defined>,
    /// Where rules stand, by their index.
    rule_spans: Vec<Span>,
    /// Where tests stand, by their index.
    test_spans: Vec<Span>,
    /// Comments that allow warnings.
    allowances: Vec<Allowance>,
    /// What was found out before.
    known: Known,
    /// What was probably meant by names that nobody has.
    near: BTreeMap<String, Option<String>>,
    /// Of rules that hold for good.
    lasting: Arc<Term>,
}

impl<'s> Resolver<'s> {
    fn new(sources: &'s [Source]) -> Resolver<'s> {
        Resolver {
            places: Places::new(sources),
            sources,
            out: Vec::new(),
            complete: true,
            policy: Policy::default(),
            defined: Arc::default(),
            rule_spans: Vec::new(),
            test_spans: Vec::new(),
            allowances: Vec::new(),
            known: Known::default(),
            near: BTreeMap::new(),
            lasting: Arc::default(),
        }
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        self.out.push(diagnostic);
    }

    /// All files, ordered by name. Their documents are in the order of their positions.
    fn read(&mut self, files: &mut ReadFiles) -> Vec<Kept> {
        let mut order: Vec<usize> = (0..self.sources.len()).collect();
        order.sort_by_key(|file| self.sources.get(*file).map(|source| &source.name));
        let sources = order
            .into_iter()
            .filter_map(|file| Some((file, self.sources.get(file)?)));
        let read = files.read(sources);
        for Kept { file, .. } in &read {
            self.complete &= file.complete;
            self.out.extend(file.out.iter().cloned());
            self.allowances.extend(file.allowances.iter().cloned());
        }
        read
    }

    /// Files in which nothing stands, beside others. A writer in the middle of his work leaves one, and a disk that is full.
    fn blank(&mut self, read: &[Kept]) {
        for kept in read.iter().filter(|kept| kept.file.out.is_empty()) {
            if !kept.text.trim().is_empty() {
                continue;
            }
            self.complete = false;
            let span = Span {
                file: kept.place,
                ..Span::default()
            };
            let message = "the file is empty: it gives up every segment, rule and guardrail that stood in it";
            self.report(
                Diagnostic::error(Code::Empty, span, message)
                    .help("write it again, from beginning to end; if nothing shall stand in it, remove it")
                    .help("a file beside others may be empty with `--allow-empty`, or if it has a comment"),
            );
        }
    }

    /// The names of documents, and what documents say as a whole.
    fn names(&mut self, documents: &[&Document]) {
        let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
        for document in documents {
            self.policy.enforce_host |= document.enforce_host;
            if let (Some((Mode::Audit, span)), true) = (document.mode, document.segments.is_empty()) {
                let message = "`mode: audit` changes nothing: the document defines no segment";
                let help = "audit is a property of segments; give the mode to the document that defines them";
                self.report(Diagnostic::error(Code::InvalidValue, span, message).help(help));
            }
            let Some(name) = &document.name else { continue };
            if let Err(problem) = name::document(&name.value) {
                self.report(problem.at(Code::InvalidName, name.span));
                continue;
            }
            if let Some(first) = seen.get(name.value.as_str()) {
                let message = format!("two documents are called `{}`", name.value);
                let diagnostic = Diagnostic::error(Code::DuplicateName, name.span, message)
                    .related(*first, "first here")
                    .help("rules are named after their document in metrics; give each its own name");
                self.report(diagnostic);
                continue;
            }
            seen.insert(&name.value, name.span);
            self.policy.names.push(name.value.clone());
        }
    }

    /// The segments that are given up. They must be gone, or the document contradicts itself.
    fn release(&mut self, documents: &[&Document]) {
        for Text { value, span } in documents.iter().flat_map(|document| &document.release) {
            if name::BUILT_IN.contains(&value.as_str()) {
                let message = format!("`{value}` is built in and cannot be released");
                self.report(Diagnostic::error(Code::ReservedName, *span, message));
            } else if let Err((code, problem)) = name::segment(value) {
                self.report(problem.at(code, *span));
            } else if let Some(defined) = self.defined.spans.get(value) {
                let message = format!("`{value}` is released, but it is defined");
                let diagnostic = Diagnostic::error(Code::InvalidValue, *span, message)
                    .related(*defined, "defined here")
                    .help("only a segment that left the policy can be released");
                self.report(diagnostic);
            } else if !self.policy.release.insert(value.clone()) {
                let message = format!("`{value}` is released twice");
                self.report(Diagnostic::warning(Code::Redundant, *span, message));
            }
        }
    }

    /// Only if nothing is wrong.
    fn right(mut self) -> Result<Self, Vec<Diagnostic>> {
        let is_error = |diagnostic: &Diagnostic| diagnostic.severity == Severity::Error;
        if self.out.iter().any(is_error) {
            self.out.retain(is_error);
            for diagnostic in self.out.iter_mut().filter(|told| told.help.is_empty()) {
                diagnostic
                    .help
                    .extend(diagnostic.code.remedy().map(str::to_owned));
            }
            sort(self.sources, &mut self.out);
            return Err(self.out);
        }
        Ok(self)
    }

    fn finish(self) -> Resolved {
        Resolved {
            policy: self.policy,
            warnings: Vec::new(),
            allowances: self.allowances,
            matchers: Arc::clone(&self.defined.matchers),
            rules: self.rule_spans,
            tests: self.test_spans,
        }
    }
}

/// By the name of the file, then the place: the order in which sources were given does not matter here either.
pub fn sort(sources: &[Source], diagnostics: &mut [Diagnostic]) {
    let name = |file: usize| sources.get(file).map(|source| source.name.as_str());
    diagnostics.sort_by_key(|diagnostic| {
        diagnostic
            .span
            .map(|span| (name(span.file), span.start, diagnostic.code))
    });
}
