//! A proposal as an addition to a policy that people wrote: their lines stay as they are, ours come between them.

use std::fmt::Write as _;

use super::{Proposal, text};
use crate::policy::{
    document::tree::{self, Node, Value},
    model::Source,
};

/// Lines of context around a change.
const CONTEXT: usize = 3;

/// What is added to one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// The file.
    pub file: String,
    /// What it says; `None`: it is a new one.
    old: Option<String>,
    /// Before which line (from 0) what comes, in order.
    added: Vec<(usize, String)>,
}

/// Adds to the ends of a document's own `segments` and `allow`, if both are written in block style.
#[must_use]
pub fn into_lists(source: &Source, proposal: &Proposal) -> Option<Patch> {
    let documents = tree::parse(0, source).ok()?;
    documents.iter().find_map(|document| {
        let spec = field(document, "spec")?;
        let mut added = Vec::new();
        if !proposal.segments.is_empty() {
            let Value::Map(entries) = &field(spec, "segments")?.value else {
                return None;
            };
            let ((first, _), (last, value)) = (entries.first()?, entries.last()?);
            let indent = indent_of(&source.text, first, |line| {
                !line.starts_with(['-', '{', '[']) && starts_here(&source.text, first, line)
            })?;
            let mut lines = String::new();
            for segment in &proposal.segments {
                text::segment(&mut lines, &indent, segment);
            }
            added.push((line_behind(&source.text, last.end.max(value.end)), lines));
        }
        let Value::List(items) = &field(spec, "allow")?.value else {
            return None;
        };
        let indent = indent_of(&source.text, items.first()?, |line| line.starts_with("- "))?;
        let mut lines = String::new();
        for rule in &proposal.rules {
            text::rule(&mut lines, &indent, rule);
        }
        added.push((line_behind(&source.text, items.last()?.end), lines));
        added.sort();
        Some(Patch::of(source, added))
    })
}

/// Adds a document of its own at the end of a file.
#[must_use]
pub fn behind(source: &Source, document: &str) -> Patch {
    let lines = source.text.split_inclusive('\n').count();
    Patch::of(source, vec![(lines, format!("---\n{document}"))])
}

/// Adds a file.
#[must_use]
pub fn beside(file: &str, document: &str) -> Patch {
    Patch {
        file: file.to_owned(),
        old: None,
        added: vec![(0, document.to_owned())],
    }
}

fn field<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    let named = |key: &Node| matches!(&key.value, Value::Text { text, .. } if text == name);
    entries.iter().find(|(key, _)| named(key)).map(|(_, value)| value)
}

/// The line a node begins in.
fn line_of<'t>(text: &'t str, node: &Node) -> Option<(usize, &'t str)> {
    let start = text.get(..node.span.start)?.rfind('\n').map_or(0, |at| at + 1);
    let line = text.get(start..)?.split('\n').next()?;
    Some((start, line))
}

/// What stands before a node in its line, if that is space alone and the line fits.
fn indent_of(text: &str, node: &Node, fits: impl Fn(&str) -> bool) -> Option<String> {
    let (_, line) = line_of(text, node)?;
    let inside = line.trim_start_matches(' ');
    fits(inside).then(|| " ".repeat(line.len() - inside.len()))
}

fn starts_here(text: &str, node: &Node, inside: &str) -> bool {
    line_of(text, node).is_some_and(|(start, line)| node.span.start == start + (line.len() - inside.len()))
}

/// The number of the line after a byte.
fn line_behind(text: &str, end: usize) -> usize {
    let before = text.get(..end).unwrap_or(text);
    let breaks = before.matches('\n').count();
    if before.ends_with('\n') {
        breaks
    } else {
        breaks + 1
    }
}

impl Patch {
    fn of(source: &Source, added: Vec<(usize, String)>) -> Patch {
        let mut added = added;
        if source.text.contains("\r\n") {
            for (_, lines) in &mut added {
                *lines = lines.replace('\n', "\r\n");
            }
        }
        Patch {
            file: source.name.clone(),
            old: Some(source.text.to_string()),
            added,
        }
    }

    /// The whole file with what is added.
    #[must_use]
    pub fn result(&self) -> String {
        let old: Vec<&str> = self.lines();
        let mut out = String::new();
        for at in 0..=old.len() {
            for (_, lines) in self.added.iter().filter(|(before, _)| *before == at) {
                if !out.is_empty() && !out.ends_with('\n') {
                    out.push('\n');
                }
                out.push_str(lines);
            }
            out.push_str(old.get(at).unwrap_or(&""));
        }
        out
    }

    /// As `patch -p1` and `git apply` read it.
    #[must_use]
    pub fn unified(&self) -> String {
        let path = self.file.trim_start_matches("./").trim_start_matches('/');
        let before = match self.old {
            Some(_) => format!("a/{path}"),
            None => "/dev/null".to_owned(),
        };
        let mut out = format!("--- {before}\n+++ b/{path}\n");
        let old = self.lines();
        let mut shift = 0;
        let mut rest = self.added.as_slice();
        while let Some((first, _)) = rest.first() {
            let near = |pair: &[(usize, String)]| match pair {
                [a, b] => b.0 - a.0 <= 2 * CONTEXT,
                _ => false,
            };
            let count = 1 + rest.windows(2).take_while(|pair| near(pair)).count();
            let (group, others) = rest.split_at(count.min(rest.len()));
            rest = others;
            let start = first.saturating_sub(CONTEXT);
            let end = group
                .last()
                .map_or(*first, |(last, _)| last + CONTEXT)
                .min(old.len());
            shift += hunk(&mut out, &old, start..end, group, shift);
        }
        out
    }

    fn lines(&self) -> Vec<&str> {
        self.old
            .as_deref()
            .unwrap_or_default()
            .split_inclusive('\n')
            .collect()
    }
}

/// One hunk; tells how many lines it adds.
fn hunk(
    out: &mut String,
    old: &[&str],
    range: std::ops::Range<usize>,
    group: &[(usize, String)],
    shift: usize,
) -> usize {
    let added: usize = group
        .iter()
        .map(|(_, lines)| lines.split_inclusive('\n').count())
        .sum();
    let len = range.len();
    // A range of no lines is named by the line before it.
    let first = |len: usize, at: usize| if len == 0 { at } else { at + 1 };
    let _ = writeln!(
        out,
        "@@ -{},{len} +{},{} @@",
        first(len, range.start),
        first(len + added, range.start + shift),
        len + added
    );
    let unfinished = |line: &str| !line.ends_with('\n');
    for at in range.start..=range.end {
        for (_, lines) in group.iter().filter(|(before, _)| *before == at) {
            for line in lines.split_inclusive('\n') {
                let _ = write!(out, "+{line}");
            }
        }
        let Some(line) = old.get(at).filter(|_| at < range.end) else {
            continue;
        };
        if !unfinished(line) {
            let _ = write!(out, " {line}");
        } else if group.iter().any(|(before, _)| *before == old.len()) {
            let _ = writeln!(out, "-{line}\n\\ No newline at end of file\n+{line}");
        } else {
            let _ = writeln!(out, " {line}\n\\ No newline at end of file");
        }
    }
    added
}
