//! Whether BPF programs can be security modules. Nothing of the enforcement depends on it.

use super::{Finding, Host, privilege};
use crate::datapath::feature;

/// Only if `bpf` is among these does the kernel ask such a program.
const ACTIVE: &str = "/sys/kernel/security/lsm";

pub(super) fn check(_: &Host) -> Finding {
    const NAME: &str = "bpf-lsm";
    const COST: &str = "packet sockets cannot be refused where they are made, and segd's pins not be guarded against \
                        root; packets of such sockets are judged where they arrive";
    let listed = std::fs::read_to_string(ACTIVE).map(|list| list.trim().split(',').any(|name| name == "bpf"));
    match (listed, feature::takes_lsm()) {
        (Ok(true), Ok(true)) => Finding::ok(NAME, "active"),
        (Ok(false), _) => {
            Finding::degraded(NAME, format!("`bpf` is not in {ACTIVE}"), COST).help("boot with lsm=…,bpf")
        }
        (_, Ok(false)) => Finding::degraded(NAME, "the kernel does not take such programs", COST),
        (_, Err(error)) if !privilege::is_complete() => Finding::unknown(NAME, crate::report::chain(&error)),
        (_, Err(error)) => Finding::degraded(NAME, crate::report::chain(&error), COST),
        (Err(error), Ok(true)) => Finding::degraded(
            NAME,
            format!("whether it is active cannot be told: {ACTIVE}: {error}"),
            COST,
        )
        .help("mount -t securityfs securityfs /sys/kernel/security"),
    }
}
