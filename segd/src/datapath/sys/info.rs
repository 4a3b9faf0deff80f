//! What the kernel says of programs and maps, and of who else hangs on a hook.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use super::{bpf, bpf_fd, info_by_fd};

/// The start of `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapInfo {
    /// `BPF_MAP_TYPE_`.
    pub kind: u32,
    /// The map's id.
    pub id: u32,
    /// Of a key, in bytes.
    pub key_size: u32,
    /// Of a value, in bytes.
    pub value_size: u32,
}

// SAFETY: `repr(C)`, integers only, no padding.
unsafe impl aya::Pod for MapInfo {}

/// What the kernel says of a map; an error if the descriptor is no map's.
pub fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    only(map, "bpf-map")?;
    info_by_fd(map)
}

/// The start of `struct bpf_prog_info`, up to its name.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    between: [u32; 14],
    name: [u8; 16],
}

const _: () = assert!(std::mem::offset_of!(ProgramInfo, name) == 64);

// SAFETY: `repr(C)`, integers only, no padding.
unsafe impl aya::Pod for ProgramInfo {}

/// The id of a program.
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    info_by_fd::<ProgramInfo>(program).map(|info| info.id)
}

/// A pinned object can be anything; the kernel writes the info of whatever it is.
pub fn only(object: BorrowedFd<'_>, kind: &str) -> io::Result<()> {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd()))?;
    let target = target.to_string_lossy();
    // Links say which kind they are: `anon_inode:bpf_link`, `anon_inode:bpf-link`.
    if target.replace('_', "-").contains(kind) {
        Ok(())
    } else {
        Err(io::Error::other(format!("not a {kind} but {target}")))
    }
}

#[repr(C)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    padding: u32,
}

/// The programs that hang on a cgroup itself, if they stand there alone: without `BPF_F_ALLOW_MULTI` the kernel lets
/// nobody attach beside them. As many names as can be had.
pub fn alone(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Option<String>> {
    const ALLOW_MULTI: u32 = 2;
    let mut ids = [0_u32; 64];
    let mut query = Query {
        target: cgroup.as_raw_fd() as u32,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        programs: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        padding: 0,
    };
    // SAFETY: room for as many ids as the attribute says.
    unsafe { bpf(16, &mut query) }?;
    if query.count == 0 || query.attach_flags & ALLOW_MULTI != 0 {
        return Ok(None);
    }
    let names = ids.iter().take(query.count as usize).map(|id| match name(*id) {
        Some(name) => format!("`{name}` (id {id})"),
        None => format!("id {id}"),
    });
    Ok(Some(names.collect::<Vec<_>>().join(", ")))
}

#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// A program's name; needs CAP_SYS_ADMIN.
fn name(id: u32) -> Option<String> {
    let mut attr = ById {
        id,
        next: 0,
        flags: 0,
    };
    // SAFETY: no pointers.
    let program: OwnedFd = unsafe { bpf_fd(13, &mut attr) }.ok()?;
    let info: ProgramInfo = info_by_fd(program.as_fd()).ok()?;
    let bytes: Vec<u8> = info.name.into_iter().take_while(|byte| *byte != 0).collect();
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty())
}
