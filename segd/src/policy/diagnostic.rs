//! What is wrong with a policy, where, and what to write instead. Problems are collected, not thrown.
//!
//! INVARIANT: every diagnostic has a code from the closed list; docs/policy.md explains each of them.

mod code;
mod render;
mod suggest;

pub use code::Code;
pub use render::{MOST_DRAWN, Style, clean, render};
pub use suggest::nearest;

use std::{
    borrow::Cow,
    ops::Range,
    sync::{Arc, OnceLock},
};

use super::model::{Location, Source};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The policy is refused.
    Error,
    /// The policy is taken; it probably does not say what was meant.
    Warning,
}

impl Severity {
    /// The word used in output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// Bytes `start..end` of one of the sources. Ordered by file, then position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Index into the sources.
    pub file: usize,
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

/// Where each line of a text begins.
#[must_use]
pub fn line_starts(text: &str) -> Vec<usize> {
    let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
    std::iter::once(0).chain(breaks).collect()
}

/// Turns spans into lines and columns without reading a file twice.
#[derive(Clone, Debug)]
pub struct Places<'s> {
    sources: &'s [Source],
    names: Vec<Arc<str>>,
    /// Where each line of each source starts, once it was asked for.
    lines: Vec<OnceLock<Vec<usize>>>,
    /// How many characters stand before each block of each source, once a long line was asked for.
    blocks: Vec<OnceLock<Vec<usize>>>,
}

/// So many bytes of a line are counted for each place; of a longer one, the blocks before are counted once.
const BLOCK: usize = 1 << 10;

impl<'s> Places<'s> {
    /// Finds the lines.
    #[must_use]
    pub fn new(sources: &'s [Source]) -> Places<'s> {
        Places {
            sources,
            names: sources.iter().map(|source| source.name.as_str().into()).collect(),
            lines: vec![OnceLock::new(); sources.len()],
            blocks: vec![OnceLock::new(); sources.len()],
        }
    }

    fn lines(&self, file: usize) -> Option<&[usize]> {
        let text = &self.sources.get(file)?.text;
        Some(self.lines.get(file)?.get_or_init(|| line_starts(text)))
    }

    /// The line of a byte, from 1.
    #[must_use]
    pub fn line(&self, file: usize, at: usize) -> usize {
        let lines = self.lines(file);
        lines.map_or(0, |lines| lines.partition_point(|start| *start <= at))
    }

    /// The name of a file.
    #[must_use]
    pub fn name(&self, file: usize) -> Arc<str> {
        self.names.get(file).map(Arc::clone).unwrap_or_default()
    }

    /// Where a span starts, for people.
    #[must_use]
    pub fn locate(&self, span: Span) -> Location {
        let (Some(source), Some(name)) = (self.sources.get(span.file), self.names.get(span.file)) else {
            return Location::default();
        };
        let lines = self.lines(span.file).unwrap_or_default();
        let line = lines.partition_point(|start| *start <= span.start);
        let line_start = lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let before = match span.start.saturating_sub(line_start) {
            few if few <= BLOCK => characters(&source.text, line_start, span.start),
            _ => self.before(span.file, span.start) - self.before(span.file, line_start),
        };
        Location {
            file: Arc::clone(name),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(before + 1).unwrap_or(u32::MAX),
        }
    }

    /// How many characters stand before a byte, found without looking at all of them for each.
    fn before(&self, file: usize, at: usize) -> usize {
        let (Some(source), Some(blocks)) = (self.sources.get(file), self.blocks.get(file)) else {
            return 0;
        };
        let blocks = blocks.get_or_init(|| {
            let mut before = 0;
            let mut blocks = vec![0];
            for start in (0..source.text.len()).step_by(BLOCK) {
                before += characters(&source.text, start, start + BLOCK);
                blocks.push(before);
            }
            blocks
        });
        let block = (at / BLOCK).min(blocks.len() - 1);
        let counted = blocks.get(block).copied().unwrap_or_default();
        counted + characters(&source.text, block * BLOCK, at)
    }

    /// The bytes of the line in which a byte stands, without its end.
    #[must_use]
    fn line_around(&self, file: usize, at: usize) -> Range<usize> {
        let lines = self.lines(file).unwrap_or_default();
        let line = lines.partition_point(|start| *start <= at);
        let start = lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let end = match lines.get(line) {
            Some(next) => next - 1,
            None => self.sources.get(file).map_or(0, |source| source.text.len()),
        };
        start..end.max(start)
    }
}

/// How many characters begin in a stretch of a text.
fn characters(text: &str, start: usize, end: usize) -> usize {
    let end = end.min(text.len());
    let bytes = text.as_bytes().get(start.min(end)..end).unwrap_or_default();
    // A byte that goes on with a character begins none.
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

/// So many characters of what a user wrote are told again.
const MOST_QUOTED: usize = 100;
/// No message is longer, whatever it quotes.
const MOST_SAID: usize = 2_000;

/// A message of one line in which no text in backticks is longer than people read: a name, or what stands for one, may have
/// megabytes, and line breaks after which a line of ours seems to begin.
fn bounded(message: String) -> String {
    let message = if message.contains(render::steers) {
        clean(&message).into_owned()
    } else {
        message
    };
    if message.len() <= MOST_QUOTED {
        return message;
    }
    let parts = message.split('`').enumerate().map(|(at, part)| match at % 2 {
        1 => cut(part, MOST_QUOTED),
        _ => part.into(),
    });
    let parts: Vec<Cow<'_, str>> = parts.collect();
    cut(&parts.join("`"), MOST_SAID).into_owned()
}

/// At most so many characters of a text.
fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()).into(),
        None => text.into(),
    }
}

