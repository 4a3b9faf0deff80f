//! tcx: frames on the links of workloads and on NICs, where a packet socket, AF_XDP or a TUN device writes past every
//! socket hook.
//!
//! A frame that a socket hook has judged passes at once; its sender's socket is still on it. What nobody accounts for is
//! judged as its namespace's one segment would be, and never passes on the tuple that another socket uses.
//! Deliberately absent: a second policy. What passes here is judged by the receiver as before.

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skb_load_bytes_relative};
use segd_common::{
    address::{self, LOCAL_BY_LINK, LOCAL_HOST, mapped},
    bytes::Bytes,
    decide::outcome,
    event::Hook,
    packet::{Packet, follow, walk},
    reason::Reason,
    segment,
    verdict::Verdict,
    workload::Identity,
};

use crate::{
    count::count,
    identity::{self, UNKNOWN},
    link_found::enters_borrowed,
    maps::LOOPBACK_SEEN,
    policy::Policy,
    ruling::{Ruling, emit, pack, unpack},
    skb::{LOOPBACK, Skb, state},
    toward::place,
};

pub const ETH_P_IP: u16 = 0x0800;
pub const ETH_P_ARP: u16 = 0x0806;
pub const ETH_P_IPV6: u16 = 0x86dd;

/// The packet behind whatever link header there is.
#[derive(Clone, Copy)]
pub struct Frame {
    pub skb: Skb,
}

impl Bytes for Frame {
    /// With the link header: an upper bound. The receiver's hook knows the exact length.
    #[inline(always)]
    fn total(&self) -> u32 {
        self.skb.bytes()
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
        const BPF_HDR_START_NET: u32 = 1;
        // SAFETY: the helper checks offset and length against the packet and writes N bytes, zeros if it fails.
        let failed = unsafe {
            bpf_skb_load_bytes_relative(
                self.skb.skb.cast(),
                offset,
                to.as_mut_ptr().cast(),
                N as u32,
                BPF_HDR_START_NET,
            )
        };
        failed == 0
    }

    #[inline(always)]
    fn chain(&self, start: u32, end: u32, first: u8) -> u64 {
        segd_link_chain(self.skb.skb, start, end, u32::from(first))
    }
}

// VERIFIER: see `segd_chain`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_link_chain(skb: *mut __sk_buff, start: u32, end: u32, first: u32) -> u64 {
    follow(&Frame { skb: Skb { skb } }, start, end, first as u8)
}

/// Whose work a frame is, as the socket on it tells.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// No socket: forwarded, a tunnel's, or the kernel's own.
    Nobody,
    /// An inet socket. Its egress hook judged its own packets, but not what a tunnel wraps them in.
    Inet,
    /// A connection that is half open or closing: the kernel answers for it.
    Kernel,
    /// A packet socket, AF_XDP, a TUN device: no hook has seen this frame.
    Device,
}

#[inline(always)]
pub fn sender(skb: Skb) -> Sender {
    const AF_INET: u32 = 2;
    const AF_INET6: u32 = 10;
    // SAFETY: the hook's own context; the pointer is checked before use, as the verifier wants it.
    let sk = unsafe { (*skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return Sender::Nobody;
    }
    // SAFETY: not null; these two fields may be read of any socket. Volatile: fused loads are refused.
    let (family, now) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*sk).family),
            core::ptr::read_volatile(&raw const (*sk).state),
        )
    };
    if family != AF_INET && family != AF_INET6 {
        Sender::Device
    } else if now == state::TIME_WAIT || now == state::NEW_SYN_RECV {
        Sender::Kernel
    } else {
        Sender::Inet
    }
}

/// The source address of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bears {
    /// One that lies behind its link, or that no link is asked for.
    Known,
    /// One that nobody is known to have.
    Nobodys,
    /// Such a one, and a receiver on this host would not find who sends it.
    Hidden,
}

