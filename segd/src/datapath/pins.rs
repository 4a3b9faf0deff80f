//! Where the kernel objects are pinned, and how they all go away.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use segd_common::ABI_VERSION;

use super::{Error, UnloadReport, map::Maps, sys};

/// One segd's pins: `maps_v<ABI>` and `links` below its pin directory.
// INVARIANT: the map directory carries the layouts' version, so pinned state of another layout is never adopted.
#[derive(Clone, Debug)]
pub struct Pins {
    /// `--pin-dir`.
    pub root: PathBuf,
    /// The maps' pins.
    pub maps: PathBuf,
    /// The links' pins.
    pub links: PathBuf,
}

impl Pins {
    /// The paths below a pin directory.
    #[must_use]
    pub fn new(root: &Path) -> Pins {
        Pins {
            root: root.to_owned(),
            maps: root.join(format!("maps_v{ABI_VERSION}")),
            links: root.join("links"),
        }
    }

    /// Makes the directories, for root alone.
    pub fn create(&self) -> Result<(), Error> {
        use std::os::unix::fs::DirBuilderExt as _;
        for dir in [&self.root, &self.maps, &self.links] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|error| Error::system(format!("making `{}`", dir.display()), error))?;
        }
        Ok(())
    }

    /// Whether anything is attached, as far as pins tell.
    #[must_use]
    pub fn has_links(&self) -> bool {
        fs::read_dir(&self.links).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Removes map directories of other layouts, after everything runs on this one's.
    pub fn remove_other_layouts(&self) {
        let Ok(entries) = fs::read_dir(&self.root) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let other = entry.file_name().to_string_lossy().starts_with("maps_v") && path != self.maps;
            if other && let Err(error) = remove_tree(&path, &mut Vec::new()) {
                tracing::warn!("removing the maps of another layout: {}: {error}", path.display());
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

/// Detaches everything that is pinned below a directory and removes the pins. Works with the daemon dead.
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
    for link in links_in(&pins.links) {
        // Whoever else holds the link: off the hook it goes. Tracepoint links end with their last holder.
        if let Ok(fd) = sys::open_pin(&link) {
            let _ = sys::link_detach(fd.as_fd());
        }
    }
    remove_tree(pin_dir, &mut report.removed)
        .map_err(|error| Error::system(format!("removing the pins in `{}`", pin_dir.display()), error))?;
    Ok(report)
}

fn links_in(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

fn remove_tree(dir: &Path, removed: &mut Vec<String>) -> io::Result<()> {
    let mut names: Vec<_> = fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    // Hooks go before what they read.
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
