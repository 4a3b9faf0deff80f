//! `tests:`: what the policy's author expects of it, as written.

use super::Decoder;
use crate::policy::{
    diagnostic::{Code, Diagnostic, Span},
    document::{
        Ports, TestEntry,
        fields::TEST,
        tree::{Node, Value},
    },
    model::Action,
};

impl Decoder<'_> {
    pub(super) fn test(&mut self, node: &Node, index: usize) -> Option<TestEntry> {
        let what = format!("test {index}");
        let fields = self.fields(node, &what, TEST)?;
        let from = self.required(&fields, "from").and_then(|node| self.peers(node));
        let to = self.required(&fields, "to").and_then(|node| self.peers(node));
        let port = self.required(&fields, "port").map(|node| match &node.value {
            Value::List(items) if items.is_empty() => {
                let message = "`port` is empty: the test asks nothing";
                let help = "write one, as in `port: tcp/443`, or take the test out";
                self.report(Diagnostic::error(Code::InvalidPort, node.span, message).help(help));
                Ports::Unreadable(Vec::new())
            }
            Value::List(_) => self.ports(node),
            Value::Number(_) => self.port_numbers(std::slice::from_ref(node)),
            _ => self
                .text(node, "a port")
                .map_or(Ports::Unreadable(Vec::new()), |text| Ports::Listed(vec![text])),
        });
        let expect = self
            .required(&fields, "expect")
            .and_then(|node| self.choice(node, "an expectation", &["allow", "deny"]))
            .map(|word| {
                if word == "allow" {
                    Action::Allow
                } else {
                    Action::Deny
                }
            });
        if let Some(reason) = fields.value("reason") {
            self.text(reason, "a reason");
        }
        Some(TestEntry {
            span: fields.span,
            extent: Span {
                end: node.end,
                ..fields.span
            },
            index,
            from: from?,
            to: to?,
            ports: port?,
            expect: expect?,
        })
    }
}
