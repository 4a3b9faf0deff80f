//! Whose the pins are. A pin is a capability: who may open one can change what is enforced, and who may replace one
//! decides what the next daemon takes over. So everything below the pin directory is segd's own user's, and nobody else's.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use super::{Error, pins::entries};

/// Permission of any kind for group or others, and to write alone.
const SHARED: u32 = 0o077;
const SHARED_WRITE: u32 = 0o022;

/// Refuses a pin directory that is, or was open to, somebody else; one that others could only look into is closed.
///
/// # Errors
///
/// Names what is whose, and what to do.
pub fn check(root: &Path) -> Result<(), Error> {
    directory(root)?;
    for path in entries(root) {
        if path.is_dir() {
            directory(&path)?;
            for pin in entries(&path) {
                object(&pin)?;
            }
        } else {
            object(&path)?;
        }
    }
    Ok(())
}

fn directory(path: &Path) -> Result<(), Error> {
    let mode = own(path)?;
    if mode & SHARED_WRITE != 0 {
        return Err(refused(
            path,
            &format!("may be written by others (mode {mode:04o})"),
        ));
    }
    if mode & SHARED != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700))
            .map_err(|error| Error::system(format!("closing `{}` to others", path.display()), error))?;
    }
    Ok(())
}

fn object(path: &Path) -> Result<(), Error> {
    let mode = own(path)?;
    if mode & SHARED != 0 {
        return Err(refused(path, &format!("is open to others (mode {mode:04o})")));
    }
    Ok(())
}

/// The mode of what belongs to this process' user.
fn own(path: &Path) -> Result<u32, Error> {
    let metadata = fs::symlink_metadata(path)
        .map_err(|error| Error::system(format!("looking at `{}`", path.display()), error))?;
    // SAFETY: no arguments, cannot fail.
    if metadata.uid() != unsafe { libc::geteuid() } {
        return Err(refused(path, &format!("belongs to user {}", metadata.uid())));
    }
    Ok(metadata.mode() & 0o7777)
}

fn refused(path: &Path, why: &str) -> Error {
    Error::Host {
        what: format!("the pin `{}` {why}: it may not be what segd left there", path.display()),
        help: "find out who made it; `segd unload` removes all pins and what they enforce, --pin-dir takes another place"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsFd as _, unix::fs::chown};

    use super::*;
    use crate::datapath::{kernel, pins::Pins, sys, unload};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[track_caller]
    fn refuses(pins: &Pins, what: &str) {
        let error = pins.create().expect_err(what).to_string();
        assert!(error.contains(what) && error.contains("help: "), "{error}");
    }

    #[test]
    fn what_others_own_or_may_open_is_not_taken_over() {
        let root = std::path::PathBuf::from(format!("/sys/fs/bpf/segd-custody-{}", std::process::id()));
        if let Err(error) = kernel::check_privilege().and_then(|()| kernel::check_bpffs(&root)) {
            assert!(std::env::var_os("SEGD_REQUIRE_KERNEL").is_none(), "{error}");
            eprintln!("skipped: {error}");
            return;
        }
        let pins = Pins::new(&root);
        pins.create().unwrap();
        for dir in [&pins.root, &pins.maps, &pins.links] {
            assert_eq!(mode(dir), 0o700, "{}", dir.display());
        }
        let pin = pins.maps.join("ACTIVE");
        let map = sys::create_array(4, 1).unwrap();
        sys::pin(map.as_fd(), &pin).unwrap();
        assert_eq!(
            mode(&pin) & 0o077,
            0,
            "the kernel makes pins for their owner alone"
        );
        pins.create().unwrap();

        for path in [&pin, &pins.maps, &root] {
            chown(path, Some(4711), None).unwrap();
            refuses(&pins, "belongs to user 4711");
            chown(path, Some(0), None).unwrap();
        }
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        set(&pin, 0o640);
        refuses(&pins, "is open to others (mode 0640)");
        set(&pin, 0o600);
        set(&pins.links, 0o770);
        refuses(&pins, "may be written by others");
        // Who could only look has changed nothing.
        set(&pins.links, 0o755);
        pins.create().unwrap();
        assert_eq!(mode(&pins.links), 0o700);
        unload(&root).unwrap();
    }
}
