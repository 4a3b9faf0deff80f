//! Users by name: a directory service that hangs keeps segd from nothing, and who has another number is another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod scene;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use segd_tests::{
    Lab,
    wait::{self, PATIENCE},
};

use scene::{Scene, applied, done, meanwhile, rounds, warnings};

/// Numbers that nobody has.
const FIRST: u32 = 64_990;
const OTHER: u32 = 64_991;
/// Until users that were not answered for are asked about again, and a moment.
const AGAIN: Duration = Duration::from_secs(20);

#[test]
fn a_directory_service_that_hangs_keeps_nobody_ungoverned() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    scene.knows(Some(FIRST));
    let slice = scene.slice(FIRST);
    let (alice, web) = (lab.worker(&slice), lab.worker(&scene.web));
    let mut segd = scene.start(&lab, "hangs");
    assert!(scene.arrives(&web, "web;"));
    assert!(!scene.arrives(&alice, "nobody knows alice;"));
    assert!(warnings(&segd).contains("does not answer"), "{}", warnings(&segd));

    // A reload waits for a moment, and nobody waits for the reload.
    let mut reload = Command::new(segd_tests::segd::binary());
    reload.arg("reload").arg("--control").arg(segd.control());
    let began = Instant::now();
    let reload = reload.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    for _ in 0..3 {
        let asked = Instant::now();
        assert_eq!(segd.json(&["status"])["enforcing"], true);
        assert!(
            asked.elapsed() < wait::patient(Duration::from_secs(1)),
            "{:?}",
            asked.elapsed()
        );
    }
    assert!(reload.unwrap().wait().unwrap().success());
    assert!(began.elapsed() < wait::patient(PATIENCE), "{:?}", began.elapsed());

    // Other policies come into force meanwhile, from files and from clients, and go.
    segd.set_policy(&scene.policy("alice"));
    assert!(!scene.arrives(&web, "web may not now;"));
    let both = scene.directory.path().join("both.yaml");
    fs::write(&both, scene.policy("[alice, web]")).unwrap();
    let foretold = segd.client(&["apply", "--dry-run", both.to_str().unwrap()]);
    assert!(matches!(foretold.status.code(), Some(0 | 1)), "{foretold:?}");
    done(applied(&segd, &both));
    assert!(scene.arrives(&web, "web may again;"));
    done(segd.client(&["rollback"]));
    assert!(!scene.arrives(&web, "web is rolled back;"));
    segd.set_policy(&scene.policy("[web, alice]"));
    assert!(scene.arrives(&web, "web may in the end;"));
    assert!(!scene.arrives(&alice, "nobody knows alice yet;"));

    // It is asked again without being told to. What hung before has ended, with nothing.
    scene.shows(&segd, "knows");
    let pipe = scene.directory.path().join("hangs");
    drop(fs::OpenOptions::new().write(true).open(pipe).unwrap());
    wait::wait_until("the service answers", AGAIN, || {
        !warnings(&segd).contains("alice")
    });
    assert!(scene.arrives(&alice, "alice is known;"));

    // Who has a number keeps it, also under a daemon that has never heard an answer.
    scene.shows(&segd, "hangs");
    done(segd.client(&["reload"]));
    let kept = format!("the last known number {FIRST} stays");
    assert!(warnings(&segd).contains(&kept), "{}", warnings(&segd));
    assert!(scene.arrives(&alice, "alice is still known;"));
    segd.kill();
    segd.restart();
    assert!(warnings(&segd).contains(&kept), "{}", warnings(&segd));
    assert!(scene.arrives(&alice, "alice is known to the next daemon;"));

    // A trial goes on by the numbers of then.
    done(segd.client(&["apply", both.to_str().unwrap(), "--confirm", "200s"]));
    segd.kill();
    segd.restart();
    assert!(segd.json(&["status"])["trial"].is_object(), "{}", segd.log());
    assert!(scene.arrives(&alice, "alice is known on trial;"));
    done(segd.client(&["confirm"]));
}

#[test]
fn a_boot_without_a_directory_service_goes_by_the_last_numbers() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    scene.knows(Some(FIRST));
    let slice = scene.slice(FIRST);
    let alice = lab.worker(&slice);
    let kept = scene.directory.path().join("last-good");
    let started = |what: &str| {
        let policy = scene.policy("[alice, web]");
        let segd = lab.segd(&policy).after(&scene.mounts(what));
        segd.args(&["--last-good", kept.to_str().unwrap()]).start()
    };
    let mut segd = started("knows");
    assert!(scene.arrives(&alice, "alice;"));
    wait::wait_until("the policy is kept", PATIENCE, || kept.exists());
    // The second time it is stopped: NSS goes on to another service, which knows nobody of this name.
    for (what, why) in [("hangs", "does not answer"), ("knows", "nobody has this name")] {
        scene.knows(None);
        let inode = || fs::metadata(&kept).unwrap().ino();
        let before = inode();
        done(segd.unload());
        segd = started(what);
        let warnings = warnings(&segd);
        assert!(warnings.contains("stays") && warnings.contains(why), "{warnings}");
        assert!(scene.arrives(&alice, &format!("alice after a boot, {why};")));
        wait::wait_until("the policy is kept anew", PATIENCE, || inode() != before);
        let text = fs::read_to_string(&kept).unwrap();
        assert!(text.contains(&format!(":{FIRST}}}")), "her number is kept, too");
    }
}

