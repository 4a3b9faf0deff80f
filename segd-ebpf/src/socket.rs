//! A socket, as the programs see it.

use aya_ebpf::{bindings::bpf_sock, helpers::bpf_tcp_sock};
use core::ptr::NonNull;
use segd_common::address::{Address, halves, is_v4};

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const SOCK_RAW: u32 = 3;

/// A full socket, unless it is of [`Skb::inet_socket`].
#[derive(Clone, Copy)]
pub struct Socket {
    /// The kernel's. Never null, so that `None` is a null pointer and not an unset register.
    pub sk: NonNull<bpf_sock>,
}

impl Socket {
    /// Its TCP state.
    #[inline(always)]
    pub fn state(self) -> u32 {
        // SAFETY: a full socket; the verifier checks the field. Volatile: fused loads are refused.
        unsafe { core::ptr::read_volatile(&raw const (*self.sk.as_ptr()).state) }
    }

    /// As the helpers for socket storage take it.
    #[inline(always)]
    pub fn storage(self) -> *mut core::ffi::c_void {
        self.sk.as_ptr().cast()
    }

    #[inline(always)]
    fn kind(self) -> u32 {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const (*self.sk.as_ptr()).type_) }
    }

    #[inline(always)]
    fn protocol(self) -> u32 {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const (*self.sk.as_ptr()).protocol) }
    }

    /// Its local port, as it listens or was accepted, whatever a packet's port was translated to; 0 once aborted.
    #[inline(always)]
    pub fn port(self) -> u16 {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const (*self.sk.as_ptr()).src_port) as u16 }
    }

    /// Its own IPv4 address and its peer's, as the wire has them; of an IPv6 socket that speaks IPv4, too.
    #[inline(always)]
    pub fn addresses_v4(self) -> [u32; 2] {
        // SAFETY: as above.
        unsafe {
            [
                core::ptr::read_volatile(&raw const (*self.sk.as_ptr()).src_ip4),
                core::ptr::read_volatile(&raw const (*self.sk.as_ptr()).dst_ip4),
            ]
        }
    }

    /// Whether its peer has this address.
    #[inline(always)]
    pub fn is_peer(self, address: &Address) -> bool {
        let sk = self.sk.as_ptr();
        // SAFETY: as above.
        let word = |from: *const u32| u64::from(u32::from_be(unsafe { core::ptr::read_volatile(from) }));
        let (high, low) = halves(address);
        if is_v4(address) {
            // SAFETY: a field of a live socket.
            return low & u64::from(u32::MAX) == word(unsafe { &raw const (*sk).dst_ip4 });
        }
        // SAFETY: fields of a live socket.
        let [a, b, c, d] = unsafe {
            [
                word(&raw const (*sk).dst_ip6[0]),
                word(&raw const (*sk).dst_ip6[1]),
                word(&raw const (*sk).dst_ip6[2]),
                word(&raw const (*sk).dst_ip6[3]),
            ]
        };
        high == a << 32 | b && low == c << 32 | d
    }

    /// Its own IPv6 address and its peer's, as the wire has them.
    #[inline(always)]
    pub fn addresses_v6(self) -> [u32; 8] {
        let sk = self.sk.as_ptr();
        // SAFETY: as above.
        let word = |from: *const u32| unsafe { core::ptr::read_volatile(from) };
        // SAFETY: fields of a live socket.
        unsafe {
            [
                word(&raw const (*sk).src_ip6[0]),
                word(&raw const (*sk).src_ip6[1]),
                word(&raw const (*sk).src_ip6[2]),
                word(&raw const (*sk).src_ip6[3]),
                word(&raw const (*sk).dst_ip6[0]),
                word(&raw const (*sk).dst_ip6[1]),
                word(&raw const (*sk).dst_ip6[2]),
                word(&raw const (*sk).dst_ip6[3]),
            ]
        }
    }

    /// Its peer's port.
    #[inline(always)]
    pub fn peer_port(self) -> u16 {
        // SAFETY: as above.
        u16::from_be(unsafe { core::ptr::read_volatile(&raw const (*self.sk.as_ptr()).dst_port) })
    }

    /// The sequence number of the SYN that it sent: what is acknowledged by now, less how much that is.
    #[inline(always)]
    pub fn first_sequence(self) -> Option<u32> {
        // SAFETY: a full socket; the helper returns null for one that is not TCP's.
        let tcp = unsafe { bpf_tcp_sock(self.sk.as_ptr()) };
        if tcp.is_null() {
            return None;
        }
        // SAFETY: not null; the verifier checks the fields. Volatile: fused loads are refused.
        unsafe {
            let acknowledged = core::ptr::read_volatile(&raw const (*tcp).snd_una);
            let count = core::ptr::read_volatile(&raw const (*tcp).bytes_acked);
            Some(acknowledged.wrapping_sub(count as u32))
        }
    }

    /// Whether it is a TCP socket, MPTCP's subflows included.
    #[inline(always)]
    pub fn is_tcp(self) -> bool {
        self.kind() == SOCK_STREAM && self.protocol() == 6
    }

    /// Whether it is a UDP socket.
    #[inline(always)]
    pub fn is_udp(self) -> bool {
        self.kind() == SOCK_DGRAM && self.protocol() == 17
    }

    /// Whether it is a raw socket: it writes its own headers and receives copies.
    #[inline(always)]
    pub fn is_raw(self) -> bool {
        self.kind() == SOCK_RAW
    }
}
