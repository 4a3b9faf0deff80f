//! One run against the real kernel at a time on a host: they all attach to the same cgroup root.

use std::fs::{File, TryLockError};

use anyhow::{Context as _, Result};

const LOCK: &str = "/run/segd-xtask.lock";

/// Holds the host's lock until it is dropped.
pub struct HostLock {
    _file: File,
}

impl HostLock {
    /// Takes the lock; waits for another run to end, and says so.
    pub fn take() -> Result<HostLock> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(LOCK);
        let file = file.with_context(|| format!("cannot open {LOCK}"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                eprintln!("waiting for another segd test, demo or bench on this host ({LOCK}) ...");
                file.lock().with_context(|| format!("cannot lock {LOCK}"))?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {LOCK}"));
            }
        }
        Ok(HostLock { _file: file })
    }
}
