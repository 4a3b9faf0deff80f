//! Which files are read again, and which are as they were.

use std::{fs, io::Write as _, os::unix::fs::PermissionsExt as _};

use super::*;

struct Files {
    directory: tempfile::TempDir,
    looked: Looked,
    /// How far the clock is ahead of the files'.
    ahead: Duration,
}

impl Files {
    fn new(names: &[&str]) -> Files {
        let files = Files {
            directory: tempfile::tempdir().expect("a directory"),
            looked: Looked::default(),
            ahead: COARSE + Duration::from_secs(1),
        };
        names
            .iter()
            .for_each(|name| files.write(name, &format!("{name} one")));
        files
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).expect("written");
    }

    /// How many bytes are read, and what they are.
    #[track_caller]
    fn look(&mut self, look: Look) -> (u64, Vec<String>) {
        let path = [self.directory.path().to_owned()];
        let ahead = self.ahead;
        let sources = self
            .looked
            .read_at(&path, &Trust::Everybody, look, || SystemTime::now() + ahead)
            .expect("readable");
        let whole = super::super::read(&path, &Trust::Everybody).expect("readable");
        assert_eq!(sources, whole, "it is what reading everything gives");
        let texts = sources.sources.iter().map(|source| source.text.to_string());
        (self.looked.bytes_read(), texts.collect())
    }
}

#[test]
fn only_what_changed_is_read_again() {
    let mut files = Files::new(&["a.yaml", "b.yaml", "c.yaml"]);
    assert_eq!(files.look(Look::AtChanges).0, 30);
    assert_eq!(files.look(Look::AtChanges).0, 0);
    assert_eq!(files.look(Look::Whole).0, 30);
    // In place, with the same size; by a rename; away; and back.
    files.write("b.yaml", "b.yaml two");
    let (read, texts) = files.look(Look::AtChanges);
    assert_eq!(
        (read, texts.join(" ")),
        (10, "a.yaml one b.yaml two c.yaml one".to_owned())
    );
    files.write("new", "c.yaml three");
    fs::rename(files.at("new"), files.at("c.yaml")).expect("renamed");
    assert_eq!(files.look(Look::AtChanges).0, 12);
    fs::remove_file(files.at("a.yaml")).expect("removed");
    assert_eq!(files.look(Look::AtChanges).0, 0);
    files.write("a.yaml", "a.yaml one");
    assert_eq!(files.look(Look::AtChanges).0, 10);
    // Names change places.
    fs::rename(files.at("a.yaml"), files.at("x")).expect("renamed");
    fs::rename(files.at("b.yaml"), files.at("a.yaml")).expect("renamed");
    fs::rename(files.at("x"), files.at("b.yaml")).expect("renamed");
    let (_, texts) = files.look(Look::AtChanges);
    assert_eq!(texts.join(" "), "b.yaml two a.yaml one c.yaml three");
}

#[test]
fn what_was_changed_a_moment_ago_is_read_again() {
    let mut files = Files::new(&["a.yaml"]);
    files.ahead = Duration::ZERO;
    for text in 0..200 {
        // Often enough, two of them are written in one tick of the file system's clock.
        files.write("a.yaml", &format!("{text:03}"));
        assert_eq!(files.look(Look::AtChanges), (3, vec![format!("{text:03}")]));
    }
    assert_eq!(files.look(Look::AtChanges).0, 3, "it is not settled");
}

#[test]
fn setting_back_the_time_of_a_file_hides_no_change() {
    let mut files = Files::new(&["a.yaml"]);
    let modified = fs::metadata(files.at("a.yaml")).and_then(|metadata| metadata.modified());
    files.look(Look::AtChanges);
    let mut file = fs::File::options()
        .write(true)
        .open(files.at("a.yaml"))
        .expect("opened");
    file.write_all(b"a.yaml two").expect("written");
    file.set_modified(modified.expect("a time")).expect("set back");
    assert_eq!(files.look(Look::AtChanges), (10, vec!["a.yaml two".to_owned()]));
}

#[test]
fn whom_a_file_belongs_to_is_looked_at_whether_it_is_read_or_not() {
    let mut files = Files::new(&["a.yaml"]);
    files.look(Look::AtChanges);
    let path = [files.directory.path().to_owned()];
    fs::set_permissions(files.at("a.yaml"), fs::Permissions::from_mode(0o666)).expect("the mode changes");
    let trust = Trust::Users(vec![0]);
    let read = files.looked.read(&path, &trust, Look::AtChanges);
    assert!(
        matches!(
            read,
            Err(SourceError::Shared { .. } | SourceError::Foreign { .. })
        ),
        "{read:?}"
    );
}

/// What nothing dates is found by whoever reads everything.
#[test]
fn what_is_written_through_a_mapping_is_found_by_a_whole_look() {
    let directory = Path::new("/dev/shm");
    if !directory.is_dir() {
        eprintln!("skipped: no /dev/shm");
        return;
    }
    let mut files = Files::new(&[]);
    files.directory = tempfile::tempdir_in(directory).expect("a directory");
    files.write("a.yaml", "one");
    files.look(Look::AtChanges);
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(files.at("a.yaml"))
        .expect("opened");
    // SAFETY: a mapping of its own, of a file that is longer than what is written.
    unsafe {
        let page = libc::mmap(
            std::ptr::null_mut(),
            3,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            std::os::fd::AsRawFd::as_raw_fd(&file),
            0,
        );
        assert_ne!(page, libc::MAP_FAILED);
        page.cast::<[u8; 3]>().write(*b"two");
        libc::munmap(page, 3);
    }
    assert_eq!(files.look(Look::Whole), (3, vec!["two".to_owned()]));
}

#[test]
fn what_is_the_same_is_kept_once() {
    let files = Files::new(&["a.yaml", "b.yaml"]);
    let path = [files.directory.path().to_owned()];
    let known = super::super::read(&path, &Trust::Everybody).expect("readable");
    let mut looked = Looked::knowing(&known.sources);
    files.write("b.yaml", "other");
    for look in [Look::AtChanges, Look::Whole, Look::Whole] {
        let again = looked.read(&path, &Trust::Everybody, look).expect("readable");
        let shared = |at: usize| Arc::ptr_eq(&again.sources[at].text, &known.sources[at].text);
        assert_eq!((shared(0), shared(1)), (true, false), "{look:?}");
    }
}
