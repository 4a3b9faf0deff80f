//! One revision of the policy, taken once per packet.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use segd_common::{
    config::Active,
    prefixes::{self, Length, Prefixes},
    segment,
    tables::{Cell, LINE_WORDS, Line, PolicyTables, Segment, Shape, TABLES_VALID, Tables},
    verdict::RuleIndex,
};

use crate::maps::{ACTIVE, POLICY, TRIAL, line};

/// The revision this packet is judged under, entirely.
#[derive(Clone, Copy)]
pub struct Policy {
    tables: &'static PolicyTables,
    /// Its slot.
    pub slot: u32,
    /// Its number.
    pub revision: u32,
}

impl Policy {
    /// The policy in force, if there is one.
    // INVARIANT: one read of `ACTIVE`; callers pass the result down and never take it twice.
    #[inline(always)]
    pub fn active() -> Option<Policy> {
        let mut active = Policy::word()?;
        if active.is_on_trial() {
            active.word = segd_tried(active.word);
        }
        Policy::named(active)
    }

    /// The policy in force, unless it is only on trial: for what cannot be taken back.
    #[inline(always)]
    pub fn for_good() -> Option<Policy> {
        Policy::word()
            .filter(|active| !active.is_on_trial())
            .and_then(Policy::named)
    }

    #[inline(always)]
    fn word() -> Option<Active> {
        let word = ACTIVE.get_ptr(0)?;
        // SAFETY: a slot of an array map; volatile so that the word is read once.
        Some(unsafe { core::ptr::read_volatile(word) })
    }

    #[inline(always)]
    fn named(active: Active) -> Option<Policy> {
        let policy = Policy::in_slot(active.slot())?;
        if active.revision() == 0 {
            None
        } else {
            Some(Policy {
                revision: active.revision(),
                ..policy
            })
        }
    }

    /// The policy in a slot that [`Policy::active`] named for this packet.
    #[inline(always)]
    pub fn in_slot(slot: u32) -> Option<Policy> {
        let tables = POLICY.get(slot)?;
        if tables.flags & TABLES_VALID == 0 {
            return None;
        }
        Some(Policy {
            tables,
            slot,
            revision: tables.revision,
        })
    }

    /// The policy that [`Policy::active`] gave for this packet, by its slot and its number.
    #[inline(always)]
    pub fn again(slot: u32, revision: u32) -> Option<Policy> {
        let policy = Policy::in_slot(slot)?;
        Some(Policy { revision, ..policy })
    }

    /// The revision to remember a verdict under: none if its rule ends by itself, so that each packet is judged.
    #[inline(always)]
    pub fn to_remember(&self, rule: RuleIndex) -> u32 {
        segd_remember(self.slot, self.revision, rule)
    }

    /// When a rule ends on the boot clock; 0 = never.
    #[inline(always)]
    fn end_of(&self, rule: RuleIndex) -> u64 {
        if rule >= self.tables.shape.ending {
            return 0;
        }
        /// Over, whatever the clock says.
        const OVER: u64 = 1;
        // SAFETY: a number of a line. Volatile: the daemon moves it when the calendar is put right.
        self.number(self.tables.shape.ends, rule)
            .map_or(OVER, |end| unsafe { end.read_volatile() })
    }

    /// Where the hits of a rule are counted.
    #[inline(always)]
    pub fn hits_of(&self, rule: RuleIndex) -> Option<*mut u64> {
        if rule >= self.tables.shape.rules {
            return None;
        }
        self.number(self.tables.shape.hits, rule)
    }

    /// One of the numbers that begin with a line.
    #[inline(always)]
    fn number(&self, first: u32, number: u32) -> Option<*mut u64> {
        let line = line(self.slot, first.wrapping_add(number / LINE_WORDS))?;
        // SAFETY: inside the line.
        Some(unsafe { line.cast::<u64>().add((number % LINE_WORDS) as usize) })
    }
}

/// [`Policy::to_remember`].
// VERIFIER: a global function of scalars, see `segd_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_remember(slot: u32, revision: u32, rule: u32) -> u32 {
    match Policy::in_slot(slot) {
        Some(policy) if policy.end_of(rule) == 0 => revision,
        _ => 0,
    }
}

/// What a word on trial means now: itself, or once the time is over the word before it. Nobody has to do anything
/// for that: the daemon may be dead and the host out of reach.
// VERIFIER: a global function of scalars, see `segd_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_tried(word: u64) -> u64 {
    let Some(trial) = TRIAL.get_ptr(0) else {
        return 0;
    };
    // SAFETY: a slot of an array map, which is not written while a word on trial may have been seen.
    let trial = unsafe { core::ptr::read_volatile(trial) };
    // SAFETY: no arguments.
    if trial.is_over(unsafe { bpf_ktime_get_boot_ns() }) {
        trial.before.word
    } else {
        word
    }
}

/// [`prefixes::find`].
// VERIFIER: a global function of scalars, see `segd_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segd_prefix(slot: u32, high: u64, low: u64, bits: u32, second: u32) -> u32 {
    match Policy::in_slot(slot) {
        Some(policy) => prefixes::find(&policy, high, low, bits as u8, second != 0),
        None => prefixes::entry(bits as u8, segment::NONE),
    }
}

impl Tables for Policy {
    #[inline(always)]
    fn flags(&self) -> u32 {
        self.tables.flags
    }

    #[inline(always)]
    fn segment(&self, index: u16) -> Segment {
        // SAFETY: there are as many as indexes.
        unsafe { *self.tables.segments.as_ptr().add(usize::from(index)) }
    }

    #[inline(always)]
    fn shape(&self) -> Shape {
        self.tables.shape
    }

    #[inline(always)]
    fn any(&self) -> &Cell {
        &self.tables.any
    }

    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        // SAFETY: a line of the array; nobody writes cells of a slot that packets come to.
        line(self.slot, index).map(|line| unsafe { &*line })
    }

    #[inline(always)]
    fn prefixes(&self) -> Prefixes {
        self.tables.shape.prefixes
    }

    #[inline(always)]
    fn first_length(&self, six: usize) -> u8 {
        self.tables.lengths.first[six & 1]
    }

    #[inline(always)]
    fn length(&self, number: u8) -> Length {
        // SAFETY: there are as many as numbers.
        unsafe { *self.tables.lengths.all.as_ptr().add(usize::from(number)) }
    }

    #[inline(always)]
    fn prefix(&self, high: u64, low: u64, bits: u8, second: bool) -> u32 {
        segd_prefix(self.slot, high, low, u32::from(bits), u32::from(second))
    }

    #[inline(always)]
    fn is_over(&self, rule: RuleIndex) -> bool {
        // SAFETY: no arguments.
        let now = unsafe { bpf_ktime_get_boot_ns() };
        now >= self.end_of(rule)
    }
}
