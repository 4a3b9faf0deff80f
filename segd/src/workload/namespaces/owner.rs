//! Whose a network namespace is. Pure.
//!
//! INVARIANT: a namespace that all leave whom segments claim stays theirs: a name keeps it, and with it the sockets and the rules
//! that they made there. Who is there now counts first.
//! INVARIANT: who visits the host's processes leaves nothing of his: a namespace that they had before he came, and have when he is gone, is
//! what it was.
//! Deliberately absent: who came and went between two looks, and who of those that were there at the first was there before the others.

use std::collections::BTreeSet;

use segd_common::{
    address::{NAMESPACE_DENIED, NAMESPACE_LIVED, NAMESPACE_MANAGED, NAMESPACE_SINGLE},
    segment::{FIRST_SEGMENT, HOST, NONE, SegmentIndex},
    workload::{AMBIGUOUS, Identity, PENDING},
};

use super::NamespaceInfo;

/// Who speaks where no process does: a namespace's own kernel, and what it sends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whose {
    /// The one segment that lives there, or whose orphans do; `HOST` if none does, or several do; `NONE` if nobody can tell.
    pub segment: SegmentIndex,
    /// `NAMESPACE_SINGLE`, `NAMESPACE_MANAGED`, `NAMESPACE_LIVED` and `NAMESPACE_DENIED`.
    pub flags: u16,
}

/// Nobody's: only the host's processes are there, and were.
const NOBODYS: Whose = Whose {
    segment: HOST,
    flags: 0,
};
/// Somebody's, and nobody can tell whose.
const UNKNOWN: Whose = Whose {
    segment: NONE,
    flags: NAMESPACE_MANAGED,
};

impl Whose {
    /// It, for the daemon to remember and for the kernel to deny.
    #[must_use]
    pub fn denied(self) -> Whose {
        Whose {
            segment: self.segment,
            flags: self.flags | NAMESPACE_MANAGED | NAMESPACE_DENIED,
        }
    }

    /// Whether its workloads were claimed with reservations.
    fn is_doubted(self) -> bool {
        self.segment != HOST && self.flags & NAMESPACE_SINGLE == 0
    }

    /// What the kernel's table says of it, if that lasts.
    #[must_use]
    pub fn of_entry(segment: SegmentIndex, flags: u16) -> Option<Whose> {
        let whose = Whose {
            segment,
            flags: flags & (NAMESPACE_SINGLE | NAMESPACE_MANAGED | NAMESPACE_LIVED),
        };
        (flags & NAMESPACE_LIVED != 0).then_some(whose)
    }
}

/// Who has been in a namespace, as far as that matters, after some look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Whose it stays if all leave.
    pub lasts: Option<Whose>,
    /// Somebody is there whom a segment claims.
    pub is_claimed: bool,
    /// Whose it stayed before those came that are there now.
    pub before: Option<Whose>,
    /// The host's cgroups that were there before any other came, and have been since.
    hosts: BTreeSet<u64>,
}

impl Past {
    /// As far as the kernel's table tells of it.
    #[must_use]
    pub fn of(lasts: Option<Whose>) -> Past {
        Past {
            lasts,
            ..Past::default()
        }
    }

    /// After another look. `identity` as for [`owner`].
    ///
    /// Those that no segment is known to claim do not make it theirs: the host's, and who is not classified yet.
    #[must_use]
    pub fn then(self, info: &NamespaceInfo, identity: &dyn Fn(u64) -> Option<Identity>) -> Past {
        if info.is_host {
            return Past::default();
        }
        let is_hosts = |cgroup: &u64| identity(*cgroup) == Some(Identity::of(HOST));
        let (hosts, others): (BTreeSet<u64>, BTreeSet<u64>) =
            info.cgroups.iter().partition(|id| is_hosts(id));
        // Whoever was the host's, and is claimed now, did not come after the others.
        let stayed: BTreeSet<u64> = if self.hosts.is_disjoint(&others) {
            self.hosts.intersection(&hosts).copied().collect()
        } else {
            BTreeSet::new()
        };
        let before = if self.is_claimed { self.before } else { self.lasts };
        match claimed(info, identity) {
            Some(whose) => Past {
                lasts: Some(whose),
                is_claimed: true,
                before,
                hosts: stayed,
            },
            None => Past {
                lasts: if stayed.is_empty() { self.lasts } else { before },
                is_claimed: false,
                before: None,
                hosts: if others.is_empty() { hosts } else { stayed },
            },
        }
    }
}

