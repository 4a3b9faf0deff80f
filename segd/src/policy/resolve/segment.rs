//! Segments: names, labels, modes and matchers.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use segd_common::segment::segment_id;

use super::{defined::Defining, name, prefix, selector};
use crate::policy::{
    diagnostic::{Code, Diagnostic, Span},
    document::{Document, Matcher, MatcherKind, SegmentEntry, Text},
    model::{Mode, Segment, Selector, SelectorKind},
    numbers::Numbers,
};

/// Identifiers of names, and the last name that has each.
#[derive(Default)]
struct Ids {
    numbers: Numbers,
    /// By number, the identifier, the name and where it stands.
    met: Vec<(u32, String, Option<Span>)>,
}

impl Ids {
    /// Adds a name; whoever had its identifier before is returned.
    fn insert(&mut self, name: &str, span: Option<Span>) -> Option<(String, Option<Span>)> {
        let (id, next) = (segment_id(name), self.met.len() as u32);
        let met = &self.met;
        let number = self.numbers.number(&id, next, |number| {
            met.get(number as usize).is_some_and(|(known, ..)| *known == id)
        });
        let new = (id, name.to_owned(), span);
        match self.met.get_mut(number as usize) {
            Some(known) => {
                let (_, name, span) = std::mem::replace(known, new);
                Some((name, span))
            }
            None => {
                self.met.push(new);
                None
            }
        }
    }
}

impl Defining<'_> {
    pub(super) fn segments(&mut self, documents: &[&Document]) {
        let mut ids = Ids::default();
        for built_in in ["host", "world"] {
            ids.insert(built_in, None);
        }
        for document in documents {
            let mode = document.mode.map(|(mode, _)| mode).unwrap_or_default();
            for entry in &document.segments {
                if self.declare(entry, &mut ids) {
                    let segment = self.segment(entry, mode);
                    self.segments.push((segment.name.clone(), segment));
                }
            }
        }
    }

    /// Whether the name is new and can be used.
    fn declare(&mut self, entry: &SegmentEntry, ids: &mut Ids) -> bool {
        let Text { value, span } = &entry.name;
        if let Err((code, problem)) = name::segment(value) {
            self.report(problem.at(code, *span));
            return false;
        }
        let place = self.names.number(value) as usize;
        if let Some((_, first)) = self.spans.get(place) {
            let message = format!("segment `{value}` is defined twice");
            let diagnostic = Diagnostic::error(Code::DuplicateName, *span, message)
                .related(*first, "first here")
                .help("a segment is defined in one place; move the matchers together");
            self.report(diagnostic);
            return false;
        }
        self.spans.push((value.clone(), *span));
        if let Some((other, first)) = ids.insert(value, Some(*span)) {
            let message = format!("`{value}` and `{other}` have the same identifier");
            let mut diagnostic = Diagnostic::error(Code::IdentifierCollision, *span, message)
                .help("segments are known by a 32-bit hash of their name; rename one of the two");
            if let Some(first) = first {
                diagnostic = diagnostic.related(first, "the other one");
            }
            self.report(diagnostic);
        }
        true
    }

    fn segment(&mut self, entry: &SegmentEntry, document_mode: Mode) -> Segment {
        let mut labels = BTreeMap::new();
        for (key, value) in &entry.labels {
            for text in [key, value] {
                if let Err(problem) = name::label(&text.value) {
                    self.report(problem.at(Code::InvalidName, text.span));
                }
            }
            labels.insert(key.value.clone(), value.value.clone());
        }
        let mut selectors: Vec<Selector> = Vec::with_capacity(entry.matchers.len());
        let mut seen: BTreeSet<SelectorKind> = BTreeSet::new();
        for matcher in &entry.matchers {
            let Some(kind) = self.selector(matcher) else {
                continue;
            };
            let selector = Selector {
                location: self.places.locate(matcher.span),
                kind,
            };
            // Most segments have one.
            if entry.matchers.len() > 1 && !seen.insert(selector.kind.clone()) {
                let message = format!("segment `{}` matches `{}` twice", entry.name.value, selector.kind);
                self.report(Diagnostic::warning(Code::Redundant, matcher.span, message));
                continue;
            }
            let claim = (entry.name.value.clone(), selector.kind.clone(), matcher.span);
            self.claims.push(claim);
            selectors.push(selector);
        }
        Segment {
            name: entry.name.value.clone(),
            location: self.places.locate(entry.name.span),
            labels,
            mode: entry.mode.unwrap_or(document_mode),
            intra: entry.intra,
            selectors,
        }
    }

    fn selector(&mut self, matcher: &Matcher) -> Option<SelectorKind> {
        match &matcher.kind {
            MatcherKind::Cgroup(path) => match selector::cgroup(&path.value) {
                Ok(components) => Some(SelectorKind::Cgroup(components)),
                Err(problem) => {
                    self.report(problem.at(Code::InvalidCgroup, path.span));
                    None
                }
            },
            MatcherKind::Systemd(unit) => match selector::unit(&unit.value) {
                Ok(()) => {
                    if unit.value.matches('*').count() > 1 {
                        let message = format!("`{}` has more than one `*`", unit.value);
                        let diagnostic = Diagnostic::warning(Code::SlowSelector, unit.span, message);
                        self.report(diagnostic.help(
                            "the kernel matches one at most: every new cgroup is denied until the daemon has looked at it",
                        ));
                    }
                    Some(SelectorKind::Systemd(unit.value.clone()))
                }
                Err(problem) => {
                    self.report(problem.at(Code::InvalidUnit, unit.span));
                    None
                }
            },
            MatcherKind::UserName(user) => match name::user(&user.value) {
                Ok(()) => Some(SelectorKind::UserName(user.value.clone())),
                Err(problem) => {
                    self.report(problem.at(Code::InvalidUser, user.span));
                    None
                }
            },
            MatcherKind::UserId(id) => Some(SelectorKind::UserId(*id)),
            MatcherKind::Cidr { prefix, except } => {
                let prefix_net = self.prefix(prefix);
                let except: Vec<Option<(IpNet, &Text)>> = except
                    .iter()
                    .map(|text| self.prefix(text).map(|net| (net, text)))
                    .collect();
                let prefix_net = prefix_net?;
                let mut inside = Vec::new();
                for (net, text) in except.into_iter().flatten() {
                    if self.lies_inside(prefix_net, prefix.span, net, text) {
                        inside.push(net);
                    }
                }
                Some(SelectorKind::Cidr {
                    prefix: prefix_net,
                    except: inside,
                })
            }
        }
    }

    fn prefix(&mut self, text: &Text) -> Option<IpNet> {
        match prefix::parse(&text.value) {
            Ok(net) => Some(net),
            Err(problem) => {
                self.report(problem.at(Code::InvalidPrefix, text.span));
                None
            }
        }
    }

    /// Whether an exception takes something out, and leaves something.
    fn lies_inside(&mut self, prefix: IpNet, span: Span, net: IpNet, text: &Text) -> bool {
        let message = if !prefix.contains(&net) {
            format!("`{net}` does not lie inside `{prefix}`")
        } else if prefix == net {
            format!("`{net}` is excepted from itself")
        } else {
            return true;
        };
        let diagnostic =
            Diagnostic::error(Code::InvalidPrefix, text.span, message).related(span, "the prefix");
        self.report(diagnostic.help("except a part of the prefix, or take the exception out"));
        false
    }
}
