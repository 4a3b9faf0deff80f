//! A policy on trial: the kernel puts the one before back when the time is over, whoever is dead by then; what is confirmed
//! stays, what is not never costs a packet that both policies allow.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    cell::Cell,
    collections::HashSet,
    fs,
    io::{Read as _, Write as _},
    net::Ipv4Addr,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use segd_tests::{
    Cgroup, Lab, Segd, Step, Worker,
    segd::write_atomically,
    wait::{self, PATIENCE, SILENCE},
    worker::Handle,
};

/// A sender in `web`, and receivers in `db` on four ports: allowed before, on trial, under both policies, under none.
struct Stage {
    web: Cgroup,
    db: Cgroup,
    client: Worker,
    server: Worker,
    old: Handle,
    new: Handle,
    both: Handle,
    none: Handle,
    socket: Handle,
    number: Cell<u32>,
    directory: tempfile::TempDir,
}

impl Stage {
    fn new(lab: &Lab) -> Stage {
        let (web, db) = (lab.cgroup("web"), lab.cgroup("db"));
        let (client, server) = (lab.worker(&web), lab.worker(&db));
        let listen = || server.listen_udp((Ipv4Addr::LOCALHOST, 0));
        let (old, new, both, none) = (listen(), listen(), listen(), listen());
        let socket = client.open_udp((Ipv4Addr::LOCALHOST, 0), None).unwrap();
        Stage {
            web,
            db,
            client,
            server,
            old,
            new,
            both,
            none,
            socket,
            number: Cell::new(0),
            directory: tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap(),
        }
    }

    fn policy(&self, segments: &str, allowed: &[Handle]) -> String {
        let ports: Vec<String> = allowed
            .iter()
            .map(|handle| format!("udp/{}", handle.local.port()))
            .collect();
        format!(
            "apiVersion: segd.dev/v1
kind: SegmentPolicy
metadata: {{name: trial}}
spec:
  segments:
    web: {{match: [{{cgroup: {}}}]}}
    db: {{match: [{{cgroup: {}}}]}}
{segments}  allow:
    - {{from: web, to: db, ports: [{}]}}
",
            self.web.path(),
            self.db.path(),
            ports.join(", ")
        )
    }

    fn before(&self) -> String {
        self.policy("", &[self.old, self.both])
    }

    fn tried(&self) -> String {
        self.policy("", &[self.new, self.both])
    }

    fn enforce(&self, lab: &Lab) -> Segd {
        let segd = lab.enforce(&self.before());
        self.expect_old("before");
        segd
    }

    /// The file of a policy to be applied.
    fn file(&self, text: &str) -> PathBuf {
        let file = self.directory.path().join("candidate.yaml");
        write_atomically(&file, text);
        file
    }

    /// Applies the tried policy. Returns its revision.
    #[track_caller]
    fn apply(&self, segd: &Segd, confirm: Option<&str>) -> u64 {
        let file = self.file(&self.tried());
        let mut words = vec!["apply", file.to_str().unwrap()];
        words.extend(confirm.iter().flat_map(|time| ["--confirm", time]));
        let applied = segd.json(&words);
        assert_eq!(applied["trial"].is_object(), confirm.is_some(), "{applied}");
        applied["revision"]
            .as_u64()
            .unwrap_or_else(|| panic!("{applied}"))
    }

    fn send(&self, to: Handle) -> String {
        let number = self.number.get();
        self.number.set(number + 1);
        let token = format!("n{number};");
        self.client.send_to(self.socket, to.local, &token).ok();
        token
    }

    fn passes(&self, to: Handle) -> bool {
        let token = self.send(to);
        wait::within(SILENCE, || self.server.inbox(to).has(&token))
    }

    fn verdicts(&self) -> [bool; 4] {
        [self.old, self.new, self.both, self.none].map(|to| self.passes(to))
    }

    #[track_caller]
    fn expect_old(&self, when: &str) {
        assert_eq!(self.verdicts(), [true, false, true, false], "{when}");
    }

    #[track_caller]
    fn expect_new(&self, when: &str) {
        assert_eq!(self.verdicts(), [false, true, true, false], "{when}");
    }

