//! The `bpf(2)` commands of the benchmark: maps and programs of its own, links, runs by hand, what the kernel counts.
//!
//! Layouts: `union bpf_attr`, `struct bpf_prog_info` and `struct bpf_link_info` in include/uapi/linux/bpf.h.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// Hash map, longest-prefix-match trie (`BPF_MAP_TYPE_`).
pub const HASH: u32 = 1;
/// Longest-prefix-match trie.
pub const LPM_TRIE: u32 = 11;
/// Elements are allocated when they are written; a trie wants it.
pub const NO_PREALLOC: u32 = 1;
/// `BPF_PROG_TYPE_CGROUP_SKB`.
pub const CGROUP_SKB: u32 = 8;
/// `BPF_PROG_TYPE_XDP`.
pub const XDP: u32 = 6;

/// The two packet hooks of a cgroup (`BPF_CGROUP_INET_INGRESS`, `_EGRESS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// What a socket is about to receive.
    Ingress = 0,
    /// What a socket sends.
    Egress = 1,
}

/// Both.
pub const HOOKS: [Hook; 2] = [Hook::Ingress, Hook::Egress];

/// As long as any kernel's attribute; what is not set is 0.
struct Attr([u8; 512]);

impl Attr {
    fn new() -> Attr {
        Attr([0; 512])
    }

    fn word(mut self, at: usize, value: u32) -> Attr {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn long(mut self, at: usize, value: u64) -> Attr {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn read(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }

    /// # Safety
    ///
    /// Every pointer in it must be valid for what the command reads or writes there.
    unsafe fn run(&mut self, command: libc::c_long) -> io::Result<i32> {
        // The kernel refuses an attribute with something behind the end of the one it knows; zeros are nothing.
        // SAFETY: the attribute is live and as long as said; the rest is the caller's promise.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), 256) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(result as i32)
    }

    /// # Safety
    ///
    /// As [`Attr::run`], for a command that answers with a new descriptor.
    unsafe fn open(mut self, command: libc::c_long) -> io::Result<OwnedFd> {
        // SAFETY: the caller's promise.
        unsafe { self.run(command).map(|fd| OwnedFd::from_raw_fd(fd)) }
    }
}

fn number(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd() as u32
}

/// Makes a map.
pub fn create_map(kind: u32, key: usize, value: usize, entries: usize, flags: u32) -> io::Result<OwnedFd> {
    let attr = Attr::new()
        .word(0, kind)
        .word(4, key as u32)
        .word(8, value as u32)
        .word(12, entries as u32)
        .word(16, flags);
    // SAFETY: no pointers.
    unsafe { attr.open(0) }
}

/// Writes an element of a map with values of four bytes.
pub fn write(map: &OwnedFd, key: &[u8], value: u32) -> io::Result<()> {
    let value = value.to_ne_bytes();
    let mut attr = Attr::new()
        .word(0, number(map))
        .long(8, key.as_ptr() as u64)
        .long(16, value.as_ptr() as u64);
    // SAFETY: key and value are live and as long as the map was made for.
    unsafe { attr.run(2) }.map(drop)
}

/// Loads a program; `log` is what the verifier said when it refuses.
pub fn load(kind: u32, code: &[u64]) -> io::Result<OwnedFd> {
    let mut log = vec![0_u8; 1 << 16];
    let attr = Attr::new()
        .word(0, kind)
        .word(4, code.len() as u32)
        .long(8, code.as_ptr() as u64)
        .long(16, c"GPL".as_ptr() as u64)
        .word(24, 1)
        .word(28, log.len() as u32)
        .long(32, log.as_mut_ptr() as u64);
    // SAFETY: code, license and log are live and as long as said.
    unsafe { attr.open(5) }.map_err(|error| {
        let said = String::from_utf8_lossy(&log);
        io::Error::other(format!("{error}: {}", said.trim_end_matches('\0')))
    })
}

/// Opens a pinned object.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    // SAFETY: the path is a live C string.
    unsafe { Attr::new().long(0, path.as_ptr() as u64).open(7) }
}

/// A program by its id.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    unsafe { Attr::new().word(0, id).open(13) }
}

fn info(object: &OwnedFd, info: &mut [u8]) -> io::Result<()> {
    let mut attr = Attr::new()
        .word(0, number(object))
        .word(4, info.len() as u32)
        .long(8, info.as_mut_ptr() as u64);
    // SAFETY: the info is live and as long as said.
    unsafe { attr.run(15) }.map(drop)
}

/// What the kernel says of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Program {
    /// Its id.
    pub id: u32,
    /// Its name, cut to 15 bytes by the kernel.
    pub name: String,
    /// Instructions after the verifier's rewriting.
    pub translated: u32,
    /// Bytes of machine code.
    pub machine_code: u32,
    /// Instructions the verifier looked at, every way counted.
    pub verified: u32,
    /// How often it ran while the kernel counted.
    #[serde(skip)]
    pub runs: u64,
}

