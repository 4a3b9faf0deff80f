//! One link that is held open: how it is made, whether it is whole, what it lost.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use super::{Attached, BPF_XDP, Hook, Kind, XDP_GENERIC, XDP_NATIVE, XDP_PREFIX, XDP_PROGRAM, pin_name};
use crate::datapath::{
    kernel,
    object::Programs,
    sys::{self, LinkInfo},
};

/// The link is off its hook, or there is none.
pub const DETACHED: &str = "detached";
/// Somebody's program is behind the link.
pub const REPLACED: &str = "replaced";
/// The link hangs, but its pin is gone: it would end with the daemon.
pub const UNPINNED: &str = "unpinned";

#[derive(Clone, Debug)]
enum Place {
    Hook(Kind),
    Interface { name: String, mode: u32 },
}

/// A link, where it hangs, and where it is pinned.
#[derive(Debug)]
pub struct Held {
    /// What status calls it.
    pub hook: String,
    /// Its pin.
    pub pin: PathBuf,
    /// The program that belongs behind it.
    pub program: &'static str,
    place: Place,
    /// The link, once there is one.
    pub link: Option<OwnedFd>,
    /// What is always to be known about it.
    pub note: &'static str,
    /// Why the last repair failed.
    pub trouble: Option<String>,
}

impl Held {
    /// Of a hook that is not attached yet.
    pub fn of(hook: &Hook, links: &Path) -> Held {
        Held {
            hook: hook.name.to_owned(),
            pin: links.join(hook.name),
            program: hook.program,
            place: Place::Hook(hook.kind),
            link: None,
            note: "",
            trouble: None,
        }
    }

    /// Of an interface.
    pub fn interface(interface: &str, native: bool, links: &Path) -> Held {
        let (note, mode) = if native {
            ("native", XDP_NATIVE)
        } else {
            ("generic", XDP_GENERIC)
        };
        Held {
            hook: format!("xdp:{interface}"),
            pin: links.join(format!("{XDP_PREFIX}{note}_{}", pin_name(interface))),
            program: XDP_PROGRAM,
            place: Place::Interface {
                name: interface.to_owned(),
                mode,
            },
            link: None,
            note,
            trouble: None,
        }
    }

    /// Whether another program can be put behind the link.
    pub fn is_updatable(&self) -> bool {
        !matches!(self.place, Place::Hook(Kind::Tracepoint(_) | Kind::Lsm))
    }

    /// The link that is pinned here, if it still hangs where this belongs. `None`: there is none, somebody detached
    /// it, or what is pinned is something else.
    pub fn pinned(&self, root: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
        let link = match sys::open_pin(&self.pin) {
            Ok(link) => link,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let fits = sys::link_info(link.as_fd()).is_ok_and(|info| info.hangs() && self.fits(&info, root));
        Ok(fits.then_some(link))
    }

    /// Whether the link that is pinned here hangs on anything.
    pub fn hangs(&self) -> io::Result<bool> {
        match sys::open_pin(&self.pin) {
            Ok(link) => Ok(sys::link_info(link.as_fd())?.hangs()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether a link hangs where this belongs.
    fn fits(&self, info: &LinkInfo, root: BorrowedFd<'_>) -> bool {
        const CGROUP: u32 = 3;
        const XDP: u32 = 6;
        match &self.place {
            Place::Hook(Kind::Cgroup(kind)) => {
                let [low, high, attach_type, ..] = info.target;
                let cgroup = u64::from(high) << 32 | u64::from(low);
                info.kind == CGROUP && attach_type == *kind && sys::inode(root).is_ok_and(|id| id == cgroup)
            }
            Place::Hook(Kind::Tracepoint(_) | Kind::Lsm) => true,
            Place::Interface { name, .. } => {
                info.kind == XDP && kernel::interface_index(name).is_ok_and(|index| index == info.target[0])
            }
        }
    }

    /// Attaches a program where this belongs.
    pub fn create(&self, root: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        match &self.place {
            Place::Hook(Kind::Cgroup(kind)) => sys::link_create(program, root.as_raw_fd() as u32, *kind, 0),
            Place::Hook(Kind::Tracepoint(name)) => sys::raw_tracepoint(name, program),
            Place::Hook(Kind::Lsm) => sys::link_lsm(program),
            Place::Interface { name, mode } => {
                let index = kernel::interface_index(name).map_err(io::Error::other)?;
                sys::link_create(program, index, BPF_XDP, *mode)
            }
        }
    }

    /// Who hangs on the same hook and lets nobody beside.
    pub fn alone(&self, root: BorrowedFd<'_>) -> Option<String> {
        match self.place {
            Place::Hook(Kind::Cgroup(kind)) => {
                let (programs, flags) = sys::programs_on(root.as_raw_fd() as u32, kind).ok()?;
                let names = programs.iter().map(|id| match sys::program_name(*id) {
                    Ok(name) => format!("`{name}` (id {id})"),
                    Err(_) => format!("id {id}"),
                });
                let names: Vec<String> = names.collect();
                (flags & sys::ALLOW_MULTI == 0 && !names.is_empty()).then(|| names.join(", "))
            }
            _ => None,
        }
    }

    /// What this link lost, and how that shows.
    pub fn lost(&self, programs: &Programs) -> Option<(&'static str, String)> {
        let Some(link) = &self.link else {
            return Some((DETACHED, "it has no link".to_owned()));
        };
        let info = match sys::link_info(link.as_fd()) {
            Ok(info) => info,
            Err(error) => return Some((DETACHED, format!("the link does not answer: {error}"))),
        };
        if !info.hangs() {
            return Some((DETACHED, "the link was detached".to_owned()));
        }
        if let Place::Interface { name, .. } = &self.place {
            match kernel::interface_index(name) {
                Ok(index) if index == info.target[0] => {}
                Ok(_) => return Some((DETACHED, "another interface has this name now".to_owned())),
                Err(error) => return Some((DETACHED, error.to_string())),
            }
        }
        if programs.id(self.program) != Some(info.program) {
            let what = format!("program {} was put behind the link", info.program);
            return Some((REPLACED, what));
        }
        match sys::open_pin(&self.pin).and_then(|pin| sys::link_info(pin.as_fd())) {
            Ok(pinned) if pinned.id == info.id => None,
            Ok(_) => Some((UNPINNED, "another link is pinned in its place".to_owned())),
            Err(error) => Some((UNPINNED, format!("its pin is gone: {error}"))),
        }
    }

    /// How it stands.
    pub fn status(&self, programs: &Programs) -> Attached {
        let id = |link: &OwnedFd| sys::link_info(link.as_fd()).map_or(0, |info| info.id);
        let lost = self.lost(programs);
        let link = match &lost {
            Some((DETACHED, _)) => 0,
            _ => self.link.as_ref().map_or(0, id),
        };
        let note = match (&lost, &self.trouble) {
            (None, _) => self.note.to_owned(),
            (Some((_, why)), None) => why.clone(),
            (Some((_, why)), Some(trouble)) => format!("{why}; {trouble}"),
        };
        Attached {
            hook: self.hook.clone(),
            attached: lost.is_none(),
            link,
            note,
        }
    }
}
