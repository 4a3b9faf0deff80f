//! What the kernel takes, found out by giving it tiny programs and maps. Nothing of it is attached or kept.

use std::io;

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};

use super::{Error, again::again, btf, sys};
use crate::report::chain;

/// Every type of program in the object, and which of the kernel's functions such programs call.
const PROGRAMS: &[(&str, ProgramType, &[BpfHelper])] = &[
    (
        "cgroup_skb",
        ProgramType::CgroupSkb,
        &[
            BpfHelper::BPF_FUNC_map_lookup_elem,
            BpfHelper::BPF_FUNC_skb_load_bytes,
            BpfHelper::BPF_FUNC_skb_cgroup_id,
            BpfHelper::BPF_FUNC_skb_ancestor_cgroup_id,
            BpfHelper::BPF_FUNC_sk_fullsock,
            BpfHelper::BPF_FUNC_sk_cgroup_id,
            BpfHelper::BPF_FUNC_sk_storage_get,
            BpfHelper::BPF_FUNC_sk_lookup_tcp,
            BpfHelper::BPF_FUNC_sk_lookup_udp,
            BpfHelper::BPF_FUNC_sk_release,
            BpfHelper::BPF_FUNC_get_socket_cookie,
            BpfHelper::BPF_FUNC_probe_read_kernel,
            BpfHelper::BPF_FUNC_ktime_get_ns,
            BpfHelper::BPF_FUNC_jiffies64,
            BpfHelper::BPF_FUNC_ktime_get_boot_ns,
            BpfHelper::BPF_FUNC_ringbuf_reserve,
        ],
    ),
    (
        "cgroup_sock_addr",
        ProgramType::CgroupSockAddr,
        &[
            BpfHelper::BPF_FUNC_sk_lookup_tcp,
            BpfHelper::BPF_FUNC_sk_lookup_udp,
            BpfHelper::BPF_FUNC_probe_read_kernel,
            BpfHelper::BPF_FUNC_ktime_get_boot_ns,
        ],
    ),
    (
        "sock_ops",
        ProgramType::SockOps,
        &[
            BpfHelper::BPF_FUNC_sk_storage_get,
            BpfHelper::BPF_FUNC_probe_read_kernel,
        ],
    ),
    ("xdp", ProgramType::Xdp, &[BpfHelper::BPF_FUNC_ktime_get_boot_ns]),
    (
        "raw_tracepoint",
        ProgramType::RawTracePoint,
        &[
            BpfHelper::BPF_FUNC_probe_read_kernel,
            BpfHelper::BPF_FUNC_probe_read_kernel_str,
            BpfHelper::BPF_FUNC_get_current_uid_gid,
        ],
    ),
];

/// Every type of map in the object but socket storage, which comes with `bpf_sk_storage_get`: to refuse one without a type takes
/// the kernel two grace periods.
const MAPS: &[(&str, MapType)] = &[
    ("array", MapType::Array),
    ("hash", MapType::Hash),
    ("per-CPU array", MapType::PerCpuArray),
    ("per-CPU hash", MapType::PerCpuHash),
    ("LRU hash", MapType::LruHash),
    ("array of maps", MapType::ArrayOfMaps),
    ("ring buffer", MapType::RingBuf),
];

fn failed(what: &str, error: &dyn std::error::Error) -> Error {
    Error::Refused {
        operation: format!("asking the kernel whether it takes {what}"),
        message: chain(error),
    }
}

/// The types of program that segd needs and the kernel does not take.
pub fn missing_programs() -> Result<Vec<&'static str>, Error> {
    let mut missing = Vec::new();
    for (name, kind, _) in PROGRAMS {
        if !again(|| is_program_supported(*kind)).map_err(|error| failed(name, &error))? {
            missing.push(*name);
        }
    }
    Ok(missing)
}

/// The functions that segd's programs call and the kernel does not offer them, as `bpf_name (program)`.
pub fn missing_helpers() -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    for (program, kind, helpers) in PROGRAMS {
        for helper in *helpers {
            if !again(|| is_helper_supported(*kind, *helper)).map_err(|error| failed(program, &error))? {
                let name = format!("{helper:?}").replace("BPF_FUNC_", "bpf_");
                missing.push(format!("{name} ({program})"));
            }
        }
    }
    Ok(missing)
}