    /// Sends numbered datagrams to all four, every few milliseconds, until `old` has been passing again for a while.
    /// Returns how long after `start` it began to, having checked that every one met one of the two policies.
    #[track_caller]
    fn watch_it_end(&self, start: Instant, limit: Duration) -> Duration {
        let all = [self.old, self.new, self.both, self.none];
        let mut sent: [Vec<(Duration, String)>; 4] = Default::default();
        let mut back = None;
        while back.is_none_or(|back| start.elapsed() < back + SILENCE) {
            assert!(
                start.elapsed() < limit,
                "the policy before is not back after {limit:?}"
            );
            for (list, to) in sent.iter_mut().zip(all) {
                let token = self.send(to);
                list.push((start.elapsed(), token));
            }
            // So that a receiver that gets no processor for a while has room for what comes.
            wait::quiet(Duration::from_millis(1));
            // Delivery on one host is synchronous: what was sent has arrived, or never will.
            if back.is_none()
                && sent[0]
                    .last()
                    .is_some_and(|(_, token)| self.server.inbox(self.old).has(token))
            {
                back = sent[0].last().map(|(at, _)| *at);
            }
        }
        wait::quiet(SILENCE);
        let arrived: Vec<Vec<bool>> = sent
            .iter()
            .zip(all)
            .map(|(list, to)| {
                let messages: HashSet<String> = self.server.inbox(to).messages.into_iter().collect();
                list.iter().map(|(_, token)| messages.contains(token)).collect()
            })
            .collect();
        let changes = |list: &[bool]| list.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(
            !arrived[0][0] && changes(&arrived[0]) == 1,
            "old: denied, then allowed, once"
        );
        assert!(
            arrived[1][0] && changes(&arrived[1]) == 1,
            "new: allowed, then denied, once"
        );
        let lost: Vec<usize> = (0..arrived[2].len())
            .filter(|round| !arrived[2][*round])
            .collect();
        assert!(
            lost.is_empty(),
            "of {} that both policies allow, these were lost: {lost:?}; the policy before was back in round {:?}",
            arrived[2].len(),
            arrived[0].iter().position(|arrived| *arrived)
        );
        let leaked = arrived[3].iter().filter(|arrived| **arrived).count();
        assert_eq!(leaked, 0, "of {} that neither policy allows", arrived[3].len());
        // One word for all. In a round `old` is sent before `new`: the end came between two rounds, or, if `new` was lost
        // in a round before `old` passed, between the two of that round.
        let first = arrived[0].iter().position(|arrived| *arrived).unwrap();
        let last = arrived[1].iter().rposition(|arrived| *arrived).unwrap();
        assert!(
            first == last + 1 || first == last + 2,
            "old from round {first}, new until round {last}"
        );
        sent[0][first].0
    }
}

/// The exit code, and everything that was said.
#[track_caller]
fn says(segd: &Segd, words: &[&str]) -> (i32, String) {
    let output = segd.client(words);
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn with_the_daemon_dead_the_kernel_puts_the_policy_before_back_in_time() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let mut segd = stage.enforce(&lab);
    let revision = segd.revision();
    let start = Instant::now();
    assert_eq!(stage.apply(&segd, Some("3s")), revision + 1);
    let applied = start.elapsed();
    segd.kill();
    stage.expect_new("on trial, with the daemon dead");
    let back = stage.watch_it_end(start, Duration::from_secs(20));
    let seconds = Duration::from_secs(3);
    let slack = Duration::from_millis(300);
    assert!(
        back >= seconds && back <= seconds + applied + slack,
        "back after {back:?}, and applying took {applied:?}"
    );
    stage.expect_old("the time is over");

    // The next daemon finds it so, and goes on above both numbers.
    segd.restart();
    stage.expect_old("restarted");
    assert_eq!(segd.revision(), revision + 2);
    assert!(segd.json(&["status"])["trial"].is_null());
    assert!(segd.log().contains("was not confirmed in time"), "{}", segd.log());
}

