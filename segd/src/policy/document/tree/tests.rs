//! Hostile and odd YAML.

use std::time::Duration;

use super::*;

fn source(text: impl Into<String>) -> Source {
    Source {
        name: "test.yaml".to_owned(),
        text: text.into().into(),
    }
}

/// The processor time this thread has had: how busy the machine is does not count.
fn spent() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is live and the clock exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[track_caller]
fn refused_at_once(what: &str, text: String) {
    let start = spent();
    assert!(parse(0, &source(text)).is_err(), "{what} must be refused");
    let took = spent() - start;
    assert!(took < Duration::from_secs(5), "{what} took {took:?}");
}

#[test]
fn refuses_what_was_made_to_exhaust_it() {
    refused_at_once("depth", "[".repeat(100_000));
    refused_at_once(
        "depth in block style",
        (0..1000).map(|at| format!("{}a:\n", " ".repeat(at))).collect(),
    );
    refused_at_once("a long scalar", format!("a: {}", "x".repeat(10_000_000)));
    refused_at_once("many documents", "---\na\n".repeat(100_000));
    refused_at_once("an alias of itself", "&a [*a]".to_owned());
    refused_at_once("many nodes", format!("[{}]", "a,".repeat(MAX_NODES + 1)));
    let level = |at: usize| {
        format!(
            "a{}: &a{} [{}]\n",
            at + 1,
            at + 1,
            vec![format!("*a{at}"); 10].join(",")
        )
    };
    let bomb: String = (0..9).map(level).collect();
    refused_at_once("an alias bomb", format!("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n{bomb}"));
}

#[test]
fn keeps_the_spelling_of_every_scalar() {
    let text = "a: [0x16, 022, 1e3, no, \"no\", ~, true]";
    let nodes = parse(0, &source(text)).expect("YAML");
    let [
        Node {
            value: Value::Map(entries),
            ..
        },
    ] = nodes.as_slice()
    else {
        panic!("a mapping")
    };
    let Value::List(items) = &entries[0].1.value else {
        panic!("a list")
    };
    let spelled: Vec<&str> = items
        .iter()
        .map(|item| &text[item.span.start..item.span.end])
        .collect();
    assert_eq!(spelled, ["0x16", "022", "1e3", "no", "\"no\"", "~", "true"]);
    let number = |at: usize| matches!(&items[at].value, Value::Number(text) if text == spelled[at]);
    assert!(number(0) && number(1) && number(2));
    assert!(matches!(
        &items[3].value,
        Value::Text {
            style: TextStyle::Plain,
            ..
        }
    ));
    assert!(matches!(&items[4].value, Value::Text { text, style: TextStyle::Quoted } if text == "no"));
    assert!(matches!(
        (&items[5].value, &items[6].value),
        (Value::Null, Value::Bool)
    ));
}

#[test]
fn knows_where_lists_and_mappings_end() {
    let text = "a:\n  - {b: [c, d] }\n  - e: f\n    g: [h]\n";
    let nodes = parse(0, &source(text)).expect("YAML");
    let [
        Node {
            value: Value::Map(entries),
            ..
        },
    ] = nodes.as_slice()
    else {
        panic!("a mapping")
    };
    let Value::List(items) = &entries[0].1.value else {
        panic!("a list")
    };
    let whole: Vec<&str> = items
        .iter()
        .map(|item| &text[item.span.start..item.end])
        .collect();
    assert_eq!(whole, ["{b: [c, d] }", "e: f\n    g: [h]"]);
}

#[test]
fn no_rule_hides_behind_what_ends_a_line_for_yaml_alone() {
    let refused = |text: &str| parse(0, &source(text)).expect_err("must be refused");
    for (text, at) in [
        ("a: 1 # none\rb: 2\n", 11),
        ("a: 1\r", 4),
        ("a: 'x\r\r\n'\n", 5),
        ("# c\r\n\r", 5),
    ] {
        let diagnostic = refused(text);
        assert_eq!(diagnostic.span.map(|span| span.start), Some(at), "{text:?}");
        assert!(diagnostic.help[0].contains("CRLF"), "{text:?}");
    }
    assert_eq!(
        parse(0, &source("a: 1 # none\r\n\r\n# b\r\n")).map(|nodes| nodes.len()),
        Ok(1)
    );
    // What other versions of YAML take for the end of a line ends no comment here.
    for odd in ['\u{85}', '\u{2028}', '\u{2029}'] {
        let nodes = parse(0, &source(format!("# c{odd}a: 1\n"))).expect("YAML");
        assert!(nodes.is_empty(), "{odd:?}");
    }
}
