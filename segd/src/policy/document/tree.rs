//! YAML as it was written: a tree in which every scalar knows its place and its spelling.
//!
//! A derived type would stop at the first unknown field and would turn `0x16` into 22 silently. The tree keeps
//! both the value YAML sees and the bytes the person wrote, so that the next stage can report every problem.
//!
//! Deliberately absent: knowledge of the policy format.

mod raw;

use serde_yaml::{DuplicateKeyPolicy, MergeKeyPolicy, Options};

use crate::policy::{
    diagnostic::{Code, Diagnostic, Span},
    model::Source,
};

/// The deepest nesting of lists and mappings.
pub const MAX_DEPTH: usize = 32;
/// How many scalars, lists and mappings one file may have, aliases counted as often as they are used.
pub const MAX_NODES: usize = 250_000;
/// How many aliases one file may use.
pub const MAX_ALIASES: usize = 1_000;
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
    /// In quotes.
    Quoted,
    /// A block, a folded line, or changed by a tag.
    Other,
}

/// The documents of one file, or the one reason why it is not YAML.
///
/// # Errors
///
/// One diagnostic: a syntax error ends the file.
pub fn parse(file: usize, source: &Source) -> Result<Vec<Node>, Box<Diagnostic>> {
    let text = source.text.as_str();
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
    match serde_yaml::from_multiple_with_options::<raw::Raw>(text, options()) {
        Ok(documents) => Ok(documents
            .into_iter()
            .map(|raw| raw.into_node(file, text))
            .collect()),
        Err(error) => Err(Box::new(syntax(file, text, &error))),
    }
}

/// Strict, and bounded before anything is built.
fn options() -> Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH + 1,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_documents: MAX_DOCUMENTS,
            max_total_scalar_bytes: MAX_FILE_BYTES,
        },
        alias_limits: serde_yaml::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 8,
        },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        strict_indentation: true,
        reject_unsupported_tags: true,
        emit_comments: false,
        with_snippet: false,
    }
}

/// The parser's complaint in our words and at our place.
fn syntax(file: usize, text: &str, error: &serde_yaml::Error) -> Diagnostic {
    let place = error.location();
    let message = error.without_snippet().to_string();
    let message = message
        .rsplit_once(" at line ")
        .map_or(message.as_str(), |(head, _)| head);
    let (start, end) = place.map_or((0, 0), |place| {
        let span = place.span();
        let bytes = |offset: u64| usize::try_from(offset).unwrap_or(text.len()).min(text.len());
        match (span.byte_offset(), span.byte_len()) {
            (Some(offset), Some(len)) => (bytes(offset), bytes(offset.saturating_add(len))),
            _ => {
                let at = offset_of(text, place.line(), place.column());
                (
                    at,
                    at + text
                        .get(at..)
                        .and_then(|rest| rest.chars().next())
                        .map_or(0, char::len_utf8),
                )
            }
        }
    });
    let diagnostic = Diagnostic::error(Code::Syntax, Span { file, start, end }, plain(message));
    let line = text
        .get(..start)
        .and_then(|before| before.rfind('\n'))
        .map_or(0, |at| at + 1);
    let rest = text.get(line..).unwrap_or_default();
    if ["<<<<<<< ", "=======\n", ">>>>>>> "]
        .iter()
        .any(|marker| rest.starts_with(marker))
    {
        return diagnostic.help("finish the merge: this is git's marker of a conflict");
    }
    match remedy(message) {
        Some(help) => diagnostic.help(help),
        None => diagnostic,
    }
}

/// Without the parser's advice about its own options, on one line.
fn plain(message: &str) -> String {
    let message = message
        .split(", set DuplicateKeyPolicy")
        .next()
        .unwrap_or(message);
    let message = message
        .trim_end_matches(" by configured policy")
        .trim_end_matches(" by the configured policy");
    let ours = [
        ("recursive references", "an alias stands inside its own anchor"),
        ("alias replay limit", "aliases expand to too much"),
        ("recursion limit", "lists and mappings are nested too deep"),
        ("budget", "the file is too large"),
    ];
    if let Some((_, ours)) = ours
        .iter()
        .find(|(start, _)| message.to_ascii_lowercase().contains(start))
    {
        return (*ours).to_owned();
    }
    let one_line: Vec<&str> = message.split_whitespace().collect();
    one_line.join(" ")
}

/// What to do about the complaints people meet most.
fn remedy(message: &str) -> Option<&'static str> {
    let lower = message.to_ascii_lowercase();
    let known: [(&str, &str); 7] = [
        ("tab", "indent with spaces"),
        ("merge key", "write the fields out; `<<` is not read"),
        (
            "alias replay limit",
            "write out what the aliases stand for, or use fewer",
        ),
        ("tag", "remove the tag; a policy needs none"),
        ("recursi", "a policy nests at most 32 levels deep"),
        (
            "mapping values are not allowed",
            "check the indentation; quote a text that holds `: `",
        ),
        (
            "unknown anchor",
            "define the anchor (`&name`) before the alias (`*name`)",
        ),
    ];
    known
        .iter()
        .find(|(part, _)| lower.contains(part))
        .map(|(_, help)| *help)
}

/// The byte at a line and column counted from 1.
fn offset_of(text: &str, line: u64, column: u64) -> usize {
    let skip = usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX);
    let start = match skip {
        0 => 0,
        _ => text
            .match_indices('\n')
            .nth(skip - 1)
            .map_or(text.len(), |(at, _)| at + 1),
    };
    let rest = text.get(start..).unwrap_or_default();
    let skip = usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX);
    rest.char_indices()
        .nth(skip)
        .map_or(text.len(), |(at, _)| start + at)
}

#[cfg(test)]
mod tests;
