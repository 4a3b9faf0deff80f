//! One look at who is in which network namespace: the kernel's own list of tasks, and the namespaces that have a name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use segd_common::census::{Namespace, Task};

use super::netlink::By;
use crate::{datapath::census::Census, workload::error::WorkloadError};

/// Where programs keep namespaces that no process needs to be in.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// What a look showed. The host's own namespace is left out.
#[derive(Debug)]
pub(super) struct Look {
    /// The oldest task of each namespace: the one that is least likely to leave.
    pub tasks: BTreeMap<Namespace, Task>,
    /// A file of each namespace that has a name, but for some that a task leads to as well. It keeps the namespace alive for as long
    /// as it is held.
    pub files: BTreeMap<Namespace, File>,
    /// Namespaces with the cgroups of their tasks.
    pub members: BTreeSet<(Namespace, u64)>,
    /// Every name could be looked at.
    pub is_whole: bool,
}

/// What remains of a look for the next one to be compared with. It holds no file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    members: BTreeSet<(Namespace, u64)>,
    pub namespaces: BTreeSet<Namespace>,
}

impl Look {
    /// Looks at tasks alone.
    pub fn at_tasks(census: &Census) -> Result<Look, WorkloadError> {
        let tasks = census
            .tasks()
            .map_err(|source| WorkloadError::io("list", "the kernel's tasks", source))?;
        let mut look = Look {
            members: tasks.iter().map(|task| (task.namespace, task.cgroup)).collect(),
            tasks: BTreeMap::new(),
            files: BTreeMap::new(),
            is_whole: true,
        };
        for task in tasks {
            let oldest = look.tasks.entry(task.namespace).or_insert(task);
            if task.started < oldest.started {
                *oldest = task;
            }
        }
        Ok(look)
    }

    /// Looks.
    pub fn take(census: &Census) -> Result<Look, WorkloadError> {
        let mut look = Look::at_tasks(census)?;
        let host = super::host()?;
        let mut there = Vec::new();
        for directory in NAMED {
            look.is_whole &= !names(Path::new(directory), &mut there).is_err_and(|error| is_want(&error));
        }
        for path in there {
            let file = loop {
                match File::open(&path) {
                    Ok(file) => break Some(file),
                    Err(error) if is_want(&error) && look.spare_files() => (),
                    Err(error) => {
                        look.is_whole &= !is_want(&error);
                        break None;
                    }
                }
            };
            let Some(file) = file else { continue };
            // A file that nothing is mounted on is no namespace.
            let told = census.namespace(file.as_fd());
            let told = told.map_err(|source| WorkloadError::io("look at", &path, source))?;
            if let Some(namespace) = told.filter(|namespace| namespace.cookie != host.cookie) {
                look.files.insert(namespace, file);
            }
        }
        Ok(look)
    }

    /// Lets go of the files of namespaces that a task leads to as well. Whether there were any.
    fn spare_files(&mut self) -> bool {
        let held = self.files.len();
        self.files
            .retain(|namespace, _| !self.tasks.contains_key(namespace));
        self.files.len() < held
    }

    /// Every namespace.
    pub fn namespaces(&self) -> BTreeSet<Namespace> {
        self.tasks.keys().chain(self.files.keys()).copied().collect()
    }

    /// The cgroups that have tasks in a namespace.
    pub fn cgroups(&self, namespace: &Namespace) -> BTreeSet<u64> {
        let members = self.members.range((*namespace, 0)..=(*namespace, u64::MAX));
        members.map(|(_, cgroup)| *cgroup).collect()
    }

    /// Whether a task still lives where it did. The oldest stays the oldest, unless an older one joins.
    pub fn is_there(&self, task: &Task) -> bool {
        let oldest = self.tasks.get(&task.namespace);
        oldest.is_some_and(|oldest| (oldest.number, oldest.started) == (task.number, task.started))
    }

    /// How to name a namespace to the kernel.
    pub fn by(&self, namespace: &Namespace) -> Option<By<'_>> {
        let file = self.files.get(namespace).map(|file| By::File(file.as_fd()));
        file.or_else(|| Some(By::Task(self.tasks.get(namespace)?.number)))
    }

    /// What a change of the world changes; the tasks that it was seen through do not matter.
    pub fn seen(self) -> Seen {
        Seen {
            namespaces: self.namespaces(),
            members: self.members,
        }
    }
}

/// What stands in a directory.
fn names(directory: &Path, into: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        into.push(entry?.path());
    }
    Ok(())
}

/// Whether it is for want of descriptors or of memory: that says nothing of what is there. Who is not there, or is nothing that opens, is
/// none at the next look either.
fn is_want(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)
    )
}
