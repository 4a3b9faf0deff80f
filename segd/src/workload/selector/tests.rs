//! Classification against an independent oracle.

use std::collections::BTreeSet;

use proptest::prelude::*;
use segd_common::{
    matching::child_flags,
    segment::FIRST_SEGMENT,
    workload::{CGROUP_UNIT, MAX_UNIT_PATTERNS},
};

use super::*;
use crate::policy::{compiled::SelectorInfo, model::Location};

/// A component of a path and whether root created it.
type Step = (String, bool);

fn path_kind(path: &str) -> SelectorKind {
    SelectorKind::Cgroup(
        path.split('/')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect(),
    )
}

fn unit_kind(unit: &str) -> SelectorKind {
    SelectorKind::Systemd(unit.to_owned())
}

fn tables_of(selectors: &[(u16, SelectorKind)]) -> CompiledTables {
    let location = Location {
        file: "p.yaml".into(),
        line: 1,
        column: 1,
    };
    let selectors = selectors.iter().map(|(segment, kind)| SelectorInfo {
        segment: *segment,
        kind: kind.clone(),
        location: location.clone(),
    });
    CompiledTables {
        selectors: std::sync::Arc::new(selectors.collect()),
        ..CompiledTables::default()
    }
}

fn compile(selectors: &[(u16, SelectorKind)]) -> SelectorTables {
    SelectorTables::compile(&tables_of(selectors), 7, &|name| {
        (name == "alice").then_some(1000)
    })
    .unwrap()
}

/// The path below the root with all flags worked out.
fn flagged(path: &[Step]) -> Vec<(&[u8], u16)> {
    let mut flags = 0;
    let mut result = Vec::new();
    for (name, by_root) in path {
        flags = child_flags(flags, *by_root, &Name::new(name.as_bytes()));
        result.push((name.as_bytes(), flags));
    }
    result
}

fn by_root(path: &str) -> Vec<Step> {
    path.split('/')
        .filter(|part| !part.is_empty())
        .map(|part| (part.to_owned(), true))
        .collect()
}

fn classified(tables: &SelectorTables, path: &str) -> Identity {
    tables.classify_path(&flagged(&by_root(path))).identity
}

/// The kernel's way: from a slot the daemon wrote, component by component.
fn born(tables: &SelectorTables, path: &[(&[u8], u16)], known: usize) -> Identity {
    let (above, below) = path.split_at(known);
    let start = above.iter().fold(tables.root_position(), |at, (name, flags)| {
        tables.descend(&at, *flags, name)
    });
    let end = below
        .iter()
        .fold((start.slot, start.path_len), |(slot, len), (name, flags)| {
            let name = Name::new(name);
            (
                classify(tables, &slot, len, *flags, &name),
                child_path_len(len, &name),
            )
        });
    end.0.identity
}

/// The oracle: every selector that matches this cgroup or an ancestor; the longest literal wins.
mod oracle {
    use super::*;

