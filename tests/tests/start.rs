//! What cannot start says why in one clear line, with the right exit code, and attaches nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::PathBuf,
    process::{Command, ExitStatus},
    time::Duration,
};

use segd_tests::{
    Lab, Segd,
    bpf::Objects,
    lab::{BPFFS, PIN_PREFIX},
    segd::Builder,
    wait::{self, PATIENCE},
};

const POLICY: &str = "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {name: start}
spec:
  segments:
    web: {match: [{cgroup: /segd-t-nobody/web}]}
    db: {match: [{cgroup: /segd-t-nobody/db}]}
  allow:
    - {from: web, to: db, ports: [tcp/5432]}
";

/// The exit code is `code`, the reason stands in one line with all of `words`, nothing is attached.
#[track_caller]
fn fails(code: i32, words: &[&str], start: impl FnOnce() -> (ExitStatus, String)) {
    let before = Objects::now();
    let (status, said) = start();
    assert_eq!(status.code(), Some(code), "it said: {said}");
    let clear = said.lines().any(|line| {
        let line = line.to_lowercase();
        words.iter().all(|word| line.contains(&word.to_lowercase()))
    });
    assert!(clear, "no line with {words:?} in: {said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(!said.contains("RUST_BACKTRACE"), "{said}");
    let made = Objects::now().since(&before);
    assert!(
        segd_tests::wait::within(segd_tests::wait::PATIENCE, || made
            .left(&Objects::now())
            .is_empty()),
        "left behind: {:?}",
        made.left(&Objects::now())
    );
}

#[track_caller]
fn lines_of_trouble(said: &str) -> usize {
    said.lines()
        .filter(|line| line.contains("error") || line.contains("ERROR"))
        .count()
}

struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount() -> Tmpfs {
        let directory = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "tmpfs"])
            .arg(directory.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        Tmpfs(directory)
    }

    fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0.path()).output().ok();
    }
}

#[test]
fn who_is_not_root_is_told_so() {
    let Some(_lab) = Lab::open() else { return };
    let directory = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let binary = directory.path().join("segd");
    fs::copy(segd_tests::segd::binary(), &binary).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let policy = directory.path().join("policy.yaml");
    fs::write(&policy, POLICY).unwrap();
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o644)).unwrap();
    fails(3, &["root"], || {
        let output = Command::new(&binary)
            .arg("run")
            .arg("--policy")
            .arg(&policy)
            .args([
                "--pin-dir",
                "/sys/fs/bpf/segd-test-nobody",
                "--metrics",
                "127.0.0.1:0",
            ])
            .arg("--control")
            .arg(directory.path().join("control.sock"))
            .env("NO_COLOR", "1")
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        (
            output.status,
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    });
}

#[test]
fn a_cgroup_root_that_is_no_cgroup2_is_refused() {
    let Some(_lab) = Lab::open() else { return };
    let tmpfs = Tmpfs::mount();
    let path = tmpfs.path();
    fails(3, &["cgroup", path.to_str().unwrap()], || {
        Builder::new(POLICY)
            .args(&["--cgroup-root", path.to_str().unwrap()])
            .start_failing()
    });
}

#[test]
fn a_pin_directory_outside_bpffs_is_refused() {
    let Some(_lab) = Lab::open() else { return };
    let tmpfs = Tmpfs::mount();
    let pins = tmpfs.path().join("pins");
    fails(3, &["bpf", tmpfs.path().to_str().unwrap()], || {
        Builder::new(POLICY).pin_dir(&pins).start_failing()
    });
}

#[test]
fn a_host_without_bpffs_is_told_so() {
    let Some(_lab) = Lab::open() else { return };
    fails(3, &["bpf"], || {
        Builder::new(POLICY).after("umount /sys/fs/bpf").start_failing()
    });
}

#[test]
fn a_host_without_cgroup2_is_told_so() {
    let Some(lab) = Lab::open() else { return };
    let script = format!("umount {}", lab.cgroup_root().display());
    fails(3, &["cgroup2"], || {
        Builder::new(POLICY).after(&script).start_failing()
    });
}

#[test]
fn a_kernel_without_btf_is_told_so() {
    let Some(_lab) = Lab::open() else { return };
    let hide = "mount --bind /dev/null /sys/kernel/btf/vmlinux";
    fails(3, &["btf"], || Builder::new(POLICY).after(hide).start_failing());
}

#[test]
fn a_metrics_address_in_use_is_refused() {
    let Some(_lab) = Lab::open() else { return };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    fails(3, &["in use", &address], || {
        Builder::new(POLICY).metrics(&address).start_failing()
    });
}

#[test]
fn a_control_socket_of_a_living_segd_is_not_taken_over() {
    let Some(lab) = Lab::open() else { return };
    let segd = lab.enforce(POLICY);
    let control = segd.control().to_str().unwrap().to_owned();
    let before = Objects::now();
    // The last --control given wins over the harness' own: start it by hand.
    let output = Command::new(segd_tests::segd::binary())
        .args(["run", "--policy"])
        .arg(segd.policy_path())
        .args([
            "--metrics",
            "none",
            "--pin-dir",
            "/sys/fs/bpf/segd-test-second",
            "--control",
            &control,
        ])
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    fs::remove_dir_all("/sys/fs/bpf/segd-test-second").ok();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let left = Objects::now().since(&before);
    assert!(left.count("link") == 0, "{left:?}");
    assert!(
        segd.client(&["status"]).status.success(),
        "the first one still answers"
    );
}

