//! Who sent a packet that is on its way between two sockets of this host: written at egress (`publish.rs`), read at ingress.
//!
//! INVARIANT: an entry speaks for the packets it was written for, not for whoever comes to bear their tuple. A TCP
//! connection is known by the sequence number of its SYN, which no translation of addresses changes and nobody else
//! guesses. A datagram is known by its tuple only while one sender has it alone, and lately; else by what it begins with.

use aya_ebpf::helpers::bpf_skb_load_bytes;
use core::ptr::NonNull;
use segd_common::{
    address::{self, Address},
    bytes::Bytes as _,
    flow::{ANY_DESTINATION, BELIEVED_NS, CONTESTED_NS, Handover, HandoverKey, SEEN, coarse, was_seen},
    packet::{Packet, tcp},
    service::{SCTP, TCP, has_ports},
    workload::Identity,
};

use crate::{
    clock::now,
    identity,
    maps::HANDOVERS,
    skb::{LOOPBACK, Skb},
};

/// Which way a packet is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Side {
    /// As it is: who sent it.
    Source,
    /// Mirrored: who would send its reply.
    Destination,
}

/// Fills in the full key of a sender's tuple.
// VERIFIER: whoever has little stack calls it from a function that returns something; one that returns nothing may leave a
// stack pointer behind: "cannot return stack pointer to the caller".
#[inline(always)]
pub fn fill_key(key: &mut HandoverKey, packet: &Packet, namespace: u64, side: Side) {
    let repeats = address::is_loopback(&packet.source) || address::is_loopback(&packet.destination);
    key.namespace = if repeats { namespace } else { 0 };
    key.protocol = packet.protocol;
    // A request is not its reply, although both bear the same identifier.
    key.kind = packet.kind;
    if side == Side::Source {
        key.source = packet.source;
        key.destination = packet.destination;
        key.source_port = packet.source_port;
        key.destination_port = packet.destination_port;
    } else {
        key.source = packet.destination;
        key.destination = packet.source;
        key.source_port = packet.destination_port;
        key.destination_port = packet.source_port;
    }
}

/// Makes a datagram's key its namespace's own, if that goes round by loopback: a route may lead anybody's address there, and the same
/// tuple may leave by a device the next time, for whoever really has it.
#[inline(always)]
pub fn tie(key: &mut HandoverKey, skb: Skb) {
    let round = goes_round(&key.destination, skb);
    tie_if(key, skb, round);
}

/// [`tie`], where it was asked before: 1 if it goes round so, else 0.
#[inline(always)]
pub fn tie_if(key: &mut HandoverKey, skb: Skb, round: u64) {
    // VERIFIER: no branch, so that the ways do not part here. A key that names a namespace already names this one.
    key.namespace |= skb.namespace() * round;
}

/// 1 if what goes there goes round by loopback, for no more than one receiver, else 0.
#[inline(always)]
pub fn goes_round(to: &Address, skb: Skb) -> u64 {
    let (high, low) = address::halves(to);
    u64::from(segd_goes_round(high, low, skb.device()))
}

// VERIFIER: a global function of scalars, see `segd_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_goes_round(high: u64, low: u64, device: u32) -> u32 {
    u32::from(device == LOOPBACK && !address::is_multicast(&address::of_halves(high, low)))
}

/// Drops the destination from a key: this form survives DNAT, to a loopback address too.
#[inline(always)]
pub fn shorten(key: &mut HandoverKey, print: u32) {
    key.destination = [0; 16];
    key.destination_port = 0;
    if !address::is_loopback(&key.source) {
        key.namespace = 0;
    }
    key.print = print;
}

/// The key of who sends datagrams from an address and port, wherever they go.
#[inline(always)]
pub fn from_there(key: &mut HandoverKey) {
    shorten(key, 0);
    key.form = ANY_DESTINATION;
}

/// A sequence number as a print, which is never 0.
#[inline(always)]
pub fn print_of(sequence: u32) -> u32 {
    if sequence == 0 { 1 } else { sequence }
}

/// TCP's sequence number, or the one it acknowledges.
#[inline(always)]
pub fn sequence(skb: Skb, packet: &Packet, side: Side) -> Option<u32> {
    let at = if side == Side::Source { 4 } else { 8 };
    skb.read::<4>(u32::from(packet.upper) + at)
        .map(u32::from_be_bytes)
}

