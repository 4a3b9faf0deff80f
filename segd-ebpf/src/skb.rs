//! The packet and its socket, as cgroup_skb shows them.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{
        bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id,
        bpf_skb_load_bytes,
    },
};
use core::ptr::NonNull;
use segd_common::{
    address::mapped_word,
    bytes::Bytes,
    packet::{PACKET_FRAGMENT, Packet, follow, tcp, walk},
    reason::Reason,
    service::TCP,
    told::Told,
};

use crate::{kernel, socket::Socket};

/// `ETH_P_IPV6`, as `__sk_buff.protocol` has it (network order).
const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// The length of an IPv4 header without options.
const IPV4_HEADER: usize = 20;
/// The length of an IPv6 header.
const IPV6_HEADER: usize = 40;

/// The loopback device has this index in every network namespace (`LOOPBACK_IFINDEX`).
pub const LOOPBACK: u32 = 1;

/// TCP states (`include/net/tcp_states.h`).
pub mod state {
    /// SYN sent.
    pub const SYN_SENT: u32 = 2;
    /// Over, and waiting.
    pub const TIME_WAIT: u32 = 6;
    /// Listening.
    pub const LISTEN: u32 = 10;
    /// Half open: the socket of a SYN.
    pub const NEW_SYN_RECV: u32 = 12;
}

/// One run of a cgroup_skb hook.
#[derive(Clone, Copy)]
pub struct Skb {
    /// The context.
    pub skb: *mut __sk_buff,
}

impl Skb {
    /// Whether the carrier says IPv6. A v4-mapped socket carries IPv4.
    #[inline(always)]
    pub fn is_v6(self) -> bool {
        // SAFETY: the hook's own context.
        unsafe { core::ptr::read_volatile(&raw const (*self.skb).protocol) == ETH_P_IPV6 }
    }

    /// What it carries, `ETH_P_…` in network order.
    #[inline(always)]
    pub fn protocol(self) -> u16 {
        // SAFETY: the hook's own context.
        unsafe { core::ptr::read_volatile(&raw const (*self.skb).protocol) as u16 }
    }

    /// Its length from the IP header on.
    #[inline(always)]
    pub fn bytes(self) -> u32 {
        // SAFETY: the hook's own context.
        unsafe { core::ptr::read_volatile(&raw const (*self.skb).len) }
    }

    /// Whether it is a train of datagrams (UDP_SEGMENT), which a receiver may get one by one.
    #[inline(always)]
    pub fn is_train(self) -> bool {
        // SAFETY: the hook's own context.
        unsafe { core::ptr::read_volatile(&raw const (*self.skb).gso_segs) > 1 }
    }

    /// Whether nothing stands between the IP header and TCP: no IPv4 options, no IPv6 extension header.
    #[inline(always)]
    pub fn is_plain_tcp(self) -> bool {
        if self.is_v6() {
            matches!(self.pair::<6>(), Some([TCP, _]))
        } else {
            matches!(self.pair::<0>(), Some([0x45, _]))
        }
    }

    /// Whether it is such a segment and has no SYN: no part of a handshake.
    #[inline(always)]
    pub fn is_plain_without_syn(self) -> bool {
        // The byte before TCP's flags, and the flags.
        let flags = if self.is_v6() {
            self.pair::<{ IPV6_HEADER + 12 }>()
        } else {
            self.pair::<{ IPV4_HEADER + 12 }>()
        };
        self.is_plain_tcp() && flags.is_some_and(|[_, flags]| flags & tcp::SYN == 0)
    }

    /// Reads addresses and ports of such a segment. `false`: they are not there.
    #[inline(always)]
    pub fn plain_tuple(self, packet: &mut Packet) -> bool {
        let ports = if self.is_v6() { IPV6_HEADER } else { IPV4_HEADER };
        let Some([ports]) = self.words(ports as u32) else {
            return false;
        };
        let [a, b, c, d] = ports.to_ne_bytes();
        packet.source_port = u16::from_be_bytes([a, b]);
        packet.destination_port = u16::from_be_bytes([c, d]);
        packet.protocol = TCP;
        self.addresses(packet)
    }

    /// Two bytes of the IP header, or close behind it.
    // VERIFIER: two, because what one byte wants is compared as `start < end`, which says nothing to it.
    #[inline(always)]
    fn pair<const AT: usize>(self) -> Option<[u8; 2]> {
        // SAFETY: the hook's own context; volatile: fused loads are refused.
        let (start, end) = unsafe {
            (
                core::ptr::read_volatile(&raw const (*self.skb).data) as usize,
                core::ptr::read_volatile(&raw const (*self.skb).data_end) as usize,
            )
        };
        if start + AT + 2 > end {
            // It does not lie together with the rest of the header.
            return self.read(AT as u32);
        }
        // SAFETY: checked against the end of what lies together.
        Some(unsafe { *((start + AT) as *const [u8; 2]) })
    }

