//! Whether programs are compiled to machine code.

use super::{Finding, Host};

pub(super) fn check(_: &Host) -> Finding {
    const NAME: &str = "jit";
    // Without the file the kernel has no compiler, or nothing but (CONFIG_BPF_JIT_ALWAYS_ON still shows 1).
    match std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").map(|text| text.trim().to_owned()) {
        Ok(text) if text == "0" => Finding::degraded(
            NAME,
            "net.core.bpf_jit_enable is 0",
            "the kernel interprets the programs: several times slower",
        )
        .help("sysctl net.core.bpf_jit_enable=1"),
        Ok(_) => Finding::ok(NAME, "programs are compiled to machine code"),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Finding::unknown(NAME, "net.core.bpf_jit_enable may not be read")
        }
        // Its neighbour is everywhere, but like it in the initial network namespace alone (net/core/sysctl_net_core.c).
        Err(_) if !std::path::Path::new("/proc/sys/net/core/netdev_max_backlog").exists() => {
            Finding::unknown(
                NAME,
                "net.core.bpf_jit_enable is not shown in this network namespace",
            )
        }
        Err(_) => Finding::degraded(
            NAME,
            "the kernel has no compiler for BPF",
            "the kernel interprets the programs: several times slower",
        ),
    }
}
