//! Broken policies and what segd says about them, word for word.
//!
//! `tests/broken/NAME.yaml` (or a directory `NAME`) is checked against `NAME.stderr`.
//! `SEGD_UPDATE_EXPECT=1` writes what is said now; read the difference before you commit it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use segd::{
    policy::{
        diagnostic::{Severity, Style, render},
        model::Source,
        resolve::resolve,
    },
    source,
};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/broken")
}

/// Every case: its name and its sources, named relative to the corpus.
fn cases() -> Vec<(String, Vec<Source>)> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(corpus()).expect("the corpus can be listed") {
        let path = entry.expect("the corpus can be listed").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if path.extension().is_some_and(|extension| extension == "stderr") {
            continue;
        }
        let root = corpus().display().to_string();
        let mut sources = source::read(&[path]).expect("a case can be read").sources;
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

#[test]
fn every_broken_policy_is_refused_in_the_documented_words() {
    let update = std::env::var_os("SEGD_UPDATE_EXPECT").is_some();
    let mut differences = Vec::new();
    let cases = cases();
    assert!(cases.len() >= 40, "the corpus has {} cases", cases.len());
    for (name, sources) in cases {
        let said = match resolve(&sources, false) {
            Ok(_) => panic!("{name} must be refused"),
            Err(diagnostics) => {
                assert!(
                    diagnostics.iter().all(|d| d.severity == Severity::Error),
                    "{name}: only errors"
                );
                render(&diagnostics, &sources, Style::Plain)
            }
        };
        let path = corpus().join(format!("{name}.stderr"));
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
fn every_expectation_has_its_case() {
    for entry in fs::read_dir(corpus()).expect("the corpus can be listed") {
        let path = entry.expect("the corpus can be listed").path();
        if path.extension().is_some_and(|extension| extension == "stderr") {
            let case = path.with_extension("yaml").exists() || path.with_extension("").is_dir();
            assert!(case, "{} belongs to no case", path.display());
        }
    }
}

#[test]
fn every_error_names_its_place() {
    for (name, sources) in cases() {
        for diagnostic in resolve(&sources, false).expect_err("refused") {
            let general = ["empty", "capacity"].contains(&diagnostic.code.label());
            assert!(
                general || diagnostic.span.is_some(),
                "{name}: {}",
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
