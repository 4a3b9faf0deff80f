//! `segd policy trust-reset`.

use std::path::PathBuf;

use super::{CANNOT, Reply, YES};
use crate::daemon::gate::reset;

/// Begin to count serials anew.
#[derive(Debug, clap::Args)]
pub struct TrustReset {
    /// As of `segd run`
    #[arg(long, env = "SEGD_STATE_DIR", default_value = crate::cli::STATE_DIR, value_name = "DIR")]
    state_dir: PathBuf,
}

impl TrustReset {
    /// Does it.
    pub(super) fn reply(&self) -> Reply {
        match reset(&self.state_dir) {
            Ok(path) => Reply {
                answer: format!(
                    "{}: the next signed policy is accepted whatever its serial\n",
                    path.display()
                ),
                code: YES,
                ..Reply::default()
            },
            Err(error) => Reply {
                code: CANNOT,
                ..Reply::refusal(&format!(
                    "cannot write below `{}`: {error}",
                    self.state_dir.display()
                ))
            },
        }
    }
}
