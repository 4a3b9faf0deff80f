//! From the parser's events to the tree. Every limit is kept before memory is taken.

use std::collections::BTreeMap;

use granit_parser::{Event, ScalarStyle, Span as Place, StructureStyle, Tag};

use super::{
    MAX_ALIASES, MAX_DEPTH, MAX_DOCUMENTS, MAX_EXPANDED, MAX_FILE_BYTES, MAX_NODES, Node, Taken, TextStyle,
    Value,
};
use crate::policy::{diagnostic::Span, document::cuts::Cuts};

/// Why a file is refused that the parser itself would take.
pub(super) struct Fault {
    pub(super) span: Span,
    pub(super) message: String,
    pub(super) help: Option<&'static str>,
}

/// Takes events one by one.
pub(super) struct Builder<'a> {
    file: usize,
    text: &'a str,
    /// What was taken out of it before it was parsed.
    cuts: Option<&'a Cuts>,
    /// Lists and mappings that have not ended, the innermost last.
    open: Vec<Open>,
    documents: Vec<Node>,
    /// How many documents began, those without content included.
    began: usize,
    /// What an alias may stand for, by the parser's number.
    anchors: BTreeMap<usize, Node>,
    aliases: usize,
    expanded: usize,
    taken: Size,
}

/// A list or mapping that has not ended.
struct Open {
    span: Span,
    in_brackets: bool,
    anchor: usize,
    items: Items,
}

enum Items {
    List(Vec<Node>),
    Map {
        entries: Vec<(Node, Node)>,
        key: Option<Node>,
    },
}

/// What a part of the tree takes.
#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    text: usize,
    depth: usize,
}

impl<'a> Builder<'a> {
    pub(super) fn new(file: usize, text: &'a str, cuts: Option<&'a Cuts>) -> Builder<'a> {
        Builder {
            file,
            text,
            cuts,
            open: Vec::new(),
            documents: Vec::new(),
            began: 0,
            anchors: BTreeMap::new(),
            aliases: 0,
            expanded: 0,
            taken: Size {
                nodes: cuts.map_or(0, Cuts::nodes),
                text: cuts.map_or(0, Cuts::text),
                ..Size::default()
            },
        }
    }

    /// The documents that say anything, and what all took.
    pub(super) fn finish(self) -> (Vec<Node>, Taken) {
        let Size { nodes, text, .. } = self.taken;
        (self.documents, Taken { nodes, text })
    }

    /// Takes the next event.
    pub(super) fn take(&mut self, event: Event<'_>, place: Place) -> Result<(), Fault> {
        let span = self.span(place);
        match event {
            Event::DocumentStart(..) => {
                self.began += 1;
                if self.began > MAX_DOCUMENTS {
                    return Err(too_large(span));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.admit_tag(tag.as_deref(), "str", place)?;
                self.grow(span, 1, text.len())?;
                let value = self.scalar(text.into_owned(), style, tag.is_some(), span);
                let end = span.end;
                self.put(Node { span, end, value }, anchor)
            }
            Event::SequenceStart(style, anchor, tag) => {
                self.admit_tag(tag.as_deref(), "seq", place)?;
                self.begin(span, style, anchor, Items::List(Vec::new()))
            }
            Event::MappingStart(style, anchor, tag) => {
                self.admit_tag(tag.as_deref(), "map", place)?;
                let items = Items::Map {
                    entries: Vec::new(),
                    key: None,
                };
                self.begin(span, style, anchor, items)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span),
            Event::Alias(anchor) => self.expand(anchor, span),
            Event::UnresolvedAlias(_) => Err(Fault {
                span,
                message: "alias references unknown anchor".to_owned(),
                help: Some("define the anchor (`&name`) before the alias (`*name`)"),
            }),
            // The stream, ends of documents; comments are not asked for.
            _ => Ok(()),
        }
    }

    /// Opens a list or a mapping.
    fn begin(&mut self, span: Span, style: StructureStyle, anchor: usize, items: Items) -> Result<(), Fault> {
        self.grow(span, 1, 0)?;
        if self.open.len() == MAX_DEPTH {
            return Err(too_deep(span));
        }
        // A pair in a list, as in `[a: b]`, is a mapping in flow style that has no brackets.
        let in_brackets = style == StructureStyle::Flow && self.spelled(span).starts_with(['[', '{']);
        self.open.push(Open {
            span,
            in_brackets,
            anchor,
            items,
        });
        Ok(())
    }

    /// Closes the innermost list or mapping.
    fn end(&mut self, closing: Span) -> Result<(), Fault> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let mut span = open.span;
        let last = match &open.items {
            Items::List(items) => items.last().map(|item| item.end),
            Items::Map { entries, .. } => entries.last().map(|(key, value)| value.end.max(key.end)),
        };
        let end = if open.in_brackets {
            closing.end
        } else {
            last.map_or(span.end, |last| last.max(span.end))
        };
        let value = match open.items {
            Items::List(items) => {
                span.end = end;
                Value::List(items)
            }
            Items::Map { entries, .. } => {
                match entries.first() {
                    _ if open.in_brackets => span.end = end,
                    Some((key, _)) => span = key.span,
                    None => {}
                }
                Value::Map(entries)
            }
        };
        self.put(Node { span, end, value }, open.anchor)
    }

    /// Puts a finished node where it belongs, and keeps it for the aliases of its anchor.
    fn put(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        if anchor != 0 {
            if self.anchors.len() == MAX_ALIASES {
                return Err(too_large(node.span));
            }
            // The copy takes as much as the node.
            let size = Size::of(&node);
            self.grow(node.span, size.nodes, size.text)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.items) {
            None if matches!(node.value, Value::Null) => {}
            None => self.documents.push(node),
            Some(Items::List(items)) => items.push(node),
            Some(Items::Map { entries, key }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None if is_merge(&node) => {
                    return Err(Fault {
                        span: node.span,
                        message: "YAML merge keys are not allowed".to_owned(),
                        help: Some("write the fields out; `<<` is not read"),
                    });
                }
                None => *key = Some(node),
            },
        }
        Ok(())
    }

    /// Puts a copy of what an alias stands for.
    fn expand(&mut self, anchor: usize, span: Span) -> Result<(), Fault> {
        let Some(meant) = self.anchors.get(&anchor) else {
            return Err(Fault {
                span,
                message: "an alias stands inside its own anchor".to_owned(),
                help: None,
            });
        };
        let size = Size::of(meant);
        self.aliases += 1;
        self.expanded += size.nodes;
        if self.aliases > MAX_ALIASES || self.expanded > MAX_EXPANDED {
            return Err(Fault {
                span,
                message: "aliases expand to too much".to_owned(),
                help: Some("write out what the aliases stand for, or use fewer"),
            });
        }
        if self.open.len() + size.depth > MAX_DEPTH {
            return Err(too_deep(span));
        }
        let node = meant.clone();
        self.grow(span, size.nodes, size.text)?;
        self.put(node, 0)
    }

    /// Counts what the tree is about to take more.
    fn grow(&mut self, span: Span, nodes: usize, text: usize) -> Result<(), Fault> {
        self.taken.nodes += nodes;
        self.taken.text += text;
        if self.taken.nodes > MAX_NODES || self.taken.text > MAX_FILE_BYTES {
            return Err(too_large(span));
        }
        Ok(())
    }

    /// A tag may say what the value is anyway; every other tag changes what a text means.
    fn admit_tag(&self, tag: Option<&Tag>, kind: &str, place: Place) -> Result<(), Fault> {
        let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema_tag(kind)) else {
            return Ok(());
        };
        Err(Fault {
            span: place
                .tag_span()
                .map_or_else(|| self.span(place), |place| self.span(place)),
            message: format!("unsupported tag `{}`", tag.original()),
            help: Some("remove the tag; a policy needs none"),
        })
    }

    fn scalar(&self, text: String, style: ScalarStyle, tagged: bool, span: Span) -> Value {
        let style = match style {
            ScalarStyle::Plain if !tagged => match text.as_str() {
                "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
                "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => return Value::Bool,
                number if is_number(number) => return Value::Number(text),
                _ if self.spelled(span) == text => TextStyle::Plain,
                _ => TextStyle::Other,
            },
            // `!!str` says what quotes say.
            ScalarStyle::Plain if !self.spelled(span).contains('\n') => TextStyle::Quoted,
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => TextStyle::Quoted,
            _ => TextStyle::Other,
        };
        Value::Text { text, style }
    }

    fn spelled(&self, span: Span) -> &'a str {
        self.text.get(span.start..span.end).unwrap_or_default()
    }

    fn span(&self, place: Place) -> Span {
        let origin = |at: usize| self.cuts.map_or(at, |cuts| cuts.origin(at));
        let bytes = |offset: Option<usize>| offset.map_or(self.text.len(), origin).min(self.text.len());
        Span {
            file: self.file,
            start: bytes(place.start.byte_offset()),
            end: bytes(place.end.byte_offset()),
        }
    }
}

