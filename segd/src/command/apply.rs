//! `segd apply`: puts a policy in force that this command reads, for good or until it is confirmed, or says what that would
//! change.

use std::{path::PathBuf, process::ExitCode, str::FromStr};

use super::{ClientArgs, INVALID, OutputArgs, YES, answer, decide::ask, dry_run, no_answer};
use crate::{
    control::{
        protocol::Request,
        types::{Candidate, Commit, SealText, Text},
    },
    daemon::style,
    source::{Loaded, SourceError, Trust, git::provenance, load, signature::Seal},
};

/// `--confirm`: a number of seconds, or with `s`, `m` or `h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub u64);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Seconds, String> {
        let wrong = || "expected a time like 120s, 2m or 1h, from one second to 24 hours".to_owned();
        let (number, unit) = match text.char_indices().last() {
            Some((at, 's')) => (text.get(..at), 1),
            Some((at, 'm')) => (text.get(..at), 60),
            Some((at, 'h')) => (text.get(..at), 60 * 60),
            _ => (Some(text), 1),
        };
        let number = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        let number: u64 = number.and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
        let seconds = number.checked_mul(unit).ok_or_else(wrong)?;
        if (1..=24 * 60 * 60).contains(&seconds) {
            Ok(Seconds(seconds))
        } else {
            Err(wrong())
        }
    }
}

/// Flags of `segd apply`.
#[derive(Debug, clap::Args)]
pub struct ApplyArgs {
    /// Files and directories of the policy; a directory is read recursively (*.yaml, *.yml)
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Put the policy before back after this time unless `segd confirm` comes; the kernel does it, with
    /// segd dead and the host unreachable too [without a time: 120s]
    #[arg(long, num_args = 0..=1, default_missing_value = "120s", value_name = "TIME")]
    confirm: Option<Seconds>,
    /// Change nothing: say which live sessions the policy would cut, and what it changes against the one in force. Exit
    /// code 1 if anything would change
    #[arg(long, conflicts_with = "confirm")]
    dry_run: bool,
    /// With --dry-run: exit with 1 only if something would be newly allowed, or no longer enforced
    #[arg(long, requires = "dry_run")]
    deny_widening: bool,
    /// Accept a policy without a document, every segment, rule and guardrail is gone then; and empty files
    #[arg(long)]
    allow_empty: bool,
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl ApplyArgs {
    /// Runs it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let loaded = load(&self.paths, self.allow_empty, &Trust::Everybody).and_then(Loaded::tested);
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                crate::output::draw(&error.render(style()));
                return ExitCode::from(INVALID);
            }
        };
        crate::output::draw(&loaded.render_warnings(style()));
        let policy = loaded.policy.clone();
        let commit = provenance(&self.paths, &loaded.sources).map(Commit::from);
        let seal = match seal(&self.paths) {
            Ok(seal) => seal,
            Err(error) => return crate::output::fail(INVALID, &error.to_string(), error.help().as_deref()),
        };
        let candidate = Candidate {
            commit,
            seal,
            texts: texts(loaded),
            allow_empty: self.allow_empty,
            confirm_seconds: self.confirm.map(|Seconds(seconds)| seconds),
        };
        if self.dry_run {
            return dry_run::run(&policy, candidate, self.deny_widening, &self.client, self.output);
        }
        match ask(&self.client, &Request::Apply(candidate)) {
            Ok(applied) => answer(self.output.output, &applied, YES),
            Err(error) => no_answer(&error),
        }
    }
}

/// The signature, where there is one. A daemon that wants none does not look at it.
fn seal(paths: &[PathBuf]) -> Result<Option<SealText>, SourceError> {
    let [path] = paths else { return Ok(None) };
    let seal = match Seal::read(path, &Trust::Everybody) {
        // A directory without a manifest.
        Err(SourceError::Signature(_)) => return Ok(None),
        seal => seal?,
    };
    let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    Ok(seal.signature.map(|signature| SealText {
        path: path.display().to_string(),
        manifest: seal.manifest,
        signature,
    }))
}

/// The texts, under names that say the same in every directory.
fn texts(loaded: Loaded) -> Vec<Text> {
    let texts = loaded.sources.into_iter().map(|source| Text {
        name: std::path::absolute(&source.name).map_or(source.name, |path| path.display().to_string()),
        text: source.text.to_string(),
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times() {
        for (text, seconds) in [("1", 1), ("120s", 120), ("2m", 120), ("24h", 86_400)] {
            assert_eq!(text.parse(), Ok(Seconds(seconds)), "{text}");
        }
        for wrong in [
            "",
            "s",
            "0",
            "0s",
            "-1s",
            "1d",
            "1.5m",
            "25h",
            "+3s",
            "18446744073709551615h",
            "é",
        ] {
            assert!(wrong.parse::<Seconds>().is_err(), "{wrong}");
        }
    }
}
