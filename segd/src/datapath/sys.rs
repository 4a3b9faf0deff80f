//! The `bpf(2)` commands that aya does not offer, or offers without the file descriptor.
//!
//! Layouts: `union bpf_attr` in include/uapi/linux/bpf.h. A shorter attribute than the kernel's is valid: the rest
//! is taken as zero. But what a kernel answers it may write wherever its own attribute has the field, however short the one
//! it was given: BPF_PROG_QUERY of 6.18.15 writes `revision` behind an attribute that ends before it.

pub mod batch;
pub mod info;
mod rehearse;
mod program;
mod destroy;

use std::{
    ffi::CString,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    ptr,
};

pub use destroy::Destroyer;
pub use program::{
    ALLOW_MULTI, link_lsm, load_lsm, load_trivial, loaded_program, maps_of, program_name, programs_on,
    raw_tracepoint,
};
pub use rehearse::{Tun, leave_namespace, raise_loopback, run_raw_tracepoint, run_skb};

/// As long as any kernel's attribute, with room for what they will add.
const BEYOND: usize = 512;

/// An attribute, and behind it what a kernel may overwrite.
#[repr(C)]
struct Room<T> {
    attr: MaybeUninit<T>,
    beyond: [u8; BEYOND],
}

/// Runs one command.
///
/// # Safety
///
/// `T` consists of integers, and every pointer among them must be valid for what the command reads or writes there.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    let mut room = Room {
        attr: MaybeUninit::<T>::uninit(),
        beyond: [0; BEYOND],
    };
    // SAFETY: both are a `T`. It is copied back as the kernel left it: integers, of which every value is valid.
    let result = unsafe {
        ptr::copy_nonoverlapping(&raw const *attr, room.attr.as_mut_ptr(), 1);
        let result = libc::syscall(libc::SYS_bpf, command, &raw mut room, size_of::<T>());
        ptr::copy_nonoverlapping(room.attr.as_ptr(), &raw mut *attr, 1);
        result
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}

/// Runs a command that answers with a file descriptor.
///
/// # Safety
///
/// As [`bpf`].
unsafe fn bpf_fd<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise; the answer is a new descriptor that nobody else owns.
    unsafe { bpf(command, attr).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// What an element command does.
#[derive(Clone, Copy)]
pub enum ElementCommand {
    /// Read a value.
    Lookup = 1,
    /// Write a value.
    Update = 2,
    /// Remove a key.
    Delete = 3,
    /// Find the key after one.
    NextKey = 4,
}

/// Runs an element command. `Ok(false)`: there is no such element.
///
/// # Safety
///
/// `key` and `value` must be valid for the map's sizes (`value` for what the command writes there).
pub unsafe fn element(
    command: ElementCommand,
    map: BorrowedFd<'_>,
    key: *const u8,
    value: *mut u8,
    flags: u64,
) -> io::Result<bool> {
    let mut attr = Element {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: key as u64,
        value: value as u64,
        flags,
    };
    // SAFETY: the caller's promise.
    match unsafe { bpf(command as libc::c_long, &mut attr) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Pins an object.
pub fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = Object {
        path: path.as_ptr() as u64,
        fd: fd.as_raw_fd() as u32,
        flags: 0,
    };
    // SAFETY: the path is a live C string.
    unsafe { bpf(6, &mut attr) }.map(drop)
}

/// Pins an object in place of what is pinned there, without a moment in between.
pub fn pin_over(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    if !path.exists() {
        return pin(fd, path);
    }
    // bpffs refuses names with a dot.
    let mut beside = path.as_os_str().to_owned();
    beside.push("_new");
    let beside = PathBuf::from(beside);
    let _ = std::fs::remove_file(&beside);
    pin(fd, &beside)?;
    std::fs::rename(&beside, path)
}

/// Opens a pinned object.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = Object {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: the path is a live C string.
    unsafe { bpf_fd(7, &mut attr) }
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to a cgroup (`target` is its descriptor) or an interface (its index).
pub fn link_create(
    program: BorrowedFd<'_>,
    target: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        program: program.as_raw_fd() as u32,
        target,
        attach_type,
        flags,
    };
    // SAFETY: no pointers.
    unsafe { bpf_fd(28, &mut attr) }
}

#[repr(C)]
struct LinkOverMap {
    create: LinkCreate,
    /// `iter_info` and its length: the start of `union bpf_iter_link_info`.
    info: u64,
    info_len: u32,
    padding: u32,
}

/// Makes an iterator over the elements of a map.
pub fn link_over_map(program: BorrowedFd<'_>, attach_type: u32, map: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let info = map.as_raw_fd() as u32;
    let mut attr = LinkOverMap {
        create: LinkCreate {
            program: program.as_raw_fd() as u32,
            target: 0,
            attach_type,
            flags: 0,
        },
        info: (&raw const info) as u64,
        info_len: size_of_val(&info) as u32,
        padding: 0,
    };
    // SAFETY: the info is a live value of the length given.
    unsafe { bpf_fd(28, &mut attr) }
}

/// Starts one pass of an iterator's link: a file to read to its end.
pub fn iterate(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // The link's descriptor, and flags.
    let mut attr = [link.as_raw_fd() as u32, 0];
    // SAFETY: no pointers.
    unsafe { bpf_fd(33, &mut attr) }
}

#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Puts another program behind a link, in place: the link, its position and its pin stay.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate {
        link: link.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        flags: 0,
        old_program: 0,
    };
    // SAFETY: no pointers.
    unsafe { bpf(29, &mut attr) }.map(drop)
}