#[test]
fn an_upgrade_without_a_directory_service_goes_by_the_last_numbers() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    scene.knows(Some(FIRST));
    let slice = scene.slice(FIRST);
    let alice = lab.worker(&slice);
    let now = scene.directory.path().join("now");
    std::os::unix::fs::symlink("knows", &now).unwrap();
    let mut segd = scene.start(&lab, "now");
    assert!(scene.arrives(&alice, "alice;"));
    segd.kill();
    fs::remove_file(&now).unwrap();
    std::os::unix::fs::symlink("hangs", &now).unwrap();
    segd.restart_as(&segd_tests::segd::other_layout(), &[]);
    assert!(warnings(&segd).contains("stays"), "{}", warnings(&segd));
    assert!(scene.arrives(&alice, "alice after the upgrade;"));
}

#[test]
fn a_reload_looks_up_who_has_which_number() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    let (first, other) = (scene.slice(FIRST), scene.slice(OTHER));
    let (first, other) = (lab.worker(&first), lab.worker(&other));
    let segd = scene.start(&lab, "knows");
    let who = |token: &str| {
        [(&first, "first"), (&other, "other")]
            .map(|(from, name)| scene.arrives(from, &format!("{name} {token};")))
    };
    assert_eq!(who("not made yet"), [false, false]);
    assert!(warnings(&segd).contains("is not known"), "{}", warnings(&segd));

    let mut revision = segd.revision();
    for (number, arrives) in [
        (Some(FIRST), [true, false]),
        (Some(OTHER), [false, true]),
        (Some(FIRST), [true, false]),
    ] {
        scene.knows(number);
        done(segd.client(&["reload"]));
        assert_eq!(
            who(&format!("{number:?} after {revision}")),
            arrives,
            "{number:?}"
        );
        assert!(segd.revision() > revision, "{number:?}");
        revision = segd.revision();
        done(segd.client(&["reload"]));
        assert_eq!(segd.revision(), revision, "nothing has changed");
    }

    // Who is gone may be known only to a directory service that is stopped: he is given up when that lasts.
    scene.knows(None);
    done(segd.client(&["reload"]));
    let stays = format!("the last known number {FIRST} stays until");
    assert!(warnings(&segd).contains(&stays), "{}", warnings(&segd));
    assert_eq!(segd.revision(), revision);
    assert_eq!(who("gone for a moment"), [true, false]);

    // SIGHUP asks for the same.
    scene.knows(Some(OTHER));
    segd_tests::sys::kill(segd.pid(), libc::SIGHUP);
    wait::wait_until("a revision after SIGHUP", PATIENCE, || segd.revision() > revision);
    assert_eq!(who("SIGHUP"), [false, true]);

    // What a client brought stays his.
    let own = scene.directory.path().join("own.yaml");
    fs::write(&own, scene.policy("alice")).unwrap();
    done(applied(&segd, &own));
    assert_eq!(segd.json(&["status"])["policy_source"], "applied");
    assert_eq!(who("applied"), [false, true]);
}

#[test]
fn a_number_that_another_segment_has_changes_nothing_and_is_told() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    scene.knows(Some(FIRST));
    let (first, other) = (scene.slice(FIRST), scene.slice(OTHER));
    let (first, other) = (lab.worker(&first), lab.worker(&other));
    let bob = format!("  segments:\n    bob: {{match: [{{user: {OTHER}}}]}}\n");
    let policy = scene.policy("alice").replacen("  segments:\n", &bob, 1);
    let segd = lab.segd(&policy).after(&scene.mounts("knows")).start();
    let (revision, claimed) = (segd.revision(), "claimed with equal right");
    scene.knows(Some(OTHER));
    let output = segd.client(&["reload"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2) && said.contains(claimed),
        "{output:?}"
    );
    assert!(warnings(&segd).contains(claimed), "{}", warnings(&segd));
    assert_eq!(segd.revision(), revision);
    assert!(scene.arrives(&first, "what is in force stays;"));
    assert!(!scene.arrives(&other, "bob is not alice;"));
    scene.knows(Some(FIRST));
    done(segd.client(&["reload"]));
    assert!(!warnings(&segd).contains(claimed), "{}", warnings(&segd));
    assert_eq!(segd.revision(), revision);
}

