//! Whose namespaces stay from one policy to the next.

use segd_common::address::{NAMESPACE_LIVED, NAMESPACE_MANAGED, NAMESPACE_SINGLE};

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
    let orphaned = Whose {
        segment: NONE,
        flags: FLAGS & !NAMESPACE_SINGLE,
    };
    assert!(stays(of(4), &names, &without) && stays(of(5), &names, &without));
    assert_eq!(told(of(4), &without), orphaned);
    assert_eq!(told(of(5), &without), of(5));
    policy.release.insert("web".to_owned());
    let released = tables(&policy);
    assert!(!stays(of(4), &names, &released) && stays(of(5), &names, &released));
    for unnamed in [HOST, NONE] {
        assert!(stays(of(unnamed), &names, &released));
    }
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
    let mut former = Former::of(&table);
    let said = |former: &Former, slot| [11, 12, 13].map(|cookie| former.at(cookie, slot));
    assert_eq!(said(&former, 0), [Some(of(4)), None, None]);
    assert_eq!(said(&former, 1), [Some(of(5)), Some(of(5)), None]);
    former.hand_on(Some(0), 1, |_| true);
    assert_eq!(said(&former, 1), [Some(of(4)), None, None]);
    assert_eq!(former.segments(1).collect::<Vec<_>>(), [4]);
    former.hand_on(Some(1), 0, |whose| whose.segment != 4);
    assert_eq!(said(&former, 0), [None; 3]);
    former.hand_on(None, 1, |_| true);
    assert_eq!(said(&former, 1), [None; 3], "nothing is in force");
    former.note(11, 0, Some(of(4)));
    former.keep(&BTreeSet::from([12]));
    assert_eq!(former.at(11, 0), None, "its number dies with it");
}