/// Takes a link off its hook, whoever still holds it. Tracepoint links do not support it.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = link.as_raw_fd() as u32;
    // SAFETY: no pointers.
    unsafe { bpf(34, &mut attr) }.map(drop)
}

/// The inode number behind a descriptor; for a cgroup's directory that is the cgroup's id.
pub fn inode(file: BorrowedFd<'_>) -> io::Result<u64> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: a live descriptor; the structure is written on success.
    if unsafe { libc::fstat(file.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: written above.
    Ok(unsafe { stat.assume_init() }.st_ino)
}

#[repr(C)]
struct InfoByFd {
    fd: u32,
    len: u32,
    info: u64,
}

/// The start of `struct bpf_link_info`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct LinkInfo {
    /// `BPF_LINK_TYPE_`.
    pub kind: u32,
    /// The link's id.
    pub id: u32,
    /// The program's id.
    pub program: u32,
    padding: u32,
    /// By type: the cgroup id's halves, or the interface's index first; all zero once detached.
    pub target: [u32; 8],
}

// SAFETY: `repr(C)`, integers only, no padding.
unsafe impl aya::Pod for LinkInfo {}

impl LinkInfo {
    /// Whether it is of a hook that judges packets or calls.
    pub fn judges(&self) -> bool {
        const CGROUP: u32 = 3;
        self.kind == CGROUP
    }

    /// Whether it still hangs on its hook. A tracepoint's and an LSM program's link cannot be detached while somebody
    /// holds it.
    pub fn hangs(&self) -> bool {
        const RAW_TRACEPOINT: u32 = 1;
        const TRACING: u32 = 2;
        matches!(self.kind, RAW_TRACEPOINT | TRACING) || self.target[0] != 0 || self.target[1] != 0
    }
}

/// What the kernel says of a link; an error if the descriptor is no link's.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    info::only(link, "bpf-link")?;
    info_by_fd(link)
}

