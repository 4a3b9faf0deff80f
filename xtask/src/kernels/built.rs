//! The test binaries that cargo built, and the tests in them.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};

use crate::command::{self, cargo, command};

/// A test: the file it stands in and its name there. `segd` is the file of the daemon's unit tests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Test {
    /// The file in `tests/tests`, without its ending.
    pub file: String,
    /// The name that libtest knows it by.
    pub name: String,
}

/// A test binary.
#[derive(Debug)]
pub struct Binary {
    /// The file it is built from.
    pub file: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Everything that was built.
#[derive(Debug)]
pub struct Built {
    binaries: Vec<Binary>,
    /// The workers of the tests.
    pub worker: PathBuf,
}

/// The program that plays a workload in the tests.
const WORKER: &str = "segd-test-worker";

/// Builds the test binaries, as `cargo xtask test` does.
pub fn build() -> Result<Built> {
    let mut cargo = cargo(&["test", "--locked", "--no-run", "--message-format=json"]);
    let line = command::line(&cargo);
    eprintln!("$ {line}");
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed: {}", output.status);
    }
    let mut binaries = Vec::new();
    let mut worker = None;
    for message in String::from_utf8_lossy(&output.stdout).lines() {
        let Some(artifact) = artifact(message)? else {
            continue;
        };
        match artifact {
            Artifact::Worker(path) => worker = Some(path),
            Artifact::Tests(binary) => binaries.push(binary),
        }
    }
    let worker = worker.with_context(|| format!("cargo built no {WORKER}"))?;
    Ok(Built { binaries, worker })
}

enum Artifact {
    Worker(PathBuf),
    Tests(Binary),
}

/// Reads one message of cargo; most are about something else.
fn artifact(message: &str) -> Result<Option<Artifact>> {
    let message: serde_json::Value = serde_json::from_str(message).context("cargo's message is no JSON")?;
    let Some(path) = message["executable"].as_str().map(PathBuf::from) else {
        return Ok(None);
    };
    let target = &message["target"];
    let (name, kind) = (target["name"].as_str().unwrap_or_default(), &target["kind"][0]);
    if message["profile"]["test"] != true {
        return Ok((name == WORKER).then_some(Artifact::Worker(path)));
    }
    let wanted = kind == "test" || (kind == "lib" && name == "segd");
    Ok(wanted.then(|| {
        Artifact::Tests(Binary {
            file: name.to_owned(),
            path,
        })
    }))
}

impl Built {
    /// The binary of a file of tests.
    pub fn binary(&self, file: &str) -> Result<&Binary> {
        let binary = self.binaries.iter().find(|binary| binary.file == file);
        binary.with_context(|| format!("there is no tests/tests/{file}.rs"))
    }

    /// The tests that are asked for, as `FILE` or `FILE:FILTER`.
    pub fn select(&self, suites: &[&str]) -> Result<Vec<Test>> {
        let mut selected: Vec<Test> = Vec::new();
        for suite in suites {
            let (file, filter) = suite.split_once(':').unwrap_or((suite, ""));
            let tests = self.tests(file)?;
            let before = selected.len();
            selected.extend(tests.into_iter().filter(|test| test.name.contains(filter)));
            if selected.len() == before {
                bail!("`{suite}` names no test");
            }
        }
        Ok(selected)
    }

    /// Every test of a file.
    pub fn tests(&self, file: &str) -> Result<Vec<Test>> {
        let list = list(&self.binary(file)?.path)?;
        let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
        Ok(tests
            .map(|name| Test {
                file: file.to_owned(),
                name: name.to_owned(),
            })
            .collect())
    }
}

fn list(binary: &Path) -> Result<String> {
    let program = binary.to_string_lossy();
    command::read(&mut command(&program, &["--list", "--format", "terse"]))
}
