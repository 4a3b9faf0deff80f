//! What is too much, unread, corrupt or full changes no verdict.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use segd_tests::{
    Cgroup, Kind, Lab, Segd, Worker, foreign,
    segd::{binary, write_atomically},
    sys,
    wait::{self, PATIENCE},
    worker::{Handle, probe},
};

/// `web` may reach `db`, `rogue` may not.
struct Scene {
    friend: Worker,
    attacker: Worker,
    server: Worker,
    tcp: Handle,
    udp: Handle,
    web: Cgroup,
    rogue: Cgroup,
    db: Cgroup,
}

impl Scene {
    fn new(lab: &Lab) -> Scene {
        let (web, rogue, db) = (lab.cgroup("web"), lab.cgroup("rogue"), lab.cgroup("db"));
        let (friend, attacker, server) = (lab.worker(&web), lab.worker(&rogue), lab.worker(&db));
        let tcp = server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
        let udp = server.listen_udp((Ipv4Addr::LOCALHOST, 0));
        Scene {
            web,
            rogue,
            db,
            friend,
            attacker,
            server,
            tcp,
            udp,
        }
    }

    /// `more`: lines of segments.
    fn policy(&self, more: &str) -> String {
        format!(
            "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: limits}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    rogue: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
{more}  allow:
    - {{from: [web, host], to: db, ports: [any]}}
",
            self.web.path(),
            self.rogue.path(),
            self.db.path()
        )
    }

    /// The denied is denied and the allowed allowed.
    #[track_caller]
    fn holds(&self, story: &str) {
        let before = self.server.inbox(self.tcp).accepts;
        assert_eq!(
            self.friend.probe(Kind::Tcp, self.tcp.local, "friend;").result,
            "ok",
            "{story}"
        );
        self.attacker.probe(Kind::Tcp, self.tcp.local, "leak;");
        self.attacker.probe(Kind::Udp, self.udp.local, "leak;");
        wait::quiet(wait::SILENCE);
        assert_eq!(self.server.inbox(self.tcp).accepts, before + 1, "{story}");
        assert!(!self.server.inbox(self.udp).has("leak;"), "{story}");
    }
}

fn map(segd: &Segd, name: &str) -> PathBuf {
    let sets = fs::read_dir(segd.pin_dir())
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    let maps = sets.filter(|set| set.file_name().unwrap().to_string_lossy().starts_with("maps_"));
    maps.map(|set| set.join(name))
        .find(|pin| pin.exists())
        .expect("the map is pinned")
}

#[test]
fn a_policy_larger_than_a_table_is_refused_with_numbers_before_anything_is_written() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    let segd = lab.enforce(&scene.policy(""));
    let revision = segd.revision();
    // As files that come at once: a directory that is renamed.
    let segments = |file: u32| -> String {
        (0..16_500)
            .map(|number| {
                format!("    more-{file}-{number}: {{match: [{{cgroup: /nobody/{file}-{number}}}]}}\n")
            })
            .collect()
    };
    let steps = |file: u32| -> String {
        let paths: Vec<String> = (0..33_000)
            .map(|number| format!("{{cgroup: /n{file}/{number}}}"))
            .collect();
        format!("    steps-{file}: {{match: [{}]}}\n", paths.join(", "))
    };
    let too_much: [(&dyn Fn(u32) -> String, _, _); 2] =
        [(&segments, "66003", "65532"), (&steps, "1320", "131072")];
    for (more, needed, available) in too_much {
        let (beside, place) = (segd.directory().join("beside"), segd.policy_path().join("more"));
        fs::create_dir(&beside).unwrap();
        for file in 0..4 {
            let text = format!(
                "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {{name: more-{file}}}\nspec:\n  segments:\n{}",
                more(file)
            );
            fs::write(beside.join(format!("{file}.yaml")), text).unwrap();
        }
        let trace = segd.directory().join("trace");
        let mut strace = Command::new("strace")
            .args([
                "-f",
                "-qq",
                "-e",
                "trace=bpf",
                "-p",
                &segd.pid().to_string(),
                "-o",
            ])
            .arg(&trace)
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is installed");
        wait::wait_until("strace writes", PATIENCE, || {
            fs::metadata(&trace).is_ok_and(|file| file.len() > 0)
        });
        fs::rename(&beside, &place).unwrap();
        let error = wait::wait_for("it is refused", Duration::from_secs(90), || {
            let status = segd.json(&["status"]);
            status["last_reload"]["error"].as_str().map(str::to_owned)
        });
        sys::kill(strace.id(), libc::SIGTERM);
        strace.wait().unwrap();
        assert!(
            error.contains(needed) && error.contains(available),
            "with numbers: {error}"
        );
        let calls = fs::read_to_string(&trace).unwrap();
        assert!(calls.contains("bpf("), "the trace saw the daemon: {calls}");
        assert!(
            !calls.contains("BPF_MAP_UPDATE"),
            "something was written: {calls}"
        );
        assert_eq!(segd.revision(), revision);
        scene.holds(&error);
        fs::remove_dir_all(&place).unwrap();
        wait::wait_until("the mistake is taken back", 4 * PATIENCE, || {
            segd.json(&["status"])["last_reload"]["error"].is_null()
        });
    }
}

