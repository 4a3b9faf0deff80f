//! Rules: peers looked up, ports parsed.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use segd_common::service;

use super::{Resolver, name};
use crate::policy::{
    diagnostic::{Code, Diagnostic, Span, nearest},
    document::{Peers, PeersKind, Ports, RuleEntry, Text, WindowEntry},
    model::{Home, Peer, Rule, Spot, Written},
    port::{self, Interval},
    term::Term,
    time,
    window::{self, When, Zone},
};

impl Resolver<'_> {
    pub(super) fn rule(&mut self, home: &Arc<Home>, entry: &RuleEntry) -> Option<Rule> {
        let from = self.peers(entry.from.as_ref());
        let to = self.peers(entry.to.as_ref());
        let services = match &entry.ports {
            Ports::Every => Some(self.shared(vec![(0, service::MAX)])),
            Ports::Listed(ports) => self.listed(ports),
            Ports::Unreadable(ports) => {
                let _ = self.services(ports);
                None
            }
        };
        let until = match entry
            .until
            .as_ref()
            .map(|text| (time::parse(&text.value), text.span))
        {
            None => Some(None),
            Some((Ok(end), _)) => Some(Some(end)),
            Some((Err(problem), span)) => {
                let diagnostic = Diagnostic::error(Code::InvalidTime, span, problem.message);
                self.report(diagnostic.help(problem.help));
                None
            }
        };
        let when = match &entry.when {
            None => Some(None),
            Some(windows) => self.when(windows).map(Some),
        };
        let term = match (until?, when?) {
            (None, None) => Arc::clone(&self.lasting),
            (until, when) => Arc::new(Term { until, when }),
        };
        let location = self.places.locate(entry.span);
        let place = (location.line, location.column);
        let mut rule = self.made(home, entry, place, [from?, to?], services?);
        rule.term = term;
        Some(rule)
    }

    /// The rule of an entry whose ends and ports are known, as if it held for good.
    pub(super) fn made(
        &self,
        home: &Arc<Home>,
        entry: &RuleEntry,
        (line, column): (u32, u32),
        [from, to]: [Arc<BTreeSet<Peer>>; 2],
        services: Arc<[Interval]>,
    ) -> Rule {
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let spot = Spot {
            line,
            column,
            number: number(entry.index),
            start: number(entry.extent.start),
            end: number(entry.extent.end),
        };
        let reason = entry.reason.as_deref().map(Box::from);
        Rule::new(
            (Arc::clone(home), spot),
            entry.action,
            [from, to],
            services,
            (reason, Arc::clone(&self.lasting)),
        )
    }

    /// The windows of a rule; `None` if one of them is none.
    fn when(&mut self, entries: &[WindowEntry]) -> Option<When> {
        let mut when = When::default();
        let mut whole = true;
        for entry in entries {
            let days = self.days(&entry.days);
            let hours = self.of_window(&entry.hours, window::hours);
            let zone = self.of_window(&entry.zone, Zone::find);
            match (days, hours, zone) {
                (Some(days), Some(hours), Some(zone)) => when.add(&days, hours, zone),
                _ => whole = false,
            }
        }
        let first = entries.first().filter(|_| whole)?;
        if when.is_always() {
            let message = "the windows are all of the week: the rule always holds";
            let diagnostic = Diagnostic::error(Code::InvalidWindow, first.span, message);
            self.report(diagnostic.help("take `when` out"));
            return None;
        }
        Some(when)
    }

    /// Days as places in the week, each once.
    fn days(&mut self, texts: &[Text]) -> Option<Vec<usize>> {
        let mut named: BTreeMap<usize, Span> = BTreeMap::new();
        let mut whole = true;
        for text in texts {
            let Some(days) = self.of_window(text, window::days) else {
                whole = false;
                continue;
            };
            for day in days {
                if let Some(first) = named.insert(day, text.span) {
                    let word = window::DAYS.get(day).copied().unwrap_or_default();
                    let message = format!("`{word}` is named twice");
                    let diagnostic = Diagnostic::error(Code::InvalidWindow, text.span, message);
                    self.report(diagnostic.related(first, "first here"));
                    whole = false;
                    break;
                }
            }
        }
        whole.then(|| named.into_keys().collect())
    }

    /// Part of a window.
    fn of_window<T>(&mut self, text: &Text, parse: fn(&str) -> Result<T, window::Problem>) -> Option<T> {
        match parse(&text.value) {
            Ok(part) => Some(part),
            Err(problem) => {
                let diagnostic = Diagnostic::error(Code::InvalidWindow, text.span, problem.message);
                self.report(diagnostic.help(problem.help));
                None
            }
        }
    }

    /// What stands there.
    pub(super) fn written(&self, extent: Span) -> Written {
        let source = self.sources.get(extent.file);
        source.map_or_else(Written::default, |source| {
            Written::new(Arc::clone(&source.text), extent.start, extent.end)
        })
    }

    /// The services of a list of ports; `None` if one of them is none.
    fn listed(&mut self, ports: &[Text]) -> Option<Arc<[Interval]>> {
        let services = self.services(ports)?;
        Some(self.shared(services))
    }

    /// The same services, kept once.
    pub(super) fn shared(&mut self, services: Vec<Interval>) -> Arc<[Interval]> {
        if let Some(known) = self.known.services.get(services.as_slice()) {
            return Arc::clone(known);
        }
        let services: Arc<[Interval]> = services.into();
        self.known.services.insert(Arc::clone(&services));
        services
    }

    /// The intervals of a list of ports; `None` if one of them is none.
    pub(super) fn services(&mut self, ports: &[Text]) -> Option<Vec<Interval>> {
        let mut intervals: Vec<(Interval, &Text)> = Vec::new();
        for text in ports {
            match port::parse(&text.value) {
                Ok(interval) => intervals.push((interval, text)),
                Err(problem) => self.report(problem.at(Code::InvalidPort, text.span)),
            }
        }
        if intervals.len() < ports.len() {
            return None;
        }
        for ((_, text), by) in intervals.iter().zip(within(&intervals)) {
            if let Some((_, by)) = by.and_then(|by| intervals.get(by)) {
                let message = format!("`{}` is already in `{}`", text.value, by.value);
                self.report(
                    Diagnostic::warning(Code::Redundant, text.span, message).related(by.span, "here"),
                );
            }
        }
        Some(merged(
            intervals.into_iter().map(|(interval, _)| interval).collect(),
        ))
    }

    /// Who an end of a rule is; `None` if a name in it is unknown.
    pub(super) fn peers(&mut self, peers: Option<&Peers>) -> Option<Arc<BTreeSet<Peer>>> {
        match &peers?.kind {
            PeersKind::Labels(labels) => Some(self.labelled(labels)),
            PeersKind::Names(names) => match names.as_slice() {
                [name] => self.alone(&name.value).or_else(|| self.named(names)),
                names => self.named(names),
            },
        }
    }

    /// One name, if it is known: what most rules say. They share whom it stands for.
    pub(super) fn alone(&mut self, name: &str) -> Option<Arc<BTreeSet<Peer>>> {
        if let Some(known) = self.known.alone.get(name) {
            return Some(Arc::clone(known));
        }
        let alone = match name {
            "any" => self.everyone(),
            "host" => Arc::new(BTreeSet::from([Peer::Host])),
            "world" => Arc::new(BTreeSet::from([Peer::World])),
            _ if self.defined.has(name) => Arc::new(BTreeSet::from([Peer::Segment(name.to_owned())])),
            _ => return None,
        };
        self.known.alone.insert(name, Arc::clone(&alone));
        Some(alone)
    }

    fn named(&mut self, names: &[Text]) -> Option<Arc<BTreeSet<Peer>>> {
        let mut found = BTreeSet::new();
        let mut seen = BTreeMap::new();
        let (mut any, mut unknown) = (false, false);
        for name in names {
            if let Some(first) = seen.insert(name.value.as_str(), name.span) {
                let message = format!("`{}` is listed twice", name.value);
                let diagnostic = Diagnostic::warning(Code::Redundant, name.span, message);
                self.report(diagnostic.related(first, "first here"));
            }
            match name.value.as_str() {
                "any" => any = true,
                "host" => drop(found.insert(Peer::Host)),
                "world" => drop(found.insert(Peer::World)),
                known if self.defined.has(known) => {
                    found.insert(Peer::Segment(known.to_owned()));
                }
                _ => {
                    unknown = true;
                    self.undeclared(name);
                }
            }
        }
        if let (true, Some(of_all)) = (any && !unknown, names.iter().find(|name| name.value == "any")) {
            for name in names.iter().filter(|name| name.value != "any") {
                let message = format!("`{}` is already in `any`", name.value);
                let diagnostic = Diagnostic::warning(Code::Redundant, name.span, message);
                self.report(diagnostic.related(of_all.span, "here"));
            }
        }
        match (unknown, any) {
            (true, _) => None,
            (false, true) => Some(self.everyone()),
            (false, false) => Some(Arc::new(found)),
        }
    }

    /// Every segment, `world` and `host`.
    fn everyone(&mut self) -> Arc<BTreeSet<Peer>> {
        let segments = &self.policy.segments;
        let everyone = || {
            let segments = segments.keys().cloned().map(Peer::Segment);
            Arc::new([Peer::Host, Peer::World].into_iter().chain(segments).collect())
        };
        Arc::clone(self.known.looked_up.entry(Vec::new()).or_insert_with(everyone))
    }

    /// Every segment that has all of the labels. No labels are no segments: empty means nothing.
    fn labelled(&mut self, labels: &[(Text, Text)]) -> Arc<BTreeSet<Peer>> {
        if labels.is_empty() {
            return Arc::default();
        }
        let mut wanted: Vec<(String, String)> = labels
            .iter()
            .map(|(key, value)| (key.value.clone(), value.value.clone()))
            .collect();
        wanted.sort_unstable();
        if let Some(found) = self.known.looked_up.get(&wanted) {
            return Arc::clone(found);
        }
        let has_all =
            |have: &BTreeMap<String, String>| wanted.iter().all(|(key, value)| have.get(key) == Some(value));
        let segments = self
            .policy
            .segments
            .values()
            .filter(|segment| has_all(&segment.labels));
        let found = Arc::new(
            segments
                .map(|segment| Peer::Segment(segment.name.clone()))
                .collect(),
        );
        self.known.looked_up.insert(wanted, Arc::clone(&found));
        found
    }

    /// What was probably meant by a name. To look through all names for each of many is to look for ever.
    fn near(&mut self, name: &str) -> Option<&str> {
        const MOST_LOOKED_UP: usize = 100;
        if !self.near.contains_key(name) && self.near.len() < MOST_LOOKED_UP {
            let known = self.defined.spans.keys().map(String::as_str);
            let found = nearest(name, known.chain(name::BUILT_IN)).map(str::to_owned);
            self.near.insert(name.to_owned(), found);
        }
        self.near.get(name)?.as_deref()
    }

    fn undeclared(&mut self, name: &Text) {
        // What another file defines is not known while that file cannot be read.
        if !self.complete {
            return;
        }
        let message = format!("peer `{}` is not declared", name.value);
        let near = self.near(&name.value).map(str::to_owned);
        let mut diagnostic =
            Diagnostic::error(Code::UndeclaredPeer, name.span, message).suggest(&name.value, near.as_deref());
        if diagnostic.help.is_empty() {
            let help = match name.value.as_str() {
                "*" | "all" => "write `any`: every segment, `world` and `host`",
                "localhost" | "self" | "node" => "write `host`: this host's processes that no segment claims",
                "internet" | "external" | "outside" => "write `world`: addresses in no segment",
                address
                    if address.starts_with(|first: char| first.is_ascii_digit()) || address.contains(':') =>
                {
                    "a peer is a segment: define one with `match: [{cidr: …}]` and name it here"
                }
                _ => "define it under `segments`, or use `host`, `world` or `any`",
            };
            diagnostic = diagnostic.help(help);
        }
        self.report(diagnostic);
    }
}

