//! Policies that want to be too much: refused at once, in little memory, with a word of why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What BYPASSES.md I1 grants; a build that is not optimised parses ten times slower, on a machine that has other work.
const MOST_TIME: Duration = Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 1 });
const MOST_MEMORY_KIB: u64 = 64 << 10;

/// Runs `segd policy check` on it: exit code 2, words, in time and memory.
#[track_caller]
fn is_refused(what: &str, path: &Path) {
    let begun = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_segd"))
        .args(["policy", "check"])
        .arg(path)
        .env("NO_COLOR", "1")
        .stdout(Stdio::null())
        .stderr(File::create(path.with_extension("said")).unwrap())
        .spawn()
        .unwrap();
    // `ru_maxrss` would count what this process had before the other became segd.
    let mut most = 0;
    let status = loop {
        most = most.max(peak_kib(child.id()));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        // SLEEP: a poll of its memory; what is allocated stays until the end.
        std::thread::sleep(Duration::from_millis(1));
    };
    let took = begun.elapsed();
    let said = fs::read_to_string(path.with_extension("said")).unwrap();
    println!("{what}: {took:?}, {most} KiB");
    assert_eq!(status.code(), Some(2), "{what}: {status}, it said: {said:.500}");
    assert!(said.contains("error"), "{what}: {said:.500}");
    assert!(
        said.len() < 64 << 10,
        "{what}: the answer has {} bytes",
        said.len()
    );
    assert!(took < MOST_TIME, "{what}: {took:?}");
    assert!(most < MOST_MEMORY_KIB, "{what}: {most} KiB");
}

/// The most memory it ever had; 0 if it has ended.
fn peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or(0)
}

#[test]
fn what_wants_to_be_too_much_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);

    let sparse = path("sparse.yaml");
    File::create(&sparse)
        .and_then(|file| file.set_len(1 << 30))
        .unwrap();
    is_refused("a file of a gibibyte", &sparse);

    let bomb: String = (1..30)
        .map(|at| format!("a{at}: &a{at} [*a{0}, *a{0}]\n", at - 1))
        .collect();
    let head = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: x}\nspec:\n  segments: {}\n";
    for (name, text) in [
        ("alias-bomb", format!("a0: &a0 [x]\n{bomb}")),
        ("self-alias", "a: &a [*a]\n".to_owned()),
        ("depth", "[".repeat(100_000)),
        ("closed-depth", "[".repeat(100_000) + &"]".repeat(100_000)),
        (
            "indent",
            (0..2000)
                .map(|depth| format!("{}a:\n", " ".repeat(depth)))
                .collect(),
        ),
        ("scalar", format!("a: {}\n", "x".repeat(10_000_000))),
        (
            "scalar-within-the-limit",
            format!("a: {}\n", "x".repeat(7_000_000)),
        ),
        ("documents", "--- {}\n".repeat(1_000_000)),
        ("keys", (0..200_000).map(|at| format!("k{at}: 1\n")).collect()),
        ("whole-documents", format!("---\n{head}").repeat(20_000)),
    ] {
        let file = path(&format!("{name}.yaml"));
        fs::write(&file, text).unwrap();
        is_refused(name, &file);
    }
}

#[test]
fn too_many_files_and_too_deep_a_directory_are_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let many = directory.path().join("many");
    fs::create_dir(&many).unwrap();
    for number in 0..5000 {
        File::create(many.join(format!("{number}.yaml"))).unwrap();
    }
    is_refused("5000 files", &many);
    let mut deep = directory.path().join("deep");
    for _ in 0..100 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("x.yaml"), "x").unwrap();
    is_refused("a hundred levels", &directory.path().join("deep"));
}