#[test]
fn what_is_confirmed_stays_and_can_still_be_rolled_back() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let segd = stage.enforce(&lab);
    let before = segd.revision();
    let tried = stage.apply(&segd, Some("2"));
    let status = segd.json(&["status"]);
    assert_eq!(status["revision"], tried, "{status}");
    assert_eq!(status["policy_source"], "applied", "{status}");
    assert_eq!(status["trial"]["revision"], tried, "{status}");
    assert_eq!(status["trial"]["before"], before, "{status}");
    assert!(status["trial"]["seconds_left"].as_u64().unwrap() <= 2, "{status}");
    let (code, said) = says(&segd, &["confirm"]);
    assert_eq!(code, 0, "{said}");
    wait::quiet(Duration::from_millis(2500));
    stage.expect_new("confirmed, and the time is over");
    assert!(segd.json(&["status"])["trial"].is_null());
    let (code, said) = says(&segd, &["confirm"]);
    assert!(
        code == 1 && said.contains("nothing is on trial"),
        "{code}: {said}"
    );

    let (code, said) = says(&segd, &["rollback"]);
    assert_eq!(code, 0, "{said}");
    stage.expect_old("rolled back after it was confirmed");
    assert_eq!(segd.revision(), tried + 1);
}

#[test]
fn a_rollback_puts_the_policy_before_back_at_once() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let segd = stage.enforce(&lab);
    let before = segd.revision();
    let tried = stage.apply(&segd, Some("1h"));
    stage.expect_new("on trial");
    let (code, said) = says(&segd, &["rollback"]);
    assert_eq!(code, 0, "{said}");
    stage.expect_old("rolled back");
    assert_eq!(segd.revision(), before);
    let (code, said) = says(&segd, &["rollback"]);
    assert_eq!(
        code, 1,
        "what failed its trial is no policy to go back to: {said}"
    );
    let (code, said) = says(&segd, &["confirm"]);
    assert_eq!(code, 1, "{said}");
    stage.expect_old("nothing was confirmed");
    assert!(stage.apply(&segd, None) > tried, "a number is never given again");
    stage.expect_new("applied for good");
}

#[test]
fn a_confirmation_that_comes_too_late_is_refused_and_everything_tells_the_truth() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let segd = stage.enforce(&lab);
    let before = segd.revision();
    let start = Instant::now();
    let tried = stage.apply(&segd, Some("3s"));
    stage.watch_it_end(start, Duration::from_secs(15));
    wait::wait_until(
        "the metrics name the revision in force",
        Duration::from_secs(1),
        || segd.metric("segd_policy_revision", &[]) == Some(before as f64),
    );
    let status = segd.json(&["status"]);
    assert_eq!(status["revision"], before, "{status}");
    assert_eq!(status["policy_source"], "files", "{status}");
    assert!(
        segd.log()
            .contains(&format!("revision {tried} was not confirmed in time"))
    );
    let (code, said) = says(&segd, &["confirm"]);
    assert!(code == 1 && said.contains("too late"), "{code}: {said}");
    stage.expect_old("after the refusal");
}

#[test]
fn a_daemon_that_starts_during_a_trial_goes_on_with_it() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let mut segd = stage.enforce(&lab);
    let tried = stage.apply(&segd, Some("10m"));
    segd.kill();
    segd.restart();
    stage.expect_new("restarted during the trial");
    let status = segd.json(&["status"]);
    assert_eq!(status["revision"], tried, "{status}");
    assert_eq!(status["trial"]["before"], tried - 1, "{status}");
    let (code, said) = says(&segd, &["confirm"]);
    assert_eq!(code, 0, "{said}");
    stage.expect_new("confirmed");

    // It was applied: a crash does not bring the files' policy back, a change of the files does.
    segd.kill();
    segd.restart();
    stage.expect_new("restarted after the confirmation");
    assert_eq!(segd.json(&["status"])["policy_source"], "applied");
    segd.set_policy(&stage.policy(
        "    more: {match: [{cgroup: /segd-t-nobody}]}\n",
        &[stage.old, stage.both],
    ));
    stage.expect_old("the files changed");
    assert_eq!(segd.json(&["status"])["policy_source"], "files");
}