impl Size {
    fn of(node: &Node) -> Size {
        match &node.value {
            Value::Null | Value::Bool => Size {
                nodes: 1,
                text: 0,
                depth: 0,
            },
            Value::Number(text) | Value::Text { text, .. } => Size {
                nodes: 1,
                text: text.len(),
                depth: 0,
            },
            Value::List(items) => Size::around(items.iter()),
            Value::Map(entries) => Size::around(entries.iter().flat_map(|(key, value)| [key, value])),
        }
    }

    fn around<'n>(inside: impl Iterator<Item = &'n Node>) -> Size {
        let mut sum = Size::default();
        for size in inside.map(Size::of) {
            sum.nodes += size.nodes;
            sum.text += size.text;
            sum.depth = sum.depth.max(size.depth);
        }
        sum.nodes += 1;
        sum.depth += 1;
        sum
    }
}

fn is_merge(key: &Node) -> bool {
    matches!(&key.value, Value::Text { text, style: TextStyle::Plain } if text == "<<")
}

/// As YAML 1.2 reads it, and as other readers might: signs, `0x`, `0o`, `0b`, `_` between digits, exponents.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(digits, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let radix = match digits.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => 16,
        Some("0o") => 8,
        Some("0b") => 2,
        _ => {
            return digits.starts_with(|first: char| first.is_ascii_digit() || first == '.')
                && digits
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'_' | b'e' | b'E' | b'+' | b'-'))
                && digits.replace('_', "").parse::<f64>().is_ok();
        }
    };
    let digits = digits.get(2..).unwrap_or_default();
    digits.chars().any(|digit| digit != '_')
        && digits.chars().all(|digit| digit == '_' || digit.is_digit(radix))
}

fn too_large(span: Span) -> Fault {
    Fault {
        span,
        message: "the file is too large".to_owned(),
        help: Some("split it: every file of a directory is read"),
    }
}

/// Nested beyond what is read, whoever notices.
pub(super) fn too_deep(span: Span) -> Fault {
    Fault {
        span,
        message: "lists and mappings are nested too deep".to_owned(),
        help: Some("a policy nests at most 32 levels deep"),
    }
}