/// For each interval the place of another one that it lies in. Of two equal ones the second lies in the first.
fn within<T>(intervals: &[(Interval, T)]) -> Vec<Option<usize>> {
    let interval = |at: usize| intervals.get(at).map_or((0, 0), |(interval, _)| *interval);
    let mut order: Vec<usize> = (0..intervals.len()).collect();
    // Whatever an interval lies in comes before it.
    order.sort_unstable_by_key(|at| {
        let (low, high) = interval(*at);
        (low, Reverse(high), *at)
    });
    let mut within = vec![None; intervals.len()];
    let mut widest: Option<usize> = None;
    for at in order {
        match widest.filter(|widest| interval(at).1 <= interval(*widest).1) {
            Some(widest) => within[at] = Some(widest),
            None => widest = Some(at),
        }
    }
    within
}

/// Sorted, disjoint and not adjacent.
fn merged(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.sort_unstable();
    let mut merged: Vec<Interval> = Vec::with_capacity(intervals.len());
    for (low, high) in intervals {
        match merged.last_mut() {
            Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
            _ => merged.push((low, high)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether each interval lies in another one, by looking at all of them.
    fn looked_at(intervals: &[(Interval, ())]) -> Vec<bool> {
        let lies = |at: usize, by: usize| {
            let ((low, high), (first, last)) = (intervals[at].0, intervals[by].0);
            first <= low && high <= last && (by < at || (by > at && (low, high) != (first, last)))
        };
        let all = 0..intervals.len();
        all.clone().map(|at| all.clone().any(|by| lies(at, by))).collect()
    }

    #[test]
    fn finds_what_lies_in_another_one_as_if_all_were_compared() {
        let mut state = 7_u32;
        let mut draw = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % below
        };
        for _ in 0..2_000 {
            let intervals: Vec<(Interval, ())> = (0..draw(9))
                .map(|_| {
                    let low = draw(8);
                    ((low, low + draw(6)), ())
                })
                .collect();
            let found = within(&intervals);
            let lies: Vec<bool> = found.iter().map(Option::is_some).collect();
            assert_eq!(lies, looked_at(&intervals), "{intervals:?}");
            for (at, by) in found.iter().enumerate().filter_map(|(at, by)| Some((at, (*by)?))) {
                let ((low, high), (first, last)) = (intervals[at].0, intervals[by].0);
                assert!(
                    first <= low && high <= last && at != by,
                    "{intervals:?}: {at} in {by}"
                );
            }
        }
    }

    #[test]
    fn a_long_list_of_ports_takes_no_time() {
        // Each compared with each: eighty thousand millions.
        let intervals: Vec<(Interval, ())> = (0..400_000).rev().map(|low| ((low, low), ())).collect();
        assert!(within(&intervals).iter().all(Option::is_none));
    }
}
