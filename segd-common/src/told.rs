//! A packet hook's whole ruling in a few words: what a rehearsed run leaves in the packet for who ran it.
//!
//! Nothing on a real hook writes it. `BPF_PROG_TEST_RUN` hands a packet's control block, mark and priority back, so a
//! rehearsal learns reason, rule and sides of each packet from the run itself.

use crate::{segment::SegmentIndex, service::Service, workload::Identity};

/// What was ruled on one packet, and on behalf of whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// A `Reason`.
    pub reason: u8,
    /// An `Outcome`.
    pub outcome: u8,
    /// A `Hook`; 0 = no hook told anything.
    pub hook: u8,
    /// The initiator.
    pub from: Identity,
    /// The other side.
    pub to: Identity,
    /// What was initiated.
    pub service: Service,
    /// The rule that decided, or `Verdict::NO_RULE`.
    pub rule: u32,
    /// The cgroup of the socket the hook ran for.
    pub cgroup: u64,
}

/// The words of a control block, and before them the mark and the priority.
pub type Words = [u32; 7];

impl Told {
    /// As words.
    #[must_use]
    #[inline(always)]
    pub const fn pack(self) -> Words {
        [
            self.cgroup as u32,
            (self.cgroup >> 32) as u32,
            self.reason as u32 | (self.outcome as u32) << 8 | (self.hook as u32) << 16,
            sides(self.from.segment, self.to.segment),
            sides(self.from.flags, self.to.flags),
            self.service,
            self.rule,
        ]
    }

    /// From words.
    #[must_use]
    pub const fn unpack(words: Words) -> Told {
        let [low, high, ruled, segments, flags, service, rule] = words;
        Told {
            reason: ruled as u8,
            outcome: (ruled >> 8) as u8,
            hook: (ruled >> 16) as u8,
            from: Identity {
                segment: segments as u16,
                flags: flags as u16,
            },
            to: Identity {
                segment: (segments >> 16) as u16,
                flags: (flags >> 16) as u16,
            },
            service,
            rule,
            cgroup: low as u64 | (high as u64) << 32,
        }
    }
}

#[inline(always)]
const fn sides(from: SegmentIndex, to: SegmentIndex) -> u32 {
    from as u32 | (to as u32) << 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_is_heard() {
        let told = Told {
            reason: 1,
            outcome: 2,
            hook: 3,
            from: Identity { segment: 4, flags: 5 },
            to: Identity { segment: 6, flags: 7 },
            service: 0x0080_0009,
            rule: u32::MAX,
            cgroup: 0x1234_5678_9abc_def0,
        };
        assert_eq!(Told::unpack(told.pack()), told);
    }
}
