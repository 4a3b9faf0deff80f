//! The test binaries that cargo built, and the tests in them.
//!
//! INVARIANT: there is one selection of packages, the default members, for whoever runs tests. Cargo gives what it builds
//! together the features that any of it asks for: with a selection of its own each command would build segd anew.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command::{self, cargo, command},
    workspace,
};

/// A test: the file it stands in and its name there. `segd` is the file of the daemon's unit tests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Test {
    /// The file in `tests/tests`, without its ending.
    pub file: String,
    /// The name that libtest knows it by.
    pub name: String,
}

/// A test binary. They are in the order in which `cargo test` would run them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binary {
    /// The folder of its package, below the top of the repository.
    pub package: String,
    /// What it tests.
    pub kind: Kind,
    /// The name of the library, of the program or of the file of tests.
    pub name: String,
    /// The file it is built from, below the folder of its package.
    pub source: String,
    /// Where it is.
    pub path: PathBuf,
}

/// What a binary tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The units of a library.
    Library,
    /// The units of a program.
    Program,
    /// Whatever the file of tests is about.
    File,
}

/// Everything that was built.
#[derive(Debug)]
pub struct Built {
    /// The test binaries.
    pub binaries: Vec<Binary>,
    /// The workers of the tests.
    pub worker: PathBuf,
}

/// The folder of the tests against the kernel.
pub const TESTS: &str = "tests";
/// The program that plays a workload in the tests.
const WORKER: &str = "segd-test-worker";

/// Builds the test binaries.
pub fn build() -> Result<Built> {
    // What the compiler has to say is for people.
    let mut cargo = cargo(&[
        "test",
        "--locked",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    let line = command::line(&cargo);
    eprintln!("$ {line}");
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed: {}", output.status);
    }
    Built::read(&String::from_utf8_lossy(&output.stdout), workspace::root())
}

enum Artifact {
    Worker(PathBuf),
    Tests(Binary),
}

/// Reads one message of cargo; most are about something else.
fn artifact(message: &str, root: &Path) -> Result<Option<Artifact>> {
    let message: serde_json::Value = serde_json::from_str(message).context("cargo's message is no JSON")?;
    let Some(path) = message["executable"].as_str().map(PathBuf::from) else {
        return Ok(None);
    };
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let target = &message["target"];
    let name = text(&target["name"]);
    if message["profile"]["test"] != true {
        return Ok((name == WORKER).then_some(Artifact::Worker(path)));
    }
    let kind = match target["kind"][0].as_str() {
        Some("lib") => Kind::Library,
        Some("bin") => Kind::Program,
        Some("test") => Kind::File,
        other => bail!("`{name}` is a test binary of a kind that nobody runs: {other:?}"),
    };
    let below = |file: &str, folder: &Path| -> Result<String> {
        let inside = Path::new(file).strip_prefix(folder);
        let inside = inside.with_context(|| format!("{file} is not in {}", folder.display()))?;
        Ok(inside.to_string_lossy().into_owned())
    };
    let manifest = below(&text(&message["manifest_path"]), root)?;
    let package = manifest
        .strip_suffix("/Cargo.toml")
        .unwrap_or_default()
        .to_owned();
    let source = below(&text(&target["src_path"]), &root.join(&package))?;
    Ok(Some(Artifact::Tests(Binary {
        package,
        kind,
        name,
        source,
        path,
    })))
}

impl Built {
    /// Reads everything that cargo says.
    fn read(messages: &str, root: &Path) -> Result<Built> {
        let mut binaries = Vec::new();
        let mut worker = None;
        for message in messages.lines() {
            match artifact(message, root)? {
                Some(Artifact::Worker(path)) => worker = Some(path),
                Some(Artifact::Tests(binary)) => binaries.push(binary),
                None => {}
            }
        }
        binaries.sort();
        let worker = worker.with_context(|| format!("cargo built no {WORKER}"))?;
        Ok(Built { binaries, worker })
    }

    /// The binary of a file of `tests/tests`, or of the daemon's unit tests.
    pub fn binary(&self, file: &str) -> Result<&Binary> {
        let is_it = |binary: &&Binary| {
            let place = (binary.package.as_str(), binary.kind);
            binary.name == file && [(TESTS, Kind::File), ("segd", Kind::Library)].contains(&place)
        };
        let binary = self.binaries.iter().find(is_it);
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

impl Binary {
    /// Its source, below the top of the repository: what people know it by.
    pub fn file(&self) -> String {
        format!("{}/{}", self.package, self.source)
    }
}

fn list(binary: &Path) -> Result<String> {
    let program = binary.to_string_lossy();
    command::read(&mut command(&program, &["--list", "--format", "terse"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As cargo 1.95 says it, without what nobody reads here.
    fn message(package: &str, kind: &str, name: &str, source: &str, test: bool) -> String {
        format!(
            r#"{{"reason": "compiler-artifact", "manifest_path": "/top/{package}/Cargo.toml", "target": {{"kind": ["{kind}"], "name": "{name}",
            "src_path": "/top/{package}/{source}"}}, "profile": {{"test": {test}}}, "executable": "/top/target/debug/deps/{name}-0"}}"#
        )
        .replace('\n', " ")
    }

    fn built() -> Built {
        let messages = [
            r#"{"reason": "compiler-artifact", "executable": null}"#.to_owned(),
            message("tests", "test", "limits", "tests/limits.rs", true),
            message("tests", "bin", WORKER, "src/bin/segd-test-worker.rs", true),
            message("tests", "bin", WORKER, "src/bin/segd-test-worker.rs", false),
            message("segd-common", "lib", "segd_common", "src/lib.rs", true),
            message("segd", "test", "limits", "tests/limits.rs", true),
            message("segd", "bin", "segd", "src/main.rs", true),
            message("segd", "bin", "segd", "src/main.rs", false),
            message("segd", "lib", "segd", "src/lib.rs", true),
            r#"{"reason": "build-finished", "success": true}"#.to_owned(),
        ];
        Built::read(&messages.join("\n"), Path::new("/top")).unwrap()
    }

    #[test]
    fn the_binaries_are_in_the_order_of_cargo() {
        let files: Vec<String> = built().binaries.iter().map(Binary::file).collect();
        let expected = [
            "segd/src/lib.rs",
            "segd/src/main.rs",
            "segd/tests/limits.rs",
            "segd-common/src/lib.rs",
            "tests/src/bin/segd-test-worker.rs",
            "tests/tests/limits.rs",
        ];
        assert_eq!(files, expected);
    }

    #[test]
    fn a_file_of_another_package_is_not_meant() {
        let built = built();
        assert_eq!(built.binary("limits").unwrap().file(), "tests/tests/limits.rs");
        assert_eq!(built.binary("segd").unwrap().file(), "segd/src/lib.rs");
        assert!(built.binary("segd_common").is_err());
    }

    #[test]
    fn a_test_binary_that_nobody_would_run_is_an_error() {
        let bench = message("tests", "bench", "datapath", "benches/datapath/main.rs", true);
        assert!(Built::read(&bench, Path::new("/top")).is_err());
    }
}
