//! tcx: programs on network devices, by a pinned link each, in whatever namespace the device is.
//!
//! INVARIANT: what is pinned is what is wanted: a device that is gone, moved or no longer wanted leaves no pin.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use super::{Error, feature, links::Links, pins::Pins, sys};

/// What a program does on a device. The order is the order of attachment: loopback marks before it asks for the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Egress: frames of packet sockets; marks what goes out by loopback.
    Leave,
    /// Egress of NICs (and TAP devices): as [`Hook::Leave`], and answers to whoever has borrowed an address of the network.
    Depart,
    /// Ingress by loopback: its mark.
    ComeIn,
    /// Ingress on the host's end of a workload's link.
    ComeOut,
    /// Ingress on tunnels of the host.
    Enter,
    /// Ingress on NICs (and TAP devices): as [`Hook::Enter`], and datagrams that would be taken for whoever has borrowed their address.
    Arrive,
}

impl Hook {
    const ALL: [Hook; 6] = [
        Hook::Leave,
        Hook::Depart,
        Hook::ComeIn,
        Hook::ComeOut,
        Hook::Enter,
        Hook::Arrive,
    ];

    fn word(self) -> &'static str {
        match self {
            Hook::Leave => "leave",
            Hook::Depart => "depart",
            Hook::ComeIn => "comein",
            Hook::ComeOut => "comeout",
            Hook::Enter => "enter",
            Hook::Arrive => "arrive",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Hook::Leave => "segd_link_leave",
            Hook::Depart => "segd_link_depart",
            Hook::ComeIn => "segd_link_come_in",
            Hook::ComeOut => "segd_link_come_out",
            Hook::Enter => "segd_link_enter",
            Hook::Arrive => "segd_link_arrive",
        }
    }

    /// `BPF_TCX_EGRESS` or `BPF_TCX_INGRESS`.
    fn attach_type(self) -> u32 {
        if matches!(self, Hook::Leave | Hook::Depart) {
            47
        } else {
            46
        }
    }
}

/// A program on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seat {
    /// The cookie of the device's namespace.
    pub namespace: u64,
    /// The hook.
    pub hook: Hook,
    /// The device's index there.
    pub device: u32,
}

const PREFIX: &str = "tcx_";
/// `BPF_F_BEFORE`: in front of whoever is there, because a program that says "pass" ends the row.
const FIRST: u32 = 1 << 3;

impl Seat {
    fn pin(&self) -> String {
        format!(
            "{PREFIX}{}_{:x}_{}",
            self.hook.word(),
            self.namespace,
            self.device
        )
    }

    fn of_pin(name: &str) -> Option<Seat> {
        let mut parts = name.strip_prefix(PREFIX)?.split('_');
        let word = parts.next()?;
        let hook = Hook::ALL.into_iter().find(|hook| hook.word() == word)?;
        let namespace = u64::from_str_radix(parts.next()?, 16).ok()?;
        let device = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some(Seat {
            namespace,
            hook,
            device,
        })
    }
}

/// The programs and their pins.
#[derive(Debug)]
pub struct Devices {
    dir: PathBuf,
    programs: BTreeMap<Hook, OwnedFd>,
}

impl Devices {
    /// Takes the programs that enforce, and puts them behind the links that an earlier daemon left. Where the kernel has
    /// no tcx there are none.
    ///
    /// # Errors
    ///
    /// A program has no descriptor.
    pub fn new(links: &Links, pins: &Pins) -> Result<Devices, Error> {
        let mut programs = BTreeMap::new();
        let hooks: &[Hook] = if feature::takes_tcx()? { &Hook::ALL } else { &[] };
        for &hook in hooks {
            let program = links.program(hook.program()).map_err(|error| {
                Error::system(format!("holding the kernel program `{}`", hook.program()), error)
            })?;
            programs.insert(hook, program);
        }
        let devices = Devices {
            dir: pins.links.clone(),
            programs,
        };
        for (seat, pin) in devices.pinned() {
            if let (Ok(link), Some(program)) = (sys::open_pin(&pin), devices.programs.get(&seat.hook)) {
                // A link whose device is gone takes no update; it is removed with the first look.
                let _ = sys::link_update(link.as_fd(), program.as_fd());
            }
        }
        Ok(devices)
    }

    /// Whether the kernel has tcx.
    #[must_use]
    pub fn can_sit(&self) -> bool {
        !self.programs.is_empty()
    }

    fn pinned(&self) -> Vec<(Seat, PathBuf)> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| Some((Seat::of_pin(entry.file_name().to_str()?)?, entry.path())))
            .collect()
    }

    /// The seats that are taken.
    #[must_use]
    pub fn seated(&self) -> BTreeSet<Seat> {
        let pinned = self.pinned().into_iter();
        pinned
            .filter(|(seat, pin)| hangs(pin, seat.device))
            .map(|(seat, _)| seat)
            .collect()
    }

    /// Takes away what is not wanted: in namespaces that were looked at, and where the device is gone.
    pub fn keep(&self, wanted: &BTreeSet<Seat>, looked_at: &BTreeSet<u64>) {
        for (seat, pin) in self.pinned() {
            let lives = hangs(&pin, seat.device);
            if lives && (wanted.contains(&seat) || !looked_at.contains(&seat.namespace)) {
                continue;
            }
            if let Ok(link) = sys::open_pin(&pin) {
                let _ = sys::link_detach(link.as_fd());
            }
            let _ = fs::remove_file(&pin);
        }
    }

    /// Attaches one program. The thread must be in the device's namespace.
    ///
    /// # Errors
    ///
    /// What the kernel says: `ENODEV` for a device that is gone.
    ///
    /// # Minimum kernel version
    ///
    /// 6.6.
    pub fn seat(&self, seat: Seat) -> io::Result<()> {
        let program = self
            .programs
            .get(&seat.hook)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let link = sys::link_create(program.as_fd(), seat.device, seat.hook.attach_type(), FIRST)?;
        sys::pin_over(link.as_fd(), &self.dir.join(seat.pin()))
    }
}

fn hangs(pin: &Path, device: u32) -> bool {
    sys::open_pin(pin)
        .and_then(|link| sys::link_info(link.as_fd()))
        .is_ok_and(|info| info.target[0] == device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pins_name_tells_its_seat() {
        for hook in Hook::ALL {
            let seat = Seat {
                namespace: 0x1000_0000_0001,
                hook,
                device: 17,
            };
            assert_eq!(Seat::of_pin(&seat.pin()), Some(seat));
        }
        for other in ["xdp_native_eth0", "egress", "tcx_leave_1", "tcx_leave_1_2_3"] {
            assert_eq!(Seat::of_pin(other), None, "{other}");
        }
    }
}
