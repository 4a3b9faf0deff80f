//! The last policy that was in force for good, kept on the disk (`--last-good`): what a boot enforces where the policy has a
//! mistake. As long as programs are pinned the kernel keeps it; a boot begins with nothing.
//!
//! INVARIANT: only a daemon that finds nothing in force falls back to it; what the kernel enforces is never replaced by it.
//! INVARIANT: one policy is written at a time, so that an older one never takes the place of a newer one; what could not be
//! written is tried again.
//! Deliberately absent: policies on trial.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::{engine::Engine, shared, state_file, trial};
use crate::{
    control,
    report::chain,
    source::{LoadError, Loaded, Sources, resolve_read},
};

/// Far more than any policy that segd reads.
const MOST_BYTES: u64 = 256 << 20;
/// When what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// Why there is nothing to fall back to.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoneKept {
    /// It cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Anybody could have written it.
    #[error("`{}` may be written by others", .0.display())]
    Others(PathBuf),
    /// It is no policy that was kept.
    #[error("`{}` is damaged", .0.display())]
    Damaged(PathBuf),
    /// Today's segd does not take it.
    #[error("what was kept in `{}` is not understood: {error}", path.display())]
    NotUnderstood {
        /// The file.
        path: PathBuf,
        /// Why.
        error: Box<LoadError>,
    },
}

/// Reads what was kept. `allow_empty`: a policy without a document is one, too.
pub(super) fn read(path: &Path, allow_empty: bool) -> Result<Loaded, NoneKept> {
    let (_, sources) = kept(path)?;
    // Beside others an empty file was taken when it was kept.
    let takes_blank = allow_empty || sources.sources.iter().any(|source| says_something(&source.text));
    resolve_read(sources, takes_blank).map_err(|error| NoneKept::NotUnderstood {
        path: path.to_owned(),
        error: Box::new(error),
    })
}

/// The numbers that users had under it: what is known of them at a boot, before a directory service answers.
pub(super) fn numbers(path: &Path) -> BTreeMap<String, u32> {
    kept(path).map(|(kept, _)| kept.users).unwrap_or_default()
}

