//! `segd policy fmt`: the samples are in its form; whatever disorder a policy is in, it says the same afterwards, in one form; what
//! is wrong, or cannot be kept, is left alone.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    reason = "a test says what must hold; the author of random policies is asked for their text only"
)]

#[path = "../../tests/tests/differential/calendar.rs"]
mod calendar;
#[path = "../../tests/tests/differential/dice.rs"]
mod dice;
#[path = "../../tests/tests/differential/spec.rs"]
mod spec;

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use dice::Dice;
use segd::policy::{
    compile::compile,
    compiled::{CompiledTables, SegmentIndexes},
    document::tree,
    format,
    model::{Location, Source},
    resolve::resolve,
};

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests")
}

fn fmt(arguments: &[&str], paths: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segd"));
    command.args(["policy", "fmt"]).args(arguments).args(paths);
    command.stdin(Stdio::null()).output().expect("segd runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn source(text: &str) -> Source {
    Source {
        name: "p.yaml".to_owned(),
        text: text.into(),
    }
}

#[track_caller]
fn formatted(text: &str) -> String {
    let nodes = tree::parse(0, &source(text)).unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    format::format(text, &nodes).unwrap_or_else(|refusal| panic!("{refusal}\n{text}"))
}

/// What is enforced, without where it stands.
#[track_caller]
fn meaning(text: &str) -> (CompiledTables, Vec<String>) {
    let (policy, _) = resolve(&[source(text)], false).unwrap_or_else(|errors| panic!("{errors:?}\n{text}"));
    let mut indexes = SegmentIndexes::default();
    indexes.allocate(&policy, &BTreeSet::new()).expect("fits");
    let mut tables = compile(&policy, &indexes, None).expect("fits");
    let nowhere = Location::default();
    let rules = std::mem::take(&mut tables.rules);
    let rules = rules
        .iter()
        .map(|rule| format!("{} {:?}", rule.label(), rule.term));
    for selector in std::sync::Arc::make_mut(&mut tables.selectors) {
        selector.location = nowhere.clone();
    }
    (tables, rules.collect())
}

/// The text as somebody in a hurry would have written it: the same, in disorder.
fn disordered(text: &str, dice: &mut Dice) -> String {
    let step = 2 + dice.below(3);
    let end = if dice.once_in(3) { "\r\n" } else { "\n" };
    let mut out = String::new();
    for line in text.lines() {
        let said = line.trim_start();
        out.push_str(&" ".repeat((line.len() - said.len()) / 2 * step));
        let mut said = said.to_owned();
        if let Some(item) = said.strip_prefix("- ") {
            said = format!("-{}{item}", " ".repeat(step - 1));
        }
        let loose = !said.contains(['"', '\'', '#']);
        let mut letters = said.chars().peekable();
        while let Some(letter) = letters.next() {
            let (before, after) = match letter {
                '{' | '[' => (false, loose),
                '}' | ']' => (loose, false),
                ',' => (loose, loose),
                ':' => (false, loose && letters.peek() == Some(&' ')),
                _ => (false, false),
            };
            if before {
                out.push_str(&" ".repeat(dice.below(3)));
            }
            out.push(letter);
            if after {
                out.push_str(&" ".repeat(dice.below(3)));
            }
        }
        if dice.once_in(4) {
            out.push_str(["  ", "\t", " "][dice.below(3)]);
        }
        out.push_str(end);
        if said.is_empty() && dice.once_in(2) {
            out.push_str(end);
        }
    }
    match dice.below(4) {
        0 => out.trim_end().to_owned(),
        1 => format!("{end}{end}{out}{end} {end}"),
        _ => out,
    }
}

fn policies_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            policies_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
}

/// Every sample, and every policy of the documentation that is a whole one.
fn samples() -> Vec<(String, String)> {
    let root = tests().join("..");
    let mut paths = Vec::new();
    policies_below(&root.join("policies"), &mut paths);
    let mut found: Vec<(String, String)> = paths
        .into_iter()
        .map(|path| {
            (
                path.display().to_string(),
                fs::read_to_string(&path).expect("a sample"),
            )
        })
        .collect();
    let mut documents = vec![root.join("README.md")];
    documents.extend(
        fs::read_dir(root.join("docs"))
            .expect("docs")
            .map(|entry| entry.expect("one").path()),
    );
    for path in documents {
        let text = fs::read_to_string(&path).unwrap_or_default();
        for block in text.split("```yaml\n").skip(1) {
            let block = block.split("```").next().unwrap_or_default();
            if block.starts_with("apiVersion: segd.dev/v1") {
                found.push((path.display().to_string(), block.to_owned()));
            }
        }
    }
    found
}

