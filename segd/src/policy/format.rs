//! One way to write a policy: indentation, spaces, blank lines, quotes, and the order of fields on a line.
//!
//! Works on lines and tokens, so that every comment stays where it is. What it does not know how to keep (anchors, tags, texts
//! over several lines) it refuses.
//!
//! INVARIANT: what is formatted says the same, and is not changed by formatting it again; [`same`] is asked by whoever writes.
//! Deliberately absent: line breaks. What stands on one line stays on one line.

mod layout;
mod line;
mod flow;
mod order;

use super::{
    document::tree::{self, Node, Value},
    model::Source,
};

/// Why a text is not formatted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Refusal {
    /// The line, from 1.
    pub line: usize,
    /// What stands there.
    pub what: &'static str,
}

/// The text in canonical form. `nodes` are its documents.
///
/// # Errors
///
/// The first thing in it that could not be kept.
pub fn format(text: &str, nodes: &[Node]) -> Result<String, Refusal> {
    let lines = line::lines(text, &order::ranks(nodes))?;
    layout::layout(&lines)
}

/// Whether two texts are the same documents with the same comments, the order of fields aside.
#[must_use]
pub fn same(before: &str, after: &str) -> bool {
    let documents = |text: &str| {
        let source = Source {
            name: String::new(),
            text: text.into(),
        };
        let nodes = tree::parse(0, &source).ok()?;
        let mut comments = line::comments(text, &nodes)?;
        comments.sort();
        Some((nodes.iter().map(plain).collect::<Vec<String>>(), comments))
    };
    matches!((documents(before), documents(after)), (Some(before), Some(after)) if before == after)
}

/// What a node says, without its place.
fn plain(node: &Node) -> String {
    match &node.value {
        Value::Null => "null".to_owned(),
        Value::Bool => "bool".to_owned(),
        Value::Number(spelled) => format!("number {spelled:?}"),
        Value::Text { text, style } => format!("{style:?} {text:?}"),
        Value::List(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", ")),
        Value::Map(entries) => {
            let entry = |(key, value): &(Node, Node)| format!("{}: {}", plain(key), plain(value));
            let mut entries: Vec<String> = entries.iter().map(entry).collect();
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

#[cfg(test)]
mod tests;
