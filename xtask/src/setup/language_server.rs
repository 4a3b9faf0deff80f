//! The YAML language server that editors use, which a test drives: from npm, by the lock file in `tests/editor`.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use super::apt;
use crate::{command, workspace};

/// What says which versions, by their hashes.
const FILES: [&str; 2] = ["package.json", "package-lock.json"];

/// Where it is. `tests/tests/editor.rs` looks here.
fn directory() -> PathBuf {
    workspace::tools().join("editor")
}

fn wanted(file: &str) -> PathBuf {
    workspace::root().join("tests/editor").join(file)
}

/// Whether it is there in the locked versions, whole, and node to run it.
pub fn present() -> bool {
    let same = FILES.iter().all(|file| {
        let there = fs::read(directory().join(file)).ok();
        there.is_some() && there == fs::read(wanted(file)).ok()
    });
    // npm writes this one last.
    same && directory().join("node_modules/.package-lock.json").exists()
        && workspace::find_program("node").is_some()
}

/// Whether Debian's npm is needed first.
pub fn needs_apt() -> bool {
    workspace::find_program("npm").is_none() || workspace::find_program("node").is_none()
}

/// How to install it by hand.
pub fn by_hand() -> String {
    format!(
        "with node and npm: cp tests/editor/*.json {directory}; npm ci --ignore-scripts --prefix {directory}",
        directory = directory().display()
    )
}

/// Installs it, in a few seconds; npm first, where it is missing. No script of a package is run.
pub fn install() -> Result<()> {
    if needs_apt() {
        apt::install(&["nodejs", "npm"])?;
    }
    let directory = directory();
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    for file in FILES {
        fs::copy(wanted(file), directory.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    let words = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
    command::run(command::command("npm", &words).current_dir(&directory))
}
