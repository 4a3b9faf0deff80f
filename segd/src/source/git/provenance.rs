//! Which commit a policy comes from that was read from a worktree.
//!
//! INVARIANT: what was read is compared with what was committed, never the files by way of git: no filter of the repository
//! is run.

use std::path::{Path, PathBuf};

use super::{GitPath, run, text};
use crate::policy::model::Source;

/// Where a policy that was read comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The commit that is checked out, 40 or 64 hexadecimal digits.
    pub commit: String,
    /// What was read is not, or not known to be, what that commit has there.
    pub dirty: bool,
}

impl Provenance {
    /// Whether it names a commit as git does, and not just anything.
    #[must_use]
    pub fn is_a_commit(&self) -> bool {
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
        [40, 64].contains(&self.commit.len()) && self.commit.bytes().all(hexadecimal)
    }
}

/// The commit that is checked out where a policy was read; `None` if it lies in no repository, in several, in one that
/// git does not trust, or if git does not answer.
#[must_use]
pub fn provenance(paths: &[PathBuf], sources: &[Source]) -> Option<Provenance> {
    let mut found: Option<Provenance> = None;
    for path in paths {
        // Through links, as git-sync sets them: the worktree is where they lead.
        let real = std::fs::canonicalize(path).ok()?;
        let directory = if real.is_dir() {
            real.as_path()
        } else {
            real.parent()?
        };
        let options = ["rev-parse", "--verify", "--quiet", "HEAD^{commit}"];
        let commit = text(run(directory, &options, Vec::new()).ok()?)
            .trim_end()
            .to_owned();
        let dirty = !is_committed(&commit, &real, path, sources);
        found = match found {
            None => Some(Provenance { commit, dirty }),
            Some(known) if known.commit == commit => Some(Provenance {
                commit,
                dirty: dirty || known.dirty,
            }),
            Some(_) => return None,
        };
    }
    found
}

/// Whether a commit has to the last byte what was read from a path, and nothing beside.
fn is_committed(commit: &str, real: &Path, path: &Path, sources: &[Source]) -> bool {
    let spec = GitPath {
        revision: commit.to_owned(),
        path: real.to_owned(),
    };
    let directory = if real.is_dir() {
        real
    } else {
        real.parent().unwrap_or(real)
    };
    let prefix = run(directory, &["rev-parse", "--show-prefix"], Vec::new()).map(text);
    let (Ok(committed), Ok(prefix)) = (spec.read(), prefix) else {
        return false;
    };
    let mut read: Vec<(&Path, &str)> = sources
        .iter()
        .filter_map(|source| Some((Path::new(&source.name).strip_prefix(path).ok()?, &*source.text)))
        .collect();
    // Names in a commit begin at the top of the repository.
    let top = format!("git:{commit}:{}", prefix.trim_end_matches('\n'));
    let mut written: Vec<(&Path, &str)> = Vec::new();
    for source in &committed.sources {
        let Some(name) = source.name.strip_prefix(&top) else {
            return false;
        };
        let name = if real.is_file() { "" } else { name };
        written.push((Path::new(name), &*source.text));
    }
    read.sort_unstable();
    written.sort_unstable();
    read == written
}
