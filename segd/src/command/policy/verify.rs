//! `segd policy verify`.

use std::path::PathBuf;

use super::{CANNOT, INVALID, NO, Reply, YES};
use crate::source::{SourceError, Trust, read_sealed};

/// Check a policy's signature, as a daemon with `--require-signature` would.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// The policy: a file or a directory
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Who may sign, as in ssh-keygen(1), ALLOWED SIGNERS
    #[arg(long, value_name = "FILE")]
    allowed_signers: PathBuf,
}

impl Verify {
    /// The answer.
    pub(super) fn reply(&self) -> Reply {
        let sealed = read_sealed(&self.path, &Trust::Everybody, &self.allowed_signers);
        match sealed.and_then(|sealed| Ok(sealed.verify()?)) {
            Ok(signed) => Reply {
                answer: format!("ok: serial {}, signed by {}\n", signed.serial, signed.signer),
                code: YES,
                ..Reply::default()
            },
            Err(error) => {
                let code = match &error {
                    SourceError::Signature(error) if error.unverified => CANNOT,
                    SourceError::Signature(_) => NO,
                    _ => INVALID,
                };
                let help = error.help().map(|help| format!("help: {help}\n"));
                Reply {
                    complaint: format!("error: {error}\n{}", help.unwrap_or_default()),
                    code,
                    ..Reply::default()
                }
            }
        }
    }
}