/// A frame on its way, and what is known of it.
// VERIFIER: in one piece, because a function takes five arguments at most.
pub struct Way {
    pub policy: Policy,
    pub skb: Skb,
    pub by: Sender,
    /// Where it comes from; 0 if that does not matter.
    pub namespace: u64,
    /// Somebody lives there whom a segment claims, or a segment claims an address there.
    pub managed: bool,
    /// Somebody lives there whom a segment claims, whatever his address.
    pub inhabited: bool,
    /// What is known of the address that it comes from.
    pub bears: Bears,
    /// Who sent it, if that is known.
    pub from: Identity,
    /// The sender's cgroup, if that is known.
    pub cgroup: u64,
}

impl Way {
    #[inline(always)]
    pub fn new(policy: Policy, skb: Skb, by: Sender) -> Way {
        Way {
            policy,
            skb,
            by,
            namespace: 0,
            managed: false,
            inhabited: false,
            bears: Bears::Known,
            from: UNKNOWN,
            cgroup: 0,
        }
    }
}

/// Set on what went out through loopback's egress hook, read when it comes in: `tc_index` survives the way and no
/// socket option reaches it. What lacks it went past the queueing layer (PACKET_QDISC_BYPASS, AF_XDP).
const PASSED: u32 = 0x5e9d;

/// tcx egress: whether a frame may leave by a device.
#[inline(always)]
pub fn may_leave(skb: Skb) -> bool {
    if skb.device() == LOOPBACK {
        // SAFETY: the hook's own context; this field may be written.
        unsafe { core::ptr::write_volatile(&raw mut (*skb.skb).tc_index, PASSED) };
    }
    sender(skb) != Sender::Device || may_write_frames(skb)
}

/// tcx ingress inside a namespace: whether a frame may come in by a device.
#[inline(always)]
pub fn may_come_in(skb: Skb) -> bool {
    if skb.device() == LOOPBACK {
        return came_round(skb);
    }
    sender(skb) != Sender::Device || may_write_frames(skb)
}

/// Whether what arrives by loopback left by it.
#[inline(always)]
fn came_round(skb: Skb) -> bool {
    let Some(seen) = LOOPBACK_SEEN.get_ptr_mut(0) else {
        return true;
    };
    // SAFETY: the hook's own context.
    if unsafe { core::ptr::read_volatile(&raw const (*skb.skb).tc_index) } == PASSED {
        // SAFETY: a slot of an array map.
        unsafe { core::ptr::write_volatile(seen, 1) };
        return true;
    }
    // Until a marked frame came round, nobody knows whether this kernel keeps the mark.
    // SAFETY: a slot of an array map.
    if unsafe { core::ptr::read_volatile(seen) } == 0 {
        return true;
    }
    let Some(policy) = Policy::active() else {
        return true;
    };
    refuse(&Way::new(policy, skb, Sender::Nobody), Reason::Unjudged as u32)
}

/// Who may write frames past the socket hooks: processes that no segment claims.
#[inline(never)]
fn may_write_frames(skb: Skb) -> bool {
    let Some(policy) = Policy::active() else {
        return true;
    };
    let mut way = Way::new(policy, skb, Sender::Device);
    identify(&mut way);
    is_plain_host(way.from) || refuse(&way, Reason::Unjudged as u32)
}

/// Who wrote a frame: the socket on it has a cgroup like any other.
#[inline(always)]
pub fn identify(way: &mut Way) {
    way.cgroup = way.skb.cgroup();
    way.from = identity::of_socket(&way.policy, way.skb, way.cgroup);
}

#[inline(always)]
pub fn is_plain_host(identity: Identity) -> bool {
    identity.segment == segment::HOST && identity.flags == 0
}

/// Denies a frame, unless audit mode lets it pass. Whether it passes.
#[inline(always)]
pub fn refuse(way: &Way, reason: u32) -> bool {
    let policy = u64::from(way.policy.slot) << 32 | u64::from(way.policy.revision);
    let from = pack(way.from) | u64::from(reason) << 32;
    segd_refuse_frame(way.skb.skb, policy, way.namespace, way.cgroup, from) != 0
}