/// Another place that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// What is there.
    pub text: String,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether the policy is refused for it.
    pub severity: Severity,
    /// Its class.
    pub code: Code,
    /// Lowercase, without a final period, the user's text in backticks.
    pub message: String,
    /// Where; `None` if it is about the policy as a whole.
    pub span: Option<Span>,
    /// What is marked there.
    pub label: Option<String>,
    /// Other places that matter.
    pub related: Vec<Label>,
    /// What to do about it.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// An error at a place.
    #[must_use]
    pub fn error(code: Code, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            code,
            message: bounded(message.into()),
            span: Some(span),
            label: None,
            related: Vec::new(),
            help: Vec::new(),
        }
    }

    /// A warning at a place.
    #[must_use]
    pub fn warning(code: Code, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Warning,
            ..Diagnostic::error(code, span, message)
        }
    }

    /// An error about the policy as a whole.
    #[must_use]
    pub fn general(code: Code, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            span: None,
            ..Diagnostic::error(code, Span::default(), message)
        }
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help.push(bounded(help.into()));
        self
    }

    /// Says what is marked.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Diagnostic {
        self.label = Some(bounded(label.into()));
        self
    }

    /// Points at another place.
    #[must_use]
    pub fn related(mut self, span: Span, text: impl Into<String>) -> Diagnostic {
        self.related.push(Label {
            span,
            text: bounded(text.into()),
        });
        self
    }

    /// Adds `did you mean` if one of the candidates is near.
    #[must_use]
    pub fn suggest<'a>(self, wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Diagnostic {
        match nearest(wrong, candidates) {
            Some(near) => self.help(format!("did you mean `{near}`?")),
            None => self,
        }
    }
}

/// What a parser of one scalar found wrong; the caller knows where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// As [`Diagnostic::message`].
    pub message: String,
    /// As [`Diagnostic::help`].
    pub help: Option<String>,
}

impl Problem {
    /// A problem with a remedy.
    #[must_use]
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Problem {
        Problem {
            message: message.into(),
            help: Some(help.into()),
        }
    }

    /// The diagnostic at a place.
    #[must_use]
    pub fn at(self, code: Code, span: Span) -> Diagnostic {
        let diagnostic = Diagnostic::error(code, span, self.message);
        match self.help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: String) -> Source {
        Source {
            name: "t.yaml".to_owned(),
            text: text.into(),
        }
    }

    const fn at(start: usize) -> Span {
        Span {
            file: 0,
            start,
            end: start + 1,
        }
    }

