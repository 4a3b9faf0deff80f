//! Where a policy's text comes from: files and directories, read at the edge.
//!
//! INVARIANT: reading never blocks and never takes half of two states: if anything was swapped, renamed or written
//! meanwhile (ConfigMap, git-sync, an editor), everything is read again.
//! INVARIANT: a path that was given is the operator's word, links included. What is found below it stays below it.

pub mod chain;
mod child;
pub mod git;
mod load;
mod looked;
pub mod replace;
mod open;
pub mod signature;
mod texts;
mod trust;
mod walk;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use load::{LoadError, Loaded, load, load_named, resolve_read, resolve_read_doubting};
pub use looked::{Look, Looked};
pub use texts::{ContentHash, Known, Texts};
pub use trust::Trust;

use self::signature::{Seal, Sealed, Signers};
use crate::policy::{document::tree, model::Source};

/// The most bytes all files of a policy may have together.
pub const MAX_BYTES: u64 = 128 << 20;
/// The most bytes one of them may have.
pub const MAX_FILE_BYTES: u64 = tree::MAX_FILE_BYTES as u64;
/// The most files a policy may have.
pub const MAX_FILES: usize = 4096;
/// The deepest nesting of directories.
pub const MAX_DEPTH: usize = 32;
/// So many bytes of a line that is no text are shown.
const MOST_KEPT: usize = 200;
/// How often a policy that changes while it is read is read again.
const ATTEMPTS: usize = 5;

/// The texts of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Sorted by name, each file once.
    pub sources: Vec<Source>,
    /// Who signed it, if that was looked at.
    pub signed: Option<signature::Signed>,
    /// The commit that whoever sent it says it comes from.
    pub claimed: Option<git::Provenance>,
}

