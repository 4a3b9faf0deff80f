//! Opening what may be anything: nothing waits, nothing starts a device, nothing leads out of a directory.
//!
//! INVARIANT: an object is first held without being opened (`O_PATH`), looked at, and only then opened, by its
//! descriptor: what was looked at is what is read.

use std::{
    ffi::{CString, OsString},
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

/// Holds what a path leads to.
pub(super) fn path(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
        .open(path)
}

/// Holds what a relative path leads to, through links that stay below the directory.
///
/// # Errors
///
/// `EXDEV`: it leads out. `EAGAIN`: something was renamed meanwhile, so that nobody can tell.
///
/// # Minimum kernel version
///
/// 5.6, `openat2(2)`.
pub(super) fn beneath(directory: &File, relative: &Path) -> io::Result<File> {
    let name = CString::new(relative.as_os_str().as_bytes())?;
    // SAFETY: all zeros is a valid `open_how`.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_PATH | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: a live C string, and a live `open_how` of the length given.
    let opened = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            directory.as_raw_fd(),
            name.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(opened as i32) }))
}

/// Opens a held file for reading. A pipe would not be waited for, but is not expected.
pub(super) fn reading(held: &File) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
        .open(by_descriptor(held))
}

/// The names in a held directory, sorted.
pub(super) fn names(held: &File) -> io::Result<Vec<OsString>> {
    let entries = fs::read_dir(by_descriptor(held))?;
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

/// A held object's descriptor.
pub(super) fn fd(held: &File) -> BorrowedFd<'_> {
    held.as_fd()
}

fn by_descriptor(held: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()))
}