/// Asks.
pub fn program(of: &OwnedFd) -> io::Result<Program> {
    let mut bytes = [0_u8; 232];
    info(of, &mut bytes)?;
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let name: Vec<u8> = bytes[64..80]
        .iter()
        .copied()
        .take_while(|byte| *byte != 0)
        .collect();
    Ok(Program {
        id: word(4),
        name: String::from_utf8_lossy(&name).into_owned(),
        translated: word(20) / 8,
        machine_code: word(16),
        verified: word(216),
        runs: long(200),
    })
}

/// The id of the program behind a link.
pub fn program_of_link(link: &OwnedFd) -> io::Result<u32> {
    let mut bytes = [0_u8; 48];
    info(link, &mut bytes)?;
    Ok(u32::from_ne_bytes(bytes[8..12].try_into().expect("four bytes")))
}

/// Attaches a program to a cgroup's hook for as long as the link lives.
pub fn attach(program: &OwnedFd, cgroup: &Path, hook: Hook) -> io::Result<OwnedFd> {
    let cgroup = fs::File::open(cgroup)?;
    let attr = Attr::new()
        .word(0, number(program))
        .word(4, cgroup.as_raw_fd() as u32)
        .word(8, hook as u32);
    // SAFETY: no pointers.
    unsafe { attr.open(28) }
}

/// The index of a device in this thread's namespace.
pub fn device(name: &str) -> io::Result<u32> {
    let name = CString::new(name).map_err(io::Error::other)?;
    // SAFETY: a live C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Attaches an XDP program to a device's driver for as long as the link lives.
pub fn attach_xdp(program: &OwnedFd, device: u32) -> io::Result<OwnedFd> {
    const XDP_HOOK: u32 = 37;
    const IN_THE_DRIVER: u32 = 1 << 2;
    let attr = Attr::new()
        .word(0, number(program))
        .word(4, device)
        .word(8, XDP_HOOK)
        .word(12, IN_THE_DRIVER);
    // SAFETY: no pointers.
    unsafe { attr.open(28) }
}

/// Makes frames and hands each to an XDP program as if it came by a device; what the program sends goes out there (Linux 5.18).
pub fn send_frames(program: &OwnedFd, frame: &[u8], device: u32, count: u32) -> io::Result<()> {
    const LIVE_FRAMES: u32 = 1 << 1;
    // `struct xdp_md`: where the data ends, and the device.
    let mut context = [0_u32; 6];
    context[1] = frame.len() as u32;
    context[3] = device;
    let mut attr = Attr::new()
        .word(0, number(program))
        .word(8, frame.len() as u32)
        .long(16, frame.as_ptr() as u64)
        .word(32, count)
        .word(40, size_of_val(&context) as u32)
        .long(48, context.as_ptr() as u64)
        .word(64, LIVE_FRAMES);
    // SAFETY: frame and context are live and as long as said; nothing is written back.
    unsafe { attr.run(10) }.map(drop)
}

/// Lets the kernel count runs of programs for as long as the descriptor lives.
pub fn count_runs() -> io::Result<OwnedFd> {
    // SAFETY: no pointers. `BPF_STATS_RUN_TIME` is 0.
    unsafe { Attr::new().open(32) }
}

/// What a map costs, by the kernel's own account.
pub fn memory(map: &OwnedFd) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| io::Error::other("no memlock in fdinfo"))
}

/// One way of showing a program packets by hand.
#[derive(Debug)]
pub struct Show<'a> {
    /// The program.
    pub program: BorrowedFd<'a>,
    /// The packet with its Ethernet header.
    pub frame: &'a [u8],
    /// The index of the device it goes or came by; 0 is loopback, or none for XDP.
    pub device: u32,
    /// How often.
    pub repeat: u32,
}

impl Show<'_> {
    /// Runs it (`BPF_PROG_TEST_RUN`); what the last run returned.
    pub fn run(&self) -> io::Result<u32> {
        // `struct __sk_buff` up to its ifindex and beyond.
        let mut context = [0_u32; 48];
        context[10] = self.device;
        let mut attr = Attr::new()
            .word(0, self.program.as_raw_fd() as u32)
            .word(8, self.frame.len() as u32)
            .long(16, self.frame.as_ptr() as u64)
            .word(32, self.repeat);
        if self.device != 0 {
            attr = attr
                .word(40, size_of_val(&context) as u32)
                .long(48, context.as_ptr() as u64);
        }
        // SAFETY: frame and context are live and as long as said; nothing is written back.
        unsafe { attr.run(10) }?;
        Ok(attr.read(4))
    }
}
