//! What can go wrong while finding out who is who.

use std::{io, path::PathBuf};

/// A failure of this folder.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The host has no cgroup2 mount: segd cannot work there.
    #[error("no cgroup2 file system is mounted")]
    NoCgroup2,
    /// The path given is not in a cgroup2 file system.
    #[error("`{0}` is not in a cgroup2 file system")]
    NotCgroup2(PathBuf),
    /// The selectors need more edges than the kernel's table holds.
    #[error("the selectors need {0} path and unit names, more than the {max} that fit", max = segd_common::workload::MAX_EDGES)]
    TooManyEdges(usize),
    /// The system refused something.
    #[error("cannot {operation} `{path}`")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl WorkloadError {
    /// An [`WorkloadError::Io`].
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> WorkloadError {
        WorkloadError::Io {
            operation,
            path: path.into(),
            source,
        }
    }
}
