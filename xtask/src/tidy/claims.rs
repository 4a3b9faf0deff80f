//! What the threat model says a test shows, a test of that name shows.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Finding, Tree, read_text};

const THREATS: &str = "docs/threat-model.md";

/// Runs this check.
pub fn check(tree: &Tree) -> Result<Vec<Finding>> {
    let exists = |suite: &str, function: &str| {
        let files = [
            format!("tests/tests/{suite}.rs"),
            format!("tests/tests/{suite}/main.rs"),
        ];
        let declared = format!("fn {function}()");
        let mut sources = tree.rust.iter().filter(|source| files.contains(&source.path));
        sources.any(|source| source.code.iter().any(|line| line.contains(&declared)))
    };
    Ok(claims(&read_text(THREATS)?)
        .filter(|(_, suite, function)| !exists(suite, function))
        .map(|(line, suite, function)| Finding::new(THREATS, line, format!("no test `{suite}::{function}`")))
        .collect())
}

/// The files of tests that the threat model names.
pub fn files() -> Result<BTreeSet<String>> {
    let text = read_text(THREATS)?;
    Ok(claims(&text).map(|(_, suite, _)| suite.to_owned()).collect())
}

/// The `suite::function` names of a text, with their lines.
fn claims(text: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    text.lines().enumerate().flat_map(|(at, line)| {
        let quoted = line.split('`').skip(1).step_by(2);
        quoted.filter_map(move |word| {
            word.split_once("::")
                .map(|(suite, function)| (at + 1, suite, function))
        })
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_every_name_and_its_line() {
        let text = "no `name` here\n| `a::b`, `c::d_e` | `x` |\n";
        let found: Vec<_> = super::claims(text).collect();
        assert_eq!(found, [(2, "a", "b"), (2, "c", "d_e")]);
    }
}