#[test]
fn a_cgroup_born_when_the_table_is_full_is_denied_and_a_reload_that_finds_no_room_is_refused() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    let late = lab.unique("late");
    // And one below a segment that may reach `db`.
    let within = format!("{}/late", scene.web.path());
    let more = format!(
        "    late: {{match: [{{cgroup: /{late}}}]}}\n    within: {{match: [{{cgroup: {within}}}]}}\n"
    );
    let segd = lab.enforce(&scene.policy(&more));
    let cgroups = map(&segd, "CGROUPS");
    let taken = foreign::fill(&cgroups).unwrap();
    assert!(taken > 100_000, "the table took {taken} more");
    // By its path it is of `late`, which may nothing. As an unknown child of the root it would be host, which may.
    let newborn = Cgroup::create(lab.cgroup_root(), &late);
    let below = scene.web.child("late");
    for newborn in [&newborn, &below] {
        let outcome = lab.worker(newborn).probe(Kind::Tcp, scene.tcp.local, "late;");
        assert_ne!(outcome.result, "ok", "{}", newborn.path());
    }
    wait::quiet(wait::SILENCE);
    assert!(!scene.server.inbox(scene.tcp).has("late;"));
    scene.holds("the table is full");
    let warnings = segd.json(&["status"])["warnings"].to_string();
    assert!(warnings.contains("cgroup table"), "it is told: {warnings}");
    let used = segd.metric("segd_map_entries", &[("map", "cgroups")]);
    assert_eq!(used, segd.metric("segd_map_capacity", &[("map", "cgroups")]));

    let revision = segd.revision();
    write_atomically(
        &segd.policy_path().join("policy.yaml"),
        &scene.policy(&more).replace("web, host", "rogue, web, host"),
    );
    wait::wait_until("the reload is refused", PATIENCE, || {
        segd.metric("segd_policy_reload_total", &[("result", "failure")]) >= Some(1.0)
    });
    assert_eq!(segd.revision(), revision);
    scene.holds("a reload found no room");
}

/// How many events found no room in the ring, on all CPUs.
fn lost_in_ring(stats: &Path) -> u64 {
    let output = Command::new("bpftool")
        .args(["-j", "map", "lookup", "pinned"])
        .arg(stats)
        .args(["key", "0", "0", "0", "0"])
        .output()
        .expect("bpftool is installed");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("an answer");
    let of_cpu = |value: &serde_json::Value| {
        let bytes = value["value"].as_array().expect("bytes").iter().rev();
        bytes.fold(0, |sum, byte| {
            let digits = byte.as_str().expect("a byte").trim_start_matches("0x");
            sum << 8 | u64::from_str_radix(digits, 16).expect("a byte")
        })
    };
    found["values"].as_array().expect("CPUs").iter().map(of_cpu).sum()
}

