//! The cgroup2 file system: where it is, which cgroups exist, who made them, who is in them.
//!
//! INVARIANT: a walk calls `visit(parent)` before it reads the parent's children. So if `visit` tags, a newborn
//! either inherits the new tag in the kernel or is met by the walk; except one whose birth was under way, which
//! read the old tag and is not visible yet, and what is born of that one. `daemon::sequence` says how they are met:
//! by waiting with [`CgroupRoot::await_births`] and walking again.
//! INVARIANT: a cgroup's id comes from the directory that is open, never from a path looked up again.
//!
//! Deliberately absent: which segment a cgroup is in.

mod lineage;
mod mount;

use std::{
    ffi::OsString,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, ErrorKind},
    os::{
        fd::AsRawFd as _,
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            fs::{MetadataExt as _, OpenOptionsExt as _},
        },
    },
    path::{Path, PathBuf},
    vec,
};

use segd_common::matching::{Name, child_flags};

use self::mount::mount_point;
use super::error::WorkloadError;

/// How many directories a walk keeps open; a deeper one climbs back by `..`.
const MAX_OPEN: usize = 32;
/// Write permission for group or others.
const SHARED_WRITE: u32 = 0o022;

/// A cgroup that a walk met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Its id: the inode number of its directory.
    pub id: u64,
    /// Its parent's id; 0 for the root.
    pub parent: u64,
    /// From the cgroup root, with a leading slash; the root is `/`. For people where it is not UTF-8.
    pub path: String,
    /// The last component as the kernel has it; empty for the root.
    pub name: Vec<u8>,
    /// Who owns the directory: whoever may create cgroups in it.
    pub owner_uid: u32,
    /// The root is 0.
    pub depth: u32,
    /// Its owner does not let segd see what is below it.
    pub is_hidden: bool,
    /// `CGROUP_` flags. Whether the name can be trusted is told by who may create directories in the parent.
    pub flags: u16,
}

/// The root of the cgroup2 hierarchy as mounted.
#[derive(Clone, Debug)]
pub struct CgroupRoot {
    path: PathBuf,
}

impl CgroupRoot {
    /// Takes a directory as the root, or finds the mount if none is given.
    ///
    /// # Errors
    ///
    /// Those of [`CgroupRoot::open`] and [`CgroupRoot::find`].
    pub fn of(path: Option<&Path>) -> Result<CgroupRoot, WorkloadError> {
        path.map_or_else(CgroupRoot::find, CgroupRoot::open)
    }

    /// Finds the cgroup2 mount, on hybrid hosts too.
    ///
    /// # Errors
    ///
    /// [`WorkloadError::NoCgroup2`] if there is none; segd cannot run then.
    pub fn find() -> Result<CgroupRoot, WorkloadError> {
        const MOUNTS: &str = "/proc/self/mountinfo";
        let text = fs::read(MOUNTS).map_err(|source| WorkloadError::io("read", MOUNTS, source))?;
        let path = mount_point(&text).ok_or(WorkloadError::NoCgroup2)?;
        CgroupRoot::open(&path)
    }

