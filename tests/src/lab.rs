//! The bench a test works on: one test at a time on the whole machine, leftovers swept, names unique.

use std::{
    cell::Cell,
    fs::{self, File},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Bridge, Cgroup, Netns, Segd, Worker,
    cgroup::{kill_members, remove_tree},
    segd::Builder,
    sys,
};

const LOCK: &str = "/run/segd-test.lock";
/// The prefix of every cgroup, namespace and pin directory of the tests.
pub const PREFIX: &str = "segd-t-";
/// The prefix of the tests' pin directories.
pub const PIN_PREFIX: &str = "segd-test-";
/// Where bpffs is.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Holds the machine for one test.
#[derive(Debug)]
pub struct Lab {
    cgroup_root: PathBuf,
    counter: Cell<u32>,
    // Dropped last: it releases the machine.
    _lock: File,
}

impl Lab {
    /// Takes the machine, or says why the test cannot run.
    ///
    /// # Panics
    /// When it cannot run and `SEGD_REQUIRE_KERNEL=1`.
    #[must_use]
    pub fn open() -> Option<Lab> {
        match Lab::try_open() {
            Ok(lab) => Some(lab),
            Err(why) => {
                let required = std::env::var("SEGD_REQUIRE_KERNEL").is_ok_and(|value| value == "1");
                assert!(!required, "this test must run here and cannot: {why}");
                eprintln!("SKIPPED: {why}");
                None
            }
        }
    }

    fn try_open() -> Result<Lab, String> {
        if !sys::is_root() {
            return Err("not root".into());
        }
        let cgroup_root = cgroup2_mount().ok_or("no cgroup2 mount")?;
        let lock = File::create(LOCK).map_err(|error| format!("{LOCK}: {error}"))?;
        // SAFETY: the descriptor is open for the duration of the call.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) } != 0 {
            return Err(format!("flock {LOCK}: {}", std::io::Error::last_os_error()));
        }
        if !is_bpffs(Path::new(BPFFS)) {
            // xtask setup does it; a test of a fresh machine should not fail for that.
            Command::new("mount")
                .args(["-t", "bpf", "bpf", BPFFS])
                .output()
                .ok();
            if !is_bpffs(Path::new(BPFFS)) {
                return Err(format!("no bpffs at {BPFFS}"));
            }
        }
        sweep(&cgroup_root);
        Ok(Lab {
            cgroup_root,
            counter: Cell::new(0),
            _lock: lock,
        })
    }

    /// The cgroup2 mount.
    #[must_use]
    pub fn cgroup_root(&self) -> &Path {
        &self.cgroup_root
    }

    /// A name no other test uses.
    #[must_use]
    pub fn unique(&self, name: &str) -> String {
        let number = self.counter.get();
        self.counter.set(number + 1);
        format!("{PREFIX}{}-{number}-{name}", std::process::id())
    }

    /// A fresh cgroup directly under the root.
    #[track_caller]
    #[must_use]
    pub fn cgroup(&self, name: &str) -> Cgroup {
        Cgroup::create(&self.cgroup_root, &self.unique(name))
    }

    /// A fresh network namespace.
    #[track_caller]
    #[must_use]
    pub fn netns(&self, name: &str) -> Netns {
        Netns::create(&self.unique(name))
    }

    /// The switch.
    #[track_caller]
    #[must_use]
    pub fn bridge(&self) -> Bridge {
        Bridge::create(&format!("sgt{}br", std::process::id() % 100_000))
    }

    /// A process in `cgroup`, in the host's network namespace.
    #[track_caller]
    #[must_use]
    pub fn worker(&self, cgroup: &Cgroup) -> Worker {
        Worker::start(Some(cgroup.directory()), None)
    }

    /// A process in `cgroup`, in the host's network namespace, without any privilege.
    #[track_caller]
    #[must_use]
    pub fn nobody(&self, cgroup: &Cgroup) -> Worker {
        Worker::start_as_nobody(Some(cgroup.directory()), None)
    }

    /// A process in `cgroup` and `netns`.
    #[track_caller]
    #[must_use]
    pub fn worker_in(&self, cgroup: &Cgroup, netns: &Netns) -> Worker {
        Worker::start(Some(cgroup.directory()), Some(&netns.path()))
    }

    /// A segd to be started on this policy.
    #[must_use]
    pub fn segd(&self, policy: &str) -> Builder {
        Builder::new(policy)
    }

    /// Starts segd on this policy.
    #[track_caller]
    #[must_use]
    pub fn enforce(&self, policy: &str) -> Segd {
        self.segd(policy).start()
    }
}

/// The first cgroup2 mount of this process' mount namespace.
#[must_use]
pub fn cgroup2_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let path = front.split(' ').nth(4)?;
        back.starts_with("cgroup2 ").then(|| PathBuf::from(path))
    })
}

fn is_bpffs(path: &Path) -> bool {
    fs::read_to_string("/proc/self/mountinfo").is_ok_and(|mounts| {
        mounts.lines().any(|line| {
            line.split_once(" - ").is_some_and(|(front, back)| {
                back.starts_with("bpf ") && front.split(' ').nth(4).is_some_and(|at| Path::new(at) == path)
            })
        })
    })
}

/// Removes what crashed runs left. Whoever holds the lock owns every name with the prefix.
fn sweep(cgroup_root: &Path) {
    let names = |directory: &Path| -> Vec<String> {
        fs::read_dir(directory)
            .map(|entries| {
                entries
                    .flatten()
                    .map(|entry| entry.file_name().to_string_lossy().into_owned())
                    .collect()
            })
            .unwrap_or_default()
    };
    for name in names(Path::new("/run/netns"))
        .iter()
        .filter(|name| name.starts_with(PREFIX))
    {
        Command::new("ip").args(["netns", "del", name]).output().ok();
    }
    for name in names(Path::new("/sys/class/net")) {
        let digits = name.strip_prefix("sgt").unwrap_or_default();
        if digits.starts_with(|first: char| first.is_ascii_digit()) {
            Command::new("ip").args(["link", "del", &name]).output().ok();
        }
    }
    for name in names(Path::new(BPFFS))
        .iter()
        .filter(|name| name.starts_with(PIN_PREFIX))
    {
        fs::remove_dir_all(Path::new(BPFFS).join(name)).ok();
    }
    // The probe's cgroup of a segd that was killed; rmdir spares one that is in use.
    for name in names(cgroup_root) {
        let pid = name.strip_prefix("segd-probe-");
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            fs::remove_dir(cgroup_root.join(&name)).ok();
        }
    }
    for name in names(cgroup_root).iter().filter(|name| name.starts_with(PREFIX)) {
        kill_members(&cgroup_root.join(name));
        remove_tree(&cgroup_root.join(name));
    }
}