#[test]
fn events_that_nobody_reads_are_counted_as_lost_and_change_no_verdict() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    let segd = lab.enforce(&scene.policy(""));
    let lost = segd.metric("segd_events_lost_total", &[]).unwrap();
    let memory = segd.resident_kib();
    sys::kill(segd.pid(), libc::SIGSTOP);
    let mut attempt = probe(Kind::RawUdp, scene.udp.local, "leak;");
    attempt.timeout_ms = 20;
    let task = scene.attacker.hammer(vec![attempt], 2);
    wait::wait_until("30,000 denials unread", Duration::from_secs(60), || {
        scene.attacker.task(task).attempts > 30_000
    });
    // Before that the limit on events per CPU leaves some out, which counts as well.
    let stats = map(&segd, "STATS");
    wait::wait_until("the ring is full", Duration::from_secs(60), || {
        lost_in_ring(&stats) > 1000
    });
    scene.holds("nobody reads the ring");
    let denied = scene.attacker.stop(task).attempts;
    sys::kill(segd.pid(), libc::SIGCONT);
    wait::wait_until("the loss is counted", PATIENCE, || {
        segd.metric("segd_events_lost_total", &[]).unwrap() > lost + 1000.0
    });
    // The counters have no hole: what was sent was counted, whoever read of it.
    let labels = [("from", "rogue"), ("to", "db"), ("verdict", "denied")];
    wait::wait_until("every denial is counted", PATIENCE, || {
        segd.metric("segd_packets_total", &labels).unwrap() >= denied as f64
    });
    let after = segd.resident_kib();
    assert!(
        after < memory + 8192,
        "memory: {memory} KiB before, {after} KiB after"
    );
    scene.holds("afterwards");
}

#[test]
fn a_policy_that_is_corrupt_at_a_start_leaves_the_last_one_in_force_and_the_start_says_where() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    let mut segd = lab.enforce(&scene.policy(""));
    let file = segd.policy_path().join("policy.yaml");
    segd.kill();
    for text in ["apiVersion: [", "\u{0}\u{0}\u{0}", &scene.policy("")[..90]] {
        fs::write(&file, text).unwrap();
        let (status, said) = segd.restart_failing();
        assert_eq!(status.code(), Some(2), "{said}");
        assert!(said.contains("policy.yaml"), "{said}");
        scene.holds("the policy on disk is corrupt");
    }
    fs::write(&file, scene.policy("")).unwrap();
    segd.restart();
    scene.holds("repaired");
}

#[test]
fn a_boot_with_a_corrupt_policy_enforces_the_last_good_one_where_it_was_kept() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    let kept = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
    let kept = kept.path().join("policy");
    let flag = ["--last-good", kept.to_str().unwrap()];
    let mut segd = lab.segd(&scene.policy("")).args(&flag).start();
    let file = segd.policy_path().join("policy.yaml");
    wait::wait_until("the policy is kept", PATIENCE, || kept.exists());
    fs::write(&file, "apiVersion: [").unwrap();
    // What a boot leaves of segd in the kernel: nothing.
    segd.terminate();
    segd.unload();
    segd.restart();
    scene.holds("the policy on disk is corrupt");
    let status = segd.json(&["status"]);
    assert_eq!(status["last_reload"]["result"], "failure", "{status}");
    assert!(segd.log().contains("policy.yaml:1"), "{}", segd.log());
    let failures = segd.metric("segd_policy_reload_total", &[("result", "failure")]);
    assert_eq!(failures, Some(1.0));

    // A mistake that is taken back is no failure any more; what was kept is no policy for ever.
    fs::write(&file, scene.policy("")).unwrap();
    wait::wait_until("the policy is again what is enforced", PATIENCE, || {
        segd.json(&["status"])["last_reload"]["result"] == "success"
    });
    scene.holds("repaired");
    segd.terminate();
    segd.unload();
    fs::write(&kept, "{}").unwrap();
    fs::write(&file, "apiVersion: [").unwrap();
    let (status, said) = segd.restart_failing();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(
        said.contains("no last good policy") && said.contains("policy.yaml"),
        "{said}"
    );
}

