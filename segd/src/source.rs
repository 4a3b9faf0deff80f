//! Where a policy's text comes from: files and directories, read at the edge.
//!
//! INVARIANT: reading never blocks and never takes half of two states: if a symlink was swapped meanwhile
//! (ConfigMap, git-sync), everything is read again.

mod load;

use std::{
    collections::BTreeSet,
    fmt, fs,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

pub use load::{LoadError, Loaded, load};

use crate::policy::model::Source;

/// The most bytes all files of a policy may have together.
pub const MAX_BYTES: u64 = 8 << 20;
/// The most files a policy may have.
pub const MAX_FILES: usize = 4096;
/// The deepest nesting of directories.
pub const MAX_DEPTH: usize = 32;
/// How often a policy that changes while it is read is read again.
const ATTEMPTS: usize = 5;

/// The texts of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Sorted by name, each file once.
    pub sources: Vec<Source>,
    /// Changes with any name or text.
    pub hash: ContentHash,
}

/// A hash over names and texts (FNV-1a, 128 bits): the same on every host and in every version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContentHash(pub u128);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
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
}

/// Reads files, and directories recursively (`*.yaml`, `*.yml`, no hidden names).
///
/// # Errors
///
/// The first thing that cannot be read. Nothing is skipped silently but hidden and foreign names.
pub fn read(paths: &[PathBuf]) -> Result<Sources, SourceError> {
    let mut changed = PathBuf::new();
    for _ in 0..ATTEMPTS {
        let mut reader = Reader::default();
        for path in paths {
            reader.visit(path, 0)?;
        }
        match reader.changed_meanwhile() {
            Some(path) => changed = path,
            None => return Ok(reader.finish()),
        }
    }
    Err(SourceError::Unstable { path: changed })
}

/// What has been read.
#[derive(Default)]
struct Reader {
    sources: Vec<Source>,
    /// Every file and directory with the place its symlinks led to.
    real: Vec<(PathBuf, PathBuf)>,
    names: BTreeSet<PathBuf>,
    /// Directories by device and inode, against loops.
    directories: BTreeSet<(u64, u64)>,
    bytes: u64,
}

impl Reader {
    fn visit(&mut self, path: &Path, depth: usize) -> Result<(), SourceError> {
        let metadata = fs::metadata(path).map_err(io_at("read", path))?;
        if !metadata.is_dir() && !metadata.is_file() {
            return Err(SourceError::NotAFile {
                path: path.to_owned(),
            });
        }
        let real = fs::canonicalize(path).map_err(io_at("resolve", path))?;
        self.real.push((path.to_owned(), real));
        if metadata.is_dir() {
            self.directory(path, &metadata, depth)
        } else {
            self.file(path)
        }
    }

    fn directory(&mut self, path: &Path, metadata: &fs::Metadata, depth: usize) -> Result<(), SourceError> {
        if depth > MAX_DEPTH {
            let limit = MAX_DEPTH as u64;
            return Err(SourceError::TooLarge {
                path: path.to_owned(),
                what: "levels of directories",
                limit,
            });
        }
        if !self.directories.insert((metadata.dev(), metadata.ino())) {
            return Ok(());
        }
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).map_err(io_at("list", path))? {
            entries.push(entry.map_err(io_at("list", path))?.path());
        }
        entries.sort_unstable();
        for entry in entries {
            // `..data` and its timestamped directories are hidden too: the names beside them lead there.
            let hidden = entry
                .file_name()
                .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            let yaml = entry
                .extension()
                .is_some_and(|extension| extension == "yaml" || extension == "yml");
            let directory = || fs::metadata(&entry).is_ok_and(|metadata| metadata.is_dir());
            if !hidden && (yaml || directory()) {
                self.visit(&entry, depth + 1)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<(), SourceError> {
        if !self.names.insert(path.to_owned()) {
            return Ok(());
        }
        if self.sources.len() >= MAX_FILES {
            let limit = MAX_FILES as u64;
            return Err(SourceError::TooLarge {
                path: path.to_owned(),
                what: "files",
                limit,
            });
        }
        // It was a file a moment ago. If it is a pipe by now, opening must not wait for a writer.
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
            .open(path)
            .map_err(io_at("open", path))?;
        if !file.metadata().map_err(io_at("read", path))?.is_file() {
            return Err(SourceError::NotAFile {
                path: path.to_owned(),
            });
        }
        let mut bytes = Vec::new();
        let room = MAX_BYTES - self.bytes;
        file.take(room + 1)
            .read_to_end(&mut bytes)
            .map_err(io_at("read", path))?;
        self.bytes += bytes.len() as u64;
        if self.bytes > MAX_BYTES {
            return Err(SourceError::TooLarge {
                path: path.to_owned(),
                what: "bytes",
                limit: MAX_BYTES,
            });
        }
        let text = String::from_utf8(bytes).map_err(|error| SourceError::NotUtf8 {
            path: path.to_owned(),
            offset: error.utf8_error().valid_up_to(),
        })?;
        self.sources.push(Source {
            name: path.display().to_string(),
            text,
        });
        Ok(())
    }

    /// A path whose symlinks lead elsewhere by now.
    fn changed_meanwhile(&self) -> Option<PathBuf> {
        self.real
            .iter()
            .find(|(path, real)| fs::canonicalize(path).ok().as_ref() != Some(real))
            .map(|(path, _)| path.clone())
    }

    fn finish(mut self) -> Sources {
        self.sources.sort_by(|a, b| a.name.cmp(&b.name));
        let mut hash = Fnv::default();
        for source in &self.sources {
            for text in [&source.name, &source.text] {
                hash.add(&(text.len() as u64).to_le_bytes());
                hash.add(text.as_bytes());
            }
        }
        Sources {
            sources: self.sources,
            hash: ContentHash(hash.0),
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

/// FNV-1a with 128 bits.
struct Fnv(u128);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
}

#[cfg(test)]
mod tests;
