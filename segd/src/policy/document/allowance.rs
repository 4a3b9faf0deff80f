//! `# segd: allow(unused-segment)`: comments by which the author of a policy says that a warning is known and meant.
//!
//! A comment above something holds for all of it, one at the end of a line for what begins on that line, one above the
//! first document for the whole file.
//!
//! INVARIANT: only comments count; the same letters inside a text of the policy allow nothing.

use std::collections::BTreeSet;

use super::{
    Text,
    tree::{Node, Value},
};
use crate::policy::{
    diagnostic::{Code, Diagnostic, Span, nearest},
    model::Source,
};

/// What every such comment begins with, after `#` and spaces.
const WORD: &str = "segd:";
/// How such a comment is written.
const FORM: &str = "write `# segd: allow(NAME)`, or several names with commas between";

/// One name in one comment.
#[derive(Clone, Debug)]
pub struct Allowance {
    /// Which warning.
    pub code: Code,
    /// Where the name stands.
    pub span: Span,
    /// Where the warning is allowed.
    pub scope: Span,
}

/// The allowances of one file; names that are no warnings are reported.
pub fn allowances(file: usize, source: &Source, nodes: &[Node], out: &mut Vec<Diagnostic>) -> Vec<Allowance> {
    let text = &*source.text;
    if !text.contains(WORD) {
        return Vec::new();
    }
    let mut tree = Extents::default();
    for node in nodes {
        tree.add(node.span.start, node);
    }
    tree.scalars.sort_unstable();
    // What an alias stands for has its place again.
    tree.items.sort_by_key(|(start, _)| *start);
    let mut found = Vec::new();
    let mut line_start = 0;
    for line in text.split_inclusive('\n') {
        if let Some(comment) = comment(line, line_start, &tree) {
            let scope = Span {
                file,
                ..tree.scope(text, line_start, line, comment)
            };
            for name in names(file, text, line_start + line.trim_end().len(), comment, out) {
                match known(&name) {
                    Ok(code) => found.push(Allowance {
                        code,
                        span: name.span,
                        scope,
                    }),
                    Err(diagnostic) => out.push(*diagnostic),
                }
            }
        }
        line_start += line.len();
    }
    found
}

/// Takes the warnings away that are allowed, and reports allowances that took nothing away.
///
/// `host`: the host, or the clock, has been looked at, so that what only it can tell has been told.
pub fn apply(allowances: &[Allowance], host: bool, out: &mut Vec<Diagnostic>) {
    let mut needed = vec![false; allowances.len()];
    if !allowances.is_empty() {
        let allowed = allowed(allowances, out, &mut needed);
        let mut at = 0..;
        out.retain(|_| !at.next().is_some_and(|at| allowed.contains(&at)));
    }
    for (allowance, needed) in allowances.iter().zip(needed) {
        if needed || (allowance.code.is_beyond_the_text() && !host) {
            continue;
        }
        let label = allowance.code.label();
        let message = format!("there is no warning `{label}` here to allow");
        let diagnostic = Diagnostic::warning(Code::UnneededAllowance, allowance.span, message);
        out.push(diagnostic.help("take the comment out, or put it above what it is about"));
    }
}

/// The places of diagnostics that are allowed. Both are gone through once, in the order of their places.
fn allowed(allowances: &[Allowance], out: &[Diagnostic], needed: &mut [bool]) -> BTreeSet<usize> {
    type Class = (usize, Code);
    let mut told: Vec<(Class, usize, usize)> = Vec::new();
    for (at, diagnostic) in out.iter().enumerate() {
        told.extend(
            diagnostic
                .span
                .map(|span| ((span.file, diagnostic.code), span.start, at)),
        );
    }
    told.sort_unstable();
    let scopes = allowances.iter().zip(needed);
    let mut scopes: Vec<_> = scopes
        .map(|(allowance, needed)| ((allowance.scope.file, allowance.code), allowance.scope, needed))
        .collect();
    scopes.sort_by_key(|(class, scope, _)| (*class, scope.start));
    let mut scopes = scopes.into_iter().peekable();
    let mut allowed = BTreeSet::new();
    let mut class = None;
    // Scopes that have begun and are not known to be needed, and how far those reach that are.
    let (mut open, mut reach): (Vec<(usize, &mut bool)>, usize) = (Vec::new(), 0);
    for (of, start, at) in told {
        if class != Some(of) {
            (class, reach) = (Some(of), 0);
            open.clear();
        }
        while let Some((its, scope, needed)) =
            scopes.next_if(|(its, scope, _)| (*its, scope.start) <= (of, start))
        {
            if its == of {
                open.push((scope.end, needed));
            }
        }
        open.retain(|(end, _)| *end > start);
        for (end, needed) in open.drain(..) {
            *needed = true;
            reach = reach.max(end);
        }
        if reach > start {
            allowed.insert(at);
        }
    }
    allowed
}

