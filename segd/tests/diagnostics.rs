//! Broken and doubtful policies and what segd says about them, word for word.
//!
//! `tests/broken/NAME.yaml` (or a directory `NAME`) is checked against `NAME.stderr`; so is `tests/doubtful`, which is taken
//! with warnings.
//! `SEGD_UPDATE_EXPECT=1` writes what is said now; read the difference before you commit it.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what must hold")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use segd::{
    policy::{
        diagnostic::{Code, Diagnostic, Severity, Style, render},
        model::Source,
        resolve::resolve,
    },
    source,
};

fn corpus(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests")
        .join(folder)
}

/// Every case of a folder: its name and its sources, named relative to the folder.
fn cases(folder: &str) -> Vec<(String, Vec<Source>)> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(corpus(folder)).expect("the corpus can be listed") {
        let path = entry.expect("the corpus can be listed").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if path.extension().is_some_and(|extension| extension == "stderr") {
            continue;
        }
        let root = corpus(folder).display().to_string();
        let mut sources = source::read(&[path], &source::Trust::Everybody)
            .expect("a case can be read")
            .sources;
        for source in &mut sources {
            source.name = source
                .name
                .trim_start_matches(&root)
                .trim_start_matches('/')
                .to_owned();
        }
        cases.push((name, sources));
    }
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    cases
}

/// Compares what is said about every case of a folder with what is expected.
#[track_caller]
fn in_the_documented_words(folder: &str, said: impl Fn(&str, &[Source]) -> Vec<Diagnostic>) {
    let update = std::env::var_os("SEGD_UPDATE_EXPECT").is_some();
    let mut differences = Vec::new();
    for (name, sources) in cases(folder) {
        let said = render(&said(&name, &sources), &sources, Style::Plain);
        let path = corpus(folder).join(format!("{name}.stderr"));
        if update {
            fs::write(&path, &said).expect("the expectation can be written");
        } else if fs::read_to_string(&path).unwrap_or_default() != said {
            differences.push(format!("--- {name}\n{said}"));
        }
    }
    assert!(
        differences.is_empty(),
        "{}\nSEGD_UPDATE_EXPECT=1 accepts this",
        differences.join("\n")
    );
}

#[test]
fn every_broken_policy_is_refused_in_the_documented_words() {
    let count = cases("broken").len();
    assert!(count >= 80, "the corpus has {count} cases");
    in_the_documented_words("broken", |name, sources| match resolve(sources, false) {
        Ok(_) => panic!("{name} must be refused"),
        Err(diagnostics) => {
            let errors = diagnostics.iter().all(|d| d.severity == Severity::Error);
            assert!(errors, "{name}: only errors");
            diagnostics
        }
    });
}

#[test]
fn every_doubtful_policy_is_taken_with_the_documented_warnings() {
    in_the_documented_words("doubtful", |name, sources| match resolve(sources, false) {
        Ok((_, warnings)) => {
            assert!(!warnings.is_empty(), "{name} must be doubted");
            warnings
        }
        Err(errors) => panic!("{name}: {}", render(&errors, sources, Style::Plain)),
    });
}

#[test]
fn every_warning_has_a_case() {
    let mut told: BTreeSet<Code> = BTreeSet::new();
    for (_, sources) in cases("doubtful") {
        let (_, warnings) = resolve(&sources, false).expect("the policy is right");
        told.extend(warnings.iter().map(|warning| warning.code));
    }
    let untold = |code: &&Code| !told.contains(code) && !code.is_beyond_the_text();
    let untold: Vec<&Code> = Code::WARNINGS.iter().filter(untold).collect();
    assert!(untold.is_empty(), "no case in tests/doubtful: {untold:?}");
}

#[test]
fn every_expectation_has_its_case() {
    for folder in ["broken", "doubtful"] {
        for entry in fs::read_dir(corpus(folder)).expect("the corpus can be listed") {
            let path = entry.expect("the corpus can be listed").path();
            if path.extension().is_some_and(|extension| extension == "stderr") {
                let case = path.with_extension("yaml").exists() || path.with_extension("").is_dir();
                assert!(case, "{} belongs to no case", path.display());
            }
        }
    }
}

#[test]
fn every_error_names_its_place_and_what_to_do() {
    for (name, sources) in cases("broken") {
        for diagnostic in resolve(&sources, false).expect_err("refused") {
            let general = ["empty", "capacity"].contains(&diagnostic.code.label());
            assert!(
                general || diagnostic.span.is_some(),
                "{name}: {}",
                diagnostic.message
            );
            assert!(
                !diagnostic.help.is_empty(),
                "{name}: nothing to do about: {}",
                diagnostic.message
            );
            assert!(
                !diagnostic.message.ends_with('.'),
                "{name}: {}",
                diagnostic.message
            );
        }
    }
}

/// What a slip of the keyboard, a bad merge or a hostile hand makes of a policy.
fn damaged(text: &str, cuts: &[(usize, usize, u8)]) -> String {
    const INSERTS: [&str; 16] = [
        "", "\n", "\t", " ", "- ", ": ", "{", "]", "\"", "&a ", "*a", "é", "\u{7}", "---\n", "\r\n", "日本",
    ];
    let mut text = text.to_owned();
    for (at, len, insert) in cuts {
        let boundary = |at: usize| {
            (0..=at.min(text.len()))
                .rev()
                .find(|at| text.is_char_boundary(*at))
                .unwrap_or(0)
        };
        let start = boundary(at % (text.len() + 1));
        let end = boundary(start + len);
        text.replace_range(
            start..end.max(start),
            INSERTS[usize::from(*insert) % INSERTS.len()],
        );
    }
    text
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: 300, failure_persistence: None, ..proptest::prelude::ProptestConfig::default()
    })]

    #[test]
    fn a_damaged_policy_is_answered_and_drawn_never_panicked_at(
        case in 0..1000_usize,
        cuts in proptest::collection::vec((0..4000_usize, 0..12_usize, proptest::prelude::any::<u8>()), 0..6),
    ) {
        thread_local! {
            static CASES: Vec<(String, Vec<Source>)> = cases("broken").into_iter().chain(cases("doubtful")).collect();
        }
        let mut sources = CASES.with(|cases| cases[case % cases.len()].1.clone());
        for source in &mut sources {
            source.text = damaged(&source.text, &cuts).into();
        }
        let diagnostics = match resolve(&sources, true) {
            Ok((_, warnings)) => warnings,
            Err(errors) => {
                proptest::prop_assert!(!errors.is_empty());
                errors
            }
        };
        for style in [Style::Plain, Style::Ansi] {
            let drawn = render(&diagnostics, &sources, style);
            proptest::prop_assert!(style == Style::Ansi || !drawn.contains(['\u{7}', '\u{1b}']), "{}", drawn);
        }
    }
}
