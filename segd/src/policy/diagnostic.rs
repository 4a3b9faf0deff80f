//! What is wrong with a policy, where, and what to write instead. Problems are collected, not thrown.
//!
//! INVARIANT: every diagnostic has a code from the closed list; docs/policy.md explains each of them.

mod code;
mod render;
mod suggest;

pub use code::Code;
pub use render::{Style, render};
pub use suggest::nearest;

use std::sync::{Arc, OnceLock};

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
}

impl<'s> Places<'s> {
    /// Finds the lines.
    #[must_use]
    pub fn new(sources: &'s [Source]) -> Places<'s> {
        Places {
            sources,
            names: sources.iter().map(|source| source.name.as_str().into()).collect(),
            lines: vec![OnceLock::new(); sources.len()],
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
        let before = source.text.get(line_start..span.start).unwrap_or_default();
        Location {
            file: Arc::clone(name),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(before.chars().count() + 1).unwrap_or(u32::MAX),
        }
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
            message: message.into(),
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
        self.help.push(help.into());
        self
    }

    /// Says what is marked.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Diagnostic {
        self.label = Some(label.into());
        self
    }

    /// Points at another place.
    #[must_use]
    pub fn related(mut self, span: Span, text: impl Into<String>) -> Diagnostic {
        self.related.push(Label {
            span,
            text: text.into(),
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
        let mut diagnostic = Diagnostic::error(code, span, self.message);
        diagnostic.help.extend(self.help);
        diagnostic
    }
}
