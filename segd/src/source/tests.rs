//! Reading policies from files and directories, odd ones included.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
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

fn look(paths: &[PathBuf]) -> Result<Sources, SourceError> {
    read(paths, &Trust::Everybody)
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the mode changes");
}

#[track_caller]
fn names(root: &Path) -> Vec<String> {
    let sources = look(&[root.to_owned()]).expect("readable").sources;
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
    let before = look(&[mount.to_owned()]).expect("readable");

    write(&mount.join("..2024_2/policy.yaml"), "two");
    write(&mount.join("..2024_2/sub/more.yaml"), "more");
    symlink("..2024_2", mount.join("..data_tmp")).expect("a link");
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).expect("the swap");
    fs::remove_dir_all(mount.join("..2024_1")).expect("the old one");
    let after = look(&[mount.to_owned()]).expect("readable");
    assert_eq!(after.sources.first().map(|source| &*source.text), Some("two"));
    assert_ne!(before.sources, after.sources);
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
    let hash = || ContentHash::of(&look(&[root.path().to_owned()]).expect("readable").sources);
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
        ContentHash::of(&look(&[]).expect("nothing").sources).to_string(),
        "6c62272e07bb014262b821756295c58d"
    );
}

#[test]
fn hash_is_the_same_in_every_version() {
    let source = |name: &str, text: &str| Source {
        name: name.to_owned(),
        text: text.into(),
    };
    let sources = [source("a.yaml", "one"), source("b.yaml", "zw\u{f6}lf\n")];
    let hash = Texts::of(&sources).hash();
    assert_eq!(hash.to_string(), "a739fff17422c40fc8b7b66e2405f738");
    assert_eq!(
        ContentHash::of_text("a739fff17422c40fc8b7b66e2405f738"),
        Some(hash)
    );
}