#[test]
fn a_daemon_that_starts_during_a_trial_can_roll_it_back() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let mut segd = stage.enforce(&lab);
    let tried = stage.apply(&segd, Some("10m"));
    segd.kill();
    segd.restart();
    let (code, said) = says(&segd, &["rollback"]);
    assert_eq!(code, 0, "{said}");
    stage.expect_old("rolled back by another daemon");
    assert_eq!(segd.revision(), tried - 1);
}

#[test]
fn a_daemon_that_cannot_understand_a_trial_ends_it() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let mut segd = stage.enforce(&lab);
    stage.apply(&segd, Some("10m"));
    segd.kill();
    // Another mode makes other tables of the same text.
    let binary = segd_tests::segd::binary();
    segd.restart_as(&binary, &["--mode", "audit"]);
    assert!(segd.log().contains("cannot go on"), "{}", segd.log());
    let status = segd.json(&["status"]);
    assert!(status["trial"].is_null(), "{status}");
    assert_eq!(status["mode"], "audit", "{status}");
}

#[test]
fn a_workload_born_during_a_trial_is_right_under_both_policies() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let segd = stage.enforce(&lab);
    // Under the tried policy what is born below `web` is in a segment of its own; a glob makes it the daemon's work.
    let kids = format!(
        "    kids: {{match: [{{cgroup: \"{}/*-kid\"}}]}}\n",
        stage.web.path()
    );
    let tried = stage.policy(&kids, &[stage.both]).replace(
        "  allow:\n",
        &format!(
            "  allow:\n    - {{from: kids, to: db, ports: [udp/{}]}}\n",
            stage.new.local.port()
        ),
    );
    let file = stage.file(&tried);
    let start = Instant::now();
    let (code, said) = says(&segd, &["apply", file.to_str().unwrap(), "--confirm", "4s"]);
    assert_eq!(code, 0, "{said}");
    let kid = stage.web.child("a-kid");
    let worker = lab.worker(&kid);
    let socket = worker.open_udp((Ipv4Addr::LOCALHOST, 0), None).unwrap();
    let passes = |to: Handle| {
        let number = stage.number.get();
        stage.number.set(number + 1);
        let token = format!("kid{number};");
        worker.send_to(socket, to.local, &token).ok();
        wait::within(SILENCE, || stage.server.inbox(to).has(&token))
    };
    wait::wait_until("the newborn is in its own segment", PATIENCE, || {
        passes(stage.new)
    });
    assert!(!passes(stage.old), "on trial");
    assert!(!passes(stage.both), "on trial it is not `web`");
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "too slow to see the trial"
    );
    wait::wait_until("the policy before is back", PATIENCE, || stage.passes(stage.old));
    assert!(passes(stage.old), "it is `web` again, as its parent is");
    assert!(passes(stage.both), "it is `web` again");
    assert!(!passes(stage.new), "and nothing else");
}

#[test]
fn files_that_change_during_a_trial_wait_for_its_end() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let segd = stage.enforce(&lab);
    let tried = stage.apply(&segd, Some("1h"));
    let files = segd.policy_path().join("policy.yaml");
    write_atomically(&files, &stage.policy("", &[stage.none, stage.both]));
    wait::wait_until("status says that they wait", PATIENCE, || {
        segd.json(&["status"])["trial"]["files_wait"] == true
    });
    stage.expect_new("they wait");
    assert_eq!(segd.revision(), tried);
    assert!(segd.log().contains("the policy files changed"), "{}", segd.log());
    let (code, said) = says(&segd, &["rollback"]);
    assert_eq!(code, 0, "{said}");
    wait::wait_until("they come into force", PATIENCE, || segd.revision() > tried);
    assert_eq!(stage.verdicts(), [false, false, true, true]);
}

