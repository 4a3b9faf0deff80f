//! Members that two segments claim: who has them is decided, but not where the reader looks.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::policy::{
    diagnostic::{Code, Diagnostic, Span},
    model::SelectorKind,
    pattern::{common_name, common_path},
};

/// A matcher with its segment and place.
type Matcher<'p> = (&'p str, &'p SelectorKind, Span);

/// A prefix with its exceptions, its segment and its place.
type Claimed<'p> = (IpNet, &'p [IpNet], &'p str, Span);

/// A prefix inside a prefix of another segment, which does not except it.
pub fn addresses(matchers: &[Matcher<'_>], out: &mut Vec<Diagnostic>) {
    let mut prefixes: Vec<Claimed<'_>> = matchers
        .iter()
        .filter_map(|(name, kind, span)| match kind {
            SelectorKind::Cidr { prefix, except } => Some((*prefix, except.as_slice(), *name, *span)),
            _ => None,
        })
        .collect();
    // A prefix stands after those that contain it.
    prefixes.sort_by_key(|(prefix, _, name, span)| (*prefix, *name, *span));
    let mut around: Vec<Claimed<'_>> = Vec::new();
    for inner in prefixes {
        let (prefix, _, name, span) = inner;
        while around.last().is_some_and(|(outer, ..)| !outer.contains(&prefix)) {
            around.pop();
        }
        let claims = |(outer, except, ..): &&Claimed<'_>| {
            *outer != prefix && !except.iter().any(|except| except.contains(&prefix))
        };
        if let Some((outer, _, owner, outer_span)) = around.iter().rev().find(claims)
            && *owner != name
        {
            let message =
                format!("`{prefix}` of segment `{name}` lies inside `{outer}` of segment `{owner}`");
            let diagnostic = Diagnostic::warning(Code::Overlap, span, message);
            out.push(
                diagnostic
                    .related(*outer_span, format!("`{owner}`"))
                    .help(format!(
                        "its addresses are `{name}` only; say so in `{owner}` with `except: [{prefix}]`"
                    )),
            );
        }
        around.push(inner);
    }
}

/// How much comparing of patterns is worth a warning, in pairs of bytes: a policy must not make its reader slow.
const MOST_WORK: usize = 20_000_000;

/// A cgroup path or a unit name of a segment.
struct Pattern<'p> {
    segment: &'p str,
    parts: Vec<&'p str>,
    span: Span,
    is_unit: bool,
    has_star: bool,
    /// How much of it is literal: of two that fit, the longer wins.
    letters: usize,
}

impl<'p> Pattern<'p> {
    fn of((segment, kind, span): &Matcher<'p>) -> Option<Pattern<'p>> {
        let (parts, is_unit): (Vec<&str>, bool) = match kind {
            SelectorKind::Cgroup(path) => (path.iter().map(String::as_str).collect(), false),
            SelectorKind::Systemd(unit) => (vec![unit.as_str()], true),
            _ => return None,
        };
        // `/a/**` is `/a`: what is below is meant either way.
        let deep = parts.iter().rev().take_while(|part| **part == "**").count();
        let parts = parts.get(..parts.len() - deep).unwrap_or_default().to_vec();
        let literal = |part: &&str| 1 + part.bytes().filter(|byte| *byte != b'*').count();
        Some(Pattern {
            segment,
            span: *span,
            is_unit,
            has_star: parts.iter().any(|part| part.contains('*')),
            letters: parts.iter().map(literal).sum(),
            parts,
        })
    }

    fn meets(&self, other: &Pattern<'_>) -> bool {
        match (self.is_unit, self.parts.first(), other.parts.first()) {
            (true, Some(one), Some(other)) => common_name(one.as_bytes(), other.as_bytes()).is_some(),
            _ => common_path(&self.parts, &other.parts).is_some(),
        }
    }
}

/// Two patterns that can fit one workload with equal right: it would be denied as ambiguous.
pub fn workloads(matchers: &[Matcher<'_>], out: &mut Vec<Diagnostic>) {
    let all: Vec<Pattern<'_>> = matchers.iter().filter_map(Pattern::of).collect();
    // Only those that are equally exact can tie.
    let mut equals: BTreeMap<(bool, usize), Vec<usize>> = BTreeMap::new();
    for (at, one) in all.iter().enumerate() {
        equals.entry((one.is_unit, one.letters)).or_default().push(at);
    }
    let mut work = 0;
    for (at, one) in all.iter().enumerate().filter(|(_, one)| one.has_star) {
        let Some(equals) = equals.get(&(one.is_unit, one.letters)) else {
            continue;
        };
        work += equals.len();
        if work > MOST_WORK {
            return;
        }
        for (other_at, other) in equals.iter().filter_map(|at| Some((*at, all.get(*at)?))) {
            // Two patterns are compared once; a pattern and a literal wherever they stand.
            let twice = other.has_star && other_at <= at;
            if twice || one.segment == other.segment {
                continue;
            }
            let firsts = one.parts.first().zip(other.parts.first());
            if !firsts.is_some_and(|(a, b)| may_meet(a, b)) {
                continue;
            }
            work += (one.letters + one.parts.len()) * (other.letters + other.parts.len());
            if work > MOST_WORK {
                return;
            }
            if one.meets(other) {
                out.push(tie(one, other));
            }
        }
    }
}

fn tie(one: &Pattern<'_>, other: &Pattern<'_>) -> Diagnostic {
    let (first, second) = if one.span < other.span {
        (one, other)
    } else {
        (other, one)
    };
    let message = format!(
        "segments `{}` and `{}` can claim the same workload with equal right",
        first.segment, second.segment
    );
    Diagnostic::warning(Code::Overlap, second.span, message)
        .label(format!("`{}`", second.segment))
        .related(first.span, format!("`{}`", first.segment))
        .help("a workload that both fit is denied as ambiguous; make one of them more exact than the other")
}

/// A cheap no: the letters before the first `*` differ.
fn may_meet(a: &str, b: &str) -> bool {
    let mut pairs = a
        .bytes()
        .zip(b.bytes())
        .take_while(|(a, b)| *a != b'*' && *b != b'*');
    pairs.all(|(a, b)| a == b)
}
