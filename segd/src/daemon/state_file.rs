//! Files that a daemon keeps for the next one. What stands there may decide what is enforced: it is whole, on the disk, and
//! written by nobody else.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Opens one to read: no link is followed, and nothing waits for a writer.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Whether somebody else than root and this process' user may write it.
pub(super) fn is_others(metadata: &fs::Metadata) -> bool {
    // SAFETY: no arguments, cannot fail.
    let own = unsafe { libc::geteuid() };
    metadata.mode() & 0o022 != 0 || ![0, own].contains(&metadata.uid())
}

/// The directory that a file is in.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Writes it beside, to the disk, and renames it over.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.to_owned().into_os_string();
    beside.push(".new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(directory_of(path))?.sync_all()
}
