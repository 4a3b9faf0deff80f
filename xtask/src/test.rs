//! `cargo xtask test`: sets up, builds, runs everything, counts.
//!
//! It runs the test binaries itself, the way cargo does: with `cargo test` for each suite, cargo would build segd for each.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, ExitCode, ExitStatus, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    both::both,
    built::{self, Binary, Built, TESTS},
    command::{self, command},
    lock::HostLock,
    setup, tidy, workspace,
};

/// `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A suite (`unit`, `kernel`, `attack`), or part of the names of the tests to run; default: everything.
    filter: Option<String>,
    /// Only build what it runs.
    #[arg(long)]
    no_run: bool,
}

/// Test binaries that are run in the same way.
#[derive(Debug)]
struct Suite {
    name: &'static str,
    /// The folders of the packages that it tests.
    packages: &'static [&'static str],
    /// Only the test files that the threat model names: a part of another suite, which runs when it is named.
    catalogue: bool,
    /// Its tests attach to the real cgroup root: one after another, as root, and a skip is a failure.
    kernel: bool,
}

const SUITES: &[Suite] = &[
    Suite {
        name: "unit",
        packages: &["segd-common", "segd", "xtask"],
        catalogue: false,
        kernel: false,
    },
    Suite {
        name: "kernel",
        packages: &[TESTS],
        catalogue: false,
        kernel: true,
    },
    Suite {
        name: "attack",
        packages: &[TESTS],
        catalogue: true,
        kernel: true,
    },
];

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    passed: u32,
    failed: u32,
    ignored: u32,
}

/// What became of a suite.
struct Outcome {
    suite: &'static str,
    counts: Counts,
    /// What did not pass: binaries by their source, and how they ended.
    broken: Vec<String>,
}

/// Runs `cargo xtask test`.
pub fn run(options: &Options) -> Result<ExitCode> {
    let start = Instant::now();
    setup::ensure(setup::Scope::Test)?;
    let (suites, filter) = chosen(options.filter.as_deref());
    if !workspace::is_root() {
        eprintln!(
            "NOT ROOT: the tests against the real kernel will say that they are skipped; run this as root."
        );
    }
    let build = || {
        let built = built::build()?;
        if suites.iter().any(|suite| suite.kernel) {
            workspace::build_other_layout()?;
        }
        anyhow::Ok(built)
    };
    // Each keeps one processor alone busy for a while, and they do not wait for each other: one is a release, the others are not.
    let (built, ()) = both(build, workspace::build_segd)?;
    let mut plan = Vec::new();
    for suite in suites {
        plan.push((suite, suite.binaries(&built)?));
    }
    if options.no_run {
        return Ok(ExitCode::SUCCESS);
    }

    let mut outcomes = Vec::new();
    for (suite, binaries) in plan {
        let _lock = if suite.kernel && workspace::is_root() {
            Some(HostLock::take()?)
        } else {
            None
        };
        outcomes.push(suite.run(&binaries, filter)?);
    }
    let took = start.elapsed().as_secs();
    let total =
        |count: fn(&Counts) -> u32| outcomes.iter().map(|outcome| count(&outcome.counts)).sum::<u32>();
    println!(
        "\n{} passed, {} failed, {} ignored in {took} s",
        total(|counts| counts.passed),
        total(|counts| counts.failed),
        total(|counts| counts.ignored)
    );
    let failures = failures(&outcomes, filter.is_some());
    if failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("FAILED:");
    for failure in failures {
        println!("    {failure}");
    }
    Ok(ExitCode::FAILURE)
}

/// The suites that run, and what the names of their tests have to contain: what is no suite is a part of names.
fn chosen(word: Option<&str>) -> (Vec<&'static Suite>, Option<&str>) {
    let named: Vec<&Suite> = SUITES.iter().filter(|suite| Some(suite.name) == word).collect();
    if !named.is_empty() {
        return (named, None);
    }
    (SUITES.iter().filter(|suite| !suite.catalogue).collect(), word)
}

/// What went wrong, as a person wants to read it last. A suite that ran nothing has failed, but where tests are asked for by
/// their names only all of them together have.
fn failures(outcomes: &[Outcome], filtered: bool) -> Vec<String> {
    let mut failures = Vec::new();
    for outcome in outcomes {
        failures.extend(
            outcome
                .broken
                .iter()
                .map(|what| format!("{}: {what}", outcome.suite)),
        );
        if !filtered && outcome.counts.passed == 0 {
            failures.push(format!("{}: no test passed", outcome.suite));
        }
    }
    if outcomes.iter().all(|outcome| outcome.counts.passed == 0) {
        failures.push("nothing ran".to_owned());
    }
    failures
}

