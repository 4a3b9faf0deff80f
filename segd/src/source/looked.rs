//! Looking at a policy's files again: what is as it was need not be read.
//!
//! INVARIANT: a text is taken for that of a file only if the file was read whole and has not been written since by anything that
//! the kernel dates: same device and inode, size, both times to the nanosecond. A file that was changed just before it was read
//! could be changed again at the same time of a coarse clock: it is read again (git calls such files racy).
//! INVARIANT: who looks at everything reads everything. What no time tells (a page that is written through a mapping is dated once, when it
//! first becomes dirty; on tmpfs never) is found so, as late as the watch misses it anyway.
//! Deliberately absent: trust in modification times alone, which anybody may set. No call sets the time of a change but the clock's.

use std::{
    collections::BTreeMap,
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{SourceError, Sources, Trust, attempts, walk::Walk};
use crate::policy::model::Source;

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Every file.
    Whole,
    /// Files that may have changed.
    AtChanges,
}

/// The files of a policy, as they were last read.
#[derive(Debug, Default)]
pub struct Looked {
    files: BTreeMap<PathBuf, Kept>,
    /// The bytes that were read last.
    read: u64,
}

#[derive(Clone, Debug)]
struct Kept {
    /// How the file was when it was read; `None`: it may change without becoming another.
    stamp: Option<Stamp>,
    text: Arc<str>,
}

/// What a file is, and when it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    object: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What reads, and knows what was read.
pub(super) struct Reader<'a> {
    known: &'a Looked,
    look: Look,
    /// When it began, before anything was read.
    began: SystemTime,
    /// What was read, and what need not be.
    pub sources: Vec<Source>,
    files: BTreeMap<PathBuf, Kept>,
    read: u64,
}

/// The clocks of file systems are coarse, FAT's the most: two seconds.
const COARSE: Duration = Duration::from_secs(3);

impl Looked {
    /// Texts that are known from elsewhere: if files have the same, they are not kept twice.
    #[must_use]
    pub fn knowing(sources: &[Source]) -> Looked {
        let file = |source: &Source| {
            let text = Arc::clone(&source.text);
            (PathBuf::from(&source.name), Kept { stamp: None, text })
        };
        Looked {
            files: sources.iter().map(file).collect(),
            read: 0,
        }
    }

    /// [`super::read`]; texts that are as they were are shared with what was read before.
    ///
    /// # Errors
    ///
    /// As that.
    pub fn read(&mut self, paths: &[PathBuf], trust: &Trust, look: Look) -> Result<Sources, SourceError> {
        self.read_at(paths, trust, look, SystemTime::now)
    }

    fn read_at(
        &mut self,
        paths: &[PathBuf],
        trust: &Trust,
        look: Look,
        now: impl Fn() -> SystemTime,
    ) -> Result<Sources, SourceError> {
        let (sources, looked) = attempts(|| {
            let mut first = Walk::new(trust, Some(Reader::new(self, look, now())));
            first.visit_all(paths)?;
            let mut second = Walk::new(trust, None);
            second.visit_all(paths)?;
            match (first.difference(&second), first.reader) {
                (Some(path), _) => Err(SourceError::Unstable { path }),
                (None, Some(reader)) => Ok(reader.done()),
                (None, None) => Ok((Sources::of(Vec::new()), Looked::default())),
            }
        })?;
        *self = looked;
        Ok(sources)
    }

    /// How many bytes were read when it was last looked.
    #[must_use]
    pub const fn bytes_read(&self) -> u64 {
        self.read
    }
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            object: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the next change is sure to be dated later, if the file is read at a time.
    fn is_settled_at(&self, time: SystemTime) -> bool {
        let (Ok(seconds), Ok(nanoseconds)) = (self.changed.0.try_into(), self.changed.1.try_into()) else {
            return false;
        };
        let changed = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds));
        changed
            .and_then(|changed| changed.checked_add(COARSE))
            .is_some_and(|settled| settled <= time)
    }
}

impl<'a> Reader<'a> {
    fn new(known: &'a Looked, look: Look, began: SystemTime) -> Reader<'a> {
        Reader {
            known,
            look,
            began,
            sources: Vec::new(),
            files: BTreeMap::new(),
            read: 0,
        }
    }

    /// Takes the text of a file that need not be read. Whether there is one.
    pub fn takes_known(&mut self, path: &Path, stamp: &Stamp) -> bool {
        let known = self.known.files.get(path);
        let known = known.filter(|kept| self.look == Look::AtChanges && kept.stamp == Some(*stamp));
        let Some(kept) = known.cloned() else {
            return false;
        };
        self.add(path, kept);
        true
    }

    /// Takes what was read of a file that was so before.
    pub fn take(&mut self, path: &Path, stamp: Stamp, text: Arc<str>) {
        self.read += text.len() as u64;
        let known = self.known.files.get(path).map(|kept| &kept.text);
        let text = match known.filter(|known| ***known == *text) {
            Some(known) => Arc::clone(known),
            None => text,
        };
        let stamp = Some(stamp).filter(|stamp| stamp.is_settled_at(self.began));
        self.add(path, Kept { stamp, text });
    }

    fn add(&mut self, path: &Path, kept: Kept) {
        self.sources.push(Source {
            name: path.display().to_string(),
            text: Arc::clone(&kept.text),
        });
        self.files.insert(path.to_owned(), kept);
    }

    fn done(self) -> (Sources, Looked) {
        let looked = Looked {
            files: self.files,
            read: self.read,
        };
        (Sources::of(self.sources), looked)
    }
}

#[cfg(test)]
mod tests;