/// Where the `#` of the line's comment stands, if segd is meant by it.
fn comment(line: &str, line_start: usize, tree: &Extents) -> Option<usize> {
    let hashes = line.match_indices('#').map(|(at, _)| at);
    let mut comments = hashes.filter(|at| {
        let before = line.get(..*at).unwrap_or_default();
        let begins = before.is_empty() || before.ends_with([' ', '\t']);
        let rest = line
            .get(at + 1..)
            .unwrap_or_default()
            .trim_start_matches([' ', '\t']);
        begins && rest.starts_with(WORD) && !tree.is_scalar(line_start + at)
    });
    comments.next().map(|at| line_start + at)
}

/// The names in the brackets. What does not look like an allowance is prose, unless it nearly does.
fn names(file: usize, text: &str, end: usize, comment: usize, out: &mut Vec<Diagnostic>) -> Vec<Text> {
    let whole = text.get(comment..end).unwrap_or_default();
    let Some((_, said)) = whole.split_once(WORD) else {
        return Vec::new();
    };
    let said = said.trim_start();
    let word: String = said.chars().take_while(|c| c.is_ascii_alphabetic()).collect();
    let inside = said
        .strip_prefix("allow(")
        .and_then(|rest| rest.split_once(')'))
        .map(|(inside, _)| inside);
    let Some(inside) = inside.filter(|inside| !inside.trim().is_empty()) else {
        if nearest(&word, ["allow"]).is_some() {
            let span = Span {
                file,
                start: comment,
                end,
            };
            let diagnostic = Diagnostic::warning(Code::UnknownAllowance, span, "the comment allows nothing");
            out.push(diagnostic.help(FORM));
        }
        return Vec::new();
    };
    // `inside` is a part of the text, so its place is the distance between the two.
    let mut at = end - said.len() + "allow(".len();
    let mut names = Vec::new();
    for part in inside.split(',') {
        let value = part.trim();
        let start = at + (part.len() - part.trim_start().len());
        let span = Span {
            file,
            start,
            end: start + value.len(),
        };
        if !value.is_empty() {
            let value = value.to_owned();
            names.push(Text { value, span });
        }
        at += part.len() + 1;
    }
    names
}

/// The warning of a name.
fn known(name: &Text) -> Result<Code, Box<Diagnostic>> {
    let report = |message: String| Diagnostic::warning(Code::UnknownAllowance, name.span, message);
    match Code::of_label(&name.value) {
        Some(code) if code.can_be_allowed() => Ok(code),
        Some(_) => {
            let message = format!("`{}` cannot be allowed", name.value);
            Err(Box::new(report(message).help("it has to be put right")))
        }
        None => {
            let labels = Code::WARNINGS.iter().filter(|code| code.can_be_allowed());
            let message = format!("no warning is called `{}`", name.value);
            let diagnostic = report(message).suggest(&name.value, labels.map(|code| code.label()));
            Err(Box::new(match diagnostic.help.is_empty() {
                true => diagnostic.help("the name of a warning stands in brackets after `warning`"),
                false => diagnostic,
            }))
        }
    }
}

/// What stands where: entries and items, the outer ones first, and scalars.
#[derive(Default)]
struct Extents {
    items: Vec<(usize, usize)>,
    scalars: Vec<(usize, usize)>,
}

