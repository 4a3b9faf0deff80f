//! The network namespaces of the host: their addresses, and which workloads live in them.
//!
//! INVARIANT: no thread that runs other work ever changes its namespace. What must be asked inside is asked by a
//! thread that is made for it and ends with it.
//!
//! Deliberately absent: a thread in another namespace than the rest of its process; namespaces that nothing but an
//! open descriptor or a bind mount outside `/run/netns` and `/run/docker/netns` keeps alive.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use segd_common::{
    address::{Address, NAMESPACE_SINGLE},
    segment::{FIRST_SEGMENT, HOST, NONE, SegmentIndex},
    workload::Identity,
};

use super::{cgroupfs::CgroupRoot, error::WorkloadError};

mod inside;
mod watch;

pub use watch::watch;

/// Where programs keep namespaces that no process needs to be in.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// Its cookie, as `bpf_get_netns_cookie` tells it.
    pub cookie: u64,
    /// The inode number of its file.
    pub inode: u64,
    /// It is the initial one; or segd's own, where the initial one may not be looked at.
    pub is_host: bool,
    /// Its addresses, tentative ones included, sorted.
    pub addresses: Vec<Address>,
    /// The cgroups that have processes in it. Not told for the host's.
    pub cgroups: BTreeSet<u64>,
}

/// Lists the network namespaces. Blocks: not for an async thread.
///
/// Processes that vanish, or may not be looked at, are left out; so is a namespace that cannot be entered.
///
/// # Errors
///
/// If `/proc` cannot be read, or no thread can be made.
pub fn namespaces(root: &CgroupRoot) -> Result<Vec<NamespaceInfo>, WorkloadError> {
    let census = Census::take()?;
    let mut handles = Vec::new();
    for inode in census.places.keys() {
        handles.extend(census.open(*inode));
    }
    let found =
        inside::ask(handles).map_err(|source| WorkloadError::io("enter", "/proc/*/ns/net", source))?;
    let mut ids = BTreeMap::new();
    for path in census.members.iter().map(|(_, path)| path) {
        if !ids.contains_key(path) {
            ids.insert(path, root.id(path));
        }
    }
    let infos = found.into_iter().map(
        |inside::Answer {
             inode,
             cookie,
             addresses,
         }| {
            let members = census.members.iter().filter(|(namespace, _)| *namespace == inode);
            let cgroups = members
                .filter_map(|(_, path)| ids.get(path).copied().flatten())
                .collect();
            NamespaceInfo {
                cookie,
                inode,
                is_host: inode == census.host,
                addresses,
                cgroups,
            }
        },
    );
    Ok(infos.collect())
}

/// Whose namespace it is: the one segment that lives in it, with `NAMESPACE_` flags.
///
/// `identity` is told a cgroup's id; `None` = nobody classified it. The host's processes do not count. None or
/// several segments: `HOST`. If anybody in it is unknown, or known with reservations, it is nobody's, and denied.
#[must_use]
pub fn owner(info: &NamespaceInfo, identity: &dyn Fn(u64) -> Option<Identity>) -> (SegmentIndex, u16) {
    if info.is_host {
        return (HOST, 0);
    }
    let mut segments = BTreeSet::new();
    for cgroup in &info.cgroups {
        match identity(*cgroup) {
            Some(Identity { segment, flags: 0 }) if segment >= FIRST_SEGMENT => {
                segments.insert(segment);
            }
            Some(Identity {
                segment: HOST,
                flags: 0,
            }) => {}
            _ => return (NONE, 0),
        }
    }
    match segments.first() {
        Some(segment) if segments.len() == 1 => (*segment, NAMESPACE_SINGLE),
        _ => (HOST, 0),
    }
}

/// Who is where, as told by `/proc`: cheap, nothing is entered.
#[derive(Debug, PartialEq, Eq)]
struct Census {
    /// The host namespace's inode number.
    host: u64,
    /// For each namespace the files to open it by.
    places: BTreeMap<u64, Vec<PathBuf>>,
    /// Namespaces with the cgroup paths of their processes, the host's left out.
    members: BTreeSet<(u64, String)>,
}

impl Census {
    fn take() -> Result<Census, WorkloadError> {
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
        };
        let processes = fs::read_dir("/proc").map_err(|source| WorkloadError::io("read", "/proc", source))?;
        for process in processes.flatten() {
            if process
                .file_name()
                .as_encoded_bytes()
                .first()
                .is_some_and(u8::is_ascii_digit)
            {
                census.count(&process.path());
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

    fn count(&mut self, process: &Path) {
        let file = process.join("ns/net");
        let Ok(inode) = link(&file) else {
            return;
        };
        if inode == self.host {
            return;
        }
        self.places.entry(inode).or_default().push(file);
        if let Some(path) = fs::read(process.join("cgroup"))
            .ok()
            .as_deref()
            .and_then(cgroup_path)
        {
            self.members.insert((inode, path));
        }
    }

    /// Opens a namespace. A process may have left meanwhile, and its number been given away: the file itself says
    /// which it is.
    fn open(&self, inode: u64) -> Option<File> {
        let files = self
            .places
            .get(&inode)
            .into_iter()
            .flatten()
            .filter_map(|place| File::open(place).ok());
        files
            .into_iter()
            .find(|file| file.metadata().is_ok_and(|metadata| metadata.ino() == inode))
    }

    /// What a change of the world changes; the files that it was seen through do not matter.
    fn differs(&self, other: &Census) -> bool {
        self.host != other.host
            || self.members != other.members
            || !self.places.keys().eq(other.places.keys())
    }
}

/// The inode number in `net:[4026531840]`.
fn link(file: &Path) -> io::Result<u64> {
    let target = fs::read_link(file)?;
    let number = target
        .to_str()
        .and_then(|text| text.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok());
    number.ok_or_else(|| io::Error::other("not a network namespace"))
}

/// The cgroup2 line of `/proc/<pid>/cgroup`; `None` if the process is in no cgroup that can be reached.
fn cgroup_path(text: &[u8]) -> Option<String> {
    let line = text
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"0::"))?;
    let path = std::str::from_utf8(line).ok()?;
    let reachable = !path.ends_with(" (deleted)") && !path.split('/').any(|part| part == "..");
    reachable.then(|| path.to_owned())
}

#[cfg(test)]
mod tests;