#[test]
fn the_samples_and_the_documentation_are_in_the_form() {
    let samples = samples();
    assert!(samples.len() >= 17, "{}", samples.len());
    for (name, text) in &samples {
        assert_eq!(formatted(text), *text, "{name}");
    }
    let policies = tests().join("../policies/cookbook");
    let mut paths = Vec::new();
    policies_below(&policies, &mut paths);
    for path in paths {
        let done = fmt(&["--check"], &[&path]);
        assert_eq!(
            (done.status.code(), text(&done.stdout)),
            (Some(0), String::new()),
            "{}",
            path.display()
        );
    }
}

#[test]
fn disorder_is_undone_and_says_the_same() {
    let seed = std::env::var("SEGD_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(7);
    println!("SEGD_SEED={seed}");
    let mut dice = Dice::new(seed);
    let mut texts: Vec<String> = samples().into_iter().map(|(_, text)| text).collect();
    let mut doubtful = Vec::new();
    policies_below(&tests().join("doubtful"), &mut doubtful);
    texts.extend(
        doubtful
            .iter()
            .map(|path| fs::read_to_string(path).expect("a case")),
    );
    texts.extend(
        (0..200)
            .map(|_| spec::Spec::random(&mut dice).yaml())
            .filter(|text| resolve(&[source(text)], false).is_ok()),
    );
    assert!(texts.len() > 150, "{}", texts.len());
    for text in texts {
        let once = formatted(&text);
        assert_eq!(formatted(&once), once, "twice is once:\n{text}");
        assert!(format::same(&text, &once), "{text}\n{once}");
        let means = meaning(&text);
        assert_eq!(meaning(&once), means, "{text}\n{once}");
        for _ in 0..4 {
            let untidy = disordered(&once, &mut dice);
            assert_eq!(formatted(&untidy), once, "{untidy}");
            assert_eq!(meaning(&untidy), means, "{untidy}");
        }
    }
}

/// Whatever YAML a slip of the keyboard makes of a policy: it is refused, or says the same in one form. The command checks this
/// again, and would call it a fault of segd.
#[test]
fn what_a_slip_makes_of_a_policy_is_kept_or_refused() {
    const INSERTS: [&str; 22] = [
        "",
        "\n",
        "  ",
        " ",
        "- ",
        ": ",
        "{",
        "]",
        "\"",
        "'",
        "#",
        " # x",
        "---\n",
        "\r\n",
        ",",
        "é",
        "\n\n",
        "a: b\n",
        "[a, {b: c}]",
        "\n      # c\n",
        "? ",
        "::1",
    ];
    let seed = std::env::var("SEGD_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(11);
    println!("SEGD_SEED={seed}");
    let mut dice = Dice::new(seed);
    let mut texts: Vec<String> = samples().into_iter().map(|(_, text)| text).collect();
    let mut cases = Vec::new();
    policies_below(&tests().join("doubtful"), &mut cases);
    policies_below(&tests().join("broken"), &mut cases);
    texts.extend(
        cases
            .iter()
            .filter_map(|path| fs::read_to_string(path).ok())
            .filter(|text| text.len() < 4000),
    );
    let (mut kept, mut refused) = (0, 0);
    for _ in 0..3000 {
        let mut text = dice.pick(&texts).clone();
        for _ in 0..1 + dice.below(3) {
            let boundary = |at: usize| {
                (0..=at.min(text.len()))
                    .rev()
                    .find(|at| text.is_char_boundary(*at))
                    .unwrap_or(0)
            };
            let start = boundary(dice.below(text.len() + 1));
            let end = boundary(start + dice.below(4)).max(start);
            text.replace_range(start..end, INSERTS[dice.below(INSERTS.len())]);
        }
        let Ok(nodes) = tree::parse(0, &source(&text)) else {
            continue;
        };
        match format::format(&text, &nodes) {
            Ok(once) => {
                assert!(format::same(&text, &once), "{text}\n===\n{once}");
                assert_eq!(formatted(&once), once, "twice is once:\n{text}");
                kept += 1;
            }
            Err(_) => refused += 1,
        }
    }
    println!("{kept} kept, {refused} refused");
    assert!(kept > 300 && refused > 20, "{kept} kept, {refused} refused");
}

#[test]
fn what_is_wrong_is_left_alone_with_its_diagnostic() {
    let mut checked = 0;
    for entry in fs::read_dir(tests().join("broken")).expect("the corpus") {
        let path = entry.expect("a case").path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let copy = directory.path().join("p.yaml");
        let before = fs::read(&path).expect("a case");
        fs::write(&copy, &before).expect("a copy");
        let done = fmt(&[], &[&copy]);
        assert_eq!(fs::read(&copy).expect("a copy"), before, "{}", path.display());
        assert_eq!(
            done.status.code(),
            Some(2),
            "{}: {}",
            path.display(),
            text(&done.stderr)
        );
        let expected = fs::read_to_string(path.with_extension("stderr")).expect("what is said");
        let first = expected.lines().next().expect("a line");
        assert!(
            text(&done.stderr).contains(first),
            "{}: {}",
            path.display(),
            text(&done.stderr)
        );
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 1);
        checked += 1;
    }
    assert!(checked >= 80, "{checked}");
}

const HEAD: &str = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: shop}\nspec:\n  segments:\n    \
                    web: {match: [{cgroup: /web}]}\n    db: {match: [{cgroup: /db}]}\n  allow:\n";