fn kept(path: &Path) -> Result<(control::types::Kept, Sources), NoneKept> {
    let failed = |source| NoneKept::Read {
        path: path.to_owned(),
        source,
    };
    let file = state_file::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if state_file::is_others(&metadata) {
        return Err(NoneKept::Others(path.to_owned()));
    }
    if !metadata.is_file() || metadata.size() > MOST_BYTES {
        return Err(NoneKept::Damaged(path.to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    trial::kept(&bytes).ok_or_else(|| NoneKept::Damaged(path.to_owned()))
}

/// Whether a file has more than comments.
fn says_something(text: &str) -> bool {
    text.lines()
        .map(str::trim)
        .any(|line| !line.is_empty() && !line.starts_with('#') && line != "---")
}

/// What of it is on the disk, and who writes it.
#[derive(Debug, Default)]
pub(super) struct Keeper(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// The revision that was written; 0: none.
    revision: u32,
    writing: bool,
    /// The revision that could not be written, and when.
    failed: Option<(u32, Instant)>,
}

impl Keeper {
    /// Whether a revision is to be written now. Who is told so writes it, alone until [`Keeper::end`].
    fn begin(&self, revision: u32, now: Instant) -> bool {
        let mut kept = shared::lock(&self.0);
        let rests = kept
            .failed
            .is_some_and(|(failed, at)| failed == revision && now < at + AGAIN);
        if kept.revision == revision || kept.writing || rests {
            return false;
        }
        kept.writing = true;
        true
    }

    /// A revision is written, or not. Whether that is told: a failure is once for a revision.
    fn end(&self, revision: u32, done: bool, now: Instant) -> bool {
        let mut kept = shared::lock(&self.0);
        kept.writing = false;
        if done {
            (kept.revision, kept.failed) = (revision, None);
            return false;
        }
        let before = kept.failed.replace((revision, now));
        before.is_none_or(|(before, _)| before != revision)
    }
}

impl Engine {
    /// Keeps the policy in force, if it is for good and was not kept yet. The disk may take its time, and the loop does not wait.
    pub(super) fn keep_last_good(&mut self) {
        let (Some(path), Some(in_force), None) =
            (self.options.last_good.clone(), &self.in_force, &self.trial)
        else {
            return;
        };
        let active = in_force.active;
        let revision = active.revision();
        if !self.kept_last.begin(revision, Instant::now()) {
            return;
        }
        let keeper = Arc::clone(&self.kept_last);
        match self.maps.text(active.slot()) {
            Ok(Some(bytes)) if !bytes.is_empty() => drop(tokio::task::spawn_blocking(move || {
                let written = state_file::write(&path, &bytes);
                let told = keeper.end(revision, written.is_ok(), Instant::now());
                if let Err(error) = written
                    && told
                {
                    tracing::error!(
                        "cannot keep the last good policy in `{}`, a boot could not fall back to it: {error}",
                        path.display()
                    );
                }
            })),
            Ok(_) => drop(keeper.end(revision, false, Instant::now())),
            Err(error) => {
                if keeper.end(revision, false, Instant::now()) {
                    tracing::error!("reading the policy in force: {}", chain(&error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::{super::state_file::write, *};
    use crate::control::types::{KeptOf, TextOf};

    const POLICY: &str = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: a}\nspec:\n  \
                          segments: {web: {match: [{cgroup: /web}]}}\n";

    fn bytes(text: &str) -> Vec<u8> {
        let kept = KeptOf {
            revision: 3,
            applied: false,
            files: String::new(),
            texts: vec![TextOf {
                name: "/etc/segd/a.yaml",
                text,
            }],
            commit: None,
            signature: None,
            users: [("alice".to_owned(), 1001)].into(),
        };
        serde_json::to_vec(&kept).unwrap()
    }

    #[test]
    fn one_is_written_at_a_time_and_again_what_could_not_be() {
        let keeper = Keeper::default();
        let now = Instant::now();
        assert!(keeper.begin(3, now));
        assert!(
            !keeper.begin(3, now) && !keeper.begin(4, now),
            "3 is being written"
        );
        assert!(!keeper.end(3, true, now));
        assert!(!keeper.begin(3, now), "it is written");
        assert!(keeper.begin(4, now), "what came meanwhile is next");
        assert!(keeper.end(4, false, now), "it failed, which is told");
        assert!(!keeper.begin(4, now));
        assert!(keeper.begin(4, now + AGAIN));
        assert!(!keeper.end(4, false, now + AGAIN), "that was told");
        assert!(keeper.begin(5, now + AGAIN), "another one does not wait");
        assert!(!keeper.end(5, true, now + AGAIN));
        assert!(!keeper.begin(5, now + AGAIN));
    }

    #[test]
    fn what_was_kept_is_read_back_and_what_is_not_to_be_believed_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy");
        assert!(matches!(read(&path, false), Err(NoneKept::Read { .. })));
        for _ in 0..2 {
            write(&path, &bytes(POLICY)).unwrap();
        }
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(read(&path, false).unwrap().policy.segments.contains_key("web"));
        assert_eq!(numbers(&path), [("alice".to_owned(), 1001)].into());

        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
        assert!(matches!(read(&path, false), Err(NoneKept::Others(_))));
        assert!(numbers(&path).is_empty());
        write(&path, &bytes("nonsense")).unwrap();
        assert!(matches!(read(&path, false), Err(NoneKept::NotUnderstood { .. })));
        write(&path, b"{}").unwrap();
        assert!(read(&path, false).is_err(), "there is no policy in it");
        let whole = bytes(POLICY);
        write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(matches!(read(&path, false), Err(NoneKept::Damaged(_))));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(matches!(read(&path, false), Err(NoneKept::Read { .. })));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(read(&path, false), Err(NoneKept::Damaged(_))));
    }
}
