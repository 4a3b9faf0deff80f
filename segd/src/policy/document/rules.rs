//! The rules of a document as they are kept: nearly all say two names and a port, and those are kept as places in the text.
//!
//! INVARIANT: an entry that comes out says what the one that was put in said.

use super::{Peers, PeersKind, Ports, RuleEntry, Text, decode::is_odd};
use crate::policy::{diagnostic::Span, model::Action};

/// The rules of a document. Their places say in which order they stand.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Those that are kept as places.
    pub plain: Vec<PlainRule>,
    /// The others.
    pub odd: Vec<RuleEntry>,
    /// In which file they stand.
    pub file: usize,
}

/// A rule that says nothing but a name, a name and a port, each as it stands there.
#[derive(Clone, Copy, Debug)]
pub struct PlainRule {
    /// Its first byte.
    start: u32,
    /// How long its [`RuleEntry::span`] is.
    span: u16,
    /// How long its [`RuleEntry::extent`] is.
    extent: u16,
    /// Its number in its list.
    index: u32,
    /// Where its texts begin, from its first byte on: `from`, `to` and the port.
    at: [u16; 3],
    /// How long they are.
    len: [u8; 3],
    /// In which list it stands.
    action: Action,
}

impl Rules {
    /// Puts a rule in.
    pub fn push(&mut self, entry: RuleEntry, text: &str) {
        self.file = entry.span.file;
        match PlainRule::of(&entry, text) {
            Some(plain) => self.plain.push(plain),
            None => self.odd.push(entry),
        }
    }
}

impl PlainRule {
    fn of(entry: &RuleEntry, text: &str) -> Option<PlainRule> {
        let (start, file) = (entry.span.start, entry.span.file);
        let texts = [
            one(entry.from.as_ref()?)?,
            one(entry.to.as_ref()?)?,
            match &entry.ports {
                Ports::Listed(ports) => only(ports)?,
                _ => return None,
            },
        ];
        let more = entry.reason.is_some() || entry.until.is_some() || entry.when.is_some();
        if more || entry.extent.start != start {
            return None;
        }
        let (mut at, mut len) = ([0; 3], [0; 3]);
        for (said, (at, len)) in texts.into_iter().zip(at.iter_mut().zip(&mut len)) {
            let Span {
                start: begins, end, ..
            } = said.span;
            if said.span.file != file || text.get(begins..end) != Some(said.value.as_str()) {
                return None;
            }
            *at = u16::try_from(begins.checked_sub(start)?).ok()?;
            *len = u8::try_from(end - begins).ok()?;
        }
        Some(PlainRule {
            start: u32::try_from(start).ok()?,
            span: u16::try_from(entry.span.end.checked_sub(start)?).ok()?,
            extent: u16::try_from(entry.extent.end.checked_sub(start)?).ok()?,
            index: u32::try_from(entry.index).ok()?,
            at,
            len,
            action: entry.action,
        })
    }

    /// A rule that is all of a line, as an entry of a list in block style, and how far it is indented. `start`: where the line begins.
    ///
    /// Nothing but one spelling is known here, and no name that YAML could take for anything but a text.
    #[must_use]
    pub fn of_line(line: &str, start: usize) -> Option<(usize, PlainRule)> {
        let said = line.strip_suffix('\n')?;
        let entry = said.trim_start_matches(' ');
        let indent = said.len() - entry.len();
        let begins = indent + "- ".len();
        let rest = entry.strip_prefix("- {from: ")?;
        let at = |rest: &str| said.len() - rest.len() - begins;
        let from_at = at(rest);
        let (from, rest) = word(rest, is_of_name)?;
        let rest = rest.strip_prefix(", to: ")?;
        let to_at = at(rest);
        let (to, rest) = word(rest, is_of_name)?;
        let rest = rest.strip_prefix(", ports: [")?;
        let port_at = at(rest);
        let (port, rest) = word(rest, is_of_port)?;
        // What has a slash is no number.
        let (protocol, _) = port.split_once('/')?;
        let plain =
            is_plain(from) && is_plain(to) && protocol.starts_with(|first: char| first.is_ascii_lowercase());
        if rest != "]}" || !plain {
            return None;
        }
        let len = |text: &str| u8::try_from(text.len()).ok();
        let extent = u16::try_from(said.len() - begins).ok()?;
        let rule = PlainRule {
            start: u32::try_from(start + begins).ok()?,
            span: extent,
            extent,
            index: 0,
            at: [from_at as u16, to_at as u16, port_at as u16],
            len: [len(from)?, len(to)?, len(port)?],
            action: Action::Allow,
        };
        Some((indent, rule))
    }

    /// Its place.
    #[must_use]
    pub const fn start(&self) -> usize {
        self.start as usize
    }

