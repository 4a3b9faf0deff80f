//! The JSON Schema of a policy document, for editors: made of the same field lists that the decoder goes by.
//!
//! INVARIANT: what segd takes, the schema takes. It is no stricter; where only the whole policy can tell, it is laxer.

use serde_json::{Map, Value, json};

use crate::policy::{
    document::{
        API_VERSION, KIND,
        fields::{DEFAULTS, DOCUMENT, Fields, MATCHER, METADATA, RULE, SEGMENT, SPEC, TEST, WINDOW},
    },
    port, window,
};

/// A port number, 1 to 65535, without leading zeros.
const NUMBER: &str = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
/// A byte.
const BYTE: &str = "([0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])";
/// A segment's name.
const NAME: &str = "^[a-z][a-z0-9-]{0,62}$";

/// The schema, draft 2020-12.
#[must_use]
pub fn schema() -> Value {
    let mut schema = mapping(
        DOCUMENT,
        &["apiVersion", "kind", "metadata", "spec"],
        &|field| match field {
            "apiVersion" => json!({"const": API_VERSION}),
            "kind" => json!({"const": KIND}),
            "metadata" => mapping(
                METADATA,
                &["name"],
                &|_| json!({"type": "string", "pattern": "^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"}),
            ),
            _ => reference("spec"),
        },
    );
    if let Value::Object(schema) = &mut schema {
        let head = [
            ("$schema", json!("https://json-schema.org/draft/2020-12/schema")),
            ("$id", json!("https://segd.dev/schema/v1/segment-policy.json")),
            ("title", json!("segd segment policy")),
            ("$defs", definitions()),
        ];
        schema.extend(head.map(|(key, value)| (key.to_owned(), value)));
    }
    schema
}

fn definitions() -> Value {
    json!({
        "spec": mapping(SPEC, &[], &|field| match field {
            "mode" => reference("mode"),
            "segments" => json!({
                "type": "object",
                "propertyNames": {"pattern": NAME, "not": {"enum": ["any", "host", "world"]}},
                "additionalProperties": reference("segment"),
            }),
            "allow" => list(reference("allow")),
            "deny" => list(reference("deny")),
            "tests" => list(reference("test")),
            "defaults" => mapping(DEFAULTS, &["host"], &|_| json!({"const": "enforce"})),
            _ => list(json!({"type": "string", "pattern": NAME})),
        }),
        "segment": mapping(SEGMENT, &[], &|field| match field {
            "labels" => reference("labels"),
            "match" => list(reference("matcher")),
            "intra" => json!({"enum": ["allow", "deny"]}),
            _ => reference("mode"),
        }),
        "matcher": matcher(),
        "mode": {"enum": ["enforce", "audit"]},
        "labels": {
            "type": "object",
            "propertyNames": {"pattern": "^[A-Za-z0-9._/-]{1,63}$"},
            "additionalProperties": {"type": "string", "pattern": "^[A-Za-z0-9._/-]{1,63}$"},
        },
        "peers": {
            "anyOf": [
                {"type": "string"},
                list(json!({"type": "string"})),
                reference("labels"),
            ],
            "examples": ["web", ["web", "db"], {"env": "prod"}, "any", "host", "world"],
        },
        "port": {
            "type": "string",
            "pattern": port_pattern(),
            "examples": ["tcp/443", "udp/1000-1999", "icmp/echo-request", "icmpv6/echo-request", "ip/47", "any"],
        },
        "ports": {"type": "array", "minItems": 1, "items": reference("port")},
        "window": window(),
        "allow": rule(&["from", "to", "ports"], Some((time(), windows()))),
        // A guardrail does not end.
        "deny": rule(&["from", "to"], None),
        "test": mapping(TEST, &["from", "to", "port", "expect"], &|field| match field {
            "from" | "to" => reference("peers"),
            "port" => json!({"anyOf": [reference("port"), reference("ports")]}),
            "expect" => json!({"enum": ["allow", "deny"]}),
            _ => json!({"type": "string"}),
        }),
    })
}

