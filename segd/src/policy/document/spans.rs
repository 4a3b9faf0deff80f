//! All places that a document knows, to be moved together when something before them grows or shrinks.
//!
//! INVARIANT: a field with a place stands here; every struct is taken apart by name, so that a new field does not compile until it does.

use super::{
    Document, Matcher, MatcherKind, Peers, PeersKind, Ports, RuleEntry, Rules, SegmentEntry, TestEntry, Text,
    WindowEntry,
};
use crate::policy::diagnostic::Span;

/// What is done to each place.
pub type Change<'c> = dyn FnMut(&mut Span) + 'c;

/// Changes all places but those of plain rules, which have their own way.
pub fn change(document: &mut Document, change: &mut Change<'_>) {
    let Document {
        name,
        mode,
        segments,
        rules: Rules {
            plain: _,
            odd,
            file: _,
        },
        enforce_host: _,
        release,
        tests,
    } = document;
    name.iter_mut().for_each(|name| text(name, change));
    mode.iter_mut().for_each(|(_, span)| change(span));
    segments.iter_mut().for_each(|entry| segment(entry, change));
    odd.iter_mut().for_each(|entry| rule(entry, change));
    release.iter_mut().for_each(|name| text(name, change));
    tests.iter_mut().for_each(|entry| test(entry, change));
}

fn text(text: &mut Text, change: &mut Change<'_>) {
    let Text { value: _, span } = text;
    change(span);
}

fn texts(all: &mut [Text], change: &mut Change<'_>) {
    all.iter_mut().for_each(|one| text(one, change));
}

fn pairs(all: &mut [(Text, Text)], change: &mut Change<'_>) {
    for (key, value) in all {
        text(key, change);
        text(value, change);
    }
}

fn segment(entry: &mut SegmentEntry, change: &mut Change<'_>) {
    let SegmentEntry {
        name,
        labels,
        mode: _,
        intra: _,
        matchers,
    } = entry;
    text(name, change);
    pairs(labels, change);
    for Matcher { span, kind } in matchers {
        change(span);
        match kind {
            MatcherKind::Cgroup(said) | MatcherKind::Systemd(said) | MatcherKind::UserName(said) => {
                text(said, change);
            }
            MatcherKind::UserId(_) => {}
            MatcherKind::Cidr { prefix, except } => {
                text(prefix, change);
                texts(except, change);
            }
        }
    }
}

fn rule(entry: &mut RuleEntry, change: &mut Change<'_>) {
    let RuleEntry {
        span,
        extent,
        action: _,
        index: _,
        from,
        to,
        ports: said,
        reason: _,
        until,
        when,
    } = entry;
    change(span);
    change(extent);
    from.iter_mut().chain(to).for_each(|end| peers(end, change));
    ports(said, change);
    until.iter_mut().for_each(|until| text(until, change));
    for WindowEntry {
        span,
        days,
        hours,
        zone,
    } in when.iter_mut().flatten()
    {
        change(span);
        texts(days, change);
        text(hours, change);
        text(zone, change);
    }
}

fn test(entry: &mut TestEntry, change: &mut Change<'_>) {
    let TestEntry {
        span,
        extent,
        index: _,
        from,
        to,
        ports: said,
        expect: _,
    } = entry;
    change(span);
    change(extent);
    peers(from, change);
    peers(to, change);
    ports(said, change);
}

fn peers(end: &mut Peers, change: &mut Change<'_>) {
    let Peers { span, kind } = end;
    change(span);
    match kind {
        PeersKind::Names(names) => texts(names, change),
        PeersKind::Labels(labels) => pairs(labels, change),
    }
}

fn ports(said: &mut Ports, change: &mut Change<'_>) {
    match said {
        Ports::Every => {}
        Ports::Listed(said) | Ports::Unreadable(said) => texts(said, change),
    }
}
