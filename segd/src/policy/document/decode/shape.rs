//! The shapes that everything in a document has: scalars, lists, mappings with known fields.

use std::{collections::BTreeMap, fmt::Display};

use super::Decoder;
use crate::policy::{
    diagnostic::{Code, Diagnostic, Span},
    document::{
        Text,
        fields::{Fields as Known, names},
        tree::{Node, TextStyle, Value},
    },
};

/// The fields of a mapping that are known, each with its value.
pub(super) struct Fields<'n> {
    /// Where the mapping stands.
    pub(super) span: Span,
    /// Name, key and value.
    pub(super) entries: Vec<(&'static str, &'n Node, &'n Node)>,
}

impl<'n> Fields<'n> {
    /// The value of a field.
    pub(super) fn value(&self, name: &str) -> Option<&'n Node> {
        self.entries
            .iter()
            .find(|(known, ..)| *known == name)
            .map(|(_, _, value)| *value)
    }
}

/// What other tools call it, and what it is called here.
const ELSEWHERE: [(&str, &str); 17] = [
    ("source", "`from` says who starts to talk"),
    ("src", "`from` says who starts to talk"),
    ("destination", "`to` says towards whom"),
    ("dest", "`to` says towards whom"),
    ("dst", "`to` says towards whom"),
    ("port", "`ports` is a list, as in `ports: [tcp/443]`"),
    (
        "protocol",
        "the protocol stands before the port, as in `ports: [tcp/443]`",
    ),
    ("services", "`ports` is a list, as in `ports: [tcp/443]`"),
    ("action", "rules under `allow` open, rules under `deny` forbid"),
    (
        "rules",
        "rules that open stand under `allow`, guardrails under `deny`",
    ),
    (
        "ingress",
        "rules stand under `allow` and `deny`; `to` is the side that is started towards",
    ),
    (
        "egress",
        "rules stand under `allow` and `deny`; `from` is the side that starts",
    ),
    ("description", "`reason` is the text for people"),
    ("comment", "`reason` is the text for people"),
    (
        "priority",
        "there are no priorities: a `deny` beats every `allow`",
    ),
    ("selector", "`match` is the list of who belongs to a segment"),
    ("groups", "`segments` are the groups"),
];

/// What to do about a field that does not exist.
fn remedy(name: &str, known: &'static Known) -> Option<String> {
    if let Some((field, value)) = name.split_once(':')
        && names(known).any(|known| known == field)
    {
        return Some(format!(
            "put a space after the colon: `{field}: {}`",
            shortened(value)
        ));
    }
    let elsewhere = ELSEWHERE.iter().find(|(word, _)| *word == name);
    elsewhere.map(|(_, help)| (*help).to_owned())
}

