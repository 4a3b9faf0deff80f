//! Reading policies from files and directories, odd ones included.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use super::*;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
    fs::write(path, text).expect("a file");
}

#[track_caller]
fn names(root: &Path) -> Vec<String> {
    let sources = read(&[root.to_owned()]).expect("readable").sources;
    let strip = |source: Source| source.name.replace(&format!("{}/", root.display()), "");
    sources.into_iter().map(strip).collect()
}

#[test]
fn reads_a_directory_recursively_and_in_order() {
    let root = directory();
    for name in ["b.yaml", "a.yml", "sub/c.yaml", "sub.yaml/d.yaml"] {
        write(&root.path().join(name), "x");
    }
    assert_eq!(
        names(root.path()),
        ["a.yml", "b.yaml", "sub.yaml/d.yaml", "sub/c.yaml"]
    );
}

#[test]
fn passes_over_hidden_files_and_what_editors_leave() {
    let root = directory();
    write(&root.path().join("policy.yaml"), "x");
    for name in [
        ".policy.yaml.swp",
        "policy.yaml~",
        "#policy.yaml#",
        "4913",
        "README.md",
        ".git/x.yaml",
        "p.yaml.bak",
    ] {
        write(&root.path().join(name), "not a policy");
    }
    symlink("nobody@nowhere:1", root.path().join(".#policy.yaml")).expect("a lock file");
    assert_eq!(names(root.path()), ["policy.yaml"]);
}

#[test]
fn reads_a_config_map_once_and_follows_its_swap() {
    let root = directory();
    let mount = root.path();
    write(&mount.join("..2024_1/policy.yaml"), "one");
    write(&mount.join("..2024_1/sub/more.yaml"), "more");
    symlink("..2024_1", mount.join("..data")).expect("a link");
    symlink("..data/policy.yaml", mount.join("policy.yaml")).expect("a link");
    symlink("..data/sub", mount.join("sub")).expect("a link");
    assert_eq!(names(mount), ["policy.yaml", "sub/more.yaml"]);
    let before = read(&[mount.to_owned()]).expect("readable");

    write(&mount.join("..2024_2/policy.yaml"), "two");
    write(&mount.join("..2024_2/sub/more.yaml"), "more");
    symlink("..2024_2", mount.join("..data_tmp")).expect("a link");
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).expect("the swap");
    fs::remove_dir_all(mount.join("..2024_1")).expect("the old one");
    let after = read(&[mount.to_owned()]).expect("readable");
    assert_eq!(
        after.sources.first().map(|source| source.text.as_str()),
        Some("two")
    );
    assert_ne!(before.hash, after.hash);
}

#[test]
fn reads_through_a_link_that_git_sync_swaps() {
    let root = directory();
    write(&root.path().join("worktrees/1/policy.yaml"), "one");
    symlink("worktrees/1", root.path().join("current")).expect("a link");
    assert_eq!(names(&root.path().join("current")), ["policy.yaml"]);
}

#[test]
fn hashes_names_and_texts_and_nothing_else() {
    let root = directory();
    let file = root.path().join("a.yaml");
    let hash = || read(&[root.path().to_owned()]).expect("readable").hash;
    write(&file, "one");
    let one = hash();
    write(&file, "one");
    assert_eq!(hash(), one, "writing the same again changes nothing");
    write(&file, "two");
    assert_ne!(hash(), one);
    write(&file, "one");
    fs::rename(&file, root.path().join("b.yaml")).expect("renamed");
    assert_ne!(hash(), one, "places in the policy have changed");
}

#[test]
fn hash_of_nothing_is_the_same_for_ever() {
    assert_eq!(
        read(&[]).expect("nothing").hash.to_string(),
        "6c62272e07bb014262b821756295c58d"
    );
}

#[test]
fn a_path_given_twice_is_read_once() {
    let root = directory();
    let file = root.path().join("a.yaml");
    write(&file, "one");
    assert_eq!(
        read(&[file.clone(), file, root.path().to_owned()])
            .expect("readable")
            .sources
            .len(),
        1
    );
}

#[test]
fn never_waits_for_a_pipe_or_reads_a_device() {
    let root = directory();
    let pipe = root.path().join("pipe.yaml");
    let made = std::process::Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .expect("mkfifo runs");
    assert!(made.success());
    let start = Instant::now();
    let error = read(&[root.path().to_owned()]).expect_err("a pipe is no policy");
    assert!(matches!(error, SourceError::NotAFile { .. }), "{error}");
    assert!(matches!(
        read(&["/dev/zero".into()]),
        Err(SourceError::NotAFile { .. })
    ));
    assert!(start.elapsed() < Duration::from_secs(2), "reading must not wait");
}

#[test]
fn names_path_and_operation() {
    let root = directory();
    symlink("gone", root.path().join("dangling.yaml")).expect("a link");
    let error = read(&[root.path().to_owned()]).expect_err("a dangling link is a policy that is not there");
    assert!(error.to_string().contains("cannot read"), "{error}");
    assert!(error.to_string().contains("dangling.yaml"), "{error}");
}

#[test]
fn says_where_a_text_is_not_utf8() {
    let root = directory();
    fs::write(root.path().join("a.yaml"), b"abc\xffdef").expect("a file");
    let error = read(&[root.path().to_owned()]).expect_err("not UTF-8");
    assert!(
        error
            .to_string()
            .ends_with("a.yaml` is not UTF-8: invalid byte at offset 3"),
        "{error}"
    );
}

#[test]
fn refuses_more_than_the_limit_without_reading_it() {
    let root = directory();
    let file = root.path().join("a.yaml");
    fs::File::create(&file)
        .and_then(|file| file.set_len(1 << 30))
        .expect("a sparse file");
    let start = Instant::now();
    assert!(matches!(read(&[file]), Err(SourceError::TooLarge { .. })));
    assert!(start.elapsed() < Duration::from_secs(1), "a gigabyte is not read");
}

#[test]
fn a_loop_of_links_ends() {
    let root = directory();
    write(&root.path().join("a.yaml"), "x");
    symlink(".", root.path().join("again")).expect("a link");
    assert_eq!(names(root.path()), ["a.yaml"]);
}
