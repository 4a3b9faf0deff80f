//! Programs of others on the same hooks: who could undo a denial, and who keeps segd from attaching.

use super::{Finding, Host};
use crate::{
    datapath::foreign::{Foreign, foreign},
    workload::cgroupfs::CgroupRoot,
};

pub(super) fn check(host: &Host) -> Finding {
    const NAME: &str = "foreign";
    let Ok(root) = CgroupRoot::of(host.cgroup_root.as_deref()) else {
        return Finding::ok(
            NAME,
            "there is no cgroup2 hierarchy, so nobody's programs are on it",
        );
    };
    let foreign = match foreign(root.path(), &host.pin_dir) {
        Ok(foreign) => foreign,
        Err(error) => return Finding::unknown(NAME, crate::report::chain(&error)),
    };
    let names = |of: &dyn Fn(&Foreign) -> bool| -> Vec<String> {
        foreign
            .iter()
            .filter(|foreign| of(foreign))
            .map(ToString::to_string)
            .collect()
    };
    let exclusive = names(&|foreign| foreign.exclusive);
    if !exclusive.is_empty() {
        return Finding::missing(
            NAME,
            format!(
                "a hook at the cgroup root is taken exclusively: {}",
                exclusive.join(", ")
            ),
        )
        .help("detach it, or let its owner attach with BPF_F_ALLOW_MULTI: `bpftool cgroup show` lists them");
    }
    // From 5.19 on such a program can turn EPERM of another into success (bpf_set_retval).
    let overruling = names(&|foreign| foreign.can_overrule);
    if !overruling.is_empty() {
        return Finding::degraded(
            NAME,
            format!(
                "programs of others are at the cgroup root: {}",
                overruling.join(", ")
            ),
            "they may turn the immediate error of a denied connect() or sendto() into success; its packets are \
             dropped all the same",
        );
    }
    let others = names(&|_| true);
    Finding::ok(
        NAME,
        if others.is_empty() {
            "segd is alone on its hooks".to_owned()
        } else {
            format!("programs of others can only deny more: {}", others.join(", "))
        },
    )
}