    /// Takes a directory as the root.
    ///
    /// # Errors
    ///
    /// [`WorkloadError::NotCgroup2`] if it is in another file system, or the system's error.
    pub fn open(path: &Path) -> Result<CgroupRoot, WorkloadError> {
        let path = fs::canonicalize(path).map_err(|source| WorkloadError::io("open", path, source))?;
        let directory = open(&path).map_err(|source| WorkloadError::io("open", &path, source))?;
        let mut stat = std::mem::MaybeUninit::<libc::statfs>::zeroed();
        // SAFETY: the descriptor is open, and the buffer is a `statfs` that outlives the call.
        let status = unsafe { libc::fstatfs(directory.as_raw_fd(), stat.as_mut_ptr()) };
        if status != 0 {
            return Err(WorkloadError::io("inspect", &path, io::Error::last_os_error()));
        }
        // SAFETY: zeroed is a valid `statfs`, and the call filled it.
        if unsafe { stat.assume_init() }.f_type != libc::CGROUP2_SUPER_MAGIC {
            return Err(WorkloadError::NotCgroup2(path));
        }
        Ok(CgroupRoot { path })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is the root of the whole hierarchy, and not of a part of it (`--cgroup-root`, a container).
    #[must_use]
    pub fn is_hierarchy_root(&self) -> bool {
        // The inode number of a kernfs root (`fs/kernfs/dir.c`, `kernfs_create_root`).
        self.id("/") == Some(1)
    }

    /// The directory of a cgroup given by its path from the root.
    #[must_use]
    pub fn directory(&self, cgroup: &str) -> PathBuf {
        self.path.join(cgroup.trim_start_matches('/'))
    }

    /// The id of a cgroup given by its path from the root; `None` if there is none.
    #[must_use]
    pub fn id(&self, cgroup: &str) -> Option<u64> {
        let metadata = fs::symlink_metadata(self.directory(cgroup)).ok()?;
        metadata.is_dir().then_some(metadata.ino())
    }

    /// The processes in a cgroup, those below it excluded.
    ///
    /// # Errors
    ///
    /// The system's: `NotFound` if the cgroup is gone, `EOPNOTSUPP` if it is threaded.
    pub fn pids(&self, cgroup: &str) -> io::Result<Vec<u32>> {
        let text = fs::read_to_string(self.directory(cgroup).join("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Waits until every birth that is under way is over: the new directory is visible.
    ///
    /// A birth holds `cgroup_mutex` from before its tracepoint until the directory is active
    /// (`kernel/cgroup/cgroup.c`, `cgroup_mkdir`); so does a change of the controllers, here of none.
    ///
    /// # Errors
    ///
    /// The system's, if the mount may not be written.
    pub fn await_births(&self) -> Result<(), WorkloadError> {
        let file = self.path.join("cgroup.subtree_control");
        fs::write(&file, "\n").map_err(|source| WorkloadError::io("write", file, source))
    }

    /// Visits every cgroup, parents first. One that vanishes meanwhile is left out; one that is locked meanwhile is visited again, as
    /// hidden.
    ///
    /// # Errors
    ///
    /// What else keeps a directory from being read: then the walk is not complete.
    pub fn walk(&self, visit: &mut dyn FnMut(&Cgroup)) -> Result<(), WorkloadError> {
        self.walk_at("/", visit)
    }

    /// Visits a cgroup's ancestors from the root on, the cgroup, and every cgroup below it. If it vanished, only
    /// those ancestors that are left.
    ///
    /// # Errors
    ///
    /// Those of [`CgroupRoot::walk`].
    pub fn walk_at(&self, cgroup: &str, visit: &mut dyn FnMut(&Cgroup)) -> Result<(), WorkloadError> {
        let failed = |source| WorkloadError::io("walk", self.directory(cgroup), source);
        match self.lineage(cgroup, visit)? {
            Some(place) => descend(place, visit).map_err(failed),
            None => Ok(()),
        }
    }
}

/// A directory that a walk stands in.
struct Place {
    cgroup: Cgroup,
    /// Only root may create directories here.
    is_roots: bool,
    /// `None` if too many are open.
    directory: Option<File>,
    names: vec::IntoIter<OsString>,
}

impl Place {
    fn root(directory: File) -> io::Result<Place> {
        let metadata = directory.metadata()?;
        let cgroup = Cgroup {
            id: metadata.ino(),
            parent: 0,
            path: "/".to_owned(),
            name: Vec::new(),
            owner_uid: metadata.uid(),
            depth: 0,
            is_hidden: false,
            flags: 0,
        };
        Ok(Place {
            cgroup,
            is_roots: is_roots(&metadata),
            directory: Some(directory),
            names: Vec::new().into_iter(),
        })
    }

    /// Opens a child; `None` if it is gone.
    fn child(&self, name: &[u8]) -> io::Result<Option<Place>> {
        let Some(directory) = &self.directory else {
            return Ok(None);
        };
        let path = by_descriptor(directory).join(OsString::from_vec(name.to_vec()));
        let found =
            open_or_hold(&path).and_then(|child| child.0.metadata().map(|metadata| (child, metadata)));
        let Some(((directory, is_hidden), metadata)) = unless_gone(found)? else {
            return Ok(None);
        };
        let cgroup = Cgroup {
            id: metadata.ino(),
            parent: self.cgroup.id,
            path: path_below(&self.cgroup.path, name),
            name: name.to_vec(),
            owner_uid: metadata.uid(),
            depth: self.cgroup.depth + 1,
            is_hidden,
            flags: child_flags(self.cgroup.flags, self.is_roots, &Name::new(name)),
        };
        let names = Vec::new().into_iter();
        Ok(Some(Place {
            cgroup,
            is_roots: is_roots(&metadata),
            directory: Some(directory),
            names,
        }))
    }

    /// Reads the children's names, if it may. Its owner may lock it at any moment.
    fn look_in(&mut self, visit: &mut dyn FnMut(&Cgroup)) -> io::Result<()> {
        match self.read() {
            Err(error) if is_locked(&error) => {
                self.hide(visit);
                Ok(())
            }
            read => read,
        }
    }

    /// It was locked after it was visited: it is visited again, as what stands for all below it.
    fn hide(&mut self, visit: &mut dyn FnMut(&Cgroup)) {
        self.cgroup.is_hidden = true;
        self.names = Vec::new().into_iter();
        visit(&self.cgroup);
    }

    /// Reads the children's names.
    fn read(&mut self) -> io::Result<()> {
        let mut names = Vec::new();
        if let Some(directory) = &self.directory {
            let entries = unless_gone(fs::read_dir(by_descriptor(directory)))?;
            for entry in entries.into_iter().flatten() {
                let Some(entry) = unless_gone(entry)? else {
                    break;
                };
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    names.push(entry.file_name());
                }
            }
        }
        self.names = names.into_iter();
        Ok(())
    }
}

/// Visits all below a place that was visited.
fn descend(mut start: Place, visit: &mut dyn FnMut(&Cgroup)) -> io::Result<()> {
    start.look_in(visit)?;
    let mut places = vec![start];
    while let Some(place) = places.last_mut() {
        if let Some(name) = place.names.next() {
            let child = match place.child(name.as_bytes()) {
                Err(error) if is_locked(&error) => {
                    place.hide(visit);
                    continue;
                }
                child => child?,
            };
            let Some(mut child) = child else {
                continue;
            };
            visit(&child.cgroup);
            if child.cgroup.is_hidden {
                continue;
            }
            child.look_in(visit)?;
            places.push(child);
            let deep = places.len().checked_sub(MAX_OPEN + 1);
            if let Some(place) = deep.and_then(|index| places.get_mut(index)) {
                place.directory = None;
            }
        } else if let (Some(done), Some(above)) = (places.pop(), places.last_mut())
            && above.directory.is_none()
        {
            let climbed = done.directory.map(|directory| climb(&directory, above.cgroup.id));
            above.directory = match climbed.transpose() {
                Err(error) if is_locked(&error) => None,
                climbed => climbed?,
            };
            // There is no way back to what was not looked at yet.
            if above.directory.is_none() && above.names.len() > 0 {
                above.hide(visit);
            }
        }
    }
    Ok(())
}

/// The path of a child. One that is too long ends there: no selector is about it, and whoever may make cgroups may nest them
/// thousands deep.
fn path_below(above: &str, name: &[u8]) -> String {
    const LONGEST: usize = 1024;
    const CUT: &str = "/…";
    let above = above.trim_end_matches('/');
    if above.ends_with(CUT) {
        above.to_owned()
    } else if above.len() + name.len() >= LONGEST {
        format!("{above}{CUT}")
    } else {
        format!("{above}/{}", String::from_utf8_lossy(name))
    }
}

/// Opens the parent again. A cgroup never moves, so it can be no other.
fn climb(directory: &File, parent: u64) -> io::Result<File> {
    let above = open(&by_descriptor(directory).join(".."))?;
    if above.metadata()?.ino() != parent {
        return Err(io::Error::other("a cgroup changed its parent"));
    }
    Ok(above)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)
}

/// Opens a directory, or holds one that its owner locked: who was given a cgroup may change its mode, and the daemon
/// has no right to read what it may not. Whether it is locked.
fn open_or_hold(path: &Path) -> io::Result<(File, bool)> {
    let open = |flags| {
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | flags)
            .open(path)
    };
    match open(0) {
        // Reading the names is not enough: looking one up is another right.
        Ok(directory) => match fs::metadata(by_descriptor(&directory).join(".")) {
            Err(error) if is_locked(&error) => Ok((directory, true)),
            _ => Ok((directory, false)),
        },
        Err(error) if is_locked(&error) => Ok((open(libc::O_PATH)?, true)),
        Err(error) => Err(error),
    }
}

fn is_locked(error: &io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied
}

/// The way to an open directory that no rename or mount can change.
fn by_descriptor(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

/// Nothing, if what was to be read is gone.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV) => {
            Ok(None)
        }
        other => other.map(Some),
    }
}

fn is_roots(directory: &Metadata) -> bool {
    directory.uid() == 0 && directory.mode() & SHARED_WRITE == 0
}

#[cfg(test)]
pub(super) mod tests;
