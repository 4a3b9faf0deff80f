//! Whose namespaces stay from one policy to the next.

use segd_common::{
    address::{NAMESPACE_DENIED, NAMESPACE_LIVED, NAMESPACE_MANAGED, NAMESPACE_SINGLE, mapped},
    workload::ORPHANED,
};

use super::*;
use crate::policy::{compile::compile, compiled::SegmentIndexes, model::Policy, testing::policy_of};

const FLAGS: u16 = NAMESPACE_SINGLE | NAMESPACE_MANAGED | NAMESPACE_LIVED;

fn of(segment: SegmentIndex) -> Whose {
    Whose {
        segment,
        flags: FLAGS,
    }
}

fn indexes(names: &[(&str, SegmentIndex)]) -> SegmentIndexes {
    let names = names.iter().map(|(name, index)| ((*name).to_owned(), *index));
    SegmentIndexes {
        by_name: Arc::new(names.collect()),
        ..SegmentIndexes::default()
    }
}

#[test]
fn a_segment_that_left_the_policy_is_denied_and_one_that_is_given_up_is_nobodys() {
    let known = indexes(&[("web", 4), ("db", 5)]);
    let names = Names::of(&known);
    let mut policy = policy_of("{db: {match: [{cgroup: /db}]}}", "[]", "[]");
    let tables = |policy: &Policy| compile(policy, &known, None).expect("compiles");
    let without = tables(&policy);
    let denied = Whose {
        segment: 4,
        flags: FLAGS | NAMESPACE_DENIED,
    };
    let gives_up = |segment, tables| gives_up(segment, &names, tables);
    assert!(!gives_up(4, &without) && !gives_up(5, &without));
    assert_eq!(told(of(4), &without), denied);
    assert_eq!(told(of(5), &without), of(5));
    policy.release.insert("web".to_owned());
    let released = tables(&policy);
    assert!(gives_up(4, &released) && !gives_up(5, &released));
    assert!(!gives_up(HOST, &released) && !gives_up(NONE, &released));
}

#[test]
fn what_several_share_is_nobodys_once_all_of_them_are_given_up() {
    let known = indexes(&[("web", 4), ("db", 5), ("cache", 6)]);
    let names = Names::of(&known);
    let mut policy = policy_of("{cache: {match: [{cgroup: /cache}]}}", "[]", "[]");
    policy.release.extend(["web".to_owned(), "db".to_owned()]);
    let tables = compile(&policy, &known, None).expect("compiles");
    let gives_up = |there: &[SegmentIndex]| {
        let there = there.iter().map(|segment| Identity {
            segment: *segment,
            flags: if *segment == HOST { 0 } else { ORPHANED },
        });
        gives_all_up(there, &names, &tables)
    };
    assert!(gives_up(&[4, 5]) && gives_up(&[HOST, 4]));
    assert!(!gives_up(&[4, 6]) && !gives_up(&[4, NONE]));
    assert!(!gives_up(&[HOST]) && !gives_up(&[]), "they have left");
}

#[test]
fn what_a_slot_says_is_what_the_slot_before_says() {
    let entry = |owner, flags| Namespace {
        owner,
        flags,
        claimed: [NONE; 2],
    };
    let table = BTreeMap::from([
        (11, entry([4, 5], [FLAGS, FLAGS])),
        (12, entry([HOST, 5], [0, FLAGS])),
        (13, entry([HOST, HOST], [0, 0])),
    ]);
    let mut former = Former::of(&table, kernel::Namespace::Cookie(1));
    let said = |former: &Former, slot| [11, 12, 13].map(|cookie| former.at(cookie, slot).lasts);
    assert_eq!(said(&former, 0), [Some(of(4)), None, None]);
    assert_eq!(said(&former, 1), [Some(of(5)), Some(of(5)), None]);
    former.hand_on(Some(0), 1, |_, _| true);
    assert_eq!(said(&former, 1), [Some(of(4)), None, None]);
    assert_eq!(former.segments(1).collect::<Vec<_>>(), [4]);
    let mut visited = Past::of(Some(of(5)));
    (visited.is_claimed, visited.before) = (true, Some(of(4)));
    former.note(12, 1, visited);
    assert_eq!(former.segments(1).collect::<Vec<_>>(), [4, 5, 4]);
    assert_eq!(former.left(1), 1, "who is there has not left");
    former.hand_on(Some(1), 0, |cookie, whose| cookie != 11 && whose.segment == 4);
    assert_eq!(said(&former, 0), [None; 3]);
    assert_eq!(former.at(12, 0).before, Some(of(4)));
    former.hand_on(None, 1, |_, _| true);
    assert_eq!(said(&former, 1), [None; 3], "nothing is in force");
    former.note(11, 0, Past::of(Some(of(4))));
    assert_eq!(former.left(0), 1);
    former.keep(&BTreeSet::from([12]));
    assert_eq!(former.at(11, 0), Past::default(), "its number dies with it");
}

#[test]
fn whose_addresses_are_not_known_no_address_is_ruled_out() {
    let known = indexes(&[("web", 4)]);
    let policy = policy_of("{web: {match: [{cidr: 10.0.0.0/8}]}}", "[]", "[]");
    let tables = compile(&policy, &known, None).expect("compiles");
    let of = |addresses: &[[u8; 4]]| NamespaceInfo {
        cookie: 7,
        addresses: addresses.iter().copied().map(mapped).collect(),
        ..NamespaceInfo::default()
    };
    let unheard = NamespaceInfo {
        is_unheard: true,
        ..of(&[])
    };
    assert_eq!(claim(&of(&[]), &tables), (NONE, NAMESPACE_PLAIN));
    assert_eq!(claim(&of(&[[10, 0, 0, 5]]), &tables), (4, 0));
    assert_eq!(claim(&of(&[[10, 0, 0, 5], [192, 0, 2, 1]]), &tables), (NONE, 0));
    assert_eq!(claim(&unheard, &tables), (NONE, 0));
}

#[test]
fn nothing_is_remembered_by_a_number_that_another_may_get() {
    let entry = Namespace {
        owner: [4, 4],
        flags: [FLAGS; 2],
        claimed: [NONE; 2],
    };
    let mut former = Former::of(&BTreeMap::from([(11, entry)]), kernel::Namespace::Inode(1));
    former.note(11, 0, Past::of(Some(of(4))));
    assert_eq!(former.at(11, 0), Past::default());
}
