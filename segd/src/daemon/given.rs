//! What takes more privilege than the daemon keeps: opened once at start, and held.

use super::{failure::Failure, privilege, probe::Probe};
use crate::workload::{cgroupfs::CgroupRoot, namespaces::Listener};

/// What was opened.
pub struct Given {
    /// Hears of addresses in every namespace.
    pub listener: Listener,
    /// The live probe, if a cgroup could be made for it.
    pub probe: Option<Probe>,
}

/// Opens it, and gives all but the necessary privilege up. `group`: one that the control socket will be given to.
pub fn open(root: &CgroupRoot, group: Option<u32>) -> Result<Given, Failure> {
    let failed = |what: &str, error: std::io::Error| Failure::internal(format!("{what}: {error}"));
    let listener = Listener::open().map_err(|error| failed("listening for addresses", error))?;
    let probe = match Probe::start(root) {
        Ok(probe) => Some(probe),
        Err(error) => {
            tracing::warn!("no live probe: {error}; segd enforces, but cannot prove it and will not say so");
            None
        }
    };
    let beside = privilege::give_up(group).map_err(|error| failed("giving up privilege", error))?;
    if let Some(beside) = beside {
        tracing::warn!("degraded: {beside}");
    }
    Ok(Given { listener, probe })
}
