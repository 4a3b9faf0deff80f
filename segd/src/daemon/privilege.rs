//! What the daemon may do. All else is given up before it reads a policy or hears a client, once and for good.
//!
//! What stays, and why, is in SECURITY.md. What takes more is done before, once:
//! - CAP_NET_BROADCAST: a socket that hears of addresses in every network namespace; the kernel remembers who opened it;
//! - CAP_SETGID: the control socket's group becomes one of the process' own, so that it may give the socket to it;
//! - CAP_SYS_NICE, CAP_SYS_RESOURCE: running before what it governs, memory for tables on kernels before 5.11.
//!
//! INVARIANT: called while there is one thread: capabilities are a thread's own, and later threads inherit them.

use std::io;

/// What stays, by the kernel's numbers (include/uapi/linux/capability.h).
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// The three sets of `capset(2)`, in two words each.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

const _: () = assert!(size_of::<Sets>() == 12);

/// Lets the daemon run before what it governs, lock the memory of its tables, and open a file for each network namespace that has
/// a name. Without the right to it stays as it is.
pub fn prepare() {
    const NICE: libc::c_int = -10;
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: no pointers but the limit, which outlives the call.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
        libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited);
    }
    let mut files = unlimited;
    // SAFETY: no pointers but the limit, which outlives the calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut files) == 0 {
            files.rlim_cur = files.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files);
        }
    }
}

/// Gives up everything but what the daemon needs. `group`: one that it will give its control socket to.
///
/// The answer names what it had to keep beside, and why.
///
/// # Errors
///
/// The system's.
pub fn give_up(group: Option<u32>) -> io::Result<Option<&'static str>> {
    let mut sets = [Sets::default(); 2];
    capabilities(libc::SYS_capget, &mut sets)?;
    let permitted = u64::from(sets[0].permitted) | u64::from(sets[1].permitted) << 32;
    let mut keep = [NET_ADMIN, PERFMON, BPF]
        .iter()
        .fold(0, |set, bit| set | 1_u64 << bit)
        & permitted;
    let mut beside = None;
    if keep & (1 << BPF) == 0 || keep & (1 << PERFMON) == 0 {
        keep |= permitted & 1 << SYS_ADMIN;
        beside = Some("CAP_SYS_ADMIN stays: CAP_BPF and CAP_PERFMON, which would do, were not given");
    }
    // Who may set groups may do so; who may not keeps those that the service manager chose.
    let groups: Vec<libc::gid_t> = group.into_iter().collect();
    // SAFETY: a live list of the length given.
    unsafe { libc::setgroups(groups.len(), groups.as_ptr()) };
    // SAFETY: no pointers.
    unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        // The bounding set is as wide as the service manager left it where CAP_SETPCAP is not given: with no new
        // privileges ever, it grants nothing.
        for bit in (0..64_u32).filter(|bit| keep & 1 << bit == 0) {
            if libc::prctl(libc::PR_CAPBSET_DROP, bit, 0, 0, 0) != 0 {
                break;
            }
        }
    }
    for (word, set) in sets.iter_mut().zip([keep as u32, (keep >> 32) as u32]) {
        *word = Sets {
            effective: set,
            permitted: set,
            inheritable: 0,
        };
    }
    capabilities(libc::SYS_capset, &mut sets)?;
    Ok(beside)
}

fn capabilities(call: libc::c_long, sets: &mut [Sets; 2]) -> io::Result<()> {
    let mut header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    // SAFETY: a live header of version 3 and as many words as it takes.
    if unsafe { libc::syscall(call, &raw mut header, sets.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    /// A line of `/proc/thread-self/status`, as a set.
    fn set(name: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
    }

    #[test]
    fn three_capabilities_stay_and_nothing_brings_the_others_back() {
        let before = set("CapPrm");
        // Capabilities are a thread's: this one ends with the test.
        let test = std::thread::spawn(move || {
            let beside = super::give_up(None).unwrap();
            let three = (1 << 12 | 1 << 38 | 1 << 39) & before;
            assert_eq!(
                beside.is_some(),
                before & (1 << 39) == 0 || before & (1 << 38) == 0
            );
            let keep = three | if beside.is_some() { before & 1 << 21 } else { 0 };
            assert_eq!((set("CapEff"), set("CapPrm")), (keep, keep));
            assert_eq!((set("CapInh"), set("CapAmb")), (0, 0));
            if before & 1 << 8 != 0 {
                assert_eq!(set("CapBnd"), keep);
            }
            assert_eq!(set("NoNewPrivs"), 1);
        });
        test.join().unwrap();
        assert_eq!(set("CapPrm"), before, "only that thread");
    }
}
