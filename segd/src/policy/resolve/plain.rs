//! The rules of a file in their order; and of those that say two names and a port, each name and port looked up once.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    Resolver,
    read::{Found, Kept, threads_for},
};
use crate::policy::{
    diagnostic::Span,
    document::{
        Document,
        rules::{PlainRule, Rules},
    },
    model::{Home, Peer, Rule},
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
            let (file, home) = (document.rules.file, self.home(document));
            let first = rules.len();
            for (plain, found) in document.rules.plain.iter().zip(found) {
                if let Some(rule) = self.plain(&home, plain, file, (found, words)) {
                    starts.push(plain.start());
                    rules.push(rule);
                }
            }
            for entry in &document.rules.odd {
                if let Some(rule) = self.rule(&home, entry) {
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

    /// Makes the rules of files of which all is known before they are made: each is a matter of itself then, so several are made at
    /// once. Nothing stands in the place of the others.
    pub(super) fn made_ahead(&mut self, files: &[&Kept], words: &Words) -> Vec<Option<Vec<Rule>>> {
        let found = files.iter().flat_map(|kept| kept.plain.iter().flatten());
        for found in found {
            let [from, to, port] = found.words;
            for end in [from, to] {
                if let Some(None) = self.known.ends.get(end as usize) {
                    self.end(end, words);
                }
            }
            if let Some(None) = self.known.ports.get(port as usize) {
                self.service(port, words);
            }
        }
        let (this, made) = (&*self, files.iter().map(|_| OnceLock::new()));
        let made: Vec<OnceLock<Option<Vec<Rule>>>> = made.collect();
        let next = AtomicUsize::new(0);
        let make = || {
            let both = |at: usize| Some((files.get(at)?, made.get(at)?));
            while let Some((kept, made)) = both(next.fetch_add(1, Ordering::Relaxed)) {
                made.get_or_init(|| this.plain_rules(kept));
            }
        };
        let texts = files.iter().map(|kept| kept.text.len());
        let threads = threads_for(files.len(), texts.sum());
        thread::scope(|scope| {
            for _ in 1..threads {
                // A thread that cannot be had leaves its part to the others.
                drop(thread::Builder::new().spawn_scoped(scope, make));
            }
            make();
        });
        made.into_iter().map(|made| made.into_inner().flatten()).collect()
    }

    /// The rules of a file that has nothing but plain ones, whose words are all known, in their order.
    fn plain_rules(&self, kept: &Kept) -> Option<Vec<Rule>> {
        let documents = || kept.file.documents.iter().zip(kept.plain.iter());
        let is_plain = |document: &Document| {
            let Rules { plain, odd, .. } = &document.rules;
            odd.is_empty() && plain.is_sorted_by_key(PlainRule::start)
        };
        if !documents().all(|(document, _)| is_plain(document)) {
            return None;
        }
        let mut rules = Vec::with_capacity(documents().map(|(_, found)| found.len()).sum());
        for (document, found) in documents() {
            let (file, home) = (document.rules.file, self.home(document));
            for (plain, found) in document.rules.plain.iter().zip(found) {
                let [from, to, port] = found.words.map(|word| word as usize);
                let end = |word: usize| self.known.ends.get(word).cloned().flatten();
                let services = self.known.ports.get(port).cloned().flatten()?;
                let place = (found.line, found.column);
                rules.push(self.made(&home, &plain.frame(file), place, [end(from)?, end(to)?], services));
            }
        }
        Some(rules)
    }

    fn home(&self, document: &Document) -> Arc<Home> {
        let source = self.sources.get(document.rules.file);
        Arc::new(Home {
            file: self.places.name(document.rules.file),
            document: document.name().into(),
            text: source.map(|source| Arc::clone(&source.text)).unwrap_or_default(),
        })
    }

    /// A rule whose ends and port have been met before, or any other.
    fn plain(
        &mut self,
        home: &Arc<Home>,
        plain: &PlainRule,
        file: usize,
        (found, words): (&Found, &Words),
    ) -> Option<Rule> {
        let [from, to, port] = found.words;
        let (from, to) = (self.end(from, words), self.end(to, words));
        let services = self.service(port, words);
        if let (Some(from), Some(to), Some(services)) = (from, to, services) {
            let place = (found.line, found.column);
            return Some(self.made(home, &plain.frame(file), place, [from, to], services));
        }
        let text = &self.sources.get(file)?.text;
        self.rule(home, &plain.entry(file, text))
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
