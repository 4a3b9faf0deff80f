//! Policies that must be signed, and the commit that a policy comes from: with real keys, a real ssh-keygen, a real git.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use segd_tests::{
    Cgroup, Kind, Lab, Machine, Segd, Worker,
    segd::{Builder, binary, write_atomically},
    wait::{self, PATIENCE},
    worker::Handle,
};

fn run(program: impl AsRef<Path>, words: &[&str], directory: &Path) -> Output {
    let mut command = Command::new(program.as_ref());
    command.args(words).current_dir(directory).output().unwrap()
}

#[track_caller]
fn must(program: impl AsRef<Path>, words: &[&str], directory: &Path) -> String {
    let output = run(program, words, directory);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Keys, and who may sign.
struct Keys {
    directory: tempfile::TempDir,
}

impl Keys {
    fn new() -> Keys {
        let directory = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
        let keys = Keys { directory };
        for name in ["alice", "mallory"] {
            let words = ["-q", "-t", "ed25519", "-N", "", "-f", name];
            must("ssh-keygen", &words, keys.path());
        }
        let key = fs::read_to_string(keys.at("alice.pub")).unwrap();
        fs::write(keys.at("signers"), format!("alice@example.org {key}")).unwrap();
        keys
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    #[track_caller]
    fn sign(&self, policy: &Path, key: &str, more: &[&str]) {
        let words = ["policy", "sign", policy.to_str().unwrap(), "--key", key];
        must(binary(), &[&words[..], more].concat(), self.path());
    }
}

/// A client, a server with two doors, and signed policies, each of which opens one of them.
struct Stage {
    keys: Keys,
    web: Worker,
    db: Worker,
    doors: [Handle; 2],
    cgroups: [Cgroup; 2],
}

impl Stage {
    fn new(lab: &Lab) -> Stage {
        let cgroups = [lab.cgroup("web"), lab.cgroup("db")];
        let (web, db) = (lab.worker(&cgroups[0]), lab.worker(&cgroups[1]));
        let doors = [(); 2].map(|()| db.listen_tcp((Ipv4Addr::LOCALHOST, 0)));
        let stage = Stage {
            keys: Keys::new(),
            web,
            db,
            doors,
            cgroups,
        };
        fs::create_dir(stage.at("policy")).unwrap();
        stage.write("policy/a.yaml", 0);
        stage.sign("policy", "alice", &[]);
        stage
    }

    fn at(&self, name: &str) -> PathBuf {
        self.keys.at(name)
    }

    /// The policy that opens a door.
    fn text(&self, door: usize) -> String {
        format!(
            "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {{name: signed}}\nspec:\n  segments:\n    \
             web: {{match: [{{cgroup: {}}}]}}\n    db: {{match: [{{cgroup: {}}}]}}\n  \
             allow:\n    - {{from: web, to: db, ports: [tcp/{}]}}\n",
            self.cgroups[0].path(),
            self.cgroups[1].path(),
            self.doors[door].local.port()
        )
    }

    fn write(&self, name: &str, door: usize) {
        write_atomically(&self.at(name), &self.text(door));
    }

    #[track_caller]
    fn sign(&self, policy: &str, key: &str, more: &[&str]) {
        self.keys.sign(&self.at(policy), key, more);
    }

    /// Copies a signed directory.
    fn copy(&self, from: &str, to: &str) {
        fs::create_dir_all(self.at(to)).unwrap();
        for name in ["segd.manifest.sig", "segd.manifest", "a.yaml"] {
            let text = fs::read_to_string(self.at(from).join(name)).unwrap();
            write_atomically(&self.at(to).join(name), &text);
        }
    }

    fn builder(&self) -> Builder {
        let (signers, state) = (self.at("signers"), self.at("state"));
        let words = [
            "--require-signature",
            signers.to_str().unwrap(),
            "--state-dir",
            state.to_str().unwrap(),
        ];
        Builder::new("").policy_path(self.at("policy")).args(&words)
    }

    /// Real connections go through one door and not through the other.
    #[track_caller]
    fn opens(&self, door: usize, token: &str) {
        for (at, listener) in self.doors.iter().enumerate() {
            let token = format!("{token} {at};");
            let result = self.web.probe(Kind::Tcp, listener.local, &token).result;
            assert_eq!(result == "ok", at == door, "{token} {result}");
            if at == door {
                self.db.wait_for_message(*listener, &token);
            } else {
                assert!(!self.db.inbox(*listener).has(&token), "{token}");
            }
        }
    }

    /// What is kept of serials.
    fn kept(&self) -> String {
        fs::read_to_string(self.at("state/serial")).unwrap_or_default()
    }

    /// Something happens to the files, or a client comes: it is refused, everybody is told, and what is in force stays.
    #[track_caller]
    fn refused(&self, segd: &Segd, change: impl FnOnce(), words: &[&str], said: &str) {
        let before = (segd.revision(), serial(segd), self.kept());
        let failures = failures(segd);
        change();
        let output = segd.client(words);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {text}");
        assert!(text.contains(said), "{said}: {text}");
        wait::wait_until(format!("{said}: {}", segd.log()), PATIENCE, || {
            segd.log().contains(said)
        });
        let status = segd.json(&["status"]);
        assert_eq!(status["last_reload"]["result"], "failure", "{status}");
        let error = status["last_reload"]["error"].as_str().unwrap();
        assert!(error.contains(said), "{said}: {error}");
        assert!(self::failures(segd) > failures, "it is counted: {said}");
        assert_eq!((segd.revision(), serial(segd), self.kept()), before);
    }
}

fn serial(segd: &Segd) -> u64 {
    segd.json(&["status"])["policy_serial"].as_u64().unwrap()
}

fn failures(segd: &Segd) -> f64 {
    let labels = [("result", "failure")];
    segd.metric("segd_policy_reload_total", &labels).unwrap_or(0.0)
}

#[test]
fn files_come_into_force_only_signed_whole_and_not_older() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let mut segd = stage.builder().start();
    assert!(segd.log().contains("taken on trust"), "{}", segd.log());
    assert_eq!(serial(&segd), 1);
    assert_eq!(segd.json(&["status"])["policy_signer"], "alice@example.org");
    stage.opens(0, "first");
    stage.copy("policy", "old");

    let reload = ["reload"];
    stage.refused(
        &segd,
        || stage.write("policy/a.yaml", 1),
        &reload,
        "is not what was signed",
    );
    stage.opens(0, "a changed file");
    stage.refused(
        &segd,
        || stage.sign("policy", "mallory", &[]),
        &reload,
        "is not signed for `segd-policy`",
    );
    stage.opens(0, "somebody else's signature");
    stage.sign("policy", "alice", &[]);
    wait::wait_until("the signed policy is in force", PATIENCE, || serial(&segd) == 3);
    stage.opens(1, "signed");
    assert_eq!(segd.json(&["status"])["last_reload"]["result"], "success");

    // One byte: of the text, of what is signed, of the signature.
    let manifest = stage.at("policy/segd.manifest");
    for (file, from, to) in [
        (stage.at("policy/a.yaml"), "name: signed", "name: singed"),
        (manifest.clone(), "serial 3", "serial 4"),
        (stage.at("policy/segd.manifest.sig"), "\nU1NI", "\nU1NJ"),
    ] {
        let whole = fs::read_to_string(&file).unwrap();
        let changed = whole.replacen(from, to, 1);
        assert_ne!(whole, changed, "{}", file.display());
        stage.refused(&segd, || write_atomically(&file, &changed), &reload, "signed");
        write_atomically(&file, &whole);
        assert!(segd.client(&reload).status.success(), "{}", segd.log());
    }
    stage.opens(1, "tampered with");
    let more = stage.at("policy/more.yaml");
    let add = || fs::write(&more, "").unwrap();
    stage.refused(&segd, add, &reload, "is not in the signed manifest");
    fs::remove_file(&more).unwrap();

    // Signed by the right one, for something else.
    let elsewhere = || {
        let signature = stage.at("policy/segd.manifest.sig");
        fs::remove_file(&signature).unwrap();
        let words = [
            "-q",
            "-Y",
            "sign",
            "-n",
            "file",
            "-f",
            "alice",
            manifest.to_str().unwrap(),
        ];
        must("ssh-keygen", &words, stage.keys.path());
    };
    stage.refused(&segd, elsewhere, &reload, "is not signed for `segd-policy`");

    // Signed by the right one, and not newer.
    let again = || {
        stage.write("policy/a.yaml", 0);
        stage.sign("policy", "alice", &["--serial", "3"]);
    };
    stage.refused(
        &segd,
        again,
        &reload,
        "serial 3 was accepted before, for another policy",
    );
    stage.refused(
        &segd,
        || stage.copy("old", "policy"),
        &reload,
        "serial 1 is older than 3",
    );
    stage.opens(1, "replayed");

    // Nor after a restart; and enforcement did not depend on the daemon.
    segd.kill();
    let (status, said) = segd.restart_failing();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("serial 1 is older than 3"), "{said}");
    stage.opens(1, "replayed to a new daemon");
    // Whoever loses the count has not lost what is in force.
    fs::remove_dir_all(stage.at("state")).unwrap();
    let (_, said) = segd.restart_failing();
    assert!(said.contains("serial 1 is older than 3"), "{said}");
    stage.write("policy/a.yaml", 1);
    stage.sign("policy", "alice", &["--serial", "4"]);
    segd.restart();
    assert_eq!(serial(&segd), 4, "the same texts, signed anew");
    stage.opens(1, "restarted");
}