    fn stars(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|skip| stars(rest, &text[skip..])),
            Some((first, rest)) => text.first() == Some(first) && stars(rest, &text[1..]),
        }
    }

    fn like(pattern: &str, text: &str) -> bool {
        stars(
            &pattern.chars().collect::<Vec<_>>(),
            &text.chars().collect::<Vec<_>>(),
        )
    }

    fn components(pattern: &[String], path: &[Step]) -> bool {
        match pattern.split_first() {
            None => path.is_empty(),
            Some((first, rest)) if first == "**" => {
                (0..=path.len()).any(|skip| components(rest, &path[skip..]))
            }
            Some((first, rest)) => {
                path.first().is_some_and(|(name, _)| like(first, name)) && components(rest, &path[1..])
            }
        }
    }

    fn text_len(path: &[Step]) -> usize {
        path.iter()
            .map(|(name, _)| {
                1 + if name.len() > WHOLE_LEN {
                    NAME_LEN
                } else {
                    name.len()
                }
            })
            .sum()
    }

    fn written(text: &str) -> usize {
        text.replace('*', "").len()
    }

    /// The literal length with which a selector matches exactly this cgroup.
    fn literal(kind: &SelectorKind, path: &[Step]) -> Option<usize> {
        let units: Vec<String> = match kind {
            SelectorKind::Cgroup(pattern) => {
                let mut pattern = pattern.clone();
                while pattern.last().is_some_and(|last| last == "**") {
                    pattern.pop();
                }
                let len = pattern.iter().map(|component| 1 + written(component)).sum();
                return components(&pattern, path).then_some(len);
            }
            SelectorKind::Systemd(unit) => match unit.strip_suffix(".service") {
                Some(stem) => vec![unit.clone(), format!("{stem}.socket")],
                None => vec![unit.clone()],
            },
            SelectorKind::UserId(id) => vec![format!("user-{id}.slice")],
            SelectorKind::UserName(_) | SelectorKind::Cidr { .. } => vec![],
        };
        let ((name, _), above) = path.split_last()?;
        let unit_above = above.iter().any(|(name, _)| {
            name.ends_with(".service") || name.ends_with(".scope") || name.len() > WHOLE_LEN
        });
        if unit_above || path.iter().any(|(_, by_root)| !by_root) {
            return None;
        }
        units
            .iter()
            .filter(|unit| like(unit, name))
            .map(|unit| text_len(above) + 1 + written(unit))
            .max()
    }

    /// The segment, or `None` if two claim with equal right.
    pub fn classify(selectors: &[(u16, SelectorKind)], path: &[Step]) -> Option<u16> {
        let mut claims = BTreeSet::new();
        for depth in 0..=path.len() {
            for (segment, kind) in selectors {
                if let Some(len) = literal(kind, &path[..depth]) {
                    claims.insert((len, *segment));
                }
            }
        }
        let Some((longest, _)) = claims.last() else {
            return Some(HOST);
        };
        let winners: Vec<u16> = claims
            .iter()
            .filter(|(len, _)| len == longest)
            .map(|(_, segment)| *segment)
            .collect();
        (winners.len() == 1).then(|| winners[0])
    }
}

fn agrees(identity: Identity, expected: Option<u16>) -> bool {
    match expected {
        Some(segment) => identity == Identity::of(segment),
        None => identity.flags == AMBIGUOUS,
    }
}

const NAMES: [&str; 12] = [
    "a",
    "b",
    "ab",
    "shop",
    "a.service",
    "ab.service",
    "a.socket",
    "aab.service",
    "b.scope",
    "a.slice",
    "user-1.slice",
    "user-2.slice",
];

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        10 => prop::sample::select(NAMES[..4].to_vec()).prop_map(str::to_owned),
        10 => prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned),
        1 => Just("l".repeat(WHOLE_LEN)),
        1 => Just(format!("{}.service", "l".repeat(WHOLE_LEN - 7))),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((names(), prop::bool::weighted(0.9)), 0..6)
}

fn literal_kinds() -> impl Strategy<Value = SelectorKind> {
    let units = ["a*.service", "*b.service", "*.slice", "a*", "*", "aa*b.service"];
    prop_oneof![
        prop::collection::vec(names(), 0..4).prop_map(SelectorKind::Cgroup),
        names().prop_map(SelectorKind::Systemd),
        prop::sample::select(units.to_vec()).prop_map(unit_kind),
        (1_u32..4).prop_map(SelectorKind::UserId),
    ]
}

fn all_kinds() -> impl Strategy<Value = SelectorKind> {
    let long = format!("l*{}.service", "l".repeat(UNIT_TAIL));
    let units = [
        "a*b*.service".to_owned(),
        "*a*".to_owned(),
        "**.slice".to_owned(),
        long,
    ];
    let component = prop_oneof![
        4 => names(),
        2 => Just("**".to_owned()),
        2 => prop::sample::select(vec!["*", "a*", "*b*", "*.service"]).prop_map(str::to_owned),
    ];
    prop_oneof![
        2 => literal_kinds(),
        2 => prop::collection::vec(component, 0..5).prop_map(SelectorKind::Cgroup),
        1 => prop::sample::select(units.to_vec()).prop_map(SelectorKind::Systemd),
    ]
}

/// With `.service`, more than a kernel pattern's suffix.
const UNIT_TAIL: usize = 70;

