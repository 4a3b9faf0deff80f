//! What this host must have before anything is loaded.

use std::{ffi::CString, io, os::unix::ffi::OsStrExt as _, path::Path};

use super::{Error, btf, sys};

/// `BPF_FS_MAGIC`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Whether the process may load programs at all.
pub fn check_privilege() -> Result<(), Error> {
    let missing = missing_capabilities();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Host {
        what: format!(
            "not permitted to load kernel programs: {} missing",
            missing.join(", ")
        ),
        help: "run segd as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON".to_owned(),
    })
}

/// Whether the process runs as root, whatever that is worth here.
#[must_use]
pub fn is_root() -> bool {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// The capabilities that this process lacks for loading and attaching programs.
#[must_use]
pub fn missing_capabilities() -> Vec<&'static str> {
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    const NEEDED: [(u64, &str); 3] = [
        (NET_ADMIN, "CAP_NET_ADMIN"),
        (1 << 38, "CAP_PERFMON"),
        (1 << 39, "CAP_BPF"),
    ];
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .unwrap_or(0);
    // It includes the two that were split from it (capabilities(7)).
    let implied = if effective & SYS_ADMIN != 0 { !NET_ADMIN } else { 0 };
    NEEDED
        .into_iter()
        .filter(|(bit, _)| (effective | implied) & bit == 0)
        .map(|(_, name)| name)
        .collect()
}

/// Whether the kernel describes itself, as the programs' offsets need it.
pub fn check_btf() -> Result<(), Error> {
    btf::offsets().map(drop)
}

/// Whether sockets have a field of their own for their v2 cgroup, which no v1 controller can take (5.15).
#[must_use]
pub fn sockets_have_a_v2_cgroup_of_their_own() -> bool {
    btf::offsets().is_ok_and(|offsets| !offsets.socket_numbers)
}

/// Whether `membarrier(2)` can wait for a grace period of the whole system.
#[must_use]
pub fn has_global_membarrier() -> bool {
    sys::has_global_membarrier()
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

/// Lets the process lock as much memory as it needs: before 5.11 the kernel counts maps and programs as locked.
pub fn lift_memory_limit() {
    let all = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the limit is a live value. Where it is refused, and was needed, loading says so.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const all) };
}

/// The number of a network namespace, as the programs and the daemon number them here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Its cookie, which no other ever has.
    Cookie(u64),
    /// The inode number of its file, where the kernel does not tell cookies (before 5.14). Another may have it once
    /// this one is gone.
    Inode(u64),
}

impl Namespace {
    /// The bare number.
    #[must_use]
    pub fn number(self) -> u64 {
        match self {
            Namespace::Cookie(number) | Namespace::Inode(number) => number,
        }
    }
}

/// The network namespace this thread is in.
pub fn own_namespace() -> Result<Namespace, Error> {
    use std::os::{fd::AsRawFd as _, unix::fs::MetadataExt as _};
    const SO_NETNS_COOKIE: libc::c_int = 71;
    const FILE: &str = "/proc/thread-self/ns/net";
    let failed = |error| Error::system("asking for the network namespace's number", error);
    let (socket, _) = std::os::unix::net::UnixDatagram::pair().map_err(failed)?;
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
    if result == 0 {
        return Ok(Namespace::Cookie(cookie));
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::ENOPROTOOPT) {
        return Err(failed(error));
    }
    let file = std::fs::metadata(FILE).map_err(failed)?;
    Ok(Namespace::Inode(file.ino()))
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

/// Whether a socket can be ended from outside.
///
/// Asked for a connection that cannot be: a kernel that can says there is none.
pub fn can_destroy_sockets() -> Result<bool, Error> {
    sys::Destroyer::open()
        .and_then(|destroyer| destroyer.works())
        .map_err(|error| Error::system("asking the kernel whether it can end sockets", error))
}
