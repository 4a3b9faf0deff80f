//! `segd policy verify`.

use std::path::PathBuf;

use serde_json::json;

use super::{CANNOT, INVALID, NO, Reply, YES};
use crate::{
    output::{Format, policy::print},
    policy::diagnostic::clean,
    source::{SourceError, Trust, read_sealed},
};

/// Check a policy's signature, as a daemon with `--require-signature` would.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// The policy: a file or a directory
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Who may sign, as in ssh-keygen(1), ALLOWED SIGNERS
    #[arg(long, value_name = "FILE")]
    allowed_signers: PathBuf,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

impl Verify {
    /// The answer.
    pub(super) fn reply(&self) -> Reply {
        let sealed = read_sealed(&self.path, &Trust::Everybody, &self.allowed_signers);
        match sealed.and_then(|sealed| Ok(sealed.verify()?)) {
            Ok(signed) => {
                let answer = json!({
                    "signed": true, "serial": signed.serial, "signer": signed.signer, "error": null,
                });
                let line = format!(
                    "ok: serial {}, signed by {}\n",
                    signed.serial,
                    clean(&signed.signer)
                );
                Reply::of(print(self.output, &answer, |_| line.clone()), String::new(), YES)
            }
            Err(error) => self.not_signed(&error),
        }
    }

    fn not_signed(&self, error: &SourceError) -> Reply {
        let code = match error {
            // Without the list nobody could be asked: that says nothing of the signature.
            SourceError::Signature(error) if error.path() == self.allowed_signers => INVALID,
            SourceError::Signature(error) if error.unverified => CANNOT,
            SourceError::Signature(_) => NO,
            _ => INVALID,
        };
        let help = error.help().map(|help| format!("help: {}\n", clean(&help)));
        let complaint = format!(
            "error: {}\n{}",
            clean(&error.to_string()),
            help.unwrap_or_default()
        );
        match self.output {
            Format::Table => Reply {
                complaint,
                code,
                ..Reply::default()
            },
            Format::Json | Format::Yaml => {
                let answer = json!({
                    "signed": false, "serial": null, "signer": null, "error": error.to_string(),
                });
                Reply::of(
                    print(self.output, &answer, |_| String::new()),
                    String::new(),
                    code,
                )
            }
        }
    }
}
