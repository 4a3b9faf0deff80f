//! Who is in which network namespace, as told by `/proc`: cheap, nothing is entered.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::workload::error::WorkloadError;

/// Where programs keep namespaces that no process needs to be in.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];
/// How often in a row a new process' cgroup is read: it is often moved soon after it starts.
const FRESH: u32 = 3;
/// After that it is read in one census of so many.
const SELDOM: u32 = 8;

/// One look at all processes and named namespaces.
#[derive(Debug)]
pub(super) struct Census {
    /// The host namespace's inode number.
    pub host: u64,
    /// For each namespace the files to open it by.
    pub places: BTreeMap<u64, Vec<PathBuf>>,
    /// Namespaces with the cgroup paths of their processes, the host's left out.
    pub members: BTreeSet<(u64, String)>,
    /// By number, the host namespace's left out.
    processes: BTreeMap<u32, Process>,
}

#[derive(Debug)]
struct Process {
    namespace: u64,
    cgroup: Option<String>,
    /// How many censuses in a row it was there before.
    seen: u32,
}

impl Census {
    /// Looks. What a previous look knows of a process that is still there is mostly believed.
    pub fn take(previous: Option<&Census>) -> Result<Census, WorkloadError> {
        let own = Path::new("/proc/thread-self/ns/net");
        let failed = |source| WorkloadError::io("read", own, source);
        let device = fs::metadata(own).map_err(failed)?.dev();
        let own_inode = link(own).map_err(failed)?;
        let initial = Path::new("/proc/1/ns/net");
        let (host, place) = link(initial).map_or((own_inode, own), |inode| (inode, initial));
        let places = BTreeMap::from([(host, vec![place.to_owned()])]);
        let mut census = Census {
            host,
            places,
            members: BTreeSet::new(),
            processes: BTreeMap::new(),
        };
        let processes = fs::read_dir("/proc").map_err(|source| WorkloadError::io("read", "/proc", source))?;
        for entry in processes.flatten() {
            if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                census.count(
                    number,
                    &entry.path(),
                    previous.and_then(|census| census.processes.get(&number)),
                );
            }
        }
        for named in NAMED.iter().flat_map(fs::read_dir).flatten().flatten() {
            // A file that nothing is mounted on is no namespace.
            let metadata = fs::metadata(named.path())
                .ok()
                .filter(|metadata| metadata.dev() == device);
            if let Some(metadata) = metadata {
                census
                    .places
                    .entry(metadata.ino())
                    .or_default()
                    .push(named.path());
            }
        }
        Ok(census)
    }

    fn count(&mut self, number: u32, directory: &Path, known: Option<&Process>) {
        let file = directory.join("ns/net");
        let Ok(namespace) = link(&file) else {
            return;
        };
        if namespace == self.host {
            return;
        }
        self.places.entry(namespace).or_default().push(file);
        let known = known.filter(|known| known.namespace == namespace);
        let seen = known.map_or(0, |known| known.seen.saturating_add(1));
        let believed = seen >= FRESH && !seen.wrapping_add(number).is_multiple_of(SELDOM);
        let cgroup = match known {
            Some(known) if believed => known.cgroup.clone(),
            _ => fs::read(directory.join("cgroup"))
                .ok()
                .as_deref()
                .and_then(cgroup_path),
        };
        self.members
            .extend(cgroup.clone().map(|cgroup| (namespace, cgroup)));
        self.processes.insert(
            number,
            Process {
                namespace,
                cgroup,
                seen,
            },
        );
    }

    /// Opens a namespace. A process may have left meanwhile, and its number been given away: the file itself says
    /// which it is.
    pub fn open(&self, inode: u64) -> Option<File> {
        let places = self.places.get(&inode).into_iter().flatten();
        let mut files = places.filter_map(|place| File::open(place).ok());
        files.find(|file| file.metadata().is_ok_and(|metadata| metadata.ino() == inode))
    }

    /// What a change of the world changes; the processes that it was seen through do not matter.
    pub fn differs(&self, other: &Census) -> bool {
        self.host != other.host
            || self.members != other.members
            || !self.places.keys().eq(other.places.keys())
    }
}

/// The inode number in `net:[4026531840]`.
pub(super) fn link(file: &Path) -> io::Result<u64> {
    let target = fs::read_link(file)?;
    let number = target
        .to_str()
        .and_then(|text| text.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok());
    number.ok_or_else(|| io::Error::other("not a network namespace"))
}

/// The cgroup2 line of `/proc/<pid>/cgroup`; `None` if the process is in no cgroup that can be reached.
pub(super) fn cgroup_path(text: &[u8]) -> Option<String> {
    let line = text
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"0::"))?;
    let path = std::str::from_utf8(line).ok()?;
    let reachable = !path.ends_with(" (deleted)") && !path.split('/').any(|part| part == "..");
    reachable.then(|| path.to_owned())
}