#[test]
fn formats_in_place_checks_and_filters() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("p.yaml");
    let untidy = format!("{HEAD}  - {{to: db, from: web,ports: [ tcp/1 ] }}  # why\n");
    let tidy = format!("{HEAD}    - {{from: web, to: db, ports: [tcp/1]}}  # why\n");
    fs::write(&path, &untidy).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("its mode");

    let done = fmt(&["--check"], &[&path]);
    let name = path.display();
    let expected = format!(
        "--- {name}\n+++ {name}\n@@ -6,4 +6,4 @@\n     web: {{match: [{{cgroup: /web}}]}}\n     db: {{match: [{{cgroup: /db}}]}}\n   \
         allow:\n-  - {{to: db, from: web,ports: [ tcp/1 ] }}  # why\n+    - {{from: web, to: db, ports: [tcp/1]}}  # why\n"
    );
    assert_eq!((done.status.code(), text(&done.stdout)), (Some(1), expected));
    assert_eq!(fs::read_to_string(&path).expect("a file"), untidy);

    let mut child = Command::new(env!("CARGO_BIN_EXE_segd"))
        .args(["policy", "fmt", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("segd runs");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(untidy.as_bytes())
        .expect("it is read");
    let filtered = child.wait_with_output().expect("it ends");
    assert_eq!(
        (filtered.status.code(), text(&filtered.stdout)),
        (Some(0), tidy.clone())
    );

    let done = fmt(&[], &[directory.path()]);
    assert_eq!(
        (done.status.code(), text(&done.stdout)),
        (Some(0), format!("formatted {name}\n"))
    );
    assert_eq!(fs::read_to_string(&path).expect("a file"), tidy);
    assert_eq!(
        fs::metadata(&path).expect("a file").permissions().mode() & 0o7777,
        0o640
    );
    let done = fmt(&[], &[directory.path()]);
    assert_eq!((done.status.code(), text(&done.stdout)), (Some(0), String::new()));
}

#[test]
fn refuses_what_it_cannot_keep_and_then_touches_no_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let (one, two) = (directory.path().join("a.yaml"), directory.path().join("b.yaml"));
    let untidy = format!("{HEAD}  - {{to: db, from: web, ports: [tcp/1]}}\n");
    let anchored = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: more}\nspec:\n  allow:\n    \
                    - {from: web, to: db, ports: &p [tcp/2]}\n    - {from: db, to: web, ports: *p}\n";
    fs::write(&one, &untidy).expect("a file");
    fs::write(&two, anchored).expect("a file");
    let done = fmt(&[], &[directory.path()]);
    let complaint = text(&done.stderr);
    assert_eq!(
        (done.status.code(), text(&done.stdout)),
        (Some(2), String::new()),
        "{complaint}"
    );
    assert!(
        complaint.contains("b.yaml:6: an anchor stands here"),
        "{complaint}"
    );
    assert_eq!(fs::read_to_string(&one).expect("a file"), untidy);
    assert_eq!(fs::read_to_string(&two).expect("a file"), anchored);
}
