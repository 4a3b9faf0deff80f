//! A guard against quadratic surprises: large policies resolve and compile in milliseconds.
//!
//! `cargo test --release -p segd --test speed -- --nocapture` prints the times. The bounds are generous
//! enough for an unoptimised build on a busy machine.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what must hold")]

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    time::{Duration, Instant},
};

use segd::{
    policy::{
        compile::compile,
        compiled::{CompiledTables, SegmentIndexes},
        diff::{Side, diff},
        document::tree,
        model::{Policy, Source},
        resolve::resolve,
    },
    workload::selector::moves::moves,
};

/// A policy of some segments and rules; `rule` gives the ends and ports of each.
fn source(segments: usize, rules: usize, deny: usize, rule: impl Fn(usize) -> String) -> Source {
    let mut text = String::from(
        "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: large}\nspec:\n  segments:\n",
    );
    for number in 0..segments {
        let (a, b) = (number / 256, number % 256);
        let _ = writeln!(
            text,
            "    s{number}: {{labels: {{tier: t{}}}, match: [{{cgroup: /s/{number}}}, {{cidr: 10.{a}.{b}.0/24}}]}}",
            number % 10
        );
    }
    for (list, count) in [("allow", rules - deny), ("deny", deny)] {
        let _ = writeln!(text, "  {list}:");
        for number in 0..count {
            let _ = writeln!(text, "    - {}", rule(number));
        }
    }
    Source {
        name: "large.yaml".to_owned(),
        text: text.into(),
    }
}

#[track_caller]
fn measure(what: &str, source: Source, bound: Duration) {
    let sources = [source];
    let start = Instant::now();
    let parsed = tree::parse(0, &sources[0]).is_ok();
    let parse = start.elapsed();
    assert!(parsed, "{what} is YAML");
    let start = Instant::now();
    let (policy, warnings) = resolve(&sources, false).expect("the policy is right");
    let resolved = start.elapsed();
    let start = Instant::now();
    let mut indexes = SegmentIndexes::default();
    indexes.allocate(&policy, &BTreeSet::new()).expect("fits");
    let tables = compile(&policy, &indexes, None).expect("fits");
    let compiled = start.elapsed();
    println!(
        "{what}: {} bytes, parse {parse:?}, parse and resolve {resolved:?}, compile {compiled:?}; \
         {} warnings, {} ranges in lists, {} cells",
        sources[0].text.len(),
        warnings.len(),
        tables.ranges,
        tables.cells
    );
    assert!(
        resolved + compiled < bound,
        "{what} took {:?}",
        resolved + compiled
    );
}

#[test]
fn a_thousand_rules_between_two_hundred_segments_take_milliseconds() {
    let bound = Duration::from_secs(3);
    let pair = |number: usize| {
        format!(
            "{{from: s{}, to: s{}, ports: [tcp/{}]}}",
            number % 200,
            number * 7 % 200,
            1000 + number % 50
        )
    };
    measure("one to one", source(200, 1000, 20, pair), bound);
    let any = |number: usize| format!("{{from: any, to: any, ports: [tcp/{}]}}", 1 + number);
    measure("any to any", source(200, 1000, 20, any), bound);
    let any = |number: usize| {
        format!(
            "{{from: any, to: s{}, ports: [tcp/{}]}}",
            number % 200,
            1 + number
        )
    };
    measure("any to one", source(200, 1000, 20, any), bound);
    let labels = |number: usize| {
        format!(
            "{{from: {{tier: t{}}}, to: {{tier: t{}}}, ports: [tcp/{}]}}",
            number % 10,
            number / 10 % 10,
            1 + number
        )
    };
    measure("labels", source(200, 1000, 20, labels), bound);
    let lists = |number: usize| {
        let list = |step: usize| {
            (0..8)
                .map(|at| format!("s{}", (number * step + at * 23) % 200))
                .collect::<Vec<_>>()
                .join(", ")
        };
        format!(
            "{{from: [{}], to: [{}], ports: [tcp/{}]}}",
            list(3),
            list(11),
            443 + number % 5
        )
    };
    measure("lists", source(200, 1000, 20, lists), bound);
}

#[test]
fn a_full_host_compiles_in_a_second() {
    let pair = |number: usize| {
        format!(
            "{{from: s{}, to: s{}, ports: [tcp/{}]}}",
            number % 1020,
            number * 7 % 1020,
            1000 + number % 50
        )
    };
    measure(
        "1,020 segments, 10,000 rules",
        source(1020, 10_000, 100, pair),
        Duration::from_secs(30),
    );
}

#[test]
fn two_policies_of_ten_thousand_rules_are_compared_in_less_than_a_second() {
    let policy = |step: usize| -> (Policy, CompiledTables) {
        let pair = |number: usize| {
            let (from, to) = (number % 1020, number * step % 1020);
            format!(
                "{{from: s{from}, to: s{to}, ports: [tcp/{}]}}",
                1000 + number % 50
            )
        };
        let (policy, _) = resolve(&[source(1020, 10_000, 100, pair)], false).expect("the policy is right");
        let mut indexes = SegmentIndexes::default();
        indexes.allocate(&policy, &BTreeSet::new()).expect("fits");
        let tables = compile(&policy, &indexes, None).expect("fits");
        (policy, tables)
    };
    let (old, new) = (policy(7), policy(11));
    for (what, new, expected) in [("of the same", &old, false), ("of another", &new, true)] {
        let start = Instant::now();
        let moves = moves(&old.1, &new.1).expect("fits");
        let found = diff(
            Side {
                policy: &old.0,
                tables: &old.1,
            },
            Side {
                policy: &new.0,
                tables: &new.1,
            },
            moves,
        );
        let took = start.elapsed();
        println!("diff {what}: {took:?}, {} entries", found.entries.len());
        assert_eq!(!found.entries.is_empty(), expected, "{what}");
        let bound = Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 1 });
        assert!(took < bound, "diff {what} took {took:?}");
    }
}