impl Decoder<'_> {
    /// The text of a scalar that every YAML reader takes for the same text.
    pub(super) fn text(&mut self, node: &Node, what: &str) -> Option<Text> {
        let (code, message, help) = match &node.value {
            Value::Text {
                text,
                style: TextStyle::Plain,
            } if is_odd(text) => (
                Code::AmbiguousScalar,
                format!("`{text}` is a boolean or nothing to some YAML readers; {what} is expected"),
                Some(format!("write \"{text}\" if you mean the text")),
            ),
            Value::Text {
                text,
                style: TextStyle::Plain | TextStyle::Quoted,
            } => {
                return Some(Text {
                    value: text.clone(),
                    span: node.span,
                });
            }
            Value::Text { .. } => (
                Code::AmbiguousScalar,
                format!("{what} is expected on one line, without a tag"),
                Some("write it plainly, or in quotes".to_owned()),
            ),
            Value::Bool => (
                Code::AmbiguousScalar,
                format!("{what} is expected, this is a boolean"),
                Some("put it in quotes if you mean the text".to_owned()),
            ),
            Value::Number(spelled) => (
                Code::AmbiguousScalar,
                format!("{what} is expected, `{spelled}` is a number"),
                Some(format!("write \"{spelled}\" if you mean the text")),
            ),
            Value::Null => (
                Code::WrongType,
                format!("{what} is expected, there is nothing"),
                None,
            ),
            Value::List(_) => (
                Code::WrongType,
                format!("{what} is expected, this is a list"),
                None,
            ),
            Value::Map(_) => (
                Code::WrongType,
                format!("{what} is expected, this is a mapping"),
                None,
            ),
        };
        let diagnostic = Diagnostic::error(code, node.span, message);
        self.report(match help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        });
        None
    }

    /// One of a few words.
    pub(super) fn choice(
        &mut self,
        node: &Node,
        what: &str,
        choices: &[&'static str],
    ) -> Option<&'static str> {
        let found = choices.iter().find(|choice| is_text(node, choice));
        if found.is_none() {
            let message = format!("{} is not {what}", describe(node));
            let quoted: Vec<String> = choices.iter().map(|choice| format!("`{choice}`")).collect();
            let diagnostic = Diagnostic::error(Code::InvalidValue, node.span, message);
            self.report(diagnostic.help(format!("write {}", quoted.join(" or "))));
        }
        found.copied()
    }

    pub(super) fn list<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        match &node.value {
            Value::List(items) => Some(items),
            Value::Text { text, .. } | Value::Number(text) => {
                self.wrong_type(node, what, Some(format!("write `[{}]`", shortened(text))));
                None
            }
            Value::Null => {
                self.wrong_type(node, what, Some("write `[]` or take the field out".to_owned()));
                None
            }
            Value::Map(_) => {
                let help = "begin each entry with `- `, or put it in `[ ]`";
                self.wrong_type(node, what, Some(help.to_owned()));
                None
            }
            Value::Bool => {
                self.wrong_type(node, what, None);
                None
            }
        }
    }

    pub(super) fn entries<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [(Node, Node)]> {
        match &node.value {
            Value::Map(entries) => Some(entries),
            other => {
                let help = match other {
                    Value::Null => Some("write `{}` or take the field out"),
                    Value::List(_) => Some("each stands under its name, as in `NAME: …`, without `- `"),
                    _ => None,
                };
                self.wrong_type(node, what, help.map(str::to_owned));
                None
            }
        }
    }

    pub(super) fn wrong_type(&mut self, node: &Node, what: &str, help: Option<String>) {
        let message = format!("{what} is expected, {}", kind_of(node));
        let message = match what.split_once(' ') {
            Some(("labels" | "segments", _)) | None => message.replace(" is expected", " are expected"),
            _ => message,
        };
        let diagnostic = Diagnostic::error(Code::WrongType, node.span, message);
        self.report(match help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        });
    }

    /// The entries whose key has not been seen before; the others are reported with both places.
    pub(super) fn unique<'n>(&mut self, entries: &'n [(Node, Node)]) -> Vec<(&'n Node, &'n Node)> {
        let mut seen = BTreeMap::new();
        let mut unique = Vec::new();
        for (key, value) in entries {
            if let Value::Text { text, .. } = &key.value
                && let Some(first) = seen.insert(text.as_str(), key.span)
            {
                let message = format!("`{text}` stands twice in one mapping");
                let diagnostic = Diagnostic::error(Code::DuplicateKey, key.span, message);
                self.report(diagnostic.related(first, "first here"));
                seen.insert(text, first);
                continue;
            }
            unique.push((key, value));
        }
        unique
    }

    /// The known fields of a mapping; everything else in it is an error.
    pub(super) fn fields<'n>(
        &mut self,
        node: &'n Node,
        what: impl Display,
        known: &'static Known,
    ) -> Option<Fields<'n>> {
        let Value::Map(entries) = &node.value else {
            let message = format!("{what} is written as a mapping; {}", kind_of(node));
            self.report(Diagnostic::error(Code::WrongType, node.span, message));
            return None;
        };
        let mut fields = Fields {
            span: node.span,
            entries: Vec::new(),
        };
        for (key, value) in self.unique(entries) {
            let name = match &key.value {
                Value::Text { text, .. } => text.as_str(),
                _ => {
                    let message = format!("a field of {what} is expected, {}", kind_of(key));
                    self.report(Diagnostic::error(Code::UnknownField, key.span, message));
                    continue;
                }
            };
            if let Some(field) = names(known).find(|field| *field == name) {
                fields.entries.push((field, key, value));
            } else {
                let message = format!("{what} has no field `{name}`");
                let diagnostic = Diagnostic::error(Code::UnknownField, key.span, message);
                let diagnostic = match remedy(name, known) {
                    Some(help) => diagnostic.help(help),
                    None => diagnostic.suggest(name, names(known)),
                };
                let quoted = || names(known).map(|field| format!("`{field}`")).collect::<Vec<_>>();
                self.report(match diagnostic.help.is_empty() {
                    true => diagnostic.help(format!("it has {}", quoted().join(", "))),
                    false => diagnostic,
                });
            }
        }
        Some(fields)
    }

    pub(super) fn required<'n>(&mut self, fields: &Fields<'n>, name: &str) -> Option<&'n Node> {
        let value = fields.value(name);
        if value.is_none() {
            let message = format!("`{name}` is missing");
            self.report(Diagnostic::error(Code::MissingField, fields.span, message));
        }
        value
    }
}

/// What a node is, to end a sentence with.
pub(super) fn kind_of(node: &Node) -> String {
    match &node.value {
        Value::Null => "there is nothing".to_owned(),
        Value::Bool => "this is a boolean".to_owned(),
        Value::Number(spelled) => format!("this is the number `{spelled}`"),
        Value::Text { text, .. } => format!("this is the text `{}`", shortened(text)),
        Value::List(_) => "this is a list".to_owned(),
        Value::Map(_) => "this is a mapping".to_owned(),
    }
}

/// What a node says, to begin a sentence with.
pub(super) fn describe(node: &Node) -> String {
    match &node.value {
        Value::Text { text, .. } | Value::Number(text) => format!("`{}`", shortened(text)),
        _ => "this".to_owned(),
    }
}

/// At most a line's worth of a text.
pub(super) fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", line.get(..at).unwrap_or_default()),
        None => line.to_owned(),
    }
}

pub(super) fn is_text(node: &Node, expected: &str) -> bool {
    matches!(&node.value, Value::Text { text, .. } if text == expected)
}

/// Words that YAML 1.1 takes for a boolean or for nothing.
pub fn is_odd(text: &str) -> bool {
    const ODD: [&str; 11] = [
        "", "~", "y", "n", "yes", "no", "on", "off", "true", "false", "null",
    ];
    text.len() <= 5 && ODD.iter().any(|odd| text.eq_ignore_ascii_case(odd))
}
