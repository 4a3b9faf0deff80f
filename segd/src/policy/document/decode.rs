//! From the tree to the document: every unknown field, every wrong type, all at once.

mod remedies;
mod rule;
mod shape;
mod test;
mod window;

use super::{
    API_VERSION, Document, KIND, Matcher, MatcherKind, SegmentEntry, Text,
    cuts::Cuts,
    fields::{DEFAULTS, DOCUMENT, MATCHER, METADATA, SEGMENT, SPEC},
    tree::{Node, Value},
};
use crate::policy::{
    diagnostic::{Code, Diagnostic, Span},
    model::{Action, Mode},
};
pub use shape::is_odd;
use shape::{describe, is_text, shortened};

/// Reads the documents of one file. A document of another kind is reported and left out.
pub fn documents(text: &str, nodes: &[Node], out: &mut Vec<Diagnostic>) -> Vec<Document> {
    documents_of(text, nodes, None, out)
}

/// As [`documents`], of a text out of which rules were taken.
pub fn documents_of(
    text: &str,
    nodes: &[Node],
    mut cuts: Option<&mut Cuts>,
    out: &mut Vec<Diagnostic>,
) -> Vec<Document> {
    let mut document = |node| {
        let cuts = cuts.as_deref_mut();
        Decoder { text, cuts, out }.document(node)
    };
    nodes.iter().filter_map(&mut document).collect()
}

/// Collects what is wrong on the way.
struct Decoder<'o> {
    text: &'o str,
    cuts: Option<&'o mut Cuts>,
    out: &'o mut Vec<Diagnostic>,
}

