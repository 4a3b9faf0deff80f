//! Whether the kernel takes each type of program that segd consists of.

use super::{Finding, Host};
use crate::datapath::feature;

pub(super) fn check(_: &Host) -> Finding {
    const NAME: &str = "programs";
    match feature::missing_programs() {
        Ok(missing) if missing.is_empty() => Finding::ok(NAME, "the kernel takes every type of program"),
        Ok(missing) => Finding::missing(
            NAME,
            format!("the kernel does not take programs of type {}", missing.join(", ")),
        )
        .help("it needs CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and CONFIG_BPF_EVENTS"),
        Err(error) => Finding::refused(NAME, &error),
    }
}
