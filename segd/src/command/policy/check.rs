//! `segd policy check`.

use std::{path::PathBuf, process::ExitCode};

use super::{INVALID, YES, answer, complain, style};
use crate::{
    output::{
        Format,
        policy::{Check as Answer, Summary, findings, print},
    },
    policy::compile::{CompileError, compile},
    policy::compiled::SegmentIndexes,
    source::{self, LoadError, Loaded},
};

/// Validate a policy.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Files and directories; a directory is read recursively (`*.yaml`, `*.yml`)
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Take a policy without any document
    #[arg(long)]
    allow_empty: bool,
}

impl Check {
    /// Runs it.
    pub(super) fn run(self) -> ExitCode {
        match source::load(&self.paths, self.allow_empty) {
            Ok(loaded) => self.valid(&loaded),
            Err(error) => self.invalid(&error),
        }
    }

    fn valid(&self, loaded: &Loaded) -> ExitCode {
        if let Err(error) = try_compile(loaded) {
            let answer_value = Answer {
                valid: false,
                summary: None,
                error: Some(error.to_string()),
                diagnostics: Vec::new(),
            };
            if self.output == Format::Table {
                complain(&format!("error: {error}\n"));
            }
            return answer(print(self.output, &answer_value, |_| String::new()), INVALID);
        }
        let value = Answer {
            valid: true,
            summary: Some(Summary::of(&loaded.policy, loaded.sources.len())),
            error: None,
            diagnostics: findings(&loaded.warnings, &loaded.sources),
        };
        if self.output == Format::Table {
            complain(&loaded.render_warnings(style()));
        }
        answer(print(self.output, &value, table), YES)
    }

    fn invalid(&self, error: &LoadError) -> ExitCode {
        let value = match error {
            LoadError::Unreadable(error) => Answer {
                valid: false,
                summary: None,
                error: Some(error.to_string()),
                diagnostics: Vec::new(),
            },
            LoadError::Invalid {
                diagnostics, sources, ..
            } => Answer {
                valid: false,
                summary: None,
                error: None,
                diagnostics: findings(diagnostics, sources),
            },
        };
        if self.output == Format::Table {
            complain(&error.render(style()));
            if let LoadError::Invalid { diagnostics, .. } = error {
                complain(&format!("\ninvalid: {}\n", counted(diagnostics.len(), "error")));
            }
        }
        answer(print(self.output, &value, |_| String::new()), INVALID)
    }
}

/// Whether it fits into the kernel tables.
fn try_compile(loaded: &Loaded) -> Result<(), CompileError> {
    let mut indexes = SegmentIndexes::default();
    indexes.allocate(&loaded.policy, &std::collections::BTreeSet::new())?;
    compile(&loaded.policy, &indexes, None).map(drop)
}

/// `ok: 3 segments, 7 rules (6 allow, 1 deny), 2 files`.
fn table(answer: &Answer) -> String {
    let Some(summary) = &answer.summary else {
        return String::new();
    };
    let mut line = format!("ok: {}, ", counted(summary.segments, "segment"));
    line.push_str(&counted(summary.allow + summary.deny, "rule"));
    line.push_str(&format!(" ({} allow, {} deny), ", summary.allow, summary.deny));
    line.push_str(&counted(summary.files, "file"));
    if !answer.diagnostics.is_empty() {
        line.push_str(&format!(", {}", counted(answer.diagnostics.len(), "warning")));
    }
    line + "\n"
}

/// `1 rule`, `2 rules`.
fn counted(count: usize, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}