impl Decoder<'_> {
    fn report(&mut self, diagnostic: Diagnostic) {
        self.out.push(diagnostic);
    }

    fn document(&mut self, node: &Node) -> Option<Document> {
        let entries = self.entries(node, "a policy document")?;
        // Of another kind of document nothing else is worth saying.
        let kind = self.constant(node.span, entries, "kind", KIND);
        let version = self.constant(node.span, entries, "apiVersion", API_VERSION);
        if !kind || !version {
            return None;
        }
        let fields = self.fields(node, "the document", DOCUMENT)?;
        let mut document = Document::default();
        if let Some(metadata) = self.required(&fields, "metadata")
            && let Some(metadata) = self.fields(metadata, "`metadata`", METADATA)
            && let Some(name) = self.required(&metadata, "name")
        {
            document.name = self.text(name, "the document's name");
        }
        if let Some(spec) = self.required(&fields, "spec") {
            self.spec(spec, &mut document);
        }
        Some(document)
    }

    /// Whether the field has its only value.
    fn constant(&mut self, span: Span, entries: &[(Node, Node)], field: &str, expected: &str) -> bool {
        let found = entries.iter().find(|(key, _)| is_text(key, field));
        let diagnostic = match found {
            None => Diagnostic::error(Code::MissingField, span, format!("`{field}` is missing")),
            Some((_, value)) if is_text(value, expected) => return true,
            Some((_, value)) => {
                let message = format!("{} is not the `{field}` that segd reads", describe(value));
                Diagnostic::error(Code::Kind, value.span, message)
            }
        };
        self.report(diagnostic.help(format!("write `{field}: {expected}`")));
        false
    }

    fn spec(&mut self, node: &Node, document: &mut Document) {
        let Some(fields) = self.fields(node, "`spec`", SPEC) else {
            return;
        };
        if let Some(mode) = fields.value("mode") {
            document.mode = self.mode(mode).map(|found| (found, mode.span));
        }
        if let Some(segments) = fields.value("segments")
            && let Some(entries) = self.entries(segments, "segments by name")
        {
            for (key, value) in self.unique(entries) {
                if let Some(segment) = self.segment(key, value) {
                    document.segments.push(segment);
                }
            }
        }
        for action in [Action::Allow, Action::Deny] {
            if let Some(rules) = fields.value(action.word())
                && let Some(rules) = self.list(rules, "a list of rules")
            {
                let mut index = 0;
                let mut rules = rules.iter().peekable();
                while let Some(node) = rules.next() {
                    if let Some(rule) = self.rule(node, action, index) {
                        document.rules.push(rule, self.text);
                    }
                    index += 1;
                    if let Some(cuts) = &mut self.cuts {
                        let between = cuts.between(node, rules.peek().copied()).iter();
                        let entered = between
                            .zip(index..)
                            .filter_map(|(rule, at)| rule.entered(action, at));
                        let before = document.rules.plain.len();
                        document.rules.plain.extend(entered);
                        index += document.rules.plain.len() - before;
                    }
                }
            }
        }
        if let Some(tests) = fields.value("tests")
            && let Some(tests) = self.list(tests, "a list of tests")
        {
            for (index, test) in tests.iter().enumerate() {
                document.tests.extend(self.test(test, index));
            }
        }
        if let Some(defaults) = fields.value("defaults")
            && let Some(defaults) = self.fields(defaults, "`defaults`", DEFAULTS)
            && let Some(host) = self.required(&defaults, "host")
        {
            document.enforce_host = self
                .choice(host, "a default for the host", &["enforce"])
                .is_some();
        }
        if let Some(release) = fields.value("release")
            && let Some(names) = self.list(release, "a list of segment names")
        {
            document.release = names
                .iter()
                .filter_map(|name| self.text(name, "a segment name"))
                .collect();
        }
    }

    fn mode(&mut self, node: &Node) -> Option<Mode> {
        self.choice(node, "a mode", &["enforce", "audit"]).map(|choice| {
            if choice == "audit" {
                Mode::Audit
            } else {
                Mode::Enforce
            }
        })
    }

    fn segment(&mut self, key: &Node, node: &Node) -> Option<SegmentEntry> {
        let name = self.text(key, "a segment name")?;
        let mut segment = SegmentEntry {
            name,
            labels: Vec::new(),
            mode: None,
            intra: true,
            matchers: Vec::new(),
        };
        let what = format!("segment `{}`", segment.name.value);
        let Some(fields) = self.fields(node, &what, SEGMENT) else {
            return Some(segment);
        };
        if let Some(labels) = fields.value("labels") {
            segment.labels = self.labels(labels).unwrap_or_default();
        }
        if let Some(mode) = fields.value("mode") {
            segment.mode = self.mode(mode);
        }
        if let Some(intra) = fields.value("intra") {
            segment.intra = self.choice(intra, "a value of `intra`", &["allow", "deny"]) != Some("deny");
        }
        if let Some(matchers) = fields.value("match")
            && let Some(matchers) = self.list(matchers, "a list of matchers")
        {
            segment.matchers = matchers
                .iter()
                .filter_map(|matcher| self.matcher(matcher))
                .collect();
        }
        Some(segment)
    }

    fn labels(&mut self, node: &Node) -> Option<Vec<(Text, Text)>> {
        let entries = self.entries(node, "labels")?;
        let mut labels = Vec::new();
        for (key, value) in self.unique(entries) {
            let key = self.text(key, "a label");
            let value = self.text(value, "a label's value");
            labels.extend(key.zip(value));
        }
        Some(labels)
    }

    fn matcher(&mut self, node: &Node) -> Option<Matcher> {
        const KINDS: [&str; 4] = ["cgroup", "systemd", "user", "cidr"];
        if let Value::Text { text, .. } = &node.value {
            let field = if text.starts_with('/') {
                "cgroup"
            } else {
                "systemd"
            };
            let message = format!(
                "a matcher says what it matches; this is only `{}`",
                shortened(text)
            );
            let diagnostic = Diagnostic::error(Code::WrongType, node.span, message);
            self.report(diagnostic.help(format!("write `{field}: {}`", shortened(text))));
            return None;
        }
        let before = self.out.len();
        let fields = self.fields(node, "a matcher", MATCHER)?;
        let kinds: Vec<_> = fields
            .entries
            .iter()
            .filter(|(name, ..)| KINDS.contains(name))
            .collect();
        let (name, key, value) = match kinds.as_slice() {
            [only] => **only,
            // A field of another name has been reported.
            [] if self.out.len() > before => return None,
            [] => {
                let message = "a matcher says nothing that could match";
                let help = "give it one of `cgroup`, `systemd`, `user`, `cidr`";
                self.report(Diagnostic::error(Code::MissingField, fields.span, message).help(help));
                return None;
            }
            [first, second, ..] => {
                let message = format!("a matcher has both `{}` and `{}`", first.0, second.0);
                let help = "make two entries of it: a segment has everyone that any of its matchers matches";
                self.report(Diagnostic::error(Code::InvalidValue, second.1.span, message).help(help));
                return None;
            }
        };
        if let Some((_, except, _)) = fields.entries.iter().find(|(known, ..)| *known == "except")
            && name != "cidr"
        {
            let message = format!("`except` belongs to `cidr`, not to `{name}`");
            let help =
                "take it out: a matcher that is longer wins, so give what is not meant to another segment";
            self.report(Diagnostic::error(Code::UnknownField, except.span, message).help(help));
        }
        let kind = match name {
            "cgroup" => MatcherKind::Cgroup(self.text(value, "a cgroup path")?),
            "systemd" => MatcherKind::Systemd(self.text(value, "a unit name")?),
            "user" => self.user(value)?,
            _ => {
                let prefix = self.text(value, "an address prefix");
                let mut except = Vec::new();
                if let Some(node) = fields.value("except")
                    && let Some(list) = self.list(node, "a list of address prefixes")
                {
                    except = list
                        .iter()
                        .filter_map(|item| self.text(item, "an address prefix"))
                        .collect();
                }
                MatcherKind::Cidr {
                    prefix: prefix?,
                    except,
                }
            }
        };
        let span = if value.span.start < value.span.end {
            value.span
        } else {
            key.span
        };
        Some(Matcher { span, kind })
    }

    /// A user is the one thing that may be a plain number.
    fn user(&mut self, node: &Node) -> Option<MatcherKind> {
        let Value::Number(spelled) = &node.value else {
            return self.text(node, "a user").map(MatcherKind::UserName);
        };
        let canonical = spelled == "0" || !spelled.starts_with('0');
        let digits = spelled.bytes().all(|byte| byte.is_ascii_digit());
        match spelled.parse::<u32>() {
            Ok(id) if canonical && digits && id < u32::MAX => Some(MatcherKind::UserId(id)),
            _ => {
                let message = format!("`{spelled}` is not a user number");
                let help = format!("write it in plain decimal digits, 0 to {}", u32::MAX - 1);
                self.report(Diagnostic::error(Code::InvalidUser, node.span, message).help(help));
                None
            }
        }
    }
}