/// RFC 3339, as far as a pattern can tell.
fn time() -> Value {
    let pattern =
        "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$";
    json!({"type": "string", "pattern": pattern, "examples": ["2026-12-01T18:00:00Z", "2026-12-01T18:00:00+01:00"]})
}

/// Part of a week, as far as patterns can tell.
fn window() -> Value {
    let days = window::DAYS.join("|");
    let time = "(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)";
    mapping(WINDOW, &["days", "hours", "zone"], &|field| match field {
        "days" => json!({
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "pattern": format!("^({days})(-({days}))?$")},
            "examples": [["mon-fri"], ["sat", "sun"]],
        }),
        "hours" => json!({
            "type": "string",
            "pattern": format!("^{time}-{time}$"),
            "examples": ["08:00-18:00", "22:00-06:00", "00:00-24:00"],
        }),
        _ => json!({"type": "string", "examples": ["Europe/Berlin", "America/New_York", "UTC"]}),
    })
}

/// One window, or several.
fn windows() -> Value {
    json!({"anyOf": [reference("window"), {"type": "array", "minItems": 1, "items": reference("window")}]})
}

/// `ends`: what `until` and `when` say, of rules that may have them.
fn rule(required: &[&str], ends: Option<(Value, Value)>) -> Value {
    let (until, when) = ends.unwrap_or((json!(false), json!(false)));
    mapping(RULE, required, &|field| match field {
        "from" | "to" => reference("peers"),
        "ports" => reference("ports"),
        "until" => until.clone(),
        "when" => when.clone(),
        _ => json!({"type": "string"}),
    })
}

/// Exactly one kind of matcher; exceptions only of a prefix.
fn matcher() -> Value {
    let text = || json!({"type": "string"});
    let mut matcher = mapping(MATCHER, &[], &|field| match field {
        "cgroup" => json!({"type": "string", "pattern": "^/[^/]"}),
        "systemd" => json!({"type": "string", "pattern": "\\.(service|socket|scope|slice|mount|swap)$"}),
        "user" => json!({"anyOf": [text(), {"type": "integer", "minimum": 0, "maximum": u32::MAX - 1}]}),
        "cidr" => json!({"type": "string", "pattern": "^[0-9A-Fa-f.:]+/[0-9]{1,3}$"}),
        _ => list(json!({"type": "string", "pattern": "^[0-9A-Fa-f.:]+/[0-9]{1,3}$"})),
    });
    if let Value::Object(matcher) = &mut matcher {
        let one = ["cgroup", "systemd", "user", "cidr"].map(|kind| json!({"required": [kind]}));
        matcher.insert("oneOf".to_owned(), json!(one));
        matcher.insert("dependentRequired".to_owned(), json!({"except": ["cidr"]}));
    }
    matcher
}

/// A mapping with known fields and no others.
fn mapping(fields: &'static Fields, required: &[&str], of: &dyn Fn(&str) -> Value) -> Value {
    let property = |(name, description): &(&str, &str)| {
        let mut value = of(name);
        if let Value::Object(value) = &mut value {
            value.insert("description".to_owned(), json!(description));
        }
        ((*name).to_owned(), value)
    };
    let properties: Map<String, Value> = fields.iter().map(property).collect();
    let mut mapping = json!({"type": "object", "additionalProperties": false, "properties": properties});
    if let (Value::Object(mapping), false) = (&mut mapping, required.is_empty()) {
        mapping.insert("required".to_owned(), json!(required));
    }
    mapping
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}")})
}

/// What [`port::parse`] reads, as far as a pattern can say it.
fn port_pattern() -> String {
    let words = |names: &[(&str, u8)]| names.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("|");
    let icmp = |word: &str, names: &[(&str, u8)]| format!("{word}(/({}|{BYTE})(/{BYTE})?)?", words(names));
    format!(
        "^(any|(tcp|udp|sctp)/{NUMBER}(-{NUMBER})?|{}|{}|ip/{BYTE})$",
        icmp("icmp", &port::ICMP_TYPES),
        icmp("icmpv6", &port::ICMPV6_TYPES)
    )
}
