//! What the kernel says of programs and maps.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use super::{bpf_fd, info_by_fd};

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
    /// How many elements there may be.
    pub max_entries: u32,
}

// SAFETY: `repr(C)`, integers only, no padding.
unsafe impl aya::Pod for MapInfo {}

/// What the kernel says of a map; an error if the descriptor is no map's.
pub fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    only(map, "bpf-map")?;
    info_by_fd(map)
}

/// A map by its id. Needs CAP_SYS_ADMIN.
pub fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = [id, 0, 0];
    // SAFETY: no pointers.
    unsafe { bpf_fd(14, &mut attr) }
}

/// The id of a program.
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    // `struct bpf_prog_info` begins with its type and its id.
    info_by_fd::<[u32; 2]>(program).map(|[_, id]| id)
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
