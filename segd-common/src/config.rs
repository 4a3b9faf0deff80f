//! What decides which slot of everything is in force.

/// The one word a packet reads first: revision and slot together, so that no packet can see two revisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Active {
    /// `revision << 1 | slot`; 0 = no policy, everything is denied.
    pub word: u64,
}

const _: () = assert!(size_of::<Active>() == 8);

impl Active {
    /// The word of a revision in a slot.
    #[must_use]
    pub const fn new(revision: u32, slot: u32) -> Active {
        Active {
            word: (revision as u64) << 1 | (slot & 1) as u64,
        }
    }

    /// The revision.
    #[must_use]
    pub const fn revision(self) -> u32 {
        (self.word >> 1) as u32
    }

    /// The slot, 0 or 1.
    #[must_use]
    pub const fn slot(self) -> u32 {
        (self.word & 1) as u32
    }
}