    #[test]
    fn a_column_is_that_of_a_count_however_long_the_line() {
        let text = format!("a: b\n{}\nc: d", "xä€, 😀".repeat(1000));
        let sources = [source(text.clone())];
        let places = Places::new(&sources);
        for (start, _) in text.char_indices() {
            let before = &text[..start];
            let line = before.rsplit('\n').next().expect("there is a line");
            let expected = (before.matches('\n').count() + 1, line.chars().count() + 1);
            let found = places.locate(at(start));
            assert_eq!((found.line as usize, found.column as usize), expected, "{start}");
        }
        assert_eq!(places.locate(at(text.len())).column, 5);
    }

    #[test]
    fn places_in_one_long_line_are_not_counted_from_its_start_each() {
        let text = "x, ".repeat(1 << 20);
        let sources = [source(text)];
        let places = Places::new(&sources);
        // Counted from the start it would be 10^11 bytes.
        let sum: u64 = (0..100_000)
            .map(|number| u64::from(places.locate(at(number * 30)).column))
            .sum();
        assert_eq!(sum, (0..100_000_u64).map(|number| number * 30 + 1).sum::<u64>());
    }

    #[test]
    fn what_a_user_wrote_is_quoted_in_part() {
        let name = "ä".repeat(1 << 20);
        let diagnostic = Diagnostic::error(Code::InvalidName, at(0), format!("`{name}` cannot be a name"))
            .help(format!("write `{name}`"))
            .label(format!("`{name}`"))
            .related(at(0), format!("`{name}`"));
        let cut = format!("`{}…`", "ä".repeat(MOST_QUOTED));
        assert_eq!(diagnostic.message, format!("{cut} cannot be a name"));
        assert_eq!(diagnostic.help, [format!("write {cut}")]);
        assert_eq!(diagnostic.label, Some(cut.clone()));
        assert_eq!(diagnostic.related[0].text, cut);
        // Backticks in it change nothing.
        let odd = Diagnostic::error(
            Code::InvalidName,
            at(0),
            format!("`{}` is odd", "`a".repeat(1 << 20)),
        );
        assert!(odd.message.chars().count() <= MOST_SAID + 1);
        let problem = Problem::new(format!("`{name}`"), format!("`{name}`")).at(Code::InvalidName, at(0));
        assert!(problem.help[0].len() < 300);
    }

    #[test]
    fn so_many_are_drawn_and_the_others_counted() {
        let sources = [source("a: b\n".to_owned())];
        let diagnostics = vec![Diagnostic::error(Code::InvalidName, at(0), "no"); MOST_DRAWN + 17];
        let drawn = render(&diagnostics, &sources, Style::Plain);
        assert_eq!(drawn.matches("error[").count(), MOST_DRAWN);
        assert!(
            drawn.ends_with("\n\nand 17 more\n"),
            "{}",
            &drawn[drawn.len() - 100..]
        );
        let all = render(&diagnostics[..MOST_DRAWN], &sources, Style::Plain);
        assert!(!all.contains("more"));
    }

    #[test]
    fn nothing_of_a_file_steers_the_terminal() {
        let mut sources = [
            source("a: \u{1b}[31m\u{202e}\n".to_owned()),
            source("x".repeat(1000)),
        ];
        for source in &mut sources {
            source.name = "p\u{1b}]0;owned\u{7}\n.yaml".to_owned();
        }
        let odd = "`\u{1b}[2J\u{202e}\nerror: x`";
        let other = Span { file: 1, ..at(0) };
        let diagnostic = |span| {
            Diagnostic::error(Code::InvalidName, span, odd)
                .help(odd)
                .label(odd)
                .related(other, odd)
        };
        assert!(diagnostic(at(0)).message.ends_with("\\nerror: x`"));
        let drawn = render(&[diagnostic(at(0)), diagnostic(other)], &sources, Style::Plain);
        let steers = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!drawn.contains(steers), "{drawn:?}");
        assert!(drawn.contains("p\\u{1b}]0;owned\\u{7}\\n.yaml"), "{drawn}");
    }
}
