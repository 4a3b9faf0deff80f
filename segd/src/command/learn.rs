//! `segd learn`: a minimal policy for what was seen, checked against what was seen before it is printed.

mod judge;
mod proposal;
mod recorded;

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use super::{ClientArgs, INTERNAL, NO, apply::Seconds};
use crate::output::{self, clean};
use proposal::Base;
use recorded::{Recording, from_daemon, from_log};

/// `-o` of `segd learn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LearnFormat {
    /// A policy with comments; with `--merge` a patch
    #[default]
    Yaml,
    /// The same, with every segment and rule as data
    Json,
}

/// Flags of `segd learn`.
#[derive(Debug, clap::Args)]
pub struct LearnArgs {
    /// Listen for this long, as in 10m; without it, what the daemon has recorded (its newest 4096 flows)
    #[arg(long = "for", value_name = "TIME", conflicts_with = "from_log")]
    listen: Option<Seconds>,
    /// Learn from a recorded log instead: the lines of `segd flows -o json`, or `-` for stdin
    #[arg(long, value_name = "FILE")]
    from_log: Option<PathBuf>,
    /// Propose additions to this policy, as a patch; may be repeated
    #[arg(long, value_name = "PATH")]
    merge: Vec<PathBuf>,
    /// Propose rules for what was dropped for want of a rule, too
    #[arg(long)]
    include_denied: bool,
    #[command(flatten)]
    client: ClientArgs,
    /// How to print the proposal
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: LearnFormat,
}

/// Why there is no proposal: the exit code, and what to say on stderr.
#[derive(Debug)]
struct Failed {
    code: u8,
    complaint: String,
}

impl Failed {
    fn new(code: u8, message: &str, help: Option<&str>) -> Failed {
        let help = help.map(|help| format!("help: {}\n", clean(help)));
        Failed {
            code,
            complaint: format!("error: {}\n{}", clean(message), help.unwrap_or_default()),
        }
    }
}

impl LearnArgs {
    /// Runs it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.propose() {
            Ok((text, warnings)) => {
                let mut err = std::io::stderr().lock();
                for warning in warnings {
                    let _ = writeln!(err, "warning: {}", clean(&warning));
                }
                drop(err);
                super::text(&text)
            }
            Err(failed) => {
                let _ = std::io::stderr().lock().write_all(failed.complaint.as_bytes());
                ExitCode::from(failed.code)
            }
        }
    }

    /// What to print, and what to warn of.
    fn propose(&self) -> Result<(String, Vec<String>), Failed> {
        // A policy that is wrong is told before anybody waits for ten minutes.
        let base = Base::load(&self.merge)?;
        let mut recording = Recording::new(self.include_denied);
        match &self.from_log {
            Some(log) => from_log(log, &mut recording)?,
            None => from_daemon(
                &self.client.control,
                self.listen.map(|time| time.0),
                &mut recording,
            )?,
        }
        if recording.read == 0 {
            let help =
                "docs/learn.md says how to record: an empty policy in audit mode, then the usual traffic";
            return Err(Failed::new(
                NO,
                "no flow was seen: there is nothing to propose",
                Some(help),
            ));
        }
        let answer = proposal::propose(&recording, base)?;
        let text = match self.output {
            LearnFormat::Yaml => answer.text.clone(),
            LearnFormat::Json => output::json(&answer, true)
                .map_err(|error| Failed::new(INTERNAL, &format!("cannot print: {error:#}"), None))?,
        };
        Ok((text, answer.warnings))
    }
}
