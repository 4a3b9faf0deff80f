//! Publishes who sends a packet that leaves, for the socket of this host that may receive it.

use aya_ebpf::bindings::__sk_buff;
use segd_common::{
    flow::{BELIEVED_NS, CONTESTED_NS, Handover, HandoverKey, SEEN, was_seen},
    packet::{Packet, tcp},
    reason::Reason,
    service::{TCP, has_ports},
    workload::Identity,
};

use crate::{
    clock::now,
    handover::{
        Entry, Side, fill_key, from_there, goes_round, print, print_of, sequence, shorten, tie, tie_if,
        within,
    },
    identity,
    maps::{CGROUPS, HANDOVERS},
    ruling::{self, Ruling, pack, unpack},
    skb::{LOOPBACK, Skb},
    socket::Socket,
    source,
    toward::Place,
};

const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;

#[inline(always)]
fn write(key: &HandoverKey, entry: &Handover) {
    // LRU: this can only fail under contention; then the receiver does not know the sender and denies.
    let _ = HANDOVERS.insert(key, entry, BPF_ANY);
}

/// Publishes the sender of a packet that passes, for the receiver on this host; a forged one no longer passes. `claimed`: it
/// is who it is by its address alone.
#[inline(always)]
pub fn publish(ruling: &mut Ruling, packet: &Packet, skb: Skb, own: &Identity, claimed: bool) {
    let raw = skb.socket().is_none_or(|socket| socket.is_raw());
    // What stays in its namespace was translated before this hook, if at all.
    let here = ruling.place == Place::Here as u8;
    let own = pack(*own)
        | if raw { RAW } else { 0 }
        | if here { STAYS } else { 0 }
        | if ruling.after & ruling::DIALS != 0 {
            DIALS
        } else {
            0
        }
        | if claimed { CLAIMED } else { 0 }
        | if ruling.after & ruling::UNNAMED != 0 {
            UNNAMED
        } else {
            0
        }
        | u64::from(packet.protocol) << PROTOCOL
        | u64::from(packet.kind) << KIND
        | u64::from(packet.tcp_flags) << TCP_FLAGS;
    if segd_publish(skb.skb, ruling.cgroup, own, places_of(packet)) == 0 {
        ruling.fixed(Reason::Spoofed);
    }
}

// VERIFIER: a global function of the context and scalars, see `segd_judge`. What the walk found comes in numbers, but for the
// addresses, which are read once more.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_publish(skb: *mut __sk_buff, cgroup: u64, own: u64, places: u64) -> u32 {
    let skb = Skb { skb };
    let mut packet = Packet {
        protocol: (own >> PROTOCOL) as u8,
        kind: (own >> KIND) as u8,
        tcp_flags: (own >> TCP_FLAGS) as u8,
        source_port: places as u16,
        destination_port: (places >> 16) as u16,
        upper: (places >> 32) as u16,
        bytes: u32::from((places >> 48) as u16),
        ..Packet::default()
    };
    if !skb.addresses(&mut packet) || source::is_forged(&packet, skb, own & RAW != 0, own & CLAIMED != 0) {
        return 0;
    }
    if own & UNNAMED != 0 {
        return 1;
    }
    if packet.protocol == TCP {
        return u32::from(publish_segment(&packet, skb, cgroup, own));
    }
    // VERIFIER: one after another, not one inside another, for the sake of the stack.
    let own = own | goes_round(&packet.destination, skb) << ROUND;
    let taken = take_tuple(&packet, skb, cgroup, own);
    if taken & REFUSED != 0 {
        return 0;
    }
    if taken & CONTESTED == 0 && own & STAYS != 0 {
        return 1;
    }
    let print = print(skb, &packet);
    if taken & CONTESTED != 0 {
        bind_datagram(&packet, skb, cgroup, own, print);
    }
    if own & STAYS == 0 {
        // VERIFIER: see `handover::fill_key`.
        core::hint::black_box(take_source(&packet, skb, cgroup, own));
        bind_datagram(&packet, skb, cgroup, own | SHORT, print);
        if skb.is_train() {
            bind_datagram(&packet, skb, cgroup, own | SHORT, 0);
        }
    }
    1
}

/// Ports, where the upper layer begins, and the length. What is longer than 64 KiB is as long as that: how it begins is all
/// that is asked.
#[inline(always)]
fn places_of(packet: &Packet) -> u64 {
    u64::from(packet.source_port)
        | u64::from(packet.destination_port) << 16
        | u64::from(packet.upper) << 32
        | u64::from(packet.bytes.min(0xffff)) << 48
}

/// Beside a packed identity: where the protocol stands, the ICMP type, and TCP's flags.
const PROTOCOL: u32 = 40;
const KIND: u32 = 48;
const TCP_FLAGS: u32 = 56;

