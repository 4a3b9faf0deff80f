//! What is learned, in small: names, ports, patches that `patch` and `git apply` take.

use std::{fs, process::Command};

use super::*;
use crate::policy::{
    learn::patch::Patch,
    model::{Action, Policy, Source},
    resolve::resolve,
};
use segd_common::service;

fn proposal() -> Proposal {
    let seen = [("/a", 80), ("/b", 81)].map(|(path, port)| Seen {
        from: Party::Cgroup(path.into()),
        to: Party::Segment("web".into()),
        service: service::port(service::TCP, port),
        flows: 2,
        example: "x -> y at z".into(),
    });
    let ground = Ground {
        taken: ["web".to_owned(), "a".to_owned()].into(),
        ..Ground::default()
    };
    learn(&seen, &ground)
}

fn source(text: &str) -> Source {
    Source {
        name: "dir/p.yaml".into(),
        text: text.into(),
    }
}

#[track_caller]
fn policy_of(text: &str) -> Policy {
    let found = resolve(&[source(text)], false);
    found.unwrap_or_else(|errors| panic!("{errors:?}\n{text}")).0
}

/// What `patch -p1` and `git apply` make of it.
#[track_caller]
fn applied(old: &str, patch: &Patch) {
    for tool in [
        &["patch", "-p1", "-i", "../p.patch"][..],
        &["git", "apply", "../p.patch"],
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let inside = directory.path().join("in");
        fs::create_dir_all(inside.join("dir")).expect("a directory");
        fs::write(inside.join("dir/p.yaml"), old).expect("a file");
        fs::write(
            directory.path().join("p.patch"),
            format!("# a comment above\n{}", patch.unified()),
        )
        .expect("a file");
        let Ok(output) = Command::new(tool[0])
            .args(&tool[1..])
            .current_dir(&inside)
            .output()
        else {
            eprintln!("skipped: no `{}` here", tool[0]);
            continue;
        };
        assert!(
            output.status.success(),
            "{tool:?}: {output:?}\n{}",
            patch.unified()
        );
        let result = fs::read_to_string(inside.join("dir/p.yaml")).expect("a file");
        assert_eq!(result, patch.result(), "{tool:?}\n{}", patch.unified());
    }
}

const HEAD: &str = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: shop}\nspec:\n";

#[test]
fn a_patch_comes_between_the_lines_that_are_there() {
    let bodies = [
        "  segments:\n    web:  # ours\n      match:\n        - cgroup: /web  # here\n  # between\n  allow:\n    - {from: web, to: world, ports: [tcp/1]}  # why\n",
        // The lists the other way round, block style inside, more behind.
        "  allow:\n  - from: web\n    to: world\n    ports:\n      - tcp/1\n  segments:\n      web: {match: [{cgroup: /web}]}\n  deny: []\n",
        // Long enough for two hunks.
        "  segments:\n    web: {match: [{cgroup: /web}]}\n\n\n\n  mode: enforce\n\n\n\n\n  allow:\n    - {from: web, to: world, ports: [tcp/1]}\n\n\n\n\n\n",
        // No newline at the end.
        "  segments:\n    web: {match: [{cgroup: /web}]}\n  allow:\n    - {from: web, to: world, ports: [tcp/1]}",
    ];
    for body in bodies {
        let old = format!("{HEAD}{body}");
        let patch = patch::into_lists(&source(&old), &proposal()).expect("block style");
        let new = patch.result();
        let policy = policy_of(&new);
        assert_eq!(
            policy
                .rules
                .iter()
                .filter(|rule| rule.action == Action::Allow)
                .count(),
            3,
            "{new}"
        );
        assert_eq!(policy.segments.len(), 3, "{new}");
        let mut lines = new.lines();
        for line in old.lines() {
            assert!(
                lines.any(|kept| kept == line),
                "`{line}` is not where it was:\n{new}"
            );
        }
        applied(&old, &patch);
    }
}

#[test]
fn a_patch_becomes_a_document_where_lists_cannot_be_added_to() {
    let old = format!("{HEAD}  segments: {{web: {{match: [{{cgroup: /web}}]}}}}\n  allow: []");
    assert_eq!(patch::into_lists(&source(&old), &proposal()), None);
    let document = proposal().document("learned", &[]);
    let patch = patch::behind(&source(&old), &document);
    let policy = policy_of(&patch.result());
    assert_eq!((policy.segments.len(), policy.rules.len()), (3, 2));
    applied(&old, &patch);
    let beside = patch::beside("dir/new.yaml", &document);
    assert_eq!(beside.result(), document);
    assert!(
        beside
            .unified()
            .starts_with("--- /dev/null\n+++ b/dir/new.yaml\n@@ -0,0 +1,")
    );
}

#[test]
fn taken_names_are_not_given_again() {
    let names: Vec<String> = proposal()
        .segments
        .into_iter()
        .map(|segment| segment.name)
        .collect();
    assert_eq!(names, ["a-2", "b"]);
}

#[test]
fn what_no_rule_can_name_is_left_out() {
    let flow = |service| Seen {
        from: Party::Cgroup("/a".into()),
        to: Party::World,
        service,
        flows: 3,
        example: String::new(),
    };
    let seen = [
        flow(service::port(service::UDPLITE, 7)),
        flow(service::port(service::TCP, 0)),
        flow(service::bare(47)),
    ];
    let proposal = learn(&seen, &Ground::default());
    assert_eq!(proposal.covered, [false, false, true]);
    assert_eq!(proposal.left_out.values().sum::<u64>(), 6);
    assert_eq!(proposal.rules[0].ports, ["ip/47"]);
}

#[test]
fn ports_that_look_chosen_are_listed_and_told_of() {
    let seen: Vec<Seen> = (0..12_u16)
        .map(|n| Seen {
            from: Party::Cgroup("/a".into()),
            to: Party::Cgroup("/b".into()),
            service: service::port(service::TCP, 40_000 + 7 * n),
            flows: 1,
            example: String::new(),
        })
        .collect();
    let proposal = learn(&seen, &Ground::default());
    assert_eq!(proposal.rules[0].ports.len(), 12);
    assert!(
        proposal.rules[0].remarks[0].contains("12 ports"),
        "{:?}",
        proposal.rules
    );
}
