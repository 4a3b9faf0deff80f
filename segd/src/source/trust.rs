//! Whose files may decide what is enforced.
//!
//! Who may write a policy file, or put another in its place, rules the host's network. So a daemon believes only what
//! belongs to root, to its own user, or to a user it was told to trust, and what nobody else may write.

use std::{
    fs::Metadata,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use super::{SourceError, chain, io_at, open};

/// Write permission for group or others.
const SHARED_WRITE: u32 = 0o022;
/// Others' files may not be replaced in such a directory.
const STICKY: u32 = 0o1000;

/// Whose files are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Everybody's: for who only looks.
    Everybody,
    /// These users', by number.
    Users(Vec<u32>),
}

impl Trust {
    /// What a daemon believes: root, its own user, and who was named.
    #[must_use]
    pub fn of_daemon(named: &[u32]) -> Trust {
        // SAFETY: no arguments, cannot fail.
        let own = unsafe { libc::geteuid() };
        let mut users = vec![0, own];
        users.extend(named);
        Trust::Users(users)
    }

    /// Refuses a file or directory of the policy that somebody else may change.
    pub(super) fn check(
        &self,
        path: &Path,
        metadata: &Metadata,
        fd: BorrowedFd<'_>,
    ) -> Result<(), SourceError> {
        self.owner(path, metadata)?;
        let shared = *self != Trust::Everybody && metadata.mode() & SHARED_WRITE != 0;
        // A ConfigMap's directory is open to everybody and mounted read-only: what counts is the mount.
        let harmless = metadata.is_dir() && is_mounted_read_only(fd);
        if shared && !harmless {
            return Err(SourceError::Shared {
                path: path.to_owned(),
                mode: metadata.mode() & 0o7777,
            });
        }
        Ok(())
    }

    /// Refuses a path that somebody else may lead elsewhere.
    pub(super) fn check_way(&self, path: &Path) -> Result<(), SourceError> {
        if *self == Trust::Everybody {
            return Ok(());
        }
        let (steps, _) = chain::steps(path);
        for step in steps {
            let directory = open::path(&step.directory).map_err(io_at("open", &step.directory))?;
            let metadata = directory.metadata().map_err(io_at("look at", &step.directory))?;
            self.owner(&step.directory, &metadata)?;
            let mode = metadata.mode();
            if mode & SHARED_WRITE == 0 || is_mounted_read_only(open::fd(&directory)) {
                continue;
            }
            if mode & STICKY == 0 {
                return Err(SourceError::Shared {
                    path: step.directory,
                    mode: mode & 0o7777,
                });
            }
            let entry = step.directory.join(&step.name);
            let metadata = std::fs::symlink_metadata(&entry).map_err(io_at("look at", &entry))?;
            self.owner(&entry, &metadata)?;
        }
        Ok(())
    }

    fn owner(&self, path: &Path, metadata: &Metadata) -> Result<(), SourceError> {
        match self {
            Trust::Users(users) if !users.contains(&metadata.uid()) => Err(SourceError::Foreign {
                path: path.to_owned(),
                user: metadata.uid(),
            }),
            _ => Ok(()),
        }
    }
}

/// Whether nobody may write there by way of the mount that it was opened through.
fn is_mounted_read_only(fd: BorrowedFd<'_>) -> bool {
    let mut stat = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the descriptor is open, and the buffer is a `statvfs` that outlives the call.
    let status = unsafe { libc::fstatvfs(fd.as_raw_fd(), stat.as_mut_ptr()) };
    // SAFETY: zeroed is a valid `statvfs`, and the call filled it.
    status == 0 && unsafe { stat.assume_init() }.f_flag & libc::ST_RDONLY != 0
}