#[test]
fn a_pin_directory_of_a_living_segd_is_not_taken_over() {
    let Some(lab) = Lab::open() else { return };
    let segd = lab.enforce(POLICY);
    let revision = segd.revision();
    let before = Objects::now();
    // One that starts after all does not stay.
    let output = Command::new("timeout")
        .arg("30")
        .arg(segd_tests::segd::binary())
        .args(["run", "--metrics", "none", "--policy"])
        .arg(segd.policy_path())
        .arg("--pin-dir")
        .arg(segd.pin_dir())
        .arg("--control")
        .arg(segd.directory().join("second.sock"))
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("another segd is running on"), "{said}");
    let new = Objects::now().since(&before);
    assert_eq!(new.count("link"), 0, "{new:?}");
    assert_eq!(segd.revision(), revision);
}

#[test]
fn of_two_that_start_at_once_one_enforces_and_the_other_takes_nothing_away() {
    let Some(_lab) = Lab::open() else { return };
    let directory = format!("{BPFFS}/{PIN_PREFIX}{}-twice", std::process::id());
    // One takes far longer to read its policy than the other to attach everything.
    let rules = (1..20_000).map(|port| format!("    - {{from: web, to: db, ports: [udp/{port}]}}\n"));
    let long: String = [POLICY.to_owned()].into_iter().chain(rules).collect();
    let both = [long.as_str(), POLICY].map(|policy| Builder::new(policy).pin_dir(&directory).launch());
    let winner = wait::wait_for("one of them enforces, and the other is told so", PATIENCE, || {
        let gave_up = |segd: &Segd| segd.log().contains("another segd is running on");
        let enforces = |segd: &Segd| segd.logged_revision().is_some();
        let winner = both.iter().position(enforces)?;
        gave_up(&both[1 - winner]).then_some(winner)
    });
    let winner = &both[winner];
    // Longer than from one look at its pins to the next.
    wait::quiet(Duration::from_secs(2));
    assert!(!winner.log().contains("lost"), "{}", winner.log());
    assert_eq!(
        winner.metric("segd_enforcing", &[]),
        Some(1.0),
        "{}",
        winner.log()
    );
}

#[test]
fn a_policy_that_is_refused_leaves_no_pin_directory() {
    let Some(_lab) = Lab::open() else { return };
    let directory = PathBuf::from(format!("{BPFFS}/{PIN_PREFIX}{}-wrong", std::process::id()));
    let wrong = POLICY.replace("to: db", "to: bd");
    let (status, said) = Builder::new(&wrong).pin_dir(&directory).start_failing();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(!directory.exists(), "{said}");
}

#[test]
fn a_missing_policy_is_refused() {
    let Some(_lab) = Lab::open() else { return };
    let path = "/nonexistent/segd-t-policy.yaml";
    fails(2, &[path], || {
        Builder::new(POLICY).policy_path(path).start_failing()
    });
}

#[test]
fn an_unreadable_policy_is_refused() {
    let Some(_lab) = Lab::open() else { return };
    // Root reads everything; what nobody can read as text is a policy of bytes that are not UTF-8.
    let directory = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
    let path = directory.path().join("policy.yaml");
    fs::write(&path, [0xff, 0xfe, 0x00, 0x80]).unwrap();
    fails(2, &["policy.yaml"], || {
        Builder::new(POLICY).policy_path(&path).start_failing()
    });
}

#[test]
fn an_invalid_policy_is_refused_with_every_error_and_its_place() {
    let Some(_lab) = Lab::open() else { return };
    let text = POLICY.replace("to: db,", "to: dbb,").replace("tcp/5432", "tcp/0");
    let start = || Builder::new(&text).start_failing();
    fails(2, &["policy.yaml:9:"], start);
    let (_, said) = Builder::new(&text).start_failing();
    assert!(
        said.contains("dbb") && said.contains("tcp/0"),
        "both errors at once: {said}"
    );
    assert!(said.contains("help"), "with help: {said}");
}

#[test]
fn that_it_enforces_is_said_however_little_is_to_be_logged() {
    let Some(lab) = Lab::open() else { return };
    for level in ["error", "off", "warn,segd=error"] {
        // The start waits for the line.
        let segd = lab
            .segd(POLICY)
            .after(&format!("export SEGD_LOG={level}; exec \"$@\""))
            .start();
        segd.set_policy(&POLICY.replace("metadata", "# another\nmetadata"));
        wait::wait_until("the reload is told", PATIENCE, || {
            segd.logged_revision() == Some(2)
        });
    }
}

