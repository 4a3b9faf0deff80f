//! What becomes of a workload that its segment no longer claims. Pure.

use segd_common::{
    segment::{FIRST_SEGMENT, HOST},
    workload::{CgroupSlot, Identity, ORPHANED},
};

/// The slot of a living cgroup under a new revision.
///
/// `old` is who it was under the revision in force, `old_name` the name that its segment had there, `release` the
/// segments that the new policy gives up. A workload that was in a policy's segment and that nobody claims now
/// keeps its segment's index and is [`ORPHANED`]: taking a segment away never makes a workload `host`.
#[must_use]
pub fn keep_orphaned(old: Identity, old_name: &str, new: CgroupSlot, release: &[String]) -> CgroupSlot {
    let claimed = new.identity.segment != HOST;
    let released = release.iter().any(|name| name == old_name);
    if claimed || released || old.segment < FIRST_SEGMENT {
        return new;
    }
    let flags = new.identity.flags | ORPHANED;
    CgroupSlot {
        identity: Identity {
            segment: old.segment,
            flags,
        },
        literal: 0,
        selector: 0,
        ..new
    }
}

#[cfg(test)]
mod tests {
    use segd_common::workload::AMBIGUOUS;

    use super::*;

    fn slot(segment: u16) -> CgroupSlot {
        CgroupSlot {
            identity: Identity::of(segment),
            revision: 3,
            state: 8,
            literal: 5,
            below: 1,
            selector: 2,
        }
    }

    #[test]
    fn a_workload_nobody_claims_stays_with_its_segment_as_an_orphan() {
        let orphan = keep_orphaned(Identity::of(7), "web", slot(HOST), &["db".to_owned()]);
        assert_eq!(
            orphan.identity,
            Identity {
                segment: 7,
                flags: ORPHANED
            }
        );
        assert_eq!(
            (orphan.literal, orphan.selector),
            (0, 0),
            "any selector takes precedence below it"
        );
        assert_eq!(
            (orphan.revision, orphan.state, orphan.below),
            (3, 8, 1),
            "its place among the paths is kept"
        );
        let again = keep_orphaned(orphan.identity, "web", slot(HOST), &[]);
        assert_eq!(again.identity, orphan.identity, "an orphan stays one");
    }

    #[test]
    fn another_claim_or_a_release_ends_orphanhood() {
        let orphan = Identity {
            segment: 7,
            flags: ORPHANED,
        };
        assert_eq!(keep_orphaned(orphan, "web", slot(9), &[]), slot(9));
        assert_eq!(
            keep_orphaned(orphan, "web", slot(HOST), &["web".to_owned()]),
            slot(HOST)
        );
    }

    #[test]
    fn what_was_in_no_segment_is_no_orphan() {
        for segment in [0, HOST, 2, 3] {
            assert_eq!(
                keep_orphaned(Identity::of(segment), "", slot(HOST), &[]),
                slot(HOST)
            );
        }
    }

    #[test]
    fn the_ambiguous_are_orphaned_too() {
        let old = Identity {
            segment: 7,
            flags: AMBIGUOUS,
        };
        let expected = Identity {
            segment: 7,
            flags: ORPHANED,
        };
        assert_eq!(keep_orphaned(old, "web", slot(HOST), &[]).identity, expected);
    }
}
