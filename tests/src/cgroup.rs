//! A cgroup of the test, removed with everything below it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{sys, wait};

/// A directory in the cgroup2 tree.
#[derive(Debug)]
pub struct Cgroup {
    root: PathBuf,
    directory: PathBuf,
}

impl Cgroup {
    /// Creates `name` below `root`.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[track_caller]
    #[must_use]
    pub fn create(root: &Path, name: &str) -> Cgroup {
        let directory = root.join(name.trim_start_matches('/'));
        fs::create_dir_all(&directory)
            .unwrap_or_else(|error| panic!("mkdir {}: {error}", directory.display()));
        Cgroup {
            root: root.to_owned(),
            directory,
        }
    }

    /// Creates a cgroup inside this one.
    #[track_caller]
    #[must_use]
    pub fn child(&self, name: &str) -> Cgroup {
        let directory = self.directory.join(name);
        fs::create_dir(&directory).unwrap_or_else(|error| panic!("mkdir {}: {error}", directory.display()));
        Cgroup {
            root: self.root.clone(),
            directory,
        }
    }

    /// Where it is in the file system.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What a policy calls it.
    #[must_use]
    pub fn path(&self) -> String {
        format!(
            "/{}",
            self.directory
                .strip_prefix(&self.root)
                .expect("below the root")
                .display()
        )
    }

    /// Removes it now; its sockets may live on.
    ///
    /// # Panics
    /// When a process is left in it.
    #[track_caller]
    pub fn remove(self) {
        let directory = self.directory.clone();
        wait::wait_until(
            format!("{} is empty", directory.display()),
            wait::PATIENCE,
            || {
                remove_tree(&directory);
                !directory.exists()
            },
        );
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Whoever is left in it, whatever else of the test is dropped later.
        kill_members(&self.directory);
        if !wait::within(std::time::Duration::from_secs(3), || {
            remove_tree(&self.directory);
            !self.directory.exists()
        }) {
            eprintln!("could not remove {}", self.directory.display());
        }
    }
}

/// Kills all processes of a cgroup, and below it.
pub fn kill_members(directory: &Path) {
    if fs::write(directory.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    // Before 5.14.
    let members = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.parse().ok()) {
        sys::kill(pid, libc::SIGKILL);
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            kill_members(&entry.path());
        }
    }
}

/// Removes a cgroup and all below it, deepest first; what is busy stays.
pub fn remove_tree(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(directory).ok();
}
