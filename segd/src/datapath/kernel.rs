//! What this host must have before anything is loaded.

use std::{
    ffi::CString,
    io,
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    path::Path,
};

use super::Error;

/// `BPF_FS_MAGIC`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Whether the process may load programs at all.
pub fn check_privilege() -> Result<(), Error> {
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } == 0 || has_capabilities() {
        return Ok(());
    }
    Err(Error::Host {
        what: "not permitted to load kernel programs".to_owned(),
        help: "run segd as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON".to_owned(),
    })
}

fn has_capabilities() -> bool {
    const NEEDED: u64 = 1 << 12 | 1 << 38 | 1 << 39;
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let set = effective
            .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
            .unwrap_or(0);
        set & NEEDED == NEEDED
    })
}

/// Whether pins can be made below a path, which need not exist yet.
pub fn check_bpffs(pin_dir: &Path) -> Result<(), Error> {
    let existing = pin_dir
        .ancestors()
        .find(|dir| dir.exists())
        .unwrap_or(Path::new("/"));
    let kind = filesystem(existing)
        .map_err(|error| Error::system(format!("looking at `{}`", existing.display()), error))?;
    if kind == BPF_FS_MAGIC {
        return Ok(());
    }
    Err(Error::Host {
        what: format!(
            "no bpffs at `{}`: enforcement could not outlive the daemon",
            pin_dir.display()
        ),
        help: "mount it: mount -t bpf bpf /sys/fs/bpf".to_owned(),
    })
}

fn filesystem(path: &Path) -> io::Result<i64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: a live C string; the structure is written on success.
    if unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: written above.
    Ok(unsafe { stat.assume_init() }.f_type)
}

/// The cookie of the network namespace this process is in.
pub fn namespace_cookie() -> Result<u64, Error> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let failed = |error| {
        Error::system(
            "asking for the network namespace's cookie (SO_NETNS_COOKIE)",
            error,
        )
    };
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")
        .or_else(|_| std::net::UdpSocket::bind("[::1]:0"))
        .or_else(|_| std::net::UdpSocket::bind("0.0.0.0:0"))
        .map_err(failed)?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the value and its length are live.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        Err(failed(io::Error::last_os_error()))
    } else {
        Ok(cookie)
    }
}

/// How many CPUs a per-CPU value has room for.
pub fn possible_cpus() -> Result<usize, Error> {
    aya::util::nr_cpus().map_err(|(path, error)| Error::system(format!("reading {path}"), error))
}

/// The index of an interface.
pub fn interface_index(name: &str) -> Result<u32, Error> {
    let unknown = || Error::Host {
        what: format!("there is no interface `{name}`"),
        help: "`ip link` lists them; --interface takes a name".to_owned(),
    };
    let c_name = CString::new(name).map_err(|_| unknown())?;
    // SAFETY: a live C string.
    match unsafe { libc::if_nametoindex(c_name.as_ptr()) } {
        0 => Err(unknown()),
        index => Ok(index),
    }
}
