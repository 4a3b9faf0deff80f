//! Whether cgroup v1's network controllers can take a socket's v2 identity away.
//!
//! Before 5.15 a socket has one field for both: the first user of net_cls or net_prio makes every socket of the host
//! belong to the v2 root (kernel commit 8520e224f547). segd would take them all for `host`.

use super::{Finding, Host};
use crate::datapath::kernel;

pub(super) fn check(_: &Host) -> Finding {
    const NAME: &str = "cgroup-v1";
    let table = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let mounted = mounted(&table);
    if mounted.is_empty() {
        return Finding::ok(NAME, "no v1 controller of sockets is mounted");
    }
    let mounted = mounted.join(" and ");
    if kernel::sockets_have_a_v2_cgroup_of_their_own() {
        return Finding::ok(
            NAME,
            format!("{mounted} of cgroup v1 is mounted, and does no harm"),
        );
    }
    Finding::missing(
        NAME,
        format!("{mounted} of cgroup v1 is mounted: this kernel may take the sockets' identity away"),
    )
    .help("boot with cgroup_no_v1=net_cls,net_prio, or a kernel from 5.15 on")
}

/// The controllers of sockets that hang in a v1 hierarchy, from /proc/cgroups.
fn mounted(table: &str) -> Vec<&str> {
    table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let name = fields.next()?;
            let hierarchy: u32 = fields.next()?.parse().ok()?;
            (matches!(name, "net_cls" | "net_prio") && hierarchy != 0).then_some(name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn sees_v1_controllers_that_are_mounted() {
        let table = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t3\t10\t1\nnet_cls\t5\t1\t1\nnet_prio\t0\t1\t1\n";
        assert_eq!(super::mounted(table), ["net_cls"]);
        assert!(super::mounted("").is_empty());
    }
}
