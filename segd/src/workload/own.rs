//! Where segd itself lives in the cgroup tree: the one place that it may surely write.

use std::{fs, path::PathBuf};

use super::cgroupfs::CgroupRoot;

/// Where a cgroup for segd's own use can be made, the best place first: below segd's own, which is its user's; below
/// the root, which is closed even to root without CAP_DAC_OVERRIDE where it is the whole hierarchy's.
#[must_use]
pub fn places(root: &CgroupRoot) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let own = own.filter(|own| !own.is_empty() && !own.split('/').any(|part| part == ".."));
    let own = own.map(|own| root.path().join(own)).filter(|own| own.is_dir());
    own.into_iter().chain([root.path().to_owned()]).collect()
}
