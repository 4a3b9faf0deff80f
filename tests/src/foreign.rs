//! Other people's BPF: tiny programs that segd does not know, and hands on segd's own objects, as root has them.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// `BPF_F_ALLOW_OVERRIDE`.
pub const OVERRIDE: u32 = 1;
/// `BPF_F_ALLOW_MULTI`.
pub const MULTI: u32 = 2;
/// `BPF_F_PREORDER` (6.16): this program runs before those of the cgroups above.
pub const PREORDER: u32 = 64;
/// Nobody may attach beside.
pub const EXCLUSIVE: u32 = 0;

/// What a program hangs on.
#[derive(Clone, Copy, Debug)]
pub enum At {
    /// cgroup_skb ingress.
    Ingress,
    /// cgroup_skb egress.
    Egress,
    /// connect4.
    Connect4,
}

impl At {
    fn attach_type(self) -> u32 {
        match self {
            At::Ingress => 0,
            At::Egress => 1,
            At::Connect4 => 10,
        }
    }
}

/// A loaded program that lets everything pass.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    at: At,
}

/// A program on a cgroup, until it is dropped.
#[derive(Debug)]
pub struct Attached<'a> {
    program: &'a Program,
    cgroup: File,
}

fn bpf(command: i64, attr: &mut [u64]) -> io::Result<i32> {
    // SAFETY: the attribute lives across the call; what its pointers point to lives in the callers' frames.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attr.as_mut_ptr(),
            std::mem::size_of_val(attr),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = bpf(7, &mut [path.as_ptr() as u64, 0])?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Program {
    /// `return 1`, for a connect hook after it set the return value to 0: as far as it goes, everybody may connect.
    ///
    /// # Panics
    /// When the kernel refuses it.
    #[track_caller]
    #[must_use]
    pub fn passing(at: At, name: &str) -> Program {
        const MOV_R1: u64 = 0x1b7;
        const MOV_R0: u64 = 0xb7;
        const EXIT: u64 = 0x95;
        const CALL: u64 = 0x85;
        const SET_RETVAL: u64 = 187;
        let mut code = Vec::new();
        if matches!(at, At::Connect4) {
            code.extend([MOV_R1, SET_RETVAL << 32 | CALL]);
        }
        code.extend([1 << 32 | MOV_R0, EXIT]);
        let license = c"GPL";
        let mut bytes = [0u8; 16];
        for (to, from) in bytes.iter_mut().zip(name.bytes().take(15)) {
            *to = from;
        }
        let kind = if matches!(at, At::Connect4) { 18 } else { 8 };
        let mut attr = [
            pair(kind, code.len() as u32),
            code.as_ptr() as u64,
            license.as_ptr() as u64,
            0,
            0,
            0,
            u64::from_le_bytes(bytes[..8].try_into().unwrap()),
            u64::from_le_bytes(bytes[8..].try_into().unwrap()),
            pair(0, at.attach_type()),
        ];
        let fd = bpf(5, &mut attr).expect("a program of two instructions loads");
        Program {
            // SAFETY: a new descriptor that nobody else owns.
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
            at,
        }
    }

    /// Attaches it as `BPF_PROG_ATTACH` does.
    ///
    /// # Errors
    /// The kernel's: this kernel may not know the flag.
    pub fn attach(&self, cgroup: &Path, flags: u32) -> io::Result<Attached<'_>> {
        let cgroup = File::open(cgroup)?;
        let target = pair(cgroup.as_raw_fd() as u32, self.fd.as_raw_fd() as u32);
        bpf(8, &mut [target, pair(self.at.attach_type(), flags)])?;
        Ok(Attached {
            program: self,
            cgroup,
        })
    }

    /// Puts it behind a link that somebody else pinned.
    ///
    /// # Errors
    /// The kernel's.
    pub fn put_behind(&self, link: &Path) -> io::Result<()> {
        let link = open_pin(link)?;
        let target = pair(link.as_raw_fd() as u32, self.fd.as_raw_fd() as u32);
        bpf(29, &mut [target, 0]).map(drop)
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        let target = pair(self.cgroup.as_raw_fd() as u32, self.program.fd.as_raw_fd() as u32);
        bpf(9, &mut [target, pair(self.program.at.attach_type(), 0)]).ok();
    }
}

/// Takes a pinned link off its hook; the pin stays.
///
/// # Errors
/// The kernel's: tracepoint links cannot be detached.
pub fn detach(link: &Path) -> io::Result<()> {
    let link = open_pin(link)?;
    bpf(34, &mut [u64::from(link.as_raw_fd() as u32)]).map(drop)
}

/// Opens a pinned map, to read it alone or to write to it; its id.
///
/// # Errors
/// The kernel's.
pub fn open_map(map: &Path, read_only: bool) -> io::Result<u32> {
    const RDONLY: u32 = 1 << 3;
    let path = CString::new(map.as_os_str().as_bytes())?;
    let flags = if read_only { RDONLY } else { 0 };
    let fd = bpf(7, &mut [path.as_ptr() as u64, pair(0, flags)])?;
    // SAFETY: a new descriptor that nobody else owns.
    let map = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut info = [0u32; 2];
    let mut attr = [pair(map.as_raw_fd() as u32, 8), info.as_mut_ptr() as u64];
    bpf(15, &mut attr)?;
    Ok(info[1])
}

/// Opens a map by its id, to write to it.
///
/// # Errors
/// The kernel's.
pub fn open_map_by_id(id: u32) -> io::Result<()> {
    let fd = bpf(14, &mut [u64::from(id), 0])?;
    // SAFETY: a new descriptor that nobody else owns.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

/// Pins a new array map of one element, of `value_size` bytes, under a name.
///
/// # Errors
/// The kernel's.
pub fn pin_array(path: &Path, value_size: u32) -> io::Result<()> {
    // Before 5.11 a map is counted as locked memory.
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: a live value.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
    let fd = bpf(0, &mut [pair(2, 4), pair(value_size, 1), 0])?;
    // SAFETY: a new descriptor that nobody else owns.
    let map = unsafe { OwnedFd::from_raw_fd(fd) };
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(6, &mut [path.as_ptr() as u64, u64::from(map.as_raw_fd() as u32)]).map(drop)
}

/// Fills a pinned hash map with zeroed values until it takes no more; how many it took.
///
/// # Errors
/// The map cannot be opened, or is none.
pub fn fill(map: &Path) -> io::Result<u64> {
    let map = open_pin(map)?;
    // The start of `struct bpf_map_info`: type, id, key size, value size.
    let mut info = [0u32; 4];
    let mut attr = [pair(map.as_raw_fd() as u32, 16), info.as_mut_ptr() as u64];
    bpf(15, &mut attr)?;
    let [_, _, key_size, value_size] = info;
    let value = vec![0u8; value_size as usize];
    let mut key = vec![0u8; key_size.max(8) as usize];
    let mut count = 0_u64;
    loop {
        // Far from the id of any cgroup of this host, and its lower half from the index of any device.
        let number = 1 << 40 | 1 << 31 | (count + 1);
        key[..8].copy_from_slice(&u64::to_ne_bytes(number));
        let mut attr = [
            u64::from(map.as_raw_fd() as u32),
            key.as_ptr() as u64,
            value.as_ptr() as u64,
            0,
        ];
        if bpf(2, &mut attr).is_err() {
            return Ok(count);
        }
        count += 1;
    }
}
