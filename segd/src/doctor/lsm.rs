//! Whether BPF programs can be security modules. Nothing of the enforcement depends on it.

use super::{Finding, Host, privilege};
use crate::datapath::feature;

/// What findings about it are called.
pub const NAME: &str = "bpf-lsm";

const COST: &str = "packet and XDP sockets are not refused to workloads where they are made, bound or sent by, and \
                    `--protect` guards nothing; their packets are judged on links and where they arrive";

/// The kernel does not ask such programs, for this reason.
#[must_use]
pub fn unasked(found: impl Into<String>) -> Finding {
    Finding::degraded(NAME, found, COST)
}

pub(super) fn check(_: &Host) -> Finding {
    match (feature::asks_lsm(), feature::takes_lsm()) {
        (Ok(true), Ok(true)) => {
            Finding::ok(NAME, "the kernel asks BPF programs about packet and XDP sockets")
        }
        (Ok(false), _) => {
            unasked(format!("`bpf` is not in {}", feature::LSM_ACTIVE)).help("boot with lsm=…,bpf")
        }
        (_, Ok(false)) => unasked("the kernel does not take such programs"),
        (_, Err(error)) if !privilege::is_complete() => Finding::unknown(NAME, crate::report::chain(&error)),
        (_, Err(error)) => unasked(crate::report::chain(&error)),
        (Err(error), Ok(true)) => unasked(format!(
            "whether it is active cannot be told: {}: {error}",
            feature::LSM_ACTIVE
        ))
        .help("mount -t securityfs securityfs /sys/kernel/security"),
    }
}
