//! Which socket of the same namespace will receive a packet, or whether any will: the kernel is asked, as it will ask
//! itself.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, bpf_fib_lookup, bpf_sock, bpf_sock_tuple,
    },
    helpers::{
        bpf_fib_lookup as fib_lookup, bpf_sk_cgroup_id, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release,
        bpf_skc_lookup_tcp,
    },
};
use core::ffi::c_void;
use segd_common::{
    address::{self, Address},
    packet::Packet,
    service::TCP,
};

use crate::{
    frame::Frame,
    globals, kernel,
    skb::{Skb, state},
};

/// What a lookup of the receiving socket answers.
#[inline(always)]
fn cgroup_of(sk: *mut bpf_sock) -> u64 {
    if sk.is_null() {
        return 0;
    }
    // SAFETY: a referenced socket from a lookup helper, released on this only path.
    unsafe {
        let id = bpf_sk_cgroup_id(sk.cast());
        bpf_sk_release(sk.cast());
        id
    }
}

/// The size of a lookup tuple of the packet's family.
#[inline(always)]
pub fn fill_tuple(tuple: &mut bpf_sock_tuple, packet: &Packet) -> u32 {
    // SAFETY: both members of the union are plain integers.
    unsafe {
        if address::is_v4(&packet.destination) {
            let v4 = &mut tuple.__bindgen_anon_1.ipv4;
            v4.saddr = tail(&packet.source);
            v4.daddr = tail(&packet.destination);
            v4.sport = packet.source_port.to_be();
            v4.dport = packet.destination_port.to_be();
            12
        } else {
            let v6 = &mut tuple.__bindgen_anon_1.ipv6;
            v6.saddr = words(&packet.source);
            v6.daddr = words(&packet.destination);
            v6.sport = packet.source_port.to_be();
            v6.dport = packet.destination_port.to_be();
            36
        }
    }
}

/// The last four bytes, as the kernel keeps an IPv4 address.
#[inline(always)]
pub fn tail(address: &Address) -> u32 {
    u32::from_ne_bytes([address[12], address[13], address[14], address[15]])
}

/// The address as the kernel keeps an IPv6 address.
#[inline(always)]
pub fn words(address: &Address) -> [u32; 4] {
    let a = address;
    [
        u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
        u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
        u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
        tail(a),
    ]
}

const CURRENT_NAMESPACE: u64 = u64::MAX;

/// The cgroup of the socket that will receive this packet in the same namespace; 0 if there is none.
#[inline(never)]
pub fn receiver(skb: Skb, packet: &Packet) -> u64 {
    // SAFETY: plain integers; zero is valid.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = fill_tuple(&mut tuple, packet);
    let ctx: *mut c_void = skb.skb.cast();
    if packet.protocol == TCP {
        receiver_tcp(ctx, &mut tuple, size)
    } else {
        receiver_udp(ctx, &mut tuple, size)
    }
}

// VERIFIER: two functions. With the tails merged: "same insn cannot be used with different pointers".
#[inline(never)]
fn receiver_tcp(ctx: *mut c_void, tuple: &mut bpf_sock_tuple, size: u32) -> u64 {
    // SAFETY: the tuple has at least `size` bytes.
    cgroup_of(unsafe { bpf_sk_lookup_tcp(ctx, tuple, size, CURRENT_NAMESPACE, 0) })
}

#[inline(never)]
fn receiver_udp(ctx: *mut c_void, tuple: &mut bpf_sock_tuple, size: u32) -> u64 {
    // SAFETY: the tuple has at least `size` bytes.
    cgroup_of(unsafe { bpf_sk_lookup_udp(ctx, tuple, size, CURRENT_NAMESPACE, 0) })
}

/// No cgroup has this id: whose the socket is cannot be told.
const SOMEBODYS: u64 = u64::MAX;

/// The cgroup of the tunnel's socket that will take a datagram in the device's namespace, before a hook of it is asked; 0 if the
/// socket is none. `kernels`: no process has the socket.
#[inline(never)]
pub fn tunnel(skb: Skb, packet: &Packet, kernels: &mut bool) -> u64 {
    // SAFETY: plain integers; zero is valid.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = fill_tuple(&mut tuple, packet);
    // SAFETY: the tuple has at least `size` bytes.
    let sk = unsafe { bpf_sk_lookup_udp(skb.skb.cast(), &raw mut tuple, size, CURRENT_NAMESPACE, 0) };
    if sk.is_null() {
        return 0;
    }
    let id = match kernel::address_of(sk) {
        Some(socket) if kernel::peek(socket + globals::udp_tunnel()) == Some(0) => 0,
        Some(socket) => {
            *kernels = kernel::has_no_file(socket);
            kernel::cgroup_of(socket).unwrap_or(SOMEBODYS)
        }
        None => SOMEBODYS,
    };
    // SAFETY: a referenced socket from a lookup helper, released on this only path.
    unsafe { bpf_sk_release(sk.cast()) };
    id
}

