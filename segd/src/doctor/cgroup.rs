//! Whether there is a cgroup2 hierarchy, and whether segd hangs at its root.

use super::{Finding, Host, cgroup_help};
use crate::{report::chain, workload::cgroupfs::CgroupRoot};

pub(super) fn check(host: &Host) -> Finding {
    const NAME: &str = "cgroup2";
    match CgroupRoot::of(host.cgroup_root.as_deref()) {
        Ok(root) if root.is_hierarchy_root() => Finding::ok(
            NAME,
            format!("the whole hierarchy is at `{}`", root.path().display()),
        ),
        Ok(root) => Finding::degraded(
            NAME,
            format!("`{}` is not the hierarchy's root", root.path().display()),
            "processes outside it have no hooks: they are `host` as receivers, and denied as senders to segments",
        ),
        Err(error) => {
            let finding = Finding::missing(NAME, chain(&error));
            match cgroup_help(&error) {
                Some(help) => finding.help(help),
                None => finding,
            }
        }
    }
}