#[test]
fn a_path_given_twice_is_read_once() {
    let root = directory();
    let file = root.path().join("a.yaml");
    write(&file, "one");
    assert_eq!(
        look(&[file.clone(), file, root.path().to_owned()])
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
    let error = look(&[root.path().to_owned()]).expect_err("a pipe is no policy");
    assert!(matches!(error, SourceError::NotAFile { .. }), "{error}");
    assert!(matches!(
        look(&["/dev/zero".into()]),
        Err(SourceError::NotAFile { .. })
    ));
    assert!(start.elapsed() < Duration::from_secs(2), "reading must not wait");
}

#[test]
fn names_path_and_operation() {
    let root = directory();
    symlink("gone", root.path().join("dangling.yaml")).expect("a link");
    let error = look(&[root.path().to_owned()]).expect_err("a dangling link is a policy that is not there");
    assert!(error.to_string().contains("cannot read"), "{error}");
    assert!(error.to_string().contains("dangling.yaml"), "{error}");
}

#[test]
fn text_that_is_not_utf8_is_a_mistake_at_its_place_and_hides_no_other() {
    let root = directory();
    fs::write(root.path().join("a.yaml"), b"# \xc3\xa4\nab: \xff\xfe b\nc").expect("a file");
    write(&root.path().join("b.yaml"), "[");
    fs::write(root.path().join("c.yaml"), vec![0xff; 1 << 20]).expect("a file");
    let error = load(&[root.path().to_owned()], false, &Trust::Everybody).expect_err("not UTF-8");
    let LoadError::Invalid {
        diagnostics, sources, ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(diagnostics.len(), 3, "{diagnostics:?}");
    assert!(
        sources.iter().all(|source| source.text.len() < 1000),
        "nothing is kept of what is no text"
    );
    let told = error.to_string();
    assert!(
        told.contains("a.yaml:2:5: what stands here is not UTF-8"),
        "{told}"
    );
    assert!(
        error
            .render(crate::policy::diagnostic::Style::Plain)
            .contains("help: save it as UTF-8")
    );
}

#[test]
fn what_cannot_be_read_is_told_with_a_remedy() {
    let root = directory();
    symlink("nowhere.yaml", root.path().join("a.yaml")).expect("a link");
    let help = |path: &Path| look(&[path.to_owned()]).expect_err("unreadable").help();
    assert!(help(root.path()).is_some_and(|help| help.contains("leads nowhere")));
    assert_eq!(
        help(Path::new("/no/such/policy")).as_deref(),
        Some("check the path")
    );
    assert!(help(Path::new("/dev/null")).is_some());
}

#[test]
fn refuses_more_than_the_limit_without_reading_it() {
    let root = directory();
    let file = root.path().join("a.yaml");
    fs::File::create(&file)
        .and_then(|file| file.set_len(1 << 30))
        .expect("a sparse file");
    let start = Instant::now();
    assert!(matches!(look(&[file]), Err(SourceError::TooLarge { .. })));
    assert!(
        start.elapsed() < Duration::from_millis(200),
        "a gigabyte is not read"
    );
    // Of `/proc` nobody knows how long it is.
    let endless = look(&["/proc/kallsyms".into()]);
    assert!(endless.is_ok() || matches!(endless, Err(SourceError::TooLarge { .. })));
}

#[test]
fn a_link_out_of_the_directory_is_refused_and_one_within_is_followed() {
    let (root, other) = (directory(), directory());
    write(&root.path().join("shared/base.yaml"), "x");
    fs::create_dir(root.path().join("prod")).expect("a directory");
    symlink("../shared/base.yaml", root.path().join("prod/base.yaml")).expect("a link");
    assert_eq!(names(root.path()), ["prod/base.yaml", "shared/base.yaml"]);

    write(&other.path().join("policy/x.yaml"), "x");
    for (name, target) in [
        ("file.yaml", other.path().join("policy/x.yaml")),
        ("directory", other.path().join("policy")),
        ("above.yaml", "../../../../../../../etc/hostname".into()),
        ("magic.yaml", "/proc/self/cmdline".into()),
    ] {
        let link = root.path().join(name);
        symlink(target, &link).expect("a link");
        let error = look(&[root.path().to_owned()]).expect_err(name);
        assert!(
            matches!(&error, SourceError::Escapes { path, .. } if *path == link),
            "{error}"
        );
        fs::remove_file(link).expect("it goes");
    }
    // What is given is the operator's word, wherever it leads.
    symlink(other.path().join("policy"), root.path().join("given")).expect("a link");
    assert_eq!(names(&root.path().join("given")), ["x.yaml"]);
}

#[test]
fn a_daemon_believes_neither_what_others_own_nor_what_they_may_write() {
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        assert!(std::env::var_os("SEGD_REQUIRE_KERNEL").is_none(), "not root");
        eprintln!("skipped: giving files away takes root");
        return;
    }
    let root = directory();
    let (sub, file) = (root.path().join("sub"), root.path().join("sub/policy.yaml"));
    write(&file, "x");
    let daemon = Trust::of_daemon(&[]);
    let paths = [root.path().to_owned()];
    assert!(read(&paths, &daemon).is_ok());

    for (path, good, bad) in [
        (&file, 0o644, 0o664),
        (&file, 0o640, 0o606),
        (&sub, 0o755, 0o1777),
    ] {
        mode(path, bad);
        let error = read(&paths, &daemon).expect_err("others may write it");
        assert!(
            matches!(&error, SourceError::Shared { path: named, .. } if named == path),
            "{error}"
        );
        assert!(error.help().is_some_and(|help| help.contains("chmod")));
        assert!(look(&paths).is_ok(), "who only looks may look");
        mode(path, good);
    }
    for path in [&file, &sub] {
        std::os::unix::fs::chown(path, Some(4711), None).expect("given away");
        let error = read(&paths, &daemon).expect_err("it is somebody else's");
        assert!(
            matches!(error, SourceError::Foreign { user: 4711, .. }),
            "{error}"
        );
        assert!(
            error
                .help()
                .is_some_and(|help| help.contains("--policy-owner 4711"))
        );
        assert!(
            read(&paths, &Trust::of_daemon(&[4711])).is_ok(),
            "that user is trusted"
        );
        std::os::unix::fs::chown(path, Some(0), None).expect("taken back");
    }
    assert!(read(&paths, &daemon).is_ok());
}

#[test]
fn a_daemon_does_not_believe_a_path_that_others_may_lead_elsewhere() {
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        assert!(std::env::var_os("SEGD_REQUIRE_KERNEL").is_none(), "not root");
        eprintln!("skipped: giving files away takes root");
        return;
    }
    let root = directory();
    let open = root.path().join("open");
    write(&open.join("policy/a.yaml"), "x");
    let paths = [open.join("policy")];
    let daemon = Trust::of_daemon(&[]);
    assert!(read(&paths, &daemon).is_ok());
    mode(&open, 0o777);
    assert!(matches!(read(&paths, &daemon), Err(SourceError::Shared { .. })));
    // As in /tmp: nobody but its owner moves what is there.
    mode(&open, 0o1777);
    assert!(read(&paths, &daemon).is_ok());
    let link = open.join("link");
    symlink("policy", &link).expect("a link");
    assert!(read(std::slice::from_ref(&link), &daemon).is_ok());
    std::os::unix::fs::lchown(&link, Some(4711), None).expect("given away");
    assert!(matches!(
        read(&[link], &daemon),
        Err(SourceError::Foreign { user: 4711, .. })
    ));
}

#[test]
fn never_takes_half_of_two_states() {
    let root = directory();
    let mount = root.path().to_owned();
    let turn = |number: usize| {
        let version = mount.join(format!("..{number}"));
        for name in ["a.yaml", "b.yaml", "c.yaml"] {
            write(&version.join(name), &number.to_string());
        }
        symlink(format!("..{number}"), mount.join("..new")).expect("a link");
        fs::rename(mount.join("..new"), mount.join("..data")).expect("the swap");
        if number > 0 {
            let _ = fs::remove_dir_all(mount.join(format!("..{}", number - 1)));
        }
    };
    turn(0);
    for name in ["a.yaml", "b.yaml", "c.yaml"] {
        symlink(format!("..data/{name}"), mount.join(name)).expect("a link");
    }
    let done = AtomicBool::new(false);
    let (mut whole, mut unstable) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..400 {
                turn(number);
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            match look(std::slice::from_ref(&mount)) {
                Ok(sources) => {
                    let texts: BTreeSet<String> = sources
                        .sources
                        .into_iter()
                        .map(|source| source.text.to_string())
                        .collect();
                    assert_eq!(texts.len(), 1, "one state, and not half of two: {texts:?}");
                    whole += 1;
                }
                Err(_) => unstable += 1,
            }
        }
    });
    println!("read {whole} times, {unstable} times it would not stand still");
    assert!(whole > 0, "and it gets somewhere");
}

#[test]
fn a_loop_of_links_ends() {
    let root = directory();
    write(&root.path().join("a.yaml"), "x");
    symlink(".", root.path().join("again")).expect("a link");
    assert_eq!(names(root.path()), ["a.yaml"]);
}
