//! Tests that a kernel cannot run, each with its reason: declared in `tests/kernels.txt`, never found out in passing.
//!
//! A line is `KERNELS | TESTS | REASON`. Kernels are `all`, `before VERSION` or `from VERSION`; tests are `FILE::NAME`, or
//! `FILE::*` for a whole file.

use std::fs;

use anyhow::{Context as _, Result, bail};

use super::catalogue::{self, Kernel};
use crate::{
    built::{Built, Test},
    workspace,
};

/// Where they are declared, below the top of the repository.
const FILE: &str = "tests/kernels.txt";

/// The whole list.
#[derive(Debug)]
pub struct List(Vec<Line>);

#[derive(Debug, PartialEq, Eq)]
struct Line {
    kernels: Kernels,
    file: String,
    /// `None`: every test of the file.
    name: Option<String>,
    reason: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Kernels {
    All,
    Before(Vec<u32>),
    From(Vec<u32>),
}

/// A test that is not run, and why.
#[derive(Clone, Debug)]
pub struct Uncovered {
    /// The test.
    pub test: Test,
    /// Why.
    pub reason: String,
}

impl List {
    /// Reads the list; a line that names no test is an error.
    pub fn read(built: &Built) -> Result<List> {
        let path = workspace::root().join(FILE);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let list = List::parse(&text)?;
        for line in &list.0 {
            let tests = built.tests(&line.file).context(FILE)?;
            if !tests.iter().any(|test| line.names(test)) {
                let name = line.name.as_deref().unwrap_or("*");
                bail!("{FILE}: there is no test {}::{name}", line.file);
            }
        }
        Ok(list)
    }

    fn parse(text: &str) -> Result<List> {
        let mut list = Vec::new();
        for (number, line) in text.lines().enumerate() {
            if !line.trim().is_empty() && !line.starts_with('#') {
                list.push(Line::parse(line).with_context(|| format!("{FILE}:{}", number + 1))?);
            }
        }
        Ok(List(list))
    }

    /// The tests that `kernel` cannot run, and those that it has to.
    pub fn split(&self, kernel: &Kernel, tests: &[Test]) -> (Vec<Uncovered>, Vec<Test>) {
        let (mut uncovered, mut covered) = (Vec::new(), Vec::new());
        for test in tests {
            match self
                .0
                .iter()
                .find(|line| line.names(test) && line.kernels.have(kernel))
            {
                Some(line) => uncovered.push(Uncovered {
                    test: test.clone(),
                    reason: line.reason.clone(),
                }),
                None => covered.push(test.clone()),
            }
        }
        (uncovered, covered)
    }
}

impl Line {
    fn parse(line: &str) -> Result<Line> {
        let parts: Vec<&str> = line.splitn(3, '|').map(str::trim).collect();
        let [kernels, tests, reason] = parts[..] else {
            bail!("write it as `KERNELS | FILE::TEST | REASON`");
        };
        let (file, name) = tests
            .split_once("::")
            .context("write the tests as `FILE::TEST`")?;
        if reason.is_empty() {
            bail!("a test is not left out without a reason");
        }
        Ok(Line {
            kernels: Kernels::parse(kernels)?,
            file: file.to_owned(),
            name: (name != "*").then(|| name.to_owned()),
            reason: reason.to_owned(),
        })
    }

    fn names(&self, test: &Test) -> bool {
        self.file == test.file && self.name.as_ref().is_none_or(|name| *name == test.name)
    }
}

impl Kernels {
    fn parse(text: &str) -> Result<Kernels> {
        if text == "all" {
            return Ok(Kernels::All);
        }
        match text.split_once(' ') {
            Some(("before", version)) => Ok(Kernels::Before(catalogue::version(version))),
            Some(("from", version)) => Ok(Kernels::From(catalogue::version(version))),
            _ => bail!("kernels are `all`, `before VERSION` or `from VERSION`, not `{text}`"),
        }
    }

    fn have(&self, kernel: &Kernel) -> bool {
        match self {
            Kernels::All => true,
            Kernels::Before(version) => kernel.version() < *version,
            Kernels::From(version) => kernel.version() >= *version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(file: &str, name: &str) -> Test {
        Test {
            file: file.to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn leaves_out_what_is_declared_and_nothing_else() {
        let list =
            List::parse("# why\n\nbefore 6.6 | links::* | no tcx\nall | start::b | slow | very\n").unwrap();
        let tests = [test("links", "a"), test("start", "a"), test("start", "b")];
        let [old, .., new] = catalogue::KERNELS else {
            panic!("two kernels")
        };
        let (uncovered, covered) = list.split(old, &tests);
        assert_eq!(covered, [test("start", "a")]);
        let reasons: Vec<&str> = uncovered.iter().map(|one| one.reason.as_str()).collect();
        assert_eq!(reasons, ["no tcx", "slow | very"]);
        assert_eq!(
            list.split(new, &tests).1,
            [test("links", "a"), test("start", "a")]
        );
    }

    #[test]
    fn a_line_has_kernels_tests_and_a_reason() {
        for wrong in [
            "all | a::b",
            "all | a::b | ",
            "all | a | why",
            "some | a::b | why",
        ] {
            assert!(List::parse(wrong).is_err(), "{wrong}");
        }
    }
}
