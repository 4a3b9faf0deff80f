//! What decides which slot of everything is in force, and until when.

/// The one word a packet reads first: revision and slot together, so that no packet can see two revisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Active {
    /// `revision << 2 | trial << 1 | slot`; 0 = no policy, everything is denied.
    pub word: u64,
}

const TRIAL: u64 = 1 << 1;

/// The other half of a trial: until when, and what comes back then.
///
/// INVARIANT: written before the word that begins the trial, and not again while a program run may have seen that word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Trial {
    /// On the clock that counts from boot, suspended time included; no step of the calendar moves it.
    pub deadline_ns: u64,
    /// What is in force from then on.
    pub before: Active,
    /// The revision on trial. Kept when the trial is over, so that its number is never given again.
    pub revision: u32,
    /// Explicit padding, zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Active>() == 8);
const _: () = assert!(size_of::<Trial>() == 24);

impl Active {
    /// The word of a revision in a slot.
    #[must_use]
    pub const fn new(revision: u32, slot: u32) -> Active {
        Active {
            word: (revision as u64) << 2 | (slot & 1) as u64,
        }
    }

    /// The revision.
    #[must_use]
    pub const fn revision(self) -> u32 {
        (self.word >> 2) as u32
    }

    /// The slot, 0 or 1.
    #[must_use]
    pub const fn slot(self) -> u32 {
        (self.word & 1) as u32
    }

    /// The same, but only until a [`Trial`] is over.
    #[must_use]
    pub const fn on_trial(self) -> Active {
        Active {
            word: self.word | TRIAL,
        }
    }

    /// The same for good.
    #[must_use]
    pub const fn for_good(self) -> Active {
        Active {
            word: self.word & !TRIAL,
        }
    }

    /// Whether [`Trial`] says until when.
    #[must_use]
    pub const fn is_on_trial(self) -> bool {
        self.word & TRIAL != 0
    }
}

impl Trial {
    /// Whether its time is over.
    #[must_use]
    pub const fn is_over(self, now_ns: u64) -> bool {
        now_ns >= self.deadline_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_keeps_its_parts_apart() {
        for revision in [0, 1, 2, u32::MAX] {
            for slot in [0, 1] {
                let active = Active::new(revision, slot);
                for word in [active, active.on_trial(), active.on_trial().for_good()] {
                    assert_eq!((word.revision(), word.slot()), (revision, slot));
                }
                assert!(!active.is_on_trial());
                assert!(active.on_trial().is_on_trial());
                assert_eq!(active.on_trial().for_good(), active);
            }
        }
        assert_eq!(Active::new(0, 0), Active::default());
    }

    #[test]
    fn a_zeroed_trial_is_over() {
        assert!(Trial::default().is_over(0));
        let trial = Trial {
            deadline_ns: 5,
            ..Trial::default()
        };
        assert!(!trial.is_over(4));
        assert!(trial.is_over(5));
    }
}