/// Whose it is by those that segments claim, if any of them is there.
fn claimed(info: &NamespaceInfo, identity: &dyn Fn(u64) -> Option<Identity>) -> Option<Whose> {
    let is_claimed = |identity: &Identity| {
        identity.flags & PENDING == 0 && (identity.segment >= FIRST_SEGMENT || identity.flags != 0)
    };
    let known = info.cgroups.iter().filter_map(|cgroup| identity(*cgroup));
    let there: Vec<Identity> = known.filter(is_claimed).collect();
    let segments: BTreeSet<SegmentIndex> = there.iter().map(|identity| identity.segment).collect();
    let first = *segments.first()?;
    let is_one = segments.len() == 1;
    let segment = match first {
        // It may be another's as well.
        _ if there.iter().any(|identity| identity.flags & AMBIGUOUS != 0) => NONE,
        segment if is_one => segment,
        _ => HOST,
    };
    let is_sure = is_one && there.iter().all(|identity| identity.flags == 0);
    Some(Whose {
        segment,
        flags: NAMESPACE_MANAGED | NAMESPACE_LIVED | if is_sure { NAMESPACE_SINGLE } else { 0 },
    })
}

/// Whose it is now. `lasts`: as [`Past`] says.
///
/// `identity` is told a cgroup's id; `None` = nobody classified it. The host's processes do not count. If anybody in it is
/// unknown, or known with reservations, it is nobody's, and denied.
#[must_use]
pub fn owner(
    info: &NamespaceInfo,
    lasts: Option<Whose>,
    identity: &dyn Fn(u64) -> Option<Identity>,
) -> Whose {
    if info.is_host {
        return Whose {
            flags: NAMESPACE_MANAGED,
            ..NOBODYS
        };
    }
    let is_known = |identity: Identity| identity.flags == 0 && identity.segment >= FIRST_SEGMENT;
    let mut there = info.cgroups.iter().map(|cgroup| identity(*cgroup));
    let is_doubtful = there.any(|of| of != Some(Identity::of(HOST)) && !of.is_some_and(is_known));
    match lasts {
        Some(whose) if is_doubtful || whose.is_doubted() => whose.denied(),
        None if is_doubtful => UNKNOWN,
        _ => lasts.unwrap_or(NOBODYS),
    }
}

#[cfg(test)]
mod tests {
    use segd_common::workload::{AMBIGUOUS, ORPHANED};

    use super::*;

    fn identity(cgroup: u64) -> Option<Identity> {
        let flagged = |segment, flags| Some(Identity { segment, flags });
        match cgroup {
            1 | 10 => Some(Identity::of(HOST)),
            2 | 3 => Some(Identity::of(7)),
            4 => Some(Identity::of(8)),
            5 => flagged(7, PENDING),
            6 => Some(Identity::default()),
            7 => flagged(HOST, PENDING),
            8 => flagged(7, AMBIGUOUS),
            9 => flagged(7, ORPHANED),
            _ => None,
        }
    }

    fn with(is_host: bool, cgroups: &[u64]) -> NamespaceInfo {
        NamespaceInfo {
            is_host,
            cgroups: cgroups.iter().copied().collect(),
            ..NamespaceInfo::default()
        }
    }

    fn whose(segment: SegmentIndex, flags: u16) -> Whose {
        Whose { segment, flags }
    }

    /// Whose it is after those were in it, one set after the other.
    fn after(sets: &[&[u64]]) -> Whose {
        after_a_restart(None, sets)
    }

    fn after_a_restart(lasts: Option<Whose>, sets: &[&[u64]]) -> Whose {
        let (mut past, mut now) = (Past::of(lasts), NOBODYS);
        for cgroups in sets {
            let info = with(false, cgroups);
            past = past.then(&info, &identity);
            now = owner(&info, past.lasts, &identity);
        }
        now
    }

    const LIVES: u16 = NAMESPACE_MANAGED | NAMESPACE_LIVED;

    #[test]
    fn a_namespace_is_owned_by_the_one_segment_in_it() {
        assert_eq!(after(&[&[]]), NOBODYS);
        assert_eq!(after(&[&[1]]), NOBODYS);
        assert_eq!(after(&[&[1, 2, 3]]), whose(7, LIVES | NAMESPACE_SINGLE));
        assert_eq!(after(&[&[2, 4]]), whose(HOST, LIVES));
        for doubtful in [5, 6, 7, 8, 9, 99] {
            let is_claimed = [8, 9].contains(&doubtful);
            let sure = if is_claimed { 0 } else { NAMESPACE_SINGLE };
            let flags = LIVES | NAMESPACE_DENIED | sure;
            assert_eq!(after(&[&[1, 2, doubtful]]).flags, flags, "cgroup {doubtful}");
        }
        let host = with(true, &[2]);
        let past = Past::default().then(&host, &identity);
        assert_eq!(past, Past::default());
        assert_eq!(owner(&host, None, &identity), whose(HOST, NAMESPACE_MANAGED));
    }