/// The cgroup of the TCP socket that a segment is for in the device's namespace; 0 if there is none.
// Programs on links have no helper that tells a socket's cgroup.
#[inline(never)]
pub fn hearer(skb: Skb, packet: &Packet) -> u64 {
    // SAFETY: plain integers; zero is valid.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = fill_tuple(&mut tuple, packet);
    // SAFETY: the tuple has at least `size` bytes.
    let sk = unsafe { bpf_sk_lookup_tcp(skb.skb.cast(), &raw mut tuple, size, CURRENT_NAMESPACE, 0) };
    if sk.is_null() {
        return 0;
    }
    let id = kernel::address_of(sk).and_then(kernel::cgroup_of);
    // SAFETY: a referenced socket from a lookup helper, released on this only path.
    unsafe { bpf_sk_release(sk.cast()) };
    id.unwrap_or(SOMEBODYS)
}

/// Who holds the port that a packet from the network asks for, in the NIC's namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Holder {
    /// No socket.
    Nobody = 0,
    /// A socket that hears many peers.
    Bound = 1,
    /// A socket whose one peer is the packet's sender.
    Connected = 2,
}

/// Finds that out.
#[inline(never)]
pub fn holder(frame: &Frame, packet: &Packet) -> Holder {
    // SAFETY: plain integers; zero is valid.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = fill_tuple(&mut tuple, packet);
    let ctx = frame.context();
    if packet.protocol == TCP {
        holder_tcp(ctx, &mut tuple, size)
    } else {
        holder_udp(ctx, &mut tuple, size)
    }
}

// VERIFIER: two functions, as above.
#[inline(never)]
fn holder_tcp(ctx: *mut c_void, tuple: &mut bpf_sock_tuple, size: u32) -> Holder {
    // SAFETY: the tuple has at least `size` bytes. `skc`, because a socket in TIME_WAIT holds its port, too.
    let sk = unsafe { bpf_skc_lookup_tcp(ctx, tuple, size, CURRENT_NAMESPACE, 0) };
    if sk.is_null() {
        return Holder::Nobody;
    }
    // SAFETY: a referenced socket from a lookup helper, released on this only path.
    let now = unsafe {
        let now = core::ptr::read_volatile(&raw const (*sk).state);
        bpf_sk_release(sk.cast());
        now
    };
    if now == state::LISTEN {
        Holder::Bound
    } else {
        Holder::Connected
    }
}

#[inline(never)]
fn holder_udp(ctx: *mut c_void, tuple: &mut bpf_sock_tuple, size: u32) -> Holder {
    // SAFETY: the tuple has at least `size` bytes.
    let sk = unsafe { bpf_sk_lookup_udp(ctx, tuple, size, CURRENT_NAMESPACE, 0) };
    if sk.is_null() {
        return Holder::Nobody;
    }
    // SAFETY: as in `holder_tcp`.
    let peer = unsafe {
        let peer = core::ptr::read_volatile(&raw const (*sk).dst_port);
        bpf_sk_release(sk.cast());
        peer
    };
    if peer == 0 {
        Holder::Bound
    } else {
        Holder::Connected
    }
}

/// Whether the kernel forwards what comes in by this NIC: then a packet for this host's address may be meant for
/// another, by translation.
#[inline(never)]
pub fn forwards(frame: &Frame, packet: &Packet) -> bool {
    route(frame.context(), frame.device(), packet) != i64::from(BPF_FIB_LKUP_RET_FWD_DISABLED)
}

/// Whether a packet that is for no address of this host ends here all the same: it is for all of a network.
#[inline(never)]
pub fn ends_here(skb: Skb, packet: &Packet) -> bool {
    route(skb.skb.cast(), skb.device(), packet) == i64::from(BPF_FIB_LKUP_RET_NOT_FWDED)
}

/// What the kernel says of a packet's way on, once it has come in by a device.
#[inline(always)]
fn route(ctx: *mut c_void, device: u32, packet: &Packet) -> i64 {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    // SAFETY: plain integers; zero is valid.
    let mut route: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    route.ifindex = device;
    if address::is_v4(&packet.destination) {
        route.family = AF_INET;
        route.__bindgen_anon_3.ipv4_src = tail(&packet.source);
        route.__bindgen_anon_4.ipv4_dst = tail(&packet.destination);
    } else {
        route.family = AF_INET6;
        route.__bindgen_anon_3.ipv6_src = words(&packet.source);
        route.__bindgen_anon_4.ipv6_dst = words(&packet.destination);
    }
    // SAFETY: the structure has the size that is given.
    unsafe { fib_lookup(ctx, &raw mut route, size_of::<bpf_fib_lookup>() as i32, 0) }
}

/// An address from the kernel's four words.
#[inline(always)]
pub fn from_words(a: u32, b: u32, c: u32, d: u32) -> Address {
    let (a, b, c, d) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes());
    [
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3],
    ]
}
