//! Many elements of a hash map in one system call (Linux 5.6).

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use super::bpf;

#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    elem_flags: u64,
    flags: u64,
}

/// Where a walk over a map goes on. The kernel keeps the number of a bucket there.
pub type Cursor = u64;

/// Reads elements, as many whole buckets as there is room for: `count` on the way in, how many they are on the way out. `false`: that
/// was the end.
///
/// # Errors
///
/// `ENOSPC`: there is no room for the next bucket.
///
/// # Safety
///
/// `keys` and `values` must have room for `count` of the map's, which is a hash map.
pub unsafe fn lookup(
    map: BorrowedFd<'_>,
    cursor: &mut Option<Cursor>,
    (keys, values): (*mut u8, *mut u8),
    count: &mut u32,
) -> io::Result<bool> {
    let (from, mut to): (Cursor, Cursor) = (cursor.unwrap_or_default(), 0);
    let mut attr = Batch {
        from: match cursor {
            Some(_) => (&raw const from) as u64,
            None => 0,
        },
        to: (&raw mut to) as u64,
        keys: keys as u64,
        values: values as u64,
        count: *count,
        map: map.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the caller's promise; the cursors are live and longer than the kernel's.
    let done = unsafe { bpf(24, &mut attr) };
    *count = attr.count;
    match done {
        Ok(_) => {
            *cursor = Some(to);
            Ok(true)
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes elements in place of what is there.
///
/// # Safety
///
/// `keys` and `values` must hold `count` of the map's.
pub unsafe fn update(
    map: BorrowedFd<'_>,
    (keys, values): (*const u8, *const u8),
    count: u32,
) -> io::Result<()> {
    let mut attr = Batch {
        from: 0,
        to: 0,
        keys: keys as u64,
        values: values as u64,
        count,
        map: map.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the caller's promise.
    unsafe { bpf(26, &mut attr) }.map(drop)
}
