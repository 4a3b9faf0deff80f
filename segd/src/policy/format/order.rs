//! The order in which fields are documented.

use std::collections::BTreeMap;

use crate::policy::document::{
    fields::{DOCUMENT, Fields, MATCHER, METADATA, SEGMENT, TEST, WINDOW, names},
    tree::{Node, Value},
};

/// As in the examples of the documentation: what it opens, for how long, and why.
const RULE: [&str; 6] = ["from", "to", "ports", "until", "when", "reason"];

/// The place of each known field in its mapping, by where its key stands.
pub fn ranks(nodes: &[Node]) -> BTreeMap<usize, usize> {
    let mut ranks = Ranks::default();
    for node in nodes {
        ranks.document(node);
    }
    ranks.0
}

#[derive(Default)]
struct Ranks(BTreeMap<usize, usize>);

impl Ranks {
    fn document(&mut self, node: &Node) {
        self.fields(node, &of(DOCUMENT));
        for (_, metadata) in field(node, "metadata") {
            self.fields(metadata, &of(METADATA));
        }
        for (_, spec) in field(node, "spec") {
            for (_, segments) in field(spec, "segments") {
                for (_, segment) in entries(segments) {
                    self.fields(segment, &of(SEGMENT));
                    for (_, matchers) in field(segment, "match") {
                        items(matchers)
                            .iter()
                            .for_each(|matcher| self.fields(matcher, &of(MATCHER)));
                    }
                }
            }
            for (_, rules) in field(spec, "allow").chain(field(spec, "deny")) {
                items(rules).iter().for_each(|rule| self.rule(rule));
            }
            for (_, tests) in field(spec, "tests") {
                items(tests).iter().for_each(|test| self.fields(test, &of(TEST)));
            }
        }
    }

    fn rule(&mut self, rule: &Node) {
        self.fields(rule, &RULE);
        for (_, when) in field(rule, "when") {
            self.fields(when, &of(WINDOW));
            items(when)
                .iter()
                .for_each(|window| self.fields(window, &of(WINDOW)));
        }
    }

    fn fields(&mut self, node: &Node, known: &[&str]) {
        for (key, _) in entries(node) {
            if let Value::Text { text, .. } = &key.value
                && let Some(rank) = known.iter().position(|known| known == text)
            {
                self.0.insert(key.span.start, rank);
            }
        }
    }
}

fn of(fields: &'static Fields) -> Vec<&'static str> {
    names(fields).collect()
}

fn entries(node: &Node) -> &[(Node, Node)] {
    match &node.value {
        Value::Map(entries) => entries,
        _ => &[],
    }
}

fn items(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(items) => items,
        _ => &[],
    }
}

fn field<'n>(node: &'n Node, name: &'static str) -> impl Iterator<Item = &'n (Node, Node)> {
    let is = move |(key, _): &&(Node, Node)| matches!(&key.value, Value::Text { text, .. } if text == name);
    entries(node).iter().filter(is)
}