/// How many bytes of a datagram's content tell it from others.
const HEAD: usize = 32;

/// What a datagram begins with, as a number; never 0.
///
/// No checksum, which translation changes; no length, which differs where the kernel splits or joins datagrams. Whoever
/// repeats another's content is taken for nobody (see `publish.rs`).
#[inline(never)]
pub fn print(skb: Skb, packet: &Packet) -> u32 {
    print_behind(skb, packet, 0)
}

/// [`print`] of a packet behind so many bytes of a link header.
#[inline(always)]
pub fn print_behind(skb: Skb, packet: &Packet, link: u32) -> u32 {
    let header = match packet.protocol {
        SCTP => 12,
        protocol if has_ports(protocol) => 8,
        _ if packet.kind != 0 => 8,
        _ => 0,
    };
    let start = u32::from(packet.upper) + header;
    let mut head = [0_u64; HEAD / 8];
    let left = packet.bytes.saturating_sub(start).min(HEAD as u32);
    if left > 0 {
        // VERIFIER: 1 to 32 by arithmetic; the bounds of a comparison do not reach the register that is passed.
        let size = (core::hint::black_box(left).wrapping_sub(1) & (HEAD as u32 - 1)) + 1;
        // SAFETY: the helper checks the packet; at most the size of the buffer is written.
        unsafe { bpf_skb_load_bytes(skb.skb.cast(), link + start, head.as_mut_ptr().cast(), size) };
    }
    let mut hash = u64::from(left);
    for word in head {
        hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 29;
    }
    print_of((hash ^ hash >> 32) as u32)
}

/// An element of the map. It may be reused while it is looked at; then what is read is some other sender's true identity,
/// and only of a tuple that no longer has one.
// VERIFIER: a pointer and not a copy, for the sake of the stack.
#[derive(Clone, Copy)]
pub struct Entry(NonNull<Handover>);

macro_rules! field {
    ($name:ident, $of:ty) => {
        #[inline(always)]
        pub fn $name(self) -> $of {
            // SAFETY: an element of the map.
            unsafe { (*self.0.as_ptr()).$name }
        }
    };
}

impl Entry {
    #[inline(always)]
    pub fn at(key: &HandoverKey) -> Option<Entry> {
        HANDOVERS.get_ptr_mut(key).and_then(NonNull::new).map(Entry)
    }

    field!(cgroup, u64);
    field!(identity, Identity);
    field!(sequence, u32);
    field!(sent_ns, u64);
    field!(changed_ns, u64);

    /// Whether a datagram of this tuple is its sender's, whatever it begins with.
    #[inline(always)]
    pub fn is_believed(self, now: u64) -> bool {
        !self.was_anothers(CONTESTED_NS, now) && within(BELIEVED_NS, self.sent_ns(), now)
    }

    /// Whether the sender of what begins so is the one of another entry, and nobody else was it lately.
    #[inline(always)]
    fn is_alone(self, sender: Entry, now: u64) -> bool {
        self.cgroup() == sender.cgroup() && !self.was_anothers(BELIEVED_NS, now)
    }

    /// Whether it changed hands so short a time ago.
    #[inline(always)]
    pub fn was_anothers(self, window: u64, now: u64) -> bool {
        self.changed_ns() != 0 && within(window, self.changed_ns(), now)
    }

    /// A datagram has arrived as it left. Not written for each, as its sender reads it on another CPU.
    #[inline(always)]
    fn has_arrived(self, cgroup: u64, now: u64) {
        // SAFETY: words of an element; volatile, because it may have been reused since it was found.
        unsafe {
            if (&raw const (*self.0.as_ptr()).cgroup).read_volatile() == cgroup {
                (&raw mut (*self.0.as_ptr()).sequence).write_volatile(coarse(now));
            }
        }
    }

    /// The same sender goes on. Not the whole entry is written: another sender may have taken the tuple meanwhile.
    #[inline(always)]
    pub fn refresh(self, now: u64) {
        // SAFETY: one word of an element.
        unsafe { (&raw mut (*self.0.as_ptr()).sent_ns).write_volatile(now) };
    }
}

