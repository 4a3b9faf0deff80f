//! What takes more privilege than the daemon keeps: opened once at start, and held.

use std::{
    io,
    thread::{self, JoinHandle},
};

use super::{failure::Failure, privilege, probe::Probe};
use crate::workload::{cgroupfs::CgroupRoot, namespaces::Listener};

/// What was opened.
pub struct Given {
    /// Hears of addresses in every namespace.
    pub listener: Listener,
    /// The live probe, if a cgroup could be made for it.
    pub probe: Option<Probe>,
}

/// The probe is made beside all else that a start looks at: it takes a process.
pub struct Opening(Option<JoinHandle<io::Result<Probe>>>);

impl Opening {
    /// Begins.
    ///
    /// # Errors
    ///
    /// A thread cannot be started.
    pub fn begin(root: Option<CgroupRoot>) -> Result<Opening, Failure> {
        let begin = |root: CgroupRoot| {
            let thread = thread::Builder::new().name("segd-probe".to_owned());
            thread.spawn(move || Probe::start(&root))
        };
        let probe = root.map(begin).transpose();
        let probe = probe.map_err(|error| Failure::internal(format!("starting a thread: {error}")))?;
        Ok(Opening(probe))
    }

    /// Opens the rest, and gives all but the necessary privilege up. `group`: one that the control socket will be given to.
    pub fn open(mut self, group: Option<u32>) -> Result<Given, Failure> {
        let failed = |what: &str, error: io::Error| Failure::internal(format!("{what}: {error}"));
        let listener = Listener::open().map_err(|error| failed("listening for addresses", error))?;
        let probe = match self.join() {
            Ok(probe) => Some(probe),
            Err(error) => {
                tracing::warn!(
                    "no live probe: {error}; segd enforces, but cannot prove it and will not say so"
                );
                None
            }
        };
        let beside = privilege::give_up(group).map_err(|error| failed("giving up privilege", error))?;
        if let Some(beside) = beside {
            tracing::warn!("degraded: {beside}");
        }
        Ok(Given { listener, probe })
    }

    fn join(&mut self) -> io::Result<Probe> {
        let made = self.0.take().map(JoinHandle::join);
        made.and_then(Result::ok)
            .unwrap_or_else(|| Err(io::Error::other("its thread ended")))
    }
}

/// A start that fails leaves no cgroup behind.
impl Drop for Opening {
    fn drop(&mut self) {
        if self.0.is_some() {
            let _ = self.join();
        }
    }
}
