//! What a machine says, line by line, turned into what became of each test.

use std::time::{Duration, Instant};

use crate::built::Test;

/// How a line of the harness begins; every other line is a test's own.
const MARK: &str = "@segd ";

/// What became of a machine and its tests.
#[derive(Debug)]
pub struct Run {
    /// Whether it came to its first process.
    pub booted: bool,
    /// What `segd doctor` finds missing or degraded there: check and cost.
    pub gaps: Vec<String>,
    /// Each test that was asked for, in that order.
    pub results: Vec<(Test, Outcome)>,
    /// What else went wrong.
    pub troubles: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// What became of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It said so.
    Passed,
    /// It ended with another exit code, and said this.
    Failed(String),
    /// It was not begun, or did not end.
    Missing,
}

/// A run that is under way.
pub struct Transcript {
    /// Whose, for those who read more than one at once.
    kernel: &'static str,
    results: Vec<(Test, Outcome)>,
    start: Instant,
    begun: Instant,
    booted: bool,
    done: bool,
    broken: bool,
    gaps: Vec<String>,
    troubles: Vec<String>,
    /// What the test that is under way has said.
    said: Vec<String>,
}

impl Transcript {
    /// Before the first line.
    pub fn new(kernel: &'static str, tests: &[Test]) -> Transcript {
        let results = tests.iter().map(|test| (test.clone(), Outcome::Missing));
        Transcript {
            kernel,
            results: results.collect(),
            start: Instant::now(),
            begun: Instant::now(),
            booted: false,
            done: false,
            broken: false,
            gaps: Vec::new(),
            troubles: Vec::new(),
            said: Vec::new(),
        }
    }

    /// Takes a line into account; prints what a person wants to see at once.
    pub fn hear(&mut self, line: &str) {
        let Some(line) = line.strip_prefix(MARK) else {
            return self.said.push(line.to_owned());
        };
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "here" => {
                self.booted = true;
                let took = self.start.elapsed().as_secs_f32();
                self.tell(&format!("booted in {took:.1} s"));
            }
            "begin" => {
                self.begun = Instant::now();
                self.said.clear();
            }
            "end" => self.end(rest),
            "doctor" => self.doctor(rest),
            "verified" => self.tell(&format!("    {rest}")),
            "done" => self.done = true,
            _ => self.troubles.push(line.to_owned()),
        }
    }

    /// `FILE TEST CODE`.
    fn end(&mut self, rest: &str) {
        let mut words = rest.splitn(3, ' ');
        let (file, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let code = words.next().unwrap_or_default();
        let outcome = if code == "0" {
            Outcome::Passed
        } else {
            Outcome::Failed(format!("exit code {code}\n{}", self.said.join("\n")))
        };
        let word = if code == "0" { "ok" } else { "FAILED" };
        let took = self.begun.elapsed().as_secs_f32();
        self.tell(&format!("{word:>6} {took:6.1} s  {file}::{name}"));
        if let Outcome::Failed(why) = &outcome {
            self.tell(why);
        }
        let test = self
            .results
            .iter_mut()
            .find(|(test, _)| test.file == file && test.name == name);
        match test {
            Some(test) => test.1 = outcome,
            None => self
                .troubles
                .push(format!("a test that nobody asked for: {rest}")),
        }
    }

    fn doctor(&mut self, answer: &str) {
        let answer: serde_json::Value = match serde_json::from_str(answer) {
            Ok(answer) => answer,
            Err(error) => return self.troubles.push(format!("`segd doctor`: {error}: {answer}")),
        };
        for check in answer["checks"].as_array().into_iter().flatten() {
            let text = |key: &str| check[key].as_str().unwrap_or_default();
            if text("state") != "ok" {
                let gap = format!("{} ({})", text("name"), text("found"));
                self.tell(&format!("  lacks  {gap}"));
                self.gaps.push(gap);
            }
        }
    }

    /// Prints at once: other machines print, too.
    fn tell(&self, text: &str) {
        let lines = text.lines().map(|line| format!("{:<5} {line}\n", self.kernel));
        eprint!("{}", lines.collect::<String>());
    }

    /// Whether everything has been said.
    pub fn done(&self) -> bool {
        self.done
    }

    /// The machine cannot go on.
    pub fn broken(&mut self, why: String) {
        if !self.broken {
            self.tell(&format!("BROKEN: {why}"));
            self.troubles.push(why);
        }
        self.broken = true;
    }

    /// Whether [`Transcript::broken`] was said.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// After the last line; `console` is what the kernel said last.
    pub fn finish(mut self, console: &str) -> Run {
        if self.broken {
            self.tell(&format!(
                "--- the test under way said:\n{}\n--- the kernel said:\n{console}\n---",
                self.said.join("\n")
            ));
        }
        if !self.booted {
            self.troubles.push("it did not boot".to_owned());
        }
        Run {
            booted: self.booted,
            gaps: self.gaps,
            results: self.results,
            troubles: self.troubles,
            took: self.start.elapsed(),
        }
    }
}

impl Run {
    /// How many tests passed, and how many did not.
    pub fn counts(&self) -> (usize, usize) {
        let passed = |outcome: &Outcome| *outcome == Outcome::Passed;
        let count = self.results.iter().filter(|(_, outcome)| passed(outcome)).count();
        (count, self.results.len() - count)
    }

    /// Whether everything is as it must be.
    pub fn is_green(&self) -> bool {
        self.booted && self.troubles.is_empty() && self.counts().1 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lines: &[&str]) -> Run {
        let test = |name: &str| Test {
            file: "start".to_owned(),
            name: name.to_owned(),
        };
        let mut transcript = Transcript::new("6.1", &[test("a"), test("b")]);
        for line in lines {
            transcript.hear(line);
        }
        transcript.finish("")
    }

    const GREEN: &[&str] = &[
        "@segd here",
        r#"@segd doctor {"checks": [{"name": "tcx", "state": "degraded", "found": "none"}, {"name": "b", "state": "ok"}]}"#,
        "@segd begin start a",
        "@segd end start a 0",
        "@segd begin start b",
        "something",
        "@segd end start b 0",
        "@segd done",
    ];

    #[test]
    fn everything_that_passed_is_green() {
        let run = run(GREEN);
        assert!(run.is_green());
        assert_eq!(run.counts(), (2, 0));
        assert_eq!(run.gaps, ["tcx (none)"]);
    }

    #[test]
    fn whatever_is_missing_or_failed_is_not() {
        for line in &GREEN[..GREEN.len() - 1] {
            let lines: Vec<&str> = GREEN.iter().copied().filter(|other| other != line).collect();
            let harmless = !line.contains("@segd end") && *line != "@segd here";
            assert_eq!(run(&lines).is_green(), harmless, "{line}");
        }
        let mut lines = GREEN.to_vec();
        lines[6] = "@segd end start b 101";
        assert_eq!(
            run(&lines).results[1].1,
            Outcome::Failed("exit code 101\nsomething".to_owned())
        );
        lines[6] = "@segd end start b 0, and no test passed";
        assert!(!run(&lines).is_green());
        lines[6] = "@segd end start b 0";
        lines.push("@segd trouble: cannot load module veth");
        assert!(!run(&lines).is_green());
    }
}