fn segments() -> std::ops::Range<u16> {
    FIRST_SEGMENT..FIRST_SEGMENT + 3
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn without_globs_the_kernel_agrees_with_the_oracle(
        selectors in prop::collection::vec((segments(), literal_kinds()), 0..8),
        path in steps(),
    ) {
        let short: Vec<Step> = path.into_iter().filter(|(name, _)| name.len() <= WHOLE_LEN).collect();
        let selectors: Vec<_> = selectors
            .into_iter()
            .filter(|(_, kind)| !kind.to_string().contains(&"l".repeat(WHOLE_LEN - 7)))
            .collect();
        let identity = born(&compile(&selectors), &flagged(&short), 0);
        prop_assert!(agrees(identity, oracle::classify(&selectors, &short)), "{identity:?}");
    }

    #[test]
    fn the_daemon_agrees_with_the_oracle(
        selectors in prop::collection::vec((segments(), all_kinds()), 0..12),
        path in steps(),
    ) {
        let identity = compile(&selectors).classify_path(&flagged(&path)).identity;
        prop_assert!(agrees(identity, oracle::classify(&selectors, &path)), "{identity:?}");
    }

    #[test]
    fn below_what_the_daemon_classified_the_kernel_is_right_or_pending(
        selectors in prop::collection::vec((segments(), all_kinds()), 0..12),
        path in steps(),
        known in 0_usize..6,
    ) {
        let tables = compile(&selectors);
        prop_assert!(tables.patterns.len() <= MAX_UNIT_PATTERNS);
        let identity = born(&tables, &flagged(&path), known.min(path.len()));
        let right = agrees(identity, oracle::classify(&selectors, &path));
        prop_assert!(right || identity.flags & PENDING != 0, "{identity:?}");
        prop_assert!(identity.flags & PENDING == 0 || tables.can_be_pending());
    }
}

#[test]
fn a_unit_is_found_wherever_it_is_and_takes_its_socket_along() {
    let tables = compile(&[(4, unit_kind("nginx.service")), (5, unit_kind("db@*.service"))]);
    for (path, segment) in [
        ("/system.slice/nginx.service", 4),
        ("/system.slice/nginx.socket", 4),
        ("/other.slice/other-x.slice/nginx.service/worker", 4),
        ("/system.slice/db@1.service", 5),
        ("/system.slice/db@1.socket", 5),
        ("/system.slice/nginx.service/db@1.service", 4),
        ("/machine.slice/machine-x.scope/system.slice/nginx.service", HOST),
    ] {
        assert_eq!(classified(&tables, path), Identity::of(segment), "{path}");
    }
    assert!(!compile(&[(4, unit_kind("nginx.service"))]).can_be_pending());
}

#[test]
fn users_are_their_slices_and_their_managers_choose_no_names() {
    let tables = compile(&[
        (4, SelectorKind::UserName("alice".to_owned())),
        (5, SelectorKind::UserId(1001)),
        (6, SelectorKind::UserName("nobody-knows".to_owned())),
    ]);
    assert_eq!(
        classified(&tables, "/user.slice/user-1000.slice/session-1.scope"),
        Identity::of(4)
    );
    assert_eq!(
        classified(&tables, "/user.slice/user-1001.slice"),
        Identity::of(5)
    );
    let disguised = "/user.slice/user-1000.slice/user@1000.service/user-1001.slice";
    assert_eq!(
        classified(&tables, disguised),
        Identity::of(4),
        "a user manager cannot name itself somebody else"
    );
    assert_eq!(tables.unresolved().collect::<Vec<_>>(), ["nobody-knows"]);
}

#[test]
fn the_same_literal_from_two_segments_is_ambiguous() {
    let same = [(4, path_kind("/shop/web")), (5, path_kind("/shop/web"))];
    assert_eq!(
        classified(&compile(&same), "/shop/web/x"),
        Identity {
            segment: 4,
            flags: AMBIGUOUS
        }
    );
    let mixed = [(4, path_kind("/s.slice/a.service")), (5, unit_kind("a.service"))];
    assert_eq!(
        classified(&compile(&mixed), "/s.slice/a.service").flags,
        AMBIGUOUS
    );
    let agreed = [(4, path_kind("/s.slice/a.service")), (4, unit_kind("a.service"))];
    assert_eq!(
        classified(&compile(&agreed), "/s.slice/a.service"),
        Identity::of(4)
    );
}