#[test]
fn clients_bring_signed_policies_and_a_trial_is_accepted_when_it_is_confirmed() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let mut segd = stage.builder().start();
    stage.copy("policy", "old");
    let [one, old] = [stage.at("one.yaml"), stage.at("old")].map(|path| path.to_str().unwrap().to_owned());
    let apply = ["apply", one.as_str()];
    stage.write("one.yaml", 1);
    for _ in 0..2 {
        stage.refused(&segd, || (), &apply, "is not signed");
    }
    stage.sign("one.yaml", "mallory", &["--serial", "9"]);
    stage.refused(&segd, || (), &apply, "is not signed for `segd-policy`");
    stage.sign("one.yaml", "alice", &["--serial", "9"]);
    let first = stage.kept();
    assert!(first.starts_with("serial 1 "), "{first}");

    // Rolled back, and run out: nothing was accepted, and what was in force is so for the next daemon, too.
    let trial = |time: &str| {
        let output = segd.client(&["apply", one.as_str(), "--confirm", time]);
        assert!(output.status.success(), "{output:?}");
    };
    trial("60s");
    assert_eq!(segd.json(&["status"])["last_reload"]["result"], "success");
    stage.opens(1, "on trial");
    assert_eq!((serial(&segd), stage.kept()), (9, first.clone()));
    assert!(segd.client(&["rollback"]).status.success());
    stage.opens(0, "rolled back");
    trial("1s");
    wait::wait_until("the trial is over", PATIENCE, || serial(&segd) == 1);
    assert_eq!(stage.kept(), first);
    trial("60s");
    segd.kill();
    segd.restart();
    assert_eq!(serial(&segd), 9, "the trial goes on");
    assert!(segd.client(&["confirm"]).status.success());
    let confirmed = stage.kept();
    assert!(
        confirmed.starts_with("serial 9 ") && !confirmed.contains("back"),
        "{confirmed}"
    );
    stage.refused(&segd, || (), &["apply", old.as_str()], "serial 1 is older than 9");
    stage.opens(1, "confirmed");

    // As the kernel has it, the applied policy stays; after a boot the files would be a step back.
    segd.kill();
    segd.restart();
    assert_eq!(serial(&segd), 9);
    segd.kill();
    segd.unload();
    let (status, said) = segd.restart_failing();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("serial 1 is older than 9"), "{said}");

    // What was rolled back to is acceptable again, even after a boot, and only that.
    stage.write("policy/a.yaml", 0);
    stage.sign("policy", "alice", &["--serial", "10"]);
    segd.restart();
    stage.copy("policy", "ten");
    stage.sign("one.yaml", "alice", &["--serial", "12"]);
    assert!(segd.client(&apply).status.success());
    stage.opens(1, "applied");
    assert!(segd.client(&["rollback"]).status.success());
    stage.opens(0, "and rolled back");
    assert_eq!(serial(&segd), 10);
    segd.kill();
    segd.restart();
    segd.kill();
    segd.unload();
    segd.restart();
    assert_eq!(serial(&segd), 10);
    let between = || {
        stage.write("policy/a.yaml", 1);
        stage.sign("policy", "alice", &["--serial", "11"]);
    };
    stage.refused(&segd, between, &["reload"], "serial 11 is older than 12");
    stage.copy("ten", "policy");
    assert!(segd.client(&["reload"]).status.success());

    // Nobody knows what was accepted: nothing is.
    segd.kill();
    fs::write(stage.at("state/serial"), "serial 1").unwrap();
    let (status, said) = segd.restart_failing();
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("damaged") && said.contains("trust-reset"), "{said}");
    let words = ["policy", "trust-reset", "--state-dir", "state"];
    must(binary(), &words, stage.keys.path());
    stage.copy("old", "policy");
    segd.restart();
    assert_eq!(serial(&segd), 1, "the operator's word");
}