// VERIFIER: global, as `segd_judge`: it walks the packet, and a frame is refused in many places.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_refuse_frame(
    skb: *mut __sk_buff,
    policy: u64,
    namespace: u64,
    cgroup: u64,
    from: u64,
) -> u32 {
    let skb = Skb { skb };
    let Some(policy) = Policy::again((policy >> 32) as u32, policy as u32) else {
        return 0;
    };
    let way = Way {
        namespace,
        cgroup,
        from: unpack(from),
        ..Way::new(policy, skb, Sender::Nobody)
    };
    let mut packet = Packet::default();
    let unparsed = read(skb, &mut packet);
    if unparsed != 0 {
        packet.bytes = skb.bytes();
    }
    u32::from(record(&way, &packet, unparsed, (from >> 32) as u32))
}

/// Counts and tells what was denied. `unparsed`: why the packet could not be read; what is not a packet has none.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
fn record(way: &Way, packet: &Packet, unparsed: u32, reason: u32) -> bool {
    let mut ruling = Ruling {
        hook: Hook::Link as u8,
        cgroup: way.cgroup,
        from: way.from,
        to: Identity::of(segment::WORLD),
        ..Ruling::default()
    };
    if way.namespace != 0 && way.from.segment == segment::NONE {
        ruling.from = identity::owner(&way.policy, way.namespace, UNKNOWN).0;
    }
    if unparsed == 0 {
        ruling.service = packet.service;
        ruling.to = place(&way.policy, &packet.destination, 0, false).1;
    }
    let reason = Reason::from_number(reason as u8).unwrap_or(Reason::Unjudged);
    ruling.fixed(reason);
    ruling.outcome = outcome(&way.policy, Verdict::of(reason), ruling.from, ruling.to) as u8;
    count(&ruling, packet.bytes);
    emit(&way.policy, &ruling, packet);
    ruling.passes()
}

/// Walks the packet in a frame. Returns a `Reason` as a number, or 0.
#[inline(always)]
pub fn read(skb: Skb, packet: &mut Packet) -> u32 {
    segd_link_read(skb.skb, packet)
}

// VERIFIER: global, as `segd_judge`: to its callers a packet is one of unknown bytes, whatever was found in it. Memory may be an argument
// of such a function from 5.12 on, and links are judged from 6.6 on.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_link_read(skb: *mut __sk_buff, packet: *mut Packet) -> u32 {
    // SAFETY: the verifier wants every caller to hand over a whole packet, or null, which is asked for here.
    let Some(packet) = (unsafe { packet.as_mut() }) else {
        return Reason::Malformed as u32;
    };
    match walk(&Frame { skb: Skb { skb } }, Skb { skb }.is_v6(), packet) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

/// tcx ingress on a NIC: as [`may_enter`], and nobody is taken for a workload that has borrowed his address.
#[inline(always)]
pub fn may_arrive(skb: Skb) -> bool {
    may_enter(skb) && (!enters_borrowed(skb) || refuse_outsider(skb))
}

/// Denies what comes from elsewhere as somebody of this host. Whether it passes all the same.
#[inline(always)]
fn refuse_outsider(skb: Skb) -> bool {
    let Some(policy) = Policy::active() else {
        return true;
    };
    let mut way = Way::new(policy, skb, Sender::Nobody);
    way.from = Identity::of(segment::WORLD);
    refuse(&way, Reason::Spoofed as u32)
}

/// tcx ingress at a tunnel's end: whether a frame may enter.
#[inline(always)]
pub fn may_enter(skb: Skb) -> bool {
    if sender(skb) == Sender::Device && !may_write_frames(skb) {
        return false;
    }
    let address = if skb.is_v6() {
        Frame { skb }.read::<16>(8)
    } else if u16::from_be(skb.protocol()) == ETH_P_IP {
        Frame { skb }.read::<4>(12).map(mapped)
    } else {
        return true;
    };
    let Some(address) = address else {
        return true;
    };
    // A namespace that hangs on the host by a link sends by that link and by no other.
    let here = identity::local(&address).is_some_and(|local| local.flags & (LOCAL_HOST | LOCAL_BY_LINK) != 0);
    address::is_link_local(&address) || !here || refuse_outsider(skb)
}
