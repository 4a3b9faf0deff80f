//! `segd policy explain`.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode};

use segd_common::{service::Service, verdict::Outcome};

use super::{INVALID, NO, Reply, YES};
use crate::{
    output::{
        Format,
        policy::{Explained, print},
    },
    policy::{compile::compile, compiled::SegmentIndexes, diagnostic::Style, explain::explain, port},
    source::{self, Trust},
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
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// The daemon's control socket
    #[arg(
        long,
        env = "SEGD_CONTROL",
        value_name = "PATH",
        default_value = "/run/segd/control.sock"
    )]
    control: PathBuf,
}

impl Explain {
    /// Whether no policy was given.
    pub(super) fn asks_the_daemon(&self) -> bool {
        self.paths.is_empty()
    }

    /// Hands the question to the daemon.
    pub(super) fn ask_the_daemon(&self) -> ExitCode {
        if let Err(refusal) = self.service() {
            return refusal.send();
        }
        crate::command::live::explain(&self.control, &self.from, &self.to, &self.port, self.output)
    }

    /// The answer from the policy that was given.
    pub(super) fn reply(&self, style: Style) -> Reply {
        let service = match self.service() {
            Ok(service) => service,
            Err(refusal) => return refusal,
        };
        let loaded = match source::load(&self.paths, true, &Trust::Everybody) {
            Ok(loaded) => loaded,
            Err(error) => {
                return Reply {
                    complaint: error.render(style),
                    code: INVALID,
                    ..Reply::default()
                };
            }
        };
        let mut indexes = SegmentIndexes::default();
        let tables = indexes
            .allocate(&loaded.policy, &BTreeSet::new())
            .and_then(|()| compile(&loaded.policy, &indexes, None));
        let tables = match tables {
            Ok(tables) => tables,
            Err(error) => return Reply::refusal(&error.to_string()),
        };
        match explain(&loaded.policy, &tables, &self.from, &self.to, service) {
            Ok(explanation) => {
                // What only audit mode lets pass is denied: that is what the policy says.
                let code = if explanation.outcome == Outcome::Allowed {
                    YES
                } else {
                    NO
                };
                let answer = print(self.output, &Explained::from(&explanation), Explained::table);
                Reply::of(answer, String::new(), code)
            }
            Err(unknown) => Reply::refusal(&unknown.to_string()),
        }
    }

    fn service(&self) -> Result<Service, Reply> {
        port::parse_one(&self.port).map_err(|problem| {
            let help = problem.help.map(|help| format!("; {help}")).unwrap_or_default();
            Reply::refusal(&format!("{}{help}", problem.message))
        })
    }
}
