//! `cargo xtask tidy`: the invariants of DESIGN.md section 4 that can be read off the source, one finding per line.

mod house;
mod kernel;
mod layers;
mod source;
mod unit;
mod claims;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use source::Source;

use crate::{
    command::{command, read},
    workspace,
};

/// Something that must not be in the tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    /// Counted from 1.
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Finding {
        Finding {
            path: path.to_owned(),
            line,
            what: what.into(),
        }
    }
}

/// Every file git knows or would add, by its path from the top of the repository.
struct Tree {
    paths: Vec<String>,
    rust: Vec<Source>,
}

/// Runs `cargo xtask tidy`.
pub fn run() -> Result<ExitCode> {
    let tree = Tree::load()?;
    let mut findings = layers::check(&tree)?;
    findings.extend(kernel::check(&tree)?);
    findings.extend(house::check(&tree)?);
    findings.extend(unit::check()?);
    findings.extend(claims::check(&tree)?);
    findings.sort();
    for Finding { path, line, what } in &findings {
        println!("{path}:{line}: {what}");
    }
    if findings.is_empty() {
        println!("tidy: {} files, nothing found", tree.paths.len());
        return Ok(ExitCode::SUCCESS);
    }
    println!("tidy: {} findings", findings.len());
    Ok(ExitCode::FAILURE)
}

impl Tree {
    fn load() -> Result<Tree> {
        let listed = read(&mut command(
            "git",
            &["ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        ))?;
        let exists = |path: &&str| !path.is_empty() && workspace::root().join(path).exists();
        let paths: Vec<String> = listed.split('\0').filter(exists).map(str::to_owned).collect();
        let mut rust = Vec::new();
        for path in paths.iter().filter(|path| path.ends_with(".rs")) {
            rust.push(Source::new(path, &read_text(path)?));
        }
        Ok(Tree { paths, rust })
    }
}

/// The files of tests that show how the known ways around a policy end.
pub use claims::files as threats;

fn read_text(path: &str) -> Result<String> {
    std::fs::read_to_string(workspace::root().join(path)).with_context(|| format!("cannot read {path}"))
}