#[test]
fn a_policy_without_a_document_is_refused_unless_allowed() {
    let Some(lab) = Lab::open() else { return };
    let directory = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
    fails(2, &["empty"], || {
        Builder::new("").policy_path(directory.path()).start_failing()
    });
    fails(2, &["empty"], || Builder::new("# nothing\n").start_failing());
    let mut segd = lab
        .segd("")
        .policy_path(directory.path())
        .args(&["--allow-empty"])
        .start();
    assert!(segd.terminate().success());
}

#[test]
fn a_directory_open_to_everybody_is_believed_where_it_is_mounted_read_only_as_a_config_map_is() {
    let Some(lab) = Lab::open() else { return };
    let mount = Tmpfs::mount();
    fs::write(mount.path().join("policy.yaml"), POLICY).unwrap();
    fs::set_permissions(mount.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fails(2, &["may be written by others", "mode 0777"], || {
        Builder::new(POLICY).policy_path(mount.path()).start_failing()
    });
    let remount = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(mount.path())
        .output()
        .unwrap();
    assert!(remount.status.success(), "{remount:?}");
    let mut segd = lab.segd(POLICY).policy_path(mount.path()).start();
    assert!(segd.terminate().success());
}

#[test]
fn every_thread_of_the_daemon_keeps_three_capabilities_and_can_gain_none() {
    let Some(lab) = Lab::open() else { return };
    let segd = lab.enforce(POLICY);
    let threads = fs::read_dir(format!("/proc/{}/task", segd.pid())).unwrap();
    let mut seen = 0;
    for thread in threads.flatten() {
        let status = match fs::read_to_string(thread.path().join("status")) {
            Ok(status) => status,
            // A thread that had something to do may have ended meanwhile.
            Err(_) if !thread.path().exists() => continue,
            Err(error) => panic!("{error}"),
        };
        let line = |name: &str| {
            let found = status.lines().find_map(|line| line.strip_prefix(name));
            found.unwrap().trim_start_matches(':').trim().to_owned()
        };
        // CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF
        for name in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(
                line(name),
                format!("{:016x}", 1_u64 << 12 | 1 << 38 | 1 << 39),
                "{status}"
            );
        }
        for name in ["CapInh", "CapAmb"] {
            assert_eq!(line(name), format!("{:016x}", 0), "{status}");
        }
        assert_eq!(line("NoNewPrivs"), "1");
        seen += 1;
    }
    assert!(seen > 1, "its threads are looked at, too");
}

#[test]
fn a_policy_that_others_may_change_is_neither_started_with_nor_loaded() {
    let Some(lab) = Lab::open() else { return };
    let directory = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
    let file = directory.path().join("policy.yaml");
    fs::write(&file, POLICY).unwrap();
    let shared = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    let given = |user| std::os::unix::fs::chown(&file, Some(user), None).unwrap();
    let start = || Builder::new(POLICY).policy_path(directory.path()).start_failing();
    shared(0o664);
    fails(2, &["policy.yaml", "may be written by others"], start);
    fails(2, &["help: chmod go-w", "policy.yaml"], start);
    shared(0o644);
    given(4711);
    fails(2, &["policy.yaml", "belongs to user 4711"], start);
    let segd = lab
        .segd(POLICY)
        .policy_path(directory.path())
        .args(&["--policy-owner", "4711"])
        .start();
    given(4712);
    fs::write(&file, POLICY.replace("5432", "5433")).unwrap();
    let output = segd.client(&["reload"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(segd.revision(), 1, "what is in force stays in force");
    given(0);
    assert!(segd.client(&["reload"]).status.success());
    assert!(segd.revision() > 1);
}

#[test]
fn a_cgroup_root_below_the_mount_governs_what_is_below_it_and_nothing_else() {
    let Some(lab) = Lab::open() else { return };
    let root = lab.cgroup("root");
    let (inner, twin) = (root.child("web"), lab.cgroup("twin"));
    let segd = lab
        .segd(&format!(
            "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: below}}
spec:
  segments:
    web: {{match: [{{cgroup: /web}}]}}
    twin: {{match: [{{cgroup: {}}}]}}
  allow: []
",
            twin.path()
        ))
        .args(&["--cgroup-root", root.directory().to_str().unwrap()])
        .start();
    let outside = lab.cgroup("outside");
    let server = lab.worker(&outside);
    let listener = server.listen_tcp((std::net::Ipv4Addr::LOCALHOST, 0));
    let (member, other) = (lab.worker(&inner), lab.worker(&twin));
    assert_ne!(
        member
            .probe(segd_tests::Kind::Tcp, listener.local, "member;")
            .result,
        "ok"
    );
    assert_eq!(
        other
            .probe(segd_tests::Kind::Tcp, listener.local, "other;")
            .result,
        "ok"
    );
    assert_eq!(server.inbox(listener).accepts, 1, "segd said:\n{}", segd.log());
    assert_eq!(
        segd.metric("segd_enforcing", &[]),
        Some(1.0),
        "it enforces what it was given:\n{}",
        segd.log()
    );
}

#[test]
fn a_refusal_is_one_line_of_trouble() {
    let Some(_lab) = Lab::open() else { return };
    let (_, said) = Builder::new(POLICY)
        .policy_path("/nonexistent/segd-t")
        .start_failing();
    assert!(lines_of_trouble(&said) <= 1, "{said}");
}
