//! Puts another text into a policy file: all of it or nothing, with the file's owner and permissions.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::Path,
};

/// Replaces a file that says `before`. A link to it stays a link.
///
/// # Errors
///
/// What the system said; or the file says something else by now. Then nothing has changed.
pub fn replace(path: &Path, before: &str, after: &str) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let old = File::open(&path)?.metadata()?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // No policy's name: it begins with a dot, and does not end like one.
    let beside = folder.join(format!(".{name}.segd-{}", std::process::id()));
    let new = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    let written = write(&new, &old, after).and_then(|()| {
        if fs::read(&path)? != before.as_bytes() {
            return Err(io::Error::other("it was changed meanwhile"));
        }
        fs::rename(&beside, &path)
    });
    if written.is_err() {
        // What failed is told; what was left beside is taken away as far as possible.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn write(mut new: &File, old: &fs::Metadata, text: &str) -> io::Result<()> {
    new.write_all(text.as_bytes())?;
    let made = new.metadata()?;
    if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
        fchown(new, Some(old.uid()), Some(old.gid()))?;
    }
    new.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
    new.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn keeps_the_mode_and_the_link_and_leaves_nothing_beside() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, link) = (
            directory.path().join("p.yaml"),
            directory.path().join("link.yaml"),
        );
        fs::write(&file, "old\n").expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("its mode");
        symlink("p.yaml", &link).expect("a link");
        replace(&link, "other\n", "new\n").expect_err("it says something else");
        assert_eq!(fs::read_to_string(&file).expect("a file"), "old\n");
        replace(&link, "old\n", "new\n").expect("replaced");
        assert_eq!(fs::read_to_string(&file).expect("a file"), "new\n");
        assert_eq!(fs::metadata(&file).expect("a file").mode() & 0o7777, 0o640);
        assert!(fs::symlink_metadata(&link).expect("a link").is_symlink());
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 2);
    }
}
