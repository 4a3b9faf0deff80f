//! Policies for unit tests, without ceremony.

use super::{
    diagnostic::{Style, render},
    model::{Policy, Source},
    resolve::resolve,
};

/// One document with these parts of `spec`.
pub fn source_of(segments: &str, allow: &str, deny: &str) -> Source {
    let text = format!(
        "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {{name: test}}\n\
         spec:\n  segments: {segments}\n  allow: {allow}\n  deny: {deny}\n"
    );
    Source {
        name: "test.yaml".to_owned(),
        text: text.into(),
    }
}

/// The policy of one document with these parts of `spec`.
#[track_caller]
pub fn policy_of(segments: &str, allow: &str, deny: &str) -> Policy {
    policy_from(source_of(segments, allow, deny))
}

/// The policy of one source, which must be right.
#[track_caller]
pub fn policy_from(source: Source) -> Policy {
    let sources = [source];
    match resolve(&sources, false) {
        Ok((policy, _)) => policy,
        Err(errors) => panic!("{}", render(&errors, &sources, Style::Plain)),
    }
}