#[test]
fn a_boot_whose_files_are_a_step_back_or_not_signed_enforces_the_last_good_policy() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let good = stage.at("good");
    let words = ["--last-good", good.to_str().unwrap()];
    let mut segd = stage.builder().args(&words).start();
    let one = stage.at("one.yaml");
    stage.write("one.yaml", 1);
    stage.sign("one.yaml", "alice", &["--serial", "9"]);
    let output = segd.client(&["apply", one.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let kept = || fs::read_to_string(&good).unwrap_or_default();
    wait::wait_until("it is kept", PATIENCE, || kept().contains("\"serial\":9"));
    let boot = |segd: &mut Segd, said: &str| {
        segd.kill();
        segd.unload();
        segd.restart();
        stage.opens(1, said);
        assert_eq!(serial(segd), 9);
        let status = segd.json(&["status"]);
        let error = status["last_reload"]["error"].as_str().unwrap_or_default();
        assert!(error.contains(said), "{status}");
        assert!(stage.kept().starts_with("serial 9 "), "{}", stage.kept());
    };
    boot(&mut segd, "serial 1 is older than 9");
    fs::remove_file(stage.at("policy/segd.manifest")).unwrap();
    boot(&mut segd, "is not signed");
    // What was kept before signatures were required is not believed.
    segd.kill();
    segd.unload();
    let unsigned = kept().replace("\"signature\":{", "\"other\":{");
    assert_ne!(unsigned, kept());
    fs::write(&good, unsigned).unwrap();
    let (status, said) = segd.restart_failing();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("the policy is not signed"), "{said}");
}

