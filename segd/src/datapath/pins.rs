//! Where the kernel objects are pinned, and how they all go away.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use segd_common::ABI_VERSION;

use super::{Error, UnloadReport, custody, links::JUDGES, map::Maps, sys};

/// One set of pins: the maps of one layout, the programs that read them, and their links.
// INVARIANT: all directories carry the layouts' version, so pinned state of another layout is never adopted.
#[derive(Clone, Debug)]
pub struct Pins {
    /// `--pin-dir`.
    pub root: PathBuf,
    /// The maps' pins.
    pub maps: PathBuf,
    /// The links' pins.
    pub links: PathBuf,
    /// The pins of what the next daemon keeps (`kept`). What is lost here is loaded again by it.
    pub programs: PathBuf,
}

const MAPS: &str = "maps_";
const LINKS: &str = "links_";
const PROGRAMS: &str = "programs_";

/// The name of a set of this layout that was put aside.
fn aside(number: &str) -> String {
    format!("v{ABI_VERSION}_aside{number}")
}

/// Whether a set's name is one that some version of segd gives.
fn is_ours(set: &str) -> bool {
    let (version, aside) = match set.split_once("_aside") {
        Some((version, number)) => (version, Some(number)),
        None => (set, None),
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    version.strip_prefix('v').is_some_and(is_number) && aside.is_none_or(is_number)
}

impl Pins {
    /// This build's set below a pin directory.
    #[must_use]
    pub fn new(root: &Path) -> Pins {
        Pins::named(root, &format!("v{ABI_VERSION}"))
    }

    fn named(root: &Path, set: &str) -> Pins {
        Pins {
            root: root.to_owned(),
            maps: root.join(format!("{MAPS}{set}")),
            links: root.join(format!("{LINKS}{set}")),
            programs: root.join(format!("{PROGRAMS}{set}")),
        }
    }

    /// Makes the directories, for root alone, and makes sure that everything in them is its own.
    pub fn create(&self) -> Result<(), Error> {
        use std::os::unix::fs::DirBuilderExt as _;
        for dir in [&self.root, &self.maps, &self.links, &self.programs] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|error| Error::system(format!("making `{}`", dir.display()), error))?;
        }
        custody::check(&self.root)
    }

    /// Every other set below the same directory: of other layouts, or set aside.
    #[must_use]
    pub fn others(&self) -> Vec<Pins> {
        let sets: BTreeSet<String> = entries(&self.root)
            .iter()
            .filter_map(|path| {
                let name = path.file_name()?.to_str()?;
                let set = [MAPS, LINKS, PROGRAMS]
                    .iter()
                    .find_map(|prefix| name.strip_prefix(prefix));
                set.filter(|set| is_ours(set)).map(str::to_owned)
            })
            .collect();
        sets.iter()
            .map(|set| Pins::named(&self.root, set))
            .filter(|other| other.maps != self.maps)
            .collect()
    }

    /// Whether nothing is pinned here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        [&self.maps, &self.links, &self.programs]
            .iter()
            .all(|dir| entries(dir).is_empty())
    }

    /// Whether one of its links hangs on a hook that judges.
    #[must_use]
    pub fn is_living(&self) -> bool {
        entries(&self.links).iter().any(|link| hangs(link))
    }

    /// Whether something enforces below the same directory: every hook of this layout that judges has its link, or another layout's set
    /// lives. What a start left that was ended in the middle does not.
    #[must_use]
    pub fn enforces(&self) -> bool {
        let whole = JUDGES.iter().all(|hook| hangs(&self.links.join(hook.name)));
        whole || self.others().iter().any(Pins::is_living)
    }

    /// Whether any set below the same directory has a link.
    #[must_use]
    pub fn has_links(&self) -> bool {
        let others = self.others();
        others
            .iter()
            .chain([self])
            .any(|set| !entries(&set.links).is_empty())
    }

    /// Detaches what is attached, and removes the pins.
    pub fn clear(&self) -> Result<(), Error> {
        self.remove(&mut Vec::new())
    }

    fn remove(&self, removed: &mut Vec<String>) -> Result<(), Error> {
        let failed = |error| Error::system(format!("removing the pins in `{}`", self.root.display()), error);
        detach(&self.links);
        // Hooks go before what they read.
        for dir in [&self.links, &self.programs, &self.maps] {
            match remove_tree(dir, removed) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes the directories in which nothing is.
    pub fn remove_empty(&self) {
        for dir in [&self.links, &self.programs, &self.maps, &self.root] {
            let _ = fs::remove_dir(dir);
        }
    }

    /// Moves the set to another name, so that it is another set from now on.
    pub fn set_aside(&self) -> Result<(), Error> {
        let mut number: u32 = 0;
        let aside = loop {
            let aside = Pins::named(&self.root, &aside(&number.to_string()));
            if !aside.maps.exists() && !aside.links.exists() && !aside.programs.exists() {
                break aside;
            }
            number += 1;
        };
        self.move_to(&aside)
    }

    /// Goes on where [`Pins::set_aside`] was ended in the middle: links that judge went to a set that has no maps yet, and
    /// theirs are still here.
    ///
    /// # Errors
    ///
    /// A directory that cannot be renamed.
    pub fn finish_setting_aside(&self) -> Result<(), Error> {
        let prefix = self.root.join(format!("{LINKS}{}", aside("")));
        let prefix = prefix.as_os_str().as_encoded_bytes();
        let is_half = |other: &Pins| {
            let links = other.links.as_os_str().as_encoded_bytes();
            links.starts_with(prefix) && !other.maps.exists() && other.is_living()
        };
        match self.others().into_iter().find(is_half) {
            Some(half) if entries(&self.links).is_empty() => self.move_to(&half),
            _ => Ok(()),
        }
    }

    /// Moves what is here, links first: whatever lives without maps is known by that.
    fn move_to(&self, other: &Pins) -> Result<(), Error> {
        for (from, to) in [
            (&self.links, &other.links),
            (&self.maps, &other.maps),
            (&self.programs, &other.programs),
        ] {
            if from.exists() && !to.exists() {
                fs::rename(from, to)
                    .map_err(|error| Error::system(format!("renaming `{}`", from.display()), error))?;
            }
        }
        Ok(())
    }

    /// Moves the links whose names begin so to another set.
    pub fn move_links(&self, to: &Pins, prefix: &str) {
        for link in entries(&self.links) {
            let Some(name) = link.file_name() else { continue };
            if name.to_string_lossy().starts_with(prefix)
                && let Err(error) = fs::rename(&link, to.links.join(name))
            {
                tracing::warn!("moving the pin `{}`: {error}", link.display());
            }
        }
    }
}

impl Maps for Pins {
    fn find(&self, name: &'static str) -> Result<OwnedFd, Error> {
        let path = self.maps.join(name);
        sys::open_pin(&path)
            .map_err(|error| Error::system(format!("opening the pinned map `{}`", path.display()), error))
    }
}

/// Detaches everything that some version of segd pinned below a directory and removes the pins. Works with the daemon dead. What others
/// have there stays, and the directory with it: it may be one that segd was not given for itself alone.
///
/// # Errors
///
/// A pin that cannot be removed.
pub fn unload(pin_dir: &Path) -> Result<UnloadReport, Error> {
    let mut report = UnloadReport::default();
    let pins = Pins::new(pin_dir);
    if !pin_dir.exists() {
        return Ok(report);
    }
    super::kernel::check_bpffs(pin_dir)?;
    let sets: Vec<Pins> = pins.others().into_iter().chain([pins]).collect();
    for set in &sets {
        detach(&set.links);
    }
    for set in &sets {
        set.remove(&mut report.removed)?;
    }
    report.left = entries(pin_dir).len();
    // What is mounted there stays, too.
    let _ = fs::remove_dir(pin_dir);
    Ok(report)
}

/// Takes the links pinned in a directory off their hooks, whoever else holds them. Tracepoint links end with their last
/// holder.
fn detach(links: &Path) {
    for link in entries(links) {
        if let Ok(fd) = sys::open_pin(&link) {
            let _ = sys::link_detach(fd.as_fd());
        }
    }
}

/// Whether a pin is that of a link that hangs on a hook that judges.
fn hangs(link: &Path) -> bool {
    sys::open_pin(link)
        .and_then(|link| sys::link_info(link.as_fd()))
        .is_ok_and(|info| info.judges() && info.hangs())
}

pub(super) fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

fn remove_tree(dir: &Path, removed: &mut Vec<String>) -> io::Result<()> {
    let mut names: Vec<_> = fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    names.sort_by_key(|entry| entry.file_name());
    for entry in names {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path(), removed)?;
        } else {
            fs::remove_file(entry.path())?;
            removed.push(entry.path().display().to_string());
        }
    }
    fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::kernel;

    #[test]
    fn sets_are_known_by_their_names() {
        for ours in ["v6", "v12", "v6_aside0", "v4_aside12"] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in [
            "",
            "v",
            "6",
            "globals",
            "vx",
            "v6_aside",
            "v6_asidex",
            "v6_b",
            "v_aside1",
        ] {
            assert!(!is_ours(other), "{other}");
        }
    }

    #[test]
    fn unloading_leaves_what_is_not_segds() {
        let root = PathBuf::from(format!("/sys/fs/bpf/segd-pins-{}", std::process::id()));
        if let Err(error) = kernel::check_privilege().and_then(|()| kernel::check_bpffs(&root)) {
            assert!(std::env::var_os("SEGD_REQUIRE_KERNEL").is_none(), "{error}");
            eprintln!("skipped: {error}");
            return;
        }
        let pins = Pins::new(&root);
        let older = Pins::named(&root, "v1");
        pins.create().unwrap();
        fs::create_dir(&older.maps).unwrap();
        let others = [root.join("cilium"), root.join("maps_globals")];
        let map = sys::create_array(4, 1).unwrap();
        for directory in &others {
            fs::create_dir(directory).unwrap();
            sys::pin(map.as_fd(), &directory.join("map")).unwrap();
        }
        sys::pin(map.as_fd(), &root.join("loose")).unwrap();
        for directory in [&pins.maps, &older.maps] {
            sys::pin(map.as_fd(), &directory.join("ACTIVE")).unwrap();
        }

        let report = unload(&root).unwrap();
        assert_eq!((report.removed.len(), report.left), (2, 3), "{report:?}");
        assert!(!pins.maps.exists() && !pins.links.exists() && !older.maps.exists());
        for directory in &others {
            assert!(directory.join("map").exists(), "{}", directory.display());
        }
        assert!(root.join("loose").exists());

        fs::remove_file(root.join("loose")).unwrap();
        for directory in &others {
            remove_tree(directory, &mut Vec::new()).unwrap();
        }
        let report = unload(&root).unwrap();
        assert_eq!((report.removed.len(), report.left), (0, 0), "{report:?}");
        assert!(!root.exists(), "it was segd's alone");
    }
}
