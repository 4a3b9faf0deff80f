//! What the kernel boundary needs: documented reasons (I8), asserted layouts (I9), explained `unsafe` (I10).

use anyhow::Result;

use super::{
    Finding, Tree, read_text,
    source::{Source, names},
};

const REASONS: &str = "segd-common/src/reason.rs";
const REASONS_DOC: &str = "docs/reasons.md";

/// Runs these checks.
pub fn check(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if let Some(reasons) = tree.rust.iter().find(|source| source.path == REASONS) {
        let doc = if tree.paths.iter().any(|path| path == REASONS_DOC) {
            read_text(REASONS_DOC)?
        } else {
            String::new()
        };
        findings.extend(undocumented_reasons(reasons, &doc));
    }
    let common: Vec<&Source> = tree
        .rust
        .iter()
        .filter(|source| source.path.starts_with("segd-common/src/"))
        .collect();
    findings.extend(unasserted_layouts(&common));
    findings.extend(tree.rust.iter().flat_map(unexplained_unsafe));
    Ok(findings)
}

/// Lines like `NoRule = 16, "no-rule";`, whose word must stand in backticks in the reference.
fn undocumented_reasons(reasons: &Source, doc: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, text) in reasons
        .production()
        .zip(&reasons.lines)
        .map(|((line, _), text)| (line, text.trim()))
    {
        let Some((number, label)) = reason(text) else {
            continue;
        };
        if !doc
            .lines()
            .any(|row| row.contains(&format!("`{label}`")) && names(row, number))
        {
            let what = format!("{REASONS_DOC} does not have reason {number} `{label}` (I8)");
            findings.push(Finding::new(REASONS, line, what));
        }
    }
    findings
}

fn reason(line: &str) -> Option<(&str, &str)> {
    let (head, label) = line.strip_suffix("\";")?.split_once(", \"")?;
    let (_, number) = head.split_once(" = ")?;
    number.parse::<u8>().ok().map(|_| (number, label))
}

fn unasserted_layouts(common: &[&Source]) -> Vec<Finding> {
    let asserted = |name: &str| {
        let size = format!("size_of::<{name}>");
        common
            .iter()
            .any(|source| source.production().any(|(_, code)| code.contains(&size)))
    };
    let mut findings = Vec::new();
    for source in common {
        let mut shared = false;
        for (line, code) in source.production() {
            shared |= code.contains("#[repr(C");
            let Some(name) = declared(code) else { continue };
            if shared && !asserted(name) {
                let what = format!("`{name}` is `repr(C)` and no `size_of::<{name}>()` is asserted (I9)");
                findings.push(Finding::new(&source.path, line, what));
            }
            shared = false;
        }
    }
    findings
}

/// The name of the type that is declared on this line.
fn declared(code: &str) -> Option<&str> {
    let mut words = code
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty());
    words.find(|word| matches!(*word, "struct" | "union" | "enum"))?;
    words.next()
}

/// `unsafe` blocks and impls, which need `// SAFETY:` above them; `unsafe fn` tells its callers in its docs.
fn unexplained_unsafe(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, code) in source.numbered() {
        let attribute = code.contains("#[unsafe(") || code.contains("#![") || code.contains("extern ");
        let words = if code.contains("unsafe fn") {
            ["# Safety", "SAFETY:"]
        } else {
            ["SAFETY:", "SAFETY:"]
        };
        if !names(code, "unsafe") || attribute {
            continue;
        }
        // The comment may stand above a statement of a few lines, or beside the code.
        let first = (line - 1).saturating_sub(REACH);
        let near = &source.lines[first..line];
        if !near
            .iter()
            .any(|near| words.iter().any(|word| near.contains(word)))
        {
            findings.push(Finding::new(
                &source.path,
                line,
                "`unsafe` without a `// SAFETY:` above it (I10)",
            ));
        }
    }
    findings
}

/// How many lines above an `unsafe` its reason may stand.
const REACH: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_needs_its_row() {
        let source = Source::new(
            REASONS,
            "reasons! {\n    /// x\n    NoRule = 16, \"no-rule\";\n}\n",
        );
        assert_eq!(
            undocumented_reasons(&source, "| 16 | `no-rule` | No rule allows it. |").len(),
            0
        );
        assert_eq!(
            undocumented_reasons(&source, "| 116 | `no-rule` | No rule allows it. |").len(),
            1
        );
        let found = undocumented_reasons(&source, "");
        assert_eq!((found.len(), found[0].line), (1, 3));
    }

    #[test]
    fn a_shared_type_needs_its_size() {
        let text = "#[derive(Clone)]\n#[repr(C)]\npub struct Key {\n}\n#[repr(u8)]\nenum Small {}\n";
        let with = format!("{text}const _: () = assert!(size_of::<Key>() == 8);\n");
        assert_eq!(
            unasserted_layouts(&[&Source::new("segd-common/src/a.rs", &with)]),
            []
        );
        let found = unasserted_layouts(&[&Source::new("segd-common/src/a.rs", text)]);
        assert_eq!((found.len(), found[0].line), (1, 3));
    }

    #[test]
    fn unsafe_needs_its_reason() {
        let ok = "// SAFETY: the pointer is checked.\nlet x = unsafe { *p };\n";
        assert_eq!(unexplained_unsafe(&Source::new("a.rs", ok)), []);
        let text =
            "#[unsafe(no_mangle)]\nfn a() {}\n// unsafe\nlet s = \"unsafe\";\nlet x = unsafe { *p };\n";
        let found = unexplained_unsafe(&Source::new("a.rs", text));
        assert_eq!((found.len(), found[0].line), (1, 5));
    }
}
