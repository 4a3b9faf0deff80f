//! One form: what it makes of policies, and what it leaves alone.

use super::*;

#[track_caller]
fn formatted(text: &str) -> Result<String, Refusal> {
    let source = Source {
        name: "t.yaml".to_owned(),
        text: text.into(),
    };
    let nodes = tree::parse(0, &source).expect("YAML");
    format(text, &nodes)
}

#[test]
fn writes_one_form() {
    let untidy = "\r\n# head  \n\n\n  # of it\napiVersion:   segd.dev/v1\nkind: 'SegmentPolicy'\nmetadata:\n    name: shop   # why\n\
        spec:\n   segments:\n      web:\n         match:\n         -   systemd: 'nginx.service'\n         # both\n         - cgroup: /web\n      \
        db: {match: [ {cgroup:   /db } , ] }\n\n\n   allow:\n   - { to: db, from: [web , \"host\"], ports: [tcp/5432],reason: 'it''s' }\n   \
        -\n     from: web\n     to: db\n     ports: [\n         tcp/1, # one\n\n       tcp/2 ]\n   # the last\n\n";
    let tidy = "# head\n\n# of it\napiVersion: segd.dev/v1\nkind: \"SegmentPolicy\"\nmetadata:\n  name: shop   # why\n\
        spec:\n  segments:\n    web:\n      match:\n        - systemd: \"nginx.service\"\n        # both\n        - cgroup: /web\n    \
        db: {match: [{cgroup: /db}]}\n\n  allow:\n    - {from: [web, \"host\"], to: db, ports: [tcp/5432], reason: 'it''s'}\n    \
        -\n      from: web\n      to: db\n      ports: [\n        tcp/1, # one\n        tcp/2]\n    # the last\n";
    let once = formatted(untidy).expect("formatted");
    assert_eq!(once, tidy);
    assert_eq!(formatted(&once).as_deref(), Ok(tidy));
    assert!(same(untidy, tidy));
}

#[test]
fn refuses_what_it_could_not_keep() {
    for (text, line, says) in [
        ("a: &x b\nc: *x\n", 1, "an anchor"),
        ("a: 1\nb: !!str x\n", 2, "a tag"),
        ("a: |\n  x\n", 1, "several lines"),
        ("a: x\n  y\n", 2, "several lines"),
        ("a: \"x\n  y\"\n", 1, "several lines"),
        ("a: [x\n  y]\n", 2, "several lines"),
        ("? a\n: b\n", 1, "does not format"),
        ("{a: b}: c\n", 1, "is a key"),
        ("a: b\n...\n", 2, "the end of a document"),
        ("a:\tb\n", 1, "a tab"),
        (" ---\n", 1, "the mark of a document"),
    ] {
        let refusal = formatted(text).expect_err(text);
        assert!(
            refusal.line == line && refusal.what.contains(says),
            "{text}: {refusal}"
        );
    }
}

#[test]
fn knows_what_says_another_thing() {
    assert!(same("{a: 1, b: [2, 3]} # c\n", "# c\na: 1\nb:\n  - 2\n  - 3\n"));
    assert!(same("{a: 1, b: 2}\n", "{b: 2, a: 1}\n"));
    for other in [
        "{a: 1}\n",
        "{a: 1, b: [3, 2]} # c\n",
        "{a: 1, b: [2, 3]}\n",
        "{a: \"1\", b: [2, 3]} # c\n",
    ] {
        assert!(!same("{a: 1, b: [2, 3]} # c\n", other), "{other}");
    }
}