/// Beside a packed identity: a raw socket sends.
const RAW: u64 = 1 << 32;
/// Beside a packed identity: the receiver is in the same namespace.
const STAYS: u64 = 1 << 33;
/// Beside a packed identity: the address alone says so.
const CLAIMED: u64 = 1 << 34;
/// Beside a packed identity: the short form of the key.
const SHORT: u64 = 1 << 35;

/// Beside a packed identity: the bit that says what [`goes_round`] says.
const ROUND: u32 = 37;

/// Beside a packed identity: nobody is to be told, but a forged packet is found.
const UNNAMED: u64 = 1 << 38;

/// Beside a packed identity: the sender dials still.
const DIALS: u64 = 1 << 36;

/// Whether a raw socket would speak for a tuple that another workload has.
#[inline(always)]
fn is_anothers(known: Option<Entry>, cgroup: u64) -> bool {
    known.is_some_and(|known| known.cgroup() != cgroup && CGROUPS.get_ptr(known.cgroup()).is_some())
}

#[inline(never)]
fn publish_segment(packet: &Packet, skb: Skb, cgroup: u64, own: u64) -> bool {
    let raw = own & RAW != 0;
    // A segment forged on a connection is not judged by who sent it: the receiving socket knows its peer.
    if raw && !identity::is_local(&packet.source) {
        return false;
    }
    let mut key = HandoverKey::default();
    fill_key(&mut key, packet, skb.namespace(), Side::Source);
    // An address that repeats is this namespace's alone, and what stays in it is not translated any more.
    let plain = key.namespace != 0 && own & (STAYS | RAW) == STAYS;
    let known = Entry::at(&key);
    if raw && is_anothers(known, cgroup) {
        return false;
    }
    let mut entry = Handover {
        sent_ns: 0,
        ..sender(cgroup, own)
    };
    if own & DIALS != 0 || packet.tcp_flags & tcp::SYN != 0 {
        let syn = packet.tcp_flags & tcp::SYN != 0;
        let first = if syn {
            sequence(skb, packet, Side::Source)
        } else {
            skb.socket().and_then(Socket::first_sequence)
        };
        let Some(first) = first else {
            // Only a SYN has to say it.
            return !syn;
        };
        entry.sequence = first;
        entry.sent_ns = now();
        let mine = |known: Entry| known.cgroup() == cgroup && known.sequence() == first;
        if syn || !known.is_some_and(mine) {
            write(&key, &entry);
        }
        if plain {
            return true;
        }
        shorten(&mut key, print_of(first));
        if syn || !Entry::at(&key).is_some_and(mine) {
            write(&key, &entry);
        }
        return true;
    }
    // A session older than segd, or the first words of an accepted one. What a SYN said is better.
    if known.is_none_or(|known| known.cgroup() != cgroup) {
        write(&key, &entry);
    }
    if plain {
        return true;
    }
    shorten(&mut key, 0);
    let known = Entry::at(&key);
    if raw && is_anothers(known, cgroup) {
        return false;
    }
    if known.is_none_or(|known| known.cgroup() != cgroup) {
        write(&key, &entry);
    }
    true
}

/// Whether who dials is published still, as its SYN did it: then its next segment has nothing to add. `false` also where
/// that is not plain to see.
#[inline(never)]
pub fn is_published(skb: Skb) -> bool {
    let mut packet = Packet::default();
    if !skb.plain_tuple(&mut packet) {
        return false;
    }
    let Some(first) = skb.socket().and_then(Socket::first_sequence) else {
        return false;
    };
    let cgroup = skb.cgroup();
    let mine = |known: Entry| known.cgroup() == cgroup && known.sequence() == first;
    let mut key = HandoverKey::default();
    fill_key(&mut key, &packet, skb.namespace(), Side::Source);
    if !Entry::at(&key).is_some_and(mine) {
        return false;
    }
    if key.namespace != 0 && skb.device() == LOOPBACK {
        return true;
    }
    shorten(&mut key, print_of(first));
    Entry::at(&key).is_some_and(mine)
}

/// What a datagram's sender must still show, as bits.
const REFUSED: u32 = 1 << 0;
/// Another had the tuple a moment ago.
const CONTESTED: u32 = 1 << 1;

/// Takes the tuple of a datagram for its sender.
#[inline(never)]
fn take_tuple(packet: &Packet, skb: Skb, cgroup: u64, own: u64) -> u32 {
    let mut key = HandoverKey::default();
    fill_key(&mut key, packet, skb.namespace(), Side::Source);
    tie_if(&mut key, skb, own >> ROUND & 1);
    let mut entry = sender(cgroup, own);
    let known = Entry::at(&key);
    if let Some(known) = known
        && known.cgroup() == cgroup
    {
        keep_fresh(known, entry.sent_ns);
        return if known.was_anothers(CONTESTED_NS, entry.sent_ns) {
            CONTESTED
        } else {
            0
        };
    }
    if own & RAW != 0 && has_ports(packet.protocol) && is_anothers(known, cgroup) {
        return REFUSED;
    }
    if known.is_none() && HANDOVERS.insert(key, entry, BPF_NOEXIST).is_ok() {
        return 0;
    }
    // Both may have something on its way, and the entry cannot be right for both.
    let contested = has_something_on_its_way(known, entry.sent_ns);
    if contested {
        entry.changed_ns = entry.sent_ns;
    }
    write(&key, &entry);
    if contested { CONTESTED } else { 0 }
}

