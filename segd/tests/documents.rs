//! The reference says what the program does: every reason, every error class, and its example is a policy.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what must hold")]

use std::{fs, path::Path};

use segd::policy::{
    diagnostic::{Code, Style, render},
    model::Source,
    resolve::resolve,
};
use segd_common::reason::Reason;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cells of the lines that look like `| a | b |`, without emphasis.
fn rows(text: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| {
        line.trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().replace('`', ""))
            .collect()
    };
    text.lines()
        .filter(|line| line.starts_with('|'))
        .map(cells)
        .collect()
}

#[test]
fn every_reason_has_its_line_and_no_line_is_left_over() {
    let text = document("reasons.md");
    let documented: Vec<(String, String, bool)> = rows(&text)
        .into_iter()
        .filter(|row| row[0].parse::<u8>().is_ok())
        .map(|row| (row[0].clone(), row[1].clone(), row[2] == "yes"))
        .collect();
    let known: Vec<(String, String, bool)> = Reason::ALL
        .iter()
        .map(|reason| {
            (
                (*reason as u8).to_string(),
                reason.label().to_owned(),
                reason.auditable(),
            )
        })
        .collect();
    assert_eq!(documented, known);
}

#[test]
fn the_line_between_passing_and_denied_is_where_the_reference_says() {
    assert!(
        Reason::ALL
            .iter()
            .all(|reason| reason.allows() == ((*reason as u8) < 16))
    );
}

#[test]
fn every_error_class_has_its_line_and_no_line_is_left_over() {
    let text = document("diagnostics.md");
    let section = text.split("\n## Errors\n").nth(1).expect("the section");
    let section = section
        .split("\n## Allowing a warning\n")
        .next()
        .expect("its end");
    let documented: Vec<String> = rows(section)
        .into_iter()
        .map(|row| row[0].clone())
        .filter(|label| !label.starts_with('-') && label != "error" && label != "warning")
        .collect();
    let known: Vec<&str> = Code::ALL.iter().map(|code| code.label()).collect();
    assert_eq!(documented, known);
}

#[test]
fn the_example_of_the_reference_is_a_policy() {
    let text = document("policy.md");
    let example = text
        .split("```yaml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("an example");
    let sources = [Source {
        name: "policy.md".to_owned(),
        text: example.into(),
    }];
    match resolve(&sources, false) {
        Ok((policy, warnings)) => {
            assert_eq!((policy.segments.len(), policy.rules.len()), (4, 5));
            assert!(
                warnings.is_empty(),
                "{}",
                render(&warnings, &sources, Style::Plain)
            );
        }
        Err(errors) => panic!("{}", render(&errors, &sources, Style::Plain)),
    }
}