/// Two globs of one length that one cgroup fits: ambiguous, which shows when the tags are written.
#[test]
fn files_that_come_to_nothing_leave_the_way_back() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let segd = stage.enforce(&lab);
    let files = segd.policy_path().join("policy.yaml");
    segd.reload(|path| write_atomically(&path.join("policy.yaml"), &stage.tried()));
    stage.expect_new("the files changed");
    let _clash = stage.web.child("xx");
    let base = stage.web.path();
    let segments = format!(
        "    one: {{match: [{{cgroup: {base}/x*}}]}}\n    two: {{match: [{{cgroup: '{base}/*x'}}]}}\n"
    );
    write_atomically(&files, &stage.policy(&segments, &[stage.none, stage.both]));
    wait::wait_until("the files are refused", PATIENCE, || {
        segd.metric("segd_policy_reload_total", &[("result", "failure")]) > Some(0.0)
    });
    let (code, said) = says(&segd, &["rollback"]);
    assert_eq!(code, 0, "{said}");
    stage.expect_old("rolled back");
}

/// What was applied, and is what the files say by now, is not applied any more when they go on while the daemon is dead.
#[test]
fn what_the_files_have_caught_up_with_is_not_put_over_them_by_a_restart() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let mut segd = stage.enforce(&lab);
    segd.reload(|path| write_atomically(&path.join("policy.yaml"), &stage.tried()));
    let (code, said) = says(&segd, &["rollback"]);
    assert_eq!(code, 0, "{said}");
    stage.expect_old("rolled back, over the files");
    let files = segd.policy_path().join("policy.yaml");
    write_atomically(&files, &stage.before());
    wait::wait_until("the files have caught up", PATIENCE, || {
        segd.json(&["status"])["policy_source"] == "files"
    });
    segd.kill();
    write_atomically(&files, &stage.tried());
    segd.restart();
    stage.expect_new("what the files say");
}

