//! All rules in their order; and of those that say two names and a port, each name and port looked up once.

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

/// What words of plain rules were found to stand for.
struct Met<'w> {
    words: &'w Words,
    ends: Vec<Option<Arc<BTreeSet<Peer>>>>,
    ports: Vec<Option<Arc<[Interval]>>>,
}

impl Met<'_> {
    fn of(words: &Words) -> Met<'_> {
        Met {
            words,
            ends: vec![None; words.count()],
            ports: vec![None; words.count()],
        }
    }
}

impl Resolver<'_> {
    pub(super) fn rules(&mut self, files: &[Kept], words: &Words) {
        let documents = || {
            let of_file = |kept: &'_ Kept| kept.file.documents.len().min(kept.plain.len());
            files.iter().flat_map(move |kept| {
                kept.file
                    .documents
                    .iter()
                    .zip(kept.plain.iter())
                    .take(of_file(kept))
            })
        };
        let count = documents().map(|(document, plain)| plain.len() + document.rules.odd.len());
        let count = count.sum();
        self.policy.rules.reserve_exact(count);
        self.rule_spans.reserve_exact(count);
        let mut met = Met::of(words);
        for (document, found) in documents() {
            let (name, file): (Arc<str>, usize) = (document.name().into(), document.rules.file);
            let first = self.rule_spans.len();
            for (plain, found) in document.rules.plain.iter().zip(found) {
                if let Some((span, rule)) = self.plain(&name, plain, file, (found, &mut met)) {
                    self.rule_spans.push(span);
                    self.policy.rules.push(rule);
                }
            }
            for entry in &document.rules.odd {
                if let Some(rule) = self.rule(&name, entry) {
                    self.rule_spans.push(entry.span);
                    self.policy.rules.push(rule);
                }
            }
            self.in_order(first);
        }
    }

    /// `allow` and `deny` are read one list after the other, but numbered as they stand.
    fn in_order(&mut self, first: usize) {
        let spans = self.rule_spans.get(first..).unwrap_or_default();
        if spans.is_sorted_by_key(|span| span.start) {
            return;
        }
        let spans = self.rule_spans.drain(first..);
        let mut rules: Vec<(Span, Rule)> = spans.zip(self.policy.rules.drain(first..)).collect();
        rules.sort_by_key(|(span, _)| span.start);
        for (span, rule) in rules {
            self.rule_spans.push(span);
            self.policy.rules.push(rule);
        }
    }

    /// A rule whose ends and port have been met before, or any other.
    fn plain(
        &mut self,
        document: &Arc<str>,
        plain: &PlainRule,
        file: usize,
        (found, met): (&Found, &mut Met<'_>),
    ) -> Option<(Span, Rule)> {
        let frame = plain.frame(file);
        let [from, to, port] = found.words;
        let (from, to) = (self.end(from, met), self.end(to, met));
        let services = self.service(port, met);
        let location = self.places.known(file, found.line, found.column);
        let rule = if let (Some(from), Some(to), Some(services)) = (from, to, services) {
            self.made(document, &frame, location, [from, to], services)
        } else {
            let text = &self.sources.get(file)?.text;
            self.rule(document, &plain.entry(file, text))?
        };
        Some((frame.span, rule))
    }

    /// What a word stands for, as the only port of a rule.
    fn service(&mut self, word: u32, met: &mut Met<'_>) -> Option<Arc<[Interval]>> {
        let known = met.ports.get_mut(word as usize)?;
        if known.is_none()
            && let Ok(interval) = port::parse(met.words.text(word))
        {
            *known = Some(self.shared(vec![interval]));
        }
        known.clone()
    }

    /// Whom a word stands for, as an end of a rule.
    fn end(&mut self, word: u32, met: &mut Met<'_>) -> Option<Arc<BTreeSet<Peer>>> {
        let known = met.ends.get_mut(word as usize)?;
        if known.is_none() {
            *known = self.alone(met.words.text(word));
        }
        known.clone()
    }
}
