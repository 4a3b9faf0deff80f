//! ICMP errors: they act on a socket of whose hooks none runs, so who forges one is stopped where it is sent, or at
//! the NIC.
//!
//! INVARIANT: an error reaches a workload only about a packet that this workload has sent. It opens nothing.

use aya_ebpf::bindings::__sk_buff;
use segd_common::{
    address::{self, LOCAL_HOST, mapped},
    bytes::Bytes as _,
    flow::{BELIEVED_NS, HandoverKey},
    packet::{PACKET_V6, Packet, quoted, tcp},
    service::{Service, TCP, UDP},
    workload::Identity,
};

use crate::{
    clock::now,
    frame::Frame,
    handover::{Entry, Side, fill_key, within},
    identity::{self, UNKNOWN},
    link::{Bears, Way},
    lookup::{self, Holder},
    policy::Policy,
    ruling::{REVERSED, Ruling, judge, reason},
    skb::{LOOPBACK, Skb},
    toward::place,
};

/// The cgroup of the workload that has sent what an error quotes, lately if that was a datagram; 0 if none has. Only its
/// tuple can be asked for: a router quotes too little to tell more. `round`: 1 for what went round by loopback, else 0.
#[inline(never)]
fn sender(quoted: &Packet, namespace: u64, round: u64) -> u64 {
    let mut key = HandoverKey::default();
    fill_key(&mut key, quoted, namespace, Side::Source);
    key.namespace |= namespace * round;
    let Some(entry) = Entry::at(&key) else {
        return 0;
    };
    if quoted.protocol != TCP && !within(BELIEVED_NS, entry.sent_ns(), now()) {
        return 0;
    }
    entry.cgroup()
}

/// The sender of the packet that an error quotes; 0 if no workload of this host has sent it.
#[inline(always)]
pub fn quoted_sender(skb: Skb, error: &Packet) -> u64 {
    segd_quoted_sender(skb.skb, u32::from(error.upper), u32::from(error.flags))
}

// VERIFIER: a global function of the context and scalars, as `segd_publish`: verifying this on every path of its callers is more
// than kernels before 6.5 can do. The addresses are read once more.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_quoted_sender(skb: *mut __sk_buff, upper: u32, flags: u32) -> u64 {
    let skb = Skb { skb };
    // First, so that it needs no room beside the packet.
    let namespace = skb.namespace();
    let mut inner = Packet::default();
    if quote(skb, upper, flags, &mut inner) == Quote::None as u32 {
        0
    } else {
        match sender(&inner, namespace, 0) {
            // An error about what left comes by loopback as well.
            0 if skb.device() == LOOPBACK => sender(&inner, namespace, 1),
            found => found,
        }
    }
}

/// What an error quotes.
#[repr(u32)]
enum Quote {
    /// Nothing that its receiver can have sent.
    None,
    /// A packet of its receiver.
    Sent,
    /// A packet of its receiver to the very address that the error comes from.
    SentHere,
}

/// Reads what an error quotes, by where its own header begins and its `PACKET_` flags.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
fn quote(skb: Skb, upper: u32, flags: u32, inner: &mut Packet) -> u32 {
    let flags = flags as u8;
    let addresses = if flags & PACKET_V6 != 0 {
        skb.read::<16>(8).zip(skb.read::<16>(24))
    } else {
        skb.read::<4>(12).map(mapped).zip(skb.read::<4>(16).map(mapped))
    };
    let Some((source, destination)) = addresses else {
        return Quote::None as u32;
    };
    let error = Packet {
        destination,
        flags,
        upper: upper as u16,
        ..Packet::default()
    };
    if quoted(&skb, &error, inner).is_err() {
        Quote::None as u32
    } else if inner.destination == source {
        Quote::SentHere as u32
    } else {
        Quote::Sent as u32
    }
}

/// Whether a socket of this host may send this error: it is the kernel's own (in the root), its receiver is another
/// machine, which judges for itself, or its receiver has sent what it quotes.
#[inline(always)]
pub fn may_leave(skb: Skb, error: &Packet) -> bool {
    skb.cgroup() == skb.ancestor(0)
        || !identity::is_local(&error.destination)
        || quoted_sender(skb, error) != 0
}

/// Whether an error that comes in by a NIC is about a packet that left this host. `inner`: what it quotes.
#[inline(never)]
pub fn may_enter(frame: &Frame, error: &Packet, inner: &Packet) -> bool {
    if sender(inner, 0, 0) != 0 {
        return true;
    }
    let own = identity::local(&inner.source).is_some_and(|local| local.flags & LOCAL_HOST != 0);
    if !own || (inner.protocol != TCP && inner.protocol != UDP) {
        return false;
    }
    // Older than segd, or long silent: the socket itself knows its peer. A port that no socket holds may be one that
    // was translated; then conntrack knows the flow or the packet ends here.
    match lookup::holder(frame, &inner.mirrored()) {
        Holder::Connected => true,
        Holder::Bound => false,
        Holder::Nobody => lookup::forwards(frame, error),
    }
}

/// What the kernel's own answer to another machine (an RST, an unreachable, an echo reply) answers; 0 if it is none of these,
/// or not about this very address.
#[inline(always)]
pub fn refused(skb: Skb, packet: &Packet) -> Service {
    if identity::is_local(&packet.destination) || address::is_multicast(&packet.destination) {
        0
    } else if packet.tcp_flags & tcp::RST != 0 || packet.is_echo_reply() {
        // The acknowledgement of a connection that is over refuses nothing. No hook saw an echo request, unless XDP did.
        packet.answered().unwrap_or(0)
    } else if packet.is_unreachable() {
        segd_refused(skb.skb, u32::from(packet.upper), u32::from(packet.flags))
    } else {
        0
    }
}

// VERIFIER: global, as `segd_quoted_sender`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_refused(skb: *mut __sk_buff, upper: u32, flags: u32) -> Service {
    let mut inner = Packet::default();
    if quote(Skb { skb }, upper, flags, &mut inner) == Quote::SentHere as u32 {
        inner.service
    } else {
        0
    }
}

/// Whether the refusal of a service must not leave: a closed port is told only to whom the policy lets in, or it could
/// be told from an open one. The ruling is that of what was asked.
#[inline(never)]
pub fn keeps_silent(
    policy: &Policy,
    ruling: &mut Ruling,
    packet: &Packet,
    namespace: u64,
    service: Service,
) -> bool {
    let from = Identity::of(identity::of_address(policy, &packet.destination));
    let (owner, _) = identity::owner(policy, namespace, UNKNOWN);
    let owner = identity::claimed_by_address(policy, owner, &packet.source);
    judge(policy, ruling, from, owner, service);
    ruling.flags |= REVERSED;
    !ruling.passes()
}

/// Why an echo's answer by a namespace's own kernel may not leave by its link, as a number, or 0: it goes to whoever might have asked for
/// it.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
pub fn refuses_echo(way: &Way, packet: &Packet) -> u32 {
    // Who hears it on this host knows whom he has asked, but for an address that may be that one's.
    if identity::is_local(&packet.destination) && way.bears == Bears::Known {
        return 0;
    }
    let (_, from) = place(&way.policy, &packet.destination, way.namespace, false);
    let (owner, _) = identity::owner(&way.policy, way.namespace, UNKNOWN);
    let owner = identity::claimed_by_address(&way.policy, owner, &packet.source);
    let asked = packet.answered().unwrap_or(0);
    let (denied, passes) = reason(&way.policy, from, owner, asked);
    if passes { 0 } else { denied }
}