#[test]
fn the_rivals_for_an_ambiguous_workload_are_named() {
    let selectors = [
        (4, path_kind("/shop")),
        (4, path_kind("/shop/web")),
        (5, path_kind("/shop/web*")),
        (6, path_kind("/other")),
    ];
    let rivals = |path: &str| rivals(&tables_of(&selectors), &|_| None, &flagged(&by_root(path)));
    assert_eq!(rivals("/shop/web/x"), [2, 3]);
    assert_eq!(rivals("/shop/x"), [1]);
    assert!(rivals("/x").is_empty());
}

#[test]
fn the_root_path_claims_everything_nobody_else_does() {
    let tables = compile(&[(4, path_kind("/")), (5, path_kind("/shop"))]);
    assert_eq!(tables.root.identity, Identity::of(4));
    assert_eq!(classified(&tables, "/x/y"), Identity::of(4));
    assert_eq!(classified(&tables, "/shop"), Identity::of(5));
}

#[test]
fn only_directories_in_which_a_glob_can_match_are_watched() {
    let tables = compile(&[(4, path_kind("/shop/*/db"))]);
    let watched = |path: &str| {
        let path = by_root(path);
        let path = flagged(&path);
        let end = path.iter().fold(tables.root_position(), |at, (name, flags)| {
            tables.descend(&at, *flags, name)
        });
        tables.is_watched(&end, path.last().map_or(0, |(_, flags)| *flags))
    };
    assert!(!watched("/") && watched("/shop") && watched("/shop/x"));
    assert!(!watched("/shop/x/db") && !watched("/shop/x/y") && !watched("/other"));
    let tables = compile(&[(4, unit_kind("a*b*.service"))]);
    let root = tables.root_position();
    assert!(tables.is_watched(&root, 0) && !tables.is_watched(&root, CGROUP_UNIT));
    assert!(!tables.is_watched(&root, CGROUP_UNTRUSTED) && !tables.is_watched(&root, CGROUP_IN_UNIT));
}

#[test]
fn newborns_wait_where_a_glob_could_match_them_and_nowhere_else() {
    let tables = compile(&[(4, path_kind("/shop/*/db")), (5, path_kind("/shop/web"))]);
    let born = |path: &str| born(&tables, &flagged(&by_root(path)), 0);
    assert_eq!(born("/shop"), Identity::of(HOST));
    assert_eq!(born("/other/x/db"), Identity::of(HOST));
    assert_eq!(born("/shop/x").flags, PENDING);
    assert_eq!(born("/shop/x/db").flags, PENDING);
    assert_eq!(
        born("/shop/web"),
        Identity {
            segment: 5,
            flags: PENDING
        }
    );
    let tables = compile(&[(4, path_kind("/*/db"))]);
    assert_eq!(
        classify(&tables, &tables.root, 0, 0, &Name::new(b"x"))
            .identity
            .flags,
        PENDING
    );
}

#[test]
fn more_patterns_than_the_kernel_holds_are_pending_there_and_right_in_the_daemon() {
    let selectors: Vec<_> = (0..40)
        .map(|i| (4 + i, unit_kind(&format!("app{i}-*.service"))))
        .collect();
    let tables = compile(&selectors);
    assert_eq!(tables.patterns.len(), MAX_UNIT_PATTERNS);
    let path = by_root("/system.slice/app39-x.service");
    assert_eq!(born(&tables, &flagged(&path), 1).flags, PENDING);
    assert_eq!(
        classified(&tables, "/system.slice/app39-x.service"),
        Identity::of(43)
    );
    let other = by_root("/system.slice/ssh.service");
    assert_eq!(
        born(&tables, &flagged(&other), 1),
        Identity::of(HOST),
        "others are not held up"
    );
}

#[test]
fn too_many_edges_are_refused() {
    let selectors: Vec<_> = (0..=MAX_EDGES)
        .map(|i| (4, path_kind(&format!("/n{i}"))))
        .collect();
    let location = Location {
        file: "".into(),
        line: 1,
        column: 1,
    };
    let selectors = selectors.into_iter().map(|(segment, kind)| SelectorInfo {
        segment,
        kind,
        location: location.clone(),
    });
    let tables = CompiledTables {
        selectors: std::sync::Arc::new(selectors.collect()),
        ..CompiledTables::default()
    };
    assert!(SelectorTables::compile(&tables, 1, &|_| None).is_err());
}
