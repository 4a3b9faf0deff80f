//! Whether the cgroup file system may be written: the live probe needs a cgroup of its own.

use std::os::unix::ffi::OsStrExt as _;

use super::{Finding, Host, privilege};
use crate::workload::{cgroupfs::CgroupRoot, own::places};

pub(super) fn check(host: &Host) -> Finding {
    const NAME: &str = "cgroup-write";
    let Ok(root) = CgroupRoot::of(host.cgroup_root.as_deref()) else {
        return Finding::degraded(
            NAME,
            "there is no cgroup2 hierarchy to write to",
            "nothing is enforced, see cgroup2",
        );
    };
    if places(&root).iter().any(|place| may_write(place)) {
        Finding::ok(NAME, "the live probe can have a cgroup of its own")
    } else if privilege::is_complete() {
        Finding::degraded(
            NAME,
            format!("`{}` may not be written", root.path().display()),
            "no live probe: segd enforces, but cannot prove it and `segd_enforcing` stays 0; a cgroup born while \
             a policy is loaded may stay denied until the next",
        )
        .help("let segd write there, in a container mount cgroupfs read-write")
    } else {
        Finding::unknown(
            NAME,
            format!("this user may not write `{}`", root.path().display()),
        )
    }
}

fn may_write(path: &std::path::Path) -> bool {
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: a live C string.
    unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::W_OK, libc::AT_EACCESS) == 0 }
}