#[test]
fn files_that_failed_before_a_rollback_are_not_tried_over_it() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let segd = stage.enforce(&lab);
    stage.apply(&segd, None);
    stage.expect_new("applied");
    let file = stage.file(&stage.policy("", &[stage.none, stage.both]));
    let (code, said) = says(&segd, &["apply", file.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    // Not to be believed, for as long as everybody may write it.
    let files = segd.policy_path().join("policy.yaml");
    fs::set_permissions(&files, fs::Permissions::from_mode(0o666)).unwrap();
    let (code, said) = says(&segd, &["reload"]);
    assert_ne!(code, 0, "{said}");
    let (code, said) = says(&segd, &["rollback"]);
    assert_eq!(code, 0, "{said}");
    stage.expect_new("rolled back");
    let back = segd.revision();
    for _ in 0..3 {
        write_atomically(&files, &stage.before());
        wait::quiet(Duration::from_secs(1));
    }
    assert_eq!(segd.revision(), back, "{}", segd.log());
    stage.expect_new("rolled back, and the files did not change since");
    // Whoever wants them asks for them.
    let (code, said) = says(&segd, &["reload"]);
    assert_eq!(code, 0, "{said}");
    stage.expect_old("asked for");
}

/// They do not change by that: what was rolled back to stays over them when they can be read again.
#[test]
fn files_that_cannot_be_read_for_a_moment_are_not_put_over_a_rollback() {
    const EVERYTHING: Duration = Duration::from_secs(5);
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let segd = stage.enforce(&lab);
    segd.reload(|path| write_atomically(&path.join("policy.yaml"), &stage.tried()));
    let (code, said) = says(&segd, &["rollback"]);
    assert_eq!(code, 0, "{said}");
    stage.expect_old("rolled back");
    let back = segd.revision();
    let files = segd.policy_path().join("policy.yaml");
    fs::set_permissions(&files, fs::Permissions::from_mode(0o666)).unwrap();
    wait::wait_until("they are refused", PATIENCE, || {
        segd.json(&["status"])["last_reload"]["result"] == "failure"
    });
    fs::set_permissions(&files, fs::Permissions::from_mode(0o644)).unwrap();
    wait::wait_until("they are readable again", PATIENCE, || {
        segd.json(&["status"])["last_reload"]["result"] == "success"
    });
    wait::quiet(EVERYTHING + Duration::from_secs(1));
    assert_eq!(segd.revision(), back, "{}", segd.log());
    stage.expect_old("they did not change");
    // Others than these are what whoever writes them wants.
    segd.reload(|path| write_atomically(&path.join("policy.yaml"), &stage.policy("", &[stage.none])));
    assert_eq!(stage.verdicts(), [false, false, false, true]);
}

/// `apply` from anywhere, then the same text in the files: the policy before stays the way back.
#[test]
fn what_is_written_to_the_files_as_it_was_applied_changes_nothing_more() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let mut segd = stage.enforce(&lab);
    let applied = stage.apply(&segd, Some("1h"));
    let (code, said) = says(&segd, &["confirm"]);
    assert_eq!(code, 0, "{said}");
    write_atomically(&segd.policy_path().join("policy.yaml"), &stage.tried());
    wait::wait_until("it is the files'", PATIENCE, || {
        segd.json(&["status"])["policy_source"] == "files"
    });
    assert_eq!(segd.revision(), applied, "{}", segd.log());
    stage.expect_new("it is what it was");
    let segments = segd.json(&["segments"]);
    let place = segments[0]["location"].as_str().unwrap();
    assert!(place.contains("/policy/policy.yaml:"), "{place}");
    let (code, said) = says(&segd, &["rollback"]);
    assert_eq!(code, 0, "{said}");
    stage.expect_old("the policy before");

    // Where both say the same there is no way back, which is said.
    let (code, said) = says(&segd, &["apply", stage.file(&stage.before()).to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = says(&segd, &["rollback"]);
    assert!(code == 1 && said.contains("says the same"), "{code}: {said}");
    stage.expect_old("nothing was done");
    segd.terminate();
}

/// The same name and text, as a client that runs where the daemon does sends them.
fn apply_as_the_files(segd: &Segd, name: &Path, text: &str) {
    let candidate = serde_json::json!({"version": 1, "body": {"apply": {
        "texts": [{"name": name, "text": text}], "confirm_seconds": 3600,
    }}});
    let mut stream = UnixStream::connect(segd.control()).unwrap();
    stream.write_all(format!("{candidate}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"applied\""), "{answer}");
}

#[test]
fn files_that_catch_up_with_a_trial_own_what_is_confirmed() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let mut segd = stage.enforce(&lab);
    let files = segd.policy_path().join("policy.yaml");
    apply_as_the_files(&segd, &files, &stage.tried());
    write_atomically(&files, &stage.tried());
    wait::wait_until("the files have caught up", PATIENCE, || {
        segd.json(&["status"])["policy_source"] == "files"
    });
    let (code, said) = says(&segd, &["confirm"]);
    assert_eq!(code, 0, "{said}");
    stage.expect_new("confirmed");
    segd.kill();
    write_atomically(&files, &stage.before());
    segd.restart();
    stage.expect_old("what the files say");
}

#[test]
fn a_trial_is_one_at_a_time_and_a_wrong_policy_changes_nothing() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let segd = stage.enforce(&lab);
    let wrong = stage.before().replace("to: db", "to: bd");
    let file = stage.file(&wrong);
    let (code, said) = says(&segd, &["apply", file.to_str().unwrap(), "--confirm", "1h"]);
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("candidate.yaml:9:") && said.contains("did you mean `db`?"),
        "{said}"
    );
    let (code, said) = says(&segd, &["apply", file.to_str().unwrap(), "--confirm", "25h"]);
    assert_eq!(code, 2, "{said}");
    stage.expect_old("a wrong policy");
    assert!(segd.json(&["status"])["trial"].is_null());

    let tried = stage.apply(&segd, Some("1h"));
    let file = stage.file(&stage.before());
    for confirm in [&["--confirm", "1s"][..], &[]] {
        let words = [&["apply", file.to_str().unwrap()][..], confirm].concat();
        let (code, said) = says(&segd, &words);
        assert!(code == 1 && said.contains("on trial already"), "{code}: {said}");
    }
    stage.expect_new("the second was refused");
    assert_eq!(segd.revision(), tried);

    // The last resort works in this state as in any.
    let mut segd = segd;
    assert!(segd.unload().status.success());
    assert_eq!(stage.verdicts(), [true; 4]);
}

