//! The JSON Schema beside the decoder: what segd takes, the schema takes; what is misspelt, both refuse.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what must hold")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use segd::{
    output::schema::schema,
    policy::{diagnostic::Code, document::tree, model::Source, port, resolve::resolve},
};
use serde_json::{Value, json};

/// What of a value does not fit; the keywords that the schema uses, and no others.
fn misfits(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut out = Vec::new();
    let fields = match schema {
        Value::Bool(true) => return out,
        Value::Bool(false) => return vec![format!("{at}: is not to be here")],
        schema => schema.as_object().expect("a schema is an object"),
    };
    let fits = |schema: &Value| misfits(root, schema, value, at).is_empty();
    let list = |keyword: &Value| keyword.as_array().expect("a list").clone();
    for (keyword, said) in fields {
        let wrong = match keyword.as_str() {
            "$ref" => {
                let name = said
                    .as_str()
                    .and_then(|path| path.strip_prefix("#/$defs/"))
                    .expect("a local name");
                let target = root["$defs"]
                    .get(name)
                    .unwrap_or_else(|| panic!("no definition `{name}`"));
                out.extend(misfits(root, target, value, at));
                false
            }
            "type" => !match said.as_str().expect("one type") {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "integer" => value.is_u64(),
                other => panic!("type {other}"),
            },
            "const" => value != said,
            "enum" => !list(said).contains(value),
            "anyOf" => !list(said).iter().any(fits),
            "oneOf" => list(said).iter().filter(|schema| fits(schema)).count() != 1,
            "not" => fits(said),
            "minItems" => value
                .as_array()
                .is_some_and(|items| (items.len() as u64) < said.as_u64().expect("a number")),
            "minimum" => value
                .as_u64()
                .is_some_and(|number| number < said.as_u64().expect("a number")),
            "maximum" => value
                .as_u64()
                .is_some_and(|number| number > said.as_u64().expect("a number")),
            "pattern" => {
                let pattern = regex_lite::Regex::new(said.as_str().expect("a pattern")).expect("a pattern");
                value.as_str().is_some_and(|text| !pattern.is_match(text))
            }
            "required" => value.as_object().is_some_and(|fields| {
                !list(said)
                    .iter()
                    .all(|name| fields.contains_key(name.as_str().expect("a name")))
            }),
            "dependentRequired" => value.as_object().is_some_and(|fields| {
                let pairs = said.as_object().expect("an object");
                pairs.iter().any(|(name, needs)| {
                    fields.contains_key(name)
                        && !list(needs)
                            .iter()
                            .all(|need| fields.contains_key(need.as_str().expect("a name")))
                })
            }),
            "items" => {
                for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                    out.extend(misfits(root, said, item, &format!("{at}[{number}]")));
                }
                false
            }
            "propertyNames" => {
                for name in value.as_object().into_iter().flat_map(|fields| fields.keys()) {
                    out.extend(misfits(root, said, &json!(name), &format!("{at}.{name}")));
                }
                false
            }
            "properties" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    if let Some(property) = said.get(name) {
                        out.extend(misfits(root, property, value, &format!("{at}.{name}")));
                    }
                }
                false
            }
            "additionalProperties" => {
                let known = |name: &str| {
                    fields
                        .get("properties")
                        .is_some_and(|known| known.get(name).is_some())
                };
                let others = value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter(|(name, _)| !known(name));
                for (name, value) in others {
                    match said {
                        Value::Bool(_) => out.push(format!("{at}.{name}: unknown")),
                        schema => out.extend(misfits(root, schema, value, &format!("{at}.{name}"))),
                    }
                }
                false
            }
            "$schema" | "$id" | "$defs" | "title" | "description" | "examples" => false,
            other => panic!("the schema says `{other}`, which this test does not know"),
        };
        if wrong {
            out.push(format!("{at}: {keyword} {said}"));
        }
    }
    out
}

