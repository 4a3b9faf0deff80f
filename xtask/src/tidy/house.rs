//! How files look: their place, their length, their first line, what must not be left in them.

use anyhow::Result;

use super::{Finding, Tree, read_text, source::Source};

/// Lines before the unit tests.
const LONGEST: usize = 400;

/// What may stand at the top of the repository, beside `*.toml`, `Cargo.lock`, `LICENSE-*` and dot files.
const TOP: &[&str] = &[
    "segd",
    "segd-common",
    "segd-ebpf",
    "tests",
    "xtask",
    "policies",
    "docs",
    "deploy",
    "README.md",
    "CHANGELOG.md",
    "SECURITY.md",
];

/// Nothing may be left for later under these names. Spelt in halves, or this file would find itself.
const LEFT_OPEN: &[&str] = &[
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
];

/// How many lines above a sleep its deadline or its reason may stand.
const REACH: usize = 8;

/// The file whose subject is waiting.
const MAY_SLEEP: &str = "tests/src/wait.rs";

/// Runs these checks.
pub fn check(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings: Vec<Finding> = tree.paths.iter().filter_map(|path| out_of_place(path)).collect();
    findings.extend(tree.rust.iter().flat_map(file));
    for path in &tree.paths {
        if path.starts_with("policies/") && (path.ends_with(".yaml") || path.ends_with(".yml")) {
            findings.extend(uncommented_policy(path, &read_text(path)?));
        }
        if path.ends_with(".md") {
            findings.extend(left_open(path, read_text(path)?.lines()));
        }
    }
    Ok(findings)
}

fn out_of_place(path: &str) -> Option<Finding> {
    let first = path.split('/').next().unwrap_or(path);
    let file = first == path;
    let known = TOP.contains(&first)
        || first.starts_with('.')
        || (file && (first.ends_with(".toml") || first == "Cargo.lock" || first.starts_with("LICENSE-")));
    if !known {
        return Some(Finding::new(
            path,
            1,
            "is new at the top of the repository; does it need to be there?",
        ));
    }
    let module = path.ends_with("/mod.rs");
    module.then(|| Finding::new(path, 1, "is a `mod.rs`: the habit here is `foo.rs` and `foo/`"))
}

fn file(source: &Source) -> Vec<Finding> {
    let path = source.path.as_str();
    let mut findings = Vec::new();
    if !source.lines.first().is_some_and(|line| line.starts_with("//!")) {
        findings.push(Finding::new(
            path,
            1,
            "does not start with `//!` and what the file is for",
        ));
    }
    if source.before_tests > LONGEST {
        let what = format!(
            "{} lines before its tests, {LONGEST} are the limit",
            source.before_tests
        );
        findings.push(Finding::new(path, source.before_tests, what));
    }
    findings.extend(left_open(path, source.lines.iter().map(String::as_str)));
    for (line, code) in source.numbered() {
        if code.contains("#[ignore") {
            findings.push(Finding::new(
                path,
                line,
                "an ignored test looks like a passed one",
            ));
        }
        let sleeps = code.contains("thread::sleep") || code.contains("time::sleep");
        let watched = path.starts_with("tests/") || path.starts_with("segd/");
        if sleeps && watched && path != MAY_SLEEP && !explained_sleep(source, line) {
            let what =
                "sleeps: wait for a condition with a deadline, or say why time itself is needed: `// SLEEP:`";
            findings.push(Finding::new(path, line, what));
        }
    }
    findings
}

/// Whether this sleep is the step of a wait whose deadline is in sight, or has its reason above it.
fn explained_sleep(source: &Source, line: usize) -> bool {
    let near = line.saturating_sub(REACH)..line;
    near.into_iter().any(|at| {
        let deadline = source.code.get(at).is_some_and(|code| code.contains("deadline"));
        deadline
            || source
                .lines
                .get(at)
                .is_some_and(|text| text.contains("// SLEEP:"))
    })
}

fn left_open<'a>(path: &str, lines: impl Iterator<Item = &'a str>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, text) in lines.enumerate() {
        let open = LEFT_OPEN.iter().filter(|mark| text.contains(**mark));
        findings.extend(open.map(|mark| Finding::new(path, at + 1, format!("`{mark}` is left open"))));
    }
    findings
}

fn uncommented_policy(path: &str, text: &str) -> Option<Finding> {
    let commented = text.starts_with('#');
    (!commented).then(|| Finding::new(path, 1, "does not start with a comment that says what it is for"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(path: &str, text: &str) -> Vec<String> {
        file(&Source::new(path, text))
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    }

    #[test]
    fn knows_what_belongs_at_the_top() {
        for path in [
            "segd/src/main.rs",
            "deny.toml",
            ".ci/run",
            "LICENSE-MIT",
            "Cargo.lock",
            "docs/policy.md",
        ] {
            assert_eq!(out_of_place(path), None);
        }
        for path in ["notes.md", "scripts/x.sh", "segd/src/policy/mod.rs"] {
            assert!(out_of_place(path).is_some(), "{path}");
        }
    }

    #[test]
    fn a_file_is_short_and_says_what_it_is_for() {
        assert_eq!(what("a.rs", "//! a\nfn a() {}\n"), Vec::<String>::new());
        assert_eq!(what("a.rs", "fn a() {}\n").len(), 1);
        let long = format!("//! a\n{}", "a();\n".repeat(LONGEST));
        assert_eq!(what("a.rs", &long).len(), 1);
        let tested = format!(
            "//! a\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            "a();\n".repeat(LONGEST)
        );
        assert_eq!(what("a.rs", &tested), Vec::<String>::new());
    }

    #[test]
    fn nothing_is_left_open() {
        assert_eq!(what("a.rs", &format!("//! a\n// {}\n", LEFT_OPEN[0])).len(), 1);
        assert_eq!(what("a.rs", "//! a\n#[ignore]\nfn a() {}\n").len(), 1);
    }

    #[test]
    fn a_sleep_has_a_deadline_or_a_reason() {
        let bare = "//! a\nstd::thread::sleep(POLL);\n";
        assert_eq!(what("tests/tests/flows.rs", bare).len(), 1);
        assert_eq!(what("xtask/src/demo.rs", bare), Vec::<String>::new());
        for explained in [
            "assert!(Instant::now() < deadline);",
            "// SLEEP: the other side is rate-limited.",
        ] {
            let text = format!("//! a\n{explained}\nstd::thread::sleep(POLL);\n");
            assert_eq!(what("segd/src/source.rs", &text), Vec::<String>::new());
        }
    }

    #[test]
    fn a_sample_starts_with_a_comment() {
        assert!(uncommented_policy("policies/a.yaml", "# a\napiVersion: x\n").is_none());
        assert!(uncommented_policy("policies/a.yaml", "apiVersion: x\n").is_some());
    }
}
