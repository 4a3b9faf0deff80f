//! From the tree to the document: every unknown field, every wrong type, all at once.

use super::{
    API_VERSION, Document, KIND, Matcher, MatcherKind, Peers, PeersKind, Ports, RuleEntry, SegmentEntry,
    Text,
    tree::{Node, TextStyle, Value},
};
use crate::policy::{
    diagnostic::{Code, Diagnostic, Span},
    model::{Action, Mode},
};

/// Reads the documents of one file. A document of another kind is reported and left out.
pub fn documents(nodes: &[Node], out: &mut Vec<Diagnostic>) -> Vec<Document> {
    nodes
        .iter()
        .filter_map(|node| Decoder { out }.document(node))
        .collect()
}

/// Collects what is wrong on the way.
struct Decoder<'o> {
    out: &'o mut Vec<Diagnostic>,
}

/// The fields of a mapping that are known, each with its value.
struct Fields<'n> {
    span: Span,
    entries: Vec<(&'static str, &'n Node, &'n Node)>,
}

impl<'n> Fields<'n> {
    /// The value of a field.
    fn value(&self, name: &str) -> Option<&'n Node> {
        self.entries
            .iter()
            .find(|(known, ..)| *known == name)
            .map(|(_, _, value)| *value)
    }
}

/// A field that a later version will have, and what to do until then.
const LATER: [(&str, &str); 3] = [
    (
        "tests",
        "take the block out; `segd policy explain` answers the same questions one by one",
    ),
    ("until", "take the rule out when its time is over"),
    ("when", "a rule holds always; take the condition out"),
];