    /// Reads the addresses of a packet that was walked before. `false`: they are not there.
    #[inline(always)]
    pub fn addresses(self, packet: &mut Packet) -> bool {
        if self.is_v6() {
            return self.fill(8, &mut packet.source) && self.fill(24, &mut packet.destination);
        }
        let Some([source, destination]) = self.words(12) else {
            return false;
        };
        packet.source = mapped_word(source);
        packet.destination = mapped_word(destination);
        true
    }

    /// The device it leaves by, or came in by.
    #[inline(always)]
    pub fn device(self) -> u32 {
        // SAFETY: the hook's own context.
        unsafe { core::ptr::read_volatile(&raw const (*self.skb).ifindex) }
    }

    /// The socket the hook runs for.
    #[inline(always)]
    pub fn socket(self) -> Option<Socket> {
        // SAFETY: the hook's own context; the pointer is checked before use, as the verifier wants it.
        let sk = unsafe { (*self.skb).__bindgen_anon_2.sk };
        if sk.is_null() {
            return None;
        }
        // SAFETY: not null; the helper returns null for a socket that is not full.
        let full = unsafe { bpf_sk_fullsock(sk) };
        NonNull::new(full).map(|sk| Socket { sk })
    }

    /// The socket's cgroup, as it was when the socket was made.
    #[inline(always)]
    pub fn cgroup(self) -> u64 {
        // SAFETY: the hook's own context.
        unsafe { bpf_skb_cgroup_id(self.skb) }
    }

    /// The ancestor of the socket's cgroup at a level; 0 if the cgroup is not that deep.
    #[inline(always)]
    pub fn ancestor(self, level: u32) -> u64 {
        // SAFETY: the hook's own context.
        unsafe { bpf_skb_ancestor_cgroup_id(self.skb, level as i32) }
    }

    /// The socket's cookie: never reused.
    #[inline(always)]
    pub fn cookie(self) -> u64 {
        // SAFETY: the hook's own context.
        unsafe { bpf_get_socket_cookie(self.skb.cast()) }
    }

    /// Leaves a ruling in the packet, for a rehearsal.
    #[inline(always)]
    pub fn leave(self, told: Told) {
        let [low, high, block @ ..] = told.pack();
        // SAFETY: the hook's own context; volatile: fused stores are refused.
        unsafe {
            core::ptr::write_volatile(&raw mut (*self.skb).mark, low);
            core::ptr::write_volatile(&raw mut (*self.skb).priority, high);
            for (index, word) in block.into_iter().enumerate() {
                core::ptr::write_volatile((&raw mut (*self.skb).cb).cast::<u32>().add(index), word);
            }
        }
    }

    /// The socket of which only addresses, ports and state may be read: it may be half open.
    #[inline(always)]
    pub fn inet_socket(self) -> Option<Socket> {
        // SAFETY: the hook's own context; the pointer is checked before use, as the verifier wants it.
        NonNull::new(unsafe { (*self.skb).__bindgen_anon_2.sk }).map(|sk| Socket { sk })
    }

    /// The number of the socket's network namespace.
    #[inline(always)]
    pub fn namespace(self) -> u64 {
        // SAFETY: the hook's own context.
        kernel::namespace(self.skb.cast(), unsafe { (*self.skb).__bindgen_anon_2.sk })
    }
}

/// Walks the packet. Returns a `Reason` as a number, or 0.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
pub fn parse(skb: Skb, packet: &mut Packet) -> u32 {
    match walk(&skb, skb.is_v6(), packet) {
        // The stack hands whole datagrams to both hooks: only a raw socket shows fragments here.
        Ok(()) if packet.flags & PACKET_FRAGMENT != 0 => Reason::Fragment as u32,
        Ok(()) => 0,
        Err(reason) => {
            packet.bytes = skb.bytes();
            reason as u32
        }
    }
}

impl Bytes for Skb {
    #[inline(always)]
    fn total(&self) -> u32 {
        self.bytes()
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        if self.fill(offset, &mut bytes) {
            Some(bytes)
        } else {
            None
        }
    }

    #[inline(always)]
    fn fill<const N: usize>(&self, offset: u32, to: &mut [u8; N]) -> bool {
        // SAFETY: the helper checks offset and length against the packet and writes N bytes, zeros if it fails.
        unsafe { bpf_skb_load_bytes(self.skb.cast(), offset, to.as_mut_ptr().cast(), N as u32) == 0 }
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let mut words = [0; N];
        let (to, size) = (words.as_mut_ptr().cast(), size_of::<[u32; N]>() as u32);
        // SAFETY: as above.
        if unsafe { bpf_skb_load_bytes(self.skb.cast(), offset, to, size) } == 0 {
            Some(words)
        } else {
            None
        }
    }

    #[inline(always)]
    fn chain(&self, start: u32, end: u32, first: u8) -> u64 {
        segd_chain(self.skb, start, end, u32::from(first))
    }
}

// VERIFIER: a global function of the context and scalars: a chain of nine headers is verified once, and to its callers every
// one is the same unknown number (see `segd_judge`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_chain(skb: *mut __sk_buff, start: u32, end: u32, first: u32) -> u64 {
    follow(&Skb { skb }, start, end, first as u8)
}
