//! The kernel side, as the daemon sees it: object, attachment, pins, tables, events. The only place that names aya.
//!
//! INVARIANT: what is attached is pinned, and the daemon holds it open too: enforcement outlives the daemon by the pins,
//! and the pins by the daemon, which makes them again.

mod again;
mod sys;
mod walk;
mod map;
mod btf;
pub mod kernel;
pub mod feature;
mod numbering;
mod load;
mod object;
mod kept;
pub mod kernel_log;
pub mod rehearsal;
pub mod pinned;
pub mod manifest;
pub mod carry;
mod custody;
pub mod guard;
pub mod pins;
mod lines;
pub mod links;
pub mod devices;
pub mod foreign;
pub mod tables;
pub mod texts;
pub mod cgroups;
pub mod census;
pub mod sessions;
pub mod island;
pub mod places;
pub mod counters;
pub mod events;
#[cfg(test)]
#[allow(clippy::expect_used, reason = "test code")]
mod stack;

pub use object::Datapath;
pub use pins::unload;

/// Why the kernel side could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{operation}: {source}")]
    System {
        /// What was tried.
        operation: String,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The host lacks something.
    #[error("{what}\nhelp: {help}")]
    Host {
        /// What is missing.
        what: String,
        /// What to do about it.
        help: String,
    },
    /// The kernel refused a program or a map.
    #[error("{operation}: {message}")]
    Refused {
        /// What was tried.
        operation: String,
        /// The loader's words, the verifier's included.
        message: String,
    },
}

impl Error {
    fn system(operation: impl Into<String>, source: std::io::Error) -> Error {
        Error::System {
            operation: operation.into(),
            source,
        }
    }
}

/// What `segd unload` removed.
#[derive(Clone, Debug, Default)]
pub struct UnloadReport {
    /// The pins that are gone, a line each.
    pub removed: Vec<String>,
    /// How much there is in the directory that is not segd's, and stays.
    pub left: usize,
}
