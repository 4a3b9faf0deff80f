//! Attachment: which program hangs on which hook, by a pinned link each.
//!
//! INVARIANT: a hook that was attached stays attached: another build's program is put behind the same link.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use super::{Datapath, Error, kernel, pins::Pins, sys};

/// A program and its hook.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// The pin's name, and how status calls it.
    pub name: &'static str,
    /// The program.
    program: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// On the cgroup root, by `bpf_attach_type`.
    Cgroup(u32),
    /// On a raw tracepoint.
    Tracepoint(&'static str),
}

/// Births and releases of cgroups: attached before anything is tagged, so that no birth is missed.
pub const TRACEPOINTS: &[Hook] = &[
    Hook {
        name: "cgroup_mkdir",
        program: "segd_born",
        kind: Kind::Tracepoint("cgroup_mkdir"),
    },
    Hook {
        name: "cgroup_release",
        program: "segd_released",
        kind: Kind::Tracepoint("cgroup_release"),
    },
];

/// The hooks that judge: attached when a policy is in force, in the order in which they hand over to each other.
pub const JUDGES: &[Hook] = &[
    Hook {
        name: "sock_ops",
        program: "segd_accept",
        kind: Kind::Cgroup(3),
    },
    Hook {
        name: "egress",
        program: "segd_egress",
        kind: Kind::Cgroup(1),
    },
    Hook {
        name: "ingress",
        program: "segd_ingress",
        kind: Kind::Cgroup(0),
    },
    Hook {
        name: "connect4",
        program: "segd_connect4",
        kind: Kind::Cgroup(10),
    },
    Hook {
        name: "connect6",
        program: "segd_connect6",
        kind: Kind::Cgroup(11),
    },
    Hook {
        name: "sendmsg4",
        program: "segd_sendmsg4",
        kind: Kind::Cgroup(14),
    },
    Hook {
        name: "sendmsg6",
        program: "segd_sendmsg6",
        kind: Kind::Cgroup(15),
    },
];

/// The hooks at the cgroup root, with their `bpf_attach_type`.
pub fn cgroup_hooks() -> impl Iterator<Item = (&'static str, u32)> {
    JUDGES.iter().filter_map(|hook| match hook.kind {
        Kind::Cgroup(attach_type) => Some((hook.name, attach_type)),
        Kind::Tracepoint(_) => None,
    })
}

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
    /// Whether its program runs.
    pub attached: bool,
    /// The kernel's id of the link; 0 if there is none.
    pub link: u32,
    /// What to know about it.
    pub note: String,
}

impl Datapath {
    /// Attaches hooks to the cgroup root, or puts this build's programs behind the links that are there.
    ///
    /// # Errors
    ///
    /// The first hook that could not be attached.
    pub fn attach(&self, hooks: &[Hook], cgroup_root: &Path) -> Result<(), Error> {
        let root = fs::File::open(cgroup_root)
            .map_err(|error| Error::system(format!("opening `{}`", cgroup_root.display()), error))?;
        for hook in hooks {
            self.attach_one(hook, root.as_raw_fd() as u32)
                .map_err(|error| Error::system(format!("attaching to the hook `{}`", hook.name), error))?;
        }
        Ok(())
    }

    fn attach_one(&self, hook: &Hook, root: u32) -> io::Result<()> {
        let program = self.program(hook.program).map_err(io::Error::other)?;
        let pin = self.pins.links.join(hook.name);
        match hook.kind {
            Kind::Cgroup(attach_type) => {
                if let Some(link) = living(&pin)? {
                    return sys::link_update(link.as_fd(), program);
                }
                replace(&pin, &sys::link_create(program, root, attach_type, 0)?)
            }
            // Such a link has no update; two of them at once write the same entries.
            Kind::Tracepoint(name) => replace(&pin, &sys::raw_tracepoint(name, program)?),
        }
    }