/// Finds who sent a packet, or would send its reply. `dials`: a TCP packet must belong to its sender's handshake; else
/// its socket has matched it already.
#[inline(always)]
pub fn find(packet: &Packet, skb: Skb, side: Side, dials: bool, key: &mut HandoverKey) -> Option<Entry> {
    fill_key(key, packet, skb.namespace(), side);
    if packet.protocol != TCP {
        return of_datagram(packet, skb, key);
    }
    if !dials && (packet.tcp_flags & tcp::SYN == 0 || side == Side::Destination) {
        return of_session(key);
    }
    // The walk has seen a whole header.
    let number = sequence(skb, packet, side).unwrap_or_default();
    if side == Side::Source && packet.tcp_flags & tcp::SYN != 0 {
        of_handshake(key, number)
    } else {
        of_handshake(key, number.wrapping_sub(1))
    }
}

/// The sender of a segment whose socket is older than segd, or of an answer.
#[inline(never)]
fn of_session(key: &mut HandoverKey) -> Option<Entry> {
    Entry::at(key).or_else(|| {
        shorten(key, 0);
        Entry::at(key)
    })
}

/// The sender whose SYN had this sequence number.
#[inline(never)]
pub fn of_handshake(key: &mut HandoverKey, first: u32) -> Option<Entry> {
    if let Some(entry) = Entry::at(key)
        && entry.sent_ns() != 0
        && entry.sequence() == first
    {
        return Some(entry);
    }
    shorten(key, print_of(first));
    Entry::at(key)
}

/// Whether a cgroup has an arriving datagram's tuple alone; else its content must tell. Then it is seen that such datagrams arrive as
/// they left.
#[inline(never)]
pub fn is_of(packet: &Packet, skb: Skb, cgroup: u64) -> bool {
    let mut key = HandoverKey::default();
    fill_key(&mut key, packet, skb.namespace(), Side::Source);
    tie(&mut key, skb);
    let now = now();
    let Some(entry) = Entry::at(&key) else {
        return false;
    };
    if !entry.is_believed(now) || entry.cgroup() != cgroup {
        return false;
    }
    // Nobody but the namespace that is known for the address can say so: others may bear it as well.
    if !was_seen(entry.sequence(), SEEN / 2, now)
        && identity::local(&packet.destination).is_some_and(|local| local.namespace == skb.namespace())
    {
        entry.has_arrived(cgroup, now);
    }
    true
}

/// In the form of a key that is not looked up any more: several may have sent the datagram, so it is nobody's, wherever it comes
/// from.
// VERIFIER: here, for the sake of the stack.
const DISPUTED: u32 = 2;

/// Whether nobody can tell which of several sent what [`find`] was asked about.
#[inline(always)]
pub fn is_disputed(key: &HandoverKey) -> bool {
    key.form == DISPUTED
}

/// The sender of a datagram.
#[inline(never)]
fn of_datagram(packet: &Packet, skb: Skb, key: &mut HandoverKey) -> Option<Entry> {
    tie(key, skb);
    let now = now();
    let full = Entry::at(key);
    if full.is_some_and(|entry| entry.is_believed(now)) {
        return full;
    }
    let print = print(skb, packet);
    let mut bound = None;
    if let Some(full) = full {
        let contested = full.was_anothers(CONTESTED_NS, now);
        key.print = print;
        bound = fresh(key, BELIEVED_NS, now);
        if bound.is_none() && contested {
            // Who had the tuple before may have sent this by the tuple alone: no other's word is good for it.
            key.form = DISPUTED;
            return None;
        }
    }
    shorten(key, print);
    let short = fresh(key, BELIEVED_NS, now);
    // One of a train, cut apart on the way.
    key.print = 0;
    let train = fresh(key, CONTESTED_NS, now);
    let found = bound.or(short).or(train)?;
    // Whoever else may have sent it makes it nobody's.
    if !found.is_alone(found, now)
        || short.is_some_and(|other| !other.is_alone(found, now))
        || train.is_some_and(|other| !other.is_alone(found, now))
    {
        key.form = DISPUTED;
        return None;
    }
    Some(found)
}

#[inline(always)]
fn fresh(key: &HandoverKey, window: u64, now: u64) -> Option<Entry> {
    Entry::at(key).filter(|entry| within(window, entry.sent_ns(), now))
}

/// Whether a moment is less than so long ago. Another CPU's clock may be a little ahead of this one's.
#[inline(always)]
pub fn within(window: u64, moment: u64, now: u64) -> bool {
    (now.wrapping_sub(moment) as i64) < window as i64
}
