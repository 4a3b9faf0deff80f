//! Whether everybody may load BPF programs.

use super::{Finding, Host};

pub(super) fn check(_: &Host) -> Finding {
    const NAME: &str = "unprivileged-bpf";
    match std::fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled") {
        Ok(text) if text.trim() == "0" => Finding::degraded(
            NAME,
            "kernel.unprivileged_bpf_disabled is 0",
            "every user may give the verifier programs to get wrong: a hole there is a way around segd",
        )
        .help("sysctl kernel.unprivileged_bpf_disabled=2"),
        Ok(_) => Finding::ok(NAME, "only privileged users may load programs"),
        // The file is there wherever bpf(2) is.
        Err(error) => Finding::degraded(
            NAME,
            format!("kernel.unprivileged_bpf_disabled: {error}"),
            "whether every user may load programs is not known",
        ),
    }
}
