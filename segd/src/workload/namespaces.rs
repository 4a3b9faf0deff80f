//! The network namespaces of the host: their addresses, and which workloads live in them.
//!
//! INVARIANT: no thread that runs other work ever changes its namespace. What must be asked inside is asked by a
//! thread that is made for it and ends with it.
//!
//! Deliberately absent: a thread in another namespace than the rest of its process; namespaces that nothing but an
//! open descriptor or a bind mount outside `/run/netns` and `/run/docker/netns` keeps alive.

use std::collections::{BTreeMap, BTreeSet};

use segd_common::{
    address::{Address, NAMESPACE_SINGLE},
    segment::{FIRST_SEGMENT, HOST, NONE, SegmentIndex},
    workload::Identity,
};

use self::census::Census;
use super::{cgroupfs::CgroupRoot, error::WorkloadError};

mod census;
mod inside;
mod watch;

pub use watch::watch;

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
    let census = Census::take(None)?;
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

#[cfg(test)]
mod tests;