/// Every document of a file as JSON has it; nothing if it is no YAML.
fn documents(text: &str) -> Vec<Value> {
    fn plain(node: &tree::Node) -> Value {
        match &node.value {
            tree::Value::Null => Value::Null,
            tree::Value::Bool => json!(true),
            tree::Value::Number(text) => text
                .parse::<u64>()
                .map_or_else(|_| json!(0.5), |number| json!(number)),
            tree::Value::Text { text, .. } => json!(text),
            tree::Value::List(items) => items.iter().map(plain).collect(),
            tree::Value::Map(entries) => {
                let name = |key: &tree::Node| match &key.value {
                    tree::Value::Text { text, .. } => text.clone(),
                    _ => "no text".to_owned(),
                };
                Value::Object(
                    entries
                        .iter()
                        .map(|(key, value)| (name(key), plain(value)))
                        .collect(),
                )
            }
        }
    }
    let source = Source {
        name: "p.yaml".to_owned(),
        text: text.into(),
    };
    let nodes = tree::parse(0, &source).unwrap_or_default();
    nodes.iter().map(plain).collect()
}

fn files(folder: &str) -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let entries = fs::read_dir(&folder)
        .expect("a folder")
        .flatten()
        .map(|entry| entry.path());
    let texts = entries.filter_map(|path| Some((path.clone(), fs::read_to_string(&path).ok()?)));
    texts
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect()
}

#[test]
fn the_schema_takes_what_segd_takes() {
    let schema = schema();
    let mut count = 0;
    for (path, text) in ["policies", "policies/cookbook", "tests/doubtful"]
        .into_iter()
        .flat_map(files)
    {
        for document in documents(&text)
            .iter()
            .filter(|document| document.get("apiVersion").is_some())
        {
            assert_eq!(
                misfits(&schema, &schema, document, ""),
                Vec::<String>::new(),
                "{}",
                path.display()
            );
            count += 1;
        }
    }
    assert!(count > 30, "{count} documents");
}

#[test]
fn the_schema_refuses_fields_and_words_that_segd_refuses() {
    let schema = schema();
    let by_form = [
        Code::UnknownField,
        Code::MissingField,
        Code::InvalidValue,
        Code::WrongType,
        Code::ReservedName,
        Code::Kind,
    ];
    let (mut refused, mut taken) = (0, Vec::new());
    for (path, text) in files("tests/broken") {
        let sources = [Source {
            name: "p.yaml".to_owned(),
            text: text.as_str().into(),
        }];
        let errors = resolve(&sources, false).expect_err("broken");
        let documents = documents(&text);
        if documents.is_empty() || !errors.iter().any(|error| by_form.contains(&error.code)) {
            continue;
        }
        if documents
            .iter()
            .all(|document| misfits(&schema, &schema, document, "").is_empty())
        {
            taken.push(path.file_stem().expect("a name").to_string_lossy().into_owned());
        } else {
            refused += 1;
        }
    }
    // What only the whole policy tells: a mode without segments, a test about nobody, a segment that is defined and released.
    taken.sort();
    assert_eq!(
        taken,
        ["audit-without-segments", "tests-about-nobody"],
        "refused: {refused}"
    );
    assert!(refused > 20, "{refused}");
}

#[test]
fn the_pattern_of_a_port_is_what_the_parser_reads() {
    let schema = schema();
    let port_schema = &schema["$defs"]["port"];
    let right = [
        "any",
        "tcp/1",
        "tcp/65535",
        "udp/1000-1999",
        "sctp/3868",
        "icmp",
        "icmp/echo-request",
        "icmp/3",
        "icmp/3/4",
        "icmpv6",
        "icmpv6/packet-too-big",
        "icmpv6/128/0",
        "ip/47",
    ];
    for text in right {
        assert!(port::parse(text).is_ok(), "{text}");
        assert_eq!(
            misfits(&schema, port_schema, &json!(text), text),
            Vec::<String>::new()
        );
    }
    for text in [
        "",
        "443",
        "tcp",
        "tcp/0",
        "tcp/65536",
        "tcp/022",
        "tcp/0x16",
        "tcp:443",
        "443/tcp",
        "tcp/1-",
        "tcp/ 1",
        "icmp/256",
        "icmp/no-such",
        "ip/256",
        "any/1",
        "tcp/1-2-3",
        "TCP/443",
    ] {
        assert!(port::parse(text).is_err(), "{text}");
        assert!(
            !misfits(&schema, port_schema, &json!(text), text).is_empty(),
            "{text}"
        );
    }
}