impl Suite {
    /// Its binaries, in the order in which they run. It is an error if a file of the catalogue has none, or a binary no suite.
    fn binaries<'a>(&self, built: &'a Built) -> Result<Vec<&'a Binary>> {
        let threats = if self.catalogue {
            Some(tidy::threats()?)
        } else {
            None
        };
        for file in threats.iter().flatten() {
            built
                .binary(file)
                .context("the threat model names a file of tests")?;
        }
        for binary in &built.binaries {
            if !SUITES.iter().any(|suite| suite.tests(binary)) {
                bail!("no suite runs {}", binary.file());
            }
        }
        let ours = |binary: &&Binary| {
            let named = threats
                .as_ref()
                .is_none_or(|threats| threats.contains(&binary.name));
            self.tests(binary) && named
        };
        Ok(built.binaries.iter().filter(ours).collect())
    }

    /// Whether it is about the package of a binary.
    fn tests(&self, binary: &Binary) -> bool {
        self.packages.contains(&binary.package.as_str())
    }

    /// Runs one binary after another, whatever became of those before.
    fn run(&self, binaries: &[&Binary], filter: Option<&str>) -> Result<Outcome> {
        println!("\n== {}: {} test binaries", self.name, binaries.len());
        let mut outcome = Outcome {
            suite: self.name,
            counts: Counts::default(),
            broken: Vec::new(),
        };
        for binary in binaries {
            println!("\n     Running {} ({})", binary.file(), binary.path.display());
            outcome.run(&binary.file(), self.command(binary, filter))?;
        }
        if !self.kernel {
            // The same selection: cargo has built it.
            let mut doc = command::cargo(&["test", "--locked", "--no-fail-fast", "--doc", "--"]);
            doc.args(filter);
            outcome.run("doc tests", doc)?;
        }
        Ok(outcome)
    }

    /// How cargo would start it, from the folder of its package.
    fn command(&self, binary: &Binary, filter: Option<&str>) -> Command {
        let folder = workspace::root().join(&binary.package);
        let mut command = command(&binary.path.to_string_lossy(), &[]);
        command
            .current_dir(&folder)
            // Cargo has told us of xtask's.
            .env("CARGO_MANIFEST_DIR", &folder)
            .env("SEGD_BIN", workspace::segd())
            .env("SEGD_TOOLS", workspace::tools())
            .env("SEGD_OTHER_LAYOUT", workspace::other_layout());
        command.args(filter);
        if self.kernel {
            command.arg("--test-threads=1");
            if workspace::is_root() {
                command.env("SEGD_REQUIRE_KERNEL", "1");
            }
        }
        command
    }
}

