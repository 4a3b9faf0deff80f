//! Walks over the real cgroup file system.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicU32, Ordering},
};

use segd_common::workload::{CGROUP_IN_UNIT, CGROUP_UNIT, CGROUP_UNTRUSTED};

use super::*;

/// A cgroup of the test's own, removed with all below it when dropped.
pub struct Scratch {
    pub root: CgroupRoot,
    pub path: String,
}

impl Scratch {
    /// `None`, and a line that says so, where the kernel or the privilege is missing.
    pub fn new() -> Option<Scratch> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = format!("/segd-test-{}-{number}", std::process::id());
        let made = CgroupRoot::find()
            .map_err(|error| error.to_string())
            .and_then(|root| {
                fs::create_dir(root.directory(&path)).map_err(|error| error.to_string())?;
                Ok(Scratch { root, path })
            });
        match made {
            Ok(scratch) => Some(scratch),
            Err(why) => {
                assert!(
                    std::env::var("SEGD_REQUIRE_KERNEL").is_err(),
                    "the kernel is required: {why}"
                );
                eprintln!("skipped: needs root and cgroup2: {why}");
                None
            }
        }
    }

    pub fn make(&self, below: &str) -> String {
        let path = format!("{}/{below}", self.path);
        fs::create_dir_all(self.root.directory(&path)).unwrap();
        path
    }

    /// By path from this cgroup on.
    pub fn met(&self) -> BTreeMap<String, Cgroup> {
        let mut met = BTreeMap::new();
        self.root
            .walk(&mut |cgroup| {
                if let Some(path) = cgroup.path.strip_prefix(&self.path) {
                    met.insert(path.to_owned(), cgroup.clone());
                }
            })
            .unwrap();
        met
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut directories = Vec::new();
        let _ = self.root.walk_at(&self.path, &mut |cgroup| {
            if cgroup.path.starts_with(&self.path) {
                directories.push(self.root.directory(&cgroup.path));
            }
        });
        for directory in directories.iter().rev() {
            let _ = fs::remove_dir(directory);
        }
    }
}

