//! A list of namespaces, some of which may not have been heard. Pure.
//!
//! INVARIANT: who could not be heard once stays what he was known to be: his addresses and his links do not become nobody's.

use std::collections::{BTreeMap, BTreeSet};

use segd_common::address::{Address, is_link_local, is_loopback};

use super::NamespaceInfo;

/// What one listing told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Those that were asked, the host's first.
    pub heard: Vec<NamespaceInfo>,
    /// The numbers of those that are there and could not be asked, or not whole, with the cgroups that have tasks in them. They are
    /// in `heard` only if next to nothing is believed of them anyhow.
    pub unheard: BTreeMap<u64, BTreeSet<u64>>,
    /// The host did not change while it was asked.
    pub is_complete: bool,
    /// Every name of a namespace could be looked at. If not, more of them may be there than are told.
    pub is_whole: bool,
}

impl Listed {
    /// Whether it has to be repeated.
    #[must_use]
    pub fn lacks_something(&self) -> bool {
        !self.is_complete || !self.is_whole || !self.unheard.is_empty()
    }

    /// The numbers of all that are there; `None`: nobody knows whether these are all.
    #[must_use]
    pub fn living(&self) -> Option<BTreeSet<u64>> {
        let heard = self.heard.iter().map(|info| info.cookie);
        self.is_whole
            .then(|| heard.chain(self.unheard.keys().copied()).collect())
    }

    /// The list, with what a list before says of those that could not be asked now, or looked at. Who is in them is known all the same.
    #[must_use]
    pub fn completed(self, before: &[NamespaceInfo]) -> Vec<NamespaceInfo> {
        let mut list = self.heard;
        if self.is_whole && self.unheard.is_empty() {
            return list;
        }
        let heard: BTreeSet<u64> = list.iter().map(|info| info.cookie).collect();
        // What another has now, who was heard, has moved.
        let moved: BTreeSet<Address> = (list.iter())
            .flat_map(|info| &info.addresses)
            .filter(|address| !is_link_local(address) && !is_loopback(address))
            .copied()
            .collect();
        let numbers: BTreeSet<i32> = list.iter().filter_map(|info| info.number).collect();
        let mut known: BTreeMap<u64, NamespaceInfo> = before
            .iter()
            .filter_map(|info| {
                let cgroups = match self.unheard.get(&info.cookie) {
                    Some(cgroups) => cgroups.clone(),
                    // Tasks are all told: one that only names lead to is empty.
                    None if !self.is_whole && !heard.contains(&info.cookie) => BTreeSet::new(),
                    None => return None,
                };
                let addresses = info.addresses.iter();
                let info = NamespaceInfo {
                    cgroups,
                    addresses: addresses
                        .filter(|address| !moved.contains(*address))
                        .copied()
                        .collect(),
                    // It may have ended, and its number be another's by now.
                    number: info.number.filter(|number| !numbers.contains(number)),
                    ..info.clone()
                };
                Some((info.cookie, info))
            })
            .collect();
        for info in &mut list {
            if let Some(known) = known.remove(&info.cookie) {
                *info = known;
            }
        }
        list.extend(known.into_values());
        let listed: BTreeSet<u64> = list.iter().map(|info| info.cookie).collect();
        let unknown = self.unheard.into_iter();
        list.extend(
            unknown
                .filter(|(cookie, _)| !listed.contains(cookie))
                .map(|(cookie, cgroups)| nothing_but_members(cookie, cgroups)),
        );
        list
    }
}

