//! Who a socket, a sender or an address is under one revision.

use aya_ebpf::bindings::__sk_buff;
use segd_common::{
    address::{
        self, Address, LOCAL_HOST, Local, NAMESPACE_DENIED, NAMESPACE_MANAGED, NAMESPACE_PLAIN,
        NAMESPACE_SINGLE,
    },
    flow::HandoverKey,
    packet::Packet,
    prefixes,
    segment::{self, FIRST_SEGMENT, SegmentIndex},
    workload::Identity,
};

use crate::{
    globals,
    handover::{self, Side},
    kernel::{cgroup_of_task, id_of_cgroup, peek},
    maps::{CGROUPS, CGROUPS_FULL, LOCALS, NAMESPACES},
    policy::Policy,
    ruling::{pack, unpack},
    skb::Skb,
};

/// How deep a cgroup may lie below the nearest one that is in the table.
const MAX_DEPTH: u32 = 24;

/// Nobody: every pair with it is denied.
pub const UNKNOWN: Identity = Identity::of(segment::NONE);

/// A cgroup by its id, if it is in the table.
#[inline(always)]
pub fn of_cgroup(policy: &Policy, id: u64) -> Option<Identity> {
    let packed = segd_cgroup(policy.slot, policy.revision, id);
    if packed & FOUND == 0 {
        None
    } else {
        Some(unpack(packed))
    }
}

const FOUND: u64 = 1 << 32;

// VERIFIER: global functions of scalars are verified once, see `segd_judge`. An address travels as two numbers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_cgroup(slot: u32, revision: u32, id: u64) -> u64 {
    let Some(entry) = CGROUPS.get_ptr(id) else {
        return 0;
    };
    // SAFETY: an element of the map; an update replaces elements, it does not write into them.
    let slot = unsafe { &(*entry).slots[(slot & 1) as usize] };
    FOUND
        // A tag of another revision is nobody's now: a cgroup that was born while tags were written, of a parent that had
        // none of this revision yet, and that no walk has met since.
        | if slot.revision != revision {
            pack(UNKNOWN)
        } else {
            pack(slot.identity)
        }
}

/// The socket the hook runs for. A cgroup that is not in the table is what its nearest tagged ancestor is.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
pub fn of_socket(policy: &Policy, skb: Skb, cgroup: u64) -> Identity {
    match of_cgroup(policy, cgroup) {
        Some(identity) => identity,
        None => unpack(segd_ancestors(skb.skb, policy.slot, policy.revision)),
    }
}

/// The identity of the nearest tagged ancestor.
// VERIFIER: a global function, see `segd_chain`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_ancestors(skb: *mut __sk_buff, slot: u32, revision: u32) -> u64 {
    let mut level = MAX_DEPTH;
    while level > 0 {
        level -= 1;
        let id = Skb { skb }.ancestor(level);
        if id == 0 {
            continue;
        }
        let packed = segd_cgroup(slot, revision, id);
        if packed & FOUND != 0 {
            return if table_overflowed() {
                pack(UNKNOWN)
            } else {
                pack(unpack(packed))
            };
        }
    }
    pack(UNKNOWN)
}

/// The running task, and its cgroup's id.
#[inline(always)]
pub fn of_task(policy: &Policy, id: &mut u64) -> Identity {
    ancestry_of_task(policy, id).unwrap_or(UNKNOWN)
}

/// `None`: the kernel's memory could not be read.
#[inline(always)]
fn ancestry_of_task(policy: &Policy, id: &mut u64) -> Option<Identity> {
    let mut cgroup = cgroup_of_task()?;
    *id = id_of_cgroup(cgroup)?;
    let mut at = *id;
    for _ in 0..MAX_DEPTH {
        if let Some(identity) = of_cgroup(policy, at) {
            let own = at == *id;
            return Some(if !own && table_overflowed() {
                UNKNOWN
            } else {
                identity
            });
        }
        // css is the first member of a cgroup: the parent's css is the parent.
        cgroup = peek(cgroup + globals::cgroup_parent())?;
        if cgroup == 0 {
            break;
        }
        at = id_of_cgroup(cgroup)?;
    }
    // Outside of what segd governs, if that is not all there is.
    Some(Identity::of(if globals::subtree() != 0 {
        segment::HOST
    } else {
        segment::NONE
    }))
}

