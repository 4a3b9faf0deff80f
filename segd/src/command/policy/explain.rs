//! `segd policy explain`.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode};

use segd_common::verdict::Outcome;

use super::{INVALID, NO, YES, answer, complain, style};
use crate::{
    output::{
        Format,
        policy::{Explained, print},
    },
    policy::{compile::compile, compiled::SegmentIndexes, explain::explain, port},
    source,
};

/// Say whether one segment may reach another.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// Files and directories; without any, the running daemon is asked
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Who initiates: a segment, `host` or `world`
    #[arg(long, value_name = "SEGMENT")]
    from: String,
    /// Towards whom: a segment, `host` or `world`
    #[arg(long, value_name = "SEGMENT")]
    to: String,
    /// On what, as in `tcp/5432` or `icmp/echo-request`
    #[arg(long, value_name = "PORT")]
    port: String,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// The daemon's control socket
    #[arg(long, value_name = "PATH", default_value = "/run/segd/control.sock")]
    control: PathBuf,
}

impl Explain {
    /// Runs it.
    pub(super) fn run(self) -> ExitCode {
        let service = match port::parse_one(&self.port) {
            Ok(service) => service,
            Err(problem) => {
                let help = problem.help.map(|help| format!("; {help}")).unwrap_or_default();
                return refuse(&format!("{}{help}", problem.message));
            }
        };
        if self.paths.is_empty() {
            return crate::command::live::explain(
                &self.control,
                &self.from,
                &self.to,
                &self.port,
                self.output,
            );
        }
        let loaded = match source::load(&self.paths, true) {
            Ok(loaded) => loaded,
            Err(error) => {
                complain(&error.render(style()));
                return ExitCode::from(INVALID);
            }
        };
        let mut indexes = SegmentIndexes::default();
        let tables = indexes
            .allocate(&loaded.policy, &BTreeSet::new())
            .and_then(|()| compile(&loaded.policy, &indexes, None));
        let tables = match tables {
            Ok(tables) => tables,
            Err(error) => return refuse(&error.to_string()),
        };
        match explain(&loaded.policy, &tables, &self.from, &self.to, service) {
            Ok(explanation) => {
                let code = if explanation.outcome == Outcome::Denied {
                    NO
                } else {
                    YES
                };
                answer(
                    print(self.output, &Explained::from(&explanation), Explained::table),
                    code,
                )
            }
            Err(unknown) => refuse(&unknown.to_string()),
        }
    }
}

fn refuse(message: &str) -> ExitCode {
    complain(&format!("error: {message}\n"));
    ExitCode::from(INVALID)
}
