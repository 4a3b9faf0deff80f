//! I1 of the bypass catalogue: texts made to exhaust a reader are refused by the program itself, at once and in little memory.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what must hold")]

use std::{
    fmt::Write as _,
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

/// Memory that a refusal may take, in KiB.
const MOST_KIB: i64 = 64 << 10;
/// Processor time that a refusal may take; an unoptimised build is ten times slower.
const MOST_TIME: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });

/// Runs `segd policy check` on a file: it must say no, with a word about why. `wait4` tells what it took.
#[track_caller]
fn refused(path: &Path, why: &str) {
    let what = path.file_name().expect("a name").to_string_lossy().into_owned();
    let said = path.with_extension("said");
    #[allow(
        clippy::zombie_processes,
        reason = "`wait4` below waits for it, and tells more"
    )]
    let child = Command::new(env!("CARGO_BIN_EXE_segd"))
        .args(["policy", "check"])
        .arg(path)
        .stdout(Stdio::null())
        .stderr(File::create(&said).expect("a file"))
        .spawn()
        .expect("segd runs");
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: a child of ours that nobody else waits for; both places are live.
    let waited = unsafe { libc::wait4(child.id() as i32, &raw mut status, 0, usage.as_mut_ptr()) };
    assert_eq!(waited, child.id() as i32, "{what}");
    // SAFETY: zeroed is a valid `rusage`, and the call filled it.
    let usage = unsafe { usage.assume_init() };
    assert!(
        libc::WIFEXITED(status),
        "{what}: ended by signal {}",
        libc::WTERMSIG(status)
    );
    assert_eq!(libc::WEXITSTATUS(status), 2, "{what}: exit code");
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    let took = time(usage.ru_utime) + time(usage.ru_stime);
    assert!(took < MOST_TIME, "{what} took {took:?}");
    assert!(usage.ru_maxrss < MOST_KIB, "{what} took {} KiB", usage.ru_maxrss);
    let said = fs::read_to_string(said).expect("what was said");
    assert!(said.contains(why), "{what}: {said}");
    assert!(
        said.len() < 4096,
        "{what}: {} bytes are no diagnostic",
        said.len()
    );
}

/// A name, how it is made, and what it is refused for.
type Hostile = (&'static str, fn() -> String, &'static str);

#[test]
fn what_was_made_to_exhaust_a_reader_is_refused_at_once_and_in_little_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let texts: [Hostile; 12] = [
        ("depth", || "[".repeat(100_000), "nested too deep"),
        (
            "depth-in-block-style",
            || (0..2500).map(|at| format!("{}a:\n", " ".repeat(at))).collect(),
            "too",
        ),
        (
            "long-scalar",
            || format!("a: {}", "x".repeat(10_000_000)),
            "bytes",
        ),
        (
            "long-scalar-that-is-read",
            || format!("a: {}", "x".repeat(8_000_000)),
            "is missing",
        ),
        (
            "open-quote",
            || format!("a: \"{}", "\\x41".repeat(2_000_000)),
            "unclosed",
        ),
        ("documents", || "---\na\n".repeat(1_000_000), "too large"),
        ("comments", || "# x\n".repeat(2_000_000), "no document"),
        ("items", || format!("[{}]", "a,".repeat(4_000_000)), "too large"),
        ("keys", || format!("{{{}}}", numbered("k", ": 1,")), "too large"),
        ("anchors", || format!("[{}]", numbered("&a", " x,")), "too large"),
        ("alias-of-itself", || "&a [*a]".to_owned(), "alias"),
        ("alias-bomb", bomb, "aliases expand"),
    ];
    for (name, text, why) in texts {
        let path = folder.path().join(format!("{name}.yaml"));
        // Not kept: a child's peak begins with what its parent has when it forks.
        fs::write(&path, text()).expect("a file");
        refused(&path, why);
    }
    let huge = folder.path().join("gibibyte.yaml");
    File::create(&huge)
        .and_then(|file| file.set_len(1 << 30))
        .expect("a sparse file");
    refused(&huge, "8388608 bytes");
    let foreign = folder.path().join("not-utf-8.yaml");
    fs::write(&foreign, b"a: \xff\xfe\n").expect("a file");
    refused(&foreign, "not-utf-8.yaml:1:4");
}

fn numbered(before: &str, after: &str) -> String {
    let mut text = String::new();
    for at in 0..500_000 {
        let _ = write!(text, "{before}{at}{after}");
    }
    text
}

/// Ten of ten of ten, ten levels of it.
fn bomb() -> String {
    let level = |at: usize| {
        format!(
            "a{}: &a{} [{}]\n",
            at + 1,
            at + 1,
            vec![format!("*a{at}"); 10].join(",")
        )
    };
    let levels: String = (0..9).map(level).collect();
    format!("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n{levels}")
}

/// A panic would be 101.
#[test]
fn a_stderr_that_nobody_reads_changes_no_exit_code() {
    let directory = tempfile::tempdir().expect("a directory");
    let policy = directory.path().join("policy.yaml");
    fs::write(&policy, "apiVersion: [").expect("a file");
    for words in [
        &["apply"][..],
        &["run", "--control", "/nonexistent/segd", "--policy"],
    ] {
        let (reader, writer) = std::os::unix::net::UnixStream::pair().expect("a pair");
        drop(reader);
        let status = Command::new(env!("CARGO_BIN_EXE_segd"))
            .args(words)
            .arg(&policy)
            // Said in the log, first of all.
            .env("SEGD_LOG", "=,=")
            .stdout(Stdio::null())
            .stderr(std::os::fd::OwnedFd::from(writer))
            .status()
            .expect("segd runs");
        // 3: without privilege there is nothing to run.
        assert!(matches!(status.code(), Some(2 | 3)), "{words:?}: {status}");
    }
}
