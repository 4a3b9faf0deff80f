//! Other people's programs on the hooks that segd uses.

use std::{
    fmt,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use super::{Error, links, pins::Pins, sys};

/// A program of somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The hook.
    pub hook: &'static str,
    /// The kernel's id of the program.
    pub id: u32,
    /// Its name, where it may be asked for.
    pub name: Option<String>,
    /// It was attached so that nobody else can.
    pub exclusive: bool,
    /// It can turn another's error into success.
    pub can_overrule: bool,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "`{name}` (id {}) on {}", self.id, self.hook),
            None => write!(f, "program {} on {}", self.id, self.hook),
        }
    }
}

/// Every program on segd's hooks at the cgroup root that is not behind one of the links pinned below `pin_dir`.
///
/// # Errors
///
/// The kernel does not say: asking needs CAP_NET_ADMIN.
pub fn foreign(cgroup_root: &Path, pin_dir: &Path) -> Result<Vec<Foreign>, Error> {
    let root = std::fs::File::open(cgroup_root)
        .map_err(|error| Error::system(format!("opening `{}`", cgroup_root.display()), error))?;
    let pins = Pins::new(pin_dir);
    let mut all = Vec::new();
    for (hook, attach_type) in links::cgroup_hooks() {
        // Programs of another layout that this segd takes over from are no strangers.
        let sets = pins.others().into_iter().chain([pins.clone()]);
        let own: Vec<u32> = sets
            .filter_map(|set| {
                let link = sys::open_pin(&set.links.join(hook)).ok()?;
                Some(sys::link_info(link.as_fd()).ok()?.program)
            })
            .collect();
        let (programs, flags) = sys::programs_on(root.as_raw_fd() as u32, attach_type).map_err(|error| {
            Error::system(format!("asking which programs are on the hook `{hook}`"), error)
        })?;
        for id in programs.into_iter().filter(|id| !own.contains(id)) {
            all.push(Foreign {
                hook,
                id,
                name: sys::program_name(id).ok().filter(|name| !name.is_empty()),
                exclusive: flags & sys::ALLOW_MULTI == 0,
                can_overrule: !matches!(hook, "egress" | "ingress" | "sock_ops"),
            });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_program_and_its_hook() {
        let mut foreign = Foreign {
            hook: "egress",
            id: 7,
            name: Some("sd_fw_egress".to_owned()),
            exclusive: false,
            can_overrule: false,
        };
        assert_eq!(foreign.to_string(), "`sd_fw_egress` (id 7) on egress");
        foreign.name = None;
        assert_eq!(foreign.to_string(), "program 7 on egress");
    }
}
