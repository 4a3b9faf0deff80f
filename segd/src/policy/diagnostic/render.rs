//! Draws diagnostics: `file:line:column`, the source line, the marked place, what to do.

use std::{borrow::Cow, collections::BTreeMap};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::{Diagnostic, Places, Severity, Span};
use crate::policy::model::Source;

/// Whether colours are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// For files and pipes.
    #[default]
    Plain,
    /// For terminals.
    Ansi,
}

/// A longer line, in bytes, is named but not drawn.
const LONGEST_LINE: usize = 400;

/// So many diagnostics are drawn; how many more there are is said. Nobody reads as many.
pub const MOST_DRAWN: usize = 1_000;

/// Draws them, with an empty line between.
#[must_use]
pub fn render(diagnostics: &[Diagnostic], sources: &[Source], style: Style) -> String {
    let renderer = match style {
        Style::Plain => Renderer::plain(),
        Style::Ansi => Renderer::styled(),
    };
    // Found once: a thousand diagnostics do not count a large file's lines a thousand times.
    let places = Places::new(sources);
    let mut out = String::new();
    for diagnostic in diagnostics.iter().take(MOST_DRAWN) {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&renderer.render(&[group(diagnostic, sources, &places)]));
        out.push('\n');
    }
    if let Some(more @ 1..) = diagnostics.len().checked_sub(MOST_DRAWN) {
        out.push_str(&format!("\nand {more} more\n"));
    }
    out
}

/// One diagnostic in the terms of annotate-snippets.
fn group<'a>(diagnostic: &'a Diagnostic, sources: &'a [Source], places: &Places<'_>) -> Group<'a> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group = Group::with_title(
        level
            .primary_title(diagnostic.message.as_str())
            .id(diagnostic.code.label()),
    );
    for snippet in snippets(diagnostic, sources, places) {
        group = match snippet {
            Drawn::Lines(snippet) => group.element(snippet),
            Drawn::Place(origin) => group.element(origin),
        };
    }
    for help in &diagnostic.help {
        group = group.element(Level::HELP.message(clean(help)));
    }
    group
}

/// A place with its line, or, where the line is too long to be shown, without it.
enum Drawn<'a> {
    Lines(Snippet<'a, annotate_snippets::Annotation<'a>>),
    Place(Origin<'a>),
}

/// A marked place.
struct Mark<'a> {
    span: Span,
    kind: AnnotationKind,
    label: Option<&'a str>,
}

/// One snippet for each file, the file of the mark first.
fn snippets<'a>(diagnostic: &'a Diagnostic, sources: &'a [Source], places: &Places<'_>) -> Vec<Drawn<'a>> {
    let Some(primary) = diagnostic.span else {
        return Vec::new();
    };
    let first = Mark {
        span: primary,
        kind: AnnotationKind::Primary,
        label: diagnostic.label.as_deref(),
    };
    let mut files: BTreeMap<(bool, usize), Vec<Mark<'_>>> = BTreeMap::new();
    files.entry((false, primary.file)).or_default().push(first);
    for label in &diagnostic.related {
        let elsewhere = label.span.file != primary.file;
        let mark = Mark {
            span: label.span,
            kind: AnnotationKind::Context,
            label: Some(&label.text),
        };
        files.entry((elsewhere, label.span.file)).or_default().push(mark);
    }
    files
        .into_iter()
        .filter_map(|((_, file), marks)| draw(sources, places, file, &marks))
        .collect()
}

/// The marked lines of one file.
fn draw<'a>(sources: &'a [Source], lines: &Places<'_>, file: usize, marks: &[Mark<'a>]) -> Option<Drawn<'a>> {
    let source = sources.get(file)?;
    if marks
        .iter()
        .any(|mark| lines.line_around(file, mark.span.start).len() > LONGEST_LINE)
    {
        let at = lines.locate(marks.first()?.span);
        let origin = Origin::path(clean(&source.name)).line(at.line as usize);
        return Some(Drawn::Place(origin.char_column(at.column as usize)));
    }
    // The drawing library looks at every line it is given, for each diagnostic: it gets those that count.
    let text = &*source.text;
    let places: Vec<(usize, usize)> = marks.iter().map(|mark| on_one_line(source, mark.span)).collect();
    let first = places.iter().map(|(start, _)| *start).min()?;
    let last = places.iter().map(|(_, end)| *end).max()?;
    let from = lines.line_around(file, first).start;
    let to = (lines.line_around(file, last).end + 1).min(text.len());
    let line = lines.line(file, from);
    let mut snippet = Snippet::source(text.get(from..to)?)
        .line_start(line)
        .path(clean(&source.name));
    for (mark, (start, end)) in marks.iter().zip(places) {
        let mut annotation = mark.kind.span(start - from..end - from);
        if let Some(label) = mark.label {
            annotation = annotation.label(clean(label));
        }
        snippet = snippet.annotation(annotation);
    }
    Some(Drawn::Lines(snippet))
}

/// Whether a character does something to a terminal.
pub(super) fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text that is safe on a terminal and stays on one line: what the user wrote, or a workload chose, must not steer it. Control
/// characters, and those that turn the direction of writing, are spelled out.
#[must_use]
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if steers(c) {
            cleaned.extend(c.escape_default());
        } else {
            cleaned.push(c);
        }
    }
    Cow::Owned(cleaned)
}

/// A mark stays on the line where it starts: a page of carets helps nobody.
fn on_one_line(source: &Source, span: Span) -> (usize, usize) {
    let text = &*source.text;
    let start = floor(text, span.start.min(text.len()));
    let end = floor(text, span.end.clamp(start, text.len()));
    let marked = text.get(start..end).unwrap_or_default();
    let end = marked.find(['\n', '\r']).map_or(end, |at| start + at);
    (start, end)
}

/// The nearest character boundary at or before a byte.
fn floor(text: &str, mut at: usize) -> usize {
    while at > 0 && !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