#[test]
fn sessions_follow_the_policy_into_a_trial_and_back() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let listen = || stage.server.listen_tcp((Ipv4Addr::LOCALHOST, 0));
    let (old, new) = (listen(), listen());
    let policy = |tcp: Handle| {
        stage
            .before()
            .replace("ports: [", &format!("ports: [tcp/{}, ", tcp.local.port()))
    };
    let segd = lab.enforce(&policy(old));
    let session = stage.client.open_tcp(old.local).expect("it is allowed");
    stage.client.send(session, "before;").unwrap();
    stage.server.wait_for_message(old, "before;");
    let file = stage.file(&policy(new));
    let (code, said) = says(&segd, &["apply", file.to_str().unwrap(), "--confirm", "1h"]);
    assert_eq!(code, 0, "{said}");
    stage.client.send(session, "during;").ok();
    let other = stage.client.open_tcp(new.local).expect("it is allowed on trial");
    stage.client.send(other, "tried;").unwrap();
    stage.server.wait_for_message(new, "tried;");
    assert!(
        !stage.server.inbox(old).has("during;"),
        "it had no right during the trial"
    );
    says(&segd, &["rollback"]);
    stage.client.send(other, "after;").ok();
    // TCP repeats what was dropped.
    stage.server.wait_for_message(old, "during;");
    wait::quiet(SILENCE);
    assert!(!stage.server.inbox(new).has("after;"), "it has no right any more");
}

/// What a client asked once is answered on and on: a trial that takes the right away, and is taken back, leaves that as it was.
#[test]
fn who_was_asked_before_a_trial_may_answer_after_it() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let segd = stage.enforce(&lab);
    let client = stage.client.open_udp((Ipv4Addr::LOCALHOST, 0), None).unwrap();
    stage
        .client
        .send_to(client, stage.old.local, "question;")
        .unwrap();
    stage.server.wait_for_message(stage.old, "question;");
    let answer = |token: &str| {
        stage.server.send_to(stage.old, client.local, token).ok();
        stage.client.receive(client, 400).unwrap()
    };
    assert_eq!(answer("before;").as_deref(), Some("before;"));
    stage.apply(&segd, Some("1h"));
    assert_eq!(answer("during;"), None, "it has no right on trial");
    assert_eq!(answer("during;"), None);
    says(&segd, &["rollback"]);
    assert_eq!(answer("after;").as_deref(), Some("after;"), "{}", segd.log());
    // Told once, on the way out.
    let revoked = segd.metric("segd_sessions_revoked_total", &[("from", "db"), ("to", "web")]);
    assert_eq!(revoked, Some(1.0));
}

#[test]
fn a_step_of_the_calendar_does_not_move_the_deadline() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let segd = stage.enforce(&lab);
    for seconds in [3600, -3600] {
        let start = Instant::now();
        stage.apply(&segd, Some("2s"));
        let applied = start.elapsed();
        let step = Step::by(seconds);
        let left = segd.json(&["status"])["trial"]["seconds_left"].clone();
        let back = stage.watch_it_end(start, Duration::from_secs(15));
        drop(step);
        assert!(
            left.as_u64().is_some_and(|left| left <= 2),
            "{left} s left, after a step of {seconds} s"
        );
        let late = back.saturating_sub(applied);
        assert!(
            back >= Duration::from_secs(2) && late <= Duration::from_millis(2300),
            "back after {back:?}, after a step of {seconds} s"
        );
    }
}

#[test]
fn a_time_namespace_around_the_daemon_does_not_move_the_deadline() {
    let Some(lab) = Lab::open() else { return };
    if !fs::exists("/proc/self/ns/time").unwrap() {
        eprintln!("no time namespaces in this kernel: nothing can be moved by one");
        return;
    }
    let stage = Stage::new(&lab);
    let around = "exec unshare --time --boottime 864000 --monotonic 864000 --kill-child -- \"$@\"";
    let segd = lab.segd(&stage.before()).after(around).start();
    let start = Instant::now();
    stage.apply(&segd, Some("2s"));
    stage.expect_new("on trial");
    let back = stage.watch_it_end(start, Duration::from_secs(15));
    assert!(back >= Duration::from_secs(2), "back after {back:?}");
}
