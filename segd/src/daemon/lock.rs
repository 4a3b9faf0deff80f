//! One daemon for one pin directory.
//!
//! INVARIANT: a daemon decides by what is pinned there, and takes it away, only with the lock in its hands.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use super::failure::Failure;
use crate::{
    datapath::pins::{self, Pins},
    report::chain,
};

/// Held as long as the daemon lives; the kernel lets go of it with the process.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

/// What a start finds in its pin directory, and nobody else changes from then on.
#[derive(Clone, Copy, Debug)]
pub struct There {
    /// Links are pinned: not all of what is attached is this daemon's own.
    pub links: bool,
    /// They enforce. A start that was ended in the middle leaves links that do not.
    pub enforces: bool,
}

impl Lock {
    /// Makes the pin directory, takes its lock, and looks at what is there.
    pub fn take_made(pin_dir: &Path) -> Result<(Lock, There), Failure> {
        let pins = Pins::new(pin_dir);
        pins.create()?;
        let lock = Lock::take(pin_dir)?;
        let there = There {
            links: pins.has_links(),
            enforces: pins.enforces(),
        };
        Ok((lock, there))
    }

    /// Leaves nothing of a start that failed, where there was nothing before: what is pinned is this daemon's own.
    pub fn undo(&self) {
        if let Err(error) = pins::unload(&self.path) {
            tracing::warn!("removing what was attached: {}", chain(&error));
        }
    }

    /// Removes the directories again if nothing is pinned in them.
    pub fn leave(&self) {
        Pins::new(&self.path).remove_empty();
    }

    /// Takes the lock of a pin directory.
    fn take(pin_dir: &Path) -> Result<Lock, Failure> {
        let failed =
            |error: io::Error| Failure::host(format!("locking `{}`: {error}", pin_dir.display()), None);
        if let Some(lock) = Lock::attempt(pin_dir).map_err(failed)? {
            return Ok(lock);
        }
        Err(Failure::host(
            format!("another segd is running on `{}`", pin_dir.display()),
            Some("stop it, or give this one its own --pin-dir, --control and --metrics"),
        ))
    }

    /// Locks the directory that is there now, if it is another one than before: bpffs was mounted again.
    ///
    /// # Errors
    ///
    /// There is none, or another daemon was faster.
    pub fn follow(&mut self) -> io::Result<()> {
        let now = std::fs::metadata(&self.path)?;
        let held = self.file.metadata()?;
        if (now.dev(), now.ino()) != (held.dev(), held.ino()) {
            *self = Lock::attempt(&self.path)?
                .ok_or_else(|| io::Error::other("another segd took the new pin directory"))?;
        }
        Ok(())
    }

    /// `None`: somebody else has it.
    fn attempt(pin_dir: &Path) -> io::Result<Option<Lock>> {
        let file = File::open(pin_dir)?;
        // SAFETY: no pointers.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            let (held, there) = (file.metadata()?, std::fs::metadata(pin_dir));
            // Who had it took the directory away meanwhile: that is a lock of nothing.
            if there.is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino())) {
                let path = pin_dir.to_owned();
                return Ok(Some(Lock { file, path }));
            }
            return Ok(None);
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            error => Err(error),
        }
    }
}

/// The process that holds the lock of a pin directory, if one does and the kernel shows it.
#[must_use]
pub fn holder(pin_dir: &Path) -> Option<u32> {
    let directory = std::fs::metadata(pin_dir).ok()?;
    let (major, minor) = (libc::major(directory.dev()), libc::minor(directory.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", directory.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        // `1: FLOCK  ADVISORY  WRITE 8578 fe:00:9805825 0 EOF`; who waits has an arrow before `FLOCK`.
        let mut fields = line.split_whitespace().skip(1);
        let kind = fields.next()?;
        let pid = fields.nth(2)?;
        (kind == "FLOCK" && fields.next()? == place).then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_who_holds_a_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(holder(directory.path()), None);
        let _lock = Lock::attempt(directory.path())
            .expect("it can be locked")
            .expect("nobody has it");
        assert_eq!(holder(directory.path()), Some(std::process::id()));
    }
}