#[test]
fn finds_the_cgroup2_mount_on_hybrid_and_unified_hosts() {
    let hybrid = b"30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
        31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
        32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
    assert_eq!(mount_point(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
    let part =
        b"1 0 0:27 /a /mnt/a rw - cgroup2 none rw\n2 0 0:27 / /mnt/with\\040space rw - cgroup2 none rw\n";
    assert_eq!(mount_point(part), Some(PathBuf::from("/mnt/with space")));
    assert_eq!(mount_point(b"1 0 0:27 / /cgroup2 rw - tmpfs cgroup2 rw\n"), None);
    assert_eq!(mount_point(b""), None);
    let only_a_part = b"1 0 0:27 /a /mnt/a rw - cgroup2 none rw\n";
    assert_eq!(mount_point(only_a_part), Some(PathBuf::from("/mnt/a")));
}

#[test]
fn a_directory_elsewhere_is_no_cgroup_root() {
    assert!(matches!(
        CgroupRoot::open(Path::new("/proc")),
        Err(WorkloadError::NotCgroup2(_))
    ));
    assert!(matches!(
        CgroupRoot::open(Path::new("/no/such/place")),
        Err(WorkloadError::Io { .. })
    ));
}

#[test]
fn a_walk_meets_parents_first_and_tells_whose_names_they_are() {
    let Some(scratch) = Scratch::new() else { return };
    scratch.make("a.slice/b.service/c.service");
    let delegated = scratch.make("d/e");
    let open_to_all = scratch.make("o");
    std::os::unix::fs::chown(scratch.root.directory(&delegated), Some(1234), None).unwrap();
    scratch.make("d/e/f/g");
    scratch.make("o/p");
    fs::set_permissions(
        scratch.root.directory(&open_to_all),
        fs::Permissions::from_mode(0o777),
    )
    .unwrap();
    let met = scratch.met();
    let flags = |path: &str| met.get(path).map(|cgroup| cgroup.flags);
    assert_eq!(flags("/a.slice"), Some(0));
    assert_eq!(flags("/a.slice/b.service"), Some(CGROUP_UNIT));
    assert_eq!(
        flags("/a.slice/b.service/c.service"),
        Some(CGROUP_UNIT | CGROUP_IN_UNIT)
    );
    assert_eq!(flags("/d/e"), Some(0), "root made it, whoever owns it now");
    assert_eq!(flags("/d/e/f"), Some(CGROUP_UNTRUSTED));
    assert_eq!(flags("/d/e/f/g"), Some(CGROUP_UNTRUSTED));
    assert_eq!(flags("/o/p"), Some(CGROUP_UNTRUSTED));
    let (parent, child) = (&met["/d"], &met["/d/e"]);
    assert_eq!(
        (child.parent, child.depth, child.owner_uid),
        (parent.id, parent.depth + 1, 1234)
    );
    assert_eq!(child.name, b"e");
    assert_eq!(scratch.root.id(&delegated), Some(child.id));
    assert_eq!(scratch.root.id("/no/such/cgroup"), None);
}

#[test]
fn a_child_made_during_the_visit_of_its_parent_is_met() {
    let Some(scratch) = Scratch::new() else { return };
    let mut met = Vec::new();
    let walked = scratch.root.walk_at(&scratch.path, &mut |cgroup| {
        if cgroup.path.starts_with(&scratch.path) && cgroup.path.len() < scratch.path.len() + 6 {
            fs::create_dir(scratch.root.directory(&cgroup.path).join("x")).unwrap();
        }
        met.push(cgroup.path.clone());
    });
    assert!(walked.is_ok());
    let tail = format!("{}/x/x/x", scratch.path);
    assert_eq!(met.first().map(String::as_str), Some("/"));
    assert_eq!(
        met.last(),
        Some(&tail),
        "every visit came before its children were read"
    );
}

#[test]
fn cgroups_that_vanish_during_a_walk_are_left_out() {
    let Some(scratch) = Scratch::new() else { return };
    scratch.make("a/b");
    let mut met = 0;
    let walked = scratch.root.walk_at(&scratch.path, &mut |cgroup| {
        met += 1;
        if cgroup.path == format!("{}/a", scratch.path) {
            fs::remove_dir(scratch.root.directory(&cgroup.path).join("b")).unwrap();
            fs::remove_dir(scratch.root.directory(&cgroup.path)).unwrap();
        }
    });
    assert!(walked.is_ok());
    assert_eq!(met, 3);
    assert!(
        scratch
            .root
            .walk_at(&format!("{}/gone/x", scratch.path), &mut |_| met += 1)
            .is_ok()
    );
    assert_eq!(met, 5, "the ancestors that are left");
}

#[test]
fn waiting_for_births_changes_nothing() {
    let Some(scratch) = Scratch::new() else { return };
    let controllers = || fs::read(scratch.root.directory("/cgroup.subtree_control")).unwrap();
    let before = controllers();
    scratch.root.await_births().unwrap();
    assert_eq!(controllers(), before);
}

#[test]
fn a_deep_tree_needs_few_descriptors() {
    let Some(scratch) = Scratch::new() else { return };
    let deep = vec!["d"; 3 * MAX_OPEN].join("/");
    scratch.make(&deep);
    scratch.make("d/d/e/f");
    let met = scratch.met();
    assert_eq!(met.len(), 1 + 3 * MAX_OPEN + 2);
    assert!(met.contains_key("/d/d/e/f"));
}

#[test]
fn lists_the_processes_of_a_cgroup() {
    let Some(scratch) = Scratch::new() else { return };
    assert!(scratch.root.pids(&scratch.path).unwrap().is_empty());
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let procs = scratch.root.directory(&scratch.path).join("cgroup.procs");
    fs::write(procs, child.id().to_string()).unwrap();
    let listed = scratch.root.pids(&scratch.path).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(listed, [child.id()]);
    assert!(scratch.root.pids("/no/such/cgroup").is_err());
}

#[test]
fn a_path_thousands_of_cgroups_deep_is_cut_off() {
    let name = [b'n'; 255];
    let mut path = "/".to_owned();
    for depth in 1..5000 {
        let below = super::path_below(&path, &name);
        assert!(below.len() < 1100, "{depth} deep");
        assert!(depth > 3 || below == format!("{}/{}", path.trim_end_matches('/'), "n".repeat(255)));
        path = below;
    }
    assert!(path.ends_with("/…"), "{path}");
}
