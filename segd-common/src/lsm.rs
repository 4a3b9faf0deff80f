//! What the security module programs and the daemon share: which sockets are not for workloads, and whose things are
//! guarded.

use crate::reason::Reason;

/// Packet sockets: whole frames, past every hook of the IP layer.
pub const AF_PACKET: i32 = 17;
/// XDP sockets: rings of frames shared with a device.
pub const AF_XDP: i32 = 44;

/// A question to the program at `socket_create`, in place of a protocol of `AF_UNIX`, which has none such. Only a kernel
/// that asks the program gives its answer.
pub const QUESTION: i32 = 0x5e9d;
/// The answer, as an errno that `socket(2)` never gives: `EBADE`.
pub const ANSWER: i32 = 52;

/// Why a workload may not have a socket of a family, if it may not.
#[must_use]
#[inline(always)]
pub const fn refusal(family: i32) -> Option<Reason> {
    match family {
        AF_PACKET => Some(Reason::PacketSocket),
        AF_XDP => Some(Reason::XdpSocket),
        _ => None,
    }
}

/// Whose things the guard keeps, and where they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Guard {
    /// The daemon's number in the initial pid namespace; 0 guards nothing.
    pub daemon: u32,
    /// The bpffs its pins are on, as the kernel numbers devices.
    pub device: u32,
    /// The inode of the pin directory.
    pub inode: u64,
}

const _: () = assert!(size_of::<Guard>() == 16);

/// How many maps and programs can be guarded.
pub const MAX_GUARDED: u32 = 1024;

/// A guarded map, as a key.
#[must_use]
#[inline(always)]
pub const fn map(id: u32) -> u64 {
    1 << 32 | id as u64
}

/// A guarded program, as a key.
#[must_use]
#[inline(always)]
pub const fn program(id: u32) -> u64 {
    2 << 32 | id as u64
}

/// A device's number as the kernel has it, from the parts that user space tells (`MKDEV`).
#[must_use]
pub const fn device(major: u32, minor: u32) -> u32 {
    major << 20 | minor
}
