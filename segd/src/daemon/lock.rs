//! One daemon for one pin directory.

use std::{fs::File, io, os::fd::AsRawFd as _, path::Path};

use super::start::Failure;

/// Held as long as the daemon lives; the kernel lets go of it with the process.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock of a pin directory.
pub fn take(pin_dir: &Path) -> Result<Lock, Failure> {
    let failed = |error: io::Error| Failure::host(format!("locking `{}`: {error}", pin_dir.display()), None);
    let file = File::open(pin_dir).map_err(failed)?;
    // SAFETY: no pointers.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(Lock { _file: file });
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock {
        return Err(Failure::host(
            format!("another segd is running on `{}`", pin_dir.display()),
            Some("stop it, or give this one its own --pin-dir, --control and --metrics"),
        ));
    }
    Err(failed(error))
}
