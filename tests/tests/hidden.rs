//! Who was given a cgroup may lock it. That keeps segd neither from loading a policy nor from holding what is below to it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::{PermissionsExt, chown},
};

use segd_tests::{Kind, Lab};

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
