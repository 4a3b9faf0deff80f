//! The shapes that everything in a document has: scalars, lists, mappings with known fields.

use std::{collections::BTreeMap, fmt::Display};

use super::{
    Decoder,
    remedies::{example, form_of, listed, remedy},
};
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
                Some(
                    form_of(what)
                        .map_or_else(|| format!("write \"{text}\" if you mean the text"), str::to_owned),
                ),
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
                format!("{what} is expected on one line"),
                Some("write it plainly, or in quotes".to_owned()),
            ),
            Value::Bool => (
                Code::AmbiguousScalar,
                format!("{what} is expected, this is a boolean"),
                Some(
                    form_of(what)
                        .unwrap_or("put it in quotes if you mean the text")
                        .to_owned(),
                ),
            ),
            Value::Number(spelled) => (
                Code::AmbiguousScalar,
                format!("{what} is expected, `{spelled}` is a number"),
                Some(match (form_of(what), what) {
                    (Some(form), _) => form.to_owned(),
                    // No number can be one.
                    (None, "a segment name") => "a name begins with a letter `a` to `z`".to_owned(),
                    (None, _) => format!("write \"{spelled}\" if you mean the text"),
                }),
            ),
            Value::Null => (
                Code::WrongType,
                format!("{what} is expected, there is nothing"),
                Some(
                    form_of(what)
                        .unwrap_or("write it behind the colon, or take the field out")
                        .to_owned(),
                ),
            ),
            Value::List(_) => (
                Code::WrongType,
                format!("{what} is expected, this is a list"),
                Some("write one, without `[ ]` or `- `".to_owned()),
            ),
            Value::Map(_) => (
                Code::WrongType,
                format!("{what} is expected, this is a mapping"),
                Some(
                    form_of(what)
                        .unwrap_or("write one text, without `{ }` or `: `")
                        .to_owned(),
                ),
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
        if let Value::Text {
            text,
            style: TextStyle::Other,
        } = &node.value
            && choices.contains(&text.trim())
        {
            let diagnostic = Diagnostic::error(
                Code::AmbiguousScalar,
                node.span,
                format!("{what} is expected on one line"),
            );
            self.report(diagnostic.help(format!("write `{}` plainly", text.trim())));
            return None;
        }
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
                let help = listed(what, text).unwrap_or_else(|| format!("write `[{}]`", shortened(text)));
                self.wrong_type(node, what, Some(help));
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
                let help = listed(what, "").unwrap_or_else(|| "write it in `[ ]`".to_owned());
                self.wrong_type(node, what, Some(help));
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
                    _ => Some("each stands under its name, as in `NAME: …`"),
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
            let fields: Vec<String> = names(known).map(|field| format!("`{field}: …`")).collect();
            let help = format!("write its fields below it, of {}", fields.join(", "));
            self.report(Diagnostic::error(Code::WrongType, node.span, message).help(help));
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
            let diagnostic =
                Diagnostic::error(Code::MissingField, fields.span, format!("`{name}` is missing"));
            self.report(match example(name) {
                Some(example) => diagnostic.help(example),
                None => diagnostic,
            });
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

#[cfg(test)]
mod tests {
    use crate::policy::{model::Source, resolve::resolve};

    /// What is said about a policy: each message with its help.
    #[track_caller]
    fn said(spec: &str) -> Vec<String> {
        let head = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: t}\nspec:\n";
        let source = Source {
            name: "t.yaml".to_owned(),
            text: format!("{head}{spec}").into(),
        };
        let found = resolve(&[source], false)
            .expect_err("must be refused")
            .into_iter();
        found
            .map(|found| format!("{}; {}", found.message, found.help.join("; ")))
            .collect()
    }

    #[track_caller]
    fn helps(spec: &str, expected: &str) {
        let said = said(spec);
        assert!(
            said.iter().any(|said| said.contains(expected)),
            "{spec}: {said:#?}"
        );
    }

    #[test]
    fn a_tag_that_says_text_is_as_good_as_quotes() {
        let spec = "apiVersion: segd.dev/v1\nkind: !!str SegmentPolicy\nmetadata: {name: t}\nspec:\n  mode: !!str audit\n  \
            segments: {\"no\": {match: [{cgroup: !!str /web}]}}\n  \
            allow: [{from: !!str no, to: [!!str \"no\"], ports: [!!str tcp/1]}]\n";
        let source = Source {
            name: "t.yaml".to_owned(),
            text: spec.into(),
        };
        let (policy, _) = resolve(&[source], false).expect("a policy");
        assert_eq!(policy.rules.len(), 1);
    }

    fn matcher(matcher: &str) -> String {
        format!("  segments: {{web: {{match: {matcher}}}}}\n")
    }

    fn rule(rule: &str) -> String {
        format!("{}  allow: [{{{rule}}}]\n", matcher("[{cgroup: /web}]"))
    }

    #[test]
    fn what_is_proposed_would_be_taken() {
        for (spec, expected) in [
            (matcher("[{user: \"010\"}]"), "`user: 10`"),
            (matcher("[{user: \"99999999999\"}]"), "login name"),
            (matcher("[{cgroup: \"\"}]"), "`/shop/web`"),
            (matcher("[{cgroup: shop}]"), "write `/shop`"),
            (matcher("[{cgroup: shop/../x}]"), "as in `/shop/web`"),
            (matcher("[{systemd: a/b.service}]"), "`cgroup: /a/b.service`"),
            (matcher("[{systemd: /a/b.service}]"), "`cgroup: /a/b.service`"),
            (matcher("[{systemd: NGINX.SERVICE}]"), "`NGINX.service`"),
            (matcher("[{systemd: nginx}]"), "`nginx.service`"),
            (matcher("[{cidr: 10}]"), "`198.51.100.0/24`"),
            (
                matcher("[{cidr: 0x16.1.1.1/32}]"),
                "`0x16.1.1.1/32` is not an address prefix",
            ),
            (matcher("/x"), "`[{cgroup: /x}]`"),
            (matcher("x.service"), "`[{systemd: x.service}]`"),
            (matcher("5"), "`- cgroup: /shop/web`"),
            (
                "  allow: web\n".to_owned(),
                "`- {from: web, to: db, ports: [tcp/443]}`",
            ),
            (
                "  tests: web\n".to_owned(),
                "`- {from: web, to: db, port: tcp/443, expect: allow}`",
            ),
            ("  release: 5\n".to_owned(), "`[web, db]`"),
            (
                rule("from: web, to: any, ports: [tcp/1], until: 1764612000"),
                "`2026-12-01T18:00:00Z`",
            ),
            (
                rule("from: web, to: any, ports: [\" tcp/443\"]"),
                "write `tcp/443`",
            ),
            (
                rule("from: web, to: any, ports: 443"),
                "`[tcp/443]` or `[udp/443]`",
            ),
            (
                rule("from: web, from: any, to: any, ports: [any]"),
                "keep one of the two",
            ),
            (rule("to: any, ports: [any]"), "`from: web`"),
        ] {
            helps(&spec, expected);
        }
        helps(
            "  mode: |\n    audit\n",
            "a mode is expected on one line; write `audit` plainly",
        );
        for peers in ["{env: \"\"}", "{\"\": prod}", "{env: a b}"] {
            helps(
                &rule(&format!("from: {peers}, to: any, ports: [any]")),
                "cannot be a label",
            );
        }
        let test = format!(
            "{}  tests: [{{from: web, to: any, port: [], expect: deny}}]\n",
            matcher("[{cgroup: /web}]")
        );
        let said = said(&test).concat();
        assert!(said.contains("`port` is empty: the test asks nothing"), "{said}");
        assert!(!said.contains("ports") && !said.contains("rule"), "{said}");
    }
}
