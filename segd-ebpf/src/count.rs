//! Exact counts: by segment pair, outcome and reason; by rule; of what is none of those.
//!
//! INVARIANT: a packet is counted once, under its counter's key in `COUNTERS` or in that key's tally, and a reader adds both.
//! The tally is for packets whose verdict lies on their socket: there lies its number too, so that nothing is hashed.

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    ptr,
};
use segd_common::{
    counter::{Counter, CounterKey, MAX_TALLIES, TALLY_PLACES},
    verdict::{RuleIndex, Verdict},
};

use crate::{
    globals,
    maps::{COUNTERS, COUNTERS_OTHER, STATS, TALLIES, TALLY_KEYS},
    policy::Policy,
    ruling::{NEW_FLOW, REVOKED, Ruling},
};

const BPF_NOEXIST: u64 = 1;

#[inline(always)]
fn add(to: *mut u64, amount: u64) {
    // SAFETY: a word of a map element, 8-byte aligned. Atomic, because a program can be interrupted by another
    // on the same CPU between load and store. The intrinsic, because `AtomicU64::fetch_add` is not offered to a
    // target without compare-and-swap.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(to, amount) };
}

/// Adds to one of the plain counts.
#[inline(always)]
pub fn stat(index: u32, amount: u64) {
    if let Some(count) = STATS.get_ptr_mut(index) {
        add(count, amount);
    }
}

/// Counts a packet under its ruling.
#[inline(always)]
pub fn count(ruling: &Ruling, bytes: u32) {
    let key = CounterKey {
        from: ruling.from.segment,
        to: ruling.to.segment,
        outcome: ruling.outcome,
        reason: ruling.reason,
        reserved: 0,
    };
    segd_count(key.pack(), bytes, u32::from(ruling.flags));
}

/// Counts a packet whose verdict lies on its socket, and so does `counted`: see `SocketState::counted`.
#[inline(always)]
pub fn count_known(counted: &mut u64, key: CounterKey, bytes: u32) {
    /// The bits of a packed key.
    const KEY: u64 = (1 << NUMBER) - 1;
    /// Where the number stands.
    const NUMBER: u32 = 48;
    if globals::learning() != 0 {
        return;
    }
    let key = key.pack();
    // SAFETY: a field of the socket's storage. Volatile: key and number are read at once, and so they are written.
    let mut word = unsafe { ptr::read_volatile(counted) };
    if word & KEY != key {
        word = key | u64::from(segd_tally(key)) << NUMBER;
        // SAFETY: as above.
        unsafe { ptr::write_volatile(counted, word) };
    }
    match TALLIES.get_ptr_mut(((word >> NUMBER) as u32).wrapping_sub(1)) {
        // SAFETY: pointers to the fields of a map element.
        Some(tally) => unsafe {
            add(&raw mut (*tally).packets, 1);
            add(&raw mut (*tally).bytes, u64::from(bytes));
        },
        None => {
            segd_count(key, bytes, 0);
        }
    }
}

/// One more than the number of a key's tally, which is given to it if it has none; 0 if others have all it may have.
// VERIFIER: global, as `segd_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_tally(key: u64) -> u32 {
    let wanted = CounterKey::unpack(key);
    let first = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
    for place in 0..TALLY_PLACES {
        let number = first.wrapping_add(place) & (MAX_TALLIES - 1);
        let mut owner = TALLY_KEYS.get_ptr(number);
        if owner.is_none() {
            // A race with another CPU makes one of the inserts fail; the lookup after it decides.
            let _ = TALLY_KEYS.insert(number, wanted, BPF_NOEXIST);
            owner = TALLY_KEYS.get_ptr(number);
        }
        // SAFETY: an element of the map, never written again.
        if owner.is_some_and(|owner| unsafe { *owner } == wanted) {
            return number + 1;
        }
    }
    0
}

/// Adds a packet to a counter; a refused connect is a SYN that did not happen.
// VERIFIER: global, as `segd_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_count(key: u64, bytes: u32, flags: u32) -> u32 {
    if globals::learning() != 0 {
        return 0;
    }
    let key = CounterKey::unpack(key);
    let counter = match COUNTERS.get_ptr_mut(key) {
        Some(counter) => Some(counter),
        None => {
            // As above.
            let _ = COUNTERS.insert(key, Counter::default(), BPF_NOEXIST);
            COUNTERS
                .get_ptr_mut(key)
                .or_else(|| COUNTERS_OTHER.get_ptr_mut(u32::from(key.outcome)))
        }
    };
    let Some(counter) = counter else {
        return 0;
    };
    let flags = flags as u8;
    // SAFETY: pointers to the fields of a map element.
    unsafe {
        add(&raw mut (*counter).packets, 1);
        add(&raw mut (*counter).bytes, u64::from(bytes));
        if flags & NEW_FLOW != 0 {
            add(&raw mut (*counter).flows, 1);
        }
        if flags & REVOKED != 0 {
            add(&raw mut (*counter).revoked, 1);
        }
    }
    1
}

/// Counts the rule that decided, if one did.
#[inline(always)]
pub fn count_rule(policy: &Policy, ruling: &Ruling) {
    count_rule_of(policy, ruling.rule);
}

/// [`count_rule`], by the rule itself.
#[inline(always)]
pub fn count_rule_of(policy: &Policy, rule: RuleIndex) {
    if rule != Verdict::NO_RULE {
        segd_hit(policy.slot, rule);
    }
}

/// Counts a rule's decision.
// VERIFIER: global, as `segd_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_hit(slot: u32, rule: u32) -> u32 {
    if globals::learning() == 0
        && let Some(hits) = Policy::in_slot(slot).and_then(|policy| policy.hits_of(rule))
    {
        add(hits, 1);
    }
    0
}