/// One that was never heard: whose it is, is said all the same. Its inode is asked for only where addresses are.
fn nothing_but_members(cookie: u64, cgroups: BTreeSet<u64>) -> NamespaceInfo {
    NamespaceInfo {
        cookie,
        cgroups,
        is_unheard: true,
        ..NamespaceInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use segd_common::address::mapped;

    use super::*;

    fn info(cookie: u64, last: Option<u8>, cgroups: &[u64]) -> NamespaceInfo {
        NamespaceInfo {
            cookie,
            inode: cookie,
            is_host: cookie == 1,
            number: last.map(i32::from),
            addresses: last.map(|last| mapped([10, 0, 0, last])).into_iter().collect(),
            ends: last.map(i32::from).into_iter().collect(),
            cgroups: cgroups.iter().copied().collect(),
            ..NamespaceInfo::default()
        }
    }

    #[test]
    fn who_could_not_be_heard_stays_what_was_known_and_where_he_is_now() {
        let before = [
            info(1, Some(1), &[]),
            info(2, Some(2), &[20]),
            info(3, Some(3), &[30]),
            info(4, Some(4), &[40]),
            info(5, Some(5), &[50]),
            info(8, Some(9), &[80]),
        ];
        let listed = Listed {
            heard: vec![
                info(1, Some(1), &[]),
                info(3, Some(9), &[30]),
                info(5, None, &[51]),
                info(6, None, &[60]),
            ],
            unheard: [(2, 21), (5, 51), (6, 60), (7, 70), (8, 80)]
                .map(|(cookie, cgroup)| (cookie, [cgroup].into()))
                .into(),
            is_complete: true,
            is_whole: true,
        };
        assert!(listed.lacks_something());
        assert_eq!(listed.living(), Some([1, 2, 3, 5, 6, 7, 8].into()));
        let expected = [
            info(1, Some(1), &[]),
            info(3, Some(9), &[30]),
            info(5, Some(5), &[51]),
            // Of one that was never heard, what little is told.
            info(6, None, &[60]),
            info(2, Some(2), &[21]),
            NamespaceInfo {
                number: None,
                addresses: Vec::new(),
                ..info(8, Some(9), &[80])
            },
            nothing_but_members(7, [70].into()),
        ];
        assert_eq!(listed.completed(&before), expected);
    }

    #[test]
    fn a_list_that_not_every_name_was_looked_at_for_ends_nothing() {
        let listed = Listed {
            heard: vec![info(1, Some(1), &[]), info(2, Some(2), &[20])],
            unheard: BTreeMap::from([(3, [31].into())]),
            is_complete: true,
            is_whole: false,
        };
        assert!(listed.lacks_something());
        assert_eq!(listed.living(), None);
        let before = [2, 3, 4].map(|cookie| info(cookie, Some(cookie as u8), &[cookie * 10]));
        let expected = [
            info(1, Some(1), &[]),
            info(2, Some(2), &[20]),
            info(3, Some(3), &[31]),
            info(4, Some(4), &[]),
        ];
        assert_eq!(listed.completed(&before), expected);
    }

    #[test]
    fn an_address_that_another_has_now_is_not_kept_for_who_cannot_be_heard() {
        let loopback = mapped([127, 0, 0, 1]);
        let with_loopback = |mut info: NamespaceInfo| {
            info.addresses.push(loopback);
            info
        };
        let listed = Listed {
            heard: vec![info(1, Some(1), &[]), with_loopback(info(3, Some(2), &[30]))],
            unheard: BTreeMap::from([(2, [20].into())]),
            is_complete: true,
            is_whole: true,
        };
        let list = listed.completed(&[with_loopback(info(2, Some(2), &[20]))]);
        assert_eq!(list[2].cookie, 2);
        assert_eq!(list[2].addresses, [loopback]);
    }

    #[test]
    fn a_list_that_lacks_nothing_is_taken_as_it_is() {
        let listed = Listed {
            heard: vec![info(1, Some(1), &[]), info(2, None, &[20])],
            unheard: BTreeMap::new(),
            is_complete: true,
            is_whole: true,
        };
        let expected = listed.heard.clone();
        assert!(!listed.lacks_something());
        assert_eq!(
            listed.completed(&[info(2, Some(2), &[20]), info(3, Some(3), &[])]),
            expected
        );
        let torn = Listed {
            is_whole: true,
            ..Listed::default()
        };
        assert!(torn.lacks_something());
    }
}