#[test]
fn a_verifier_that_hangs_keeps_nobody_waiting_but_who_asked() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let (bin, hang) = (stage.at("bin"), stage.at("hang"));
    fs::create_dir(&bin).unwrap();
    // A name that no other process bears.
    let script = format!(
        "#!/bin/sh\n[ ! -e {hang} ] || /bin/sleep 300.{}\nexec /usr/bin/ssh-keygen \"$@\"\n",
        std::process::id(),
        hang = hang.display()
    );
    fs::write(bin.join("ssh-keygen"), script).unwrap();
    must("chmod", &["755", "bin/ssh-keygen"], stage.keys.path());
    let segd = stage
        .builder()
        .after(&format!("export PATH={}:$PATH", bin.display()))
        .start();
    stage.write("policy/a.yaml", 1);
    fs::write(&hang, "").unwrap();
    stage.sign("policy", "alice", &[]);
    let mut reload = Command::new(binary())
        .args(["reload", "--control"])
        .arg(segd.control())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let sleepers = || {
        let name = format!("300.{}", std::process::id());
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
        lines
            .filter(|line| line.split(|byte| *byte == 0).any(|word| word == name.as_bytes()))
            .count()
    };
    wait::wait_until("ssh-keygen hangs", PATIENCE, || sleepers() > 0);
    let began = Instant::now();
    // The loop answers this one, after everything that came before.
    let output = segd.client(&["confirm"]);
    let took = began.elapsed();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(took < wait::patient(Duration::from_secs(4)), "{took:?}");
    assert!(reload.try_wait().unwrap().is_none(), "it still waits");
    stage.opens(0, "meanwhile");
    // It is over by itself, and whoever waits is told before he gives up.
    let output = reload.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("did not answer in time"), "{said}");
    assert!(failures(&segd) >= 1.0);
    fs::remove_file(&hang).unwrap();
    wait::wait_until("it is verified at last", PATIENCE, || serial(&segd) == 2);
    wait::wait_until("what hung is gone", PATIENCE, || sleepers() == 0);
    stage.opens(1, "verified");
}

