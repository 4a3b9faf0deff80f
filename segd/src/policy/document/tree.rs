//! YAML as it was written: a tree in which every scalar knows its place and its spelling.
//!
//! A derived type would stop at the first unknown field and would turn `0x16` into 22 silently. The tree keeps
//! both the value YAML sees and the bytes the person wrote, so that the next stage can report every problem.
//!
//! Deliberately absent: knowledge of the policy format.

mod build;

use granit_parser::{ErrorKind, Parser, ScanError};

use super::cuts::Cuts;
use crate::policy::{
    diagnostic::{Code, Diagnostic, Span},
    model::Source,
};

/// The deepest nesting of lists and mappings.
pub const MAX_DEPTH: usize = 32;
/// How many scalars, lists and mappings one file may have, aliases counted as often as they are used.
pub const MAX_NODES: usize = 250_000;
/// How many anchors one file may have, and how many aliases it may use.
pub const MAX_ALIASES: usize = 1_000;
/// How many scalars, lists and mappings all aliases of a file may stand for.
pub const MAX_EXPANDED: usize = 100_000;
/// How many documents one file may have.
pub const MAX_DOCUMENTS: usize = 1_024;
/// The largest file in bytes.
pub const MAX_FILE_BYTES: usize = 8 << 20;

/// A place in the tree.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it is written; for a mapping in block style, its first key.
    pub span: Span,
    /// The byte after all of it.
    pub end: usize,
    /// What it is.
    pub value: Value,
}

/// What stands at a place.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number, spelled as it was.
    Number(String),
    /// Text.
    Text {
        /// As YAML reads it.
        text: String,
        /// How it is spelled.
        style: TextStyle,
    },
    /// A list.
    List(Vec<Node>),
    /// A mapping in its order, duplicates included.
    Map(Vec<(Node, Node)>),
}

/// How a text is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextStyle {
    /// Without quotes, on one line.
    Plain,
    /// In quotes, or said to be a text by a tag.
    Quoted,
    /// A block, or a folded line.
    Other,
}

/// What a file takes of what it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Scalars, lists and mappings.
    pub nodes: usize,
    /// Bytes of texts.
    pub text: usize,
}

/// The documents of one file, or the one reason why it is not YAML.
///
/// # Errors
///
/// One diagnostic: a syntax error ends the file.
pub fn parse(file: usize, source: &Source) -> Result<Vec<Node>, Box<Diagnostic>> {
    parse_of(file, source, None).map(|(nodes, _)| nodes)
}

/// As [`parse`], without the rules that were taken out of the text; and what the file takes. What is wrong with what is left is
/// told by [`parse`].
///
/// # Errors
///
/// As [`parse`].
pub fn parse_of(
    file: usize,
    source: &Source,
    cuts: Option<&Cuts>,
) -> Result<(Vec<Node>, Taken), Box<Diagnostic>> {
    let text = &*source.text;
    if text.len() > MAX_FILE_BYTES {
        let message = format!(
            "the file has {} bytes; at most {MAX_FILE_BYTES} are read",
            text.len()
        );
        return Err(Box::new(Diagnostic::error(
            Code::Syntax,
            Span {
                file,
                start: 0,
                end: 0,
            },
            message,
        )));
    }
    if let Some(at) = text.find('\u{feff}') {
        let span = Span {
            file,
            start: at,
            end: at + '\u{feff}'.len_utf8(),
        };
        let message = "a byte order mark stands in the file";
        return Err(Box::new(
            Diagnostic::error(Code::Syntax, span, message).help("save it as UTF-8 without a byte order mark"),
        ));
    }
    if let Some(at) = text.find(char::REPLACEMENT_CHARACTER) {
        let span = Span {
            file,
            start: at,
            end: at + char::REPLACEMENT_CHARACTER.len_utf8(),
        };
        let message = "what stands here is not UTF-8, or stands for what was not (U+FFFD)";
        return Err(Box::new(
            Diagnostic::error(Code::Syntax, span, message).help("save it as UTF-8"),
        ));
    }
    if let Some(at) = lone_return(text) {
        let span = Span {
            file,
            start: at,
            end: at + 1,
        };
        let message = "a carriage return stands alone: a line ends here for YAML, and for nothing else";
        return Err(Box::new(
            Diagnostic::error(Code::Syntax, span, message).help("save it with LF or CRLF line ends"),
        ));
    }
    let refuse = |fault: build::Fault| {
        let diagnostic = Diagnostic::error(Code::Syntax, fault.span, fault.message);
        Box::new(match fault.help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        })
    };
    let mut builder = build::Builder::new(file, text, cuts);
    let left = cuts.map_or(text, |cuts| &cuts.left);
    for event in Parser::new_from_str_with_options(left, options()) {
        let (event, place) = event.map_err(|error| refuse(fault(file, text, &error)))?;
        builder.take(event, place).map_err(refuse)?;
    }
    Ok(builder.finish())
}

/// A `\r` without `\n`. It ends a comment for YAML, while git, grep and most editors show what follows as a part of it: a rule
/// could hide there. (NEL, LS and PS end nothing in YAML 1.2, which is what is read.)
fn lone_return(text: &str) -> Option<usize> {
    let mut returns = text.match_indices('\r').map(|(at, _)| at);
    returns.find(|at| text.as_bytes().get(at + 1) != Some(&b'\n'))
}

/// Strict, and bounded where the parser itself recurses.
fn options() -> granit_parser::Options {
    granit_parser::options! {
        strict_indentation: true,
        emit_unresolved_aliases: true,
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH + 1,
        block_nesting_limit: MAX_DEPTH + 1,
    }
}

/// The parser's complaint in our words and at our place.
fn fault(file: usize, text: &str, error: &ScanError) -> build::Fault {
    let start = error.marker().byte_offset().unwrap_or(text.len()).min(text.len());
    let rest = text.get(start..).unwrap_or_default();
    let span = Span {
        file,
        start,
        end: start + rest.chars().next().map_or(0, char::len_utf8),
    };
    if *error.kind() == ErrorKind::RecursionLimitExceeded {
        return build::too_deep(span);
    }
    let message = error.kind().to_string();
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = text
        .get(..start)
        .and_then(|before| before.rfind('\n'))
        .map_or(0, |at| at + 1);
    let line = text.get(line..).unwrap_or_default();
    let help = if ["<<<<<<< ", "=======\n", ">>>>>>> "]
        .iter()
        .any(|marker| line.starts_with(marker))
    {
        Some("finish the merge: this is git's marker of a conflict")
    } else {
        remedy(&message)
    };
    build::Fault { span, message, help }
}

/// What to do about the complaints people meet most.
fn remedy(message: &str) -> Option<&'static str> {
    let lower = message.to_ascii_lowercase();
    let known: [(&str, &str); 3] = [
        ("tab", "indent with spaces"),
        ("tag", "remove the tag; a policy needs none"),
        (
            "mapping values are not allowed",
            "check the indentation; quote a text that holds `: `",
        ),
    ];
    known
        .iter()
        .find(|(part, _)| lower.contains(part))
        .map(|(_, help)| *help)
}

#[cfg(test)]
mod tests;
