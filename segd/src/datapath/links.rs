//! Attachment: programs on their hooks, by a link each, pinned and held open.
//!
//! INVARIANT: a hook that was attached stays attached: another build's program is put behind the same link.
//! The pin lets the link outlive the daemon; the daemon's own descriptor lets it outlive the pin.

mod held;
mod hooks;

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

pub use self::hooks::{Hook, JUDGES, SOCKETS, TRACEPOINTS, cgroup_hooks};
use self::{held::Held, hooks::Kind};
use super::{Datapath, Error, kernel, object::Programs, pins::Pins, sys};

const XDP_PROGRAM: &str = "segd_nic";
const XDP_PREFIX: &str = "xdp_";
const BPF_XDP: u32 = 37;
/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` (include/uapi/linux/if_link.h).
const XDP_GENERIC: u32 = 2;
const XDP_NATIVE: u32 = 4;

/// What became of a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The hook; `xdp:eth0` for an interface.
    pub hook: String,
    /// Whether its program runs, and will go on without the daemon.
    pub attached: bool,
    /// The kernel's id of the link; 0 if there is none.
    pub link: u32,
    /// What to know about it.
    pub note: String,
}

/// What may be lost: the labels of `segd_repairs_total`.
pub const LOST: [&str; 4] = ["detached", "replaced", "unpinned", "map-unpinned"];

/// Something that was lost and is back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// What was lost, a word of [`LOST`].
    pub lost: &'static str,
    /// A sentence for the log.
    pub what: String,
}

/// All links of one daemon.
#[derive(Debug)]
pub struct Links {
    pins: Pins,
    root: OwnedFd,
    programs: Programs,
    held: Vec<Held>,
    /// The programs only learn: nothing is adopted, nothing pinned.
    learning: bool,
}

impl Links {
    /// Prepares to attach a datapath's programs to a cgroup root. `learning`: beside others that enforce still.
    ///
    /// # Errors
    ///
    /// The root cannot be opened, or a program has no descriptor.
    pub fn new(datapath: &Datapath, cgroup_root: &Path, learning: bool) -> Result<Links, Error> {
        let root = fs::File::open(cgroup_root)
            .map_err(|error| Error::system(format!("opening `{}`", cgroup_root.display()), error))?;
        Ok(Links {
            pins: datapath.pins.clone(),
            root: root.into(),
            programs: datapath.programs()?,
            held: Vec::new(),
            learning,
        })
    }

    /// A program, to be held by another.
    pub fn program(&self, name: &str) -> io::Result<OwnedFd> {
        self.programs.borrow(name)?.try_clone_to_owned()
    }

    /// Puts programs that enforce in the place of those that learned, and pins them.
    ///
    /// # Errors
    ///
    /// The first hook where that failed. What is pinned already enforces beside what enforced before.
    pub fn take_over(&mut self, enforcing: &Datapath) -> Result<(), Error> {
        self.programs = enforcing.programs()?;
        self.learning = false;
        let mut all = std::mem::take(&mut self.held);
        let mut result = Ok(());
        for held in &mut all {
            let program = self.programs.borrow(held.program);
            let done = program.and_then(|program| match &held.link {
                Some(link) if held.is_updatable() => {
                    sys::link_update(link.as_fd(), program)?;
                    sys::pin_over(link.as_fd(), &held.pin)
                }
                _ => self.hang(held),
            });
            if let Err(error) = done {
                result = Err(self.failed(held, error));
                break;
            }
        }
        self.held = all;
        result
    }

    /// Attaches hooks to the cgroup root, or puts this build's programs behind the links that are there.
    ///
    /// # Errors
    ///
    /// The first hook that could not be attached.
    pub fn attach(&mut self, hooks: &[Hook]) -> Result<(), Error> {
        for hook in hooks {
            let mut held = Held::of(hook, &self.pins.links);
            let attached = self.attach_one(&mut held);
            attached.map_err(|error| self.failed(&held, error))?;
            self.held.push(held);
        }
        Ok(())
    }

    /// Attaches hooks that not every kernel has. Whether all of them hang now and the kernel `asks` them; if not, none does that did not
    /// before.
    ///
    /// # Errors
    ///
    /// The first hook whose program the kernel did not take, or that could not be attached.
    pub fn attach_if(&mut self, hooks: &[Hook], asks: impl FnOnce() -> bool) -> Result<bool, Error> {
        // What an earlier daemon left there goes on where this one's programs cannot take its place: it reads the same maps.
        let pin = |hook: &Hook| self.pins.links.join(hook.name);
        let left: Vec<bool> = hooks.iter().map(|hook| pin(hook).exists()).collect();
        let result = self.attach(hooks).map(|()| asks());
        if !matches!(result, Ok(true)) {
            for (hook, was_left) in hooks.iter().zip(left) {
                self.held.retain(|held| held.program != hook.program);
                // Where the kernel does not ask, it is nothing.
                if !was_left || result.is_ok() {
                    let _ = fs::remove_file(self.pins.links.join(hook.name));
                }
            }
        }
        result
    }

    /// The ids of all programs, and of the maps they use.
    pub(super) fn ids(&self) -> io::Result<(Vec<u32>, Vec<u32>)> {
        self.programs.ids()
    }

    fn attach_one(&self, held: &mut Held) -> io::Result<()> {
        // A tracepoint's link has no update; two of them at once write the same entries.
        if held.is_updatable()
            && !self.learning
            && let Some(link) = held.pinned(self.root.as_fd())?
        {
            sys::link_update(link.as_fd(), self.programs.borrow(held.program)?)?;
            held.link = Some(link);
            return Ok(());
        }
        self.hang(held)
    }

    /// A link, pinned in place of what is pinned there. What is pinned and holds this very program is kept: a kernel lets one
    /// program hang on a tracepoint (before 6.10) or an LSM hook only once.
    fn hang(&self, held: &mut Held) -> io::Result<()> {
        let program = self.programs.borrow(held.program)?;
        if !self.learning
            && let Some(link) = held.pinned(self.root.as_fd())?
            && sys::link_info(link.as_fd())?.program == self.programs.id(held.program).unwrap_or_default()
        {
            held.link = Some(link);
            return Ok(());
        }
        let link = held.create(self.root.as_fd(), program)?;
        if !self.learning {
            sys::pin_over(link.as_fd(), &held.pin)?;
        }
        held.link = Some(link);
        Ok(())
    }

    /// Says who is in the way, if somebody is.
    fn failed(&self, held: &Held, error: io::Error) -> Error {
        let operation = format!("attaching to the hook `{}`", held.hook);
        match held.alone(self.root.as_fd()) {
            Some(foreign) if error.kind() == io::ErrorKind::PermissionDenied => Error::Host {
                what: format!(
                    "{operation}: another program is attached to the cgroup root and lets nobody attach beside it: {foreign}"
                ),
                help: "its owner must attach it with BPF_F_ALLOW_MULTI, or by a link; `bpftool cgroup show` lists it"
                    .to_owned(),
            },
            _ => Error::system(operation, error),
        }
    }

    /// Attaches XDP to an interface: native if its driver can, else generic, which the note says.
    ///
    /// # Errors
    ///
    /// No such interface, or it takes neither.
    pub fn attach_interface(&mut self, interface: &str) -> Result<String, Error> {
        kernel::interface_index(interface)?;
        let failed = |error| Error::system(format!("attaching XDP to `{interface}`"), error);
        let program = self.programs.borrow(XDP_PROGRAM).map_err(failed)?;
        let mut refused = None;
        for native in [true, false] {
            let mut held = Held::interface(interface, native, &self.pins.links);
            if let Some(link) = held.pinned(self.root.as_fd()).map_err(failed)? {
                sys::link_update(link.as_fd(), program).map_err(failed)?;
                held.link = Some(link);
                return Ok(self.keep(held, None));
            }
        }
        for native in [true, false] {
            let mut held = Held::interface(interface, native, &self.pins.links);
            match self.hang(&mut held) {
                Ok(()) => return Ok(self.keep(held, refused)),
                Err(error) if native => refused = Some(error),
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(
            refused.unwrap_or_else(|| io::Error::from(io::ErrorKind::Unsupported)),
        ))
    }

    fn keep(&mut self, held: Held, refused: Option<io::Error>) -> String {
        let note = match refused {
            Some(error) => format!(
                "{}: generic, the driver does not take it natively ({error})",
                held.hook
            ),
            None => format!("{}: {}", held.hook, held.note),
        };
        self.held.retain(|other| other.hook != held.hook);
        self.held.push(held);
        note
    }

    /// Takes XDP off interfaces that are no longer asked for.
    pub fn detach_other_interfaces(&self) {
        let Ok(entries) = fs::read_dir(&self.pins.links) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let xdp = entry.file_name().to_string_lossy().starts_with(XDP_PREFIX);
            if !xdp || self.held.iter().any(|held| held.pin == path) {
                continue;
            }
            if let Ok(link) = sys::open_pin(&path) {
                let _ = sys::link_detach(link.as_fd());
            }
            let _ = fs::remove_file(path);
        }
    }

    /// What hangs on its hooks now, by the links themselves: a pin alone proves nothing.
    #[must_use]
    pub fn status(&self) -> Vec<Attached> {
        self.held.iter().map(|held| held.status(&self.programs)).collect()
    }

    /// Attaches again what was detached, takes back what was replaced, and pins again what was unpinned.
    ///
    /// What cannot be put right stays wrong in [`Links::status`], with the cause.
    pub fn repair(&mut self) -> Vec<Repair> {
        let mut repairs = Vec::new();
        let mut all = std::mem::take(&mut self.held);
        for held in &mut all {
            let Some((lost, why)) = held.lost(&self.programs) else {
                held.trouble = None;
                continue;
            };
            match self.repair_one(held, lost) {
                Ok(done) => {
                    held.trouble = None;
                    repairs.push(Repair {
                        lost,
                        what: format!("{}: {why}; {done}", held.hook),
                    });
                }
                Err(error) => held.trouble = Some(crate::report::chain(&error)),
            }
        }
        self.held = all;
        repairs
    }

    fn repair_one(&self, held: &mut Held, lost: &'static str) -> Result<&'static str, Error> {
        let failed = |error: io::Error| self.failed(held, error);
        match lost {
            held::REPLACED => {
                if let Some(link) = &held.link {
                    let program = self.programs.borrow(held.program).map_err(failed)?;
                    sys::link_update(link.as_fd(), program).map_err(failed)?;
                }
                Ok("segd's program is back")
            }
            held::UNPINNED => {
                self.pins.create()?;
                if let Some(link) = &held.link {
                    sys::pin_over(link.as_fd(), &held.pin).map_err(failed)?;
                }
                Ok("pinned again")
            }
            _ => {
                self.pins.create()?;
                self.hang(held).map_err(|error| self.failed(held, error))?;
                Ok("attached again")
            }
        }
    }
}

/// bpffs refuses names with a dot; an interface's may have one (`eth0.100`).
fn pin_name(interface: &str) -> String {
    interface.replace('.', ":")
}

/// How XDP is attached to an interface: `native`, `generic`, or not.
///
/// # Errors
///
/// A pin that cannot be opened.
pub fn interface_mode(pin_dir: &Path, interface: &str) -> Result<Option<&'static str>, Error> {
    for native in [true, false] {
        let held = Held::interface(interface, native, &Pins::new(pin_dir).links);
        let failed = |error| Error::system(format!("looking at the link `{}`", held.pin.display()), error);
        if held.hangs().map_err(failed)? {
            return Ok(Some(held.note));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_with_a_dot_has_a_name_that_bpffs_takes() {
        assert_eq!(pin_name("eth0.100"), "eth0:100");
    }
}