impl Outcome {
    /// Runs a command that says what became of tests, and counts them.
    fn run(&mut self, what: &str, mut command: Command) -> Result<()> {
        let line = command::line(&command);
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{line}`"))?;
        let mut said = false;
        let mut output = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut bytes = Vec::new();
        while output
            .read_until(b'\n', &mut bytes)
            .context("cannot read what the tests say")?
            > 0
        {
            let text = String::from_utf8_lossy(&bytes);
            print!("{text}");
            said |= self.counts.add(text.trim_end());
            bytes.clear();
        }
        let status = child
            .wait()
            .with_context(|| format!("cannot wait for `{line}`"))?;
        self.judge(what, status, said);
        Ok(())
    }

    /// A binary has passed if it says so twice: a test that ends the process, with whatever code, ends those after it unseen.
    fn judge(&mut self, what: &str, status: ExitStatus, said: bool) {
        if !status.success() {
            self.broken.push(format!("{what} ({status})"));
        } else if !said {
            self.broken
                .push(format!("{what} (it did not say how its tests ended)"));
        }
    }
}

impl Counts {
    /// Takes a line like `test result: ok. 3 passed; 0 failed; 1 ignored; …` into account; whether it is one.
    fn add(&mut self, line: &str) -> bool {
        let Some((_, result)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return false;
        };
        for part in result.split("; ") {
            let Some((number, word)) = part.split_once(' ') else {
                continue;
            };
            let number = number.parse().unwrap_or(0);
            match word {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;
    use crate::built::Kind;

    fn binary(package: &str, kind: Kind, name: &str) -> Binary {
        Binary {
            package: package.to_owned(),
            kind,
            name: name.to_owned(),
            source: format!("tests/{name}.rs"),
            path: name.into(),
        }
    }

    fn built(binaries: Vec<Binary>) -> Built {
        Built {
            binaries,
            worker: "segd-test-worker".into(),
        }
    }

    /// One of each package, and what the threat model names.
    fn everything() -> Built {
        let mut binaries = vec![
            binary("segd", Kind::Library, "segd"),
            binary("segd", Kind::File, "limits"),
            binary("segd-common", Kind::Library, "segd_common"),
            binary("tests", Kind::Program, "segd-test-worker"),
            binary("tests", Kind::File, "not_named_by_the_threat_model"),
            binary("xtask", Kind::Program, "xtask"),
        ];
        let threats = tidy::threats().unwrap();
        assert!(
            threats.contains("limits") && threats.contains("attack"),
            "{threats:?}"
        );
        binaries.extend(threats.iter().map(|file| binary("tests", Kind::File, file)));
        built(binaries)
    }

    fn names(word: Option<&str>) -> Vec<String> {
        let built = everything();
        let (suites, _) = chosen(word);
        let binaries = suites.iter().flat_map(|suite| suite.binaries(&built).unwrap());
        binaries.map(Binary::file).collect()
    }

    #[test]
    fn a_word_is_a_suite_or_a_part_of_names() {
        let names = |word| -> Vec<&str> { chosen(word).0.iter().map(|suite| suite.name).collect() };
        assert_eq!(names(None), ["unit", "kernel"]);
        assert_eq!(names(Some("unit")), ["unit"]);
        assert_eq!(names(Some("attack")), ["attack"]);
        assert_eq!(names(Some("attacker")), ["unit", "kernel"]);
        assert_eq!(chosen(Some("attack")).1, None);
        assert_eq!(chosen(Some("attacker")).1, Some("attacker"));
    }

    #[test]
    fn a_binary_belongs_to_the_suite_of_its_package() {
        let unit = names(Some("unit"));
        let expected = [
            "segd/tests/segd.rs",
            "segd/tests/limits.rs",
            "segd-common/tests/segd_common.rs",
            "xtask/tests/xtask.rs",
        ];
        assert_eq!(unit, expected);
        let kernel = names(Some("kernel"));
        assert!(kernel.iter().all(|file| file.starts_with("tests/")), "{kernel:?}");
        assert_eq!(names(None), [unit, kernel].concat());
        assert_eq!(names(None).len(), everything().binaries.len());
    }

    #[test]
    fn the_catalogue_is_what_the_threat_model_names() {
        let attack = names(Some("attack"));
        let expected: Vec<String> = tidy::threats()
            .unwrap()
            .iter()
            .map(|file| format!("tests/tests/{file}.rs"))
            .collect();
        assert_eq!(attack, expected);
        let nothing = built(vec![binary("tests", Kind::File, "start")]);
        let [.., catalogue] = SUITES else {
            panic!("no suite")
        };
        assert!(catalogue.catalogue && catalogue.binaries(&nothing).is_err());
    }

    #[test]
    fn a_binary_that_no_suite_runs_is_an_error() {
        let [unit, ..] = SUITES else { panic!("no suite") };
        let more = built(vec![binary(
            "tests/other-layout",
            Kind::Program,
            "segd-other-layout",
        )]);
        assert!(unit.binaries(&more).is_err());
    }

    #[test]
    fn the_kernels_tests_run_one_after_another() {
        let [unit, kernel, ..] = SUITES else {
            panic!("no suite")
        };
        let args = |suite: &Suite| {
            command::line(&suite.command(&binary("tests", Kind::File, "start"), Some("a_name")))
        };
        assert!(args(unit).ends_with("start a_name"));
        assert!(args(kernel).ends_with("start a_name --test-threads=1"));
    }

    fn outcome(suite: &'static str, passed: u32, broken: &[&str]) -> Outcome {
        let counts = Counts {
            passed,
            ..Counts::default()
        };
        let broken = broken.iter().map(|&what| what.to_owned()).collect();
        Outcome {
            suite,
            counts,
            broken,
        }
    }

    #[test]
    fn what_failed_is_told_at_the_end() {
        let outcomes = [
            outcome("unit", 5, &[]),
            outcome("kernel", 7, &["tests/tests/lost.rs (exit status: 101)"]),
        ];
        assert!(failures(&outcomes[..1], false).is_empty());
        assert_eq!(
            failures(&outcomes, false),
            ["kernel: tests/tests/lost.rs (exit status: 101)"]
        );
    }

    #[test]
    fn a_suite_that_runs_nothing_has_failed() {
        let outcomes = [outcome("unit", 5, &[]), outcome("kernel", 0, &[])];
        assert_eq!(failures(&outcomes, false), ["kernel: no test passed"]);
        // The test that was asked for by its name is in the other one.
        assert!(failures(&outcomes, true).is_empty());
        assert_eq!(failures(&outcomes[1..], true), ["nothing ran"]);
        assert!(!failures(&[], false).is_empty());
    }

    #[test]
    fn a_binary_that_ends_in_the_middle_has_failed() {
        let mut outcome = outcome("unit", 1, &[]);
        outcome.judge("a", ExitStatus::from_raw(0), true);
        assert!(outcome.broken.is_empty());
        outcome.judge("b", ExitStatus::from_raw(0), false);
        outcome.judge("c", ExitStatus::from_raw(101 << 8), true);
        outcome.judge("d", ExitStatus::from_raw(11), false);
        let expected = [
            "b (it did not say how its tests ended)",
            "c (exit status: 101)",
            "d (signal: 11 (SIGSEGV))",
        ];
        assert_eq!(outcome.broken, expected);
    }

    #[test]
    fn adds_up_what_the_test_binaries_say() {
        let mut counts = Counts::default();
        assert!(!counts.add("running 3 tests"));
        assert!(counts.add(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s",
        ));
        assert!(counts.add("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out"));
        assert_eq!((counts.passed, counts.failed, counts.ignored), (4, 2, 1));
    }
}
