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

use super::chain;

/// Holds what a path leads to.
pub(super) fn path(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
        .open(path)
}

/// Holds what a relative path leads to, through links that stay below the directory.
///
/// One name at a time, from directories that are held: `..` is the one held before, so no rename can lead out. Not by
/// `openat2(2)`, which would do: a unit with `RestrictSUIDSGID=` has none (its filter cannot look into the arguments).
///
/// # Errors
///
/// `EXDEV`: it leads out. `ELOOP`: through more links than the kernel would follow.
pub(super) fn beneath(directory: &File, relative: &Path) -> io::Result<File> {
    let out = || io::Error::from_raw_os_error(libc::EXDEV);
    let mut held: Vec<File> = Vec::new();
    let mut rest: Vec<PathBuf> = chain::names(relative);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name.as_os_str() == ".." {
            held.pop().ok_or_else(out)?;
            continue;
        }
        let above = held.last().unwrap_or(directory);
        let next = at(above, &name)?;
        if !next.metadata()?.is_symlink() {
            held.push(next);
            continue;
        }
        links += 1;
        if links > chain::MAX_LINKS {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        let target = fs::read_link(by_descriptor(above).join(&name))?;
        if target.is_absolute() {
            return Err(out());
        }
        rest.extend(chain::names(&target));
    }
    match held.pop() {
        Some(file) => Ok(file),
        None => directory.try_clone(),
    }
}

/// Holds an entry of a directory, a link itself.
fn at(directory: &File, name: &Path) -> io::Result<File> {
    let name = CString::new(name.as_os_str().as_bytes())?;
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: a live C string; the result is checked.
    let opened = unsafe { libc::openat(directory.as_raw_fd(), name.as_ptr(), flags) };
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(opened) }))
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