impl Decoder<'_> {
    fn report(&mut self, diagnostic: Diagnostic) {
        self.out.push(diagnostic);
    }

    fn document(&mut self, node: &Node) -> Option<Document> {
        let known = ["apiVersion", "kind", "metadata", "spec"];
        let entries = self.entries(node, "a policy document")?;
        // Of another kind of document nothing else is worth saying.
        let kind = self.constant(node.span, entries, "kind", KIND);
        let version = self.constant(node.span, entries, "apiVersion", API_VERSION);
        if !kind || !version {
            return None;
        }
        let fields = self.fields(node, "the document", &known)?;
        let mut document = Document::default();
        if let Some(metadata) = self.required(&fields, "metadata")
            && let Some(metadata) = self.fields(metadata, "`metadata`", &["name"])
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
                let message = format!("{} is not a {field} that segd reads", describe(value));
                Diagnostic::error(Code::Kind, value.span, message)
            }
        };
        self.report(diagnostic.help(format!("write `{field}: {expected}`")));
        false
    }

    fn spec(&mut self, node: &Node, document: &mut Document) {
        let known = ["mode", "segments", "allow", "deny", "defaults", "release"];
        let Some(fields) = self.fields(node, "`spec`", &known) else {
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
        for (field, action) in [("allow", Action::Allow), ("deny", Action::Deny)] {
            if let Some(rules) = fields.value(field)
                && let Some(rules) = self.list(rules, "a list of rules")
            {
                for (index, rule) in rules.iter().enumerate() {
                    document.rules.extend(self.rule(rule, action, index));
                }
            }
        }
        if let Some(defaults) = fields.value("defaults")
            && let Some(defaults) = self.fields(defaults, "`defaults`", &["host"])
            && let Some(host) = self.required(&defaults, "host")
        {
            document.enforce_host = self.choice(host, "the host's default", &["enforce"]).is_some();
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
        let Some(fields) = self.fields(node, &what, &["labels", "match", "intra", "mode"]) else {
            return Some(segment);
        };
        if let Some(labels) = fields.value("labels") {
            segment.labels = self.labels(labels).unwrap_or_default();
        }
        if let Some(mode) = fields.value("mode") {
            segment.mode = self.mode(mode);
        }
        if let Some(intra) = fields.value("intra") {
            segment.intra = self.choice(intra, "`intra`", &["allow", "deny"]) != Some("deny");
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
        let fields = self.fields(
            node,
            "a matcher",
            &["cgroup", "systemd", "user", "cidr", "except"],
        )?;
        let kinds: Vec<_> = fields
            .entries
            .iter()
            .filter(|(name, ..)| KINDS.contains(name))
            .collect();
        let (name, key, value) = match kinds.as_slice() {
            [only] => **only,
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
            self.report(Diagnostic::error(Code::UnknownField, except.span, message));
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

    fn rule(&mut self, node: &Node, action: Action, index: usize) -> Option<RuleEntry> {
        let word = if action == Action::Allow { "allow" } else { "deny" };
        let what = format!("{word} rule {index}");
        let fields = self.fields(node, &what, &["from", "to", "ports", "reason"])?;
        let from = self.required(&fields, "from").and_then(|node| self.peers(node));
        let to = self.required(&fields, "to").and_then(|node| self.peers(node));
        let ports = match fields.value("ports") {
            Some(ports) => self.ports(ports).map_or(Ports::Unreadable, Ports::Listed),
            None if action == Action::Deny => Ports::Every,
            None => {
                let message = format!("{what} has no `ports`");
                let help = "name them, as in `ports: [tcp/443]`; `ports: [any]` opens every port";
                self.report(Diagnostic::error(Code::MissingField, fields.span, message).help(help));
                Ports::Unreadable
            }
        };
        let reason = fields
            .value("reason")
            .and_then(|node| self.text(node, "a reason"))
            .map(|text| text.value);
        let extent = Span {
            end: node.end,
            ..fields.span
        };
        Some(RuleEntry {
            span: fields.span,
            extent,
            action,
            index,
            from,
            to,
            ports,
            reason,
        })
    }

    fn ports(&mut self, node: &Node) -> Option<Vec<Text>> {
        if let Value::Text { text, .. } | Value::Number(text) = &node.value {
            let message = "`ports` is a list";
            let help = format!("write `ports: [{text}]`");
            self.report(Diagnostic::error(Code::WrongType, node.span, message).help(help));
            return None;
        }
        let items = self.list(node, "a list of ports")?;
        if items.is_empty() {
            let message = "`ports` is empty: the rule matches nothing";
            let help = "write `[any]` for every port, or take the rule out";
            self.report(Diagnostic::error(Code::InvalidPort, node.span, message).help(help));
            return None;
        }
        let mut ports = Vec::new();
        for item in items {
            if let Value::Number(spelled) = &item.value {
                let message = format!("`{spelled}` is a number, not a port with its protocol");
                let help = format!("write `tcp/{spelled}` or `udp/{spelled}`");
                let diagnostic = Diagnostic::error(Code::InvalidPort, item.span, message);
                let decimal = spelled.bytes().all(|byte| byte.is_ascii_digit()) && !spelled.starts_with('0');
                let help = if decimal {
                    help
                } else {
                    "a port is written like `tcp/443`".to_owned()
                };
                self.report(diagnostic.help(help));
            } else {
                ports.extend(self.text(item, "a port"));
            }
        }
        (ports.len() == items.len()).then_some(ports)
    }

    fn peers(&mut self, node: &Node) -> Option<Peers> {
        let kind = match &node.value {
            Value::Map(_) => PeersKind::Labels(self.labels(node)?),
            Value::List(items) => {
                let names: Vec<Text> = items
                    .iter()
                    .filter_map(|item| {
                        if matches!(item.value, Value::Map(_)) {
                            let message = "labels stand in a list of names";
                            let help = "a side of a rule is a name, a list of names, or labels; \
                                        write one rule for the names and one for the labels";
                            self.report(Diagnostic::error(Code::WrongType, item.span, message).help(help));
                            return None;
                        }
                        self.text(item, "a segment name")
                    })
                    .collect();
                if names.len() != items.len() {
                    return None;
                }
                PeersKind::Names(names)
            }
            _ => PeersKind::Names(vec![self.text(node, "a segment name")?]),
        };
        Some(Peers {
            span: node.span,
            kind,
        })
    }

    /// The text of a scalar that every YAML reader takes for the same text.
    fn text(&mut self, node: &Node, what: &str) -> Option<Text> {
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
        let mut diagnostic = Diagnostic::error(code, node.span, message);
        diagnostic.help.extend(help);
        self.report(diagnostic);
        None
    }

    /// One of a few words.
    fn choice(&mut self, node: &Node, what: &str, choices: &[&'static str]) -> Option<&'static str> {
        let text = self.text(node, what)?;
        let found = choices.iter().find(|choice| **choice == text.value);
        if found.is_none() {
            let message = format!("`{}` is not {what}", text.value);
            let quoted: Vec<String> = choices.iter().map(|choice| format!("`{choice}`")).collect();
            let diagnostic = Diagnostic::error(Code::InvalidValue, node.span, message);
            self.report(diagnostic.help(format!("write {}", quoted.join(" or "))));
        }
        found.copied()
    }

    fn list<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        match &node.value {
            Value::List(items) => Some(items),
            other => {
                let help = matches!(other, Value::Null).then_some("write `[]` or take the field out");
                self.wrong_type(node, what, help);
                None
            }
        }
    }

    fn entries<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [(Node, Node)]> {
        match &node.value {
            Value::Map(entries) => Some(entries),
            other => {
                let help = matches!(other, Value::Null).then_some("write `{}` or take the field out");
                self.wrong_type(node, what, help);
                None
            }
        }
    }

    fn wrong_type(&mut self, node: &Node, what: &str, help: Option<&str>) {
        let message = format!("{what} is expected, {}", kind_of(node));
        let message = match what.split_once(' ') {
            Some(("labels" | "segments", _)) | None => message.replace(" is expected", " are expected"),
            _ => message,
        };
        let mut diagnostic = Diagnostic::error(Code::WrongType, node.span, message);
        diagnostic.help.extend(help.map(str::to_owned));
        self.report(diagnostic);
    }

    /// The entries whose key has not been seen before; the others are reported with both places.
    fn unique<'n>(&mut self, entries: &'n [(Node, Node)]) -> Vec<(&'n Node, &'n Node)> {
        let mut seen = std::collections::BTreeMap::new();
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
    fn fields<'n>(&mut self, node: &'n Node, what: &str, known: &[&'static str]) -> Option<Fields<'n>> {
        let entries = self.entries(node, "a mapping")?;
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
            if let Some(field) = known.iter().find(|field| **field == name) {
                fields.entries.push((field, key, value));
            } else if let Some((_, help)) = LATER.iter().find(|(later, _)| *later == name) {
                let message = format!("`{name}` is not supported yet");
                self.report(Diagnostic::error(Code::Unsupported, key.span, message).help(*help));
            } else {
                let message = format!("{what} has no field `{name}`");
                let mut diagnostic = Diagnostic::error(Code::UnknownField, key.span, message)
                    .suggest(name, known.iter().copied());
                if diagnostic.help.is_empty() {
                    let quoted: Vec<String> = known.iter().map(|field| format!("`{field}`")).collect();
                    diagnostic = diagnostic.help(format!("it has {}", quoted.join(", ")));
                }
                self.report(diagnostic);
            }
        }
        Some(fields)
    }

    fn required<'n>(&mut self, fields: &Fields<'n>, name: &str) -> Option<&'n Node> {
        let value = fields.value(name);
        if value.is_none() {
            let message = format!("`{name}` is missing");
            self.report(Diagnostic::error(Code::MissingField, fields.span, message));
        }
        value
    }
}

/// What a node is, to end a sentence with.
fn kind_of(node: &Node) -> String {
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
fn describe(node: &Node) -> String {
    match &node.value {
        Value::Text { text, .. } | Value::Number(text) => format!("`{}`", shortened(text)),
        _ => "this".to_owned(),
    }
}

/// At most a line's worth of a text.
fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", line.get(..at).unwrap_or_default()),
        None => line.to_owned(),
    }
}

fn is_text(node: &Node, expected: &str) -> bool {
    matches!(&node.value, Value::Text { text, .. } if text == expected)
}

/// Words that YAML 1.1 takes for a boolean or for nothing.
fn is_odd(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    matches!(
        lower.as_str(),
        "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null" | "~" | ""
    )
}