/// A repository with a policy below `directory`.
/// That its numbers have to be asked for does not ask for another signature.
#[test]
fn a_signed_policy_may_name_users() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let segd = stage.builder().start();
    for (door, asked) in [(1, true), (0, false)] {
        let named = "    admin: {match: [{user: root}]}\n  allow:";
        let text = stage.text(door).replacen("  allow:", named, 1);
        write_atomically(&stage.at("policy/a.yaml"), &text);
        stage.sign("policy", "alice", &[]);
        if asked {
            let output = segd.client(&["reload"]);
            assert!(output.status.success(), "{output:?}");
        }
        let next = if asked { 2 } else { 3 };
        wait::wait_until("the next serial", PATIENCE, || serial(&segd) == next);
        stage.opens(door, &format!("serial {next}"));
    }
    let revision = segd.revision();
    let output = segd.client(&["reload"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(segd.revision(), revision, "nothing has changed");
}

fn commit(directory: &Path, message: &str) -> String {
    let git = |words: &[&str]| {
        let who = [
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "-c",
            "commit.gpgsign=false",
        ];
        must("git", &[&who[..], words].concat(), directory)
    };
    git(&["init", "-q"]);
    git(&["add", "-A"]);
    git(&["commit", "-q", "--allow-empty", "-m", message]);
    git(&["rev-parse", "HEAD"]).trim().to_owned()
}

#[test]
fn the_commit_of_a_policy_is_told_and_so_are_changes() {
    let Some(lab) = Lab::open() else { return };
    let stage = Stage::new(&lab);
    let top = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
    let policies = top.path().join("policies");
    fs::create_dir(&policies).unwrap();
    let file = policies.join("a.yaml");
    fs::write(&file, stage.text(0)).unwrap();
    let first = commit(top.path(), "one");
    // Whatever the repository wants run is not run.
    let trap = top.path().join("trapped");
    let hook = top.path().join("hook");
    fs::write(&hook, format!("#!/bin/sh\ntouch {}\ncat\n", trap.display())).unwrap();
    must("chmod", &["755", "hook"], top.path());
    for name in [
        "core.fsmonitor",
        "core.pager",
        "filter.x.smudge",
        "filter.x.clean",
        "diff.x.textconv",
    ] {
        must("git", &["config", name, hook.to_str().unwrap()], top.path());
    }
    fs::write(top.path().join(".git/info/attributes"), "* filter=x diff=x\n").unwrap();

    let mut segd = Builder::new("").policy_path(&policies).start();
    let told = |segd: &Segd, commit: &str, dirty: bool| {
        wait::wait_until(format!("{commit} {dirty}"), PATIENCE, || {
            let status = segd.json(&["status"]);
            status["policy_commit"] == commit && status["policy_dirty"] == dirty
        });
        assert_eq!(segd.json(&["status"])["policy_commit_by"], "git");
        let dirty = dirty.to_string();
        let labels = [("commit", commit), ("dirty", dirty.as_str()), ("source", "files")];
        assert_eq!(segd.metric("segd_policy_info", &labels), Some(1.0));
    };
    let logged = |segd: &Segd, door: usize, commit: &str| {
        let port = stage.doors[door].local.port();
        wait::wait_until(format!("a flow of {commit} to {port}"), PATIENCE, || {
            let output = segd.client(&["flows", "-o", "json"]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let flows = text.lines().map(|line| serde_json::from_str(line).unwrap());
            let mut flows = flows.filter(|flow: &serde_json::Value| flow["destination_port"] == port);
            flows.any(|flow| flow["commit"] == commit && flow["verdict"] == "allowed")
        });
    };
    told(&segd, &first, false);
    stage.opens(0, "one");
    logged(&segd, 0, &first);

    segd.reload(|_| write_atomically(&file, &stage.text(1)));
    told(&segd, &first, true);
    fs::remove_file(top.path().join(".git/info/attributes")).unwrap();
    let second = commit(top.path(), "two");
    must(
        "git",
        &["config", "core.fsmonitor", hook.to_str().unwrap()],
        top.path(),
    );
    assert!(segd.client(&["reload"]).status.success());
    assert_ne!(first, second);
    told(&segd, &second, false);
    stage.opens(1, "two");
    logged(&segd, 1, &second);
    segd.kill();
    segd.restart();
    told(&segd, &second, false);

    // What git does not know is a change; by a client, it is the client's word.
    let other = top.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("a.yaml"), stage.text(0)).unwrap();
    let output = segd.client(&["apply", other.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let status = segd.json(&["status"]);
    assert_eq!(status["policy_commit"], second.as_str(), "{status}");
    assert_eq!(status["policy_dirty"], true, "{status}");
    assert_eq!(status["policy_commit_by"], "client", "{status}");
    let _ = fs::remove_file(&trap);
    assert!(segd.client(&["reload"]).status.success());
    wait::wait_until("git was asked again", PATIENCE, || {
        segd.json(&["status"])["policy_commit_by"] == "git"
    });
    assert!(!trap.exists(), "the daemon ran what a repository told it");
}

#[test]
fn in_the_unit_s_sandbox_it_verifies_and_asks_git_and_says_what_is_missing() {
    let Some(lab) = Lab::open() else { return };
    let keys = Keys::new();
    let policy = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: unit}\nspec:\n  segments:\n    \
                  web: {match: [{systemd: web.service}]}\n";
    let machine = Machine::boot(&lab, policy);
    let directory = machine.policy_directory();
    fs::copy(keys.at("signers"), directory.join("signers")).unwrap();
    keys.sign(&directory, "alice", &[]);
    let head = commit(&directory, "signed");
    machine.must(&["mkdir", "-p", "/run/systemd/system/segd.service.d"]);
    let start = "[Service]\nExecStart=\nExecStart=/usr/bin/segd run --policy /etc/segd --require-signature /etc/segd/signers\n";
    machine.unit("segd.service.d/signed.conf", start);
    machine.must(&["systemctl", "start", "segd.service"]);
    let status = || -> serde_json::Value {
        serde_json::from_str(&machine.must(&["segd", "status", "-o", "json"])).unwrap()
    };
    assert_eq!(status()["policy_serial"], 1, "{}", machine.journal());
    wait::wait_until("git answers", PATIENCE, || {
        status()["policy_commit"] == head.as_str()
    });
    assert_eq!(status()["policy_dirty"], false);
    let kept = machine.file("/var/lib/segd/serial");
    assert!(kept.starts_with("serial 1 "), "{kept}");

    write_atomically(&directory.join("policy.yaml"), &policy.replace("unit", "more"));
    let refused = machine.run(&["systemctl", "reload", "segd.service"]);
    assert!(!refused.status.success(), "it is not signed");
    keys.sign(&directory, "alice", &[]);
    machine.must(&["systemctl", "reload", "segd.service"]);
    assert_eq!(status()["policy_serial"], 2, "{}", machine.journal());

    // Where the program is not there, that is what is said; enforcement stays as it is, and without git only the commit is unknown.
    let without = "[Service]\nInaccessiblePaths=/usr/bin/ssh-keygen\nRestart=no\n";
    machine.unit("segd.service.d/without.conf", without);
    let failed = machine.run(&["systemctl", "restart", "segd.service"]);
    assert!(!failed.status.success(), "{}", machine.journal());
    let said = machine.journal();
    assert!(
        said.contains("cannot run `ssh-keygen`") && said.contains("openssh-client"),
        "{said}"
    );
    let without = "[Service]\nInaccessiblePaths=/usr/bin/git\n";
    machine.unit("segd.service.d/without.conf", without);
    machine.must(&["systemctl", "restart", "segd.service"]);
    assert_eq!(
        (
            status()["policy_serial"].as_u64(),
            status()["policy_commit"].as_str()
        ),
        (Some(2), None)
    );
}
