//! One revision of the policy, taken once per packet.

use segd_common::{
    segment::MAX_SEGMENTS,
    tables::{MAX_CLASSES, MAX_RANGES, PolicyTables, PortRange, PortSet, TABLES_VALID, Tables},
};

use crate::maps::{ACTIVE, POLICY};

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
    // INVARIANT: the one read of `ACTIVE`; callers pass the result down and never take it twice.
    #[inline(always)]
    pub fn active() -> Option<Policy> {
        let word = ACTIVE.get_ptr(0)?;
        // SAFETY: a slot of an array map; volatile so that the word is read once.
        let active = unsafe { core::ptr::read_volatile(word) };
        let slot = active.slot();
        let tables = POLICY.get(slot)?;
        if tables.flags & TABLES_VALID == 0 || active.revision() == 0 {
            return None;
        }
        Some(Policy { tables, slot, revision: active.revision() })
    }
}

impl Tables for Policy {
    #[inline(always)]
    fn flags(&self) -> u32 {
        self.tables.flags
    }

    #[inline(always)]
    fn segment(&self, index: u16) -> u32 {
        self.tables.segments.get(usize::from(index)).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn class(&self, from: u16, to: u16) -> u16 {
        let (from, to) = (usize::from(from), usize::from(to));
        if from >= MAX_SEGMENTS || to >= MAX_SEGMENTS {
            return 0;
        }
        self.tables.classes.get(from * MAX_SEGMENTS + to).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn set(&self, class: u16) -> PortSet {
        if class == 0 || usize::from(class) >= MAX_CLASSES {
            return PortSet::default();
        }
        self.tables.sets.get(usize::from(class)).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn range(&self, index: u32) -> Option<PortRange> {
        if index as usize >= MAX_RANGES {
            return None;
        }
        self.tables.ranges.get(index as usize).copied()
    }
}