/// Whether a newborn cgroup did not fit: then what is missing may have been claimed by a selector.
#[inline(always)]
pub fn table_overflowed() -> bool {
    // SAFETY: a slot of an array map.
    CGROUPS_FULL
        .get_ptr(0)
        .is_none_or(|full| unsafe { core::ptr::read_volatile(full) } != 0)
}

/// The segment of an address on the network, or `WORLD`.
#[inline(always)]
pub fn of_address(policy: &Policy, address: &Address) -> SegmentIndex {
    let (high, low) = address::halves(address);
    // VERIFIER: `black_box`, or the compiler knows that the answer is a segment, and the verifier does not.
    core::hint::black_box(segd_address(policy.slot, high, low)) as SegmentIndex
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_address(slot: u32, high: u64, low: u64) -> u32 {
    let owner = Policy::in_slot(slot).map(|policy| prefixes::owner(&policy, &address::of_halves(high, low)));
    u32::from(owner.unwrap_or(segment::NONE))
}

/// An address of this host or of one of its namespaces.
#[inline(always)]
pub fn local(address: &Address) -> Option<Local> {
    // SAFETY: the value is copied out.
    LOCALS.get_ptr(address).map(|local| unsafe { *local })
}

/// Whether an address is this host's or one of its namespaces'.
#[inline(always)]
pub fn is_local(address: &Address) -> bool {
    let (high, low) = address::halves(address);
    segd_local(high, low) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_local(high: u64, low: u64) -> u32 {
    let address = address::of_halves(high, low);
    u32::from(address::is_loopback(&address) || local(&address).is_some())
}

/// An unclaimed process outside the initial namespace is claimed by a segment that claims its address:
/// a prefix may speak of containers of this host as it does of other machines.
#[inline(always)]
pub fn claimed_by_address(policy: &Policy, identity: Identity, address: &Address) -> Identity {
    let (high, low) = address::halves(address);
    unpack(segd_claimed(policy.slot, pack(identity), high, low))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_claimed(slot: u32, identity: u64, high: u64, low: u64) -> u64 {
    // Who may yet be claimed by a selector (`PENDING`) stays what it is: denied.
    if unpack(identity) != Identity::of(segment::HOST) {
        return identity;
    }
    let address = address::of_halves(high, low);
    if address::is_loopback(&address) || local(&address).is_some_and(|local| local.flags & LOCAL_HOST != 0) {
        return identity;
    }
    let claimed = core::hint::black_box(segd_address(slot, high, low)) as SegmentIndex;
    if claimed >= FIRST_SEGMENT {
        pack(Identity::of(claimed))
    } else {
        identity
    }
}

/// Who answers where no socket does: the one segment that lives in a namespace, else `host`.
/// A namespace nobody has looked at yet is taken to be the asker's own.
#[inline(always)]
pub fn owner(policy: &Policy, namespace: u64, own: Identity) -> (Identity, bool) {
    let packed = segd_owner(policy.slot, namespace, pack(own));
    (unpack(packed), packed & FOUND != 0)
}

/// Who speaks where no process does (a namespace's own kernel, what it sends on): the one segment that lives there, `host` where none
/// does, and nobody where there are several. A segment may still claim the address.
#[inline(always)]
pub fn voice(slot: u32, namespace: u64) -> Identity {
    let packed = segd_owner(slot, namespace, pack(UNKNOWN));
    if packed & (FOUND | SEVERAL) == SEVERAL {
        UNKNOWN
    } else {
        unpack(packed)
    }
}

/// Beside a packed owner: segments live there, and nobody can tell which.
const SEVERAL: u64 = 1 << 33;

/// Who an unclaimed process in a namespace is whatever address it uses; `None` if that depends.
#[inline(always)]
pub fn of_unclaimed(policy: &Policy, namespace: u64) -> Option<Identity> {
    if namespace == globals::host_namespace() {
        return Some(Identity::of(segment::HOST));
    }
    let slot = (policy.slot & 1) as usize;
    let known = NAMESPACES.get_ptr(namespace)?;
    // SAFETY: an element of the map.
    let (flags, claimed) = unsafe { ((*known).flags[slot], (*known).claimed[slot]) };
    if flags & NAMESPACE_PLAIN != 0 {
        Some(Identity::of(segment::HOST))
    } else if claimed >= FIRST_SEGMENT {
        Some(Identity::of(claimed))
    } else {
        None
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_owner(slot: u32, namespace: u64, own: u64) -> u64 {
    if namespace == globals::host_namespace() {
        return pack(Identity::of(segment::HOST));
    }
    let Some(known) = NAMESPACES.get_ptr(namespace) else {
        return own & !FOUND;
    };
    let slot = (slot & 1) as usize;
    // SAFETY: an element of the map.
    let (owner, flags) = unsafe { ((*known).owner[slot], (*known).flags[slot]) };
    if flags & NAMESPACE_DENIED != 0 {
        return SEVERAL | pack(UNKNOWN);
    }
    let lives = if flags & NAMESPACE_SINGLE != 0 {
        FOUND
    } else if flags & NAMESPACE_MANAGED != 0 {
        SEVERAL
    } else {
        0
    };
    lives | pack(Identity::of(owner))
}

/// What [`of_sender`] says instead of a cgroup: somebody of this host, and nobody can tell who.
pub const ONE_OF_SEVERAL: u64 = u64::MAX;

/// The sender of a packet, or of its reply: its identity, and its cgroup if it is on this host.
#[inline(always)]
pub fn of_sender(policy: &Policy, packet: &Packet, skb: Skb, side: Side, cgroup: &mut u64) -> Identity {
    unpack(of_handover(policy, packet, skb, side as u32, cgroup))
}

/// Who dials a listening socket: the sender of a packet of a handshake, or of the one that it answers.
#[inline(always)]
pub fn of_dialler(policy: &Policy, packet: &Packet, skb: Skb, side: Side, cgroup: &mut u64) -> Identity {
    unpack(of_handover(policy, packet, skb, side as u32 | DIALS, cgroup))
}

/// Beside a side: what is looked at must belong to its sender's handshake.
const DIALS: u32 = 1 << 8;

// VERIFIER: on a frame of its own, for the sake of the stack; side and proof in one argument, as five are the limit.
#[inline(never)]
fn of_handover(policy: &Policy, packet: &Packet, skb: Skb, what: u32, cgroup: &mut u64) -> u64 {
    let side = if what & 1 == Side::Source as u32 {
        Side::Source
    } else {
        Side::Destination
    };
    let mut key = HandoverKey::default();
    let Some(entry) = handover::find(packet, skb, side, what & DIALS != 0, &mut key) else {
        if handover::is_disputed(&key) {
            *cgroup = ONE_OF_SEVERAL;
            return pack(UNKNOWN);
        }
        *cgroup = 0;
        return pack(of_foreign(policy, packet, skb, side));
    };
    let (id, then) = (entry.cgroup(), entry.identity());
    *cgroup = id;
    let identity = of_cgroup(policy, id).unwrap_or(then);
    pack(claimed_by_address(policy, identity, &key.source))
}

/// A side that no socket of this host speaks for: whose address it is, and nobody if that is on this host.
// VERIFIER: on a frame of its own, for the sake of the stack.
#[inline(never)]
pub fn of_foreign(policy: &Policy, packet: &Packet, skb: Skb, side: Side) -> Identity {
    let address = if side == Side::Source {
        &packet.source
    } else {
        &packet.destination
    };
    if skb.device() == crate::skb::LOOPBACK || is_local(address) {
        return UNKNOWN;
    }
    Identity::of(of_address(policy, address))
}