    /// Attaches XDP to an interface: native if its driver can, else generic, which the note says.
    ///
    /// # Errors
    ///
    /// No such interface, or it takes neither.
    pub fn attach_interface(&self, interface: &str) -> Result<String, Error> {
        let index = kernel::interface_index(interface)?;
        let failed = |error| Error::system(format!("attaching XDP to `{interface}`"), error);
        let program = self.program(XDP_PROGRAM)?;
        let native = self
            .pins
            .links
            .join(format!("{XDP_PREFIX}native_{}", pin_name(interface)));
        let generic = self
            .pins
            .links
            .join(format!("{XDP_PREFIX}generic_{}", pin_name(interface)));
        for (pin, mode) in [(&native, "native"), (&generic, "generic")] {
            if let Some(link) = living(pin).map_err(failed)? {
                let info = sys::link_info(link.as_fd()).map_err(failed)?;
                if info.target[0] == index {
                    sys::link_update(link.as_fd(), program).map_err(failed)?;
                    return Ok(format!("XDP on {interface}: {mode}"));
                }
            }
        }
        let refused = match sys::link_create(program, index, BPF_XDP, XDP_NATIVE) {
            Ok(link) => {
                replace(&native, &link).map_err(failed)?;
                return Ok(format!("XDP on {interface}: native"));
            }
            Err(error) => error,
        };
        let link = sys::link_create(program, index, BPF_XDP, XDP_GENERIC).map_err(failed)?;
        replace(&generic, &link).map_err(failed)?;
        Ok(format!(
            "XDP on {interface}: generic, the driver does not take it natively ({refused})"
        ))
    }

    /// Takes XDP off interfaces that are no longer asked for.
    pub fn detach_other_interfaces(&self, wanted: &[String]) {
        let Ok(entries) = fs::read_dir(&self.pins.links) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(rest) = name.strip_prefix(XDP_PREFIX) else {
                continue;
            };
            let interface = rest.split_once('_').map_or(rest, |(_, interface)| interface);
            if wanted.iter().any(|wanted| pin_name(wanted) == interface) {
                continue;
            }
            if let Ok(link) = sys::open_pin(&entry.path()) {
                let _ = sys::link_detach(link.as_fd());
            }
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// bpffs refuses names with a dot; an interface's may have one (`eth0.100`).
fn pin_name(interface: &str) -> String {
    interface.replace('.', ":")
}

/// A pinned link that still hangs on its hook. `None`: there is none, or somebody detached it.
fn living(pin: &Path) -> io::Result<Option<OwnedFd>> {
    let link = match sys::open_pin(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let info = sys::link_info(link.as_fd())?;
    Ok(info.hangs().then_some(link))
}

/// Pins a link in place of what is pinned there, without a moment in between.
fn replace(pin: &Path, link: &OwnedFd) -> io::Result<()> {
    if !pin.exists() {
        return sys::pin(link.as_fd(), pin);
    }
    // bpffs refuses names with a dot.
    let mut beside = pin.as_os_str().to_owned();
    beside.push("_new");
    let beside = PathBuf::from(beside);
    let _ = fs::remove_file(&beside);
    sys::pin(link.as_fd(), &beside)?;
    fs::rename(&beside, pin)
}

/// What hangs on its hooks now, by the links themselves: a pin alone proves nothing.
#[must_use]
pub fn status(links: &Path, interfaces: &[String]) -> Vec<Attached> {
    let mut all = Vec::new();
    for hook in TRACEPOINTS.iter().chain(JUDGES) {
        all.push(look(&links.join(hook.name), hook.name.to_owned(), String::new()));
    }
    for interface in interfaces {
        let hook = format!("xdp:{interface}");
        let native = look(
            &links.join(format!("{XDP_PREFIX}native_{}", pin_name(interface))),
            hook.clone(),
            "native".to_owned(),
        );
        all.push(if native.attached {
            native
        } else {
            look(
                &links.join(format!("{XDP_PREFIX}generic_{}", pin_name(interface))),
                hook,
                "generic".to_owned(),
            )
        });
    }
    all
}

/// How XDP is attached to an interface: `native`, `generic`, or not.
pub fn interface_mode(pin_dir: &Path, interface: &str) -> Result<Option<&'static str>, Error> {
    let links = Pins::new(pin_dir).links;
    for mode in ["native", "generic"] {
        let pin = links.join(format!("{XDP_PREFIX}{mode}_{}", pin_name(interface)));
        let living = living(&pin)
            .map_err(|error| Error::system(format!("looking at the link `{}`", pin.display()), error))?;
        if living.is_some() {
            return Ok(Some(mode));
        }
    }
    Ok(None)
}

fn look(pin: &Path, hook: String, note: String) -> Attached {
    let missing = |note: String| Attached {
        hook: hook.clone(),
        attached: false,
        link: 0,
        note,
    };
    let link = match sys::open_pin(pin) {
        Ok(link) => link,
        Err(error) => return missing(format!("no pinned link: {error}")),
    };
    match sys::link_info(link.as_fd()) {
        Ok(info) => {
            let attached = info.hangs();
            let note = if attached {
                note
            } else {
                "somebody detached the link".to_owned()
            };
            Attached {
                hook,
                attached,
                link: info.id,
                note,
            }
        }
        Err(error) => missing(format!("the link does not answer: {error}")),
    }
}