/// The files are read once more when their users were asked about, and somebody else may be at work by then.
#[test]
fn half_a_policy_stays_out_of_force_however_long_users_are_asked_about() {
    const HALF: &str =
        "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: guardrails}\nspec:\n  allow: []\n";
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    let web = lab.worker(&scene.web);
    let guardrails = format!("{HALF}  deny:\n    - {{from: web, to: db}}\n");
    let segd = lab.segd(&scene.policy("[alice, web]"));
    let segd = segd.after(&scene.talks("hangs"));
    let segd = segd.file("guardrails.yaml", &guardrails).start();
    assert!(!scene.arrives(&web, "start;"));
    let (revision, [begun, ended]) = (segd.revision(), rounds(&segd));
    let path = segd.policy_path().join("policy.yaml");
    segd_tests::segd::write_atomically(&path, &scene.policy("[web, alice]"));
    wait::wait_until("users are asked about", PATIENCE, || rounds(&segd)[0] > begun);
    let mut file = fs::File::create(segd.policy_path().join("guardrails.yaml")).unwrap();
    file.write_all(HALF.as_bytes()).unwrap();
    let mut more = 0;
    while more < 3 {
        assert!(!scene.arrives(&web, &format!("half, and {more} more;")));
        file.write_all(b"# more\n").unwrap();
        more += usize::from(rounds(&segd)[1] > ended);
    }
    assert_eq!(segd.revision(), revision, "nobody took half of it");
    file.write_all(&guardrails.as_bytes()[HALF.len()..]).unwrap();
    drop(file);
    wait::wait_until("what was written is in force", PATIENCE, || {
        segd.revision() > revision
    });
    assert!(!scene.arrives(&web, "whole;"));
}

#[test]
fn what_comes_into_force_while_a_request_waits_for_users_stays() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    let segd = lab.segd(&scene.policy("[alice, web]"));
    let segd = segd.after(&scene.talks("hangs")).start();
    let write = |name: &str, text: &str| {
        let path = scene.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let users = write("users.yaml", &scene.policy("alice"));
    let nobodys = |from: &str| {
        let policy = scene.policy(from);
        policy.replace("    alice: {match: [{user: segd-t-alice}]}\n", "")
    };
    let one = write("one.yaml", &nobodys("web"));
    let other = write("other.yaml", &nobodys("world"));
    for request in [&["reload"] as &[&str], &["rollback"], &["apply", &users]] {
        // So that there is something with users to go back to.
        done(segd.client(&["apply", &users]));
        done(segd.client(&["apply", &one]));
        let said = meanwhile(&segd, request, || done(segd.client(&["apply", &other])));
        let why = String::from_utf8_lossy(&said.stderr);
        assert!(
            said.status.code() == Some(1) && why.contains("came into force meanwhile"),
            "{request:?}: {said:?}"
        );
        assert_eq!(segd.json(&["status"])["policy_source"], "applied", "{request:?}");
        let warnings = warnings(&segd);
        assert!(!warnings.contains("alice"), "{request:?}: {warnings}");
    }
    // What the files were before stays out of force, too, and the log says why.
    let [begun, _] = rounds(&segd);
    let path = segd.policy_path().join("policy.yaml");
    segd_tests::segd::write_atomically(&path, &scene.policy("[web, alice]"));
    wait::wait_until("users are asked about", PATIENCE, || rounds(&segd)[0] > begun);
    done(segd.client(&["apply", &one]));
    wait::wait_until("it is told", PATIENCE, || {
        segd.log().contains("are older than revision")
    });
    assert_eq!(segd.json(&["status"])["policy_source"], "applied");
    // Without anything in between they are done.
    done(segd.client(&["rollback"]));
    done(segd.client(&["reload"]));
    assert_eq!(segd.json(&["status"])["policy_source"], "files");
}

/// Numbers that are others now are no policy that somebody brought.
#[test]
fn other_numbers_that_come_while_a_request_waits_for_users_do_not_refuse_it() {
    let Some(lab) = Lab::open() else { return };
    let scene = Scene::new(&lab);
    scene.knows(Some(FIRST));
    let segd = lab.segd(&scene.policy("[alice, web]"));
    let segd = segd.after(&scene.talks("knows")).start();
    let revision = segd.revision();
    let another = scene.policy("web").replace("segd-t-alice", "segd-t-bob");
    let path = scene.directory.path().join("another.yaml");
    fs::write(&path, another).unwrap();
    scene.shows(&segd, "hangs");
    let said = meanwhile(&segd, &["apply", path.to_str().unwrap()], || {
        scene.shows(&segd, "knows");
        scene.knows(Some(OTHER));
        done(segd.client(&["reload"]));
        assert_eq!(segd.revision(), revision + 1, "she has another number");
    });
    done(said);
    assert_eq!(segd.revision(), revision + 2);
    assert_eq!(segd.json(&["status"])["policy_source"], "applied");
}