/// What the kernel says of an object: as much of it as `T` has room for.
fn info_by_fd<T: aya::Pod + Default>(object: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::default();
    let mut attr = InfoByFd {
        fd: object.as_raw_fd() as u32,
        len: size_of::<T>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the info is a live value of the length given, and any bytes are a valid one.
    unsafe { bpf(15, &mut attr) }?;
    Ok(info)
}

/// Waits until every program run that began before this call has ended.
///
/// Programs run inside one RCU read-side section. `MEMBARRIER_CMD_GLOBAL` waits for a grace period
/// (kernel/sched/membarrier.c), but is refused with `nohz_full`; there a change of a map of maps waits for one.
pub fn wait_for_programs() -> io::Result<()> {
    // SAFETY: no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 { wait_by_map() } else { Ok(()) }
}

const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;

/// Whether `membarrier(2)` can wait for a grace period of the whole system.
pub fn has_global_membarrier() -> bool {
    const MEMBARRIER_CMD_QUERY: libc::c_long = 0;
    // SAFETY: no pointers.
    let offered = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0) };
    offered >= 0 && offered & MEMBARRIER_CMD_GLOBAL != 0
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner: u32,
}

fn create_map(
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    (flags, inner): (u32, u32),
) -> io::Result<OwnedFd> {
    let mut attr = MapCreate {
        kind,
        key_size,
        value_size,
        max_entries,
        flags,
        inner,
    };
    // SAFETY: no pointers.
    unsafe { bpf_fd(0, &mut attr) }
}

const ARRAY: u32 = 2;

/// Makes an array map.
pub fn create_array(value_size: u32, max_entries: u32) -> io::Result<OwnedFd> {
    create_map(ARRAY, 4, value_size, max_entries, (0, 0))
}

/// Makes an array map that can be mapped into memory, for a map of maps whose arrays are of different lengths.
pub fn create_lines(value_size: u32, max_entries: u32) -> io::Result<OwnedFd> {
    const MMAPABLE: u32 = 1 << 10;
    const INNER_MAP: u32 = 1 << 12;
    create_map(ARRAY, 4, value_size, max_entries, (MMAPABLE | INNER_MAP, 0))
}

/// Makes a hash map.
#[cfg(test)]
pub fn create_hash(key_size: u32, value_size: u32, max_entries: u32) -> io::Result<OwnedFd> {
    const HASH: u32 = 1;
    create_map(HASH, key_size, value_size, max_entries, (0, 0))
}

/// Takes from everybody, for good, the right to write to a map by system calls.
pub fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = map.as_raw_fd() as u32;
    // SAFETY: no pointers.
    unsafe { bpf(22, &mut attr) }.map(drop)
}

/// Whether [`freeze`] was called for a map.
pub fn is_frozen(map: BorrowedFd<'_>) -> io::Result<bool> {
    let said = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let word = said.lines().find_map(|line| line.strip_prefix("frozen:"));
    Ok(word.is_some_and(|word| word.trim() == "1"))
}

/// Changes a map of maps of its own: the kernel answers after a grace period (kernel/bpf/syscall.c,
/// `maybe_wait_bpf_programs`).
fn wait_by_map() -> io::Result<()> {
    const ARRAY_OF_MAPS: u32 = 12;
    let inner = create_array(4, 1)?;
    let outer = create_map(ARRAY_OF_MAPS, 4, 4, 1, (0, inner.as_raw_fd() as u32))?;
    let key = 0_u32.to_ne_bytes();
    let mut value = inner.as_raw_fd().to_ne_bytes();
    // SAFETY: four bytes each, as the map was made for.
    unsafe {
        element(
            ElementCommand::Update,
            outer.as_fd(),
            key.as_ptr(),
            value.as_mut_ptr(),
            0,
        )
    }
    .map(drop)
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_ways_to_wait_for_programs_work() {
        if crate::datapath::kernel::check_privilege().is_err() {
            assert!(std::env::var_os("SEGD_REQUIRE_KERNEL").is_none(), "not root");
            eprintln!("skipped: not root");
            return;
        }
        super::wait_for_programs().unwrap();
        super::wait_by_map().unwrap();
    }
}