    /// In which list it stands.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.action
    }

    /// Its number there.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index as usize
    }

    /// Gives it another number.
    pub const fn number(&mut self, index: usize) {
        self.index = index as u32;
    }

    /// Puts it in another place: it moved as it is. A file has less bytes than fit.
    pub const fn put(&mut self, start: usize) {
        self.start = start as u32;
    }

    /// How long its texts are, those of its keys included.
    #[must_use]
    pub fn text_len(&self) -> usize {
        let keys = "from".len() + "to".len() + "ports".len();
        keys + self.len.iter().map(|len| usize::from(*len)).sum::<usize>()
    }

    /// The same in a list, at a place of it.
    #[must_use]
    pub fn entered(self, action: Action, index: usize) -> Option<PlainRule> {
        let index = u32::try_from(index).ok()?;
        Some(PlainRule {
            index,
            action,
            ..self
        })
    }

    /// `from`, `to` and the port.
    #[must_use]
    pub fn texts<'t>(&self, text: &'t str) -> [&'t str; 3] {
        self.spans(0)
            .map(|span| text.get(span.start..span.end).unwrap_or_default())
    }

    fn spans(&self, file: usize) -> [Span; 3] {
        let [from, to, port] = self.at;
        let [from_len, to_len, port_len] = self.len.map(u16::from);
        let span = |at: u16, len: u16| {
            let start = self.start as usize + usize::from(at);
            let end = start + usize::from(len);
            Span { file, start, end }
        };
        [span(from, from_len), span(to, to_len), span(port, port_len)]
    }

    /// What was put in, out of the same text, without its ends and ports.
    #[must_use]
    pub fn frame(&self, file: usize) -> RuleEntry {
        let start = self.start as usize;
        let span = |len: u16| Span {
            file,
            start,
            end: start + usize::from(len),
        };
        RuleEntry {
            span: span(self.span),
            extent: span(self.extent),
            action: self.action,
            index: self.index as usize,
            from: None,
            to: None,
            ports: Ports::Every,
            reason: None,
            until: None,
            when: None,
        }
    }

    /// What was put in, out of the same text.
    #[must_use]
    pub fn entry(&self, file: usize, text: &str) -> RuleEntry {
        let [from, to, port] = self.spans(file).map(|span| Text {
            value: text.get(span.start..span.end).unwrap_or_default().to_owned(),
            span,
        });
        let peers = |name: Text| Peers {
            span: name.span,
            kind: PeersKind::Names(vec![name]),
        };
        RuleEntry {
            from: Some(peers(from)),
            to: Some(peers(to)),
            ports: Ports::Listed(vec![port]),
            ..self.frame(file)
        }
    }
}

/// What a text begins with, and the rest.
fn word(text: &str, is_of: fn(u8) -> bool) -> Option<(&str, &str)> {
    let len = text.bytes().take_while(|byte| is_of(*byte)).count();
    text.split_at_checked(len)
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

fn is_of_port(byte: u8) -> bool {
    is_of_name(byte) || byte == b'/'
}

/// Whether a word is a text to every reader of YAML.
fn is_plain(word: &str) -> bool {
    let special = matches!(word, "null" | "true" | "false") || is_odd(word);
    word.starts_with(|first: char| first.is_ascii_lowercase()) && !special
}

/// The only name of an end that is no list.
fn one(peers: &Peers) -> Option<&Text> {
    match &peers.kind {
        PeersKind::Names(names) => only(names).filter(|name| name.span == peers.span),
        PeersKind::Labels(_) => None,
    }
}

fn only(texts: &[Text]) -> Option<&Text> {
    match texts {
        [only] => Some(only),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        document::{documents, tree},
        testing::source_of,
    };

    #[test]
    fn what_comes_out_is_what_was_put_in() {
        let rules = "\n    - {from: a, to: &b b, ports: [tcp/1]}\n    - from: a\n      to: any\n      ports: [udp/53] # why\n    \
                     - {from: [a], to: b, ports: [any]}\n    - {from: 'a', to: b, ports: [any]}\n    \
                     - {from: a, to: *b, ports: [any]}\n    - {to: b, from: a, ports: [icmp, any]}\n    \
                     - {from: a, to: b, ports: [any], reason: x}\n    - &r {ports: [any], from: a, to: b}\n    - *r";
        let source = source_of(
            "{a: {}, b: {}}",
            rules,
            "[{from: a, to: b}, {from: a, to: b, ports: [any]}]",
        );
        let nodes = tree::parse(7, &source).expect("YAML");
        let mut out = Vec::new();
        let read = documents(&source.text, &nodes, &mut out);
        let rules = &read.first().expect("a document").rules;
        assert!(out.is_empty(), "{out:?}");
        // Lists, quotes, aliases of what stands before the rule, several ports and a reason are odd; so is a guardrail for every port.
        assert_eq!((rules.plain.len(), rules.odd.len()), (5, 6));
        for plain in &rules.plain {
            let entry = plain.entry(rules.file, &source.text);
            let again = PlainRule::of(&entry, &source.text).expect("plain");
            assert_eq!(format!("{again:?}"), format!("{plain:?}"));
            let texts = plain.texts(&source.text);
            assert!(
                texts
                    .iter()
                    .all(|said| !said.is_empty() && !said.contains([' ', '\''])),
                "{texts:?}"
            );
        }
        assert_eq!(rules.file, 7);
    }
}
