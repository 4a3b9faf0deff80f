//! Policies that must be signed, and the commit that a policy comes from, with real ssh-keygen and git.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use segd_tests::{
    Lab, Segd,
    segd::{Builder, binary, write_atomically},
    wait::{self, PATIENCE},
};

fn policy(segment: &str) -> String {
    format!(
        "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {{name: signed}}\nspec:\n  segments:\n    \
         {segment}: {{match: [{{cgroup: /segd-t-no-such/{segment}}}]}}\n  allow:\n    - {{from: {segment}, to: host, ports: [tcp/1]}}\n"
    )
}

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

/// Keys, who may sign, the count of serials, and a policy directory.
struct Stage {
    directory: tempfile::TempDir,
}

impl Stage {
    fn new() -> Stage {
        let directory = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
        let stage = Stage { directory };
        for name in ["alice", "mallory"] {
            must(
                "ssh-keygen",
                &["-q", "-t", "ed25519", "-N", "", "-f", name],
                stage.path(),
            );
        }
        let key = fs::read_to_string(stage.at("alice.pub")).unwrap();
        fs::write(stage.at("signers"), format!("alice@example.org {key}")).unwrap();
        fs::create_dir(stage.at("policy")).unwrap();
        fs::write(stage.at("policy/a.yaml"), policy("one")).unwrap();
        stage.sign("policy", "alice");
        stage
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn sign(&self, path: &str, key: &str) {
        must(binary(), &["policy", "sign", path, "--key", key], self.path());
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

    fn trust_reset(&self) {
        must(
            binary(),
            &["policy", "trust-reset", "--state-dir", "state"],
            self.path(),
        );
    }
}

fn serial(segd: &Segd) -> u64 {
    segd.json(&["status"])["policy_serial"].as_u64().unwrap()
}

/// Asks for a reload, or whatever, that must be refused: what it says, and what is in force stays.
#[track_caller]
fn refused(segd: &Segd, words: &[&str], said: &str) {
    let (before, failures) = (
        segd.revision(),
        segd.metric("segd_policy_reload_total", &[("result", "failure")]),
    );
    let output = segd.client(words);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words:?}: {text}");
    assert!(text.contains(said), "{said}: {text}");
    assert_eq!(segd.revision(), before, "what is in force stays");
    let now = segd.metric("segd_policy_reload_total", &[("result", "failure")]);
    assert!(now >= failures && now >= Some(1.0), "{failures:?} {now:?}");
}

#[test]
fn only_what_is_signed_and_not_older_comes_into_force() {
    let Some(_lab) = Lab::open() else { return };
    let stage = Stage::new();
    let (status, said) = stage.builder().start_failing();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("trust-reset"), "{said}");
    stage.trust_reset();
    let mut segd = stage.builder().start();
    assert_eq!(serial(&segd), 1);

    // Kept aside, to be replayed.
    let old = stage.at("old");
    fs::create_dir(&old).unwrap();
    for name in ["a.yaml", "segd.manifest", "segd.manifest.sig"] {
        fs::copy(stage.at("policy").join(name), old.join(name)).unwrap();
    }
    write_atomically(&stage.at("policy/a.yaml"), &policy("two"));
    refused(&segd, &["reload"], "is not what was signed");
    stage.sign("policy", "mallory");
    refused(&segd, &["reload"], "is not signed for `segd-policy`");
    stage.sign("policy", "alice");
    assert!(segd.client(&["reload"]).status.success(), "{}", segd.log());
    assert_eq!(serial(&segd), 3);
    fs::write(stage.at("policy/b.yaml"), policy("three")).unwrap();
    refused(&segd, &["reload"], "is not in the signed manifest");
    fs::remove_file(stage.at("policy/b.yaml")).unwrap();

    // By the client: the old one, one without a signature, and a newer one.
    refused(
        &segd,
        &["apply", old.to_str().unwrap()],
        "serial 1 is older than 3",
    );
    let one = stage.at("one.yaml");
    fs::write(&one, policy("four")).unwrap();
    refused(&segd, &["apply", one.to_str().unwrap()], "is not signed");
    must(
        binary(),
        &["policy", "sign", "one.yaml", "--key", "alice", "--serial", "9"],
        stage.path(),
    );
    // A trial raises no mark, and is gone without one.
    assert!(
        segd.client(&["apply", one.to_str().unwrap(), "--confirm", "60s"])
            .status
            .success()
    );
    assert_eq!(serial(&segd), 9);
    assert!(segd.client(&["rollback"]).status.success());
    assert_eq!(serial(&segd), 3);
    assert!(
        fs::read_to_string(stage.at("state/serial"))
            .unwrap()
            .starts_with("serial 3 ")
    );

    // Across a restart: the same is fine, the older is not.
    segd.kill();
    segd.restart();
    assert_eq!(serial(&segd), 3);
    segd.kill();
    for name in ["a.yaml", "segd.manifest", "segd.manifest.sig"] {
        fs::copy(old.join(name), stage.at("policy").join(name)).unwrap();
    }
    let (status, said) = segd.restart_failing();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("serial 1 is older than 3"), "{said}");
}

#[test]
fn the_commit_of_a_policy_is_told_and_so_are_changes() {
    let Some(_lab) = Lab::open() else { return };
    let directory = tempfile::Builder::new().prefix("segd-t-").tempdir().unwrap();
    let path = directory.path();
    let git = |words: &[&str]| {
        let who = [
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "-c",
            "commit.gpgsign=false",
        ];
        must("git", &[&who[..], words].concat(), path)
    };
    git(&["init", "-q"]);
    fs::create_dir(path.join("policies")).unwrap();
    let file = path.join("policies/a.yaml");
    fs::write(&file, policy("one")).unwrap();
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "one"]);
    let head = || git(&["rev-parse", "HEAD"]).trim().to_owned();
    let mut segd = Builder::new("").policy_path(path.join("policies")).start();
    let told = |segd: &Segd, commit: &str, dirty: bool| {
        wait::wait_until(format!("{commit} {dirty}"), PATIENCE, || {
            let status = segd.json(&["status"]);
            status["policy_commit"] == commit && status["policy_dirty"] == dirty
        });
        let dirty = dirty.to_string();
        let labels = [("commit", commit), ("dirty", dirty.as_str()), ("source", "files")];
        assert_eq!(segd.metric("segd_policy_info", &labels), Some(1.0));
    };
    let first = head();
    told(&segd, &first, false);
    segd.reload(|_| write_atomically(&file, &policy("two")));
    told(&segd, &first, true);
    git(&["commit", "-q", "-a", "-m", "two"]);
    assert!(segd.client(&["reload"]).status.success());
    let second = head();
    assert_ne!(first, second);
    told(&segd, &second, false);
    segd.kill();
    segd.restart();
    told(&segd, &second, false);
}
