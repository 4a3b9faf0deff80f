//! Rules: two ends and ports, as written.

use super::{Decoder, shape::Fields};
use crate::policy::{
    diagnostic::{Code, Diagnostic, Span},
    document::{
        Peers, PeersKind, Ports, RuleEntry, Text,
        fields::RULE,
        tree::{Node, Value},
    },
    model::Action,
    resolve::name,
};

impl Decoder<'_> {
    pub(super) fn rule(&mut self, node: &Node, action: Action, index: usize) -> Option<RuleEntry> {
        let word = action.word();
        // A format of its own for each of a million rules costs more than reading them.
        let what = format_args!("{word} rule {index}");
        let fields = self.fields(node, what, RULE)?;
        let from = self.required(&fields, "from").and_then(|node| self.peers(node));
        let to = self.required(&fields, "to").and_then(|node| self.peers(node));
        let ports = match fields.value("ports") {
            Some(ports) => self.ports(ports),
            None if action == Action::Deny => Ports::Every,
            None => {
                let message = format!("{what} has no `ports`");
                let help = "name them, as in `ports: [tcp/443]`; `ports: [any]` opens every port";
                self.report(Diagnostic::error(Code::MissingField, fields.span, message).help(help));
                Ports::Unreadable(Vec::new())
            }
        };
        let reason = fields
            .value("reason")
            .and_then(|node| self.text(node, "a reason"))
            .map(|text| text.value);
        let until = match self.of_allow(&fields, "until", action) {
            Some(node) => Some(self.text(node, "a time")?),
            None => None,
        };
        let when = match self.of_allow(&fields, "when", action) {
            Some(node) => Some(self.windows(node)?),
            None => None,
        };
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
            until,
            when,
        })
    }

    /// A field that only rules which open have: what a guardrail forbids would be open at times, although nobody changed anything.
    fn of_allow<'n>(&mut self, fields: &Fields<'n>, name: &str, action: Action) -> Option<&'n Node> {
        let node = fields.value(name)?;
        if action == Action::Allow {
            return Some(node);
        }
        let message = format!("a guardrail has no `{name}`: its end would open what it forbids");
        let help =
            format!("take the guardrail out when its time is over, or give `{name}` to the rules that open");
        self.report(Diagnostic::error(Code::InvalidValue, node.span, message).help(help));
        None
    }

    pub(super) fn ports(&mut self, node: &Node) -> Ports {
        let items = match &node.value {
            Value::List(items) if items.is_empty() => &[],
            Value::Null => &[],
            _ => match self.list(node, "a list of ports") {
                Some(items) => items,
                None => return Ports::Unreadable(Vec::new()),
            },
        };
        if items.is_empty() {
            let message = "`ports` is empty: the rule matches nothing";
            let help = "write `[any]` for every port, or take the rule out";
            self.report(Diagnostic::error(Code::InvalidPort, node.span, message).help(help));
            return Ports::Unreadable(Vec::new());
        }
        self.port_numbers(items)
    }

    /// Ports that are written one by one; a bare number is the slip people make.
    pub(super) fn port_numbers(&mut self, items: &[Node]) -> Ports {
        let mut ports = Vec::new();
        for item in items {
            if let Value::Number(spelled) = &item.value {
                let message = format!("`{spelled}` is a number, not a port with its protocol");
                let decimal = spelled.bytes().all(|byte| byte.is_ascii_digit()) && !spelled.starts_with('0');
                let help = if decimal {
                    format!("write `tcp/{spelled}` or `udp/{spelled}`")
                } else {
                    "a port is written like `tcp/443`".to_owned()
                };
                self.report(Diagnostic::error(Code::InvalidPort, item.span, message).help(help));
            } else {
                ports.extend(self.text(item, "a port"));
            }
        }
        if ports.len() == items.len() {
            Ports::Listed(ports)
        } else {
            Ports::Unreadable(ports)
        }
    }

    pub(super) fn peers(&mut self, node: &Node) -> Option<Peers> {
        let kind = match &node.value {
            Value::Map(_) => {
                let labels = self.labels(node)?;
                let before = self.out.len();
                for text in labels.iter().flat_map(|(key, value)| [key, value]) {
                    if let Err(problem) = name::label(&text.value) {
                        self.report(problem.at(Code::InvalidName, text.span));
                    }
                }
                if self.out.len() > before {
                    return None;
                }
                PeersKind::Labels(labels)
            }
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
}