/// Of the right form, and more than the kernel's tables hold: that shows when it is put in force, behind everything that is read.
#[test]
fn a_boot_whose_policy_does_not_fit_enforces_the_last_good_one() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    let kept = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
    let kept = kept.path().join("policy");
    let flag = ["--last-good", kept.to_str().unwrap()];
    let mut segd = lab.segd(&scene.policy("")).args(&flag).start();
    let file = segd.policy_path().join("policy.yaml");
    wait::wait_until("the policy is kept", PATIENCE, || kept.exists());
    segd.terminate();
    segd.unload();
    // One pair of segments has more ranges of ports than a list of the kernel's: no rule alone is too much.
    let odd = |protocol: &'static str| {
        (1..=65_535)
            .step_by(2)
            .map(move |port| format!("{protocol}/{port}"))
    };
    let ports: Vec<String> = odd("tcp").chain(odd("udp")).chain(odd("sctp")).collect();
    let rule = format!("    - {{from: web, to: db, ports: [{}]}}\n", ports.join(", "));
    let too_much = || write_atomically(&file, &(scene.policy("").replace("[web, host]", "host") + &rule));
    too_much();
    segd.restart();
    assert!(segd.log().contains("the last good one is"), "{}", segd.log());
    scene.holds("the policy on disk does not fit");
    let status = segd.json(&["status"]);
    assert_eq!(status["last_reload"]["result"], "failure", "{status}");
    assert!(
        status["last_reload"]["error"].to_string().contains("65535"),
        "{status}"
    );
    write_atomically(&file, &scene.policy(""));
    wait::wait_until("the mistake is taken back", 4 * PATIENCE, || {
        segd.json(&["status"])["last_reload"]["result"] == "success"
    });

    // Without a kept one nothing is left of the attempt, as ever.
    segd.terminate();
    segd.unload();
    too_much();
    fs::remove_file(&kept).unwrap();
    let (status, said) = segd.restart_failing();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(
        said.contains("65535") && said.contains("no last good policy"),
        "{said}"
    );
}

/// Two globs of one length: who fits both is nobody's, and keeps nobody else from being governed.
#[test]
fn a_start_that_finds_a_workload_of_two_segments_denies_it_and_enforces_the_rest() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    let base = scene.rogue.path();
    let globs = format!(
        "    one: {{match: [{{cgroup: {base}/x*}}]}}\n    two: {{match: [{{cgroup: '{base}/*x'}}]}}\n"
    );
    let policy = scene
        .policy(&globs)
        .replace("[web, host]", "[web, host, one, two]");
    let clash = scene.rogue.child("xx");
    let torn = lab.worker(&clash);
    let denied = |story: &str| {
        torn.probe(Kind::Tcp, scene.tcp.local, "torn;");
        torn.probe(Kind::Udp, scene.udp.local, "torn;");
        wait::quiet(wait::SILENCE);
        assert!(!scene.server.inbox(scene.udp).has("torn;"), "{story}");
    };
    let mut segd = lab.enforce(&policy);
    for story in ["a first start", "a daemon that comes back"] {
        scene.holds(story);
        denied(story);
        let warnings = segd.json(&["status"])["warnings"].to_string();
        assert!(
            warnings.contains(&clash.path()) && warnings.contains("with equal right"),
            "{story}: {warnings}"
        );
        segd.kill();
        segd.restart();
    }
    // A policy that comes while another is in force is still refused for it, and what is in force stays.
    let revision = segd.revision();
    write_atomically(
        &segd.policy_path().join("policy.yaml"),
        &policy.replace("[web, host", "[rogue, web, host"),
    );
    wait::wait_until("the reload is refused", PATIENCE, || {
        segd.metric("segd_policy_reload_total", &[("result", "failure")]) >= Some(1.0)
    });
    assert_eq!(segd.revision(), revision);
    scene.holds("refused");
    denied("refused");
}

