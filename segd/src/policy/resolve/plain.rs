//! The rules of a file in their order; and of those that say two names and a port, each name and port looked up once.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Resolver,
    read::{Found, Kept},
};
use crate::policy::{
    diagnostic::Span,
    document::rules::PlainRule,
    model::{Peer, Rule},
    numbers::Words,
    port::{self, Interval},
};

impl Resolver<'_> {
    pub(super) fn rules_of(&mut self, kept: &Kept, words: &Words) -> Vec<Rule> {
        let documents = || kept.file.documents.iter().zip(kept.plain.iter());
        let count = documents().map(|(document, plain)| plain.len() + document.rules.odd.len());
        let count = count.sum();
        let (mut rules, mut starts) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (document, found) in documents() {
            let (name, file): (Arc<str>, usize) = (document.name().into(), document.rules.file);
            let first = rules.len();
            for (plain, found) in document.rules.plain.iter().zip(found) {
                if let Some(rule) = self.plain(&name, plain, file, (found, words)) {
                    starts.push(plain.start());
                    rules.push(rule);
                }
            }
            for entry in &document.rules.odd {
                if let Some(rule) = self.rule(&name, entry) {
                    starts.push(entry.span.start);
                    rules.push(rule);
                }
            }
            // `allow` and `deny` are read one list after the other, but numbered as they stand.
            if !starts.get(first..).unwrap_or_default().is_sorted() {
                let mut both: Vec<(usize, Rule)> = starts.drain(first..).zip(rules.drain(first..)).collect();
                both.sort_by_key(|(start, _)| *start);
                for (start, rule) in both {
                    starts.push(start);
                    rules.push(rule);
                }
            }
        }
        rules
    }

    /// A rule whose ends and port have been met before, or any other.
    fn plain(
        &mut self,
        document: &Arc<str>,
        plain: &PlainRule,
        file: usize,
        (found, words): (&Found, &Words),
    ) -> Option<Rule> {
        let [from, to, port] = found.words;
        let (from, to) = (self.end(from, words), self.end(to, words));
        let services = self.service(port, words);
        if let (Some(from), Some(to), Some(services)) = (from, to, services) {
            let location = self.places.known(file, found.line, found.column);
            return Some(self.made(document, &plain.frame(file), location, [from, to], services));
        }
        let text = &self.sources.get(file)?.text;
        self.rule(document, &plain.entry(file, text))
    }

    /// What a word stands for, as the only port of a rule.
    fn service(&mut self, word: u32, words: &Words) -> Option<Arc<[Interval]>> {
        let known = self.known.ports.get(word as usize)?;
        if known.is_some() {
            return known.clone();
        }
        let interval = port::parse(words.text(word)).ok()?;
        let services = self.shared(vec![interval]);
        let known = self.known.ports.get_mut(word as usize)?;
        *known = Some(services);
        known.clone()
    }

    /// Whom a word stands for, as an end of a rule.
    fn end(&mut self, word: u32, words: &Words) -> Option<Arc<BTreeSet<Peer>>> {
        let known = self.known.ends.get(word as usize)?;
        if known.is_some() {
            return known.clone();
        }
        let end = self.alone(words.text(word))?;
        let known = self.known.ends.get_mut(word as usize)?;
        *known = Some(end);
        known.clone()
    }
}

/// Where the rules of files stand that have been resolved: in their order, file by file.
pub(super) fn places_of_rules(files: &[Kept]) -> Vec<Span> {
    let mut spans = Vec::new();
    for document in files.iter().flat_map(|kept| &kept.file.documents) {
        let rules = &document.rules;
        let first = spans.len();
        spans.extend(rules.plain.iter().map(|plain| plain.frame(rules.file).span));
        spans.extend(rules.odd.iter().map(|entry| entry.span));
        if let Some(of_document) = spans.get_mut(first..) {
            of_document.sort_by_key(|span: &Span| span.start);
        }
    }
    spans
}