/// Why a policy's text could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The system refused.
    #[error("cannot {operation} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// A pipe, device or socket.
    #[error("`{}` is neither a file nor a directory", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The text is not UTF-8.
    #[error("`{}` is not UTF-8: invalid byte at offset {offset}", path.display())]
    NotUtf8 {
        /// The path.
        path: PathBuf,
        /// The first wrong byte, from 0.
        offset: usize,
    },
    /// More than is read.
    #[error("`{}`: a policy has at most {limit} {what}", path.display())]
    TooLarge {
        /// Where the limit was met.
        path: PathBuf,
        /// Of what.
        what: &'static str,
        /// How many.
        limit: u64,
    },
    /// It never stood still.
    #[error("`{}` kept changing while it was read", path.display())]
    Unstable {
        /// A path that changed.
        path: PathBuf,
    },
    /// A link leads out of the directory that was given.
    #[error("`{}` leads out of `{}`", path.display(), directory.display())]
    Escapes {
        /// The link.
        path: PathBuf,
        /// The directory.
        directory: PathBuf,
    },
    /// Somebody else's.
    #[error("`{}` belongs to user {user}, who could change what is enforced", path.display())]
    Foreign {
        /// The file or directory.
        path: PathBuf,
        /// Whose it is.
        user: u32,
    },
    /// git could not tell, or not what is asked for.
    #[error("cannot read `{name}`: {why}")]
    Git {
        /// `git:REV:PATH`.
        name: String,
        /// What it said.
        why: String,
    },
    /// It is not signed by whom it has to be, or not as it is.
    #[error(transparent)]
    Signature(#[from] signature::SignatureError),
    /// Others may write it.
    #[error("`{}` may be written by others than its owner (mode {mode:04o})", path.display())]
    Shared {
        /// The file or directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

/// How many bytes a file may have where so many were read before, and if it has more, the limit that it meets.
const fn room(read: u64) -> (u64, (&'static str, u64)) {
    match MAX_BYTES.saturating_sub(read) {
        left if left < MAX_FILE_BYTES => (left, ("bytes", MAX_BYTES)),
        _ => (MAX_FILE_BYTES, ("bytes in a file", MAX_FILE_BYTES)),
    }
}

impl SourceError {
    /// Whether it may be the moment of a swap.
    fn can_pass(&self) -> bool {
        match self {
            SourceError::Unstable { .. } => true,
            SourceError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            SourceError::Escapes { .. } => {
                Some("give the other place as a path of its own, or link to it relatively".to_owned())
            }
            SourceError::Foreign { path, user } => Some(format!(
                "chown root {}, or trust that user: --policy-owner {user}",
                path.display()
            )),
            SourceError::Signature(error) => Some(error.help()),
            SourceError::NotUtf8 { .. } => Some("save it as UTF-8".to_owned()),
            SourceError::NotAFile { .. } => Some("give a file or a directory".to_owned()),
            SourceError::TooLarge { .. } => Some("docs/policy.md has the limits".to_owned()),
            SourceError::Unstable { .. } => Some("try again when whoever writes it is done".to_owned()),
            SourceError::Io { path, source, .. } => match source.kind() {
                io::ErrorKind::NotFound if path.is_symlink() => {
                    Some("the link leads nowhere: put back what it leads to, or take it out".to_owned())
                }
                io::ErrorKind::NotFound => Some("check the path".to_owned()),
                io::ErrorKind::PermissionDenied => {
                    Some("ask as a user who may read it, or change its owner or mode".to_owned())
                }
                _ => None,
            },
            SourceError::Shared { path, .. } => Some(format!("chmod go-w {}", path.display())),
            _ => None,
        }
    }
}

/// The text of a policy file. What is no UTF-8 has U+FFFD in its place, for which such a file is refused at that place
/// ([`tree::parse`]), like any other with a mistake; behind the line of the first nothing of it is kept.
fn text_of(bytes: Vec<u8>) -> Arc<str> {
    let error = match String::from_utf8(bytes) {
        Ok(text) => return text.into(),
        Err(error) => error,
    };
    let valid = error.utf8_error().valid_up_to();
    let bytes = error.as_bytes();
    let (right, wrong) = bytes.split_at_checked(valid).unwrap_or((bytes, &[]));
    let line = wrong.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.get(..MOST_KEPT.min(line.len())).unwrap_or_default();
    [
        String::from_utf8_lossy(right),
        String::from_utf8_lossy(line),
        "\n".into(),
    ]
    .concat()
    .into()
}

/// Reads files, and directories recursively (`*.yaml`, `*.yml`, no hidden names).
///
/// # Errors
///
/// The first thing that cannot be read, or is not to be trusted. Nothing is skipped silently but hidden and foreign
/// names.
pub fn read(paths: &[PathBuf], trust: &Trust) -> Result<Sources, SourceError> {
    Looked::default().read(paths, trust, Look::Whole)
}

/// Tries until nothing moves meanwhile, or it has moved too often.
fn attempts<T>(mut once: impl FnMut() -> Result<T, SourceError>) -> Result<T, SourceError> {
    let mut attempt = 1;
    loop {
        let last = attempt == ATTEMPTS;
        attempt += 1;
        match once() {
            // What fails because it is being swapped does not fail again and again.
            Err(error) if last || !error.can_pass() => return Err(error),
            Err(_) => {}
            done => return done,
        }
    }
}

/// Reads the policy of one path with what is to prove who signed it. Nothing is verified yet.
///
/// # Errors
///
/// As [`read`]; it is not signed, or there is no list of signers.
pub fn read_sealed(path: &Path, trust: &Trust, signers: &Path) -> Result<Sealed, SourceError> {
    let mut attempt = 1;
    loop {
        let seal = Seal::read(path, trust)?;
        let sources = read(&[path.to_owned()], trust)?;
        // What was signed and what is read belong together only if nothing moved between.
        if attempt < ATTEMPTS && Seal::read(path, trust)? != seal {
            attempt += 1;
            continue;
        }
        let signers = Signers::read(signers, trust)?;
        return Ok(Sealed {
            sources,
            seal,
            signers,
        });
    }
}

impl Sources {
    /// Sorts texts.
    #[must_use]
    pub fn of(mut sources: Vec<Source>) -> Sources {
        sources.sort_by(|a, b| a.name.cmp(&b.name));
        Sources {
            sources,
            signed: None,
            claimed: None,
        }
    }
}

fn io_at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SourceError {
    let path = path.to_owned();
    move |source| SourceError::Io {
        operation,
        path,
        source,
    }
}

#[cfg(test)]
mod tests;
