//! Who was given a cgroup may lock it. That keeps segd neither from loading a policy nor from holding what is below to it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use segd_tests::{Cgroup, Kind, Lab};

/// `given` in a segment of its own, or in none: `host`, which alone may reach `db`.
fn policy(db: &Cgroup, given: Option<&Cgroup>) -> String {
    let claim = given.map_or_else(String::new, |given| {
        format!("    given: {{match: [{{cgroup: {}}}]}}\n", given.path())
    });
    let release = if given.is_some() {
        ""
    } else {
        "  release: [given]\n"
    };
    format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: hidden}}
spec:
  segments:
    db: {{match: [{{cgroup: {}}}]}}
{claim}  allow:
    - {{from: host, to: db, ports: [any]}}
{release}",
        db.path()
    )
}

fn lock(directory: &Path, mode: u32) {
    fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
}

/// Says when it goes that something is over, also when a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does something over and over while something else is done.
fn meanwhile(again: impl Fn(u32) + Sync, work: impl FnOnce()) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            (0..)
                .take_while(|_| !over.load(Ordering::Relaxed))
                .for_each(&again);
        });
        let _over = Over(&over);
        work();
    });
}

/// Who is born below a locked cgroup while a policy comes into force is who the lock makes him, too.
#[test]
fn births_below_a_locked_cgroup_while_it_changes_hands_keep_nothing() {
    const MOST: u32 = 2000;
    let Some(lab) = Lab::open() else { return };
    let (given, db) = (lab.cgroup("given"), lab.cgroup("db"));
    let crowd: Vec<Cgroup> = (0..40)
        .map(|number| given.child(&format!("crowd{number}")))
        .collect();
    let segd = lab.enforce(&policy(&db, None));
    let server = lab.worker(&db);
    let listener = server.listen_udp((Ipv4Addr::LOCALHOST, 0));
    let worker = lab.worker(&given);
    assert_eq!(worker.probe(Kind::Udp, listener.local, "host;").result, "ok");
    chown(given.directory(), Some(4711), None).unwrap();
    lock(given.directory(), 0o700);
    // From the bottom up, so that each newborn's parent is as young as it can be.
    let born = |number: u32| {
        let parent = &crowd[number as usize % crowd.len()];
        if number < MOST {
            fs::create_dir(parent.directory().join(format!("born{number}"))).unwrap();
        }
    };
    meanwhile(born, || segd.set_policy(&policy(&db, Some(&given))));
    let mut met = 0;
    for parent in &crowd {
        for entry in fs::read_dir(parent.directory()).unwrap().flatten() {
            if !entry.file_type().unwrap().is_dir() {
                continue;
            }
            met += 1;
            worker.enter_directory(&entry.path());
            let result = worker.probe(Kind::Udp, listener.local, "born;").result;
            assert_eq!(result, "EPERM", "{}: {}", entry.path().display(), segd.log());
        }
    }
    assert!(met > 100, "{met} were born");
    worker.enter(&given);
    assert!(!server.inbox(listener).has("born;"));
    for parent in &crowd {
        for entry in fs::read_dir(parent.directory()).unwrap().flatten() {
            fs::remove_dir(entry.path()).ok();
        }
    }
}

/// Its owner may lock and unlock it as fast as he can: every policy comes into force all the same.
#[test]
fn a_lock_that_comes_and_goes_keeps_no_policy_from_coming_into_force() {
    let Some(lab) = Lab::open() else { return };
    let (given, db) = (lab.cgroup("given"), lab.cgroup("db"));
    let _crowd: Vec<Cgroup> = (0..300)
        .map(|number| given.child(&format!("crowd{number}")))
        .collect();
    let segd = lab.enforce(&policy(&db, None));
    chown(given.directory(), Some(4711), None).unwrap();
    let flip = |number: u32| {
        lock(
            given.directory(),
            if number.is_multiple_of(2) { 0o700 } else { 0o755 },
        )
    };
    meanwhile(flip, || {
        for _ in 0..15 {
            segd.set_policy(&policy(&db, Some(&given)));
            segd.set_policy(&policy(&db, None));
        }
    });
    assert_eq!(segd.metric("segd_policy_revision", &[]), Some(31.0));
}

#[test]
fn a_cgroup_whose_owner_locks_it_is_judged_as_a_whole() {
    let Some(lab) = Lab::open() else { return };
    let (given, db) = (lab.cgroup("given"), lab.cgroup("db"));
    let (inner, other) = (given.child("inner"), given.child("other"));
    let deep = other.child("deep");
    let head = format!(
        "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: hidden}}
spec:
  segments:
    db: {{match: [{{cgroup: {}}}]}}",
        db.path()
    );
    let allow = "  allow:\n    - {from: host, to: db, ports: [any]}\n";
    let segd = lab.enforce(&format!("{head}\n{allow}"));
    let server = lab.worker(&db);
    let listener = server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
    let workers = [lab.worker(&inner), lab.worker(&deep)];
    for (number, worker) in workers.iter().enumerate() {
        let token = format!("host{number};");
        assert_eq!(worker.probe(Kind::Tcp, listener.local, &token).result, "ok");
    }
    for (number, mode) in [0o700, 0o744, 0o711].into_iter().enumerate() {
        chown(given.directory(), Some(4711), None).unwrap();
        fs::set_permissions(given.directory(), fs::Permissions::from_mode(mode)).unwrap();
        let claimed = format!(
            "{head}\n    given{number}: {{match: [{{cgroup: {}}}]}}\n{allow}",
            given.path()
        );
        segd.set_policy(&claimed);
        for worker in &workers {
            let token = format!("claimed{number};");
            let result = worker.probe(Kind::Tcp, listener.local, &token).result;
            assert_ne!(result, "ok", "mode {mode:o}: {}", segd.log());
            assert!(!server.inbox(listener).has(&token), "mode {mode:o}");
        }
        segd.set_policy(&format!("{head}\n{allow}  release: [given{number}]\n"));
        for worker in &workers {
            let token = format!("released{number};");
            let result = worker.probe(Kind::Tcp, listener.local, &token).result;
            assert_eq!(result, "ok", "mode {mode:o}: {}", segd.log());
        }
    }
}
