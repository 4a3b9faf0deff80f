//! The way to a path, one name at a time: who may change a directory on it decides where the path leads.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// Links followed in one path; as many as the kernel follows.
pub(super) const MAX_LINKS: usize = 40;

/// A name that is looked up on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where.
    pub directory: PathBuf,
    /// What.
    pub name: PathBuf,
    /// It is a link, which is followed.
    pub is_link: bool,
}

/// Every name looked up on the way to a path, through its links, and where it ends.
#[must_use]
pub fn steps(path: &Path) -> (Vec<Step>, PathBuf) {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut here = PathBuf::from("/");
    let mut steps = Vec::new();
    let mut rest: Vec<PathBuf> = names(&absolute);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name.as_os_str() == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&name);
        let target = fs::read_link(&next).ok().filter(|_| links < MAX_LINKS);
        steps.push(Step {
            directory: here.clone(),
            name,
            is_link: target.is_some(),
        });
        match target {
            Some(target) => {
                links += 1;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                rest.extend(names(&target));
            }
            None => here = next,
        }
    }
    (steps, here)
}

/// A path's names, the last first.
pub(super) fn names(path: &Path) -> Vec<PathBuf> {
    let names = path.components().rev();
    names
        .filter(|name| matches!(name, Component::Normal(_) | Component::ParentDir))
        .map(|name| PathBuf::from(name.as_os_str()))
        .collect()
}