    #[test]
    fn a_namespace_that_all_have_left_stays_theirs_until_others_come() {
        let (sevens, eights) = (
            whose(7, LIVES | NAMESPACE_SINGLE),
            whose(8, LIVES | NAMESPACE_SINGLE),
        );
        assert_eq!(after(&[&[2], &[]]), sevens);
        assert_eq!(after(&[&[2], &[1], &[], &[1]]), sevens, "the host looks in");
        assert_eq!(after(&[&[2], &[4]]), eights);
        assert_eq!(after(&[&[2], &[4], &[]]), eights);
        assert_eq!(after(&[&[2, 4], &[4], &[]]), eights);
        assert_eq!(after(&[&[2, 4], &[]]), whose(HOST, LIVES));
        for (denied, segment) in [(8, NONE), (9, 7)] {
            let left = whose(segment, LIVES | NAMESPACE_DENIED);
            assert_eq!(after(&[&[denied], &[]]), left, "cgroup {denied}");
            assert_eq!(after(&[&[denied], &[4]]), eights);
        }
    }

    #[test]
    fn who_is_not_classified_leaves_no_claim_and_takes_none_away() {
        for doubtful in [5, 6, 7, 99] {
            assert_eq!(
                after(&[&[doubtful]]),
                whose(NONE, NAMESPACE_MANAGED),
                "cgroup {doubtful}"
            );
            assert_eq!(after(&[&[doubtful], &[]]), NOBODYS);
            let denied = LIVES | NAMESPACE_SINGLE | NAMESPACE_DENIED;
            assert_eq!(after(&[&[2], &[doubtful]]), whose(7, denied));
            assert_eq!(
                after(&[&[2], &[2, doubtful], &[]]),
                whose(7, LIVES | NAMESPACE_SINGLE)
            );
        }
    }

    #[test]
    fn who_visits_the_hosts_processes_leaves_nothing_of_his() {
        let (sevens, eights) = (
            whose(7, LIVES | NAMESPACE_SINGLE),
            whose(8, LIVES | NAMESPACE_SINGLE),
        );
        assert_eq!(after(&[&[1], &[1, 2]]), sevens);
        assert_eq!(after(&[&[1], &[1, 2], &[1]]), NOBODYS);
        assert_eq!(after(&[&[1], &[1, 2], &[1, 4], &[1, 8], &[1]]), NOBODYS);
        assert_eq!(after(&[&[1], &[1, 2], &[1], &[]]), NOBODYS);
        assert_eq!(
            after(&[&[1, 10], &[1, 2, 10], &[10]]),
            NOBODYS,
            "one of them stayed"
        );
        assert_eq!(
            after(&[&[2], &[1], &[1, 4], &[1]]),
            sevens,
            "what it was before he came"
        );
        // They were not there before, or not all the time, or left first, or nobody knows.
        let others: [&[&[u64]]; 8] = [
            &[&[1, 2], &[1]],
            &[&[2], &[1, 2], &[1]],
            &[&[1], &[2], &[1, 2], &[1]],
            &[&[1], &[1, 2], &[2], &[]],
            &[&[1], &[1, 2], &[2, 10], &[10]],
            &[&[99], &[1, 99], &[1, 2], &[1]],
            &[&[1], &[1, 2], &[], &[1]],
            &[&[1, 5], &[1, 2], &[1]],
        ];
        for sets in others {
            assert_eq!(after(sets), sevens, "{sets:?}");
        }
        assert_eq!(after(&[&[1], &[1, 2], &[4], &[1]]), eights);
        assert_eq!(after_a_restart(Some(sevens), &[&[1, 2], &[1]]), sevens);
        assert_eq!(after_a_restart(Some(sevens), &[&[1], &[1, 4], &[1]]), sevens);
    }

    #[test]
    fn a_workload_that_was_the_hosts_before_did_not_visit() {
        let claims_ten = |id| {
            if id == 10 {
                Some(Identity::of(7))
            } else {
                identity(id)
            }
        };
        let both = with(false, &[1, 10]);
        let past = Past::default()
            .then(&both, &identity)
            .then(&both, &claims_ten)
            .then(&with(false, &[1]), &claims_ten);
        assert_eq!(past.lasts, Some(whose(7, LIVES | NAMESPACE_SINGLE)));
    }

    #[test]
    fn what_lasts_is_read_from_the_kernels_table_again() {
        let sevens = whose(7, LIVES | NAMESPACE_SINGLE);
        let plain = segd_common::address::NAMESPACE_PLAIN;
        assert_eq!(Whose::of_entry(7, sevens.flags | plain), Some(sevens));
        assert_eq!(Whose::of_entry(NONE, NAMESPACE_MANAGED), None);
        let denied = sevens.denied();
        assert_eq!(
            Whose::of_entry(7, denied.flags),
            Some(sevens),
            "who was there is remembered, not who is there"
        );
        let orphans = after(&[&[9], &[]]);
        assert_eq!(Whose::of_entry(7, orphans.flags), Some(whose(7, LIVES)));
    }
}