impl Extents {
    fn add(&mut self, start: usize, node: &Node) {
        self.items.push((start, node.end.max(node.span.end)));
        match &node.value {
            Value::List(items) => items.iter().for_each(|item| self.add(item.span.start, item)),
            Value::Map(entries) => {
                for (key, value) in entries {
                    self.scalars.push((key.span.start, key.span.end));
                    self.add(key.span.start, value);
                }
            }
            _ => self.scalars.push((node.span.start, node.span.end)),
        }
    }

    fn is_scalar(&self, at: usize) -> bool {
        let after = self.scalars.partition_point(|(start, _)| *start <= at);
        let before = self.scalars.get(..after).unwrap_or_default();
        // An alias has the place of what it stands for, so one scalar may be there several times.
        before.iter().rev().take(8).any(|(_, end)| at < *end)
    }

    /// What a comment is about; `line` is the one it stands on.
    fn scope(&self, text: &str, line_start: usize, line: &str, comment: usize) -> Span {
        let file = 0;
        let own_line = line
            .get(..comment - line_start)
            .unwrap_or_default()
            .trim()
            .is_empty();
        let above_all = self.items.first().is_none_or(|(start, _)| comment < *start);
        if own_line && above_all {
            return Span {
                file,
                start: 0,
                end: text.len(),
            };
        }
        let (mut start, mut end) = (line_start, line_start + line.len());
        if own_line {
            // The next line that says something.
            for next in text.get(end..).unwrap_or_default().split_inclusive('\n') {
                (start, end) = (end, end + next.len());
                let said = next.trim();
                if !said.is_empty() && said != "---" && !said.starts_with('#') {
                    break;
                }
            }
        }
        let first = self.items.partition_point(|(at, _)| *at < start);
        match self.items.get(first).filter(|(at, _)| *at < end) {
            Some((from, to)) => Span {
                file,
                start: *from,
                end: *to,
            },
            None => Span { file, start, end },
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::{model::Source, resolve::resolve};

    /// The warnings left of a policy, by code and line.
    #[track_caller]
    fn left(text: &str) -> Vec<String> {
        let head = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: t}\nspec:\n";
        let source = Source {
            name: "t.yaml".to_owned(),
            text: format!("{head}{text}").into(),
        };
        let lines = source.text.clone();
        let (_, warnings) = resolve(&[source], false).expect("the policy is right");
        let line = |start: usize| lines.get(..start).unwrap_or_default().matches('\n').count() - 3;
        let place = |start: Option<usize>| start.map_or(0, line);
        let starts = warnings
            .iter()
            .map(|warning| (warning.code.label(), warning.span.map(|span| span.start)));
        starts
            .map(|(label, start)| format!("{label}:{}", place(start)))
            .collect()
    }

    const RULE: &str = "  segments:\n    a: {match: [{cgroup: /a}]}\n  allow:\n";

    #[test]
    fn a_comment_above_a_list_is_about_all_of_it() {
        let rules = "    - {from: [], to: a, ports: [any]}\n    - {from: a, to: [], ports: [any]}\n";
        assert_eq!(
            left(&format!("{RULE}{rules}")),
            ["matches-nothing:4", "matches-nothing:5"]
        );
        let allowed = RULE.replace("  allow:", "  # segd: allow(matches-nothing)\n  allow:");
        assert!(left(&format!("{allowed}{rules}")).is_empty());
    }

    #[test]
    fn a_comment_above_a_rule_is_not_about_the_next_one() {
        let rules = "    # segd: allow(matches-nothing)\n\n    # why: see the wiki\n    - from: []\n      to: a\n      \
                     ports: [any]\n    - {from: a, to: [], ports: [any]}\n";
        assert_eq!(left(&format!("{RULE}{rules}")), ["matches-nothing:10"]);
    }

    #[test]
    fn a_comment_at_the_end_of_a_line_is_about_what_begins_there() {
        let rules = "    - {from: [], to: a, ports: [any]} # segd: allow(matches-nothing): later\n    \
                     - {from: a, to: [], ports: [any]}\n";
        assert_eq!(left(&format!("{RULE}{rules}")), ["matches-nothing:5"]);
    }

    #[test]
    fn letters_in_a_text_are_no_comment() {
        let rules = "    - {from: [], to: a, ports: [any], reason: ' # segd: allow(matches-nothing)'}\n";
        assert_eq!(left(&format!("{RULE}{rules}")), ["matches-nothing:4"]);
    }
}