/// Whether something of the one that an entry names may still arrive; of one that could not be looked at, it may.
#[inline(always)]
fn has_something_on_its_way(known: Option<Entry>, now: u64) -> bool {
    // How long a datagram may take, and for how long its sender may not have said that it goes on.
    known.is_none_or(|known| within(BELIEVED_NS + CONTESTED_NS, known.sent_ns(), now))
}

/// Whether the tuple of a datagram that stays in its namespace is its sender's, and nobody else's lately: then there is
/// nothing to publish.
#[inline(never)]
pub fn has_tuple(packet: &Packet, skb: Skb, cgroup: u64) -> bool {
    let mut key = HandoverKey::default();
    fill_key(&mut key, packet, skb.namespace(), Side::Source);
    tie(&mut key, skb);
    let now = now();
    Entry::at(&key).is_some_and(|known| goes_on(known, cgroup, CONTESTED_NS, now))
}

/// Whether there is nothing to publish of a datagram into another namespace: as [`has_tuple`], such datagrams are seen to arrive
/// as they left, and nobody else has sent from there for as long as what he sent is believed. So even if this one loses its
/// tuple on the way, it is not taken for what another sent before that began alike.
#[inline(never)]
pub fn needs_no_print(packet: &Packet, skb: Skb, cgroup: u64) -> bool {
    let mut key = HandoverKey::default();
    fill_key(&mut key, packet, skb.namespace(), Side::Source);
    let now = now();
    let seen =
        |known: Entry| was_seen(known.sequence(), SEEN, now) && goes_on(known, cgroup, CONTESTED_NS, now);
    if !Entry::at(&key).is_some_and(seen) {
        return false;
    }
    from_there(&mut key);
    Entry::at(&key).is_some_and(|known| goes_on(known, cgroup, BELIEVED_NS, now))
}

/// Whether a cgroup alone has sent for so long as an entry says; it is noted that it goes on.
#[inline(always)]
fn goes_on(known: Entry, cgroup: u64, window: u64, now: u64) -> bool {
    let sole = known.cgroup() == cgroup && !known.was_anothers(window, now);
    if sole {
        keep_fresh(known, now);
    }
    sole
}

/// Notes who sends datagrams from an address and port, and when that was another's.
#[inline(never)]
fn take_source(packet: &Packet, skb: Skb, cgroup: u64, own: u64) -> bool {
    let mut key = HandoverKey::default();
    fill_key(&mut key, packet, skb.namespace(), Side::Source);
    from_there(&mut key);
    let mut entry = sender(cgroup, own);
    let known = Entry::at(&key);
    if let Some(known) = known
        && known.cgroup() == cgroup
    {
        keep_fresh(known, entry.sent_ns);
        return true;
    }
    if known.is_none() && HANDOVERS.insert(&key, &entry, BPF_NOEXIST).is_ok() {
        return true;
    }
    if has_something_on_its_way(known, entry.sent_ns) {
        entry.changed_ns = entry.sent_ns;
    }
    write(&key, &entry);
    true
}

#[inline(always)]
fn keep_fresh(known: Entry, now: u64) {
    if !within(CONTESTED_NS / 2, known.sent_ns(), now) {
        known.refresh(now);
    }
}

#[inline(always)]
fn sender(cgroup: u64, own: u64) -> Handover {
    Handover {
        cgroup,
        identity: unpack(own),
        sequence: 0,
        sent_ns: now(),
        changed_ns: 0,
    }
}

/// Binds a datagram to its sender, by its tuple or by its source alone.
#[inline(never)]
fn bind_datagram(packet: &Packet, skb: Skb, cgroup: u64, own: u64, print: u32) -> u32 {
    let mut key = HandoverKey::default();
    fill_key(&mut key, packet, skb.namespace(), Side::Source);
    tie_if(&mut key, skb, own >> ROUND & 1);
    if own & SHORT == 0 {
        key.print = print;
    } else {
        shorten(&mut key, print);
    }
    bind(&key, &mut sender(cgroup, own));
    print
}

/// Says who sends one datagram. What two on one tuple began alike is nobody's for as long as it may be on its way.
#[inline(never)]
fn bind(key: &HandoverKey, entry: &mut Handover) {
    if HANDOVERS.insert(key, &*entry, BPF_NOEXIST).is_ok() {
        return;
    }
    if let Some(known) = Entry::at(key)
        && within(BELIEVED_NS, known.sent_ns(), entry.sent_ns)
    {
        entry.changed_ns = if known.cgroup() == entry.cgroup {
            known.changed_ns()
        } else {
            entry.sent_ns
        };
    }
    write(key, entry);
}
