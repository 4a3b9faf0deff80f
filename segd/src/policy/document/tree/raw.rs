//! What serde hands over: values with places. The spelling is looked up in the source.

use std::fmt;

use serde::{Deserialize, de};
use serde_yaml::Spanned;

use super::{Node, TextStyle, Value};
use crate::policy::diagnostic::Span;

/// The tree as serde sees it, before the spelling is looked up.
pub(super) struct Raw {
    value: RawValue,
    offset: Option<(u64, u64)>,
}

enum RawValue {
    Null,
    Bool,
    Number,
    Text(String),
    List(Vec<Raw>),
    Map(Vec<(Raw, Raw)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        let spanned = Spanned::<RawValue>::deserialize(deserializer)?;
        let span = spanned.defined.span();
        Ok(Raw {
            value: spanned.value,
            offset: span.byte_offset().zip(span.byte_len()),
        })
    }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<RawValue, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = RawValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<RawValue, E> {
                Ok(RawValue::Null)
            }

            fn visit_none<E>(self) -> Result<RawValue, E> {
                Ok(RawValue::Null)
            }

            fn visit_bool<E>(self, _: bool) -> Result<RawValue, E> {
                Ok(RawValue::Bool)
            }

            fn visit_i64<E>(self, _: i64) -> Result<RawValue, E> {
                Ok(RawValue::Number)
            }

            fn visit_u64<E>(self, _: u64) -> Result<RawValue, E> {
                Ok(RawValue::Number)
            }

            fn visit_f64<E>(self, _: f64) -> Result<RawValue, E> {
                Ok(RawValue::Number)
            }

            fn visit_str<E>(self, text: &str) -> Result<RawValue, E> {
                Ok(RawValue::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<RawValue, E> {
                Ok(RawValue::Text(text))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<RawValue, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(RawValue::List(list))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut entries: A) -> Result<RawValue, A::Error> {
                let mut map = Vec::new();
                while let Some(key) = entries.next_key()? {
                    map.push((key, entries.next_value()?));
                }
                Ok(RawValue::Map(map))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl Raw {
    /// Looks the spelling up.
    pub(super) fn into_node(self, file: usize, source: &str) -> Node {
        let bytes = |offset: u64| usize::try_from(offset).unwrap_or(source.len()).min(source.len());
        let (start, len) = self.offset.unwrap_or_default();
        let mut span = Span {
            file,
            start: bytes(start),
            end: bytes(start.saturating_add(len)),
        };
        let raw = source.get(span.start..span.end).unwrap_or_default();
        let mut end = span.end;
        let value = match self.value {
            RawValue::Null => Value::Null,
            RawValue::Bool => Value::Bool,
            RawValue::Number => Value::Number(raw.to_owned()),
            RawValue::Text(text) => {
                let style = match raw.bytes().next() {
                    Some(b'"' | b'\'') if raw != text => TextStyle::Quoted,
                    _ if raw == text && !text.contains('\n') => TextStyle::Plain,
                    _ => TextStyle::Other,
                };
                Value::Text { text, style }
            }
            RawValue::List(list) => {
                let list: Vec<Node> = list.into_iter().map(|raw| raw.into_node(file, source)).collect();
                end = close(source, span, list.last().map(|node| node.end), ']');
                span.end = end;
                Value::List(list)
            }
            RawValue::Map(map) => {
                let map: Vec<(Node, Node)> = map
                    .into_iter()
                    .map(|(key, value)| (key.into_node(file, source), value.into_node(file, source)))
                    .collect();
                end = close(
                    source,
                    span,
                    map.last().map(|(key, value)| value.end.max(key.end)),
                    '}',
                );
                if raw == "{" {
                    span.end = end;
                } else if let Some((key, _)) = map.first() {
                    span = key.span;
                }
                Value::Map(map)
            }
        };
        Node { span, end, value }
    }
}

/// The end of a list or mapping in flow style, bracket included, if only space lies before the bracket.
fn close(source: &str, span: Span, last: Option<usize>, bracket: char) -> usize {
    let inside = last.map_or(span.end, |last| last.max(span.end));
    // In block style nothing closes.
    if !source
        .get(span.start..span.end)
        .is_some_and(|text| text.starts_with(['[', '{']))
    {
        return inside;
    }
    let rest = source.get(inside..).unwrap_or_default();
    let trimmed = rest.trim_start_matches([' ', ',']);
    match trimmed.strip_prefix(bracket) {
        Some(after) => source.len() - after.len(),
        None => inside,
    }
}
