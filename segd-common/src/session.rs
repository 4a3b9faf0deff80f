//! Sessions as the kernel tells the daemon of them: one that has lost its right and has not sent since, any, and a socket
//! in the hands of another segment.

use crate::{address::Address, segment::SegmentIndex};

/// One end of such a session: a socket of this host.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// The number of its network namespace.
    pub namespace: u64,
    /// The socket's cookie: no other ever has it.
    pub cookie: u64,
    /// Its own address.
    pub own: Address,
    /// Its peer's.
    pub peer: Address,
    /// In host order.
    pub own_port: u16,
    /// In host order.
    pub peer_port: u16,
    /// The device it is bound to; 0 = none.
    pub device: u32,
    /// Who connected.
    pub from: SegmentIndex,
    /// To whom.
    pub to: SegmentIndex,
    /// A `Reason`: why it has no right.
    pub reason: u8,
    /// Not 0: a packet of it was denied already, and counted as a revocation.
    pub counted: u8,
    /// `TCP` or `UDP`.
    pub protocol: u8,
    /// Explicit padding, zero.
    pub reserved: u8,
}

/// One end of any session, with whom the policy in force takes both ends for and what it says of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Living {
    /// Which one. `NONE` as a segment: only its next packet can show who that is.
    pub session: Session,
    /// The cgroup of this end.
    pub own_cgroup: u64,
    /// The peer's cgroup; 0: it is whose address it is.
    pub peer_cgroup: u64,
    /// The service of the initiating direction.
    pub service: u32,
    /// A `Direction`.
    pub direction: u8,
    /// Not 0: it may go on, also because audit mode lets it.
    pub passes: u8,
    /// Explicit padding, zero.
    pub reserved: [u8; 2],
}

/// A socket and a process of another segment that holds it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Which socket. `from`: whose it is; `to`: whose process holds it. A UDP socket may have no peer.
    pub session: Session,
    /// The cgroup that it was made in.
    pub socket_cgroup: u64,
    /// The cgroup of the process.
    pub holder_cgroup: u64,
    /// The process, as the daemon numbers it.
    pub process: u32,
    /// Explicit padding, zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Session>() == 64);
const _: () = assert!(size_of::<Foreign>() == 88);
const _: () = assert!(size_of::<Living>() == 88);
