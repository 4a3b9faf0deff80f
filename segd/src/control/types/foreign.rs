//! The answer of `segd flows --foreign`.

use serde::{Deserialize, Serialize};

use super::Word;

/// A socket in other hands than its maker's, `segd flows --foreign`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct ForeignRow {
    /// The segment whose right it has: it was made there.
    pub segment: String,
    /// The cgroup it was made in.
    pub cgroup: String,
    /// The segment of the process that holds it.
    pub holder_segment: String,
    /// The cgroup of that process.
    pub holder_cgroup: String,
    /// Its number, as the daemon sees it.
    pub holder_pid: u32,
    /// `tcp` or `udp`.
    pub protocol: Word,
    /// The socket's own address.
    pub address: String,
    /// Its own port; 0 = none yet.
    pub port: u16,
    /// Whom it is connected to; null for a UDP socket that is not.
    pub peer: Option<String>,
    /// The port there.
    pub peer_port: Option<u16>,
}