/// Whether a helper tells every hook its network namespace's cookie. Else the programs read it where the kernel keeps it.
pub fn every_hook_may_ask_for_its_namespace() -> Result<bool, Error> {
    for kind in [
        ProgramType::CgroupSkb,
        ProgramType::CgroupSockAddr,
        ProgramType::SockOps,
    ] {
        let told = again(|| is_helper_supported(kind, BpfHelper::BPF_FUNC_get_netns_cookie));
        if !told.map_err(|error| failed("a question for the network namespace", &error))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The types of map that segd needs and the kernel has not.
pub fn missing_maps() -> Result<Vec<&'static str>, Error> {
    let mut missing = Vec::new();
    for (name, kind) in MAPS {
        if !is_map_supported(*kind).map_err(|error| failed(name, &error))? {
            missing.push(*name);
        }
    }
    Ok(missing)
}

/// The security modules that the kernel asks.
pub const LSM_ACTIVE: &str = "/sys/kernel/security/lsm";

/// Whether `bpf` is among the security modules that the kernel asks.
///
/// # Errors
///
/// The kernel's list cannot be read.
pub fn asks_lsm() -> io::Result<bool> {
    let list = std::fs::read_to_string(LSM_ACTIVE)?;
    Ok(list.trim().split(',').any(|name| name == "bpf"))
}

/// Whether the kernel takes programs as security modules, and may ask them.
pub fn takes_lsm() -> Result<bool, Error> {
    if matches!(asks_lsm(), Ok(false)) {
        return Ok(false);
    }
    let Some(hook) = btf::offsets()?.lsm_hook else {
        return Ok(false);
    };
    // Some architectures take such a program and have no way to call it (arm64 before 6.4).
    const ENOTSUPP: i32 = 524;
    use std::os::fd::AsFd as _;
    match again(|| sys::load_lsm(hook)).and_then(|program| sys::link_lsm(program.as_fd())) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | ENOTSUPP)) => Ok(false),
        Err(error) => Err(Error::system(
            "asking the kernel whether it takes LSM programs",
            error,
        )),
    }
}

/// Whether an LSM program that was attached once can be attached again (5.13). No kernel tells; a helper that came in the same
/// release is asked for.
pub fn attaches_lsm_again() -> Result<bool, Error> {
    again(|| is_helper_supported(ProgramType::RawTracePoint, BpfHelper::BPF_FUNC_snprintf))
        .map_err(|error| failed("an LSM program twice", &error))
}

/// Whether a program can be linked to an interface's traffic control.
pub fn takes_tcx() -> Result<bool, Error> {
    use std::os::fd::AsFd as _;
    const SCHED_CLS: u32 = 3;
    const TCX_INGRESS: u32 = 46;
    const NO_INTERFACE: u32 = 0;
    let failed = |error| Error::system("asking the kernel whether it has tcx", error);
    let program = again(|| sys::load_trivial(SCHED_CLS)).map_err(failed)?;
    // A kernel that knows the hook looks for the interface first.
    match sys::link_create(program.as_fd(), NO_INTERFACE, TCX_INGRESS, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(failed(error)),
        Ok(_) => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_that_loads_segd_lacks_nothing() {
        if let Err(error) = crate::datapath::kernel::check_privilege() {
            assert!(std::env::var_os("SEGD_REQUIRE_KERNEL").is_none(), "{error}");
            eprintln!("skipped: {error}");
            return;
        }
        assert_eq!(super::missing_programs().unwrap(), [""; 0]);
        assert_eq!(super::missing_helpers().unwrap(), [""; 0]);
        assert_eq!(super::missing_maps().unwrap(), [""; 0]);
        super::takes_tcx().unwrap();
        // What the loader's own way of asking says, which reads all of the kernel's types.
        let lsm = aya::programs::ProgramType::Lsm(aya::programs::LsmAttachType::Mac);
        let asked = !matches!(super::asks_lsm(), Ok(false));
        match (super::takes_lsm(), aya::sys::is_program_supported(lsm)) {
            (Ok(taken), Ok(supported)) => assert_eq!(taken, asked && supported),
            (Ok(taken), Err(_)) => assert!(!taken && !asked),
            (Err(_), supported) => assert!(supported.is_err()),
        }
    }
}
