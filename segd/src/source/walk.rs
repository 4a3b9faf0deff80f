//! A walk over everything that a policy's paths lead to.

use std::{
    collections::BTreeSet,
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    MAX_DEPTH, MAX_FILES, SourceError, Trust, io_at,
    looked::{Reader, Stamp},
    open, room, text_of,
};

/// One walk.
pub(super) struct Walk<'a> {
    trust: &'a Trust,
    /// What reads; `None`: it is only looked.
    pub reader: Option<Reader<'a>>,
    /// Every file, and every directory that was listed.
    seen: Vec<Seen>,
    names: BTreeSet<PathBuf>,
    /// Directories by device and inode, against loops.
    directories: BTreeSet<(u64, u64)>,
    bytes: u64,
}

/// What a path led to. Of a directory the policy's names in it count, and they are in the list themselves.
#[derive(PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    object: (u64, u64),
    /// Of a file.
    stamp: Option<Stamp>,
}

/// The directory that was given, and where below it the walk stands.
struct Place<'a> {
    root: &'a File,
    root_path: &'a Path,
    relative: PathBuf,
    depth: usize,
}

impl<'a> Walk<'a> {
    /// A walk that reads, if it is given what reads.
    pub fn new(trust: &'a Trust, reader: Option<Reader<'a>>) -> Walk<'a> {
        Walk {
            trust,
            reader,
            seen: Vec::new(),
            names: BTreeSet::new(),
            directories: BTreeSet::new(),
            bytes: 0,
        }
    }

    /// Visits what was given.
    pub fn visit_all(&mut self, paths: &[PathBuf]) -> Result<(), SourceError> {
        for path in paths {
            let held = open::path(path).map_err(io_at("read", path))?;
            self.trust.check_way(path)?;
            let place = Place {
                root: &held,
                root_path: path,
                relative: PathBuf::new(),
                depth: 0,
            };
            self.visit(&held, &place)?;
        }
        Ok(())
    }

    /// The first path that is not the same in two walks.
    pub fn difference(&self, other: &Walk<'_>) -> Option<PathBuf> {
        let longest = self.seen.len().max(other.seen.len());
        let mut pairs = (0..longest).map(|at| (self.seen.get(at), other.seen.get(at)));
        let (one, two) = pairs.find(|(one, two)| one != two)?;
        one.or(two).map(|seen| seen.path.clone())
    }

    fn visit(&mut self, held: &File, place: &Place<'_>) -> Result<(), SourceError> {
        let path = place.path();
        let metadata = held.metadata().map_err(io_at("read", &path))?;
        if !metadata.is_dir() && !metadata.is_file() {
            return Err(SourceError::NotAFile { path });
        }
        self.trust.check(&path, &metadata, open::fd(held))?;
        self.seen.push(Seen::new(&path, &metadata));
        if metadata.is_dir() {
            self.directory(held, &metadata, place)
        } else {
            self.file(held, &metadata, path)
        }
    }

    fn directory(&mut self, held: &File, metadata: &Metadata, place: &Place<'_>) -> Result<(), SourceError> {
        let path = place.path();
        if place.depth > MAX_DEPTH {
            let limit = MAX_DEPTH as u64;
            let what = "levels of directories";
            return Err(SourceError::TooLarge { path, what, limit });
        }
        if !self.directories.insert((metadata.dev(), metadata.ino())) {
            return Ok(());
        }
        for name in open::names(held).map_err(io_at("list", &path))? {
            // `..data` and its timestamped directories are hidden too: the names beside them lead there.
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let entry = Place {
                relative: place.relative.join(&name),
                depth: place.depth + 1,
                ..*place
            };
            if let Some(held) = entry.open()? {
                self.visit(&held, &entry)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, held: &File, metadata: &Metadata, path: PathBuf) -> Result<(), SourceError> {
        if !self.names.insert(path.clone()) {
            return Ok(());
        }
        if self.names.len() > MAX_FILES {
            let limit = MAX_FILES as u64;
            let what = "files";
            return Err(SourceError::TooLarge { path, what, limit });
        }
        let Some(reader) = &mut self.reader else {
            return Ok(());
        };
        let stamp = Stamp::of(metadata);
        let (room, (what, limit)) = room(self.bytes);
        let mut bytes = Vec::new();
        if metadata.len() <= room {
            if reader.takes_known(&path, &stamp) {
                self.bytes += metadata.len();
                return Ok(());
            }
            bytes.reserve_exact(usize::try_from(metadata.len()).unwrap_or_default() + 1);
            let file = open::reading(held).map_err(io_at("open", &path))?;
            file.take(room + 1)
                .read_to_end(&mut bytes)
                .map_err(io_at("read", &path))?;
        }
        let len = (bytes.len() as u64).max(metadata.len());
        if len > room {
            return Err(SourceError::TooLarge { path, what, limit });
        }
        self.bytes += len;
        reader.take(&path, stamp, text_of(bytes));
        Ok(())
    }
}

impl Seen {
    fn new(path: &Path, metadata: &Metadata) -> Seen {
        Seen {
            path: path.to_owned(),
            object: (metadata.dev(), metadata.ino()),
            stamp: metadata.is_file().then(|| Stamp::of(metadata)),
        }
    }
}

impl Place<'_> {
    fn path(&self) -> PathBuf {
        if self.relative.as_os_str().is_empty() {
            self.root_path.to_owned()
        } else {
            self.root_path.join(&self.relative)
        }
    }

    /// Holds the entry, if it is the policy's: a name that says so, or a directory.
    fn open(&self) -> Result<Option<File>, SourceError> {
        let path = self.path();
        let is_yaml = path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml");
        match open::beneath(self.root, &self.relative) {
            Ok(held) => {
                let counts = is_yaml || held.metadata().is_ok_and(|metadata| metadata.is_dir());
                Ok(counts.then_some(held))
            }
            Err(error) if error.raw_os_error() == Some(libc::EXDEV) => {
                let counts = is_yaml || std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_dir());
                let directory = self.root_path.to_owned();
                if counts {
                    Err(SourceError::Escapes { path, directory })
                } else {
                    Ok(None)
                }
            }
            Err(error) if is_yaml => Err(io_at("read", &path)(error)),
            Err(error)
                if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ELOOP) =>
            {
                Ok(None)
            }
            Err(error) => Err(io_at("read", &path)(error)),
        }
    }
}
