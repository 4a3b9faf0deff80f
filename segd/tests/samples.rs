//! The samples that people copy: each is right, says nothing doubtful, and means what its comments promise.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what must hold")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use segd::{
    policy::{
        compile::compile, compiled::SegmentIndexes, diagnostic::Style, explain::explain, model::Policy, port,
    },
    source,
};

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

#[track_caller]
fn load(path: &Path) -> (Policy, SegmentIndexes) {
    let loaded =
        source::load(&[path.to_owned()], false, &source::Trust::Everybody).and_then(source::Loaded::tested);
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => panic!("{}", error.render(Style::Plain)),
    };
    assert!(
        loaded.warnings.is_empty(),
        "{}",
        loaded.render_warnings(Style::Plain)
    );
    let mut indexes = SegmentIndexes::default();
    indexes.allocate(&loaded.policy, &BTreeSet::new()).expect("fits");
    compile(&loaded.policy, &indexes, None).expect("fits");
    (Arc::unwrap_or_clone(loaded.policy), indexes)
}

/// Each line: from, to, port, verdict, reason.
#[track_caller]
fn means(sample: &str, expectations: &str) {
    let (policy, indexes) = load(&samples().join(sample));
    for line in expectations.lines().filter(|line| !line.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [from, to, asked, verdict, reason] = words.as_slice() else {
            panic!("{line}")
        };
        let service = port::parse_one(asked).expect("a port");
        let answer = explain(&policy, &indexes, None, from, to, service).expect("known segments");
        assert_eq!(
            (answer.outcome.label(), answer.reason.label()),
            (*verdict, *reason),
            "{sample}: {line}"
        );
    }
}

#[test]
fn every_sample_is_right_and_beyond_doubt() {
    for (folder, least, tested) in [(samples(), 5, false), (samples().join("cookbook"), 10, true)] {
        let mut count = 0;
        for entry in fs::read_dir(folder).expect("samples") {
            let path = entry.expect("a sample").path();
            if path.is_file() {
                let (policy, _) = load(&path);
                assert!(
                    !tested || policy.tests.len() >= 3,
                    "{} says what it is meant to do",
                    path.display()
                );
                count += 1;
            }
        }
        assert!(count >= least, "{count} samples");
    }
}

#[test]
fn first_steps_keeps_two_services_apart() {
    means(
        "first-steps.yaml",
        "web    cache  tcp/6379  allowed  rule
         cache  web    tcp/80    denied   no-rule
         cache  web    tcp/6379  denied   no-rule
         web    web    tcp/80    allowed  intra
         world  web    tcp/443   allowed  rule
         world  cache  tcp/6379  denied   no-rule
         host   web    tcp/80    allowed  rule
         host   cache  tcp/6379  denied   no-rule
         web    host   udp/53    allowed  rule
         web    host   tcp/22    denied   no-rule
         web    world  tcp/443   denied   no-rule
         host   world  tcp/443   allowed  host-default
         world  host   tcp/22    allowed  host-default",
    );
}

#[test]
fn three_tier_lets_nobody_skip_a_tier() {
    means(
        "three-tier.yaml",
        "world  front  tcp/443   allowed  rule
         world  app    tcp/8080  denied   no-rule
         world  data   tcp/5432  denied   no-rule
         front  app    tcp/8080  allowed  rule
         front  data   tcp/5432  denied   no-rule
         app    data   tcp/5432  allowed  rule
         data   app    tcp/8080  denied   no-rule
         data   data   tcp/5432  denied   no-rule
         app    app    tcp/8080  allowed  intra
         app    world  tcp/443   allowed  rule
         dev    data   tcp/5432  denied   guardrail
         dev    front  tcp/443   denied   guardrail
         data   dev    tcp/22    denied   guardrail
         dev    world  tcp/443   allowed  rule
         data   world  tcp/443   denied   no-rule
         front  host   udp/53    allowed  rule",
    );
}

#[test]
fn host_services_enforces_the_host_and_keeps_ssh() {
    means(
        "host-services.yaml",
        "admin-net  sshd      tcp/22                allowed  rule
         admin-net  host      tcp/22                allowed  rule
         world      sshd      tcp/22                denied   no-rule
         world      host      tcp/22                denied   no-rule
         world      resolver  udp/53                allowed  rule
         host       resolver  tcp/53                allowed  rule
         resolver   world     udp/53                allowed  rule
         resolver   world     tcp/443               denied   no-rule
         host       host      tcp/8080              allowed  rule
         host       world     tcp/443               allowed  rule
         host       world     tcp/25                denied   no-rule
         world      host      icmp/echo-request     allowed  rule
         host       world     icmpv6/echo-request   allowed  rule
         world      host      icmp/redirect         denied   no-rule
         sshd       world     tcp/443               denied   no-rule",
    );
}

#[test]
fn audit_rollout_enforces_between_those_that_are_done() {
    means(
        "audit-rollout.yaml",
        "api     queue   tcp/5672   allowed  rule
         api     queue   tcp/15672  denied   no-rule
         worker  queue   tcp/5672   allowed  rule
         worker  queue   tcp/15672  audited  no-rule
         worker  api     tcp/443    audited  no-rule
         world   worker  tcp/22     audited  no-rule
         world   queue   tcp/5672   denied   no-rule
         world   api     tcp/443    allowed  rule
         worker  world   tcp/443    allowed  rule
         api     world   tcp/443    denied   no-rule",
    );
}

#[test]
fn operators_reach_the_database_and_the_build_machine_does_not() {
    means(
        "operators.yaml",
        "operators  db         tcp/5432  allowed  rule
         operators  db         tcp/22    denied   no-rule
         operators  operators  tcp/9000  denied   no-rule
         ci         db         tcp/5432  denied   guardrail
         ci         web        tcp/443   allowed  rule
         ci         ci         tcp/9000  allowed  intra
         web        db         tcp/5432  allowed  rule
         world      db         tcp/5432  denied   no-rule
         operators  world      tcp/22    allowed  rule
         host       db         tcp/5432  denied   no-rule",
    );
}

#[test]
fn a_sample_that_fails_its_own_tests_is_refused_with_the_rule_that_decides() {
    let text = fs::read_to_string(samples().join("three-tier.yaml")).expect("a sample");
    let opened = text.replace(
        "    - {from: world, to: front,",
        "    - {from: world, to: [data, front],",
    );
    assert_ne!(text, opened);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("three-tier.yaml");
    fs::write(&path, opened).expect("a file");
    let refused = source::load(&[path], false, &source::Trust::Everybody)
        .and_then(source::Loaded::tested)
        .expect_err("must be refused")
        .render(Style::Plain);
    let said = "error[test-failed]: the policy fails its own test: `world` to `data` on tcp/80 is allowed, the test expects `deny`";
    assert!(refused.contains(said), "{refused}");
    assert!(refused.contains("this rule decides"), "{refused}");
}

#[test]
fn the_alerts_that_are_shipped_are_those_of_the_documentation() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("a file");
    let (documented, shipped) = (read("docs/metrics.md"), read("deploy/prometheus/segd.rules.yml"));
    let (_, rules) = shipped.split_once('\n').expect("a comment first");
    assert!(documented.contains(&format!("```yaml\n{rules}```\n")), "{rules}");
}
