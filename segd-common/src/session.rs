//! A session that has lost its right and has not sent since, as the kernel tells the daemon of it.

use crate::{address::Address, segment::SegmentIndex};

/// One end of such a session: a TCP socket of this host.
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
    /// Explicit padding, zero.
    pub reserved: [u8; 2],
}

const _: () = assert!(size_of::<Session>() == 64);
