//! `segd policy explain`, asked of the daemon, about workloads that are denied whatever the rules say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::net::Ipv4Addr;

use segd_tests::{Kind, Lab, Segd};

/// Exit code and reason, or what is wrong with the question.
fn explained(segd: &Segd, from: [&str; 2], to: [&str; 2]) -> (Option<i32>, String) {
    let [from_flag, from] = from;
    let [to_flag, to] = to;
    let output = segd.client(&[
        "policy", "explain", from_flag, from, to_flag, to, "--port", "tcp/5432", "-o", "json",
    ]);
    let said = match serde_json::from_slice::<serde_json::Value>(&output.stdout) {
        Ok(answer) => answer["reason"].as_str().unwrap().to_owned(),
        Err(_) => String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    (output.status.code(), said)
}

fn by_path(path: &str) -> [&str; 2] {
    ["--from-cgroup", path]
}

fn to_path(path: &str) -> [&str; 2] {
    ["--to-cgroup", path]
}

#[test]
fn the_daemon_answers_as_the_kernel_decides_and_about_nobody_else() {
    let Some(lab) = Lab::open() else { return };
    let (web, old) = (lab.cgroup("web"), lab.cgroup("old"));
    let mix = lab.unique("mix");
    let policy = |old: &str| {
        format!(
            "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: explained}}
spec:
  segments:
    web: {{match: [{{cgroup: {web}}}]}}
    one: {{match: [{{cgroup: '/{mix}-a*'}}]}}
    two: {{match: [{{cgroup: '/{mix}-*a'}}]}}
{old}  allow:
    - {{from: web, to: web, ports: [any]}}
",
            web = web.path(),
        )
    };
    let segd = lab.enforce(&policy(&format!(
        "    old: {{match: [{{cgroup: {}}}]}}\n",
        old.path()
    )));
    let (friend, orphan) = (lab.worker(&web), lab.worker(&old));
    segd.set_policy(&policy(""));
    // Between two globs of one length nothing decides.
    let torn = segd_tests::Cgroup::create(lab.cgroup_root(), &format!("{mix}-aa"));
    let rival = lab.worker(&torn);

    let (web, old, torn) = (web.path(), old.path(), torn.path());
    assert_eq!(
        explained(&segd, by_path(&web), to_path(&web)),
        (Some(0), "rule".into())
    );
    for (workers, paths, reason) in [
        ([&friend, &orphan], [&web, &old], "orphaned"),
        ([&orphan, &friend], [&old, &web], "orphaned"),
        ([&friend, &rival], [&web, &torn], "ambiguous"),
        ([&rival, &friend], [&torn, &web], "ambiguous"),
        ([&orphan, &rival], [&old, &torn], "orphaned"),
        ([&rival, &orphan], [&torn, &old], "orphaned"),
    ] {
        let listener = workers[1].listen_tcp((Ipv4Addr::LOCALHOST, 0));
        let before = segd.denied();
        assert_ne!(
            workers[0].probe(Kind::Tcp, listener.local, "in vain;").result,
            "ok"
        );
        let counted: Vec<String> = (segd.denied().into_iter())
            .filter(|(why, count)| before.get(why) != Some(count))
            .map(|(why, _)| why)
            .collect();
        assert_eq!(counted, [reason], "the kernel, {paths:?}");
        let said = explained(&segd, by_path(paths[0]), to_path(paths[1]));
        assert_eq!(said, (Some(1), reason.into()), "{paths:?}");
        assert!(!workers[1].inbox(listener).has("in vain;"));
    }

    // What leads nowhere is a mistake, whoever the other one is.
    for known in [&web, &old, &torn] {
        let below = format!("{known}/nowhere");
        for nowhere in ["/segd-t-nowhere", &below, "/..", "/./"] {
            for said in [
                explained(&segd, by_path(known), to_path(nowhere)),
                explained(&segd, by_path(nowhere), to_path(known)),
            ] {
                assert_eq!(said.0, Some(2), "{known} and {nowhere}: {}", said.1);
                assert!(said.1.contains(nowhere), "{}", said.1);
            }
        }
        for said in [
            explained(&segd, by_path(known), ["--to", "nobody"]),
            explained(&segd, ["--from", "nobody"], to_path(known)),
        ] {
            assert!(
                said.0 == Some(2) && said.1.contains("`nobody`"),
                "{known}: {said:?}"
            );
        }
    }
}

/// The path of a process begins at the mount, the daemon's at its root.
#[test]
fn a_process_is_found_below_the_daemons_root_and_nobody_else_is_taken_for_its_host() {
    let Some(lab) = Lab::open() else { return };
    let (tenant, other) = (lab.cgroup("tenant"), lab.cgroup("other"));
    let (web, same) = (tenant.child("web"), other.child("web"));
    let (inside, outside) = (lab.worker(&web), lab.worker(&same));
    let root = lab.cgroup_root().join(tenant.path().trim_start_matches('/'));
    let policy = "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {name: explained}
spec:
  segments:
    web: {match: [{cgroup: /web}]}
  allow:
    - {from: web, to: web, ports: [any]}
";
    let segd = lab.segd(policy);
    let segd = segd.args(&["--cgroup-root", root.to_str().unwrap()]).start();
    let asked = |pid: u32| explained(&segd, ["--from-pid", &pid.to_string()], to_path("/web"));
    assert_eq!(asked(inside.pid()), (Some(0), "rule".into()));
    let (code, said) = asked(outside.pid());
    assert!(code == Some(2) && said.contains(&same.path()), "{code:?}: {said}");
}
