//! `deploy/ci/pre-commit` in a repository: it lets right policies be committed, and only those.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what must hold")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const RIGHT: &str = "apiVersion: segd.dev/v1\nkind: SegmentPolicy\nmetadata: {name: shop}\nspec:\n  segments:\n    \
    web: {match: [{cgroup: /web}]}\n    db: {match: [{cgroup: /db}]}\n  allow:\n    \
    - {from: web, to: db, ports: [tcp/5432]}\n  tests:\n    \
    - {from: web, to: db, port: tcp/22, expect: deny}\n";

fn git(repository: &Path, words: &[&str]) -> Output {
    let segd = Path::new(env!("CARGO_BIN_EXE_segd"))
        .parent()
        .expect("a directory");
    let path = std::env::var("PATH").unwrap_or_default();
    Command::new("git")
        .arg("-C")
        .arg(repository)
        .args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "-c",
            "commit.gpgsign=false",
        ])
        .args(words)
        .env("PATH", format!("{}:{path}", segd.display()))
        .env_remove("GIT_DIR")
        .env_remove("GIT_INDEX_FILE")
        .output()
        .expect("git runs")
}

/// Stages a text as the policy and commits it: whether that was let, and what was said.
fn commit(repository: &Path, text: &str) -> (bool, String) {
    fs::write(repository.join("policies/shop.yaml"), text).expect("a file");
    assert!(git(repository, &["add", "-A"]).status.success());
    let done = git(repository, &["commit", "-m", "policy"]);
    let said = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_hook_lets_right_policies_be_committed_and_shows_what_they_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let repository = folder.path();
    assert!(git(repository, &["init", "-q"]).status.success());
    fs::create_dir(repository.join("policies")).expect("a directory");
    let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/ci/pre-commit");
    fs::create_dir_all(repository.join(".git/hooks")).expect("a directory");
    fs::copy(hook, repository.join(".git/hooks/pre-commit")).expect("the hook");
    let (done, said) = commit(repository, RIGHT);
    assert!(done, "{said}");
    let (done, said) = commit(repository, &RIGHT.replace("[tcp/5432]", "[tcp/5432, tcp/5433]"));
    assert!(done, "{said}");
    assert!(said.contains("web -> db  tcp/5433"), "{said}");
    assert!(said.contains("+ policies/shop.yaml:9 shop/allow[0]"), "{said}");
    let (done, said) = commit(
        repository,
        &RIGHT.replace("from: web, to: db, ports", "from: wbe, to: db, ports"),
    );
    assert!(!done && said.contains("did you mean `web`?"), "{said}");
    assert!(said.contains("--> policies/shop.yaml:9:"), "{said}");
    let (done, said) = commit(repository, &RIGHT.replace("[tcp/5432]", "[tcp/22]"));
    assert!(!done && said.contains("test-failed"), "{said}");
    assert!(
        git(repository, &["rm", "-q", "-f", "policies/shop.yaml"])
            .status
            .success()
    );
    let done = git(repository, &["commit", "-m", "none"]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        !done.status.success() && said.contains("deletes the last policy file of policies"),
        "{said}"
    );
    // What is not staged does not count.
    assert!(git(repository, &["reset", "-q", "--hard"]).status.success());
    fs::write(repository.join("policies/shop.yaml"), "broken").expect("a file");
    fs::write(repository.join("notes"), "beside").expect("a file");
    assert!(git(repository, &["add", "notes"]).status.success());
    let done = git(repository, &["commit", "-m", "notes"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    // In a linked working tree git tells its hooks another directory.
    let linked = folder.path().join("linked");
    let name = linked.to_str().expect("UTF-8");
    assert!(
        git(repository, &["worktree", "add", "-q", "-b", "linked", name])
            .status
            .success()
    );
    let (done, said) = commit(&linked, &RIGHT.replace("[tcp/5432]", "[tcp/5434]"));
    assert!(done && said.contains("web -> db  tcp/5434"), "{said}");
}

#[test]
fn the_path_says_which_repository_and_the_environment_does_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let repository = folder.path();
    assert!(git(repository, &["init", "-q"]).status.success());
    fs::create_dir(repository.join("policies")).expect("a directory");
    let (done, said) = commit(repository, RIGHT);
    assert!(done, "{said}");
    let compared = Command::new(env!("CARGO_BIN_EXE_segd"))
        .args(["policy", "diff", "git:HEAD:policies", "policies"])
        .current_dir(repository)
        .env("GIT_DIR", ".git")
        .output()
        .expect("segd runs");
    let said = String::from_utf8_lossy(&compared.stderr);
    assert!(compared.status.success(), "{said}");
}
