//! `segd doctor` and `segd run` judge a host alike: what the one misses, the other refuses in the same words.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::process::Command;

use segd_tests::{Lab, segd::Builder};

const POLICY: &str = "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {name: doctor}
spec:
  segments:
    web: {match: [{cgroup: /segd-t-nobody/web}]}
";

/// The exit code and the checks on a host to which `script` was done, as another user if `around` says so.
#[track_caller]
fn doctor(script: &str, around: &[&str]) -> (i32, serde_json::Value) {
    let script = format!("set -e; {script}; exec \"$@\"");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script, "sh"])
        .args(around)
        .arg(segd_tests::segd::binary())
        .args(["doctor", "-o", "json"])
        .output()
        .unwrap();
    let code = output.status.code().expect("it ends by itself");
    let said = String::from_utf8_lossy(&output.stderr);
    let answer = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    (code, answer)
}

fn check<'a>(answer: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let checks = answer["checks"].as_array().expect("a list of checks");
    checks
        .iter()
        .find(|check| check["name"] == name)
        .unwrap_or_else(|| panic!("no check `{name}` in {answer}"))
}

#[test]
fn what_the_doctor_misses_a_start_refuses_in_the_same_words() {
    let Some(lab) = Lab::open() else { return };
    let no_cgroup = format!("umount {}", lab.cgroup_root().display());
    for (name, script) in [
        ("btf", "mount --bind /dev/null /sys/kernel/btf/vmlinux"),
        ("bpffs", "umount /sys/fs/bpf"),
        ("cgroup2", no_cgroup.as_str()),
    ] {
        let (code, answer) = doctor(script, &[]);
        assert_eq!(code, 3, "without {name}: {answer}");
        assert_eq!(answer["state"], "missing", "without {name}: {answer}");
        let missing = check(&answer, name);
        assert_eq!(missing["state"], "missing", "{answer}");
        // The pin directory differs, and stands at its end.
        let found = missing["found"].as_str().unwrap();
        let found = found.split('`').next().unwrap();
        let (status, said) = Builder::new(POLICY).after(script).start_failing();
        assert_eq!(status.code(), Some(3), "{said}");
        assert!(said.contains(found), "`{found}` is not in: {said}");
    }
}

#[test]
fn the_doctor_tells_a_root_that_may_not_from_a_user_who_cannot_know() {
    let Some(_lab) = Lab::open() else { return };
    let bounded = ["setpriv", "--bounding-set", "-bpf,-sys_admin"];
    let (code, answer) = doctor(":", &bounded);
    assert_eq!(code, 3, "{answer}");
    assert_eq!(check(&answer, "privilege")["state"], "missing", "{answer}");
    let nobody = ["setpriv", "--reuid", "65534", "--clear-groups"];
    let (code, answer) = doctor(":", &nobody);
    assert_eq!(code, 1, "{answer}");
    assert_eq!(check(&answer, "privilege")["state"], "unknown", "{answer}");
    assert_eq!(check(&answer, "btf")["state"], "ok", "{answer}");
}

#[test]
fn what_the_doctor_calls_degraded_status_lists() {
    let Some(lab) = Lab::open() else { return };
    // What every kernel can lack: then there is something to list.
    let open = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(open.path(), "0\n").unwrap();
    let script = format!(
        "mount --bind {} /proc/sys/kernel/unprivileged_bpf_disabled",
        open.path().display()
    );
    let (code, answer) = doctor(&script, &[]);
    let degraded: Vec<&serde_json::Value> = answer["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["state"] == "degraded")
        .collect();
    assert_eq!(code, 1, "{answer}");
    assert_eq!(
        check(&answer, "unprivileged-bpf")["state"],
        "degraded",
        "{answer}"
    );
    let segd = lab.segd(POLICY).after(&script).start();
    let status = segd.json(&["status"]);
    for check in degraded {
        let name = check["name"].as_str().unwrap();
        let warnings = status["warnings"].as_array().unwrap();
        assert!(
            warnings
                .iter()
                .any(|warning| warning.as_str().unwrap().starts_with(&format!("{name}: "))),
            "`{name}` is not in {warnings:?}"
        );
    }
}
