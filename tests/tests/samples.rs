//! The policies people copy: each passes `segd policy check` and is enforced as it stands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use segd_tests::{Lab, segd::binary};

fn samples() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let mut samples: Vec<_> = fs::read_dir(&directory)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    samples.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml")
    });
    samples.sort();
    samples
}

#[test]
fn there_are_samples_to_copy() {
    assert!(samples().len() >= 5, "{:?}", samples());
}

#[test]
fn every_sample_passes_policy_check() {
    for sample in samples() {
        let output = Command::new(binary())
            .args(["policy", "check"])
            .arg(&sample)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}: {}{}",
            sample.display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn every_sample_is_enforced_as_it_stands() {
    let Some(lab) = Lab::open() else { return };
    for sample in samples() {
        // Below a cgroup of its own: a sample that enforces `host` must not cut this machine.
        let root = lab.cgroup("sample");
        let mut segd = lab
            .segd("")
            .policy_path(&sample)
            .args(&["--cgroup-root", root.directory().to_str().unwrap()])
            .start();
        assert!(segd.revision() >= 1, "{}", sample.display());
        assert!(
            segd.client(&["segments"]).status.success(),
            "{}",
            sample.display()
        );
        assert!(segd.terminate().success(), "{}", sample.display());
    }
}