/// A start that was ended before it enforced leaves links that do not judge, or not all of those that do.
#[test]
fn what_a_start_left_that_was_killed_does_not_keep_the_last_good_policy_out() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    let kept = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
    let tried = kept.path().join("tried.yaml");
    write_atomically(
        &tried,
        &scene.policy("").replace("metadata", "# another\nmetadata"),
    );
    let kept = kept.path().join("policy");
    let flag = ["--last-good", kept.to_str().unwrap()];
    let mut segd = lab.segd(&scene.policy("")).args(&flag).start();
    wait::wait_until("the policy is kept", PATIENCE, || kept.exists());
    write_atomically(&segd.policy_path().join("policy.yaml"), "apiVersion: [");
    for left in [
        &["cgroup_mkdir", "cgroup_release"][..],
        &["cgroup_mkdir", "cgroup_release", "sock_ops", "egress"],
    ] {
        // Something may have been on trial, too.
        let applied = segd.json(&["apply", tried.to_str().unwrap(), "--confirm", "1h"]);
        assert!(applied["trial"].is_object(), "{applied}");
        segd.kill();
        let mut unpinned = 0;
        for set in fs::read_dir(segd.pin_dir())
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            if !set.file_name().unwrap().to_string_lossy().starts_with("links_") {
                continue;
            }
            for link in fs::read_dir(&set).unwrap().map(|entry| entry.unwrap()) {
                if !left.contains(&link.file_name().to_str().unwrap()) {
                    fs::remove_file(link.path()).unwrap();
                    unpinned += 1;
                }
            }
        }
        assert!(unpinned >= 4, "{unpinned} of the links that judge were there");
        segd.restart();
        assert!(segd.log().contains("the last good one is"), "{}", segd.log());
        scene.holds(&format!("with {left:?} left"));
    }
    // Where all is as it should be, nothing of what is in force is given up for what was kept.
    segd.kill();
    let (status, said) = segd.restart_failing();
    assert_eq!(status.code(), Some(2), "{said}");
    scene.holds("what is pinned goes on");
}

#[test]
fn who_ends_a_start_in_the_middle_ends_it_with_everything_attached() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    let mut segd = lab
        .segd(&scene.policy(""))
        .after("export SEGD_LOG=debug; exec \"$@\"")
        .launch();
    wait::wait_until("it is at work", PATIENCE, || {
        segd.log().contains("revision 1: compiled")
    });
    let status = segd.terminate();
    assert_eq!(status.code(), Some(0), "{}", segd.log());
    scene.holds("it ended, and what it began is whole");
}

struct Full(tempfile::TempDir);

impl Full {
    /// A file system of three inodes: the directory and two files that take what there is.
    fn mount() -> Full {
        let directory = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4k,nr_inodes=3", "tmpfs"])
            .arg(directory.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        for name in ["a", "b"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        Full(directory)
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0.path()).output().ok();
    }
}

#[test]
fn a_full_disk_keeps_a_second_daemon_from_starting_and_changes_nothing_for_the_first() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    let mut segd = lab.enforce(&scene.policy(""));
    segd.kill();
    let full = Full::mount();
    let output = Command::new(binary())
        .args(["run", "--metrics", "none", "--policy"])
        .arg(segd.policy_path())
        .arg("--pin-dir")
        .arg(segd.pin_dir())
        .arg("--control")
        .arg(full.0.path().join("control.sock"))
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("No space left"), "{said}");
    scene.holds("a start failed on a full disk");
    segd.restart();
    scene.holds("started where there is room");
}
